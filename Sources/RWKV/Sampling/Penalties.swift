// SPDX-License-Identifier: MIT
import RWKVTokenizer

/// The penalties against repetition, as the `rwkv` Python package computes them.
///
///     logit[t] −= presence + frequency · count[t]     for every token t written before
///
/// When a token is written, all counts are multiplied by the decay first, then its own grows by 1 — or by 0
/// when its text lies within " \t0123456789": spaces and digits may repeat, so only the presence penalty
/// meets them.
struct Penalties: Sendable {
  private let presence: Double
  private let frequency: Double
  private let decay: Double
  private let uncounted: Set<Int>
  private var written: [(token: Int, count: Double)] = []
  /// The place of each token in `written`.
  private var place: [Int: Int] = [:]

  init(_ options: SamplingOptions, tokenizer: (any Tokenizer)?) {
    presence = options.presencePenalty
    frequency = options.frequencyPenalty
    decay = options.penaltyDecay
    // Finding them takes as long as writing a few tokens.
    uncounted = frequency == 0 ? [] : tokenizer.map(Self.uncounted) ?? []
  }

  /// The tokens whose text is a substring of " \t0123456789".
  private static func uncounted(in tokenizer: any Tokenizer) -> Set<Int> {
    let text = Array(" \t0123456789".utf8)
    var tokens: Set<Int> = []
    for start in text.indices {
      for end in text.indices[start...] {
        if let ids = try? tokenizer.encode(Array(text[start...end])), ids.count == 1 { tokens.insert(ids[0]) }
      }
    }
    return tokens
  }

  /// Counts one written token.
  mutating func record(_ token: Int) {
    for index in written.indices { written[index].count *= decay }
    let growth = uncounted.contains(token) ? 0.0 : 1.0
    if let index = place[token] {
      written[index].count += growth
    } else {
      place[token] = written.count
      written.append((token, growth))
    }
  }

  mutating func reset() {
    written.removeAll(keepingCapacity: true)
    place.removeAll(keepingCapacity: true)
  }

  /// Subtracts the penalties, rounding as the reference does: one subtraction in single precision.
  func apply(to logits: inout [Float]) {
    for (token, count) in written where token < logits.count {
      logits[token] -= Float(presence + count * frequency)
    }
  }
}
