// SPDX-License-Identifier: MIT
/// Channel mixing, of n = ln2(x) and n′, the same of the token before:
///
///     x += V relu²(K x_k)                     versions 7 and X
///     x += V (relu²(K x_k) · factor)          7a and 7b: the factor depends on the token (DeepEmbed)
///     x += σ(R x_r) · V relu²(K x_k)          versions 4, 5 and 6        x_c = n + (n′ − n) · mu_c
struct ChannelMix {
  let ln2: LayerNorm
  /// mu_k, [D]
  let shift: Vector
  let key: Matrix
  let value: HiddenRows
  /// The gate σ(R x_r): mu_r, [D], and R; nil but in versions 4, 5 and 6.
  let gate: (shift: Vector, receptance: Matrix)?
  /// Makes the factor of the hidden vector; nil but in 7a and 7b.
  let deepEmbed: DeepEmbed?

  /// Reads the weights of version 7. The file says how many hidden units there are: RWKV-X's attention blocks may have
  /// their own number.
  ///
  /// - Parameter tablesFor: in 7a and 7b, the position of the block, for its tables by token.
  init(_ store: WeightStore, prefix: String, tablesFor position: Int? = nil) throws(ModelError) {
    let ffn = prefix + "ffn."
    (ln2, key, value) = try Self.weights(store, prefix)
    shift = try store.vector(ffn + "x_k", store.configuration.embedding)
    gate = nil
    deepEmbed = try position.map { position throws(ModelError) in
      try DeepEmbed(store, prefix: ffn, position: position)
    }
  }

  /// Reads the weights of versions 4, 5 and 6.
  ///
  /// - Parameter shift: reads one of the two shift vectors, "k" or "r", which versions name differently.
  init(
    _ store: WeightStore, prefix: String, shift: (String) throws(ModelError) -> Vector
  ) throws(ModelError) {
    let D = store.configuration.embedding
    (ln2, key, value) = try Self.weights(store, prefix)
    self.shift = try shift("k")
    gate = (
      try shift("r"), try store.matrix(prefix + "ffn.receptance.weight", rows: D, columns: D)
    )
    deepEmbed = nil
  }

  private static func weights(
    _ store: WeightStore, _ prefix: String
  ) throws(ModelError) -> (LayerNorm, Matrix, HiddenRows) {
    let D = store.configuration.embedding
    let F = try store.rows(prefix + "ffn.key.weight")
    return (
      try store.layerNorm(prefix + "ln2", D),
      try store.matrix(prefix + "ffn.key.weight", rows: F, columns: D),
      try store.hiddenRows(prefix + "ffn.value.weight", units: F, columns: D)
    )
  }

  /// Scratch of a session.
  struct Scratch {
    /// x_k and x_r, which time mixing has done with.
    let shiftedKey, shiftedReceptance: Activations
    /// relu²(K x_k), [T, F]
    let hidden: Rows
    /// R x_r, [T, D]
    let gate: Rows?
    let sums: HiddenSums
    let deepEmbed: DeepEmbed.Scratch?

    /// - Parameters:
    ///   - hiddenUnits: F, the most of any block.
    ///   - shifted: buffers of time mixing that may be used again, [T, D] each.
    ///   - isGated: of versions 4, 5 and 6.
    init(
      _ work: Workspace, hiddenUnits: Int, sharing shifted: (Activations, Activations), isGated: Bool
    ) throws(ModelError) {
      (shiftedKey, shiftedReceptance) = shifted
      hidden = try work.rows(hiddenUnits)
      gate = isGated ? try work.rows(work.frame.configuration.embedding) : nil
      sums = work.sums
      deepEmbed = try work.tokens.map { tokens throws(ModelError) in try DeepEmbed.Scratch(tokens, work) }
    }
  }

  /// Adds the output for all rows of the frame to its residual stream.
  ///
  /// - Parameters:
  ///   - ends: if there is one, the last rows of each run go on in it, and the others are not needed any more.
  ///   - place: where each state keeps n of its last token, [D].
  func add(
    _ member: inout Team.Member, to frame: Frame, _ ends: Frame?, keptAt place: Int, _ scratch: Scratch
  ) {
    if let ends { frame.keepEnds(&member, in: ends) }
    let frame = ends ?? frame
    let (xk, xr) = (scratch.shiftedKey, scratch.shiftedReceptance)
    if let gate {
      frame.normAndShift(&member, ln2, keptAt: place, mu: [shift, gate.shift], into: [xk, xr])
    } else {
      frame.normAndShift(&member, ln2, keptAt: place, mu: [shift], into: [xk])
    }
    var receptance: Product?
    if let gate, let output = scratch.gate { receptance = Product(gate.receptance, xr, output) }
    member.multiply(
      [Product(key, xk, scratch.hidden, .reluSquared)], and: receptance, rows: frame.rows, frame.kernels)
    if let deepEmbed, let factors = scratch.deepEmbed {
      deepEmbed.scale(&member, scratch.hidden, of: frame, factors)
    }
    scratch.sums.add(&member, value, scratch.hidden, gate: scratch.gate, to: frame)
  }
}
