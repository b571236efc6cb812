// SPDX-License-Identifier: MIT
internal import CRWKVKernels

/// RWKV-6 "Finch".   arXiv:2404.05892; BlinkDL's `rwkv` 0.8.32 `model.py`, `att_one_v6_0`.
///
/// Token shift and decay depend on the token through low-rank matrices.
/// Letters: D embedding, H heads, N head size, P and Q ranks, T rows of the piece.
final class RWKV6: BlockStack {
  /// The five inputs of time mixing, in the order of the low-rank matrices.
  private enum Input { static let w = 0, k = 1, v = 2, r = 3, g = 4 }

  /// One layer's weights, named as in the checkpoint.
  struct Layer: LayerWeights, @unchecked Sendable {
    let ln1: LayerNorm
    /// time_maa_x, [D]
    let maaX: Vector
    /// time_maa_w, _k, _v, _r, _g, [D] each
    let maa: InlineArray<5, Vector>
    /// [5 P, D]
    let maaW1: Matrix
    /// [D, P] for each input
    let maaW2: InlineArray<5, Matrix>
    /// time_decay, [D]
    let timeDecay: Vector
    /// [Q, D] and [D, Q]
    let decayW1, decayW2: Matrix
    /// time_faaaa, [D]
    let bonus: Vector
    let receptance, key, value, gate, output: Matrix
    let lnX: LayerNorm
    /// `ln2` and `ffn`
    let channelMix: ChannelMix

    init(_ store: WeightStore, layer: Int) throws(ModelError) {
      let D = store.configuration.embedding
      let block = "blocks.\(layer)."
      let att = block + "att."
      ln1 = try store.layerNorm(block + "ln1", D)
      maaX = try store.vector(att + "time_maa_x", D)
      maa = [
        try store.vector(att + "time_maa_w", D), try store.vector(att + "time_maa_k", D),
        try store.vector(att + "time_maa_v", D), try store.vector(att + "time_maa_r", D),
        try store.vector(att + "time_maa_g", D),
      ]
      let (first, second) = try store.lowRankGroup(att + "time_maa_w1", att + "time_maa_w2", D, groups: 5)
      maaW1 = first
      maaW2 = [
        second.slice(0, D), second.slice(1, D), second.slice(2, D), second.slice(3, D),
        second.slice(4, D),
      ]
      timeDecay = try store.vector(att + "time_decay", D)
      (decayW1, decayW2) = try store.lowRank(att + "time_decay_w1", att + "time_decay_w2", D)
      bonus = try store.vector(att + "time_faaaa", D)
      receptance = try store.matrix(att + "receptance.weight", rows: D, columns: D)
      key = try store.matrix(att + "key.weight", rows: D, columns: D)
      value = try store.matrix(att + "value.weight", rows: D, columns: D)
      gate = try store.matrix(att + "gate.weight", rows: D, columns: D)
      output = try store.matrix(att + "output.weight", rows: D, columns: D)
      lnX = try store.layerNorm(att + "ln_x", D)
      channelMix = try ChannelMix(store, prefix: block) { name throws(ModelError) in
        try store.vector(block + "ffn.time_maa_" + name, D)
      }
    }
  }

  private let layers: [Layer]
  private let frame: Frame
  /// x_x, the input of the token-dependent shift.
  private let shiftInput: Activations
  /// n' of each row.
  private let previous: Rows
  /// tanh(time_maa_w1 x_x), [T, 5 P]
  private let shiftRank: Rows
  /// Its five parts, [T, P] each.
  private let shiftParts: InlineArray<5, Activations>
  /// The shift weights of each input, [T, D].
  private let mu: InlineArray<5, Rows>
  private let shifted: InlineArray<5, Activations>
  private let decayRank: Activations
  private let r, k, v, g, w: Rows
  private let mixed: Activations
  private let channelMix: ChannelMix.Scratch

  init(_ layers: [Layer], _ work: Workspace) throws(ModelError) {
    self.layers = layers
    frame = work.frame
    let D = frame.configuration.embedding
    let P = layers.map { $0.maaW2[0].columns }.max() ?? 1
    shiftInput = try work.activations(D)
    previous = try work.rows(D)
    shiftRank = try work.rows(5 * P)
    shiftParts = try work.activations(P)
    mu = try work.rows(D)
    shifted = try work.activations(D)
    decayRank = try work.activations(layers.map { $0.decayW1.rows }.max() ?? 1)
    r = try work.rows(D)
    k = try work.rows(D)
    v = try work.rows(D)
    g = try work.rows(D)
    w = try work.rows(D)
    mixed = try work.activations(D)
    channelMix = try ChannelMix.Scratch(
      work, hiddenUnits: frame.configuration.ffn, sharing: (shifted[0], shifted[1]), isGated: true)
  }

  /// One layer:
  ///
  ///     x += O · wkv6(r, k, v, w, g)               of n = ln1(x)
  ///     x += σ(R x_r) · V relu²(K x_k)             of n = ln2(x)
  func evaluate(_ member: inout Team.Member, _ position: Int, ends: Frame?) {
    let (layer, layout, rows, kernels) = (layers[position], frame.layout, frame.rows, frame.kernels)

    // Norm and token shift.
    tokenShift(&member, layer, keptAt: layout.timeShift(of: position))

    // r = R x_r   k = K x_k   v = V x_v   g = G x_g   w = w2 tanh(w1 x_w)
    member.multiply(
      [
        Product(layer.receptance, shifted[Input.r], r), Product(layer.key, shifted[Input.k], k),
        Product(layer.value, shifted[Input.v], v), Product(layer.gate, shifted[Input.g], g),
        Product(layer.decayW1, shifted[Input.w], decayRank, .tanh),
      ], rows: rows, kernels)
    let second: InlineArray<1, Product> = [Product(layer.decayW2, decayRank, w)]
    member.quantizeInputs(of: second, rows: rows, kernels)
    member.multiply(second, rows: rows, kernels)

    // The recurrence of each head, whose decay is exp(−exp(time_decay + w)), the norm of the heads and the gate.
    let matrices = layout.wkv(of: position)
    frame.recur(&member, state: matrices, into: mixed) { run, head in
      wkv(layer, run, head: head, state: matrices)
    }

    // Output matrix and residual add of time mixing: x += O y
    member.multiply([Product(layer.output, mixed, addedTo: frame.x, frame.product)], rows: rows, kernels)

    // Channel mixing, from norm to residual add.
    layer.channelMix.add(&member, to: frame, ends, keptAt: layout.channelShift(of: position), channelMix)
  }

  /// The five inputs, each shifted by weights that depend on the token:
  ///
  ///     t = tanh(w1 (x + (x' − x) · maa_x)) in five parts      x_c = x + (x' − x) · (maa_c + w2_c t_c)
  private func tokenShift(_ member: inout Team.Member, _ layer: Layer, keptAt place: Int) {
    let (rows, kernels, D) = (frame.rows, frame.kernels, frame.configuration.embedding)
    frame.normAndShift(
      &member, layer.ln1, keptAt: place, mu: [layer.maaX], into: [shiftInput], keeping: previous)
    member.multiply([Product(layer.maaW1, shiftInput, shiftRank, .tanh)], rows: rows, kernels)
    let P = layer.maaW2[0].columns
    member.parallel(rows) { row in
      for c in shiftParts.indices {
        shiftParts[c].row(row).update(from: shiftRank[row] + c * P, count: P)
        shiftParts[c].quantize(row, width: P, kernels)
      }
    }
    let products = InlineArray<5, Product> { c in Product(layer.maaW2[c], shiftParts[c], mu[c]) }
    member.multiply(products, rows: rows, kernels)
    member.parallel(5 * rows) { task in
      let (row, c) = (task / 5, task % 5)
      kernels.add(layer.maa[c], D, mu[c][row])
      kernels.token_shift(frame.normed[row], previous[row], mu[c][row], D, shifted[c].row(row))
      shifted[c].quantize(row, width: D, kernels)
    }
  }

  /// The recurrence of one head over one run.
  private func wkv(_ layer: Layer, _ run: Run, head: Int, state: Int) {
    let N = frame.configuration.headSize
    let c = head * N
    for row in run.first..<run.first + run.count {
      frame.kernels.decay(w[row] + c, layer.timeDecay + c, N, w[row] + c)
    }
    var arguments = rk_wkv6(
      T: run.count, N: N, stride: r.stride, r: r[run.first] + c, k: k[run.first] + c, v: v[run.first] + c,
      g: UnsafePointer(g[run.first] + c), w: w[run.first] + c, w_stride: w.stride, u: layer.bonus + c,
      ln_weight: layer.lnX.weight + c, ln_bias: layer.lnX.bias + c,
      epsilon: frame.configuration.groupNormEpsilon,
      state: run.state + state + c * N, y: mixed.row(run.first) + c)
    frame.kernels.wkv6(&arguments)
  }
}
