// SPDX-License-Identifier: MIT
public import RWKV

/// How far two models write the same answers, each reading what it wrote itself, always its first choice.
///
/// Measures over a given text look at one step at a time. An answer is a chain of steps: the first that differs changes
/// all that follow.
public struct FreeRunning: Sendable {
  /// For each prompt the tokens that both models write before they part; all that the reference wrote if they never do.
  public let agreeingTokens: [Int]
  /// For each prompt whether both models write the same to the end.
  public let isWhole: [Bool]
  /// Tokens that the reference writes after a prompt at most. It writes fewer where it ends the text (token 0).
  public let length: Int

  /// The median over prompts of the tokens that both models write before they part; of two middle ones the mean. An
  /// answer that both write the same to its end counts as one of `length` tokens, however short: they do not part
  /// there.
  public var medianAgreeingTokens: Double {
    let sorted = tokensBeforeParting.sorted()
    return Double(sorted[(sorted.count - 1) / 2] + sorted[sorted.count / 2]) / 2
  }

  /// The mean over prompts of the tokens that both models write before they part, counted in the same way.
  public var meanAgreeingTokens: Double {
    Double(tokensBeforeParting.reduce(0, +)) / Double(agreeingTokens.count)
  }

  private var tokensBeforeParting: [Int] { zip(agreeingTokens, isWhole).map { $1 ? length : $0 } }

  /// The share of prompts after which both models write the same to the end.
  public var wholeShare: Double { Double(isWhole.count { $0 }) / Double(isWhole.count) }

  /// Lets the reference answer each prompt, and the model read the answers: up to the token where it would have chosen
  /// another one it has read what it would have written. Up to 64 answers are written with one pass over the weights.
  ///
  /// - Parameters:
  ///   - prompts: token ids, at least one prompt, none of them empty.
  ///   - length: tokens of an answer at most.
  ///   - progress: called with the share done, 0…1; stops when it returns false.
  /// - Throws: if the models differ in version or shape, for invalid token ids, and where logits are not finite.
  public init(
    _ reference: Model, _ model: Model, prompts: [[Int]], length: Int, threads: Int,
    progress: (Double) -> Bool = { _ in true }
  ) throws(QuantizationError) {
    precondition(!prompts.isEmpty && prompts.allSatisfy { !$0.isEmpty } && length > 0)
    try requireSameShape(reference, model)
    self.length = length
    do throws(ModelError) {
      let evaluators = (
        try Evaluator(reference, threads: threads), try Evaluator(model, threads: threads)
      )
      var agreeing: [(tokens: Int, isWhole: Bool)] = []
      while agreeing.count < prompts.count {
        let group = Array(prompts[agreeing.count...].prefix(Batch.capacity))
        func proceed(_ share: Double) -> Bool {
          progress((Double(agreeing.count) + share * Double(group.count)) / Double(prompts.count))
        }
        let answers = try Self.answers(evaluators.0, group, length) { proceed($0 / 2) }
        agreeing += try Self.agreement(evaluators.1, group, answers) { proceed(0.5 + $0 / 2) }
      }
      (agreeingTokens, isWhole) = (agreeing.map(\.tokens), agreeing.map(\.isWhole))
    } catch {
      throw error.isCancellation ? .cancelled : .model(error)
    }
  }

  /// `count` pieces of a text of 32 tokens each, evenly spaced; fewer where the text is shorter.
  public static func prompts(of tokens: [Int], count: Int) -> [[Int]] {
    let length = min(32, tokens.count)
    let pieces = max(1, min(count, tokens.count / max(1, length)))
    return (0..<pieces).map { Array(tokens[($0 * tokens.count / pieces)...].prefix(length)) }
  }

  /// What the model writes after each prompt.
  private static func answers(
    _ evaluator: Evaluator, _ prompts: [[Int]], _ length: Int, _ progress: (Double) -> Bool
  ) throws(ModelError) -> [[Int]] {
    let states = prompts.map { _ in evaluator.model.newState() }
    var chooser = FirstChoice(evaluator.model)
    var answers = [[Int]](repeating: [], count: prompts.count)
    try evaluator.read(prompts, states, output: .lastOfEachRun, progress: { _ in progress(0) }) {
      answers[$0.text] = [chooser.choose(evaluator.logits($0.row))]
    }
    try chooser.check()
    let batch = Batch(evaluator)
    for step in 1..<max(1, length) {
      let writing = answers.indices.filter { answers[$0].last != endOfText }
      guard !writing.isEmpty else { break }
      try batch.decode(writing.map { answers[$0][step - 1] }, writing.map { states[$0] })
      for (row, answer) in writing.enumerated() { answers[answer].append(chooser.choose(batch.logits(row))) }
      try chooser.check()
      guard progress(Double(step) / Double(length)) else { throw ModelError(.cancelled) }
    }
    return answers
  }

  /// How many tokens of each answer the model would have written too, and whether these are all.
  private static func agreement(
    _ evaluator: Evaluator, _ prompts: [[Int]], _ answers: [[Int]], _ progress: (Double) -> Bool
  ) throws(ModelError) -> [(tokens: Int, isWhole: Bool)] {
    let texts = zip(prompts, answers).map { $0 + $1.dropLast() }
    let total = texts.reduce(0) { $0 + $1.count }
    var chooser = FirstChoice(evaluator.model)
    var agreeing = [Int](repeating: 0, count: prompts.count)
    try evaluator.read(
      texts, texts.map { _ in evaluator.model.newState() }, output: .all,
      progress: { progress(Double($0) / Double(total)) }
    ) { position in
      let step = position.token - (prompts[position.text].count - 1)
      // Behind the first other choice the model would have read something else.
      guard step == agreeing[position.text] else { return }
      if chooser.choose(evaluator.logits(position.row)) == answers[position.text][step] {
        agreeing[position.text] += 1
      }
    }
    try chooser.check()
    return zip(agreeing, answers).map { ($0, $0 == $1.count) }
  }
}

/// The token that ends a text in the vocabularies of RWKV.
private let endOfText = 0

/// The likeliest token.
private struct FirstChoice {
  private let path: String
  private var sampler: Sampler
  private var error: SamplingError?

  init(_ model: Model) {
    path = model.path
    var greedy = SamplingOptions()
    greedy.temperature = 0
    do { sampler = try Sampler(greedy) } catch { preconditionFailure("valid options: \(error)") }
  }

  mutating func choose(_ logits: UnsafeBufferPointer<Float>) -> Int {
    do { return try sampler.sample(logits) } catch {
      self.error = error
      return endOfText
    }
  }

  func check() throws(ModelError) {
    if error != nil { throw ModelError(.notFinite("the logits"), path: path) }
  }
}
