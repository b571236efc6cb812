// SPDX-License-Identifier: MIT
public import RWKVFormat

/// One conversation with a model: its state and the memory and threads to advance it.
///
/// Not thread-safe; use one session per thread at a time. Sessions of one model are independent of each other.
public final class Session {
  /// The model that reads and writes.
  public let model: Model
  /// What the model remembers. Replace its contents with `assign`, or fork it with `copy`.
  public let state: State
  let evaluator: Evaluator

  /// - Parameters:
  ///   - state: where to go on from, of the same model; it is the session's own from then on. Nil: from the start.
  ///   - threads: threads to use; by default as many as the processors this process may use.
  public init(
    _ model: Model, state: State? = nil, threads: Int = processorCount()
  ) throws(ModelError) {
    precondition(state == nil || state?.model.identity == model.identity, "state of another model")
    self.model = model
    self.state = state ?? model.newState()
    evaluator = try Evaluator(model, threads: threads)
  }

  /// A session that shares the memory and threads of an evaluator.
  package init(_ evaluator: Evaluator, _ state: State) {
    model = evaluator.model
    self.state = state
    self.evaluator = evaluator
  }

  /// Reads one token; afterwards `logits` predict the next.
  public func decode(_ token: Int) throws(ModelError) {
    try evaluator.evaluate(.tokens([token]), [Run(first: 0, count: 1, state)], output: .lastOfEachRun)
  }

  /// Reads a sequence of tokens, many at a time; afterwards `logits` predict the token after the last.
  ///
  /// It gives the same numbers as decoding them one by one. An error leaves the state after the last complete piece.
  /// - Parameter progress: called after each piece with the number of tokens read; reading stops when it returns false.
  public func prefill(
    _ tokens: [Int], progress: ((Int) -> Bool)? = nil
  ) throws(ModelError) {
    try evaluator.read(.tokens(tokens[...]), state, output: .lastOfEachRun) { end, _ in progress?(end) ?? true
    }
  }

  /// One pass over a few tokens; afterwards `logits(afterRow:)` has what follows each.
  func decode(_ tokens: [Int], _ run: Run) throws(ModelError) {
    try evaluator.evaluate(.tokens(tokens[...]), [run], output: .all)
  }

  /// Logits of the token after token `row` of those that the last call read, [V].
  func logits(afterRow row: Int) -> UnsafeBufferPointer<Float> { evaluator.logits(row) }

  /// Reads vectors [T, D] that stand in for rows of the embedding table: what an encoder of images or sound made.
  ///
  /// Otherwise as `prefill`.
  public func prefill(
    vectors: UnsafeBufferPointer<Float>, progress: ((Int) -> Bool)? = nil
  ) throws(ModelError) {
    try evaluator.read(.vectors(vectors), state, output: .lastOfEachRun) { end, _ in progress?(end) ?? true }
  }

  /// Reads a sequence of tokens and hands out the logits after each: `body(index, logits)`, logits [V].
  ///
  /// - Parameter progress: called with the tokens read so far; false stops.
  public func forEachLogits(
    _ tokens: [Int], progress: (Int) -> Bool = { _ in true },
    _ body: (Int, UnsafeBufferPointer<Float>) -> Void
  ) throws(ModelError) {
    try evaluator.read(.tokens(tokens[...]), state, output: .all) { end, count in
      for row in 0..<count { body(end - count + row, evaluator.logits(row)) }
      return progress(end)
    }
  }

  /// Reads a sequence of tokens and says how well each of them predicted its target.
  ///
  /// The numbers are the same for any number of threads.
  /// - Parameter progress: called with the tokens read so far; reading stops when it returns false.
  public func scores(
    _ tokens: [Int], targets: [Int], progress: (Int) -> Bool = { _ in true }
  ) throws(ModelError) -> [TokenScore] {
    try evaluator.scores([tokens], [state], targets: [targets], progress: progress)[0]
  }

  /// The losses −ln p(target) [nats] of each token's target; otherwise as `scores`.
  public func losses(
    _ tokens: [Int], targets: [Int], progress: (Int) -> Bool = { _ in true }
  ) throws(ModelError) -> [Double] {
    try scores(tokens, targets: targets, progress: progress).map { -$0.logProbability }
  }

  /// Reads a sequence of tokens and hands out the hidden vector after each: `body(index, hidden)`, hidden [D].
  ///
  /// - Parameter progress: called with the tokens read so far; false stops.
  public func forEachHidden(
    _ tokens: [Int], progress: (Int) -> Bool = { _ in true },
    _ body: (Int, UnsafeBufferPointer<Float>) -> Void
  ) throws(ModelError) {
    try evaluator.read(.tokens(tokens[...]), state, output: .all, logits: false) { end, count in
      for row in 0..<count { body(end - count + row, evaluator.hidden(row)) }
      return progress(end)
    }
  }

  /// Bytes of weights that decoding a token has read on average: all of them, less the channel-mix rows of hidden
  /// units that were zero.
  public var weightBytesPerToken: Int {
    model.weightBytes - Int(Double(model.hiddenRowBytes) * (1 - evaluator.hiddenShare))
  }

  /// Logits of the token after the last one read, [V]; valid until the session reads on. Empty before the first token.
  public var logits: UnsafeBufferPointer<Float> {
    let count = evaluator.hasLogits ? evaluator.headCount : 0
    return count > 0 ? evaluator.logits(count - 1) : UnsafeBufferPointer(start: nil, count: 0)
  }

  /// Puts logits [V] in the place of the last ones: those that were saved with the state, or copied when it was.
  public func resume(_ logits: [Float]) {
    precondition(logits.count == model.configuration.vocabulary, "logits of another model")
    evaluator.restore(logits)
  }

  /// The last hidden vector, from which the logits were made, [D]; otherwise as `logits`, and empty after `resume`. An
  /// embedding of what was read.
  public var hidden: UnsafeBufferPointer<Float> {
    let count = evaluator.isRestored ? 0 : evaluator.headCount
    return count > 0 ? evaluator.hidden(count - 1) : UnsafeBufferPointer(start: nil, count: 0)
  }
}
