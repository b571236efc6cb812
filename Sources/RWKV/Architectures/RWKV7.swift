// SPDX-License-Identifier: MIT
internal import CRWKVKernels
internal import RWKVFormat

/// RWKV-7 "Goose".   arXiv:2503.14456; BlinkDL's `rwkv` 0.8.32 `model.py`, `RWKV_x070`.
///
/// Letters: D embedding, H heads, N head size, F hidden units, T rows of the block.
final class RWKV7: BlockStack {
  /// One block's weights, named as in the checkpoint.
  struct Block {
    let ln1, ln2: LayerNorm
    /// x_r, x_w, x_k, x_v, x_a, x_g, [D] each
    let shift: InlineArray<6, Vector>
    let receptance, key, value, output: Matrix
    /// Low-rank matrices: first [rank, D], second [D, rank]; `v` is absent in block 0.
    let w1, w2, a1, a2, g1, g2: Matrix
    let v1, v2: Matrix?
    let w0, a0: Vector
    let v0: Vector?
    let k_k, k_a, r_k: Vector
    let lnX: LayerNorm
    let channelMix: ChannelMix
    /// Of 7a and 7b.
    let deepEmbed: DeepEmbed?
    /// Of 7b.
    let attention: DeepAttention?

    init(_ store: WeightStore, layer: Int, prefix: String) throws(ModelError) {
      let D = store.configuration.embedding
      let att = "\(prefix).att."
      ln1 = try store.layerNorm("\(prefix).ln1", D)
      ln2 = try store.layerNorm("\(prefix).ln2", D)
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
      channelMix = try ChannelMix(store, prefix: "\(prefix).ffn.")
      let version = store.configuration.version
      deepEmbed =
        version.hasTokenTables ? try DeepEmbed(store, prefix: "\(prefix).ffn.", position: layer) : nil
      attention = version == .v7b ? try DeepAttention(store, prefix: "\(prefix).qkv.", position: layer) : nil
    }
  }

  /// Channel mixing of version 7 and of RWKV-X's attention blocks: value · relu²(key · shifted x).
  struct ChannelMix {
    let shift: Vector
    let key: Matrix
    let value: HiddenRows

    /// The number of hidden units is read off the file: RWKV-X's attention blocks may have their own.
    init(_ store: WeightStore, prefix: String) throws(ModelError) {
      let D = store.configuration.embedding
      let F = try store.rows(prefix + "key.weight")
      shift = try store.vector(prefix + "x_k", D)
      key = try store.matrix(prefix + "key.weight", rows: F, columns: D)
      value = try store.hiddenRows(prefix + "value.weight", units: F, columns: D)
    }

    /// Scratch of a session.
    struct Scratch {
      let shifted: Activations
      let hidden: Rows
    }

    /// All rows of the frame; adds what is pending first. `state`: where the shift vector is kept.
    func run(
      _ member: inout Team.Member, _ frame: Frame, _ scratch: Scratch, _ norm: LayerNorm, state: Int,
      adding pending: Frame.Pending
    ) -> Frame.Pending {
      frame.normAndShift(&member, adding: pending, norm, shift: state, mu: [shift], into: [scratch.shifted])
      member.multiply(
        [Product(key, scratch.shifted, scratch.hidden, .reluSquared)], rows: frame.rows, frame.kernels)
      return frame.sumHiddenRows(&member, value, scratch.hidden)
    }
  }

  /// All blocks' weights; immutable.
  struct Weights: @unchecked Sendable {
    let blocks: [Block]

    init(_ store: WeightStore) throws(ModelError) {
      var blocks: [Block] = []
      for layer in 0..<store.configuration.layers {
        blocks.append(try Block(store, layer: layer, prefix: "blocks.\(layer)"))
      }
      self.blocks = blocks
    }
  }

  private let weights: Weights
  private let frame: Frame
  private let shifted: InlineArray<6, Activations>
  private let r, k, v, w, a, g, vMix, vFirst: Rows
  /// Low-rank hidden vectors after their activation.
  private let wRank, aRank, gRank, vRank: Activations
  private let mixed: Activations
  let channelMix: ChannelMix.Scratch
  private let deepEmbed: DeepEmbed.Scratch?
  private let attention: DeepAttention.Scratch?
  /// Tokens that 7b's attention can remember.
  private let maximumContext: Int

  /// - Parameters:
  ///   - tokens: of 7a and 7b.
  ///   - maximumContext: of 7b.
  init(
    _ weights: Weights, _ frame: Frame, _ tokens: TokenRows? = nil, maximumContext: Int? = nil, arena: Arena
  ) throws(ModelError) {
    self.weights = weights
    self.frame = frame
    self.maximumContext = maximumContext ?? 0
    let (D, T) = (frame.configuration.embedding, frame.capacity)
    func activations(_ width: Int) throws(ModelError) -> Activations {
      try Activations(rows: T, width: width, in: arena)
    }
    func rank(_ path: KeyPath<Block, Matrix>) -> Int {
      weights.blocks.map { $0[keyPath: path].rows }.max() ?? 0
    }
    shifted = [
      try activations(D), try activations(D), try activations(D), try activations(D), try activations(D),
      try activations(D),
    ]
    r = try Rows(rows: T, width: D, in: arena)
    k = try Rows(rows: T, width: D, in: arena)
    v = try Rows(rows: T, width: D, in: arena)
    w = try Rows(rows: T, width: D, in: arena)
    a = try Rows(rows: T, width: D, in: arena)
    g = try Rows(rows: T, width: D, in: arena)
    vMix = try Rows(rows: T, width: D, in: arena)
    vFirst = try Rows(rows: frame.span, width: D, in: arena)
    wRank = try activations(rank(\.w1))
    aRank = try activations(rank(\.a1))
    gRank = try activations(rank(\.g1))
    vRank = try activations(weights.blocks.compactMap { $0.v1?.rows }.max() ?? 1)
    mixed = try activations(D)
    channelMix = ChannelMix.Scratch(
      shifted: shifted[0], hidden: try Rows(rows: T, width: frame.configuration.ffn, in: arena))
    deepEmbed = try tokens.map { tokens throws(ModelError) in
      try DeepEmbed.Scratch(tokens, frame, arena: arena)
    }
    let hasAttention = frame.configuration.version == .v7b
    attention = try (hasAttention ? tokens : nil).map { tokens throws(ModelError) in
      try DeepAttention.Scratch(tokens, frame, arena: arena)
    }
  }

  func prepare() { attention?.prepare(frame, limit: maximumContext) }

  func finish() { attention?.finish(frame) }

  func channelMix(
    _ member: inout Team.Member, _ layer: Int, _ frame: Frame, adding pending: Frame.Pending
  ) -> Frame.Pending {
    let block = weights.blocks[layer]
    let state = layer * frame.layout.layer + frame.layout.channelShift
    if let deepEmbed = block.deepEmbed, let scratch = self.deepEmbed {
      return deepEmbed.run(
        &member, frame, block.channelMix, channelMix, scratch, block.ln2, state: state, adding: pending)
    }
    return block.channelMix.run(&member, frame, channelMix, block.ln2, state: state, adding: pending)
  }
}

extension RWKV7 {
  /// Time mixing of all rows; leaves its output in `frame.delta`.
  ///
  ///     r = R x_r   k = K x_k   v = V x_v   decay = w2 tanh(w1 x_w)   rate = a2 a1 x_a   g = g2 σ(g1 x_g)
  ///     y = wkv7(r, k, v, decay, rate, g) per head (kernel `wkv7` has the equations)      delta = O y
  func timeMix(_ member: inout Team.Member, _ layer: Int, adding pending: Frame.Pending) {
    let block = weights.blocks[layer]
    let (rows, kernels) = (frame.rows, frame.kernels)
    let shift = layer * frame.layout.layer
    var pending = pending
    if let deepEmbed = block.deepEmbed, let scratch = self.deepEmbed {
      let product = deepEmbed.table.product(scratch.tokens, scratch.projected)
      member.multiply([product], rows: rows, kernels)
    }
    if let attention = block.attention, let scratch = self.attention {
      frame.settle(&member, pending)
      pending = .nothing
      let state = frame.layout.attentionShift(layer)
      attention.run(&member, frame, scratch, index: layer, state: state)
    }
    frame.normAndShift(&member, adding: pending, block.ln1, shift: shift, mu: block.shift, into: shifted)

    let products: InlineArray<6, Product> = [
      Product(block.receptance, shifted[0], r), Product(block.key, shifted[2], k),
      Product(block.value, shifted[3], v), Product(block.w1, shifted[1], wRank, .tanh),
      Product(block.a1, shifted[4], aRank), Product(block.g1, shifted[5], gRank, .sigmoid),
    ]
    if let v1 = block.v1 {
      member.multiply(products, and: Product(v1, shifted[3], vRank), rows: rows, kernels)
    } else {
      member.multiply(products, rows: rows, kernels)
    }

    member.parallel(rows) { row in
      wRank.quantize(row, width: block.w2.columns, kernels)
      aRank.quantize(row, width: block.a2.columns, kernels)
      gRank.quantize(row, width: block.g2.columns, kernels)
      if let v2 = block.v2 { vRank.quantize(row, width: v2.columns, kernels) }
    }
    let second: InlineArray<3, Product> = [
      Product(block.w2, wRank, w), Product(block.a2, aRank, a), Product(block.g2, gRank, g),
    ]
    if let v2 = block.v2 {
      member.multiply(second, and: Product(v2, vRank, vMix), rows: rows, kernels)
    } else {
      member.multiply(second, rows: rows, kernels)
    }

    frame.recur(&member, state: shift + frame.layout.wkv, into: mixed) { run, head in
      wkv(block, run, head: head, state: shift + frame.layout.wkv)
    }
    member.multiply([Product(block.output, mixed, frame.delta)], rows: rows, kernels)
    if let attention = block.attention, let scratch = self.attention {
      attention.add(&member, frame, scratch)
    }
  }

  /// The recurrence of one head over one run.
  private func wkv(_ block: Block, _ run: Run, head: Int, state: Int) {
    let N = frame.configuration.headSize
    let c = head * N
    func at(_ rows: Rows) -> UnsafeMutablePointer<Float> { rows[run.first] + c }
    var arguments = rk_wkv7(
      T: run.count, N: N, stride: r.stride, r: at(r), k: at(k), v: at(v), g: at(g), decay: at(w), rate: at(a),
      v_mix: block.v0 == nil ? nil : UnsafePointer(at(vMix)), v_first: at(Rows(vFirst, from: frame.origin)),
      w0: block.w0 + c,
      a0: block.a0 + c, v0: block.v0.map { $0 + c }, k_k: block.k_k + c, k_a: block.k_a + c,
      r_k: block.r_k + c,
      ln_weight: block.lnX.weight + c, ln_bias: block.lnX.bias + c,
      epsilon: frame.configuration.groupNormEpsilon, state: run.state + state + c * N,
      y: mixed.row(run.first) + c)
    frame.kernels.wkv7(&arguments)
  }
}
