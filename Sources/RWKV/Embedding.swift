// SPDX-License-Identifier: MIT
/// What the vector of a text is made of.
public enum Pooling: String, CaseIterable, Sendable {
  /// The average of the hidden vectors after all tokens of the text and token 0, [D].
  case mean
  /// The hidden vector after token 0, which ends the text and has seen all of it, [D].
  case last
  /// The recurrent state of the last block, flattened.
  case state
}

extension Session {
  /// The vector of a text, for comparing it with others: its length is 1, so that the dot product of two is the cosine of
  /// their angle.
  ///
  /// The text is read from an empty state and ends with token 0; the session's state is that after it.
  /// - Parameters:
  ///   - tokens: the text's, without token 0.
  ///   - progress: called with the number of tokens read so far; reading stops when it returns false.
  public func embedding(
    _ tokens: [Int], pooling: Pooling = .mean, progress: (Int) -> Bool = { _ in true }
  ) throws(ModelError) -> [Float] {
    state.reset()
    switch pooling {
    case .mean:
      return try evaluator.embeddings([tokens], [state], progress: progress)[0]
    case .last, .state:
      let tokens = tokens + [0]
      try evaluator.read(.tokens(tokens[...]), state, output: .lastOfEachRun) { end, _ in progress(end) }
      return normalized(pooling == .last ? Array(hidden) : state.wkv(model.configuration.layers - 1))
    }
  }
}

extension Evaluator {
  /// The mean vectors of many texts, which are read together; otherwise as `Session.embedding`.
  ///
  /// - Parameter states: where they are read into, empty ones; nil: nowhere.
  package func embeddings(
    _ texts: [[Int]], _ states: [State]? = nil, progress: (Int) -> Bool = { _ in true }
  ) throws(ModelError) -> [[Float]] {
    let texts = texts.map { $0 + [0] }
    let D = model.configuration.embedding
    var sums = [[Double]](repeating: [Double](repeating: 0, count: D), count: texts.count)
    try read(texts, states ?? texts.map { _ in model.newState() }, output: .all, progress: progress) {
      place in
      for (channel, value) in hidden(place.row).enumerated() { sums[place.text][channel] += Double(value) }
    }
    return zip(sums, texts).map { sums, text in normalized(sums.map { Float($0 / Double(text.count)) }) }
  }
}

/// A vector of the same direction and length 1.
func normalized(_ vector: [Float]) -> [Float] {
  let length = vector.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot()
  return length > 0 ? vector.map { Float(Double($0) / length) } : vector
}
