// SPDX-License-Identifier: MIT
import RWKVFormat

/// A JSON value whose members keep their order.
enum JSON: Sendable, ExpressibleByDictionaryLiteral, ExpressibleByStringLiteral, ExpressibleByIntegerLiteral,
  ExpressibleByArrayLiteral, ExpressibleByBooleanLiteral
{
  case null, bool(Bool), integer(Int), number(Double), string(String), array([JSON]), object([(String, JSON)])
  /// A number that was read: as it is written, so that nothing of it is lost.
  case numeral(String)

  init(dictionaryLiteral elements: (String, JSON)...) { self = .object(elements) }
  init(arrayLiteral elements: JSON...) { self = .array(elements) }
  init(stringLiteral value: String) { self = .string(value) }
  init(integerLiteral value: Int) { self = .integer(value) }
  init(booleanLiteral value: Bool) { self = .bool(value) }

  /// The most levels of nesting; more are refused.
  private static let deepest = 100

  /// Reads a text; an error of the request where it is none.
  init(parsing bytes: [UInt8]) throws {
    do throws(JSONValue.SyntaxError) {
      self.init(try JSONValue(parsing: bytes, depth: Self.deepest, longest: bytes.count))
    } catch {
      throw APIError.invalid("The body is not JSON: \(error.problem) at byte \(error.offset).")
    }
  }

  private init(_ value: JSONValue) {
    switch value {
    case .null: self = .null
    case .bool(let flag): self = .bool(flag)
    case .number(let text): self = Int(text).map { .integer($0) } ?? .numeral(text)
    case .string(let text): self = .string(text)
    case .array(let values): self = .array(values.map { JSON($0) })
    case .object(let members, let order): self = .object(order.map { ($0, JSON(members[$0] ?? .null)) })
    }
  }

  /// The value as the runtime has it.
  var value: JSONValue {
    switch self {
    case .null: .null
    case .bool(let flag): .bool(flag)
    case .integer(let number): .number("\(number)")
    case .number(let number): .number("\(number)")
    case .numeral(let text): .number(text)
    case .string(let text): .string(text)
    case .array(let values): .array(values.map(\.value))
    case .object(let members):
      .object(Dictionary(members.map { ($0, $1.value) }) { $1 }, order: members.map(\.0))
    }
  }

  /// The value as a whole number, also where it is written as 2.0 or 2e3; nil for anything else.
  var integer: Int? {
    switch self {
    case .integer(let number): number
    case .numeral(let text): Int(exactly: Double(text) ?? .nan)
    default: nil
    }
  }

  subscript(_ name: String) -> JSON? {
    guard case .object(let members) = self else { return nil }
    return members.last { $0.0 == name }?.1
  }

  /// The value as JSON on one line, without white space.
  var text: String {
    var text = ""
    write(to: &text, indent: nil)
    return text
  }

  /// The value as JSON on several lines, with two spaces for each level, as Python writes it.
  var prettyText: String {
    var text = ""
    write(to: &text, indent: "\n")
    return text
  }

  /// - Parameter indent: the line break before a member of the container around the value; nil: there are none.
  private func write(to text: inout String, indent: String?) {
    switch self {
    case .null: text += "null"
    case .bool(let flag): text += flag ? "true" : "false"
    case .integer(let value): text += "\(value)"
    // JSON has nothing for what is not finite.
    case .number(let value): text += value.isFinite ? "\(value)" : "null"
    case .numeral(let value): text += value
    case .string(let value): Self.write(value, to: &text)
    case .array(let values):
      Self.write("[", values, "]", to: &text, indent) { $0.write(to: &$1, indent: $2) }
    case .object(let members):
      Self.write("{", members, "}", to: &text, indent) { member, text, indent in
        Self.write(member.0, to: &text)
        text += indent == nil ? ":" : ": "
        member.1.write(to: &text, indent: indent)
      }
    }
  }

  private static func write<Element>(
    _ open: String, _ elements: [Element], _ close: String, to text: inout String, _ indent: String?,
    _ one: (Element, inout String, String?) -> Void
  ) {
    let inner = indent.map { $0 + "  " }
    text += open
    for (index, element) in elements.enumerated() {
      text += (index == 0 ? "" : ",") + (inner ?? "")
      one(element, &text, inner)
    }
    text += (elements.isEmpty ? "" : indent ?? "") + close
  }

  private static func write(_ string: String, to text: inout String) {
    text += "\"\(JSONValue.escaped(string))\""
  }
}
