// SPDX-License-Identifier: MIT
/// A JSON value. Numbers keep their text: sizes and offsets must not pass through floating point.
public enum JSONValue: Sendable, Equatable {
  case null
  case bool(Bool)
  case number(String)
  case string(String)
  case array([JSONValue])
  /// An object: its members, and their names in the order in which they first occur.
  case object([String: JSONValue], order: [String])

  /// The member of an object; nil if there is none, or the value is no object.
  public subscript(key: String) -> JSONValue? {
    if case .object(let members, _) = self { members[key] } else { nil }
  }
  /// The value of an unsigned decimal integer up to 2⁵³ that is written as plain digits; nil for all others.
  public var unsigned: Int? {
    guard case .number(let text) = self, text.utf8.allSatisfy({ (48...57).contains($0) }),
      let value = Int(text), value <= 1 << 53
    else { return nil }
    return value
  }
  /// The value of a number; nil for all others.
  public var double: Double? { if case .number(let text) = self { Double(text) } else { nil } }
  /// The value of a number, also where it stands in quotes.
  public var number: Double? { double ?? string.flatMap(Double.init) }
  /// The text of a string; nil for all others.
  public var string: String? { if case .string(let text) = self { text } else { nil } }
  /// The elements of an array; nil for all others.
  public var array: [JSONValue]? { if case .array(let values) = self { values } else { nil } }

  /// Why a text is no JSON.
  public struct SyntaxError: Error, Equatable {
    /// What is wrong.
    public let problem: String
    /// How many bytes of the text stand before the problem.
    public let offset: Int
  }

  /// The longest key or text [bytes].
  public static let maximumText = 1 << 20

  /// Reads one JSON text (RFC 8259), strictly: no duplicate keys, nesting at most `depth`, at most a million
  /// values, no text of more bytes than `longest`.
  ///
  /// `lenient` also reads what Python's json reads, and what people write beside it: `NaN` and `Infinity`, keys that
  /// occur again (the last counts), control characters and damaged characters in strings; what is nested more deeply
  /// is null.
  public init(
    parsing bytes: [UInt8], depth: Int, lenient: Bool = false, longest: Int = maximumText
  ) throws(SyntaxError) {
    var parser = JSONParser(bytes: bytes, isLenient: lenient, longest: longest)
    self = try parser.value(depth: depth)
    parser.skipSpace()
    guard parser.position == bytes.count else { throw parser.error("text after the end") }
  }

  /// What stands between the quotes of a string.
  public static func escaped(_ text: String) -> String {
    var result = ""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"", "\\": result += "\\\(scalar)"
      case "\n": result += "\\n"
      case "\r": result += "\\r"
      case "\t": result += "\\t"
      case _ where scalar.value < 0x20:
        result += "\\u00" + (scalar.value < 0x10 ? "0" : "") + String(scalar.value, radix: 16)
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result
  }
}

/// Recursive descent over the bytes; `depth` bounds the recursion.
private struct JSONParser {
  let bytes: [UInt8]
  let isLenient: Bool
  let longest: Int
  var position = 0
  var values = 0

  init(bytes: [UInt8], isLenient: Bool, longest: Int) {
    (self.bytes, self.isLenient, self.longest) = (bytes, isLenient, longest)
  }

  func error(_ problem: String) -> JSONValue.SyntaxError { .init(problem: problem, offset: position) }

  /// The beginning of a key, fit for a message.
  private func printable(_ key: String) -> String {
    String(key.unicodeScalars.prefix(80).map { $0.isASCII && $0.value >= 32 ? Character($0) : "?" })
  }

  private var byte: UInt8? { position < bytes.count ? bytes[position] : nil }

  mutating func skipSpace() {
    while let byte, byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 { position += 1 }
  }

  /// Consumes `expected` if it comes next (after space).
  private mutating func take(_ expected: Character) -> Bool {
    skipSpace()
    guard byte == expected.asciiValue else { return false }
    position += 1
    return true
  }

  mutating func value(depth: Int) throws(JSONValue.SyntaxError) -> JSONValue {
    values += 1
    guard values <= 1 << 20 else { throw error("more than a million values") }
    skipSpace()
    switch byte {
    case UInt8(ascii: "{"), UInt8(ascii: "["):
      guard depth > 0 else {
        guard isLenient else { throw error("nested too deeply") }
        try skipNested()
        return .null
      }
      return byte == UInt8(ascii: "{") ? try object(depth: depth) : try array(depth: depth)
    case UInt8(ascii: "\""): return .string(try string())
    case UInt8(ascii: "t"): return try word("true", .bool(true))
    case UInt8(ascii: "f"): return try word("false", .bool(false))
    case UInt8(ascii: "n"): return try word("null", .null)
    case UInt8(ascii: "N") where isLenient: return try word("NaN", .number("nan"))
    case UInt8(ascii: "I") where isLenient: return try word("Infinity", .number("inf"))
    case UInt8(ascii: "-") where isLenient && bytes[position...].starts(with: "-I".utf8):
      return try word("-Infinity", .number("-inf"))
    default: return .number(try number())
    }
  }

  /// Passes over an array or an object without a look at more than its brackets and strings.
  private mutating func skipNested() throws(JSONValue.SyntaxError) {
    var open = 0
    repeat {
      switch byte {
      case nil: throw error("unfinished array or object")
      case UInt8(ascii: "\""): _ = try string()
      case UInt8(ascii: "{"), UInt8(ascii: "["):
        open += 1
        position += 1
      case UInt8(ascii: "}"), UInt8(ascii: "]"):
        open -= 1
        position += 1
      default: position += 1
      }
    } while open > 0
  }

  private mutating func object(depth: Int) throws(JSONValue.SyntaxError) -> JSONValue {
    position += 1
    var members: [String: JSONValue] = [:]
    var order: [String] = []
    if take("}") { return .object(members, order: order) }
    repeat {
      skipSpace()
      let key = try string()
      guard take(":") else { throw error("':' expected") }
      let old = members.updateValue(try value(depth: depth - 1), forKey: key)
      guard isLenient || old == nil else { throw error("duplicate key '\(printable(key))'") }
      if old == nil { order.append(key) }
    } while take(",")
    guard take("}") else { throw error("',' or '}' expected") }
    return .object(members, order: order)
  }

  private mutating func array(depth: Int) throws(JSONValue.SyntaxError) -> JSONValue {
    position += 1
    var elements: [JSONValue] = []
    if take("]") { return .array(elements) }
    repeat { elements.append(try value(depth: depth - 1)) } while take(",")
    guard take("]") else { throw error("',' or ']' expected") }
    return .array(elements)
  }

  private mutating func word(_ word: StaticString, _ value: JSONValue) throws(JSONValue.SyntaxError)
    -> JSONValue
  {
    let end = position + word.utf8CodeUnitCount
    guard end <= bytes.count, word.withUTF8Buffer({ $0.elementsEqual(bytes[position..<end]) }) else {
      throw error("unknown word")
    }
    position = end
    return value
  }

  /// -? (0 | 1-9 digits) (. digits)? ([eE] [+-]? digits)?
  private mutating func number() throws(JSONValue.SyntaxError) -> String {
    let start = position
    if byte == UInt8(ascii: "-") { position += 1 }
    if byte == UInt8(ascii: "0") { position += 1 } else { try digits() }
    if byte == UInt8(ascii: ".") {
      position += 1
      try digits()
    }
    if byte == UInt8(ascii: "e") || byte == UInt8(ascii: "E") {
      position += 1
      if byte == UInt8(ascii: "+") || byte == UInt8(ascii: "-") { position += 1 }
      try digits()
    }
    guard position - start <= 1024 else { throw error("a number of more than 1024 characters") }
    return String(decoding: bytes[start..<position], as: UTF8.self)
  }

  private mutating func digits() throws(JSONValue.SyntaxError) {
    let start = position
    while let byte, (48...57).contains(byte) { position += 1 }
    guard position > start else { throw error("a value or digit expected") }
  }

  private mutating func string() throws(JSONValue.SyntaxError) -> String {
    guard byte == UInt8(ascii: "\"") else { throw error("a string expected") }
    position += 1
    var text: [UInt8] = []
    while let next = byte, next != UInt8(ascii: "\"") {
      guard isLenient || next >= 0x20 else { throw error("control character in a string") }
      if next == UInt8(ascii: "\\") {
        position += 1
        try escape(into: &text)
      } else {
        let start = position
        while let next = byte, isLenient || next >= 0x20, next != UInt8(ascii: "\""),
          next != UInt8(ascii: "\\"),
          position - start <= longest
        {
          position += 1
        }
        text += bytes[start..<position]
      }
      guard text.count <= longest else {
        throw error("a text of more than \(longest) bytes")
      }
    }
    guard byte != nil else { throw error("unfinished string") }
    position += 1
    if isLenient { return String(decoding: text, as: UTF8.self) }
    guard let string = String(validating: text, as: UTF8.self) else { throw error("invalid UTF-8") }
    return string
  }

  private mutating func escape(into text: inout [UInt8]) throws(JSONValue.SyntaxError) {
    let code = byte
    position += 1
    switch code {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): text.append(code ?? 0)
    case UInt8(ascii: "b"): text.append(8)
    case UInt8(ascii: "f"): text.append(12)
    case UInt8(ascii: "n"): text.append(10)
    case UInt8(ascii: "r"): text.append(13)
    case UInt8(ascii: "t"): text.append(9)
    case UInt8(ascii: "u"):
      var value = UInt32(try hexadecimal())
      if (0xD800...0xDBFF).contains(value), byte == UInt8(ascii: "\\") {
        position += 1
        guard byte == UInt8(ascii: "u") else { throw error("half a surrogate pair") }
        position += 1
        let low = UInt32(try hexadecimal())
        guard (0xDC00...0xDFFF).contains(low) || isLenient else { throw error("half a surrogate pair") }
        value = (0xDC00...0xDFFF).contains(low) ? 0x10000 + (value - 0xD800) << 10 + (low - 0xDC00) : 0xFFFD
      }
      guard let scalar = Unicode.Scalar(value) ?? (isLenient ? "\u{FFFD}" : nil) else {
        throw error("half a surrogate pair")
      }
      text.append(contentsOf: String(scalar).utf8)
    default: throw error("unknown escape")
    }
  }

  private mutating func hexadecimal() throws(JSONValue.SyntaxError) -> UInt16 {
    guard bytes.count - position >= 4 else { throw error("unfinished escape") }
    var value: UInt16 = 0
    for digit in bytes[position..<position + 4] {
      guard let nibble = Character(Unicode.Scalar(digit)).hexDigitValue else { throw error("unknown escape") }
      value = value << 4 | UInt16(nibble)
    }
    position += 4
    return value
  }
}
