// SPDX-License-Identifier: MIT
import Foundation
import RWKVCheckpoint
import RWKVTokenizer
import Testing

/// Writers of the forms in which vocabularies of greedy longest match are published, from the bytes of each id.
enum VocabularyForm: String, CaseIterable {
  case lines, list, webRWKV, split, trie

  func file(_ tokens: [[UInt8]]) -> [UInt8] {
    let ids = tokens.indices.filter { !tokens[$0].isEmpty }
    switch self {
    case .lines:
      return ids.flatMap { Array("\($0) \(Self.literal(tokens[$0])) \(tokens[$0].count)\n".utf8) }
    case .list:
      return tokens.enumerated().flatMap {
        Array("\($0.offset == 0 ? "b'<s>'" : Self.literal($0.element))\n".utf8)
      }
    case .webRWKV:
      let entries = ids.map { id in
        let text = String(validating: tokens[id], as: UTF8.self).map(Self.json) ?? "\(tokens[id])"
        return "\"\(id)\": \(text)"
      }
      return Array("{\(entries.joined(separator: ",\n"))}".utf8)
    case .split:
      let order = ids.sorted { (-tokens[$0].count, $0) < (-tokens[$1].count, $1) }
      let expression = order.map { Self.escaped(Self.letters(tokens[$0])) }.joined(separator: "|")
      return Array(
        """
        {"added_tokens": [], "normalizer": null, "post_processor": null,
         "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
           {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
           {"type": "Split", "pattern": {"Regex": \(Self.json("(?:\(expression))"))},
            "behavior": "Isolated", "invert": false}]},
         "model": {"type": "WordLevel", "vocab": \(Self.vocabulary(tokens, reserved: true)),
                   "unk_token": "<|endoftext|>"}}
        """.utf8)
    case .trie:
      return Array(
        """
        {"added_tokens": [{"id": 0, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
                           "rstrip": false, "normalized": false, "special": true}],
         "normalizer": null, "pre_tokenizer": null,
         "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|endoftext|>"}}]},
         "decoder": {"type": "ByteLevel"},
         "model": {"type": "RwkvTrie", "vocab": \(Self.vocabulary(tokens, reserved: false))}}
        """.utf8)
    }
  }

  private static func vocabulary(_ tokens: [[UInt8]], reserved: Bool) -> String {
    var entries = ["\"<|endoftext|>\": 0"]
    for id in tokens.indices where !tokens[id].isEmpty {
      entries.append("\(json(letters(tokens[id]))): \(id)")
    }
    if reserved { entries.append("\"<|reserved|>\": \(tokens.count)") }
    return "{\(entries.joined(separator: ", "))}"
  }

  /// Python's repr() of bytes.
  private static func literal(_ bytes: [UInt8]) -> String {
    let quote = bytes.contains(0x27) && !bytes.contains(0x22) ? "\"" : "'"
    var text = "b" + quote
    for byte in bytes {
      switch byte {
      case 9: text += "\\t"
      case 10: text += "\\n"
      case 13: text += "\\r"
      case 0x5C: text += "\\\\"
      case 0x27 where quote == "'": text += "\\'"
      case 0x20...0x7E: text += String(UnicodeScalar(byte))
      default: text += "\\x" + (byte < 16 ? "0" : "") + String(byte, radix: 16)
      }
    }
    return text + quote
  }

  private static func json(_ text: String) -> String {
    var result = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"", "\\": result += "\\\(scalar)"
      case "\u{0}"..."\u{1F}":
        result += "\\u00" + (scalar.value < 16 ? "0" : "") + String(scalar.value, radix: 16)
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result + "\""
  }

  /// GPT-2's letters: bytes that print stand for themselves, the others for U+0100 and following.
  private static func letters(_ bytes: [UInt8]) -> String {
    var text = String.UnicodeScalarView()
    for byte in bytes {
      let prints = (33...126).contains(byte) || (161...172).contains(byte) || byte >= 174
      let before =
        byte <= 32 ? UInt32(byte) : byte <= 160 ? UInt32(byte) &- 127 &+ 33 : UInt32(67)  // 173
      text.append(prints ? Unicode.Scalar(byte) : Unicode.Scalar(256 + before) ?? "?")
    }
    return String(text)
  }

  private static func escaped(_ text: String) -> String {
    text.unicodeScalars.map { "\\.+*?()|[]{}^$".unicodeScalars.contains($0) ? "\\\($0)" : "\($0)" }.joined()
  }
}

@Suite("Forms of a vocabulary")
struct VocabularyFormsTests {
  static func read(_ file: [UInt8], isText: Bool) throws -> Vocabulary {
    if isText { return Vocabulary(tokens: try VocabularyText.tokens(of: file)) }
    let path = FileManager.default.temporaryDirectory.appending(path: "vocabulary-\(UUID()).json")
    try Data(file).write(to: path)
    defer { try? FileManager.default.removeItem(at: path) }
    return try Vocabulary(json: path.path)
  }

  static func read(_ form: VocabularyForm, _ tokens: [[UInt8]]) throws -> Vocabulary {
    try read(form.file(tokens), isText: form == .lines || form == .list)
  }

  /// Every byte, words that contain quotes, backslashes, control characters and what expressions give a meaning, and
  /// bytes that are no text.
  static let small: [[UInt8]] =
    [[]] + (0...255).map { [UInt8($0)] }
    + ["ab", "abcd", " '\"", "\\n", "\n\n", "(.*)|[a]{2}?+^$", "é", "你好", "\u{7f}\u{a0}\u{ad}"].map {
      Array($0.utf8)
    }
    + [[0xE4, 0xBD], [0xFF, 0x00]]

  @Test(arguments: VocabularyForm.allCases)
  func hasTheSameTokens(form: VocabularyForm) throws {
    let vocabulary = try Self.read(form, Self.small)
    #expect(vocabulary.rule == .longestMatch && vocabulary.added.isEmpty)
    #expect(vocabulary.tokens == Self.small)
    // As Windows programs save it.
    let marked = [0xEF, 0xBB, 0xBF] + form.file(Self.small)
    #expect(try Self.read(marked, isText: [.lines, .list].contains(form)).tokens == Self.small)
  }

  @Test(.enabled(if: TokenizerData.isPresent), arguments: VocabularyForm.allCases)
  func worldHasTheReferenceIds(form: VocabularyForm) throws {
    let world = try WorldVocabularyTests.tokenizer.get()
    let tokens = (0..<world.vocabularySize).map { world.bytes(of: $0) }
    let read = try Self.read(form, tokens)
    #expect(read.tokens == tokens && read.added.isEmpty)
    let tokenizer = try WorldTokenizer(tokens: read.tokens)
    for item in try TokenizerData.cases("world_cases.json") {
      #expect(tokenizer.encode(item.bytes) == item.ids)
    }
  }

  @Test(.enabled(if: TokenizerData.isPresent))
  func publishedFilesHaveTheReferenceIds() throws {
    let world = try WorldVocabularyTests.tokenizer.get()
    let cases = TokenizerData.folder.appending(path: "../field-cases").standardized
    let list = try VocabularyText.tokens(
      of: [UInt8](Data(contentsOf: cases.appending(path: "F06-hf-v5/vocab.txt"))))
    let web = try Vocabulary(json: cases.appending(path: "M06-world.json").path)
    for tokens in [list, web.tokens] { #expect(try WorldTokenizer(tokens: tokens).blob == world.blob) }

    let split = try Vocabulary(
      json: TokenizerData.folder.appending(path: "world_wordlevel/tokenizer.json").path)
    let tokenizer = try WorldTokenizer(tokens: split.tokens)
    for item in try TokenizerData.cases("world_wordlevel/cases.json") {
      #expect(tokenizer.encode(item.bytes) == item.ids)
      #expect(tokenizer.decode(item.ids) == item.bytes)
    }
  }

  @Test(
    "a setting that would give other ids is refused",
    arguments: [
      ("\"use_regex\": false", "\"use_regex\": true"), ("prefix_space\": false", "prefix_space\": true"),
      ("Isolated", "MergedWithNext"), ("ByteLevel", "Metaspace"),
      ("\"normalizer\": null", "\"normalizer\": {\"type\": \"NFC\"}"),
      ("(?:", "(?:a|"), ("(?:", "(?:.|"), ("(?:", "(?:\\\\d|"), ("(?:", "(?:|"), ("(?:", "^(?:"),
    ])
  func refused(change: (from: String, to: String)) throws {
    let text = String(decoding: VocabularyForm.split.file(Self.small), as: UTF8.self)
    let changed = text.replacingOccurrences(of: change.from, with: change.to)
    #expect(changed != text)
    #expect(throws: CheckpointError.self) { try Self.read(Array(changed.utf8), isText: false) }
  }

  @Test("the order of tokens that do not hide each other is free")
  func orderOfAlternatives() throws {
    let text = String(decoding: VocabularyForm.split.file(Self.small), as: UTF8.self)
    let moved = text.replacingOccurrences(of: "abcd|", with: "").replacingOccurrences(
      of: "|ab|", with: "|abcd|ab|")
    #expect(moved != text)
    #expect(try Self.read(Array(moved.utf8), isText: false).tokens == Self.small)
  }

  @Test("added tokens are found before anything else")
  func addedTokens() throws {
    let text = String(decoding: VocabularyForm.trie.file(Self.small), as: UTF8.self)
    let more = """
      [{"id": 300, "content": "<|tool|>", "normalized": false, "special": true},
       {"id": 301, "content": "<|tool|>s", "normalized": true, "special": false},
      """
    let changed = text.replacingOccurrences(of: "[{\"id\": 0,", with: more + " {\"id\": 0,")
    let read = try Self.read(Array(changed.utf8), isText: false)
    #expect(read.added.map(\.id) == [300, 301])
    let made = try VocabularyTokenizer(tokens: read.tokens, rule: .longestMatch, added: read.added.map(\.id))
    let tokenizer = try TokenizerKind.vocabulary.tokenizer(blob: made.blob)
    #expect(try tokenizer.encode("ab<|tool|>sab<|tool|>") == [257, 301, 257, 300])
    // Id 0 separates documents; a text does not.
    #expect(try tokenizer.encode("<|endoftext|>").contains(0) == false)
    #expect(tokenizer.decode([300, 258]) == Array("<|tool|>abcd".utf8))
  }
}

@Suite("Vocabularies that cannot express every text")
struct VocabularyTokenizerTests {
  private func roundTrip(_ tokenizer: VocabularyTokenizer) throws -> any Tokenizer {
    try TokenizerKind.vocabulary.tokenizer(blob: tokenizer.blob)
  }

  private func expectRefusal(_ tokenizer: any Tokenizer, _ text: String, at offset: Int) {
    do {
      _ = try tokenizer.encode(text)
      Issue.record("encoded")
    } catch { #expect(error.place == .text(offset), "\(error)") }
  }

  @Test func longestMatchRefusesWhatItLacks() throws {
    let tokens = [[], Array(" a1 ".utf8), Array("a".utf8), Array("ab".utf8)]
    let tokenizer = try roundTrip(VocabularyTokenizer(tokens: tokens, rule: .longestMatch, added: []))
    #expect(try tokenizer.encode("aba a1 a") == [3, 2, 1, 2])
    #expect(try tokenizer.encode("") == [])
    expectRefusal(tokenizer, "abaé", at: 3)
    expectRefusal(tokenizer, "b", at: 0)
    #expect(tokenizer.decode([3, 0, 1, 9]) == Array("ab a1 ".utf8))
  }

  @Test func wordsStandBetweenWhiteSpace() throws {
    let tokens = ["<pad>", "<start>", "p:3c:a", "t1", "é"].map { Array($0.utf8) }
    let made = try VocabularyTokenizer(tokens: tokens, rule: .lowercasedWords, added: [0, 1])
    let tokenizer = try roundTrip(made)
    #expect(try tokenizer.encode("<start> P:3C:A\n\tt1 É<pad>") == [1, 2, 3, 4, 0])
    #expect(tokenizer.decode([1, 2, 3]) == Array("<start> p:3c:a t1 ".utf8))
    #expect(try tokenizer.encode(tokenizer.decode([1, 2, 3])) == [1, 2, 3])
    expectRefusal(tokenizer, "t1 t2", at: 3)
    expectRefusal(tokenizer, "<start>t1 t", at: 10)
    let strict = try roundTrip(VocabularyTokenizer(tokens: tokens, rule: .words, added: [0, 1]))
    expectRefusal(strict, "t1 T1", at: 3)
  }

  @Test func damagedDataIsRefused() throws {
    let blob = try VocabularyTokenizer(tokens: [[], [65], [66]], rule: .words, added: [2]).blob
    for length in blob.indices {
      #expect(throws: TokenizerError.self) { try VocabularyTokenizer(blob: Array(blob.prefix(length))) }
    }
    #expect(throws: TokenizerError.self) { try VocabularyTokenizer(blob: blob + [0]) }
    var changed = blob
    changed[changed.count - 9] = 3  // the rule
    #expect(throws: TokenizerError.self) { try VocabularyTokenizer(blob: changed) }
    #expect(throws: TokenizerError.self) {
      try VocabularyTokenizer(tokens: [[], [65]], rule: .words, added: [0])
    }
    #expect(throws: TokenizerError.self) { try VocabularyTokenizer(tokens: [[65]], rule: .words, added: [1]) }
    #expect(throws: TokenizerError.self) {
      try VocabularyTokenizer(tokens: [[65]], rule: .words, added: [0, 0])
    }
    #expect(throws: TokenizerError.self) {
      try VocabularyTokenizer(tokens: [[65], [65]], rule: .words, added: [])
    }
  }

  @Test(.enabled(if: TokenizerData.isPresent))
  func publishedVocabularies() throws {
    let folder = TokenizerData.folder.appending(path: "../field-cases").standardized
    let othello = try VocabularyText.tokens(
      of: [UInt8](Data(contentsOf: folder.appending(path: "M07-othello_vocab.txt"))))
    let game = try VocabularyTokenizer(tokens: othello, rule: .longestMatch, added: [])
    #expect(
      try game.encode("<input>\n· ● NEXT ● \nMAX_WIDTH-10\n</input>\n\n") == [2, 8, 10, 11, 10, 1, 21, 3])
    expectRefusal(game, "+5\nhello", at: 3)

    let midi = try Vocabulary(json: folder.appending(path: "M07-tokenizer-midi.json").path)
    #expect(midi.rule == .words(lowercased: true) && midi.added.map(\.id) == [0, 1, 2])
    let music = try VocabularyTokenizer(
      tokens: midi.tokens, rule: .lowercasedWords, added: midi.added.map(\.id))
    #expect(try music.encode("<start> T1 t125 pa:7f:b <end>") == [1, 3, 127, 20095, 2])
    expectRefusal(music, "t1 hello", at: 3)
  }
}
