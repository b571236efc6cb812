// SPDX-License-Identifier: MIT
import RWKVFormat

extension Vocabulary {
  /// Reads a `tokenizer.json` of the Hugging Face library, or web-rwkv's `rwkv_vocab_v20230424.json`.
  ///
  /// These are known: GPT-NeoX's byte-level byte pairs; the World vocabulary as `WordLevel` behind a longest-first
  /// `Split`, or as `RwkvTrie`; and `WordLevel` of what stands between white space. Every setting that would change
  /// the ids is checked; a file with another one is refused. What a post-processor would put around a text is left to
  /// the caller.
  public init(json path: String) throws(CheckpointError) {
    let root = try InputFile(path: path).json(limit: 64 << 20, depth: 32)
    var reader = TokenizerJSON(path: path)
    if root["model"] != nil { try reader.read(root) } else { try reader.readIDs(root) }
    self = reader.vocabulary
  }
}

/// Fills a vocabulary from parsed JSON.
private struct TokenizerJSON {
  let path: String
  var vocabulary = Vocabulary()

  init(path: String) { self.path = path }

  // MARK: Errors

  private func unsupported(_ what: String, found: JSON?, expected: String) -> CheckpointError {
    CheckpointError(
      .unsupported, file: path, "tokenizer setting '\(what)' is not one this program knows",
      found: found?.string.map(quoted) ?? "another value", expected: expected,
      advice: "Known are the tokenizers of RWKV's own models: World, GPT-NeoX, and words between white space")
  }

  private func malformed(_ problem: String) -> CheckpointError {
    CheckpointError(.malformed, file: path, problem, advice: "The file is damaged; get it again")
  }

  /// Throws unless `object` has one of the expected values at each key; an absent one counts as null.
  private func require(
    _ object: JSON?, _ what: String, _ expected: [(key: String, values: [JSON])]
  ) throws(CheckpointError) {
    for (key, values) in expected where !values.contains(object?[key] ?? .null) {
      let shown = values.map { value in
        switch value {
        case .string(let text): text
        case .bool(let flag): "\(flag)"
        default: "null"
        }
      }
      throw unsupported(
        what + "." + key, found: object?[key], expected: shown.joined(separator: " or "))
    }
  }

  // MARK: Forms

  /// web-rwkv's form: ids with a string each, or with a list of bytes.
  mutating func readIDs(_ root: JSON) throws(CheckpointError) {
    guard case .object(let members, _) = root, !members.isEmpty else { throw malformed("is no tokenizer") }
    for (key, value) in members {
      guard let id = JSON.number(key).unsigned else { throw malformed("has no 'model'") }
      let list = value.array?.compactMap { $0.unsigned.flatMap(UInt8.init(exactly:)) }
      guard let bytes = value.string.map({ Array($0.utf8) }) ?? list,
        bytes.count == value.array?.count ?? bytes.count
      else { throw malformed("token \(id) is neither a string nor a list of bytes") }
      try set(id, id == 0 ? [] : bytes)
    }
  }

  mutating func read(_ root: JSON) throws(CheckpointError) {
    guard let model = root["model"] else { throw malformed("has no 'model'") }
    switch model["type"]?.string {
    case "BPE": try readBytePairs(root, model)
    case "RwkvTrie": try readTrie(root, model)
    case "WordLevel" where root["pre_tokenizer"]?["type"]?.string == "Sequence": try readSplit(root, model)
    case "WordLevel": try readWords(root, model)
    default:
      throw unsupported("model.type", found: model["type"], expected: "BPE, WordLevel or RwkvTrie")
    }
  }

  private mutating func readBytePairs(_ root: JSON, _ model: JSON) throws(CheckpointError) {
    let off: [JSON] = [.null, .bool(false)]
    try require(root["normalizer"], "normalizer", [("type", [.string("NFC")])])
    try require(
      root["pre_tokenizer"], "pre_tokenizer",
      [
        ("type", [.string("ByteLevel")]), ("add_prefix_space", [.bool(false)]),
        ("use_regex", [.null, .bool(true)]),
      ])
    try require(
      model, "model",
      ["dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"].map {
        ($0, [.null, .string("")])
      } + [("byte_fallback", off), ("ignore_merges", off)])
    vocabulary.rule = .bytePairs
    let added = try addedTokens(root)
    var ids: [String: Int] = [:]
    for (text, id) in try entries(model["vocab"]) {
      ids[text] = id
      // A token that is also added ("<|endoftext|>") may use characters for themselves.
      guard let bytes = Vocabulary.bytes(letters: text) else {
        throw malformed("token \(quoted(text)) has a character that stands for no byte")
      }
      try setNew(id, bytes)
    }
    try readMerges(model["merges"], ids)
    for token in added {
      try set(token.id, Array(token.text.utf8))
      vocabulary.added.append((token.id, token.normalized))
    }
  }

  private mutating func readTrie(_ root: JSON, _ model: JSON) throws(CheckpointError) {
    try requireNoSteps(root, ["normalizer", "pre_tokenizer"])
    for (text, id) in try entries(model["vocab"]) {
      // Id 0 separates documents. No text yields it.
      guard id > 0 else { continue }
      guard let bytes = Vocabulary.bytes(letters: text) else {
        throw malformed("token \(quoted(text)) has a character that stands for no byte")
      }
      try setNew(id, bytes)
    }
    try readAdded(root)
  }

  /// Letters for bytes, cut by an expression of all tokens: what it does not list is never found in a text.
  private mutating func readSplit(_ root: JSON, _ model: JSON) throws(CheckpointError) {
    try requireNoSteps(root, ["normalizer"])
    let steps = root["pre_tokenizer"]?["pretokenizers"]?.array ?? []
    guard steps.count == 2 else {
      throw unsupported("pre_tokenizer", found: nil, expected: "ByteLevel and Split")
    }
    try require(
      steps[0], "pre_tokenizer",
      [
        ("type", [.string("ByteLevel")]), ("add_prefix_space", [.bool(false)]), ("use_regex", [.bool(false)]),
      ])
    try require(
      steps[1], "pre_tokenizer",
      [
        ("type", [.string("Split")]), ("behavior", [.string("Isolated"), .string("Removed")]),
        (
          "invert",
          steps[1]["behavior"] == .string("Removed") ? [.bool(true)] : [.null, .bool(false), .bool(true)]
        ),
      ])
    guard let expression = steps[1]["pattern"]?["Regex"]?.string,
      let alternatives = longestFirstAlternatives(expression)
    else {
      throw unsupported(
        "pre_tokenizer.pattern", found: nil, expected: "all tokens as alternatives, longer ones first")
    }
    let ids = Dictionary(uniqueKeysWithValues: try entries(model["vocab"]))
    for text in alternatives {
      guard let id = ids[text] else { throw malformed("token \(quoted(text)) is not in 'model.vocab'") }
      guard let bytes = Vocabulary.bytes(letters: text) else {
        throw malformed("token \(quoted(text)) has a character that stands for no byte")
      }
      try setNew(id, bytes)
    }
    try readAdded(root)
  }

  private mutating func readWords(_ root: JSON, _ model: JSON) throws(CheckpointError) {
    try require(root["pre_tokenizer"], "pre_tokenizer", [("type", [.string("WhitespaceSplit")])])
    var isLowercased = false
    if let normalizer = root["normalizer"], normalizer != .null {
      try require(normalizer, "normalizer", [("type", [.string("Lowercase")])])
      isLowercased = true
    }
    vocabulary.rule = .words(lowercased: isLowercased)
    for (text, id) in try entries(model["vocab"]) { try setNew(id, Array(text.utf8)) }
    try readAdded(root)
  }

  // MARK: Parts

  private func requireNoSteps(_ root: JSON, _ names: [String]) throws(CheckpointError) {
    for name in names where root[name] ?? .null != .null {
      throw unsupported(name, found: root[name]?["type"], expected: "null")
    }
  }

  private func entries(_ vocabulary: JSON?) throws(CheckpointError) -> [(String, Int)] {
    guard case .object(let members, _)? = vocabulary else { throw malformed("has no 'model.vocab'") }
    var entries: [(String, Int)] = []
    entries.reserveCapacity(members.count)
    for (text, value) in members {
      guard let id = value.unsigned else {
        throw malformed("the id of token \(quoted(text)) is not a natural number")
      }
      entries.append((text, id))
    }
    return entries
  }

  private mutating func readMerges(_ list: JSON?, _ ids: [String: Int]) throws(CheckpointError) {
    guard let list = list?.array else { throw malformed("has no 'model.merges'") }
    vocabulary.merges.reserveCapacity(list.count)
    for (rank, entry) in list.enumerated() {
      // "left right", or in newer files ["left", "right"].
      let parts =
        entry.string.map { $0.split(separator: " ", omittingEmptySubsequences: false).map(String.init) }
        ?? entry.array?.compactMap(\.string) ?? []
      guard parts.count == 2, let left = ids[parts[0]], let right = ids[parts[1]] else {
        throw malformed("merge \(rank) is not a pair of tokens")
      }
      vocabulary.merges.append((left, right))
    }
  }

  /// Added tokens of a vocabulary without normalization. Id 0 of a World vocabulary separates documents: no text
  /// yields it.
  private mutating func readAdded(_ root: JSON) throws(CheckpointError) {
    for token in try addedTokens(root) where token.id > 0 || vocabulary.rule != .longestMatch {
      if token.normalized, vocabulary.rule == .words(lowercased: true) {
        throw unsupported("added_tokens.normalized", found: nil, expected: "false")
      }
      try set(token.id, Array(token.text.utf8))
      vocabulary.added.append((token.id, false))
    }
  }

  private func addedTokens(
    _ root: JSON
  ) throws(CheckpointError) -> [(id: Int, text: String, normalized: Bool)] {
    var tokens: [(Int, String, Bool)] = []
    for entry in root["added_tokens"]?.array ?? [] {
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
      tokens.append((id, text, normalized))
    }
    return tokens
  }

  private mutating func setNew(_ id: Int, _ bytes: [UInt8]) throws(CheckpointError) {
    if id < vocabulary.tokens.count, !vocabulary.tokens[id].isEmpty {
      throw malformed("id \(id) occurs twice")
    }
    try set(id, bytes)
  }

  private mutating func set(_ id: Int, _ bytes: [UInt8]) throws(CheckpointError) {
    guard vocabulary.set(id, bytes) else {
      throw malformed("token id \(id) is too large, expected below \(Vocabulary.maximumID)")
    }
  }
}

/// The texts of an expression that is a choice between plain texts, `(?:abc|ab|\.)`; nil if it is anything else, or if
/// one that comes first hides a longer one.
private func longestFirstAlternatives(_ expression: String) -> [String]? {
  var scalars = Array(expression.unicodeScalars)[...]
  for (start, end) in [("(?:", ")"), ("(", ")")] where scalars.starts(with: start.unicodeScalars) {
    guard scalars.last.map(String.init) == end else { return nil }
    scalars = scalars.dropFirst(start.unicodeScalars.count).dropLast()
    break
  }
  var (texts, text) = ([String](), String.UnicodeScalarView())
  while let scalar = scalars.popFirst() {
    switch scalar {
    case "|":
      texts.append(String(text))
      text = String.UnicodeScalarView()
    case "\\":
      guard let escaped = scalars.popFirst(), !escaped.properties.isAlphabetic, !("0"..."9").contains(escaped)
      else { return nil }
      text.append(escaped)
    case ".", "*", "+", "?", "^", "$", "(", ")", "[", "{": return nil
    default: text.append(scalar)
    }
  }
  texts.append(String(text))
  guard !texts.contains("") else { return nil }
  let lengths = texts.map(\.unicodeScalars.count)
  if zip(lengths, lengths.dropFirst()).allSatisfy(>=) { return texts }
  var seen: Set<String> = []
  for text in texts {
    var start = String.UnicodeScalarView()
    for scalar in text.unicodeScalars {
      start.append(scalar)
      if seen.contains(String(start)) { return nil }
    }
    seen.insert(text)
  }
  return texts
}
