// SPDX-License-Identifier: MIT
internal import CRWKVKernels
internal import RWKVFormat

/// RWKV-7 "Goose".   arXiv:2503.14456; BlinkDL's `rwkv` 0.8.32 `model.py`, `RWKV_x070`.
///
/// Letters: D embedding, H heads, N head size, F hidden units, T rows of the piece.
final class RWKV7: BlockStack {
  /// The six inputs of time mixing, in the order of their shift vectors.
  private enum Input { static let r = 0, w = 1, k = 2, v = 3, a = 4, g = 5 }

  /// One layer's weights, named as in the checkpoint.
  struct Layer: LayerWeights, @unchecked Sendable {
    let ln1: LayerNorm
    /// x_r, x_w, x_k, x_v, x_a, x_g, [D] each
    let shift: InlineArray<6, Vector>
    let receptance, key, value, output: Matrix
    /// Low-rank matrices: first [rank, D], second [D, rank]; `v` is absent in layer 0.
    let w1, w2, a1, a2, g1, g2: Matrix
    let v1, v2: Matrix?
    let w0, a0: Vector
    let v0: Vector?
    let k_k, k_a, r_k: Vector
    let lnX: LayerNorm
    /// `ln2` and `ffn`
    let channelMix: ChannelMix
    /// The attention of 7b, which is added beside time mixing; nil in other versions.
    let attention: DeepAttention?

    init(_ store: WeightStore, layer: Int) throws(ModelError) {
      let (D, version) = (store.configuration.embedding, store.configuration.version)
      let block = "blocks.\(layer)."
      let att = block + "att."
      ln1 = try store.layerNorm(block + "ln1", D)
      shift = [
        try store.vector(att + "x_r", D), try store.vector(att + "x_w", D), try store.vector(att + "x_k", D),
        try store.vector(att + "x_v", D), try store.vector(att + "x_a", D), try store.vector(att + "x_g", D),
      ]
      receptance = try store.matrix(att + "receptance.weight", rows: D, columns: D)
      key = try store.matrix(att + "key.weight", rows: D, columns: D)
      value = try store.matrix(att + "value.weight", rows: D, columns: D)
      output = try store.matrix(att + "output.weight", rows: D, columns: D)
      (w1, w2) = try store.lowRank(att + "w1", att + "w2", D)
      (a1, a2) = try store.lowRank(att + "a1", att + "a2", D)
      (g1, g2) = try store.lowRank(att + "g1", att + "g2", D)
      w0 = try store.vector(att + "w0", D)
      a0 = try store.vector(att + "a0", D)
      if layer == 0 {
        (v0, v1, v2) = (nil, nil, nil)
      } else {
        v0 = try store.vector(att + "v0", D)
        let pair = try store.lowRank(att + "v1", att + "v2", D)
        (v1, v2) = (pair.0, pair.1)
      }
      k_k = try store.vector(att + "k_k", D)
      k_a = try store.vector(att + "k_a", D)
      r_k = try store.vector(att + "r_k", D)
      lnX = try store.layerNorm(att + "ln_x", D)
      channelMix = try ChannelMix(store, prefix: block, tablesFor: version.hasTokenTables ? layer : nil)
      attention = version == .v7b ? try DeepAttention(store, prefix: block + "qkv.", position: layer) : nil
    }
  }

  private let layers: [Layer]
  private let frame: Frame
  private let shifted: InlineArray<6, Activations>
  private let r, k, v, w, a, g, vMix, vFirst: Rows
  /// Low-rank hidden vectors after their activation.
  private let wRank, aRank, gRank, vRank: Activations
  private let mixed: Activations
  private let channelMix: ChannelMix.Scratch
  private let attention: DeepAttention.Scratch?
  /// Tokens that 7b's attention can remember.
  private let maximumContext: Int

  /// - Parameter maximumContext: in 7b, the most tokens that a state remembers.
  init(_ layers: [Layer], _ work: Workspace, maximumContext: Int? = nil) throws(ModelError) {
    self.layers = layers
    self.maximumContext = maximumContext ?? 0
    frame = work.frame
    let D = frame.configuration.embedding
    func rank(_ path: KeyPath<Layer, Matrix>) -> Int { layers.map { $0[keyPath: path].rows }.max() ?? 0 }
    shifted = try work.activations(D)
    r = try work.rows(D)
    k = try work.rows(D)
    v = try work.rows(D)
    w = try work.rows(D)
    a = try work.rows(D)
    g = try work.rows(D)
    vMix = try work.rows(D)
    vFirst = try Rows(rows: frame.span, width: D, in: work.arena)
    wRank = try work.activations(rank(\.w1))
    aRank = try work.activations(rank(\.a1))
    gRank = try work.activations(rank(\.g1))
    vRank = try work.activations(layers.compactMap { $0.v1?.rows }.max() ?? 1)
    mixed = try work.activations(D)
    channelMix = try ChannelMix.Scratch(
      work, hiddenUnits: frame.configuration.ffn, sharing: (shifted[0], shifted[1]), isGated: false)
    let tokens = frame.configuration.version == .v7b ? work.tokens : nil
    attention = try tokens.map { tokens throws(ModelError) in try DeepAttention.Scratch(tokens, work) }
  }

  func prepare() { attention?.prepare(frame, limit: maximumContext) }

  func finish() { attention?.finish(frame) }

  /// One layer:
  ///
  ///     x += O · wkv7(r, k, v, decay, rate, g)     of n = ln1(x)
  ///     x += V · relu²(K x_k)                      of n = ln2(x)      x_c = n + (n′ − n) · mu_c
  func evaluate(_ member: inout Team.Member, _ position: Int, ends: Frame?) {
    let (layer, layout, rows, kernels) = (layers[position], frame.layout, frame.rows, frame.kernels)

    // 7b attends to all tokens so far. The attention reads x itself, not its norm; it is added with time mixing.
    if let attention = layer.attention, let scratch = self.attention {
      attention.attend(&member, frame, scratch, index: position, keptAt: layout.attentionShift(position))
    }

    // Norm and token shift.
    frame.normAndShift(
      &member, layer.ln1, keptAt: layout.timeShift(of: position), mu: layer.shift, into: shifted)

    // r = R x_r   k = K x_k   v = V x_v   decay = w2 tanh(w1 x_w)   rate = a2 a1 x_a   g = g2 σ(g1 x_g)
    // From layer 1 on: how much of layer 0's v goes into v, v2 v1 x_v.
    member.multiply(
      [
        Product(layer.receptance, shifted[Input.r], r), Product(layer.key, shifted[Input.k], k),
        Product(layer.value, shifted[Input.v], v), Product(layer.w1, shifted[Input.w], wRank, .tanh),
        Product(layer.a1, shifted[Input.a], aRank), Product(layer.g1, shifted[Input.g], gRank, .sigmoid),
      ], and: layer.v1.map { Product($0, shifted[Input.v], vRank) }, rows: rows, kernels)
    let second: InlineArray<3, Product> = [
      Product(layer.w2, wRank, w), Product(layer.a2, aRank, a), Product(layer.g2, gRank, g),
    ]
    let secondOfV = layer.v2.map { Product($0, vRank, vMix) }
    member.quantizeInputs(of: second, and: secondOfV, rows: rows, kernels)
    member.multiply(second, and: secondOfV, rows: rows, kernels)

    // The recurrence, and what its kernel does on the way: v0, k_k, k_a, r_k, the norm of the heads, the gate.
    let matrices = layout.wkv(of: position)
    frame.recur(&member, state: matrices, into: mixed) { run, head in
      wkv(layer, run, head: head, state: matrices)
    }

    // Output matrix and residual add of time mixing: x += O y
    if let attention = layer.attention, let scratch = self.attention {
      member.multiply([Product(layer.output, mixed, frame.product)], rows: rows, kernels)
      attention.add(&member, scratch, frame.product, to: frame)
    } else {
      member.multiply([Product(layer.output, mixed, addedTo: frame.x, frame.product)], rows: rows, kernels)
    }

    // Channel mixing, from norm to residual add.
    layer.channelMix.add(&member, to: frame, ends, keptAt: layout.channelShift(of: position), channelMix)
  }

  /// The recurrence of one head over one run.
  private func wkv(_ layer: Layer, _ run: Run, head: Int, state: Int) {
    let N = frame.configuration.headSize
    let c = head * N
    func at(_ rows: Rows) -> UnsafeMutablePointer<Float> { rows[run.first] + c }
    var arguments = rk_wkv7(
      T: run.count, N: N, stride: r.stride, r: at(r), k: at(k), v: at(v), g: at(g), decay: at(w), rate: at(a),
      v_mix: layer.v0 == nil ? nil : UnsafePointer(at(vMix)), v_first: at(Rows(vFirst, from: frame.origin)),
      w0: layer.w0 + c,
      a0: layer.a0 + c, v0: layer.v0.map { $0 + c }, k_k: layer.k_k + c, k_a: layer.k_a + c,
      r_k: layer.r_k + c,
      ln_weight: layer.lnX.weight + c, ln_bias: layer.lnX.bias + c,
      epsilon: frame.configuration.groupNormEpsilon, state: run.state + state + c * N,
      y: mixed.row(run.first) + c)
    frame.kernels.wkv7(&arguments)
  }
}
