// SPDX-License-Identifier: MIT
import ArgumentParser
import Glibc
import RWKV
import RWKVTokenizer
import Terminal

struct Perplexity: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Measures how well a model predicts a text, read as one document from an empty state.",
    discussion: """
      EXAMPLES
        rwkv-run perplexity model.rwkv -f text.txt
      """)

  @OptionGroup var options: ModelOptions

  @Option(name: [.customShort("f"), .long], help: "The text; - is stdin.", completion: .file())
  var file: String

  @Flag(name: .customLong("json"), help: "One JSON object on stdout.")
  var asJSON = false

  /// The tokens that are measured at a time.
  private static let part = 1 << 16

  func run() throws {
    catchInterrupts()
    try reporting("rwkv-run") {
      let text = try readFile(file)
      let model = try options.open(requiresTokenizer: true)
      // Token 0 starts a document, so that the first token of the text is predicted too.
      let tokenizer = try model.requireTokenizer()
      let tokens = [0] + (try endingAtOnce { try tokenizer.encode(text) })
      guard tokens.count > 1 else { throw CommandError("\(file): the text is empty") }
      let session = try Session(model, threads: options.threadCount)
      let progress = ProgressLine()
      defer { progress.clear() }
      let begin = now()
      var losses: [Double] = []
      // In parts, so that the first is measured at once, however long the text is.
      for start in stride(from: 0, to: tokens.count - 1, by: Self.part) {
        let end = min(start + Self.part, tokens.count - 1)
        losses += try session.losses(Array(tokens[start..<end]), targets: Array(tokens[start + 1...end])) {
          progress.update("measuring", start + $0, of: tokens.count - 1, since: begin)
          return !isInterrupted
        }
      }
      progress.clear()
      report(losses, bytes: text.count)
    }
  }

  private func report(_ losses: [Double], bytes: Int) {
    let (tokens, nats) = (losses.count, losses.reduce(0, +))
    let perToken = nats / Double(tokens)
    var stretches: [Stretch] = []
    for (position, loss) in losses.enumerated() { Stretch.add(loss, at: position, to: &stretches) }
    if asJSON {
      output(
        JSON.object([
          ("tokens", .integer(tokens)), ("bytes", .integer(bytes)),
          ("nats_per_token", .number(perToken, decimals: 6)),
          ("perplexity", .number(exp(perToken), decimals: 6)),
          ("bits_per_byte", .number(nats / Double(bytes) / log(2), decimals: 6)),
          ("positions", .array(stretches.map(\.json))),
        ]).description)
    } else {
      for stretch in stretches { output(stretch.text) }
      output(
        "\(tokens) tokens, \(decimal(perToken, 4)) nats per token, perplexity \(decimal(exp(perToken), 4)), "
          + "\(decimal(nats / Double(bytes) / log(2), 4)) bits per byte")
    }
  }
}

/// A stretch of the text by position, ending at 64, 256, 1024, ...: does the model use what it has read?
private struct Stretch {
  let start: Int
  var tokens = 0
  var nats = 0.0

  static func add(_ loss: Double, at position: Int, to stretches: inout [Stretch]) {
    let next = stretches.isEmpty ? 0 : 64 << (2 * (stretches.count - 1))
    if position == next { stretches.append(Stretch(start: position)) }
    stretches[stretches.count - 1].tokens += 1
    stretches[stretches.count - 1].nats += loss
  }

  var json: JSON {
    .object([
      ("start", .integer(start)), ("tokens", .integer(tokens)),
      ("nats_per_token", .number(nats / Double(tokens), decimals: 6)),
    ])
  }

  var text: String {
    "tokens \(start)...\(start + tokens - 1): \(decimal(nats / Double(tokens), 4)) nats per token"
  }
}
