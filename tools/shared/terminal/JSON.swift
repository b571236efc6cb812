// SPDX-License-Identifier: MIT

/// A JSON value that prints itself on one line, members in the order given.
package enum JSON: CustomStringConvertible {
  case object([(String, JSON)])
  case array([JSON])
  case string(String)
  case integer(Int)
  /// A number with this many decimals; null if it is not finite, because JSON has nothing for that.
  case number(Double, decimals: Int)
  /// A number with all its digits.
  case exactNumber(Double)
  case bool(Bool)
  case null

  package var description: String {
    switch self {
    case .object(let members):
      "{" + members.map { "\(Self.quoted($0)):\($1)" }.joined(separator: ",") + "}"
    case .array(let elements): "[" + elements.map(\.description).joined(separator: ",") + "]"
    case .string(let text): Self.quoted(text)
    case .integer(let value): "\(value)"
    case .number(let value, let decimals): value.isFinite ? decimal(value, decimals) : "null"
    case .exactNumber(let value): value.isFinite ? "\(value)" : "null"
    case .bool(let value): "\(value)"
    case .null: "null"
    }
  }

  /// A string literal.
  private static func quoted(_ text: String) -> String {
    var result = "\""
    for scalar in text.unicodeScalars {
      switch scalar {
      case "\"": result += "\\\""
      case "\\": result += "\\\\"
      case "\n": result += "\\n"
      case "\t": result += "\\t"
      case "\r": result += "\\r"
      case _ where scalar.value < 0x20 || (0x7F..<0xA0).contains(scalar.value):
        let digits = String(scalar.value, radix: 16)
        result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result + "\""
  }
}
