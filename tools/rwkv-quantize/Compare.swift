// SPDX-License-Identifier: MIT
import ArgumentParser
import Glibc
import RWKVFormat
import RWKV
import RWKVQuantization
import RWKVTokenizer
import Terminal

struct Compare: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Measures what a conversion cost: two models read the same text.",
    discussion: """
      The text is read as one document from an empty state. KL is the mean over tokens of KL(reference || model) \
      in nats, top 1 and top 10 are the shares of first choices and of the ten likeliest tokens that both have in \
      common; state drift is the relative difference of the recurrent states after the tokens of a row.

      With --generate both also write answers, always their first choice: "agreeing tokens" are those before an answer \
      of the model first differs from the reference's. Prompts are the lines of a file, or pieces of the text.

      EXAMPLES
        rwkv-quantize compare exact.rwkv model.rwkv --text text.txt
        rwkv-quantize compare exact.rwkv model.rwkv --generate --prompts questions.txt
      """)

  @Argument(model: "The better one: a .rwkv file of type fp32 or fp16.")
  var reference: String

  @Argument(model: "The .rwkv file in question.")
  var model: String

  @Option(help: "The text; - is stdin (default: that of --prompts).", completion: .file())
  var text: String?

  @Flag(help: "Compare whole answers too.")
  var generate = false

  @Option(
    help: "With --generate: a file with a prompt in each line (default: 40 pieces of the text).",
    completion: .file())
  var prompts: String?

  @Option(name: .customShort("n"), help: "With --generate: tokens of an answer at most.")
  var length = 256

  @OptionGroup var threads: ThreadOptions

  @Flag(name: .customLong("json"), help: "One JSON object on stdout.")
  var asJSON = false

  func validate() throws {
    if prompts != nil, !generate { throw ValidationError("--prompts are for --generate.") }
    guard text != nil || prompts != nil else {
      throw ValidationError("--text FILE is missing (or --generate --prompts FILE).")
    }
    guard length > 0 else { throw ValidationError("-n must be at least 1.") }
  }

  func run() throws {
    try reporting {
      let progress = ProgressLine()
      defer { progress.clear() }
      for path in [reference, model] { try requireFile(path, ending: ".rwkv") }
      let lines = try prompts.map { try readFile($0) }
      let content = try text.map { try readFile($0) } ?? lines ?? []
      let tokenizer = try Model.tokenizer(path: reference) ?? Model.requireTokenizer(path: model)
      let first = try Model(path: reference, threads: threads.count, progress: progress.callback("loading"))
      let second = try Model(path: model, threads: threads.count, progress: progress.callback("loading"))
      // Token 0 starts a document, so that the first token of the text is predicted too.
      let tokens = [0] + (try endingAtOnce { try tokenizer.encode(content) })
      guard tokens.count > 1 else { throw CommandError("\(text ?? prompts ?? ""): the text is empty") }
      let begin = now()
      func proceed(_ share: Double) -> Bool {
        progress.update("comparing", Int(share * Double(tokens.count)), of: tokens.count, since: begin)
        return !isInterrupted
      }
      let result = try Comparison(first, second, tokens: tokens, threads: threads.count, progress: proceed)
      var answers: FreeRunning?
      if generate {
        let prompts =
          try lines.map { try self.prompts(in: $0, tokenizer) } ?? FreeRunning.prompts(of: tokens, count: 40)
        answers = try FreeRunning(first, second, prompts: prompts, length: length, threads: threads.count) {
          share in
          progress.update("writing", Int(share * Double(prompts.count)), of: prompts.count, since: begin)
          return !isInterrupted
        }
      }
      progress.clear()
      output(
        asJSON
          ? "\(JSON.object(result.fields + (answers?.fields ?? [])))"
          : ([result.text] + (answers.map { ["", $0.sentence] } ?? [])).joined(separator: "\n"))
    }
  }

  /// The lines that are not empty.
  private func prompts(in content: [UInt8], _ tokenizer: any Tokenizer) throws -> [[Int]] {
    let lines = content.split(separator: UInt8(ascii: "\n")).map {
      $0.last == UInt8(ascii: "\r") ? $0.dropLast() : $0
    }
    let prompts = try endingAtOnce {
      try lines.filter { !$0.isEmpty }.map { try tokenizer.encode(Array($0)) }
    }
    guard !prompts.isEmpty else { throw CommandError("\(self.prompts ?? ""): holds no prompt") }
    return prompts
  }
}

extension FreeRunning {
  /// What became of the answers, in one line for people.
  var sentence: String {
    "answers of up to \(length) tokens are the same as the original's for "
      + "\(decimal(medianAgreeingTokens, 1)) tokens (median; mean \(decimal(meanAgreeingTokens, 1))), "
      + "\(decimal(100 * wholeShare, 0)) % to their end"
  }

  var fields: [(String, JSON)] {
    [
      ("agreeing_tokens", .number(medianAgreeingTokens, decimals: 1)),
      ("agreeing_tokens_mean", .number(meanAgreeingTokens, decimals: 2)),
      ("whole_answers", .number(wholeShare, decimals: 4)), ("prompts", .integer(agreeingTokens.count)),
      ("length", .integer(length)),
    ]
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

  /// What is said where the original hardly predicts the text, so that the comparison tells little.
  var sentenceWithoutVerdict: String {
    "the original hardly predicts the built-in text (perplexity \(decimal(exp(whole.referenceNats), 1))), which "
      + "therefore tells little: the same first choice for \(decimal(100 * whole.top1, 1)) %, KL "
      + "\(decimal(whole.kl, 5)). On a text of its kind: rwkv-quantize compare"
  }

  var fields: [(String, JSON)] {
    whole.json + [("positions", .array(stretches.map { .object([("start", .integer($0.start))] + $0.json) }))]
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
