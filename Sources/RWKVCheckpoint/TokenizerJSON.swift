/// The byte-level BPE tokenizer of a Hugging Face `tokenizer.json`, as far as GPT-NeoX uses it.
///
/// Every setting that would change the result is checked; a file with another one is refused.
public struct TokenizerJSON: Sendable {
  /// The bytes of each id; empty for ids without text.
  public private(set) var tokens: [[UInt8]] = []
  /// Ids of the pairs, by rank.
  public private(set) var merges: [(left: Int, right: Int)] = []
  /// Tokens that are matched as a whole, after NFC normalization where `normalized` is true.
  public private(set) var added: [(id: Int, normalized: Bool)] = []

  private static let maximumSize = 64 << 20
  /// No RWKV model has more rows, and the ids of a damaged file must not make us allocate.
  private static let maximumID = 1 << 20

  private let path: String

  public init(path: String) throws(CheckpointError) {
    self.path = path
    let root = try InputFile(path: path).json(limit: Self.maximumSize, depth: 16)
    try checkSteps(root)
    guard let model = root["model"] else { throw malformed("has no 'model'") }
    try checkModel(model)
    let ids = try readVocabulary(model["vocab"])
    try readMerges(model["merges"], ids)
    try readAdded(root["added_tokens"])
  }

  private func unsupported(_ what: String, found: JSON?, expected: String) -> CheckpointError {
    CheckpointError(
      .unsupported, file: path, "tokenizer setting '\(what)' is not one this program knows",
      found: found?.string.map(quoted) ?? "another value", expected: expected,
      advice: "Only GPT-NeoX's tokenizer of the RWKV-4 Pile models is supported")
  }

  private func malformed(_ problem: String) -> CheckpointError {
    CheckpointError(.malformed, file: path, problem, advice: "The file is damaged; get it again")
  }

  private func checkSteps(_ root: JSON) throws(CheckpointError) {
    guard root["normalizer"]?["type"]?.string == "NFC" else {
      throw unsupported("normalizer", found: root["normalizer"]?["type"], expected: "NFC")
    }
    guard let splitter = root["pre_tokenizer"], splitter["type"]?.string == "ByteLevel",
      splitter["add_prefix_space"] == .bool(false), splitter["use_regex"] ?? .bool(true) == .bool(true)
    else {
      let found = root["pre_tokenizer"]?["type"]
      throw unsupported("pre_tokenizer", found: found, expected: "ByteLevel, no prefix space")
    }
  }

  private func checkModel(_ model: JSON) throws(CheckpointError) {
    guard model["type"]?.string == "BPE" else {
      throw unsupported("model.type", found: model["type"], expected: "BPE")
    }
    for key in ["dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"] {
      let value = model[key] ?? .null
      guard value == .null || value == .string("") else {
        throw unsupported("model." + key, found: value, expected: "null")
      }
    }
    for key in ["byte_fallback", "ignore_merges"] where model[key] ?? .bool(false) != .bool(false) {
      throw unsupported("model." + key, found: model[key], expected: "false")
    }
  }

  /// Fills `tokens`; returns the ids by the file's spelling.
  private mutating func readVocabulary(_ vocabulary: JSON?) throws(CheckpointError) -> [String: Int] {
    guard case .object(let members)? = vocabulary else { throw malformed("has no 'model.vocab'") }
    let alphabet = Self.byteAlphabet()
    var ids: [String: Int] = [:]
    ids.reserveCapacity(members.count)
    for (text, value) in members {
      guard let id = value.unsigned else {
        throw malformed("the id of token \(quoted(text)) is not a natural number")
      }
      ids[text] = id
      // A token that is also added ("<|endoftext|>") may use characters for themselves; `readAdded` replaces
      // it.
      let bytes = text.unicodeScalars.compactMap { alphabet[$0] }
      guard bytes.count == text.unicodeScalars.count else {
        throw malformed("token \(quoted(text)) has a character that stands for no byte")
      }
      guard try set(id, bytes) == nil else { throw malformed("id \(id) occurs twice") }
    }
    return ids
  }

  private mutating func readMerges(_ list: JSON?, _ ids: [String: Int]) throws(CheckpointError) {
    guard let list = list?.array else { throw malformed("has no 'model.merges'") }
    merges.reserveCapacity(list.count)
    for (rank, entry) in list.enumerated() {
      // "left right", or in newer files ["left", "right"].
      let parts =
        entry.string.map { $0.split(separator: " ", omittingEmptySubsequences: false).map(String.init) }
        ?? entry.array?.compactMap(\.string) ?? []
      guard parts.count == 2, let left = ids[parts[0]], let right = ids[parts[1]] else {
        throw malformed("merge \(rank) is not a pair of tokens")
      }
      merges.append((left, right))
    }
  }

  private mutating func readAdded(_ list: JSON?) throws(CheckpointError) {
    for entry in list?.array ?? [] {
      guard let id = entry["id"]?.unsigned, let text = entry["content"]?.string, !text.isEmpty else {
        throw malformed("an entry of 'added_tokens' has no id or no content")
      }
      for key in ["single_word", "lstrip", "rstrip"] where entry[key] ?? .bool(false) != .bool(false) {
        throw unsupported("added_tokens." + key, found: entry[key], expected: "false")
      }
      // Without the key, special tokens are looked for in the raw text, others after normalization.
      guard case .bool(let normalized) = entry["normalized"] ?? .bool(entry["special"] != .bool(true)) else {
        throw malformed("'normalized' of added token \(id) is not true or false")
      }
      try set(id, Array(text.utf8))
      added.append((id, normalized))
    }
  }

  /// Sets the bytes of a token and returns those that it had before.
  @discardableResult
  private mutating func set(_ id: Int, _ bytes: [UInt8]) throws(CheckpointError) -> [UInt8]? {
    guard id < Self.maximumID else {
      throw malformed("token id \(id) is too large, expected below \(Self.maximumID)")
    }
    while tokens.count <= id { tokens.append([]) }
    defer { tokens[id] = bytes }
    return tokens[id].isEmpty ? nil : tokens[id]
  }

  /// GPT-2's spelling of bytes: the printable ones of Latin-1 stand for themselves, the others, in order, are
  /// U+0100 and following.
  private static func byteAlphabet() -> [Unicode.Scalar: UInt8] {
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
  }
}
