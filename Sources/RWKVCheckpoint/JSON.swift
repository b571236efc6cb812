// SPDX-License-Identifier: MIT
/// A JSON value. Numbers keep their text: sizes and offsets must not pass through floating point.
enum JSON: Sendable, Equatable {
  case null
  case bool(Bool)
  case number(String)
  case string(String)
  case array([JSON])
  case object([String: JSON])

  subscript(key: String) -> JSON? {
    if case .object(let members) = self { members[key] } else { nil }
  }
  /// An unsigned decimal integer up to 2⁵³, written as plain digits.
  var unsigned: Int? {
    guard case .number(let text) = self, text.utf8.allSatisfy({ (48...57).contains($0) }),
      let value = Int(text), value <= 1 << 53
    else { return nil }
    return value
  }
  var double: Double? { if case .number(let text) = self { Double(text) } else { nil } }
  /// A number, also where it stands in quotes.
  var number: Double? { double ?? string.flatMap(Double.init) }
  var string: String? { if case .string(let text) = self { text } else { nil } }
  var array: [JSON]? { if case .array(let values) = self { values } else { nil } }

  struct SyntaxError: Error, Equatable {
    var problem: String
    var offset: Int
  }

  /// The longest key or text [bytes].
  static let maximumText = 1 << 20

  /// Reads one JSON text (RFC 8259), strictly: no duplicate keys, nesting at most `depth`, at most a million
  /// values, no text longer than `maximumText`.
  ///
  /// `lenient`: as Python's json and what people write beside it: a byte order mark, `NaN` and `Infinity`, keys that occur
  /// again (the last counts), control characters and damaged characters in strings; what is nested more deeply is null.
  init(parsing bytes: [UInt8], depth: Int, lenient: Bool = false) throws(SyntaxError) {
    var parser = JSONParser(bytes: bytes, isLenient: lenient)
    if lenient, bytes.starts(with: [0xEF, 0xBB, 0xBF]) { parser.position = 3 }
    self = try parser.value(depth: depth)
    parser.skipSpace()
    guard parser.position == bytes.count else { throw parser.error("text after the end") }
  }
}

/// Recursive descent over the bytes; `depth` bounds the recursion.
private struct JSONParser {
  let bytes: [UInt8]
  let isLenient: Bool
  var position = 0
  var values = 0

  init(bytes: [UInt8], isLenient: Bool) { (self.bytes, self.isLenient) = (bytes, isLenient) }

  func error(_ problem: String) -> JSON.SyntaxError { .init(problem: problem, offset: position) }

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

  mutating func value(depth: Int) throws(JSON.SyntaxError) -> JSON {
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
  private mutating func skipNested() throws(JSON.SyntaxError) {
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

  private mutating func object(depth: Int) throws(JSON.SyntaxError) -> JSON {
    position += 1
    var members: [String: JSON] = [:]
    if take("}") { return .object(members) }
    repeat {
      skipSpace()
      let key = try string()
      guard isLenient || members[key] == nil else { throw error("duplicate key \(quoted(key))") }
      guard take(":") else { throw error("':' expected") }
      members[key] = try value(depth: depth - 1)
    } while take(",")
    guard take("}") else { throw error("',' or '}' expected") }
    return .object(members)
  }

  private mutating func array(depth: Int) throws(JSON.SyntaxError) -> JSON {
    position += 1
    var elements: [JSON] = []
    if take("]") { return .array(elements) }
    repeat { elements.append(try value(depth: depth - 1)) } while take(",")
    guard take("]") else { throw error("',' or ']' expected") }
    return .array(elements)
  }

  private mutating func word(_ word: StaticString, _ value: JSON) throws(JSON.SyntaxError) -> JSON {
    let end = position + word.utf8CodeUnitCount
    guard end <= bytes.count, word.withUTF8Buffer({ $0.elementsEqual(bytes[position..<end]) }) else {
      throw error("unknown word")
    }
    position = end
    return value
  }

  /// -? (0 | 1-9 digits) (. digits)? ([eE] [+-]? digits)?
  private mutating func number() throws(JSON.SyntaxError) -> String {
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

  private mutating func digits() throws(JSON.SyntaxError) {
    let start = position
    while let byte, (48...57).contains(byte) { position += 1 }
    guard position > start else { throw error("a value or digit expected") }
  }

  private mutating func string() throws(JSON.SyntaxError) -> String {
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
          position - start <= JSON.maximumText
        {
          position += 1
        }
        text += bytes[start..<position]
      }
      guard text.count <= JSON.maximumText else {
        throw error("a text of more than \(JSON.maximumText) bytes")
      }
    }
    guard byte != nil else { throw error("unfinished string") }
    position += 1
    if isLenient { return String(decoding: text, as: UTF8.self) }
    guard let string = String(validating: text, as: UTF8.self) else { throw error("invalid UTF-8") }
    return string
  }

  private mutating func escape(into text: inout [UInt8]) throws(JSON.SyntaxError) {
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

  private mutating func hexadecimal() throws(JSON.SyntaxError) -> UInt16 {
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

extension InputFile {
  /// The whole file (at most `limit` bytes) as JSON.
  func json(limit: Int, depth: Int) throws(CheckpointError) -> JSON {
    guard size <= limit else {
      throw malformed("is too long for a JSON file", found: "\(size) bytes", expected: "at most \(limit)")
    }
    return try json(bytes(at: 0, count: size), depth: depth)
  }

  /// The whole file as JSON that people and other programs have written beside a checkpoint.
  func config() throws(CheckpointError) -> JSON {
    let limit = 16 << 20
    guard size <= limit else {
      throw malformed("is too long for a JSON file", found: "\(size) bytes", expected: "at most \(limit)")
    }
    return try json(bytes(at: 0, count: size), depth: 64, lenient: true)
  }

  func json(_ bytes: [UInt8], depth: Int, lenient: Bool = false) throws(CheckpointError) -> JSON {
    do throws(JSON.SyntaxError) {
      return try JSON(parsing: bytes, depth: depth, lenient: lenient)
    } catch {
      throw malformed("JSON: \(error.problem) at byte \(error.offset)")
    }
  }
}
