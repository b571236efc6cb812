// SPDX-License-Identifier: MIT
public import RWKVFormat

/// Advances many conversations at once: one token each, with one pass over the weights.
///
/// On processors that wait for memory this costs little more than one conversation alone, and gives each of them the
/// same numbers. Not thread-safe; use one batch per thread at a time.
public final class Batch {
  /// The model whose states are advanced.
  public let model: Model
  private let evaluator: Evaluator

  /// How many states a call can advance at most.
  public static let capacity = Evaluator.capacity

  /// Makes a batch with memory and threads of its own; throws where there is no memory.
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

  /// The logits [V] of the token that follows what state `index` of the last call has read; valid until the next call.
  public func logits(_ index: Int) -> UnsafeBufferPointer<Float> {
    precondition((0..<evaluator.headCount).contains(index), "no such state in the last call")
    return evaluator.logits(index)
  }

  /// Chooses the next token of each conversation of the last call, `samplers[i]` that of conversation i, on all
  /// threads.
  ///
  /// When it throws, samplers before and after the one that failed may have chosen.
  public func sample(with samplers: inout [Sampler]) throws(SamplingError) -> [Int] {
    precondition(samplers.count == evaluator.headCount, "a sampler for each state of the last call")
    var choices = [Result<Int, SamplingError>](repeating: .success(0), count: samplers.count)
    evaluator.sample(with: &samplers, into: &choices)
    var tokens: [Int] = []
    for choice in choices { tokens.append(try choice.get()) }
    return tokens
  }
}

/// A token of one of several texts that are read together.
package struct TextPosition {
  /// Which text, and which of its tokens.
  package let text: Int
  package let token: Int
  /// Where the evaluator has its logits and hidden vector.
  package let row: Int
}

extension Evaluator {
  /// Each state reads a text of its own; as many tokens of all of them as fit go through one pass over the weights.
  ///
  /// The same numbers as reading them one by one. An error leaves the states after the last complete pass.
  /// - Parameters:
  ///   - output: what is wanted of each text.
  ///   - logits: whether logits of the wanted tokens are made, or their hidden vectors alone.
  ///   - receive: called for each token of which something was wanted, while it is valid.
  ///   - progress: called with the number of tokens read so far; reading stops when it returns false.
  package func read(
    _ texts: [[Int]], _ states: [State], output: Output, logits: Bool = true,
    progress: (Int) -> Bool = { _ in true }, _ receive: (TextPosition) -> Void
  ) throws(ModelError) {
    var (text, start, end) = (0, 0, 0)
    while text < texts.count {
      var (tokens, runs, places): ([Int], [Run], [(text: Int, start: Int)]) = ([], [], [])
      while text < texts.count, tokens.count < Self.capacity {
        let count = min(texts[text].count - start, Self.capacity - tokens.count)
        if count > 0 {
          runs.append(Run(first: tokens.count, count: count, states[text]))
          places.append((text, start))
          tokens += texts[text][start..<start + count]
          start += count
        }
        if start == texts[text].count { (text, start) = (text + 1, 0) }
      }
      guard !runs.isEmpty else { return }
      let ends = zip(runs, places).map { $1.start + $0.count == texts[$1.text].count }
      let wanted = output == .lastOfEachRun && !ends.contains(true) ? .none : output
      try evaluate(.tokens(tokens[...]), runs, output: wanted, logits: logits)
      for (index, (run, place)) in zip(runs, places).enumerated() {
        if wanted == .all {
          for row in 0..<run.count {
            receive(TextPosition(text: place.text, token: place.start + row, row: run.first + row))
          }
        } else if wanted == .lastOfEachRun && ends[index] {
          receive(TextPosition(text: place.text, token: place.start + run.count - 1, row: index))
        }
      }
      end += tokens.count
      guard progress(end) else { throw ModelError(.cancelled) }
    }
  }

  /// Each state reads a text of its own; how well each token predicted the target of the same place.
  package func scores(
    _ texts: [[Int]], _ states: [State], targets: [[Int]], progress: (Int) -> Bool = { _ in true }
  ) throws(ModelError) -> [[TokenScore]] {
    precondition(texts.map(\.count) == targets.map(\.count))
    var scores = texts.map { [TokenScore](repeating: TokenScore(), count: $0.count) }
    var places: [TextPosition] = []
    func flush() {
      let values = self.scores(places.map { (row: $0.row, target: targets[$0.text][$0.token]) })
      for (place, value) in zip(places, values) { scores[place.text][place.token] = value }
      places = []
    }
    try read(
      texts, states, output: .all,
      progress: {
        flush()
        return progress($0)
      }
    ) { places.append($0) }
    return scores
  }
}
