// SPDX-License-Identifier: MIT
import RWKV
import RWKVTokenizer
import Terminal

/// Writes a text as it arrives: as it is, or one JSON object per piece.
final class PiecePrinter {
  private let asJSON: Bool
  /// Likeliest tokens to list with each token; nil: no log-probabilities.
  private let logprobs: Int?
  private let tokenizer: any Tokenizer
  private let keepsTokens: Bool
  /// If they are kept: all that were written, also those of stop strings.
  private(set) var tokens: [Int] = []
  private(set) var tokenCount = 0
  private(set) var pieces = 0
  /// Since the last piece.
  private var pending: [JSON] = []

  init(asJSON: Bool, logprobs: Int?, keepsTokens: Bool, tokenizer: any Tokenizer) {
    self.keepsTokens = keepsTokens
    self.asJSON = asJSON
    self.logprobs = logprobs
    self.tokenizer = tokenizer
  }

  func observe(_ token: ChosenToken) {
    tokenCount += 1
    // Without a reader of them, memory stays the same however long the text.
    if keepsTokens { tokens.append(token.id) }
    if let logprobs { pending.append(description(of: token, listing: logprobs)) }
  }

  /// Shows a piece of text; false when nobody reads any more.
  func show(_ text: [UInt8]) -> Bool {
    pieces += 1
    guard asJSON else { return write(text) }
    var members = [("text", JSON.string(String(decoding: text, as: UTF8.self)))]
    if logprobs != nil { members.append(("tokens", .array(pending))) }
    pending = []
    return write(Array((JSON.object(members).description + "\n").utf8))
  }

  private func description(of token: ChosenToken, listing count: Int) -> JSON {
    var probabilities = LogProbabilities(token.logits)
    func entry(_ id: Int) -> [(String, JSON)] {
      [
        ("id", .integer(id)), ("text", .string(String(decoding: tokenizer.bytes(of: id), as: UTF8.self))),
        ("logprob", .number(probabilities[id], decimals: 6)),
      ]
    }
    var members = entry(token.id)
    if count > 0 {
      members.append(("top", .array(probabilities.likeliest(count).map { .object(entry($0)) })))
    }
    return .object(members)
  }
}
