import ArgumentParser
import RWKV
import RWKVTokenizer
import Terminal

/// How tokens are chosen, on the command line.
struct SamplingArguments: ParsableArguments {
  @Option(name: .customLong("temp"), help: "Temperature; 0 always takes the most likely token.")
  var temperature = 1.0

  @Option(help: "Keep the most likely tokens whose probabilities add up to this.")
  var topP = 0.85

  @Option(help: "Keep at most this many tokens; 0 is no limit.")
  var topK = 0

  @Option(help: "Taken off the logit of every token that was written before.")
  var presencePenalty = 0.0

  @Option(help: "Taken off for each time that a token was written before.")
  var frequencyPenalty = 0.0

  @Option(help: "What these counts are multiplied by at each further token.")
  var penaltyDecay = 0.996

  @Option(name: .shortAndLong, help: "Seed of the choices (default: random, printed).")
  var seed: UInt64?

  func sampler(for tokenizer: any Tokenizer) throws -> Sampler {
    var options = SamplingOptions()
    options.temperature = temperature
    options.topP = topP
    options.topK = topK
    options.presencePenalty = presencePenalty
    options.frequencyPenalty = frequencyPenalty
    options.penaltyDecay = penaltyDecay
    options.seed = seed ?? .random(in: 0...UInt64(UInt32.max))
    if seed == nil && temperature > 0 { note("seed \(options.seed)") }
    return try Sampler(options, tokenizer: tokenizer)
  }
}
