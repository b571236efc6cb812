// SPDX-License-Identifier: MIT
internal import CRWKVKernels

/// RWKV-6 "Finch".   arXiv:2404.05892; BlinkDL's `rwkv` 0.8.32 `model.py`, `att_one_v6_0`.
///
/// Token shift and decay depend on the token through low-rank matrices.
/// Letters: D embedding, H heads, N head size, P and Q ranks, T rows of the block.
final class RWKV6: BlockStack {
  /// The five inputs of time mixing, in the order of the low-rank matrices.
  private enum Input { static let w = 0, k = 1, v = 2, r = 3, g = 4 }

  /// One block's weights, named as in the checkpoint.
  struct Block {
    let ln1, ln2: LayerNorm
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
    let channelMix: GatedChannelMix

    init(_ store: WeightStore, prefix: String) throws(ModelError) {
      let D = store.configuration.embedding
      let att = "\(prefix).att."
      ln1 = try store.layerNorm("\(prefix).ln1", D)
      ln2 = try store.layerNorm("\(prefix).ln2", D)
      maaX = try store.vector(att + "time_maa_x", D)
      maa = [
        try store.vector(att + "time_maa_w", D), try store.vector(att + "time_maa_k", D),
        try store.vector(att + "time_maa_v", D), try store.vector(att + "time_maa_r", D),
        try store.vector(att + "time_maa_g", D),
      ]
      let (first, second) = try store.lowRankGroup(att + "time_maa_w1", att + "time_maa_w2", D, groups: 5)
      maaW1 = first
      maaW2 = [
        try second.slice(0, D), try second.slice(1, D), try second.slice(2, D), try second.slice(3, D),
        try second.slice(4, D),
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
      let ffn = "\(prefix).ffn."
      channelMix = try GatedChannelMix(store, prefix: ffn) { name throws(ModelError) in
        try store.vector(ffn + "time_maa_" + name, D)
      }
    }
  }

  /// All blocks' weights; immutable.
  struct Weights: @unchecked Sendable {
    let blocks: [Block]

    init(_ store: WeightStore) throws(ModelError) {
      var blocks: [Block] = []
      for layer in 0..<store.configuration.layers {
        blocks.append(try Block(store, prefix: "blocks.\(layer)"))
      }
      self.blocks = blocks
    }
  }

  private let weights: Weights
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
  private let channelMix: GatedChannelMix.Scratch

  init(_ weights: Weights, _ frame: Frame, arena: Arena) throws(ModelError) {
    self.weights = weights
    self.frame = frame
    let (D, T) = (frame.configuration.embedding, frame.capacity)
    func activations(_ width: Int) throws(ModelError) -> Activations {
      try Activations(rows: T, width: width, in: arena)
    }
    func rows(_ width: Int) throws(ModelError) -> Rows { try Rows(rows: T, width: width, in: arena) }
    let P = weights.blocks.map { $0.maaW2[0].columns }.max() ?? 1
    shiftInput = try activations(D)
    previous = try rows(D)
    shiftRank = try rows(5 * P)
    shiftParts = [
      try activations(P), try activations(P), try activations(P), try activations(P), try activations(P),
    ]
    mu = [try rows(D), try rows(D), try rows(D), try rows(D), try rows(D)]
    shifted = [
      try activations(D), try activations(D), try activations(D), try activations(D), try activations(D),
    ]
    decayRank = try activations(weights.blocks.map { $0.decayW1.rows }.max() ?? 1)
    r = try rows(D)
    k = try rows(D)
    v = try rows(D)
    g = try rows(D)
    w = try rows(D)
    mixed = try activations(D)
    channelMix = try GatedChannelMix.Scratch(frame, arena: arena)
  }

  /// Time mixing of all rows; leaves its output in `frame.delta`.
  ///
  ///     r = R x_r   k = K x_k   v = V x_v   g = G x_g   w = exp(−exp(time_decay + w2 tanh(w1 x_w)))
  ///     y = wkv6(r, k, v, w, g) per head (kernel `wkv6` has the equations)      delta = O y
  func timeMix(_ member: inout Team.Member, _ layer: Int, adding pending: Frame.Pending) {
    let block = weights.blocks[layer]
    let (rows, kernels) = (frame.rows, frame.kernels)
    let state = layer * frame.layout.layer
    tokenShift(&member, block, state, adding: pending)
    member.multiply(
      [
        Product(block.receptance, shifted[Input.r], r), Product(block.key, shifted[Input.k], k),
        Product(block.value, shifted[Input.v], v), Product(block.gate, shifted[Input.g], g),
        Product(block.decayW1, shifted[Input.w], decayRank, .tanh),
      ], rows: rows, kernels)
    member.parallel(rows) { row in decayRank.quantize(row, width: block.decayW2.columns, kernels) }
    member.multiply([Product(block.decayW2, decayRank, w)], rows: rows, kernels)
    frame.recur(&member, state: state + frame.layout.wkv, into: mixed) { run, head in
      wkv(block, run, head: head, state + frame.layout.wkv)
    }
    member.multiply([Product(block.output, mixed, frame.delta)], rows: rows, kernels)
  }

  /// The five inputs, each shifted by weights that depend on the token:
  ///
  ///     t = tanh(w1 (x + (x' − x) · maa_x)) in five parts      x_c = x + (x' − x) · (maa_c + w2_c t_c)
  private func tokenShift(
    _ member: inout Team.Member, _ block: Block, _ state: Int, adding pending: Frame.Pending
  ) {
    let (rows, kernels, D) = (frame.rows, frame.kernels, frame.configuration.embedding)
    frame.normAndShift(
      &member, adding: pending, block.ln1, shift: state, mu: [block.maaX], into: [shiftInput],
      keeping: previous)
    member.multiply([Product(block.maaW1, shiftInput, shiftRank, .tanh)], rows: rows, kernels)
    let P = block.maaW2[0].columns
    member.parallel(rows) { row in
      for c in shiftParts.indices {
        shiftParts[c].row(row).update(from: shiftRank[row] + c * P, count: P)
        shiftParts[c].quantize(row, width: P, kernels)
      }
    }
    var products = InlineArray<5, Product>(repeating: Product(block.maaW2[0], shiftParts[0], mu[0]))
    for c in 1..<5 { products[c] = Product(block.maaW2[c], shiftParts[c], mu[c]) }
    member.multiply(products, rows: rows, kernels)
    member.parallel(5 * rows) { task in
      let (row, c) = (task / 5, task % 5)
      kernels.add(block.maa[c], D, mu[c][row])
      kernels.token_shift(frame.normed[row], previous[row], mu[c][row], D, shifted[c].row(row))
      shifted[c].quantize(row, width: D, kernels)
    }
  }

  func channelMix(
    _ member: inout Team.Member, _ layer: Int, _ frame: Frame, adding pending: Frame.Pending
  ) -> Frame.Pending {
    let block = weights.blocks[layer]
    return block.channelMix.run(&member, frame, channelMix, block.ln2, layer: layer, adding: pending)
  }

  /// The recurrence of one head over one run.
  private func wkv(_ block: Block, _ run: Run, head: Int, _ state: Int) {
    let N = frame.configuration.headSize
    let c = head * N
    for row in run.first..<run.first + run.count {
      frame.kernels.decay(w[row] + c, block.timeDecay + c, N, w[row] + c)
    }
    var arguments = rk_wkv6(
      T: run.count, N: N, stride: r.stride, r: r[run.first] + c, k: k[run.first] + c, v: v[run.first] + c,
      g: UnsafePointer(g[run.first] + c), w: w[run.first] + c, w_stride: w.stride, u: block.bonus + c,
      ln_weight: block.lnX.weight + c, ln_bias: block.lnX.bias + c,
      epsilon: frame.configuration.groupNormEpsilon,
      state: run.state + state + c * N, y: mixed.row(run.first) + c)
    frame.kernels.wkv6(&arguments)
  }
}
