// SPDX-License-Identifier: MIT
/// The vocabulary of a tokenizer, as one of the files in which they are published describes it.
public struct Vocabulary: Sendable {
  /// How a text becomes tokens.
  public enum Rule: Sendable, Equatable {
    /// GPT-NeoX's: NFC, the words of GPT-2, merges inside each.
    case bytePairs
    /// Greedy longest match on bytes, left to right.
    case longestMatch
    /// What stands between white space is one token.
    case words(lowercased: Bool)
  }

  /// The rule of this vocabulary.
  public internal(set) var rule = Rule.longestMatch
  /// The bytes of each id; empty for ids without text.
  public internal(set) var tokens: [[UInt8]] = []
  /// The pairs of ids that are merged, by rank; only `bytePairs` has them.
  public internal(set) var merges: [(left: Int, right: Int)] = []
  /// Tokens that are matched as a whole before anything else, after NFC normalization where `normalized` is true.
  public internal(set) var added: [(id: Int, normalized: Bool)] = []

  /// No RWKV model has more rows, and the ids of a damaged file must not make us allocate.
  static let maximumID = 1 << 20

  init() {}

  /// Makes a vocabulary that takes the longest match at each place.
  /// - Parameter tokens: the bytes of each id; empty for ids without text.
  public init(tokens: [[UInt8]]) { self.tokens = tokens }

  /// Sets the bytes of a token; false: the id is too large.
  mutating func set(_ id: Int, _ bytes: [UInt8]) -> Bool {
    guard id < Self.maximumID else { return false }
    while tokens.count <= id { tokens.append([]) }
    tokens[id] = bytes
    return true
  }

  /// GPT-2's spelling of bytes: the printable ones of Latin-1 stand for themselves, the others, in order, are
  /// U+0100 and following.
  static let byteLetters: [Unicode.Scalar: UInt8] = {
    var alphabet: [Unicode.Scalar: UInt8] = [:]
    var next: UInt32 = 0x100
    for byte in UInt8.min...UInt8.max {
      switch byte {
      case 0x21...0x7E, 0xA1...0xAC, 0xAE...0xFF:
        alphabet[Unicode.Scalar(byte)] = byte
      default:
        if let scalar = Unicode.Scalar(next) { alphabet[scalar] = byte }
        next += 1
      }
    }
    return alphabet
  }()

  /// The bytes that a token stands for in GPT-2's spelling; nil if a character stands for none.
  static func bytes(letters text: String) -> [UInt8]? {
    let bytes = text.unicodeScalars.compactMap { byteLetters[$0] }
    return bytes.count == text.unicodeScalars.count ? bytes : nil
  }
}
