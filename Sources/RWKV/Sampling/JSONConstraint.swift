// SPDX-License-Identifier: MIT
import RWKVTokenizer
import Synchronization

/// Lets a sampler choose only tokens that go on with a JSON text.
struct JSONConstraint: Sendable {
  private(set) var text: GuidedJSON
  private let grammar: JSONGrammar?
  private let vocabulary: Vocabulary
  /// Whether each token can follow, one bit each.
  private var allowed: [UInt64]
  /// The text after each byte of the token that was tried last.
  private var path: [GuidedJSON]

  /// - Parameter grammar: what the text must fit; nil: any object or array.
  init(_ tokenizer: any Tokenizer, _ grammar: JSONGrammar?) {
    vocabulary = Vocabulary.of(tokenizer)
    self.grammar = grammar
    text = GuidedJSON(grammar)
    allowed = vocabulary.plain
    path = Array(repeating: text, count: vocabulary.longest + 1)
  }

  /// Bans all tokens that cannot follow.
  mutating func apply(to logits: inout [Float]) {
    if text.isWithinFreeString {
      for word in allowed.indices { allowed[word] = vocabulary.plain[word] }
      allow(vocabulary.notPlain)
    } else {
      for word in allowed.indices { allowed[word] = 0 }
      allow(vocabulary.all)
    }
    let allowed = allowed
    logits.withUnsafeMutableBufferPointer { logits in
      for start in stride(from: 0, to: logits.count, by: 64) {
        let word = start / 64 < allowed.count ? allowed[start / 64] : 0
        let end = min(start + 64, logits.count)
        if word == 0 {
          for token in start..<end { logits[token] = -.infinity }
        } else if word != .max {
          for token in start..<end where word >> UInt64(token - start) & 1 == 0 { logits[token] = -.infinity }
        }
      }
    }
  }

  /// Allows those of a list that can follow.
  private mutating func allow(_ list: SortedTokens) {
    path[0] = text
    // Bytes that could follow of the token that was tried last; tokens that share one more cannot follow either.
    var possible = Int.max
    for place in list.tokens.indices {
      let shared = Int(list.shared[place])
      guard shared <= possible else { continue }
      let token = Int(list.tokens[place])
      let (start, end) = (vocabulary.starts[token], vocabulary.starts[token + 1])
      var next = path[shared]
      possible = .max
      for index in start + shared..<end {
        guard next.push(vocabulary.bytes[index], grammar) else {
          possible = index - start
          break
        }
        path[index - start + 1] = next
      }
      if possible == .max { allowed[token / 64] |= 1 << UInt64(token % 64) }
    }
  }

  /// Counts a token that was chosen.
  mutating func record(_ token: Int) {
    guard token + 1 < vocabulary.starts.count else { return }
    for byte in vocabulary.bytes[vocabulary.starts[token]..<vocabulary.starts[token + 1]] {
      _ = text.push(byte, grammar)
    }
  }

  mutating func reset() { text = GuidedJSON(grammar) }
}

/// Tokens in the order of their bytes, so that what follows a common beginning is tried once.
private struct SortedTokens: Sendable {
  var tokens: [Int32] = []
  /// Bytes at the beginning that each has in common with the one before it.
  var shared: [Int32] = []

  init(_ sorted: [Int32], _ bytes: (Int32) -> ArraySlice<UInt8>) {
    tokens = sorted
    var last: ArraySlice<UInt8> = []
    for token in sorted {
      let text = bytes(token)
      shared.append(Int32(zip(last, text).prefix { $0 == $1 }.count))
      last = text
    }
  }
}

/// What is known of a vocabulary's tokens before any text begins.
private final class Vocabulary: Sendable {
  /// The bytes of all tokens, one after the other, and where each begins.
  let bytes: [UInt8]
  let starts: [Int]
  /// Bytes of the longest token.
  let longest: Int
  /// Tokens with bytes.
  let all: SortedTokens
  /// Whether a token can follow wherever a string goes on, and ends or escapes nothing; one bit each.
  let plain: [UInt64]
  /// Those of which that depends on the rest of the text.
  let notPlain: SortedTokens

  /// The one that was made last, for those who want the same again.
  private static let latest = Mutex<Vocabulary?>(nil)

  /// Sorting takes longer than comparing, and who samples once samples again.
  static func of(_ tokenizer: any Tokenizer) -> Vocabulary {
    var bytes: [UInt8] = []
    var starts = [0]
    for token in 0..<tokenizer.vocabularySize {
      // Token 0 ends a document, which the closing bracket does here.
      if token > 0 { bytes += tokenizer.bytes(of: token) }
      starts.append(bytes.count)
    }
    if let known = latest.withLock({ $0 }), known.bytes == bytes, known.starts == starts { return known }
    let made = Vocabulary(bytes, starts)
    latest.withLock { $0 = made }
    return made
  }

  private init(_ bytes: [UInt8], _ starts: [Int]) {
    let count = starts.count - 1
    longest = (0..<count).map { starts[$0 + 1] - starts[$0] }.max() ?? 0
    func text(_ token: Int32) -> ArraySlice<UInt8> { bytes[starts[Int(token)]..<starts[Int(token) + 1]] }
    let sorted = Self.sort(count, text)
    var plain = [UInt64](repeating: 0, count: (count + 63) / 64)
    var notPlain: [Int32] = []
    for token in sorted {
      var string = JSONText.withinString
      let inside = text(token).prefix {
        $0 != UInt8(ascii: "\"") && $0 != UInt8(ascii: "\\") && string.push($0)
      }
      if inside.count == text(token).count {
        plain[Int(token) / 64] |= 1 << UInt64(token % 64)
      } else if [UInt8(ascii: "\""), UInt8(ascii: "\\")].contains(text(token)[inside.endIndex]) {
        notPlain.append(token)
      }
    }
    all = SortedTokens(sorted, text)
    self.notPlain = SortedTokens(notPlain, text)
    (self.bytes, self.starts, self.plain) = (bytes, starts, plain)
  }

  /// Tokens with bytes, in the order of these.
  private static func sort(_ count: Int, _ text: (Int32) -> ArraySlice<UInt8>) -> [Int32] {
    // Eight bytes tell most apart.
    let keyed = (0..<Int32(count)).compactMap { token -> (key: UInt64, token: Int32)? in
      let bytes = text(token)
      guard !bytes.isEmpty else { return nil }
      var key: UInt64 = 0
      for index in 0..<8 {
        let place = bytes.startIndex + index
        key = key << 8 | (place < bytes.endIndex ? UInt64(bytes[place]) : 0)
      }
      return (key, token)
    }
    return keyed.sorted {
      $0.key != $1.key ? $0.key < $1.key : text($0.token).lexicographicallyPrecedes(text($1.token))
    }.map(\.token)
  }
}
