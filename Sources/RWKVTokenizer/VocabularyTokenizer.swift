// SPDX-License-Identifier: MIT
/// A vocabulary that cannot express every text: one without all 256 bytes, one of whole words, or one with added
/// tokens.
///
///     added tokens in the text, the longest first → between them, by `Rule`
public struct VocabularyTokenizer: Tokenizer {
  /// How text between added tokens becomes tokens. The number is how it stands in a file.
  public enum Rule: UInt8, Sendable {
    /// Greedy longest match on bytes, left to right.
    case longestMatch = 0
    /// What stands between white space is one token. Tokens are written with a space between them.
    case words = 1
    /// The same after Unicode's mapping to lower case.
    case lowercasedWords = 2
  }

  private let table: TokenTable
  private let rule: Rule
  private let added: [Int]
  private let addedTrie: Trie
  private let trie: Trie

  /// - Parameters:
  ///   - tokens: the bytes of each id; empty for ids without text.
  ///   - added: ids of the tokens that are found as a whole before anything else.
  public init(tokens: [[UInt8]], rule: Rule, added: [Int]) throws(TokenizerError) {
    try self.init(TokenTable(tokens), rule, added)
  }

  /// Reads the tensor `tokenizer` of a model file with `tokenizer.kind` "vocabulary".
  public init(blob: [UInt8]) throws(TokenizerError) {
    var reader = BlobReader(blob)
    let table = try TokenTable(&reader)
    guard let rule = try reader.bytes(1, "rule").first.flatMap(Rule.init) else {
      throw reader.error("an unknown rule; expected 0, 1 or 2")
    }
    let count = try reader.u32("number of added tokens")
    guard 4 * count == reader.remaining else {
      throw reader.error("\(count) added tokens do not fill the remaining \(reader.remaining) bytes")
    }
    var added: [Int] = []
    for _ in 0..<count { added.append(try reader.u32("id of an added token")) }
    try self.init(table, rule, added)
  }

  private init(_ table: TokenTable, _ rule: Rule, _ added: [Int]) throws(TokenizerError) {
    for id in added where table.token(id).isEmpty {
      throw TokenizerError(.token(id), "is an added token, but has no text")
    }
    let addedIDs = Set(added)
    guard addedIDs.count == added.count else {
      throw TokenizerError(.vocabulary, "the same token is added twice")
    }
    self.table = table
    self.rule = rule
    self.added = added
    addedTrie = try Trie(unique: table) { addedIDs.contains($0) }
    trie = try Trie(unique: table) { !addedIDs.contains($0) }
  }

  /// The contents of the tensor `tokenizer`.
  public var blob: [UInt8] {
    var blob: [UInt8] = []
    table.write(to: &blob)
    blob.append(rule.rawValue)
    blob.appendU32(added.count)
    for id in added { blob.appendU32(id) }
    return blob
  }

  public var vocabularySize: Int { table.count }

  public func bytes(of id: Int) -> [UInt8] {
    let token = Array(table.token(id))
    return rule == .longestMatch || token.isEmpty ? token : token + [UInt8(ascii: " ")]
  }

  public func encode(_ bytes: [UInt8]) throws(TokenizerError) -> [Int] { try encode(bytes) { _ in } }

  public func encode(_ bytes: [UInt8], progress: (Int) -> Void) throws(TokenizerError) -> [Int] {
    var (ids, milestones) = ([Int](), Milestones())
    for piece in addedTrie.pieces(of: bytes) {
      switch piece {
      case .token(let id): ids.append(id)
      case .text(let text):
        let pass = { (position: Int) in milestones.pass(position, progress) }
        ids += try rule == .longestMatch ? matches(text, pass) : words(text, pass)
      }
    }
    return ids
  }

  private func matches(
    _ text: ArraySlice<UInt8>, _ pass: (Int) -> Void
  ) throws(TokenizerError) -> [Int] {
    var ids: [Int] = []
    var position = 0
    text.withUnsafeBufferPointer { bytes in
      while position < bytes.count, let match = trie.longestMatch(bytes, from: position) {
        ids.append(match.id)
        position += match.length
        pass(text.startIndex + position)
      }
    }
    let rest = text.dropFirst(position)
    guard rest.isEmpty else { throw missing(rest.prefix(8), at: rest.startIndex) }
    return ids
  }

  private func words(
    _ text: ArraySlice<UInt8>, _ pass: (Int) -> Void
  ) throws(TokenizerError) -> [Int] {
    guard let scalars = String(validating: text, as: UTF8.self)?.unicodeScalars else {
      throw TokenizerError(.text(text.startIndex), "is not valid UTF-8, and the vocabulary is one of words")
    }
    var (ids, end) = ([Int](), text.startIndex)
    for word in scalars.split(whereSeparator: \.properties.isWhitespace) {
      let bytes =
        rule == .words
        ? Array(String(word).utf8)
        : word.flatMap { Array($0.properties.lowercaseMapping.utf8) }
      guard let id = trie.find(bytes) else {
        let offset = scalars.utf8Offset(of: word.startIndex)
        throw missing(Array(String(word).utf8)[...], at: text.startIndex + offset)
      }
      ids.append(id)
      end += bytes.count + 1
      pass(end)
    }
    return ids
  }

  private func missing(_ found: ArraySlice<UInt8>, at offset: Int) -> TokenizerError {
    let shown = found.prefix(24).map {
      (0x21...0x7E).contains($0) ? String(UnicodeScalar($0)) : "\\x" + hex($0)
    }
    return TokenizerError(
      .text(offset),
      "the vocabulary of this model has no token for what begins with '\(shown.joined())'; give it text that it "
        + "knows, or token ids")
  }

  private func hex(_ byte: UInt8) -> String { (byte < 16 ? "0" : "") + String(byte, radix: 16) }
}

extension String.UnicodeScalarView {
  fileprivate func utf8Offset(of index: Index) -> Int { self[..<index].reduce(0) { $0 + UTF8.width($1) } }
}
