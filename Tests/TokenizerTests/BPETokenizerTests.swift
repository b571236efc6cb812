// SPDX-License-Identifier: MIT
import Foundation
@testable import RWKVTokenizer
import RWKVCheckpoint
import Testing

@Suite("BPE tokenizer")
struct BPETokenizerTests {
  /// Ids 0…255 are the bytes; then come the merged tokens in the order of rank, then the added ones.
  static func tokenizer(
    merges: [(String, String)], raw: [String] = [], normalized: [String] = []
  ) throws -> BPETokenizer {
    var tokens = (UInt8.min...UInt8.max).map { [$0] }
    func id(_ text: String) -> Int { tokens.firstIndex(of: Array(text.utf8)) ?? -1 }
    var pairs: [(left: Int, right: Int)] = []
    for (left, right) in merges {
      pairs.append((id(left), id(right)))
      if id(left + right) < 0 { tokens.append(Array((left + right).utf8)) }
    }
    var added: [(id: Int, normalized: Bool)] = []
    for (list, isNormalized) in [(raw, false), (normalized, true)] {
      for text in list {
        added.append((tokens.count, isNormalized))
        tokens.append(Array(text.utf8))
      }
    }
    return try BPETokenizer(tokens: tokens, merges: pairs, added: added)
  }

  static func pieces(_ tokenizer: BPETokenizer, _ text: String) -> [String] {
    tokenizer.encode(Array(text.utf8)).map { String(decoding: tokenizer.bytes(of: $0), as: UTF8.self) }
  }

  @Test("the lowest rank merges first, of equals the leftmost")
  func ranks() throws {
    let tokenizer = try Self.tokenizer(merges: [("b", "c"), ("a", "b"), ("a", "a"), ("aa", "a"), ("d", "bc")])
    #expect(Self.pieces(tokenizer, "abc") == ["a", "bc"])
    #expect(Self.pieces(tokenizer, "abd") == ["ab", "d"])
    #expect(Self.pieces(tokenizer, "aaaaa") == ["aa", "aaa"])
    #expect(Self.pieces(tokenizer, "dbcabc") == ["dbc", "a", "bc"])
    #expect(Self.pieces(tokenizer, "") == [])
  }

  @Test("merging agrees with the definition on random words")
  func mergesByDefinition() throws {
    let merges = [
      ("b", "a"), ("a", "b"), ("ab", "a"), ("a", "a"), ("ba", "ba"), ("aa", "b"), ("b", "b"), ("ab", "ab"),
    ]
    let tokenizer = try Self.tokenizer(merges: merges)
    var generator = TestGenerator(state: 4)
    for _ in 0..<500 {
      var word = (0..<Int.random(in: 1...24, using: &generator)).map { _ in
        Bool.random(using: &generator) ? "a" : "b"
      }
      let text = word.joined()
      while let best = (0..<word.count - 1).compactMap({ position -> (Int, Int)? in
        merges.firstIndex { $0 == (word[position], word[position + 1]) }.map { ($0, position) }
      }).min(by: <) {
        word.replaceSubrange(best.1...best.1 + 1, with: [word[best.1] + word[best.1 + 1]])
      }
      #expect(Self.pieces(tokenizer, text) == word, "\(text)")
    }
  }

  @Test("merges are found again, also where the table goes on at its start")
  func mergesAreFound() {
    var generator = TestGenerator(state: 5)
    for _ in 0..<500 {
      var table = MergeTable(count: 8)
      let pairs = (0..<8 as Range<Int32>).map { _ in
        (Int32.random(in: 0..<1000, using: &generator), Int32.random(in: 1000..<1_000_000, using: &generator))
      }
      for (left, right) in pairs {
        let isNew = table.insert(left, right, .init(rank: left, token: right))
        #expect(isNew)
      }
      for (left, right) in pairs { #expect(table[left, right]?.token == right) }
    }
  }

  @Test("a word of 200,000 letters is no trouble", .timeLimit(.minutes(1)))
  func longWord() throws {
    let tokenizer = try Self.tokenizer(merges: [("a", "a"), ("aa", "aa"), ("aaaa", "aaaa")])
    #expect(
      try tokenizer.encode(String(repeating: "a", count: 200_000)) == Array(repeating: 258, count: 25_000))
  }

  /// Where GPT-2's pattern cuts, checked with Python's `regex`.
  @Test(
    "words are those of GPT-2's pattern",
    arguments: [
      ["Hello", " world", "!"], ["don", "'t", " I", "'ll", " we", "'re", "'", "T"], ["a", " ", " b"],
      ["a", "  "],
      ["a", "\n", "\n", "b"], ["a", "\n", " b"], ["a", " ", "\n", "b"], [" \n"],
      ["x", "12", "y", " 3", "."],
      ["'s", "'", "x"], ["é", "½²", "日本"], ["a", " \t\t", " b"], [" ", "\u{A0}", "x"], ["\u{85}"],
      ["\u{200B}", " ?!", "\t", "x"],
      [" €", "50"],
      ["e", "\u{301}\u{302}"], ["\u{2028}", "\u{3000}", "中"],
    ])
  func words(_ expected: [String]) {
    var rest = Array(expected.joined().utf8)[...]
    var found: [String] = []
    while !rest.isEmpty {
      let end = SplitPattern.wordEnd(rest)
      found.append(String(decoding: rest[..<end], as: UTF8.self))
      rest = rest[end...]
    }
    // Compared as bytes: equal strings may differ in normalization.
    #expect(found.map { Array($0.utf8) } == expected.map { Array($0.utf8) }, "\(found)")
  }

  @Test("added tokens: the longest wins, raw ones before normalization, others after")
  func added() throws {
    let tokenizer = try Self.tokenizer(
      merges: [(" ", " ")], raw: ["<|end|>", "e\u{301}!"], normalized: ["  ", "    ", "\u{E9}?"])
    #expect(try tokenizer.encode("x<|end|>  y") == [0x78, 257, 259, 0x79])
    #expect(try tokenizer.encode("     ") == [260, 0x20])
    #expect(try tokenizer.encode("e\u{301}!e\u{301}?") == [258, 261])
    #expect(try tokenizer.encode("e\u{301}") == [0xC3, 0xA9])
    #expect(tokenizer.decode([257, 260]) == Array("<|end|>    ".utf8))
  }

  @Test("invalid UTF-8 encodes as U+FFFD")
  func invalidUTF8() throws {
    #expect(try Self.tokenizer(merges: []).encode([0x61, 0xFF]) == [0x61, 0xEF, 0xBF, 0xBD])
  }

  @Test("the blob gives the same tokenizer back; damaged blobs are refused or read, never trapped on")
  func blob() throws {
    let tokenizer = try Self.tokenizer(merges: [("a", "b"), ("ab", "ab")], raw: ["<x>"], normalized: ["  "])
    let blob = tokenizer.blob
    let read = try TokenizerKind.bpe.tokenizer(blob: blob)
    #expect(try read.encode("ababab<x>  ") == [257, 256, 258, 259])
    #expect(try BPETokenizer(blob: blob).blob == blob)
    for length in 0..<blob.count {
      #expect(throws: TokenizerError.self) { try BPETokenizer(blob: Array(blob.prefix(length))) }
    }
    #expect(throws: TokenizerError.self) { try BPETokenizer(blob: blob + [0]) }
    for index in blob.indices {
      for flip in [0x01, 0x80, 0xFF] as [UInt8] {
        var changed = blob
        changed[index] ^= flip
        if let tokenizer = try? BPETokenizer(blob: changed) { _ = tokenizer.encode(Array("abab<x>  é".utf8)) }
      }
    }
  }

  @Test("merges that make no token, occur twice or use added tokens are refused; so are missing bytes")
  func invalidVocabulary() throws {
    let bytes = (UInt8.min...UInt8.max).map { [$0] }
    let tokens = bytes + [Array("ab".utf8), Array("ab".utf8)]
    func error(
      _ tokens: [[UInt8]], _ merges: [(left: Int, right: Int)], _ added: [(id: Int, normalized: Bool)]
    ) throws -> TokenizerError.Place {
      try #require(throws: TokenizerError.self) {
        try BPETokenizer(tokens: tokens, merges: merges, added: added)
      }.place
    }
    #expect(try error(tokens, [], []) == .token(257))
    #expect(try error(tokens, [(0x61, 0x62), (0x61, 0x63)], [(257, false)]) == .merge(1))
    #expect(try error(tokens, [(0x61, 0x62), (0x61, 0x62)], [(257, false)]) == .merge(1))
    #expect(try error(tokens, [(257, 0x61)], [(257, false)]) == .merge(0))
    #expect(try error(tokens, [(0x61, 9999)], [(257, false)]) == .merge(0))
    #expect(try error(tokens, [], [(258, false)]) == .token(258))
    #expect(try error(tokens, [], [(257, false), (257, true)]) == .vocabulary)
    #expect(try error(Array(bytes.dropLast(12)), [], []) == .vocabulary)  // 0xF4 is missing
    #expect(try BPETokenizer(tokens: Array(bytes.dropLast(11)), merges: [], added: []).vocabularySize == 245)
    #expect(try error([], [], []) == .vocabulary)
  }
}

@Suite("Normalization form C")
struct NormalizationTests {
  static func composed(_ text: String) -> [UInt8] {
    Normalization.composed(Array(text.utf8)[...])
  }

  @Test("all scalars that matter, alone and between others, give what Python's database gives")
  func allScalars() {
    var hash: UInt64 = 0xCBF2_9CE4_8422_2325
    let ranges: [Range<UInt32>] = [
      0..<0x3400, 0xA600..<0xB000, 0xF900..<0x12000, 0x1D000..<0x1E000, 0x2F800..<0x2FA20,
    ]
    for value in ranges.joined() {
      guard let scalar = Unicode.Scalar(value), Self.isAssigned(scalar) else { continue }
      for text in ["\(scalar)", "a\(scalar)\u{323}\u{301}", "\u{1100}\u{1161}\(scalar)e\u{301}\u{327}"] {
        for byte in Self.composed(text) { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01B3 }
        hash = (hash ^ 0x0A) &* 0x100_0000_01B3
      }
    }
    // Printed by tools/develop/reference/normalization_hash.py.
    #expect(hash == 0x19D9_72CB_C2FE_DAE1)
  }

  /// In Unicode 14, the version of the tables.
  static func isAssigned(_ scalar: Unicode.Scalar) -> Bool {
    guard let age = scalar.properties.age, scalar.properties.generalCategory != .unassigned else {
      return false
    }
    return age.major <= 14
  }

  @Test("random sequences keep their meaning, are stable, and equal sequences become the same bytes")
  func randomSequences() {
    let scalars: [Unicode.Scalar] = [
      "a", "e", "\u{E9}", "\u{1EC7}", "\u{301}", "\u{323}", "\u{327}", "\u{302}", "\u{345}", "\u{3B1}",
      "\u{1F80}", "\u{AC00}",
      "\u{AC01}", "\u{1100}", "\u{1161}", "\u{11A8}", "\u{958}", "\u{93C}", "\u{212B}", "\u{F900}",
      "\u{1D15E}", "\u{344}", "\u{9C7}",
      "\u{9BE}", "\u{FB1D}",
    ]
    var generator = TestGenerator(state: 6)
    for _ in 0..<500 {
      var view = String.UnicodeScalarView()
      for _ in 0..<8 { view.append(scalars.randomElement(using: &generator) ?? "a") }
      let text = String(view)
      let result = Self.composed(text)
      let composed = String(decoding: result, as: UTF8.self)
      #expect(composed == text)  // Swift compares by canonical equivalence
      #expect(Normalization.composed(result[...]) == result)
      #expect(result == Self.composed(text.decomposedStringWithCanonicalMapping))
    }
  }
}

@Suite("GPT-NeoX vocabulary", .enabled(if: TokenizerData.isPresent))
struct NeoXVocabularyTests {
  @Test("every case has the reference's ids, also after a round trip through the blob")
  func referenceCases() throws {
    let json = try Vocabulary(json: TokenizerData.folder.appending(path: "20B_tokenizer.json").path)
    #expect(json.tokens.count == 50_277 && json.merges.count == 50_009 && json.added.count == 25)
    let made = try BPETokenizer(tokens: json.tokens, merges: json.merges, added: json.added)
    let tokenizer = try BPETokenizer(blob: made.blob)
    let cases = try TokenizerData.cases("neox_cases.json")
    #expect(cases.count == 172)
    for item in cases {
      #expect(tokenizer.encode(item.bytes) == item.ids, "\(item.text ?? "")")
      #expect(tokenizer.decode(item.ids) == Array((item.decoded ?? "").utf8))
    }
  }
}
