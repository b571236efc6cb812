// SPDX-License-Identifier: MIT
/// The tokenizer of the RWKV World models: greedy longest match on bytes, left to right, without any
/// normalization or splitting.
public struct WorldTokenizer: Tokenizer {
  private let table: TokenTable
  private let trie: Trie

  /// Reads the tensor `tokenizer` of a model file with `tokenizer.kind` "world".
  public init(blob: [UInt8]) throws(TokenizerError) {
    var reader = BlobReader(blob)
    let table = try TokenTable(&reader)
    try reader.end()
    try self.init(table)
  }

  /// Reads the text of a vocabulary file such as `rwkv_vocab_v20230424.txt`: see `VocabularyText`.
  public init(vocabulary: [UInt8]) throws(TokenizerError) {
    try self.init(TokenTable(vocabulary: vocabulary))
  }

  /// - Parameter tokens: the bytes of each id; empty for ids without text.
  public init(tokens: [[UInt8]]) throws(TokenizerError) {
    try self.init(TokenTable(tokens))
  }

  /// Throws unless no byte string occurs twice and each single byte is a token, so that every input can be
  /// encoded.
  private init(_ table: TokenTable) throws(TokenizerError) {
    self.table = table
    self.trie = try Trie(unique: table) { _ in true }
    try trie.requireBytes { _ in true }
  }

  /// The contents of the tensor `tokenizer`.
  public var blob: [UInt8] {
    var blob: [UInt8] = []
    table.write(to: &blob)
    return blob
  }

  public var vocabularySize: Int { table.count }

  public func bytes(of id: Int) -> [UInt8] {
    Array(table.token(id))
  }

  public func encode(_ bytes: [UInt8]) -> [Int] { encode(bytes) { _ in } }

  public func encode(_ bytes: [UInt8], progress: (Int) -> Void) -> [Int] {
    var ids: [Int] = []
    ids.reserveCapacity(bytes.count / 3)
    bytes.withUnsafeBufferPointer { bytes in
      var (position, milestones) = (0, Milestones())
      while position < bytes.count {
        guard let match = trie.longestMatch(bytes, from: position) else {
          preconditionFailure("init(_:) has checked that each byte is a token")
        }
        ids.append(match.id)
        position += match.length
        milestones.pass(position, progress)
      }
    }
    return ids
  }
}
