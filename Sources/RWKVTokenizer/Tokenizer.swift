/// Text to token ids and back. Works on bytes: a token may be part of a character.
///
/// Conforming types are immutable and may be used from any thread.
public protocol Tokenizer: Sendable {
  /// One more than the largest id.
  var vocabularySize: Int { get }
  /// Token ids of `bytes`.
  func encode(_ bytes: [UInt8]) -> [Int]
  /// The bytes of one token; empty for ids without text, such as 0 (end of document).
  func bytes(of id: Int) -> [UInt8]
}
