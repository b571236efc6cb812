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
    let line: Int
  }
  private let rules: [Rule]
  private let path: String

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
      rules.append(Rule(pattern: Array(words[0].utf8), format: format, line: number + 1))
    }
    (self.rules, self.path) = (rules, path)
  }

  /// The format that the first rule that fits gives; nil if none fits.
  func format(of tensor: SourceTensor) -> FormatChoice? { rules.first { fits($0, tensor) }?.format }

  private func fits(_ rule: Rule, _ tensor: SourceTensor) -> Bool {
    guard tensor.role != .vector, tensor.role != .state else { return false }
    return matches(rule.pattern[...], Array(tensor.name.utf8)[...])
  }

  /// Throws for a rule without effect on a model with these tensors.
  func check(against tensors: [SourceTensor]) throws(QuantizationError) {
    for (index, rule) in rules.enumerated() {
      let fitting = tensors.filter { fits(rule, $0) }
      let pattern = String(decoding: rule.pattern, as: UTF8.self)
      if fitting.isEmpty {
        let isOfVectors = tensors.contains { matches(rule.pattern[...], Array($0.name.utf8)[...]) }
        throw .recipe(
          path: path, line: rule.line,
          problem: isOfVectors
            ? "'\(pattern)' fits only vectors, which are F32 whatever a recipe says"
            : "'\(pattern)' fits no tensor of this model; `rwkv-quantize show` names those of a converted one"
        )
      }
      if fitting.allSatisfy({ tensor in rules[..<index].contains { fits($0, tensor) } }) {
        throw .recipe(
          path: path, line: rule.line,
          problem:
            "'\(pattern)' decides nothing: earlier lines fit all its tensors, and the first that fits decides"
        )
      }
    }
  }

  /// Whether `name` fits `pattern`, in which `*` stands for any bytes.
  private func matches(_ pattern: ArraySlice<UInt8>, _ name: ArraySlice<UInt8>) -> Bool {
    guard let first = pattern.first else { return name.isEmpty }
    let rest = pattern.dropFirst()
    if first != UInt8(ascii: "*") { return name.first == first && matches(rest, name.dropFirst()) }
    return (0...name.count).contains { matches(rest, name.dropFirst($0)) }
  }
}
