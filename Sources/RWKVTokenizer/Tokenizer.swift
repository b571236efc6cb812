// SPDX-License-Identifier: MIT
/// Text to token ids and back. Works on bytes: a token may be part of a character.
///
/// Conforming types are immutable and may be used from any thread. Id 0 ends a document in all of them.
public protocol Tokenizer: Sendable {
  /// One more than the largest id. A model may have more rows than that; their ids have no bytes.
  var vocabularySize: Int { get }
  /// Token ids of `bytes`, which need not be valid UTF-8. Throws, with `Place.text`, where the vocabulary has no
  /// token for what stands there; only those of `TokenizerKind.vocabulary` have such gaps.
  func encode(_ bytes: [UInt8]) throws(TokenizerError) -> [Int]
  /// The same for a long text.
  /// - Parameter progress: called now and then with about how many bytes have been read.
  func encode(_ bytes: [UInt8], progress: (Int) -> Void) throws(TokenizerError) -> [Int]
  /// The bytes of one token; empty for an id without text or outside the vocabulary.
  func bytes(of id: Int) -> [UInt8]
}

extension Tokenizer {
  /// Without a word of how far it is.
  public func encode(_ bytes: [UInt8], progress: (Int) -> Void) throws(TokenizerError) -> [Int] {
    try encode(bytes)
  }

  /// Token ids of the UTF-8 bytes of `text`.
  public func encode(_ text: String) throws(TokenizerError) -> [Int] {
    try encode(Array(text.utf8))
  }

  /// The bytes of `ids`, one after another.
  public func decode(_ ids: [Int]) -> [UInt8] {
    ids.flatMap(bytes(of:))
  }
}

/// The tokenizers that a model file can name in `tokenizer.kind` (formats/rwkv-v1.md, section 6).
public enum TokenizerKind: String, CaseIterable, Sendable {
  case world, bpe, bytes, vocabulary

  /// Reads the tokenizer of this kind from the raw bytes of the tensor `tokenizer`; `bytes` has none.
  public func tokenizer(blob: [UInt8]) throws(TokenizerError) -> any Tokenizer {
    switch self {
    case .world: try WorldTokenizer(blob: blob)
    case .bpe: try BPETokenizer(blob: blob)
    case .bytes: ByteTokenizer()
    case .vocabulary: try VocabularyTokenizer(blob: blob)
    }
  }
}

/// Why a vocabulary cannot be used.
public struct TokenizerError: Error, Sendable, Equatable, CustomStringConvertible {
  /// Where in the input the problem is.
  public enum Place: Sendable, Equatable {
    /// A line of a vocabulary file, counted from 1.
    case line(Int)
    /// A byte of the tensor `tokenizer`, counted from 0.
    case byte(Int)
    /// The entry of a token id.
    case token(Int)
    /// A merge rule, counted from 0 in the order of priority.
    case merge(Int)
    /// A byte of the text to encode, counted from 0.
    case text(Int)
    case vocabulary
  }

  /// Where in the input the problem is.
  public let place: Place
  /// What is wrong, with what was expected.
  public let problem: String

  package init(_ place: Place, _ problem: String) {
    self.place = place
    self.problem = problem
  }

  public var description: String {
    switch place {
    case .line(let number): "vocabulary, line \(number): \(problem)"
    case .byte(let offset): "tokenizer data, byte \(offset): \(problem)"
    case .token(let id): "vocabulary, token \(id): \(problem)"
    case .merge(let index): "merge rule \(index): \(problem)"
    case .text(let offset): "text, byte \(offset): \(problem)"
    case .vocabulary: "vocabulary: \(problem)"
    }
  }
}

/// Says how far the reading of a long text has come, seldom enough to cost nothing.
struct Milestones {
  private static let distance = 1 << 20
  private var next = distance

  /// - Parameter position: bytes that have been read.
  mutating func pass(_ position: Int, _ progress: (Int) -> Void) {
    guard position >= next else { return }
    next = position + Self.distance
    progress(position)
  }
}
