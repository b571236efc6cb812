// SPDX-License-Identifier: MIT
import ArgumentParser
import RWKV
import RWKVTokenizer
import Terminal

/// How tokens are chosen, on the command line. What is not given comes from elsewhere.
struct SamplingArguments: ParsableArguments {
  @Option(
    name: .customLong("temp"), parsing: .unconditional,
    help:
      "Temperature; 0 always takes the most likely token (default: 1; chat: the template's, as all below).")
  var temperature: Double?

  @Option(
    parsing: .unconditional,
    help: "Keep the most likely tokens whose probabilities add up to this (default: 0.85).")
  var topP: Double?

  @Option(parsing: .unconditional, help: "Keep at most this many tokens; 0 is no limit (default: 0).")
  var topK: Int?

  @Option(
    parsing: .unconditional,
    help: "Keep only tokens at least this share as likely as the most likely one (default: 0).")
  var minP: Double?

  @Option(
    parsing: .unconditional, help: "Taken off the logit of every token that was written before (default: 0).")
  var presencePenalty: Double?

  @Option(
    parsing: .unconditional, help: "Taken off for each time that a token was written before (default: 0).")
  var frequencyPenalty: Double?

  @Option(
    parsing: .unconditional,
    help: "What these counts are multiplied by at each further token (default: 0.996).")
  var penaltyDecay: Double?

  @Option(
    help: ArgumentHelp(
      "Added to the logit of one token, as 261=-2.5; 261=-inf bans it (may be repeated).",
      valueName: "id=number"))
  var logitBias: [TokenBias] = []

  @Flag(help: "Let the model write one JSON object or array, and nothing else.")
  var onlyJson = false

  @Option(
    name: .shortAndLong, parsing: .unconditional, help: "Seed of the choices (default: random, printed).")
  var seed: UInt64?

  /// `defaults` with what was given in their place, checked for a model. Prints the seed if it is random and matters.
  func options(_ defaults: SamplingOptions, for model: Model) throws -> SamplingOptions {
    var options = defaults
    options.temperature = temperature ?? defaults.temperature
    options.topP = topP ?? defaults.topP
    options.topK = topK ?? defaults.topK
    options.minP = minP ?? defaults.minP
    options.presencePenalty = presencePenalty ?? defaults.presencePenalty
    options.frequencyPenalty = frequencyPenalty ?? defaults.frequencyPenalty
    options.penaltyDecay = penaltyDecay ?? defaults.penaltyDecay
    let vocabulary = model.configuration.vocabulary
    for bias in logitBias {
      guard bias.token < vocabulary else {
        throw CommandError("--logit-bias: there is no token \(bias.token); the model has \(vocabulary)")
      }
      options.logitBias[bias.token] = bias.value
    }
    options.onlyJSON = onlyJson
    options.seed = seed ?? .random(in: 0...UInt64(UInt32.max))
    try options.check()
    if seed == nil && options.temperature > 0 { note("seed \(options.seed)") }
    return options
  }
}

extension SamplingOptions {
  /// For continuing texts: nothing that keeps a text from repeating what it has to repeat.
  static var plain: SamplingOptions {
    var options = SamplingOptions()
    options.presencePenalty = 0
    options.frequencyPenalty = 0
    return options
  }
}

/// A token and what is added to its logit: 261=-2.5.
struct TokenBias: ExpressibleByArgument {
  let token: Int
  let value: Float

  init?(argument: String) {
    let parts = argument.split(separator: "=", omittingEmptySubsequences: false)
    guard parts.count == 2, let token = Int(parts[0]), let value = Float(parts[1]) else { return nil }
    self.token = token
    self.value = value
  }
}
