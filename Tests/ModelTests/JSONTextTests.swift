// SPDX-License-Identifier: MIT
import Foundation
import RWKVTokenizer
import Testing

@testable import RWKV

@Suite("Only JSON")
struct JSONTextTests {
  /// Whether the automaton takes the whole text and finds it complete.
  private func accepts(_ bytes: [UInt8]) -> Bool {
    var text = JSONText()
    return bytes.allSatisfy { text.push($0) } && text.isComplete
  }

  private func accepts(_ text: String) -> Bool { accepts(Array(text.utf8)) }

  static let documents = [
    "{}", "[]", "[ ]", #"{"a": 1}"#, "[1, -2.5e+10, 0, 0.5, 1E5, -0]", "[true,false,null]",
    #"{"k":{"l":[[],{},"x"]},"m":"\u00e9\n\"\\\/"}"#, #"["é你🙂"]"#,
    "[\n  {\n    \"a\" : [ 1 , 2 ]\n  }\n]",
  ]

  /// Random changes of documents: what is taken is what Foundation's parser takes.
  @Test func takesWhatAParserTakes() throws {
    var generator = RandomGenerator(seed: 11)
    func random(_ bound: Int) -> Int { min(bound - 1, Int(generator.uniform() * Double(bound))) }
    let pieces = Array(#"{}[]",:\u01eE+-.tn é🙂"#.utf8) + [0x0A, 0xFF, 0x00, 0xED, 0xC0]
    var (taken, refused) = (0, 0)
    for document in Self.documents {
      for _ in 0..<2000 {
        var bytes = Array(document.utf8)
        for _ in 0..<random(3) {
          switch random(3) {
          case 0 where bytes.count > 1: bytes.remove(at: random(bytes.count))
          case 1: bytes.insert(pieces[random(pieces.count)], at: random(bytes.count + 1))
          default: bytes[random(bytes.count)] = pieces[random(pieces.count)]
          }
        }
        // Theirs takes commas before the end of a container, and guesses at encodings from zeros.
        let text = String(decoding: bytes.filter { $0 != 0x20 && $0 != 0x0A }, as: UTF8.self)
        if bytes.contains(0) || text.contains(",]") || text.contains(",}") { continue }
        // It may have white space after the end.
        let isParsed =
          bytes.last != 0x20 && bytes.last != 0x0A && String(validating: bytes, as: UTF8.self) != nil
          && (try? JSONSerialization.jsonObject(with: Data(bytes))) != nil
        #expect(accepts(bytes) == isParsed, "\(String(decoding: bytes, as: UTF8.self))")
        (taken, refused) = isParsed ? (taken + 1, refused) : (taken, refused + 1)
      }
    }
    #expect(taken > 5000 && refused > 5000)
  }

  @Test func isNarrowWhereAModelCouldGoOnForever() {
    func repeated(_ text: String, _ count: Int) -> String { String(repeating: text, count: count) }
    #expect(accepts(repeated("[", 64) + repeated("]", 64)))
    #expect(!accepts(repeated("[", 65) + repeated("]", 65)))
    #expect(accepts("[" + repeated(" ", 32) + "]") && !accepts("[" + repeated(" ", 33) + "]"))
    for text in [
      "1", #""a""#, "null", #"["\ud800"]"#, "[]]", "[] ", "", "[", "{", "[1,]", #"{"a":1,}"#, "[\0]",
    ] { #expect(!accepts(text)) }
    #expect(accepts(#"["\ud7ff\uE000"]"#) && !accepts(#"["\uDFFF"]"#))
  }

  /// Tokens of several bytes, among them some that end the text and go on.
  private static func tokenizer() throws -> WorldTokenizer {
    var lines = (0..<256).map { "\($0 + 1) b'\\x\($0 < 16 ? "0" : "")\(String($0, radix: 16))' 1\n" }
    for (index, text) in [#"{""#, #"":"#, #""}"#, "}}", "]}", "},", "[[", "null", "tru"].enumerated() {
      lines.append("\(257 + index) '\(text)' \(text.utf8.count)\n")
    }
    return try WorldTokenizer(vocabulary: Array(lines.joined().utf8))
  }

  /// Whatever the logits are, what is written is JSON.
  @Test(arguments: 0..<40 as Range<UInt64>)
  func randomTextsAreJSON(seed: UInt64) throws {
    var options = SamplingOptions()
    options.onlyJSON = true
    options.seed = seed
    options.topP = 1
    options.presencePenalty = 0
    options.frequencyPenalty = 0
    // Quotes and brackets become likely, so that the text ends.
    for byte in [0x22, 0x7D, 0x5D] { options.logitBias[byte + 1] = 5 }
    let tokenizer = try Self.tokenizer()
    var sampler = try Sampler(options, tokenizer: tokenizer)
    var written: [UInt8] = []
    for _ in 0..<20_000 where !sampler.isFinished {
      written += tokenizer.bytes(of: try sampler.sample([Float](repeating: 0, count: 300)))
    }
    #expect(sampler.isFinished)
    #expect((try? JSONSerialization.jsonObject(with: Data(written))) != nil, "\(written)")
    sampler.reset()
    #expect(!sampler.isFinished)
  }

  /// Tokens are tried all at once along their common beginnings; what is allowed is what one by one could follow.
  @Test func allowedIsWhatCanFollow() throws {
    var options = SamplingOptions()
    (options.onlyJSON, options.topP, options.presencePenalty, options.frequencyPenalty) = (true, 1, 0, 0)
    let tokenizer = try Self.tokenizer()
    for text in [
      "", "{", "{\"", "{\"a", "{\"a\\", "{\"a\":", "{\"a\": -", "{\"a\":1", "{\"a\":\"", "{\"a\":\"x\\u00",
      "[[", "[t", "[\"\u{e9}\",",
      "[1]",
    ] {
      var sampler = try Sampler(options, tokenizer: tokenizer)
      for byte in text.utf8 { sampler.record(Int(byte) + 1) }
      let expected = (0..<tokenizer.vocabularySize).filter { token in
        let bytes = tokenizer.bytes(of: token)
        var whole = JSONText()
        return token > 0 && !bytes.isEmpty && (Array(text.utf8) + bytes).allSatisfy { whole.push($0) }
      }
      let logits = [Float](repeating: 0, count: 300)
      guard !expected.isEmpty else {
        #expect(throws: SamplingError.noCandidates) { try sampler.sample(logits) }
        continue
      }
      let found = try logits.withUnsafeBufferPointer { try sampler.probabilities($0) }
      #expect(found.indices.filter { found[$0] > 0 } == expected, "\(text)")
    }
  }

  @Test func withoutATokenizerItIsRefused() {
    var options = SamplingOptions()
    options.onlyJSON = true
    #expect(throws: SamplingError.jsonNeedsTokenizer) { try Sampler(options) }
  }
}
