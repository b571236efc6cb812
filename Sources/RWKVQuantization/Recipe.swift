// SPDX-License-Identifier: MIT
import RWKVCheckpoint
import RWKVFormat

/// What can be asked for: a format, or 16 bits of the kind that loses least.
enum FormatChoice: String, Sendable, CaseIterable {
  case int4, int5, int8
  case half = "fp16"
  case f32 = "fp32"

  func weightFormat(_ exactness: Exactness) -> WeightFormat {
    switch self {
    case .int4: .int4
    case .int5: .int5
    case .int8: .int8
    case .half: exactness.halfFormat
    case .f32: .f32
    }
  }
}

/// Rules that name tensors and their formats, one a line: `blocks.0.*.weight int8`. `*` stands for any characters; the
/// first rule that fits a tensor decides. `#` starts a comment. Vectors are F32 whatever a rule says.
public struct Recipe: Sendable {
  private struct Rule {
    let pattern: [UInt8]
    let format: FormatChoice
  }
  private let rules: [Rule]

  /// - Parameter path: of the file that holds `text`, for errors.
  public init(_ text: String, path: String) throws(QuantizationError) {
    var rules: [Rule] = []
    for (number, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
      let words = line.prefix { $0 != "#" }.split { $0.isWhitespace }
      if words.isEmpty { continue }
      guard words.count == 2, let format = FormatChoice(rawValue: String(words[1])) else {
        throw .recipe(
          path: path, line: number + 1,
          problem: "found '\(line)', expected a pattern of tensor names and one of "
            + FormatChoice.allCases.map(\.rawValue).joined(separator: ", "))
      }
      rules.append(Rule(pattern: Array(words[0].utf8), format: format))
    }
    self.rules = rules
  }

  /// Nil: no rule fits.
  func format(of tensor: SourceTensor) -> FormatChoice? {
    guard tensor.role != .vector, tensor.role != .state else { return nil }
    let name = Array(tensor.name.utf8)
    return rules.first { matches($0.pattern[...], name[...]) }?.format
  }

  /// Whether `name` fits `pattern`, in which `*` stands for any bytes.
  private func matches(_ pattern: ArraySlice<UInt8>, _ name: ArraySlice<UInt8>) -> Bool {
    guard let first = pattern.first else { return name.isEmpty }
    let rest = pattern.dropFirst()
    if first != UInt8(ascii: "*") { return name.first == first && matches(rest, name.dropFirst()) }
    return (0...name.count).contains { matches(rest, name.dropFirst($0)) }
  }
}
