// SPDX-License-Identifier: MIT
/// The beginning of a JSON object or array (RFC 8259), which tells what bytes may follow.
///
/// Narrower than the RFC in what nobody misses, so that a model cannot go on forever: containers nest at most 64
/// deep, at most 32 bytes of white space follow each other, and \u writes no surrogates. A few words without
/// references: trying a token is a copy.
struct JSONText: Sendable {
  enum Place {
    /// A value must begin; also `]` or a key, `}`, must stand here.
    case value, elementOrEnd, key, keyOrEnd, colon
    /// Where `,` or the container's end stands.
    case afterValue
    case string, escape, hexadecimal, continuation, literal
    /// Within a number, by what was read last: its minus, a leading 0, digits, the point, digits, e, a sign, digits.
    case minus, zero, integer, point, fraction, exponent, exponentSign, exponentDigits
    case end

    var isInString: Bool {
      switch self {
      case .string, .escape, .hexadecimal, .continuation: true
      default: false
      }
    }

    var isInNumber: Bool {
      switch self {
      case .minus, .zero, .integer, .point, .fraction, .exponent, .exponentSign, .exponentDigits: true
      default: false
      }
    }
  }

  /// Containers within each other at most.
  static let deepest = 64
  private static let longestSpace = 32

  private(set) var place = Place.value
  /// Bit by bit, the innermost last: 1 for an object, 0 for an array.
  private var containers: UInt64 = 0
  /// Containers that are open.
  private(set) var depth = 0
  /// Whether the string is, or was, a key.
  private(set) var isKey = false
  /// Bytes of white space that came last, where they mean nothing.
  private(set) var spaces = 0
  /// Bytes that the character, escape or literal still has.
  private var remaining = 0
  /// The next byte of a character.
  private var allowed: ClosedRange<UInt8> = 0x80...0xBF
  private var literal: StaticString = ""

  /// A text that stands within a string.
  static var withinString: JSONText {
    var text = JSONText()
    text.place = .string
    return text
  }

  /// Whether a string's next character must stand here, or its end.
  var isWithinString: Bool { place == .string }

  /// Whether the object or array has been closed. Nothing follows it.
  var isComplete: Bool { place == .end }

  /// Adds a byte; false if it cannot stand here, and then the text is of no use any more.
  mutating func push(_ byte: UInt8) -> Bool {
    switch place {
    case .string: return pushInString(byte)
    case .escape: return pushEscape(byte)
    case .hexadecimal: return pushHexadecimal(byte)
    case .continuation: return pushContinuation(byte)
    case .literal: return pushInLiteral(byte)
    case .minus, .zero, .integer, .point, .fraction, .exponent, .exponentSign, .exponentDigits:
      return pushInNumber(byte)
    case .value, .elementOrEnd, .key, .keyOrEnd, .colon, .afterValue, .end: return pushBetween(byte)
    }
  }

  private mutating func pushBetween(_ byte: UInt8) -> Bool {
    if byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 {
      spaces += 1
      return place != .end && spaces <= Self.longestSpace
    }
    spaces = 0
    switch (place, Unicode.Scalar(byte)) {
    case (.key, "\""), (.keyOrEnd, "\""):
      isKey = true
      place = .string
    case (.colon, ":"): place = .value
    case (.afterValue, ","): place = isInObject ? .key : .value
    case (.keyOrEnd, "}"), (.elementOrEnd, "]"): close()
    case (.afterValue, "}"): return isInObject && close()
    case (.afterValue, "]"): return !isInObject && close()
    case (.value, _), (.elementOrEnd, _): return begin(byte)
    default: return false
    }
    return true
  }

  private var isInObject: Bool { containers & 1 == 1 }

  @discardableResult
  private mutating func close() -> Bool {
    containers >>= 1
    depth -= 1
    place = depth == 0 ? .end : .afterValue
    return true
  }

  /// The first byte of a value.
  private mutating func begin(_ byte: UInt8) -> Bool {
    let isContainer = byte == UInt8(ascii: "{") || byte == UInt8(ascii: "[")
    guard isContainer ? depth < Self.deepest : depth > 0 else { return false }
    switch Unicode.Scalar(byte) {
    case "{", "[":
      let isObject = byte == UInt8(ascii: "{")
      containers = containers << 1 | (isObject ? 1 : 0)
      depth += 1
      place = isObject ? .keyOrEnd : .elementOrEnd
    case "\"":
      isKey = false
      place = .string
    case "-": place = .minus
    case "0": place = .zero
    case "1"..."9": place = .integer
    case "t": begin("true")
    case "f": begin("false")
    case "n": begin("null")
    default: return false
    }
    return true
  }

  private mutating func begin(_ word: StaticString) {
    literal = word
    remaining = word.utf8CodeUnitCount - 1
    place = .literal
  }

  private mutating func pushInLiteral(_ byte: UInt8) -> Bool {
    guard byte == literal.utf8Start[literal.utf8CodeUnitCount - remaining] else { return false }
    remaining -= 1
    if remaining == 0 { place = .afterValue }
    return true
  }

  // MARK: - Numbers

  private mutating func pushInNumber(_ byte: UInt8) -> Bool {
    let isDigit = (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
    switch (place, Unicode.Scalar(byte)) {
    case (.minus, "0"): place = .zero
    case (.minus, _) where isDigit: place = .integer
    case (.integer, _) where isDigit, (.fraction, _) where isDigit, (.exponentDigits, _) where isDigit: break
    case (.zero, "."), (.integer, "."): place = .point
    case (.point, _) where isDigit: place = .fraction
    case (.zero, "e"), (.zero, "E"), (.integer, "e"), (.integer, "E"), (.fraction, "e"), (.fraction, "E"):
      place = .exponent
    case (.exponent, "+"), (.exponent, "-"): place = .exponentSign
    case (.exponent, _) where isDigit, (.exponentSign, _) where isDigit: place = .exponentDigits
    case (.zero, _), (.integer, _), (.fraction, _), (.exponentDigits, _):
      // The number has ended before this byte.
      place = .afterValue
      return pushBetween(byte)
    default: return false
    }
    return true
  }

  // MARK: - Strings

  private mutating func pushInString(_ byte: UInt8) -> Bool {
    switch byte {
    case UInt8(ascii: "\""): place = isKey ? .colon : .afterValue
    case UInt8(ascii: "\\"): place = .escape
    case 0x20..<0x80: break
    // UTF-8, as Unicode's table 3-7 has it.
    case 0xC2...0xDF: expect(1)
    case 0xE0: expect(2, 0xA0...0xBF)
    case 0xED: expect(2, 0x80...0x9F)
    case 0xE1...0xEF: expect(2)
    case 0xF0: expect(3, 0x90...0xBF)
    case 0xF1...0xF3: expect(3)
    case 0xF4: expect(3, 0x80...0x8F)
    default: return false
    }
    return true
  }

  private mutating func expect(_ count: Int, _ range: ClosedRange<UInt8> = 0x80...0xBF) {
    remaining = count
    allowed = range
    place = .continuation
  }

  private mutating func pushContinuation(_ byte: UInt8) -> Bool {
    guard allowed.contains(byte) else { return false }
    allowed = 0x80...0xBF
    remaining -= 1
    if remaining == 0 { place = .string }
    return true
  }

  private mutating func pushEscape(_ byte: UInt8) -> Bool {
    switch Unicode.Scalar(byte) {
    case "\"", "\\", "/", "b", "f", "n", "r", "t": place = .string
    case "u":
      remaining = 4
      allowed = 0x30...0x66
      place = .hexadecimal
    default: return false
    }
    return true
  }

  private mutating func pushHexadecimal(_ byte: UInt8) -> Bool {
    let isHexadecimal = Unicode.Scalar(byte).properties.isASCIIHexDigit
    guard isHexadecimal, allowed.contains(byte) else { return false }
    // D800…DFFF stand for nothing alone.
    let mayBeSurrogate = remaining == 4 && byte | 0x20 == UInt8(ascii: "d")
    allowed = mayBeSurrogate ? 0x30...0x37 : 0x30...0x66
    remaining -= 1
    if remaining == 0 { place = .string }
    return true
  }

  /// Whether a text is one JSON value without white space before it.
  static func isValue(_ text: String) -> Bool {
    var list = JSONText()
    guard list.push(UInt8(ascii: "[")), let first = text.utf8.first, first > 0x20 else { return false }
    for byte in text.utf8 {
      let begins = byte == UInt8(ascii: ",") && list.depth == 1 && !list.place.isInString
      guard !begins, list.push(byte), !list.isComplete else { return false }
    }
    return list.push(UInt8(ascii: "]")) && list.isComplete
  }
}
