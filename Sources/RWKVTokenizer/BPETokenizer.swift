// SPDX-License-Identifier: MIT
/// The GPT-NeoX tokenizer of the RWKV-4 Pile models: byte-level byte-pair encoding.
///
///     added tokens in the text → NFC → other added tokens → GPT-2's words → merges inside each word
///
/// Bytes that are not valid UTF-8 encode as U+FFFD: the vocabulary has no tokens for bytes that UTF-8 never
/// uses.
public struct BPETokenizer: Tokenizer {
  private let table: TokenTable
  /// The pairs that merge, in the order of rank.
  private let pairs: [(left: Int, right: Int)]
  private let merges: MergeTable
  private let added: [(id: Int, normalized: Bool)]
  /// Added tokens that are looked for before (`raw`) and after normalization.
  private let rawTrie: Trie
  private let normalizedTrie: Trie
  /// The token of each single byte; −1 for bytes that UTF-8 never uses.
  private let byteTokens: [Int32]

  /// - Parameters:
  ///   - tokens: the bytes of each id; empty for ids without text.
  ///   - merges: ids of the pairs, by rank; the joined bytes must be a token.
  ///   - added: tokens found as a whole, the longest first, before or after normalization. They take no part
  ///     in merges and may have the bytes of another token.
  public init(
    tokens: [[UInt8]], merges: [(left: Int, right: Int)], added: [(id: Int, normalized: Bool)]
  ) throws(TokenizerError) {
    try self.init(TokenTable(tokens), merges, added)
  }

  /// Reads the tensor `tokenizer` of a model file with `tokenizer.kind` "bpe".
  public init(blob: [UInt8]) throws(TokenizerError) {
    var reader = BlobReader(blob)
    let table = try TokenTable(&reader)
    var merges: [(left: Int, right: Int)] = []
    for _ in 0..<(try reader.u32("number of merges")) {
      merges.append((try reader.u32("left token of a merge"), try reader.u32("right token of a merge")))
    }
    var added: [(id: Int, normalized: Bool)] = []
    for _ in 0..<(try reader.u32("number of added tokens")) {
      let id = try reader.u32("id of an added token")
      let when = try reader.u8("kind of an added token")
      guard when <= 1 else { throw reader.error("kind \(when) of an added token; expected 0 or 1") }
      added.append((id, when == 1))
    }
    try reader.end()
    try self.init(table, merges, added)
  }

  private init(
    _ table: TokenTable, _ merges: [(left: Int, right: Int)], _ added: [(id: Int, normalized: Bool)]
  ) throws(TokenizerError) {
    for (id, _) in added where !(0..<table.count).contains(id) || table.range(of: id).isEmpty {
      throw TokenizerError(.token(id), "is an added token, but has no text")
    }
    let addedIDs = Set(added.map(\.id))
    guard addedIDs.count == added.count else {
      throw TokenizerError(.vocabulary, "the same token is added twice")
    }
    let normalized = Set(added.filter(\.normalized).map(\.id))
    self.table = table
    self.added = added
    rawTrie = try Trie(unique: table) { addedIDs.contains($0) && !normalized.contains($0) }
    normalizedTrie = try Trie(unique: table) { normalized.contains($0) }

    let trie = try Trie(unique: table) { !addedIDs.contains($0) }
    let unused: Set<UInt8> = [0xC0, 0xC1, 0xF5, 0xF6, 0xF7, 0xF8, 0xF9, 0xFA, 0xFB, 0xFC, 0xFD, 0xFE, 0xFF]
    try trie.requireBytes { !unused.contains($0) }
    byteTokens = (UInt8.min...UInt8.max).map { Int32(trie.find(CollectionOfOne($0)) ?? -1) }
    pairs = merges
    self.merges = try Self.ranked(merges, table, trie, addedIDs)
  }

  private static func ranked(
    _ merges: [(left: Int, right: Int)], _ table: TokenTable, _ trie: Trie, _ added: Set<Int>
  ) throws(TokenizerError) -> MergeTable {
    var ranked = MergeTable(count: merges.count)
    for (rank, merge) in merges.enumerated() {
      for id in [merge.left, merge.right] {
        guard (0..<table.count).contains(id), !table.range(of: id).isEmpty, !added.contains(id) else {
          throw TokenizerError(.merge(rank), "token \(id) has no text or is an added token")
        }
      }
      guard let token = trie.find(table.token(merge.left) + table.token(merge.right)) else {
        throw TokenizerError(.merge(rank), "tokens \(merge.left) and \(merge.right) joined are not a token")
      }
      let result = MergeTable.Merge(rank: Int32(rank), token: Int32(token))
      guard ranked.insert(Int32(merge.left), Int32(merge.right), result) else {
        throw TokenizerError(.merge(rank), "the pair occurs twice")
      }
    }
    return ranked
  }

  /// The contents of the tensor `tokenizer`.
  public var blob: [UInt8] {
    var blob: [UInt8] = []
    table.write(to: &blob)
    blob.appendU32(pairs.count)
    for pair in pairs {
      blob.appendU32(pair.left)
      blob.appendU32(pair.right)
    }
    blob.appendU32(added.count)
    for (id, normalized) in added {
      blob.appendU32(id)
      blob.append(normalized ? 1 : 0)
    }
    return blob
  }

  public var vocabularySize: Int { table.count }

  public func bytes(of id: Int) -> [UInt8] {
    Array(table.token(id))
  }

  public func encode(_ bytes: [UInt8]) -> [Int] { encode(bytes) { _ in } }

  public func encode(_ bytes: [UInt8], progress: (Int) -> Void) -> [Int] {
    var ids: [Int] = []
    var (word, milestones) = (WordMerger(merges), Milestones())
    let text = Array(String(decoding: bytes, as: UTF8.self).utf8)
    for piece in rawTrie.pieces(of: text) {
      switch piece {
      case .token(let id): ids.append(id)
      case .text(let text):
        // Normalization moves what follows only by a little.
        let start = text.startIndex
        for piece in normalizedTrie.pieces(of: Normalization.composed(text)) {
          switch piece {
          case .token(let id): ids.append(id)
          case .text(var rest):
            while !rest.isEmpty {
              let end = SplitPattern.wordEnd(rest)
              word.merge(rest[..<end].lazy.map { byteTokens[Int($0)] }) { ids.append($0) }
              rest = rest[end...]
              milestones.pass(start + rest.startIndex, progress)
            }
          }
        }
      }
    }
    return ids
  }
}
