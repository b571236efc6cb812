// SPDX-License-Identifier: MIT
import RWKVTokenizer
import Testing

@Suite("UTF-8 stream")
struct UTF8StreamTests {
  static func run(_ pieces: [ArraySlice<UInt8>], _ invalidBytes: UTF8Stream.InvalidBytes) -> [UInt8] {
    var stream = UTF8Stream(invalidBytes: invalidBytes)
    return pieces.flatMap { stream.push($0) } + stream.flush()
  }

  @Test("an incomplete character is held back until it is complete")
  func holdsBack() {
    var stream = UTF8Stream()
    #expect(stream.push([0x61, 0xF0]) == [0x61])
    #expect(stream.push([0x9F, 0x98]) == [])
    #expect(stream.push([0x80, 0xC3]) == [0xF0, 0x9F, 0x98, 0x80])
    #expect(stream.push([0xA9]) == [0xC3, 0xA9])
    #expect(stream.flush() == [])
  }

  @Test(
    "a byte that cannot continue a character is replaced at once",
    arguments: [
      [0x80], [0xC0], [0xC1], [0xF5], [0xFF], [0xE0, 0x80], [0xED, 0xA0], [0xF0, 0x8F], [0xF4, 0x90],
    ])
  func invalid(_ bytes: [UInt8]) {
    var stream = UTF8Stream()
    #expect(stream.push(bytes) == Array(String(repeating: "\u{FFFD}", count: bytes.count).utf8))
  }

  @Test("an unfinished character at the end becomes one replacement character, or stays as it is")
  func flush() {
    #expect(Self.run([[0xE2, 0x82]], .replace) == Array("\u{FFFD}".utf8))
    #expect(Self.run([[0xE2, 0x82]], .keep) == [0xE2, 0x82])
  }

  @Test(
    "text of all scripts, byte by byte and behind stop strings, is whole characters at every moment",
    arguments: [
      "床前明月光，疑是地上霜。", "السَّلامُ عَلَيْكُم", "👩‍👩‍👧‍👦 🇺🇳 👍🏽 e\u{301}", "नमस्ते, 안녕하세요 – ‘ok’", "\u{10FFFF}\u{800}\u{7FF}",
    ])
  func scripts(_ text: String) {
    for stops in [[], ["。。", "👩‍👨", "\u{301}\u{301}"]] as [[String]] {
      var (matcher, stream, output) = (StopMatcher(stops), UTF8Stream(), [UInt8]())
      for byte in text.utf8 {
        let piece = stream.push(matcher.push([byte]))
        #expect(String(validating: piece, as: UTF8.self) != nil)
        output += piece
      }
      output += stream.push(matcher.flush()) + stream.flush()
      #expect(output == Array(text.utf8))
    }
  }

  @Test("the output does not depend on the cuts, is valid UTF-8, and never breaks a character")
  func randomCuts() {
    var generator = TestGenerator(state: 2)
    let letters: [[UInt8]] = [
      [0x41], [0xC3, 0xA9], [0xE2, 0x82, 0xAC], [0xF0, 0x9F, 0x98, 0x80], [0xE0], [0x80], [0xFF],
    ]
    for _ in 0..<500 {
      let bytes = (0..<12).flatMap { _ in letters.randomElement(using: &generator) ?? [] }
      let expected = Array(String(decoding: bytes, as: UTF8.self).utf8)
      let pieces = bytes.randomPieces(&generator)
      #expect(Self.run(pieces, .replace) == expected)
      #expect(Self.run(pieces, .keep) == bytes)
      var stream = UTF8Stream()
      for piece in pieces {
        #expect(String(validating: stream.push(piece), as: UTF8.self) != nil)
      }
    }
  }
}

@Suite("Stop matcher")
struct StopMatcherTests {
  @Test("the beginning of a stop string is held back and released when it does not go on")
  func holdsBack() {
    var matcher = StopMatcher(["\n\nUser:"])
    #expect(matcher.push("hi\n\nUs".utf8) == Array("hi".utf8))
    #expect(matcher.push("e a".utf8) == Array("\n\nUse a".utf8))
    #expect(matcher.push("\n\n\nUser".utf8) == Array("\n".utf8))
    #expect(!matcher.isStopped)
    #expect(matcher.push(": x".utf8) == [])
    #expect(matcher.isStopped)
    #expect(matcher.push("more".utf8) == [])
    #expect(matcher.flush() == [])
  }

  @Test("held bytes come out at the end")
  func flush() {
    var matcher = StopMatcher(["END"])
    #expect(matcher.push("the EN".utf8) == Array("the ".utf8))
    #expect(matcher.flush() == Array("EN".utf8))
  }

  @Test("without stop strings everything passes")
  func empty() {
    var matcher = StopMatcher([""])
    #expect(matcher.push([1, 2, 3]) == [1, 2, 3])
    #expect(!matcher.isStopped)
  }

  /// The text before the stop string that ends first (the longest of those), or all of it: straight from the
  /// definition.
  static func expected(_ text: [UInt8], _ stops: [[UInt8]]) -> (output: [UInt8], isStopped: Bool) {
    for end in 0...text.count {
      let found = stops.filter { $0.count <= end && Array(text[(end - $0.count)..<end]) == $0 }
      if let longest = found.map(\.count).max() { return (Array(text[..<(end - longest)]), true) }
    }
    return (text, false)
  }

  @Test("the output does not depend on the cuts")
  func randomCuts() {
    var generator = TestGenerator(state: 3)
    func random(_ lengths: ClosedRange<Int>) -> [UInt8] {
      (0..<Int.random(in: lengths, using: &generator)).map { _ in
        UInt8.random(in: 0x61...0x62, using: &generator)
      }
    }
    var stopped = 0
    for _ in 0..<2000 {
      let text = random(0...20)
      let stops = [random(2...7), random(3...7), random(4...7)]
      let expected = Self.expected(text, stops)
      var matcher = StopMatcher(stops)
      var output = text.randomPieces(&generator).flatMap { matcher.push($0) }
      output += matcher.flush()
      #expect(output == expected.output)
      #expect(matcher.isStopped == expected.isStopped)
      stopped += expected.isStopped ? 1 : 0
    }
    #expect((100..<1900).contains(stopped))  // both outcomes have been tried
  }
}
