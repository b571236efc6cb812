// SPDX-License-Identifier: MIT
/// The blocks of one version for one session: weights together with scratch.
protocol BlockStack: AnyObject {
  /// Called once before a piece, by one thread: the place to make room for what grows.
  func prepare()
  /// Takes the frame's rows through one block: adds the outputs of its mixers to the residual stream and advances the
  /// states. Called by all members of the team.
  ///
  /// - Parameters:
  ///   - position: the block's place in `Configuration.blocks`.
  ///   - ends: where the last rows of each run go through channel mixing, if those are all that is needed.
  func evaluate(_ member: inout Team.Member, _ position: Int, ends: Frame?)
  /// Called once after a piece, by one thread.
  func finish()
}

extension BlockStack {
  func prepare() {}
  func finish() {}
}

/// The weights of one layer, `blocks.N`.
protocol LayerWeights: Sendable {
  init(_ store: WeightStore, layer: Int) throws(ModelError)
}

extension LayerWeights {
  /// Reads the weights of all layers.
  static func all(_ store: WeightStore) throws(ModelError) -> [Self] {
    var layers: [Self] = []
    for layer in 0..<store.configuration.layers { layers.append(try Self(store, layer: layer)) }
    return layers
  }
}

/// What a session's blocks work with, and where they get their scratch: buffers with a row for each row of a piece.
struct Workspace {
  let frame: Frame
  let teamSize: Int
  let sums: HiddenSums
  /// Rows of the tables by token; nil but in 7a and 7b.
  let tokens: TokenRows?
  let arena: Arena

  func rows(_ width: Int) throws(ModelError) -> Rows {
    try Rows(rows: frame.capacity, width: width, in: arena)
  }

  func rows<let count: Int>(_ width: Int) throws(ModelError) -> InlineArray<count, Rows> {
    try InlineArray { _ throws(ModelError) in try rows(width) }
  }

  func activations(_ width: Int) throws(ModelError) -> Activations {
    try Activations(rows: frame.capacity, width: width, in: arena)
  }

  func activations<let count: Int>(_ width: Int) throws(ModelError) -> InlineArray<count, Activations> {
    try InlineArray { _ throws(ModelError) in try activations(width) }
  }
}
