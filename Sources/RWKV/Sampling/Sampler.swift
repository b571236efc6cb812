// SPDX-License-Identifier: MIT
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
  /// e^(logit − maximum), one for each token.
  private var weights: [Double] = []
  private var heap = CandidateHeap()
  /// What may be drawn: tokens and weights after cuts and temperature, not normalized.
  private var candidates: [(token: Int, weight: Double)] = []

  /// - Parameter tokenizer: tells which tokens are spaces and digits, whose repetition is not counted.
  public init(_ options: SamplingOptions, tokenizer: (any Tokenizer)? = nil) throws(SamplingError) {
    try options.check()
    self.options = options
    generator = RandomGenerator(seed: options.seed)
    penalties = Penalties(options, tokenizer: tokenizer)
    guard options.onlyJSON else { return }
    guard let tokenizer else { throw .jsonNeedsTokenizer }
    json = JSONConstraint(tokenizer)
  }

  /// Chooses a token and counts it for the penalties; token 0, the end of a document, is not counted.
  /// - Parameter logits: one for each token of the model's vocabulary.
  public mutating func sample(_ logits: UnsafeBufferPointer<Float>) throws(SamplingError) -> Int {
    try select(logits)
    let token = draw()
    if token != 0 { record(token) }
    return token
  }

  /// As `sample`, from an array.
  public mutating func sample(_ logits: [Float]) throws(SamplingError) -> Int {
    // Typed throws do not pass through withUnsafeBufferPointer.
    let result = logits.withUnsafeBufferPointer { logits -> Result<Int, SamplingError> in
      do throws(SamplingError) { return .success(try sample(logits)) } catch { return .failure(error) }
    }
    return try result.get()
  }

  /// The probability of each token with which `sample` would draw it now.
  public mutating func probabilities(_ logits: UnsafeBufferPointer<Float>) throws(SamplingError) -> [Double] {
    try select(logits)
    let total = candidates.reduce(0) { $0 + $1.weight }
    var probabilities = [Double](repeating: 0, count: logits.count)
    for (token, weight) in candidates { probabilities[token] = weight / total }
    return probabilities
  }

  /// Counts a token that something else has chosen.
  public mutating func record(_ token: Int) {
    penalties.record(token)
    json?.record(token)
  }

  /// Whether the text is complete, so that nothing can follow: with `onlyJSON` after the last bracket.
  public var isFinished: Bool { json?.text.isComplete ?? false }

  /// Forgets the tokens written so far. The random numbers go on.
  public mutating func reset() {
    penalties.reset()
    json?.reset()
  }

  /// Fills `candidates`.
  private mutating func select(_ input: UnsafeBufferPointer<Float>) throws(SamplingError) {
    logits.replaceSubrange(logits.indices, with: input)
    for (token, bias) in options.logitBias where token < logits.count { logits[token] += bias }
    penalties.apply(to: &logits)
    json?.apply(to: &logits)
    let best = try mostLikely()
    candidates.removeAll(keepingCapacity: true)
    if options.temperature == 0 {
      candidates.append((best, 1))
    } else if options.topP == 1 && options.minP == 0 && (options.topK == 0 || options.topK >= logits.count) {
      for token in logits.indices { keep(token, logits[token], maximum: logits[best]) }
    } else {
      cut(maximum: logits[best])
    }
  }

  /// The token with the highest logit; of equals the lowest id.
  private func mostLikely() throws(SamplingError) -> Int {
    var best = 0
    var maximum = -Float.infinity
    for token in logits.indices {
      let logit = logits[token]
      guard logit < .infinity else { throw .notFinite(token: token) }  // false for NaN as well
      if logit > maximum {
        maximum = logit
        best = token
      }
    }
    guard maximum > -.infinity else { throw .noCandidates }
    return best
  }

  /// Keeps the tokens that top-p and top-k leave, in descending order.
  private mutating func cut(maximum: Float) {
    if weights.count != logits.count { weights = Array(repeating: 0, count: logits.count) }
    weights.withUnsafeMutableBufferPointer { weights in
      for token in weights.indices { weights[token] = exponential(Double(logits[token]) - Double(maximum)) }
    }
    let total = weights.reduce(0, +)
    // All tokens below this weight together hold less than 1 − top-p, so the rest reaches top-p without them.
    // Weights are relative to the most likely token's, so min-p is one of them.
    let floor = max((1 - options.topP) * total / Double(logits.count), options.minP)
    heap.removeAll()
    for token in logits.indices where weights[token] >= floor { heap.add(logits[token], token) }
    heap.build()

    let limit = options.topK == 0 ? Int.max : options.topK
    var mass = 0.0
    var last = Float.nan
    while candidates.count < limit, let next = heap.first {
      // Top-p is reached, and this token is less likely than the last one needed. The first is always kept.
      if mass >= options.topP * total && next.logit != last && !candidates.isEmpty { break }
      _ = heap.popFirst()
      last = next.logit
      mass += weights[Int(next.token)]
      keep(Int(next.token), next.logit, maximum: maximum)
    }
  }

  private mutating func keep(_ token: Int, _ logit: Float, maximum: Float) {
    // softmax^(1/T), up to a common factor.
    let weight = exponential((Double(logit) - Double(maximum)) / options.temperature)
    candidates.append((token, weight))
  }

  private mutating func draw() -> Int {
    let total = candidates.reduce(0) { $0 + $1.weight }
    var rest = generator.uniform() * total
    var token = candidates[0].token
    for candidate in candidates where candidate.weight > 0 {
      token = candidate.token
      rest -= candidate.weight
      if rest < 0 { break }
    }
    return token
  }
}
