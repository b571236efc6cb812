// SPDX-License-Identifier: MIT
internal import CRWKVKernels
internal import RWKVFormat
import Glibc

/// RWKV-5.0, 5.1 and 5.2 "Eagle".   arXiv:2404.05892; BlinkDL's `rwkv` 0.8.32 `model.py`, `att_one_v5` …
/// `att_one_v5_2`.
///
/// 5.0 has no gate; 5.0 and 5.1 have one decay and one bonus per head, 5.2 one per channel.
/// Letters: D embedding, H heads, N head size, T rows of the piece.
final class RWKV5: BlockStack {
  /// One layer's weights, named as in the checkpoint.
  struct Layer: LayerWeights, @unchecked Sendable {
    let ln1: LayerNorm
    /// mu_r, mu_k, mu_v, mu_g, [D] each; without a gate the last is not used
    let shift: InlineArray<4, Vector>
    let receptance, key, value, output: Matrix
    let gate: Matrix?
    /// exp(−exp(time_decay)), [D]
    let decay: Vector
    /// exp(time_first) or time_faaaa, [D]
    let bonus: Vector
    let lnX: LayerNorm
    /// `ln2` and `ffn`
    let channelMix: ChannelMix

    init(_ store: WeightStore, layer: Int) throws(ModelError) {
      let configuration = store.configuration
      let D = configuration.embedding
      let block = "blocks.\(layer)."
      let att = block + "att."
      ln1 = try store.layerNorm(block + "ln1", D)
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
      channelMix = try ChannelMix(store, prefix: block) { name throws(ModelError) in
        try store.complement(block + "ffn.time_mix_" + name, D)
      }
    }
  }

  private let layers: [Layer]
  private let frame: Frame
  private let shifted: InlineArray<4, Activations>
  private let r, k, v, g: Rows
  private let mixed: Activations
  private let channelMix: ChannelMix.Scratch

  init(_ layers: [Layer], _ work: Workspace) throws(ModelError) {
    self.layers = layers
    frame = work.frame
    let D = frame.configuration.embedding
    shifted = try work.activations(D)
    r = try work.rows(D)
    k = try work.rows(D)
    v = try work.rows(D)
    g = try work.rows(D)
    mixed = try work.activations(D)
    channelMix = try ChannelMix.Scratch(
      work, hiddenUnits: frame.configuration.ffn, sharing: (shifted[0], shifted[1]), isGated: true)
  }

  /// One layer:
  ///
  ///     x += O · wkv6(r, k, v, g)                  of n = ln1(x); kernel `wkv6`, with a decay that is always the same
  ///     x += σ(R x_r) · V relu²(K x_k)             of n = ln2(x)      x_c = n + (n′ − n) · mu_c
  func evaluate(_ member: inout Team.Member, _ position: Int, ends: Frame?) {
    let (layer, layout, rows, kernels) = (layers[position], frame.layout, frame.rows, frame.kernels)

    // Norm and token shift.
    frame.normAndShift(
      &member, layer.ln1, keptAt: layout.timeShift(of: position), mu: layer.shift, into: shifted)

    // r = R x_r   k = K x_k   v = V x_v   g = G x_g
    member.multiply(
      [
        Product(layer.receptance, shifted[0], r), Product(layer.key, shifted[1], k),
        Product(layer.value, shifted[2], v),
      ], and: layer.gate.map { Product($0, shifted[3], g) }, rows: rows, kernels)

    // The recurrence of each head, the norm of the heads and the gate.
    let matrices = layout.wkv(of: position)
    frame.recur(&member, state: matrices, into: mixed) { run, head in
      wkv(layer, run, head: head, state: matrices)
    }

    // Output matrix and residual add of time mixing: x += O y
    member.multiply([Product(layer.output, mixed, addedTo: frame.x, frame.product)], rows: rows, kernels)

    // Channel mixing, from norm to residual add.
    layer.channelMix.add(&member, to: frame, ends, keptAt: layout.channelShift(of: position), channelMix)
  }

  /// The recurrence of one head over one run.
  private func wkv(_ layer: Layer, _ run: Run, head: Int, state: Int) {
    let N = frame.configuration.headSize
    let c = head * N
    var arguments = rk_wkv6(
      T: run.count, N: N, stride: r.stride, r: r[run.first] + c, k: k[run.first] + c, v: v[run.first] + c,
      g: layer.gate == nil ? nil : UnsafePointer(g[run.first] + c), w: layer.decay + c, w_stride: 0,
      u: layer.bonus + c, ln_weight: layer.lnX.weight + c, ln_bias: layer.lnX.bias + c,
      epsilon: frame.configuration.groupNormEpsilon, state: run.state + state + c * N,
      y: mixed.row(run.first) + c)
    frame.kernels.wkv6(&arguments)
  }
}
