// SPDX-License-Identifier: MIT
internal import CRWKVKernels
import Glibc
public import RWKVTokenizer

/// Chooses the next token from logits, in the order of the `rwkv` Python package:
///
///     logits + bias − penalties (→ JSON) → softmax → min-p → top-p → top-k → probability^(1/temperature) → draw
///
/// The cuts come before the temperature, so a high temperature brings no unlikely token back. Top-p keeps
/// tokens as likely as the last one needed; top-k keeps exactly k, of equals those with the lower ids. Min-p, which the
/// package does not have, counts in the same probabilities. A value type: copies go their own way. After the
/// first tokens nothing is allocated.
public struct Sampler: Sendable {
  private let options: SamplingOptions
  private var generator: RandomGenerator
  private var penalties: Penalties
  private var json: JSONConstraint?

  /// Logits less penalties, one for each token.
  private var logits: [Float] = []
  private var groups = LogitGroups()
  private var ranked = RankedTokens()

  /// What may be drawn.
  private enum Choice {
    case one(Int)
    /// Any token, by ascending id; weights have this sum.
    case any(sum: Double)
    /// What the cuts left in `ranked`.
    case ranked
  }

  /// - Parameter tokenizer: tells which tokens are spaces and digits, whose repetition is not counted.
  public init(_ options: SamplingOptions, tokenizer: (any Tokenizer)? = nil) throws(SamplingError) {
    try options.check()
    self.options = options
    generator = RandomGenerator(seed: options.seed)
    penalties = Penalties(options, tokenizer: tokenizer)
    guard options.onlyJSON || options.jsonGrammar != nil else { return }
    guard let tokenizer else { throw .jsonNeedsTokenizer }
    json = JSONConstraint(tokenizer, options.jsonGrammar)
  }

  /// Chooses a token and counts it for the penalties; token 0, the end of a document, is not counted.
  /// - Parameter logits: one for each token of the model's vocabulary.
  public mutating func sample(_ logits: UnsafeBufferPointer<Float>) throws(SamplingError) -> Int {
    let token = draw(try select(logits))
    if token != 0 { record(token) }
    return token
  }

  /// Chooses a token as the other `sample` does, from logits in an array.
  public mutating func sample(_ logits: [Float]) throws(SamplingError) -> Int {
    // Typed throws do not pass through withUnsafeBufferPointer.
    let result = logits.withUnsafeBufferPointer { logits -> Result<Int, SamplingError> in
      do throws(SamplingError) { return .success(try sample(logits)) } catch { return .failure(error) }
    }
    return try result.get()
  }

  /// The probability of each token with which `sample` would draw it now.
  public mutating func probabilities(_ logits: UnsafeBufferPointer<Float>) throws(SamplingError) -> [Double] {
    let choice = try select(logits)
    var probabilities = [Double](repeating: 0, count: logits.count)
    switch choice {
    case .one(let token): probabilities[token] = 1
    case .ranked: ranked.forEachProbability { probabilities[$0] = $1 }
    case .any(let sum):
      for group in groups.sums.indices {
        for (token, weight) in terms(of: group) { probabilities[token] = weight / sum }
      }
    }
    return probabilities
  }

  /// Counts a token that something else has chosen.
  public mutating func record(_ token: Int) {
    penalties.record(token)
    json?.record(token)
  }

  /// Whether the text is complete, so that nothing can follow: of JSON after the last bracket.
  public var isFinished: Bool { json?.text.isComplete ?? false }

  /// Forgets the tokens written so far. The random numbers go on.
  public mutating func reset() {
    penalties.reset()
    json?.reset()
  }

  private mutating func select(_ input: UnsafeBufferPointer<Float>) throws(SamplingError) -> Choice {
    logits.replaceSubrange(logits.indices, with: input)
    for (token, bias) in options.logitBias where token < logits.count { logits[token] += bias }
    penalties.apply(to: &logits)
    json?.apply(to: &logits)
    // Typed throws do not pass through withUnsafeBufferPointer.
    let result = logits.withUnsafeBufferPointer { logits -> Result<Choice, SamplingError> in
      do throws(SamplingError) { return .success(try choose(from: logits)) } catch { return .failure(error) }
    }
    return try result.get()
  }

  private mutating func choose(from logits: UnsafeBufferPointer<Float>) throws(SamplingError) -> Choice {
    guard groups.findMaxima(logits) else {
      throw .notFinite(token: logits.firstIndex { !($0 < .infinity) } ?? 0)
    }
    guard groups.maximum > -.infinity else { throw .noCandidates }
    if options.temperature == 0 { return .one(groups.mostLikely(logits)) }
    let limit = options.topK == 0 ? logits.count : options.topK
    if options.topP == 1 && options.minP == 0 && limit >= logits.count {
      return .any(sum: groups.sum(logits, scale: LogitGroups.scale(options.temperature)))
    }
    let total = options.topP == 1 ? .infinity : groups.estimatedSum(logits)
    ranked.gather(
      logits, from: lowestNeeded(total, limit), to: groups.maximum, temperature: options.temperature,
      minP: options.minP)
    // An estimate will do where all sums that it may stand for cut at the same token.
    let few = ranked.cut(mass: options.topP * total * (1 - LogitGroups.sumError), limit: limit)
    let many = ranked.cut(mass: options.topP * total * (1 + LogitGroups.sumError), limit: limit)
    if few != many { _ = ranked.cut(mass: options.topP * groups.sum(logits, scale: 1), limit: limit) }
    return .ranked
  }

  /// A logit above which all tokens are that the cuts can leave.
  private mutating func lowestNeeded(_ total: Double, _ limit: Int) -> Float {
    // All tokens below this weight together hold less than 1 − top-p, so the rest reaches top-p without them.
    // Weights are relative to the most likely token's, so min-p is one of them.
    let share = options.topP == 1 ? 0 : (1 - options.topP) * total / Double(logits.count)
    let weight = max(share, options.minP)
    // A bit less, because of the estimate, and because logarithms are not the same everywhere.
    let lowest = weight > 0 ? Float(Double(groups.maximum) + log(weight) - 0.001) : -.infinity
    return max(lowest, groups.minimum, options.topP == 1 ? groups.reached(byAtLeast: limit) : -.infinity)
  }

  /// The tokens of a group with their weights, where nothing has been cut.
  private func terms(of group: Int) -> some Sequence<(Int, Double)> {
    let tokens = group * LogitGroups.size..<min((group + 1) * LogitGroups.size, logits.count)
    var terms = [Double](repeating: 0, count: tokens.count)
    var sum = 0.0
    let group = Array(logits[tokens])
    let scale = LogitGroups.scale(options.temperature)
    bestKernels.softmax_terms(group, group.count, groups.maximum, scale, &terms, &sum)
    return zip(tokens, terms)
  }

  private mutating func draw(_ choice: Choice) -> Int {
    let share = generator.uniform()
    switch choice {
    case .one(let token): return token
    case .ranked: return ranked.token(at: share)
    case .any(let sum):
      var rest = share * sum
      let sums = groups.sums
      var group = sums.lastIndex { $0 > 0 } ?? 0
      for index in 0..<group {
        if rest < sums[index] {
          group = index
          break
        }
        rest -= sums[index]
      }
      var token = 0
      for (next, weight) in terms(of: group) where weight > 0 {
        token = next
        rest -= weight
        if rest < 0 { break }
      }
      return token
    }
  }
}
