// SPDX-License-Identifier: MIT
import RWKVFormat
import RWKVTokenizer
import Testing

@testable import RWKV

@Suite("JSON of a shape")
struct GuidedJSONTests {
  private func accepts(_ text: String, _ grammar: JSONGrammar) -> Bool {
    var guided = GuidedJSON(grammar)
    return text.utf8.allSatisfy { guided.push($0, grammar) } && guided.isComplete
  }

  private static let person = JSONShape.object(
    [
      .init("name", .string), .init("age", .integer, isRequired: false),
      .init("nick", .either([.string, .oneOf(["null"])]), isRequired: false),
      .init("mood", .oneOf([#""sad""#, #""so so""#])),
    ], others: nil)

  @Test func membersComeInOrder() throws {
    let grammar = try JSONGrammar(Self.person)
    for text in [
      #"{"name":"a","mood":"sad"}"#, #"{ "name" : "\u00e9\"", "age" : -12 , "mood" : "so so" }"#,
      #"{"name":"","age":0,"nick":null,"mood":"sad"}"#, #"{"name":"","nick":"x","mood":"sad"}"#,
    ] { #expect(accepts(text, grammar), "\(text)") }
    for text in [
      "{}", "[]", #"{"name":"a"}"#, #"{"name":1,"mood":"sad"}"#, #"{"mood":"sad","name":"a"}"#,
      #"{"name":"a","mood":"sad","age":1}"#, #"{"name":"a","age":1.5,"mood":"sad"}"#,
      #"{"name":"a","age":1e2,"mood":"sad"}"#, #"{"name":"a","mood":"s"}"#, #"{"name":"a","mood":"so"}"#,
      #"{"name":"a","mood":"sad",}"#, #"{"name":"a","mood":"sad","x":1}"#,
      #"{"name":"a","nick":1,"mood":"sad"}"#,
      #"{"name":"a","name":"b","mood":"sad"}"#, #"{"n\u0061me":"a","mood":"sad"}"#,
    ] { #expect(!accepts(text, grammar), "\(text)") }
  }

  @Test func schemasAreRead() throws {
    func grammar(_ schema: String) throws -> JSONGrammar {
      try JSONSchema.grammar(JSONValue(parsing: Array(schema.utf8), depth: 20), "s")
    }
    let person = try grammar(
      #"{"$defs":{"age":{"type":["integer","null"]}},"type":"object","required":["b","a"],"title":"x","#
        + ##""properties":{"b":{"enum":[1.50,"é\n",[],{"k":true},null]},"a":{"$ref":"#/$defs/age"}}}"##)
    for value in ["1.50", #""é\n""#, "[]", #"{"k":true}"#, "null"] {
      #expect(accepts(#"{"b":\#(value),"a":7}"#, person), "\(value)")
    }
    for text in [#"{"b":1.5,"a":7}"#, #"{"a":7,"b":null}"#, #"{"b":null}"#, #"{"b":null,"a":7.5}"#] {
      #expect(!accepts(text, person), "\(text)")
    }
    let some = try grammar(
      #"{"type":"array","minItems":2.0,"maxItems":2e0,"items":{"enum":[1,2.0,2.5,"x"],"type":"integer"}}"#)
    #expect(accepts("[1,2.0]", some) && !accepts("[1]", some) && !accepts("[1,2.5]", some))
    // Of any size, and to the last digit.
    let large = try grammar(
      #"{"items":{"type":"integer","enum":[9007199254740993,123456789012345678901234567890,1e30,1.5e0]}}"#)
    #expect(accepts("[9007199254740993,123456789012345678901234567890,1e30]", large))
    for text in ["[9007199254740992]", "[123456789012345678901234567891]", "[1.5e0]"] {
      #expect(!accepts(text, large), "\(text)")
    }
    for (schema, place) in [
      (#"{"pattern":"x"}"#, "s.pattern"), (#"{"type":"string"}"#, "s"), ("false", "s"), ("3", "s"),
      (#"{"properties":{"a":{"type":"decimal"}}}"#, "s.properties.a.type"),
      (#"{"items":{},"minItems":-1}"#, "s.minItems"), (#"{"minItems":1.5}"#, "s.minItems"),
    ] {
      let error = #expect(throws: JSONSchemaError.self, "\(schema)") { try grammar(schema) }
      #expect(error?.place == place)
    }
  }

  /// A model cannot go on with white space for ever, nor for long.
  @Test func oneSeparatorIsEnough() throws {
    let grammar = try JSONGrammar(Self.person)
    for space in [" ", "\n", "\t", "\r", ""] {
      let parts = ["{", #""name""#, ":", #""  ""#, ",", #""mood""#, ":", #""so so""#]
      #expect(accepts(parts.map { $0 + space }.joined() + "}", grammar))
      guard !space.isEmpty else { continue }
      for index in parts.indices {
        var more = parts
        more[index] += space + " "
        #expect(!accepts(more.joined() + "}", grammar), "two after \(parts[index])")
      }
    }
    var free = GuidedJSON(nil)
    #expect(("[" + String(repeating: " ", count: 32) + "]").utf8.allSatisfy { free.push($0, nil) })
  }

  @Test func otherMembersHaveOtherNames() throws {
    let grammar = try JSONGrammar(
      .object(
        [.init("ab", .integer), .init("q\"", .integer, isRequired: false)], others: .oneOf(["true", "false"]))
    )
    for text in [
      #"{"ab":1}"#, #"{"abc":true,"ab":1,"a":false,"":true}"#, #"{"ab":1,"q\"":2}"#, #"{"ab":1,"q":true}"#,
    ] { #expect(accepts(text, grammar), "\(text)") }
    for text in [
      #"{"x":true}"#, #"{"ab":true}"#, #"{"ab":1,"ab":true}"#, #"{"ab":1,"x":1}"#,
      #"{"ab":1,"a\u0062":true}"#,
      #"{"ab":1,"q\u0022":true}"#,
    ] { #expect(!accepts(text, grammar), "\(text)") }
    #expect(accepts(#"{"a":[{"b":[1,"x",{}]}]}"#, .object) && !accepts("[]", .object))
  }

  @Test func listsHaveSoManyElements() throws {
    let grammar = try JSONGrammar(
      .array(of: .either([.number, .array(of: .string, count: 0...1)]), count: 2...3))
    for text in ["[1,2]", "[1.5e3,[],[\"a\"]]", "[ -0 , [ ] ]"] { #expect(accepts(text, grammar), "\(text)") }
    for text in ["[]", "[1]", "[1,2,3,4]", "[1,true]", "[1,[1]]", "[1,[\"a\",\"b\"]]"] {
      #expect(!accepts(text, grammar), "\(text)")
    }
    let none = try JSONGrammar(.array(of: .any, count: 0...0))
    #expect(accepts("[ ]", none) && !accepts("[1]", none))
  }

  @Test func valuesAreThoseListed() throws {
    let grammar = try JSONGrammar(
      .array(
        of: .oneOf(["1", "12", "-1.5", #""a""#, #""ab""#, "true", #"{"x":[1,2]}"#, "[]", "null"]),
        count: 1...1))
    for value in ["1", "12", "-1.5", #""a""#, #""ab""#, "true", #"{"x":[1,2]}"#, "[]", "null"] {
      #expect(accepts("[\(value)]", grammar) && accepts("[ \(value) ]", grammar), "\(value)")
    }
    for value in ["2", "123", "1.5", "1, 23", #""""#, #""abc""#, "false", #"{"x":[1]}"#, "[1]", "{}"] {
      #expect(!accepts("[\(value)]", grammar), "\(value)")
    }
  }

  @Test func shapesMayOccurWithinThemselves() throws {
    let node = JSONShape.object(
      [.init("value", .integer), .init("next", .definition("node"), isRequired: false)], others: nil)
    let grammar = try JSONGrammar(.definition("node"), definitions: ["node": node])
    func nested(_ depth: Int) -> String {
      depth == 1 ? #"{"value":1}"# : #"{"value":1,"next":"# + nested(depth - 1) + "}"
    }
    #expect(accepts(nested(1), grammar) && accepts(nested(64), grammar) && !accepts(nested(65), grammar))
  }

  @Test func impossibleShapesAreRefused() {
    func refuses(_ error: JSONShapeError, _ shape: JSONShape, _ definitions: [String: JSONShape] = [:]) {
      #expect(throws: error) { try JSONGrammar(shape, definitions: definitions) }
    }
    refuses(.notContainer, .string)
    refuses(.notContainer, .either([.object([], others: nil), .integer]))
    refuses(.unknownDefinition("x"), .array(of: .definition("x"), count: 0...1))
    refuses(.impossible, .array(of: .either([]), count: 1...2))
    refuses(.impossible, .definition("a"), ["a": .either([.definition("a")])])
    refuses(.impossible, .definition("a"), ["a": .array(of: .definition("a"), count: 1...1)])
    refuses(.repeatedMember("a"), .object([.init("a", .any), .init("a", .any)], others: nil))
    for text in ["", " 1", "1,2", "]", "x", "\"a"] {
      refuses(.invalidValue(text), .array(of: .oneOf([text]), count: 0...1))
    }
    let deep = (0..<65).reduce(JSONShape.string) { shape, _ in .array(of: shape, count: 1...1) }
    refuses(.impossible, deep)
    refuses(
      .tooLarge(what: "parts", limit: 1 << 14),
      .object([], others: .either([JSONShape](repeating: .string, count: 1 << 14))))
  }

  /// A shape by chance, with what checks a parsed value against it.
  private static func random(
    _ generator: inout RandomGenerator, _ depth: Int
  ) -> (JSONShape, (JSONValue) -> Bool) {
    func below(_ bound: Int) -> Int { min(bound - 1, Int(generator.uniform() * Double(bound))) }
    switch below(depth > 0 ? 7 : 4) {
    case 0: return (.string, { $0.string != nil })
    case 1:
      return (
        .integer, { if case .number(let text) = $0 { !text.contains { ".eE".contains($0) } } else { false } }
      )
    case 2:
      let values: [JSONValue] = [.bool(true), .string("no"), .number("1"), .number("12")]
      return (.oneOf(["true", #""no""#, "1", "12"]), { values.contains($0) })
    case 3: return (.any, { _ in true })
    case 4:
      let (items, fits) = random(&generator, depth - 1)
      let least = below(3)
      let count = least...(least + below(3))
      return (
        .array(of: items, count: count),
        { $0.array.map { count.contains($0.count) && $0.allSatisfy(fits) } ?? false }
      )
    case 5:
      let (one, other) = (random(&generator, depth - 1), random(&generator, depth - 1))
      return (.either([one.0, other.0]), { one.1($0) || other.1($0) })
    default:
      var members: [(JSONShape.Member, (JSONValue) -> Bool)] = []
      for index in 0..<below(4) {
        let (shape, fits) = random(&generator, depth - 1)
        let name = ["a", "ab", "é\"", "long name"][index]
        members.append((.init(name, shape, isRequired: below(2) == 0), fits))
      }
      let others = below(2) == 0 ? random(&generator, depth - 1) : nil
      return (
        .object(members.map(\.0), others: others?.0),
        { value in
          guard case .object(let object, _) = value else { return false }
          return object.allSatisfy { name, value in
            members.first { $0.0.name == name }.map { $0.1(value) } ?? others?.1(value) ?? false
          } && members.allSatisfy { !$0.0.isRequired || object[$0.0.name] != nil }
        }
      )
    }
  }

  /// Whatever is written byte by byte of what is allowed comes to an end and fits; no beginning leads nowhere.
  @Test(arguments: 0..<60 as Range<UInt64>)
  func randomTextsFitRandomShapes(seed: UInt64) throws {
    var generator = RandomGenerator(seed: seed)
    let (inner, fits) = Self.random(&generator, 3)
    let grammar = try JSONGrammar(.array(of: inner, count: 2...2))
    let bytes = Array(#"{}[]",:\/u0129ea.+-tn longrufsb é "#.utf8)
    let closing = Array(#"]}""#.utf8)
    for _ in 0..<3 {
      var guided = GuidedJSON(grammar)
      var written: [UInt8] = []
      while !guided.isComplete && written.count < 5000 {
        // Ends become likelier.
        let tried =
          (generator.uniform() < Double(written.count) / 1000 ? closing.shuffled(with: &generator) : [])
          + bytes.shuffled(with: &generator) + Array(0...255)
        let next = tried.first { byte in
          var copy = guided
          return copy.push(byte, grammar)
        }
        let byte = try #require(next, "nothing can follow \(String(decoding: written, as: UTF8.self))")
        let isTaken = guided.push(byte, grammar)
        #expect(isTaken)
        written.append(byte)
      }
      guard guided.isComplete else { continue }
      // Names that the shape does not know may come again.
      let value = try JSONValue(parsing: written, depth: 64, lenient: true)
      #expect(value.array?.allSatisfy(fits) ?? false, "\(String(decoding: written, as: UTF8.self))")
    }
  }

  /// What the sampler allows is what can follow, token by token, in free and in other strings.
  @Test func samplerAllowsWhatCanFollow() throws {
    var lines = (0..<256).map { "\($0 + 1) b'\\x\($0 < 16 ? "0" : "")\(String($0, radix: 16))' 1\n" }
    for (index, text) in [#"{""#, #"name"#, #"":"#, #"sad""#, #"so"#, #""}"#, "ge", "12"].enumerated() {
      lines.append("\(257 + index) '\(text)' \(text.utf8.count)\n")
    }
    let tokenizer = try WorldTokenizer(vocabulary: Array(lines.joined().utf8))
    let grammar = try JSONGrammar(Self.person)
    var options = SamplingOptions()
    (options.jsonGrammar, options.topP, options.presencePenalty, options.frequencyPenalty) = (
      grammar, 1, 0, 0
    )
    for text in [
      "", "{", #"{""#, #"{"na"#, #"{"name":"#, #"{"name":"x"#, #"{"name":"x","#, #"{"name":"x","a"#,
      #"{"name":"x","age":1"#,
      #"{"name":"x","mood":"s"#,
    ] {
      var sampler = try Sampler(options, tokenizer: tokenizer)
      for byte in text.utf8 { sampler.record(Int(byte) + 1) }
      let expected = (1..<tokenizer.vocabularySize).filter { token in
        var guided = GuidedJSON(grammar)
        let bytes = tokenizer.bytes(of: token)
        return !bytes.isEmpty && (Array(text.utf8) + bytes).allSatisfy { guided.push($0, grammar) }
      }
      let found = try [Float](repeating: 0, count: 300).withUnsafeBufferPointer {
        try sampler.probabilities($0)
      }
      #expect(found.indices.filter { found[$0] > 0 } == expected && !expected.isEmpty, "\(text)")
    }
  }
}

extension Array {
  fileprivate func shuffled(with generator: inout RandomGenerator) -> [Element] {
    var result = self
    for index in result.indices.dropFirst().reversed() {
      result.swapAt(index, Swift.min(index, Int(generator.uniform() * Double(index + 1))))
    }
    return result
  }
}
