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
    let tokens = tokens + [0]
    let wanted: [Float]
    switch pooling {
    case .last, .state:
      try evaluator.read(.tokens(tokens[...]), state, output: .lastOfEachRun) { end, _ in progress(end) }
      wanted = pooling == .last ? Array(hidden) : state.wkv(model.configuration.layers - 1)
    case .mean:
      var sums = [Double](repeating: 0, count: model.configuration.embedding)
      try forEachHidden(tokens, progress: progress) { _, hidden in
        for (channel, value) in hidden.enumerated() { sums[channel] += Double(value) }
      }
      wanted = sums.map { Float($0 / Double(tokens.count)) }
    }
    let length = wanted.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot()
    return length > 0 ? wanted.map { Float(Double($0) / length) } : wanted
  }
}
