// SPDX-License-Identifier: MIT
internal import CRWKVKernels
import Glibc

/// RWKV-4.   arXiv:2305.13048; BlinkDL's `rwkv` 0.8.32 `model.py`, `att_one` and `ffn_one`.
///
/// Letters: D embedding, T rows of the piece. There are no heads: the recurrence runs in each channel.
final class RWKV4: BlockStack {
  /// One layer's weights, named as in the checkpoint.
  struct Layer: LayerWeights, @unchecked Sendable {
    let ln1: LayerNorm
    /// mu_k, mu_v, mu_r, [D] each
    let shift: InlineArray<3, Vector>
    let key, value, receptance, output: Matrix
    /// −exp(time_decay), [D]
    let decay: Vector
    /// time_first, [D]
    let bonus: Vector
    /// `ln2` and `ffn`
    let channelMix: ChannelMix

    init(_ store: WeightStore, layer: Int) throws(ModelError) {
      let D = store.configuration.embedding
      let block = "blocks.\(layer)."
      let att = block + "att."
      ln1 = try store.layerNorm(block + "ln1", D)
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
      channelMix = try ChannelMix(store, prefix: block) { name throws(ModelError) in
        try store.complement(block + "ffn.time_mix_" + name, D)
      }
    }
  }

  private let layers: [Layer]
  private let frame: Frame
  private let shifted: InlineArray<3, Activations>
  private let r, k, v: Rows
  private let mixed: Activations
  private let channelMix: ChannelMix.Scratch

  /// Channels of one task of the recurrence.
  private static let channels = 64

  init(_ layers: [Layer], _ work: Workspace) throws(ModelError) {
    self.layers = layers
    frame = work.frame
    let D = frame.configuration.embedding
    shifted = try work.activations(D)
    r = try work.rows(D)
    k = try work.rows(D)
    v = try work.rows(D)
    mixed = try work.activations(D)
    channelMix = try ChannelMix.Scratch(
      work, hiddenUnits: frame.configuration.ffn, sharing: (shifted[0], shifted[1]), isGated: true)
  }

  /// One layer:
  ///
  ///     x += O · wkv4(r, k, v)                     of n = ln1(x)
  ///     x += σ(R x_r) · V relu²(K x_k)             of n = ln2(x)      x_c = n + (n′ − n) · mu_c
  func evaluate(_ member: inout Team.Member, _ position: Int, ends: Frame?) {
    let (layer, layout, rows, kernels) = (layers[position], frame.layout, frame.rows, frame.kernels)
    let D = frame.configuration.embedding

    // Norm and token shift.
    frame.normAndShift(
      &member, layer.ln1, keptAt: layout.timeShift(of: position), mu: layer.shift, into: shifted)

    // k = K x_k   v = V x_v   r = R x_r
    member.multiply(
      [
        Product(layer.key, shifted[0], k), Product(layer.value, shifted[1], v),
        Product(layer.receptance, shifted[2], r),
      ], rows: rows, kernels)

    // The recurrence of each channel.
    let tasks = (D + Self.channels - 1) / Self.channels
    member.parallel(tasks * frame.runs.count) { task in
      let (c, offset) = (task % tasks * Self.channels, layout.wkv(of: position))
      frame.runs[task / tasks].advance {
        for part in 0..<3 {
          let from = offset + part * D + c
          ($1 + from).update(from: $0 + from, count: min(Self.channels, D - c))
        }
      } _: {
        wkv(layer, $0, from: c, state: offset)
      }
    }

    // Output matrix and residual add of time mixing: x += O y
    let output: InlineArray<1, Product> = [Product(layer.output, mixed, addedTo: frame.x, frame.product)]
    member.quantizeInputs(of: output, rows: rows, kernels)
    member.multiply(output, rows: rows, kernels)

    // Channel mixing, from norm to residual add.
    layer.channelMix.add(&member, to: frame, ends, keptAt: layout.channelShift(of: position), channelMix)
  }

  /// The recurrence of some channels over one run.
  private func wkv(_ layer: Layer, _ run: Run, from c: Int, state offset: Int) {
    let D = frame.configuration.embedding
    let state = run.state + offset + c
    var arguments = rk_wkv4(
      T: run.count, n: min(Self.channels, D - c), stride: r.stride, r: r[run.first] + c, k: k[run.first] + c,
      v: v[run.first] + c, w: layer.decay + c, u: layer.bonus + c, aa: state, bb: state + D,
      pp: state + 2 * D,
      y: mixed.row(run.first) + c)
    frame.kernels.wkv4(&arguments)
  }
}
