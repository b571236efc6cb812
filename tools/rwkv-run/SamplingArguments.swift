// SPDX-License-Identifier: MIT
import ArgumentParser
import RWKV
import RWKVChat
import RWKVTokenizer
import Terminal

/// How tokens are chosen, on the command line. What is not given comes from elsewhere.
struct SamplingArguments: ParsableArguments {
  @Option(
    name: .customLong("temp"), parsing: .unconditional,
    help: """
      Temperature; 0 always takes the most likely token (default, as of all below: what the model's file has, in a \
      chat then what the template has, else 1).
      """)
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

  /// What was given here, for a model and a template, checked. Prints the seed if it is random and matters.
  func choice(
    for model: Model, template: ChatTemplate? = nil, stops: [String]? = nil
  ) throws -> SamplingChoice {
    var given = SamplingAdvice(stops: stops)
    given.values = [
      .temperature: temperature, .topP: topP, .topK: topK.map(Double.init), .minP: minP,
      .presencePenalty: presencePenalty, .frequencyPenalty: frequencyPenalty, .penaltyDecay: penaltyDecay,
    ].compactMapValues(\.self)
    var choice = template?.choice(for: model, given: given) ?? SamplingChoice(given: given, model: model)
    let vocabulary = model.configuration.vocabulary
    for bias in logitBias {
      guard bias.token < vocabulary else {
        throw CommandError("--logit-bias: there is no token \(bias.token); the model has \(vocabulary)")
      }
      choice.options.logitBias[bias.token] = bias.value
    }
    choice.options.onlyJSON = onlyJson
    if let seed { _ = choice.set(.seed, "\(seed)") }
    if seed == nil { choice.options.seed = .random(in: 0...UInt64(UInt32.max)) }
    try choice.options.check()
    return choice
  }

  /// Says the seed of a text that could not be had again without it.
  func sayRandomSeed(_ choice: SamplingChoice) {
    if seed == nil && choice.options.temperature > 0 { note("seed \(choice.options.seed)") }
  }
}

extension SamplingChoice {
  /// Every option with its value and where that comes from, and the stop strings.
  var rows: [[String]] {
    SamplingSetting.allCases.map { setting in
      let origin = setting == .seed && origins[.seed] == .standard ? "random" : origins[setting]?.shown ?? ""
      return [setting.rawValue, options.text(setting), origin]
    } + zip(stops, stopOrigins).map { ["stop", quoted($0), $1.shown] }
  }

  /// A text in quotes, as it stands in a template.
  private func quoted(_ text: String) -> String {
    "\"" + text.map { ["\n": "\\n", "\t": "\\t", "\"": "\\\"", "\\": "\\\\"][$0] ?? String($0) }.joined()
      + "\""
  }
}

extension SamplingOrigin {
  /// What people are told about where a value comes from.
  var shown: String {
    switch self {
    case .given: "given"
    case .file: "model file"
    case .template: "template"
    case .standard: "default"
    }
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
