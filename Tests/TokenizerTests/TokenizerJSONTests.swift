// SPDX-License-Identifier: MIT
import Foundation
import RWKVCheckpoint
import Testing

@Suite("tokenizer.json")
struct TokenizerJSONTests {
  static let valid = """
    {"normalizer": {"type": "NFC"},
     "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true},
     "added_tokens": [{"id": 0, "content": "<|end|>", "special": true, "normalized": false, "lstrip": false},
                      {"id": 6, "content": "  ", "special": false, "normalized": true}],
     "model": {"type": "BPE", "dropout": null, "unk_token": null,
               "vocab": {"<|end|>": 0, "a": 1, "Ġ": 2, "é": 3, "Ġa": 4, "Ċ": 5}, "merges": ["Ġ a"]}}
    """

  static func read(_ text: String) throws -> Vocabulary {
    let file = FileManager.default.temporaryDirectory.appending(path: "tokenizer-\(UUID()).json")
    try Data(text.utf8).write(to: file)
    defer { try? FileManager.default.removeItem(at: file) }
    return try Vocabulary(json: file.path)
  }

  @Test("tokens are bytes, merges are ids, added tokens are text")
  func values() throws {
    let json = try Self.read(Self.valid)
    #expect(
      json.tokens == [Array("<|end|>".utf8), [0x61], [0x20], [0xE9], [0x20, 0x61], [0x0A], [0x20, 0x20]])
    #expect(json.merges.map { [$0.left, $0.right] } == [[2, 1]])
    #expect(json.added.map(\.id) == [0, 6] && json.added.map(\.normalized) == [false, true])
  }

  @Test("newer files write a merge as a list")
  func mergeLists() throws {
    let json = try Self.read(Self.valid.replacingOccurrences(of: #""Ġ a""#, with: #"["Ġ", "a"]"#))
    #expect(json.merges.map { [$0.left, $0.right] } == [[2, 1]])
  }

  @Test("words that are lowercased need added tokens that are taken as they are")
  func addedToLowercasedWords() throws {
    func text(_ normalizer: String, isNormalized: Bool) -> String {
      """
      {"added_tokens": [{"id": 1, "content": "<S>", "normalized": \(isNormalized)}], "normalizer": \(normalizer),
       "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": {"type": "WordLevel", "vocab": {"a": 2}}}
      """
    }
    let lowercase = #"{"type": "Lowercase"}"#
    for json in [
      try Self.read(text(lowercase, isNormalized: false)), try Self.read(text("null", isNormalized: true)),
    ] {
      #expect(json.added.map(\.id) == [1] && json.tokens == [[], Array("<S>".utf8), Array("a".utf8)])
    }
    let error = #expect(throws: CheckpointError.self) { try Self.read(text(lowercase, isNormalized: true)) }
    #expect(error?.description.contains("added_tokens.normalized") == true)
  }

  @Test(
    "a setting or value that would give other ids is refused",
    arguments: [
      ("NFC", "NFKC"), (#""add_prefix_space": false"#, #""add_prefix_space": true"#),
      ("ByteLevel", "Whitespace"),
      (#""BPE""#, #""Unigram""#), (#""dropout": null"#, #""dropout": 0.1"#),
      (#""lstrip": false"#, #""lstrip": true"#),
      (#""unk_token": null"#, #""unk_token": "x""#), (#""Ċ": 5"#, #""Ċ": 4"#), (#""Ċ": 5"#, #""Ċ": 9999999"#),
      (#""Ċ": 5"#, #""\n": 5"#), (#""Ċ": 5"#, #""Ċ": -5"#), ("Ġ a", "Ġ b"), ("Ġ a", "Ġa"), ("Ġ a", "Ġ a a"),
      (#""id": 6, "#, ""), (#""normalized": true"#, #""normalized": 1"#), ("}}", "}"),
    ])
  func refused(_ change: (from: String, to: String)) throws {
    let text = Self.valid.replacingOccurrences(of: change.from, with: change.to)
    #expect(text != Self.valid)
    #expect(throws: CheckpointError.self) { try Self.read(text) }
  }
}
