// SPDX-License-Identifier: MIT
import Foundation

/// Tells thoughts, between `<think>` and `</think>`, from the answer; a tag may come in pieces.
struct ThoughtSplitter {
  private var isThinking: Bool
  private let isActive: Bool
  private var held = ""
  private var hasBegun: Bool
  /// Whether the model has still to close the tag that ends a thought.
  private var endsTag: Bool
  /// White space at the beginning of the answer or of a thought is left out.
  private var trims = true

  /// - Parameter opening: what stands before the answer. It may open a thought with "<think", or end one with
  ///   "</think"; the model closes the tag.
  init(_ opening: String, isActive: Bool) {
    self.isActive = isActive
    endsTag = opening.hasSuffix("</think")
    isThinking = opening.contains("<think") && !opening.contains("</think")
    hasBegun = isThinking || opening.contains("</think")
    held = isThinking ? "<think" : ""
  }

  mutating func push(_ text: String) -> (content: String, reasoning: String) {
    guard isActive else { return (text, "") }
    held += text
    var result = (content: "", reasoning: "")
    if endsTag && !held.isEmpty {
      endsTag = false
      if held.first == ">" { held.removeFirst() }
    }
    while true {
      let tag = !isThinking ? "<think>" : held.hasPrefix("<think") ? "<think" : "</think>"
      if tag == "<think" {
        guard held.count > tag.count else { return result }
        held.removeFirst(tag.count)
        if held.first == ">" { held.removeFirst() }
        continue
      }
      if !isThinking && hasBegun {
        emit(held, &result)
        held = ""
        return result
      }
      if let range = held.range(of: tag) {
        emit(String(held[..<range.lowerBound]), &result)
        held = String(held[range.upperBound...])
        isThinking.toggle()
        (hasBegun, trims) = (true, true)
        continue
      }
      let kept = (1..<tag.count).reversed().first { held.hasSuffix(tag.prefix($0)) } ?? 0
      emit(String(held.dropLast(kept)), &result)
      held = String(held.suffix(kept))
      return result
    }
  }

  mutating func flush() -> (content: String, reasoning: String) {
    var result = (content: "", reasoning: "")
    if isThinking && held == "<think" { held = "" }
    emit(held, &result)
    held = ""
    return result
  }

  private mutating func emit(_ text: String, _ result: inout (content: String, reasoning: String)) {
    var text = text
    if trims && hasBegun { text = String(text.drop { $0.isWhitespace }) }
    guard !text.isEmpty else { return }
    trims = false
    // A thought that does not stand at the beginning is text.
    if !isThinking { hasBegun = true }
    if isThinking { result.reasoning += text } else { result.content += text }
  }
}
