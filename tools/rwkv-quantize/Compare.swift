// SPDX-License-Identifier: MIT
import ArgumentParser
import Glibc
import RWKV
import RWKVTokenizer
import Terminal

struct Compare: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Measures what a conversion cost: two models read the same text.",
    discussion: """
      The text is read as one document from an empty state. KL is the mean over tokens of KL(reference || model) \
      in nats; state drift is the relative difference of the recurrent states after the text.
      """)

  @Argument(help: "The better one: a .rwkv file of type fp32 or fp16.")
  var reference: String

  @Argument(help: "The .rwkv file in question.")
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
      let content = try readFile(text)
      let first = try Model(path: reference, threads: threads.count, progress: progress.callback("loading"))
      let second = try Model(path: model, threads: threads.count, progress: progress.callback("loading"))
      guard let tokenizer = first.tokenizer ?? second.tokenizer else {
        throw CommandError("\(reference): the file has no tokenizer; convert again with --tokenizer FILE")
      }
      // Token 0 starts a document, so that the first token of the text is predicted too.
      let tokens = [0] + tokenizer.encode(content)
      guard tokens.count > 1 else { throw CommandError("\(text): the text is empty") }
      let proceed = progress.callback("comparing")
      let result = try Comparison(first, second, tokens, threads: threads.count, progress: proceed)
      progress.clear()
      output(asJSON ? "\(result.json)" : result.text)
    }
  }
}

/// Two models on the same tokens.
private struct Comparison {
  private(set) var tokens = 0
  /// Sums over tokens.
  private var (kl, sameFirst, referenceNats, modelNats) = (0.0, 0, 0.0, 0.0)
  private var stateDrift = 0.0

  init(
    _ reference: Model, _ model: Model, _ ids: [Int], threads: Int, progress: (Double) -> Bool
  ) throws {
    let (a, b) = (reference.configuration, model.configuration)
    guard (a.version, a.layers, a.embedding, a.vocabulary) == (b.version, b.layers, b.embedding, b.vocabulary)
    else {
      throw CommandError("\(model.path): not the same model as \(reference.path): version or sizes differ")
    }
    let first = try Session(reference, threads: threads)
    let second = try Session(model, threads: threads)
    let V = a.vocabulary
    let block = 64  // the reference's logits of a block are kept: 16 MB for a World model
    let kept = UnsafeMutableBufferPointer<Float>.allocate(capacity: block * V)
    defer { kept.deallocate() }
    for start in stride(from: 0, to: ids.count - 1, by: block) {
      let piece = Array(ids[start..<min(start + block, ids.count - 1)])
      try first.forEachLogits(piece) { row, logits in
        _ = UnsafeMutableBufferPointer(rebasing: kept[row * V..<(row + 1) * V]).update(from: logits)
      }
      try second.forEachLogits(piece) { row, logits in
        add(UnsafeBufferPointer(rebasing: kept[row * V..<(row + 1) * V]), logits, next: ids[start + row + 1])
      }
      guard progress(Double(tokens) / Double(ids.count - 1)) else { throw CommandError("interrupted") }
    }
    stateDrift = Self.drift(first.state, second.state, layers: a.layers)
  }

  private mutating func add(_ p: UnsafeBufferPointer<Float>, _ q: UnsafeBufferPointer<Float>, next: Int) {
    tokens += 1
    kl += divergence(p, q)
    if p.indices.max(by: { p[$0] < p[$1] }) == q.indices.max(by: { q[$0] < q[$1] }) { sameFirst += 1 }
    referenceNats += crossEntropy(p, target: next)
    modelNats += crossEntropy(q, target: next)
  }

  /// |S − S'| / |S| over the recurrent states of all layers.
  private static func drift(_ reference: State, _ model: State, layers: Int) -> Double {
    var (difference, norm) = (0.0, 0.0)
    for layer in 0..<layers {
      for (a, b) in zip(reference.wkv(layer), model.wkv(layer)) {
        difference += Double(a - b) * Double(a - b)
        norm += Double(a) * Double(a)
      }
    }
    return norm > 0 ? (difference / norm).squareRoot() : 0
  }

  private func mean(_ sum: Double) -> Double { sum / Double(tokens) }

  var json: JSON {
    .object([
      ("tokens", .integer(tokens)), ("kl", .number(mean(kl), decimals: 8)),
      ("top1", .number(mean(Double(sameFirst)), decimals: 6)),
      ("reference_nats", .number(mean(referenceNats), decimals: 6)),
      ("model_nats", .number(mean(modelNats), decimals: 6)),
      ("state_drift", .number(stateDrift, decimals: 6)),
    ])
  }

  var text: String {
    func row(_ name: String, _ values: [String]) -> String {
      name + String(repeating: " ", count: 16 - name.count)
        + values.map { String(repeating: " ", count: max(1, 12 - $0.count)) + $0 }.joined()
    }
    let nats = [mean(referenceNats), mean(modelNats)]
    return [
      row("", ["reference", "model"]),
      row("nats per token", nats.map { decimal($0, 4) }),
      row("perplexity", nats.map { decimal(exp($0), 3) }),
      "KL \(decimal(mean(kl), 6)) nats per token, "
        + "the same first choice for \(decimal(100 * mean(Double(sameFirst)), 2)) %, "
        + "state drift \(decimal(stateDrift, 4)), \(tokens) tokens",
    ].joined(separator: "\n")
  }
}
