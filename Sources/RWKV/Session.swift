public import RWKVFormat

/// One conversation with a model: its state and the memory and threads to advance it.
///
/// Not thread-safe; use one session per thread at a time. Sessions of one model are independent of each other.
public final class Session {
  public let model: Model
  /// What the model remembers. Replace its contents with `assign`, or fork it with `copy`.
  public let state: State
  private let evaluator: Evaluator
  private var hasLogits = false

  /// - Parameter threads: threads to use; by default as many as the processors this process may use.
  public init(_ model: Model, threads: Int = processorCount()) throws(ModelError) {
    self.model = model
    state = model.newState()
    evaluator = try Evaluator(model, threads: threads)
  }

  /// Reads one token; afterwards `logits` predict the next.
  public func decode(_ token: Int) throws(ModelError) {
    let run = Run(first: 0, count: 1, state)
    try evaluator.evaluate(CollectionOfOne(token), [run], output: .lastOfEachRun)
    hasLogits = true
  }

  /// Reads a sequence of tokens, many at a time; afterwards `logits` predict the token after the last.
  ///
  /// The same numbers as decoding them one by one. An error leaves the state after the last complete block.
  /// - Parameter progress: called after each block with the number of tokens read; reading stops when it returns false.
  public func prefill(
    _ tokens: [Int], progress: ((Int) -> Bool)? = nil
  ) throws(ModelError) {
    try evaluate(tokens, output: .lastOfEachRun) { end, _ in progress?(end) ?? true }
  }

  /// Reads a sequence of tokens and hands out the logits after each: `body(index, logits)`, logits [V].
  public func forEachLogits(
    _ tokens: [Int], _ body: (Int, UnsafeBufferPointer<Float>) -> Void
  ) throws(ModelError) {
    let V = model.configuration.vocabulary
    try evaluate(tokens, output: .all) { end, count in
      for row in 0..<count {
        let logits = evaluator.logits + row * evaluator.logitsStride
        body(end - count + row, UnsafeBufferPointer(start: logits, count: V))
      }
      return true
    }
    guard hasLogits else { return }
    let last = (tokens.count - 1) % Evaluator.capacity
    if last > 0 { evaluator.logits.update(from: evaluator.logits + last * evaluator.logitsStride, count: V) }
  }

  private func evaluate(
    _ tokens: [Int], output: Evaluator.Output, _ each: (_ end: Int, _ count: Int) -> Bool
  ) throws(ModelError) {
    var start = 0
    while start < tokens.count {
      let count = min(Evaluator.capacity, tokens.count - start)
      let run = Run(first: 0, count: count, state)
      let last = start + count == tokens.count
      try evaluator.evaluate(
        tokens[start..<start + count], [run], output: output == .lastOfEachRun && !last ? .none : output)
      start += count
      hasLogits = last
      guard each(start, count) else { throw ModelError(.cancelled) }
    }
  }

  /// Bytes of weights that decoding a token has read on average: all of them, less the channel-mix rows of hidden
  /// units that were zero.
  public var weightBytesPerToken: Int {
    model.weightBytes - Int(Double(model.hiddenRowBytes) * (1 - evaluator.frame.hiddenShare))
  }

  /// Logits of the token after the last one read, [V]; valid until the session reads on. Empty before the first token.
  public var logits: UnsafeBufferPointer<Float> {
    UnsafeBufferPointer(start: evaluator.logits, count: hasLogits ? model.configuration.vocabulary : 0)
  }
}
