// SPDX-License-Identifier: MIT
/// Channel mixing of versions 4, 5 and 6:
///
///     y = σ(R x_r) · (V relu²(K x_k))        x_c = x + (x' − x) · mu_c
struct GatedChannelMix {
  /// mu_k, mu_r, [D] each
  let shift: InlineArray<2, Vector>
  let key: Matrix
  let receptance: Matrix
  let value: HiddenRows

  /// - Parameter shift: reads one of the two shift vectors, "k" or "r", which versions name differently.
  init(
    _ store: WeightStore, prefix: String, shift: (String) throws(ModelError) -> Vector
  ) throws(ModelError) {
    let (D, F) = (store.configuration.embedding, store.configuration.ffn)
    self.shift = [try shift("k"), try shift("r")]
    key = try store.matrix(prefix + "key.weight", rows: F, columns: D)
    receptance = try store.matrix(prefix + "receptance.weight", rows: D, columns: D)
    value = try store.hiddenRows(prefix + "value.weight", units: F, columns: D)
  }

  /// Scratch of a session.
  struct Scratch {
    let shifted: InlineArray<2, Activations>
    let hidden: Rows
    let gate: Rows

    init(_ frame: Frame, arena: Arena) throws(ModelError) {
      let (D, T) = (frame.configuration.embedding, frame.capacity)
      shifted = [
        try Activations(rows: T, width: D, in: arena), try Activations(rows: T, width: D, in: arena),
      ]
      hidden = try Rows(rows: T, width: frame.configuration.ffn, in: arena)
      gate = try Rows(rows: T, width: D, in: arena)
    }
  }

  /// All rows of the frame; adds what is pending first.
  func run(
    _ member: inout Team.Member, _ frame: Frame, _ scratch: Scratch, _ norm: LayerNorm, layer: Int,
    adding pending: Frame.Pending
  ) -> Frame.Pending {
    let state = layer * frame.layout.layer + frame.layout.channelShift
    frame.normAndShift(&member, adding: pending, norm, shift: state, mu: shift, into: scratch.shifted)
    member.multiply(
      [
        Product(key, scratch.shifted[0], scratch.hidden, .reluSquared),
        Product(receptance, scratch.shifted[1], scratch.gate),
      ], rows: frame.rows, frame.kernels)
    return frame.sumHiddenRows(&member, value, scratch.hidden, gate: scratch.gate)
  }
}
