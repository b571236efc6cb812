// SPDX-License-Identifier: MIT
import ArgumentParser
import Glibc
import RWKV
import RWKVQuantization
import RWKVTokenizer
import Terminal

struct Compare: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Measures what a conversion cost: two models read the same text.",
    discussion: """
      The text is read as one document from an empty state. KL is the mean over tokens of KL(reference || model) \
      in nats, top 1 and top 10 are the shares of first choices and of the ten likeliest tokens that both have in common; \
      state drift is the relative difference of the recurrent states after the tokens of a row.

      EXAMPLES
        rwkv-quantize compare exact.rwkv model.rwkv --text text.txt
      """)

  @Argument(
    help: "The better one: a .rwkv file of type fp32 or fp16.", completion: .file(extensions: ["rwkv"]))
  var reference: String

  @Argument(help: "The .rwkv file in question.", completion: .file(extensions: ["rwkv"]))
  var model: String

  @Option(help: "The text; - is stdin.", completion: .file())
  var text: String

  @OptionGroup var threads: ThreadOptions

  @Flag(name: .customLong("json"), help: "One JSON object on stdout.")
  var asJSON = false

  func run() throws {
    try reporting {
      let progress = ProgressLine()
      defer { progress.clear() }
      for path in [reference, model] { try requireFile(path, ending: ".rwkv") }
      let content = try readFile(text)
      guard let tokenizer = try Model.tokenizer(path: reference) ?? Model.tokenizer(path: model) else {
        throw ModelError(.noTokenizer, path: reference)
      }
      let first = try Model(path: reference, threads: threads.count, progress: progress.callback("loading"))
      let second = try Model(path: model, threads: threads.count, progress: progress.callback("loading"))
      // Token 0 starts a document, so that the first token of the text is predicted too.
      let tokens = [0] + (try endingAtOnce { try tokenizer.encode(content) })
      guard tokens.count > 1 else { throw CommandError("\(text): the text is empty") }
      let begin = now()
      func proceed(_ share: Double) -> Bool {
        progress.update("comparing", Int(share * Double(tokens.count)), of: tokens.count, since: begin)
        return !isInterrupted
      }
      let result = try Comparison(first, second, tokens: tokens, threads: threads.count, progress: proceed)
      progress.clear()
      output(asJSON ? "\(result.json)" : result.text)
    }
  }
}

extension Comparison {
  /// What was lost, in one line for people.
  var sentence: String {
    let more = 100 * (exp(whole.modelNats - whole.referenceNats) - 1)
    let words =
      switch whole.kl {
      case ..<0.001: "practically nothing lost"
      case ..<0.01: "little lost"
      case ..<0.05: "some quality lost"
      default: "much lost: use --calibrate or a larger type"
      }
    return "\(words): over \(whole.tokens) tokens the same first choice as the original for "
      + "\(decimal(100 * whole.top1, 1)) %, perplexity \(decimal(exp(whole.referenceNats), 3)) -> "
      + "\(decimal(exp(whole.modelNats), 3)) (\(more < 0 ? "" : "+")\(decimal(more, 2)) %), KL \(decimal(whole.kl, 5))"
  }

  /// For a text that the original hardly predicts.
  var sentenceWithoutVerdict: String {
    "the original hardly predicts the built-in text (perplexity \(decimal(exp(whole.referenceNats), 1))), which therefore tells "
      + "little: the same first choice for \(decimal(100 * whole.top1, 1)) %, KL \(decimal(whole.kl, 5)). On a text of "
      + "its kind: rwkv-quantize compare"
  }

  var json: JSON {
    .object(
      whole.json + [
        (
          "positions",
          .array(stretches.map { .object([("start", .integer($0.start))] + $0.json) })
        )
      ])
  }

  var text: String {
    let nats = [whole.referenceNats, whole.modelNats]
    let rows =
      [["tokens", "reference", "model", "KL", "top 1", "top 10", "state drift"]]
      + stretches.map { $0.row("\($0.start)...\($0.start + $0.tokens - 1)") } + [whole.row("all")]
    return
      (table(rows) + [
        "",
        "nats per token \(decimal(nats[0], 4)) -> \(decimal(nats[1], 4)), "
          + "perplexity \(decimal(exp(nats[0]), 3)) -> \(decimal(exp(nats[1]), 3)), \(whole.tokens) tokens",
      ]).joined(separator: "\n")
  }
}

extension Comparison.Stretch {
  var json: [(String, JSON)] {
    [
      ("tokens", .integer(tokens)), ("kl", .number(kl, decimals: 8)), ("top1", .number(top1, decimals: 6)),
      ("top10", .number(top10, decimals: 6)), ("reference_nats", .number(referenceNats, decimals: 6)),
      ("model_nats", .number(modelNats, decimals: 6)), ("state_drift", .number(stateDrift, decimals: 6)),
    ]
  }

  func row(_ name: String) -> [String] {
    [
      name, decimal(referenceNats, 4), decimal(modelNats, 4), decimal(kl, 6), decimal(100 * top1, 2) + " %",
      decimal(100 * top10, 2) + " %", decimal(stateDrift, 4),
    ]
  }
}
