public import RWKVFormat

/// Advances many conversations at once: one token each, with one pass over the weights.
///
/// On processors that wait for memory this costs little more than one conversation alone, and gives each of them the
/// same numbers. Not thread-safe; use one batch per thread at a time.
public final class Batch {
  public let model: Model
  private let evaluator: Evaluator

  /// States of one call at most.
  public static let capacity = Evaluator.capacity

  public init(_ model: Model, threads: Int = processorCount()) throws(ModelError) {
    self.model = model
    evaluator = try Evaluator(model, threads: threads)
  }

  /// A batch that shares the memory and threads of an evaluator.
  package init(_ evaluator: Evaluator) {
    model = evaluator.model
    self.evaluator = evaluator
  }

  /// `states[i]` reads `tokens[i]`; afterwards `logits(i)` predict the next. When it throws, no state has changed.
  ///
  /// - Parameter states: different states of this model, 1…`capacity`.
  public func decode(_ tokens: [Int], _ states: [State]) throws(ModelError) {
    guard tokens.count == states.count, (1...Self.capacity).contains(states.count) else {
      throw ModelError(
        .invalidBatch("\(tokens.count) tokens for \(states.count) states, expected 1…\(Self.capacity) each"))
    }
    guard Set(states.map(ObjectIdentifier.init)).count == states.count else {
      throw ModelError(.invalidBatch("the same state twice: give each conversation its own"))
    }
    guard states.allSatisfy({ $0.model.identity == model.identity }) else {
      throw ModelError(.invalidBatch("a state of another model"))
    }
    let runs = states.enumerated().map { Run(first: $0, count: 1, $1) }
    try evaluator.evaluate(.tokens(tokens[...]), runs, output: .lastOfEachRun)
  }

  /// Logits of the token after the last one that state `index` of the last call read, [V]; valid until the next call.
  public func logits(_ index: Int) -> UnsafeBufferPointer<Float> {
    precondition((0..<evaluator.headCount).contains(index), "no such state in the last call")
    return evaluator.logits(index)
  }
}
