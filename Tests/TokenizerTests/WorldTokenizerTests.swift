// SPDX-License-Identifier: MIT
import RWKVTokenizer
import Testing

@Suite("World tokenizer")
struct WorldTokenizerTests {
  /// All single bytes as ids 1…256, as the World vocabulary begins, and `lines` after them.
  static func vocabulary(_ lines: String...) -> [UInt8] {
    var text: [UInt8] = []
    for byte in 0..<256 {
      let digits = String(byte, radix: 16)
      text += Array("\(byte + 1) b'\\x\(byte < 16 ? "0" : "")\(digits)' 1\n".utf8)
    }
    return text + lines.flatMap { Array("\($0)\n".utf8) }
  }

  static func token(_ literal: String, length: Int) throws -> [UInt8] {
    try WorldTokenizer(vocabulary: vocabulary("257 \(literal) \(length)")).bytes(of: 257)
  }

  @Test("the longest match wins, from left to right")
  func longestMatch() throws {
    let tokenizer = try WorldTokenizer(
      vocabulary: Self.vocabulary("257 'ab' 2", "258 'abcd' 4", "259 'bc' 2", "300 'cde' 3"))
    #expect(tokenizer.vocabularySize == 301)
    #expect(try tokenizer.encode("abcd") == [258])
    #expect(try tokenizer.encode("abce") == [257, 100, 102])  // 'ab' is taken before 'bc' is seen
    #expect(try tokenizer.encode("abcde") == [258, 102])
    #expect(tokenizer.encode([0xFF, 0x61, 0x62, 0x00]) == [256, 257, 1])
    #expect(try tokenizer.encode("") == [])
    #expect(tokenizer.decode([257, 0, 299, 300, -1, 301]) == Array("abcde".utf8))
  }

  @Test("escapes in str literals are code points, in bytes literals bytes")
  func escapes() throws {
    #expect(try Self.token(#"'\xa0\x7f'"#, length: 3) == [0xC2, 0xA0, 0x7F])
    #expect(try Self.token(#"b'\xa0\x7f'"#, length: 2) == [0xA0, 0x7F])
    #expect(try Self.token(#"'\u200b'"#, length: 3) == [0xE2, 0x80, 0x8B])
    #expect(try Self.token(#"'\U000e0020'"#, length: 4) == [0xF3, 0xA0, 0x80, 0xA0])
    #expect(try Self.token(#"'\n\r\t\\\'\"'"#, length: 6) == Array("\n\r\t\\'\"".utf8))
    #expect(try Self.token(#""it's""#, length: 4) == Array("it's".utf8))
    #expect(try Self.token("' a b '", length: 5) == Array(" a b ".utf8))
  }

  @Test("a quote followed by a combining mark is two elements")
  func combiningMark() throws {
    #expect(try Self.token("'\u{301}'", length: 2) == [0xCC, 0x81])
    #expect(try Self.token("'a\u{301}'", length: 3) == [0x61, 0xCC, 0x81])
  }

  @Test("lines may end in CR LF, the last one in nothing")
  func lineEnds() throws {
    var text = Self.vocabulary("257 'ab' 2\r")
    text += Array("258 'abc' 3".utf8)
    #expect(try WorldTokenizer(vocabulary: text).encode("ababc") == [257, 258])
  }

  @Test("long tokens without common beginnings are refused before they fill the memory")
  func manyBeginnings() throws {
    func blob(_ rest: Int) -> [UInt8] {
      // 16 tokens of 65,535 bytes that differ in their first, one of `rest` bytes, and all single bytes.
      let lengths = [Int](repeating: 65_535, count: 15) + [rest]
      var blob: [UInt8] = [16, 1, 0, 0] + (0...255).flatMap { [1, 0, UInt8($0)] }
      for (first, length) in lengths.enumerated() {
        blob += [UInt8(length & 0xFF), UInt8(length >> 8), UInt8(first)]
        blob += [UInt8](repeating: 7, count: length - 1)
      }
      return blob
    }
    // The root, 256 bytes, and what follows the first byte of each token.
    let most = (1 << 20) - 257 - 15 * 65_534 + 1
    #expect(try WorldTokenizer(blob: blob(most)).vocabularySize == 272)
    #expect(throws: TokenizerError.self) { try WorldTokenizer(blob: blob(most + 1)) }
  }

  @Test("equal beginnings are told apart by what follows")
  func commonBeginnings() throws {
    let words = ["abcdefgh", "abcdefghi", "abcdefghij", "abcdefghx", "abcdefgha", "abcdefg"]
    let lines = words.enumerated().map { "\(257 + $0) '\($1)' \($1.utf8.count)" }
    let tokenizer = try WorldTokenizer(
      vocabulary: Self.vocabulary(lines[0], lines[1], lines[2], lines[3], lines[4], lines[5]))
    for (index, word) in words.enumerated() {
      #expect(try tokenizer.encode(word) == [257 + index], "\(word)")
    }
    #expect(throws: TokenizerError.self) {
      try WorldTokenizer(vocabulary: Self.vocabulary("257 'abcdefghij' 10", "258 'abcdefghij' 10"))
    }
  }

  @Test("id 0 may have text like any other")
  func idZero() throws {
    let blob: [UInt8] = [0, 1, 0, 0] + (0...255).flatMap { [1, 0, UInt8($0)] }
    #expect(try WorldTokenizer(blob: blob).encode([0, 255, 0]) == [0, 255, 0])
  }

  @Test(
    "a malformed line is refused with its number",
    arguments: [
      "257 'ab' 3", "257 'ab'", "257", "x 'ab' 2", "257 'ab 2", "257 'ab'c 3", "257 ab 2", "257 '' 0",
      "256 'ab' 2", "1048576 'ab' 2", "9999999999 'ab' 2", #"257 'a\q' 2"#, #"257 '\x4' 1"#,
      #"257 '\ud800' 3"#,
      #"257 '\U00110000' 4"#, #"257 b'\u0041' 1"#, #"257 '\' 1"#, "257 b'é' 2", "257 'ab' -2", "257 'ab' 2 ",
    ])
  func malformedLine(_ line: String) throws {
    let error = try #require(throws: TokenizerError.self) {
      try WorldTokenizer(vocabulary: Self.vocabulary(line))
    }
    #expect(error.place == .line(257), "\(error)")
  }

  @Test("invalid UTF-8 in a str literal is refused")
  func invalidUTF8() {
    let text = Self.vocabulary() + Array("257 '".utf8) + [0xC3] + Array("' 1\n".utf8)
    #expect(throws: TokenizerError.self) { try WorldTokenizer(vocabulary: text) }
  }

  @Test("a vocabulary needs every single byte, and no byte string twice")
  func completeness() throws {
    let missing = try #require(throws: TokenizerError.self) {
      try WorldTokenizer(vocabulary: Array(Self.vocabulary().dropLast(14)))
    }
    #expect(missing.problem.contains("255"))
    let duplicate = try #require(throws: TokenizerError.self) {
      try WorldTokenizer(vocabulary: Self.vocabulary("257 'ab' 2", "258 b'ab' 2"))
    }
    #expect(duplicate.place == .token(258) && duplicate.problem.contains("257"))
    #expect(throws: TokenizerError.self) { try WorldTokenizer(vocabulary: []) }
  }

  @Test("the blob gives the same tokenizer back; every shorter or longer blob is refused")
  func blob() throws {
    let blob = try WorldTokenizer(vocabulary: Self.vocabulary("257 'ab' 2")).blob
    #expect(blob.prefix(9) == [2, 1, 0, 0, 0, 0, 1, 0, 0] && blob.suffix(4) == [2, 0, 0x61, 0x62])
    let read = try TokenizerKind.world.tokenizer(blob: blob)
    #expect(try read.vocabularySize == 258 && read.encode("cab") == [100, 257])
    for length in 0..<blob.count {
      #expect(throws: TokenizerError.self) { try WorldTokenizer(blob: Array(blob.prefix(length))) }
    }
    #expect(throws: TokenizerError.self) { try WorldTokenizer(blob: blob + [0]) }
    #expect(throws: TokenizerError.self) {
      try WorldTokenizer(blob: [255, 255, 255, 255] + blob.dropFirst(4))
    }
  }

  @Test("a blob with any one byte changed is read or refused, never trapped on")
  func mutatedBlob() throws {
    let blob = try WorldTokenizer(vocabulary: Self.vocabulary("257 'ab' 2")).blob
    for index in blob.indices {
      var changed = blob
      changed[index] ^= 0x81
      if let tokenizer = try? WorldTokenizer(blob: changed) {
        #expect(try tokenizer.decode(tokenizer.encode("abc")) == Array("abc".utf8))
      }
    }
  }

  @Test("random bytes come back")
  func roundTrip() throws {
    var generator = TestGenerator(state: 1)
    let tokenizer = try WorldTokenizer(
      vocabulary: Self.vocabulary("257 'ab' 2", "258 'aba' 3", "259 'bab' 3"))
    for length in 0..<200 {
      let bytes = (0..<length).map { _ in
        Bool.random(using: &generator)
          ? UInt8.random(in: 0x61...0x63, using: &generator)
          : UInt8.random(in: 0...255, using: &generator)
      }
      #expect(tokenizer.decode(tokenizer.encode(bytes)) == bytes)
    }
  }
}

@Suite("A long text")
struct LongTextTests {
  static let bytes = (UInt8.min...UInt8.max).map { [$0] }
  static func tokenizers() throws -> [any Tokenizer] {
    [
      try WorldTokenizer(tokens: [[]] + bytes), try BPETokenizerTests.tokenizer(merges: [("a", "b")]),
      try VocabularyTokenizer(tokens: bytes, rule: .longestMatch, added: []),
      try VocabularyTokenizer(tokens: [Array("ab".utf8)], rule: .words, added: []),
    ]
  }

  @Test("what has been read is told every megabyte, and changes nothing")
  func progress() throws {
    let text = Array(String(repeating: "ab ", count: 1 << 20).utf8)
    for tokenizer in try Self.tokenizers() {
      var told: [Int] = []
      let ids = try tokenizer.encode(text) { told.append($0) }
      #expect(ids.count >= 1 << 20 && told.count >= 2 && told.count <= 3, "\(told)")
      #expect(told == told.sorted() && told.allSatisfy { $0 >= 1 << 20 && $0 <= text.count }, "\(told)")
    }
  }
}

@Suite("World vocabulary of 2023-04-24", .enabled(if: TokenizerData.isPresent))
struct WorldVocabularyTests {
  /// Loaded once: an unoptimized build takes its time.
  static let tokenizer = Result {
    try WorldTokenizer(vocabulary: TokenizerData.bytes("rwkv_vocab_v20230424.txt"))
  }

  @Test("all 65,529 tokens have the bytes that Python reads")
  func allTokens() throws {
    let tokenizer = try Self.tokenizer.get()
    let hash = tokenizer.blob.reduce(0xCBF2_9CE4_8422_2325 as UInt64) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 }
    // Printed by tools/develop/reference/vocabulary_hash.py.
    #expect(hash == 0xFDEC_3A3C_E0DC_5D6C)
    #expect(tokenizer.vocabularySize == 65_530)
  }

  @Test("each token encodes to its own id")
  func ownIds() throws {
    let tokenizer = try Self.tokenizer.get()
    #expect(tokenizer.bytes(of: 0).isEmpty)
    for id in 1..<tokenizer.vocabularySize where tokenizer.encode(tokenizer.bytes(of: id)) != [id] {
      Issue.record("token \(id)")
    }
  }

  @Test("every case has the reference's ids")
  func referenceCases() throws {
    let tokenizer = try Self.tokenizer.get()
    let cases = try TokenizerData.cases("world_cases.json")
    #expect(cases.count == 192)
    for item in cases {
      #expect(tokenizer.encode(item.bytes) == item.ids)
      #expect(tokenizer.decode(item.ids) == item.bytes)
    }
  }
}

@Suite("Byte tokenizer")
struct ByteTokenizerTests {
  @Test("ids are bytes")
  func bytes() throws {
    let tokenizer = try TokenizerKind.bytes.tokenizer(blob: [])
    #expect(tokenizer.vocabularySize == 256)
    #expect(try tokenizer.encode([0, 65, 255]) == [0, 65, 255])
    #expect(tokenizer.decode([0, 65, 255, 256, -1]) == [0, 65, 255])
  }
}
