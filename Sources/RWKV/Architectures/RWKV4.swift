// SPDX-License-Identifier: MIT
internal import CRWKVKernels
import Glibc

/// RWKV-4.   arXiv:2305.13048; BlinkDL's `rwkv` 0.8.32 `model.py`, `att_one` and `ffn_one`.
///
/// Letters: D embedding, T rows of the block. There are no heads: the recurrence runs in each channel.
final class RWKV4: BlockStack {
  /// One block's weights, named as in the checkpoint.
  struct Block {
    let ln1, ln2: LayerNorm
    /// mu_k, mu_v, mu_r, [D] each
    let shift: InlineArray<3, Vector>
    let key, value, receptance, output: Matrix
    /// −exp(time_decay), [D]
    let decay: Vector
    /// time_first, [D]
    let bonus: Vector
    let channelMix: GatedChannelMix

    init(_ store: WeightStore, prefix: String) throws(ModelError) {
      let D = store.configuration.embedding
      let att = "\(prefix).att."
      ln1 = try store.layerNorm("\(prefix).ln1", D)
      ln2 = try store.layerNorm("\(prefix).ln2", D)
      shift = [
        try store.complement(att + "time_mix_k", D), try store.complement(att + "time_mix_v", D),
        try store.complement(att + "time_mix_r", D),
      ]
      key = try store.matrix(att + "key.weight", rows: D, columns: D)
      value = try store.matrix(att + "value.weight", rows: D, columns: D)
      receptance = try store.matrix(att + "receptance.weight", rows: D, columns: D)
      output = try store.matrix(att + "output.weight", rows: D, columns: D)
      let timeDecay = try store.vector(att + "time_decay", D)
      decay = try store.derived(D) { -exp(Double(timeDecay[$0])) }
      bonus = try store.vector(att + "time_first", D)
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
  private let shifted: InlineArray<3, Activations>
  private let r, k, v: Rows
  private let mixed: Activations
  private let channelMix: GatedChannelMix.Scratch

  /// Channels of one task of the recurrence.
  private static let channels = 64

  init(_ weights: Weights, _ frame: Frame, arena: Arena) throws(ModelError) {
    self.weights = weights
    self.frame = frame
    let (D, T) = (frame.configuration.embedding, frame.capacity)
    shifted = [
      try Activations(rows: T, width: D, in: arena), try Activations(rows: T, width: D, in: arena),
      try Activations(rows: T, width: D, in: arena),
    ]
    r = try Rows(rows: T, width: D, in: arena)
    k = try Rows(rows: T, width: D, in: arena)
    v = try Rows(rows: T, width: D, in: arena)
    mixed = try Activations(rows: T, width: D, in: arena)
    channelMix = try GatedChannelMix.Scratch(frame, arena: arena)
  }

  /// Time mixing of all rows; leaves its output in `frame.delta`.
  ///
  ///     k = K x_k   v = V x_v   r = R x_r   y = wkv4(r, k, v) per channel (kernel `wkv4`)   delta = O y
  func timeMix(_ member: inout Team.Member, _ layer: Int, adding pending: Frame.Pending) {
    let block = weights.blocks[layer]
    let (rows, kernels, D) = (frame.rows, frame.kernels, frame.configuration.embedding)
    let state = layer * frame.layout.layer
    frame.normAndShift(&member, adding: pending, block.ln1, shift: state, mu: block.shift, into: shifted)
    member.multiply(
      [
        Product(block.key, shifted[0], k), Product(block.value, shifted[1], v),
        Product(block.receptance, shifted[2], r),
      ], rows: rows, kernels)
    let tasks = (D + Self.channels - 1) / Self.channels
    member.parallel(tasks * frame.runs.count) { task in
      let (c, offset) = (task % tasks * Self.channels, state + frame.layout.wkv)
      frame.runs[task / tasks].advance {
        for part in 0..<3 {
          let from = offset + part * D + c
          ($1 + from).update(from: $0 + from, count: min(Self.channels, D - c))
        }
      } _: {
        wkv(block, $0, from: c, offset)
      }
    }
    member.parallel(rows) { row in mixed.quantize(row, width: D, kernels) }
    member.multiply([Product(block.output, mixed, frame.delta)], rows: rows, kernels)
  }

  func channelMix(
    _ member: inout Team.Member, _ layer: Int, _ frame: Frame, adding pending: Frame.Pending
  ) -> Frame.Pending {
    let block = weights.blocks[layer]
    return block.channelMix.run(&member, frame, channelMix, block.ln2, layer: layer, adding: pending)
  }

  /// The recurrence of some channels over one run.
  private func wkv(_ block: Block, _ run: Run, from c: Int, _ offset: Int) {
    let D = frame.configuration.embedding
    let state = run.state + offset + c
    var arguments = rk_wkv4(
      T: run.count, n: min(Self.channels, D - c), stride: r.stride, r: r[run.first] + c, k: k[run.first] + c,
      v: v[run.first] + c, w: block.decay + c, u: block.bonus + c, aa: state, bb: state + D,
      pp: state + 2 * D,
      y: mixed.row(run.first) + c)
    frame.kernels.wkv4(&arguments)
  }
}
