// SPDX-License-Identifier: MIT
internal import CRWKVKernels
internal import RWKVFormat
import Glibc

/// RWKV-5.0, 5.1 and 5.2 "Eagle".   arXiv:2404.05892; BlinkDL's `rwkv` 0.8.32 `model.py`, `att_one_v5` …
/// `att_one_v5_2`.
///
/// 5.0 has no gate; 5.0 and 5.1 have one decay and one bonus per head, 5.2 one per channel.
/// Letters: D embedding, H heads, N head size, T rows of the block.
final class RWKV5: BlockStack {
  /// One block's weights, named as in the checkpoint.
  struct Block {
    let ln1, ln2: LayerNorm
    /// mu_r, mu_k, mu_v, mu_g, [D] each; without a gate the last is not used
    let shift: InlineArray<4, Vector>
    let receptance, key, value, output: Matrix
    let gate: Matrix?
    /// exp(−exp(time_decay)), [D]
    let decay: Vector
    /// exp(time_first) or time_faaaa, [D]
    let bonus: Vector
    let lnX: LayerNorm
    let channelMix: GatedChannelMix

    init(_ store: WeightStore, prefix: String) throws(ModelError) {
      let configuration = store.configuration
      let D = configuration.embedding
      let att = "\(prefix).att."
      ln1 = try store.layerNorm("\(prefix).ln1", D)
      ln2 = try store.layerNorm("\(prefix).ln2", D)
      let hasGate = configuration.version != .v50
      let mixR = try store.complement(att + "time_mix_r", D)
      shift = [
        mixR, try store.complement(att + "time_mix_k", D), try store.complement(att + "time_mix_v", D),
        hasGate ? try store.complement(att + "time_mix_g", D) : mixR,
      ]
      receptance = try store.matrix(att + "receptance.weight", rows: D, columns: D)
      key = try store.matrix(att + "key.weight", rows: D, columns: D)
      value = try store.matrix(att + "value.weight", rows: D, columns: D)
      output = try store.matrix(att + "output.weight", rows: D, columns: D)
      gate = hasGate ? try store.matrix(att + "gate.weight", rows: D, columns: D) : nil
      // One value per channel, or one per head that serves all its channels.
      let perChannel = configuration.version == .v52
      let N = perChannel ? 1 : configuration.headSize
      let timeDecay = try store.vector(att + "time_decay", D / N)
      decay = try store.derived(D) { exp(-exp(Double(timeDecay[$0 / N]))) }
      if store.contains(att + "time_faaaa") {
        let bonus = try store.vector(att + "time_faaaa", D / N)
        self.bonus = try store.derived(D) { Double(bonus[$0 / N]) }
      } else {
        let bonus = try store.vector(att + "time_first", D / N)
        self.bonus = try store.derived(D) { exp(Double(bonus[$0 / N])) }
      }
      lnX = try store.layerNorm(att + "ln_x", D)
      let ffn = "\(prefix).ffn."
      channelMix = try GatedChannelMix(store, prefix: ffn) { name throws(ModelError) in
        try store.complement(ffn + "time_mix_" + name, D)
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
  private let shifted: InlineArray<4, Activations>
  private let r, k, v, g: Rows
  private let mixed: Activations
  private let channelMix: GatedChannelMix.Scratch

  init(_ weights: Weights, _ frame: Frame, arena: Arena) throws(ModelError) {
    self.weights = weights
    self.frame = frame
    let (D, T) = (frame.configuration.embedding, frame.capacity)
    shifted = [
      try Activations(rows: T, width: D, in: arena), try Activations(rows: T, width: D, in: arena),
      try Activations(rows: T, width: D, in: arena), try Activations(rows: T, width: D, in: arena),
    ]
    r = try Rows(rows: T, width: D, in: arena)
    k = try Rows(rows: T, width: D, in: arena)
    v = try Rows(rows: T, width: D, in: arena)
    g = try Rows(rows: T, width: D, in: arena)
    mixed = try Activations(rows: T, width: D, in: arena)
    channelMix = try GatedChannelMix.Scratch(frame, arena: arena)
  }

  /// Time mixing of all rows; leaves its output in `frame.delta`.
  ///
  ///     r = R x_r   k = K x_k   v = V x_v   g = G x_g   y = wkv6(r, k, v, g) per head (kernel `wkv6`)   delta = O y
  func timeMix(_ member: inout Team.Member, _ layer: Int, adding pending: Frame.Pending) {
    let block = weights.blocks[layer]
    let (rows, kernels) = (frame.rows, frame.kernels)
    let state = layer * frame.layout.layer
    frame.normAndShift(&member, adding: pending, block.ln1, shift: state, mu: block.shift, into: shifted)
    member.multiply(
      [
        Product(block.receptance, shifted[0], r), Product(block.key, shifted[1], k),
        Product(block.value, shifted[2], v),
      ], and: block.gate.map { Product($0, shifted[3], g) }, rows: rows, kernels)
    frame.recur(&member, state: state + frame.layout.wkv, into: mixed) { run, head in
      wkv(block, run, head: head, state + frame.layout.wkv)
    }
    member.multiply([Product(block.output, mixed, frame.delta)], rows: rows, kernels)
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
    var arguments = rk_wkv6(
      T: run.count, N: N, stride: r.stride, r: r[run.first] + c, k: k[run.first] + c, v: v[run.first] + c,
      g: block.gate == nil ? nil : UnsafePointer(g[run.first] + c), w: block.decay + c, w_stride: 0,
      u: block.bonus + c, ln_weight: block.lnX.weight + c, ln_bias: block.lnX.bias + c,
      epsilon: frame.configuration.groupNormEpsilon, state: run.state + state + c * N,
      y: mixed.row(run.first) + c)
    frame.kernels.wkv6(&arguments)
  }
}
