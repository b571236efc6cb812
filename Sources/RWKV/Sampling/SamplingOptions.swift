// SPDX-License-Identifier: MIT
/// How the next token is chosen. The defaults are for models about which nothing is known: see `SamplingChoice`.
public struct SamplingOptions: Sendable {
  /// Flattens (> 1) or sharpens (< 1) what the cuts left; 0 takes the most likely token.
  public var temperature = 1.0
  /// Keeps the most likely tokens whose probabilities add up to this; 1 keeps all.
  public var topP = 0.85
  /// Keeps at most this many tokens; 0 is no limit.
  public var topK = 0
  /// Keeps only tokens at least this share as likely as the most likely one; 0 keeps all.
  public var minP = 0.0
  /// Numbers that are added to the logits of single tokens before anything else; −∞ bans a token.
  public var logitBias: [Int: Float] = [:]
  /// A number that is subtracted, once, from the logit of each token that was written before.
  public var presencePenalty = 0.0
  /// A number that is subtracted from a token's logit for each time that it was written before.
  public var frequencyPenalty = 0.0
  /// What the count of `frequencyPenalty` is multiplied by at each further token; 1 never forgets.
  public var penaltyDecay = 0.996
  /// Allows only what goes on with one JSON object or array, and ends the text with it.
  public var onlyJSON = false
  /// Allows only what goes on with one JSON text of this grammar, and ends the text with it.
  public var jsonGrammar: JSONGrammar?
  /// The same seed, options and logits give the same tokens on every machine.
  public var seed: UInt64 = 0

  public init() {}

  /// Options that always take the most likely token.
  public static var greedy: SamplingOptions {
    var options = SamplingOptions()
    options.temperature = 0
    return options
  }

  /// Throws if an option is outside its range.
  public func check() throws(SamplingError) {
    func require(_ value: Double, _ name: String, in range: ClosedRange<Double>) throws(SamplingError) {
      guard range.contains(value) else {
        throw .invalidOption(name: name, value: value, expected: range)
      }
    }
    try require(temperature, "temperature", in: 0...1000)
    try require(topP, "top-p", in: 0...1)
    try require(Double(topK), "top-k", in: 0...Double(Int32.max))
    try require(minP, "min-p", in: 0...1)
    for (token, bias) in logitBias where token < 0 || !(bias < .infinity) {
      throw .invalidBias(token: token, value: bias)
    }
    try require(presencePenalty, "presence penalty", in: -1000...1000)
    try require(frequencyPenalty, "frequency penalty", in: -1000...1000)
    try require(penaltyDecay, "penalty decay", in: 0...1)
  }
}

/// Why no token could be chosen.
public enum SamplingError: Error, Sendable, Equatable, CustomStringConvertible {
  case invalidOption(name: String, value: Double, expected: ClosedRange<Double>)
  /// A bias of a token that cannot be, or one that is NaN or +∞.
  case invalidBias(token: Int, value: Float)
  /// A logit is NaN or +∞.
  case notFinite(token: Int)
  /// `onlyJSON` without a tokenizer, which knows the tokens' texts.
  case jsonNeedsTokenizer
  /// There are no logits, or all of them are −∞.
  case noCandidates

  public var description: String {
    switch self {
    case .invalidOption(let name, let value, let expected):
      "\(name) is \(value); expected \(expected.lowerBound)…\(expected.upperBound)"
    case .invalidBias(let token, let value):
      "the bias of token \(token) is \(value); expected a token id and a number, or -inf to ban it"
    case .notFinite(let token):
      "the logit of token \(token) is not a finite number: the model file or the state is broken; "
        + "check it with rwkv-quantize verify"
    case .jsonNeedsTokenizer:
      "JSON needs a tokenizer, which knows what tokens are written with"
    case .noCandidates:
      "no token can follow: there are no logits, or all of them are −∞"
    }
  }
}
