// SPDX-License-Identifier: MIT
/// One token per byte, for models trained on raw bytes.
///
/// Id 0 is the NUL byte and by the models' convention also ends a document: text that contains NUL encodes to
/// it, and generation that meets it stops. Every byte, NUL too, comes back unchanged.
public struct ByteTokenizer: Tokenizer {
  public init() {}

  public var vocabularySize: Int { 256 }

  public func encode(_ bytes: [UInt8]) -> [Int] {
    bytes.map(Int.init)
  }

  public func bytes(of id: Int) -> [UInt8] {
    UInt8(exactly: id).map { [$0] } ?? []
  }
}
