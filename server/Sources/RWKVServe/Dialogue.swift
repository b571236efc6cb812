// SPDX-License-Identifier: MIT
import RWKV
import RWKVChat

/// A conversation as the text that its answer is written after.
struct Dialogue {
  let template: ChatTemplate
  let text: String
  /// Beginnings that the next turn can have; nil: it goes on from a state, or from an open answer.
  let next: [String]?
  /// What stands before the answer of what the model would have written.
  let opening: String

  /// - Parameter isJSON: the answer is to be JSON from its first character on.
  init(
    _ fields: Fields, _ engine: Engine, _ start: SavedStates.Entry?, _ tools: Tools?, isJSON: Bool
  ) throws {
    var messages = try Self.messages(fields)
    guard !messages.isEmpty else { throw APIError.invalid("'messages' is empty.", "messages") }
    let hasCalls = try fields.objects("messages").contains { !$0.list("tool_calls").isEmpty }
    let usesTools = tools != nil || hasCalls || messages.contains { $0.role == .tool }
    let template = usesTools ? engine.template.withTools : engine.template
    if let tools { messages = tools.described(in: messages) }
    do {
      var way = try fields.string("reasoning").map { name throws(ChatMessageError) in
        try template.thinking(named: name)
      }
      if isJSON { way = try Self.withoutThought(way, template) }
      var text = try template.text(of: messages, way)
      if let start {
        // The state has read the greeting, and perhaps an answer without what stands after it.
        if messages.first?.role != .system, text.hasPrefix(template.greeting) {
          text.removeFirst(template.greeting.count)
        }
        if start.answered { text = template.end + text }
      }
      let isOpen = messages.last?.role == .assistant && messages.last?.text.isEmpty == false
      var opening = isOpen ? "" : (way ?? template.thinking.first)?.answer ?? ""
      var rest = ""
      // What the model would write before the first bracket.
      if isJSON && opening.hasSuffix("</think") { rest = ">\n" }
      if tools?.required != nil { rest += Tools.opening }
      opening += rest
      self.template = template
      self.text = text + rest
      self.opening = opening
      let next = try ["a", "."].map { try template.text(of: messages + [ChatMessage(.assistant, $0)]) }
      self.next = start == nil && !isOpen ? next : nil
    } catch let error as ChatMessageError {
      throw APIError.invalid("\(error).", "messages")
    }
  }

  /// A way of answering that opens no thought: the one that was asked for, or the first such one.
  private static func withoutThought(
    _ way: ChatTemplate.Thinking?, _ template: ChatTemplate
  ) throws -> ChatTemplate.Thinking? {
    func opensThought(_ way: ChatTemplate.Thinking) -> Bool {
      way.answer.contains("<think") && !way.answer.contains("</think")
    }
    if let way {
      guard !opensThought(way) else {
        throw APIError.invalid(
          "'reasoning' '\(way.name)' does not go with an answer that must be JSON.", "reasoning")
      }
      return way
    }
    return template.thinking.first { !opensThought($0) }
  }

  static func messages(_ fields: Fields) throws -> [ChatMessage] {
    try fields.objects("messages").enumerated().map { index, message in
      guard let role = try message.string("role") else { throw message.wrong("role", "a string") }
      var text = ""
      switch message["content"] {
      case nil: break
      case .string(let content)?: text = content
      case .array(let parts)?:
        for part in parts {
          let part = try Fields(part, "messages[\(index)].content")
          guard try part.string("type") ?? "text" == "text" else {
            throw part.wrong("type", "text: the model reads no images or sounds")
          }
          text += try part.string("text") ?? ""
        }
      default: throw message.wrong("content", "a string, a list of parts or null")
      }
      let calls = try Tools.text(of: message)
      text += (text.isEmpty || calls.isEmpty ? "" : "\n") + calls
      if role == "tool" { text = Tools.output(text) }
      // What newer clients call instructions.
      do { return try ChatMessage(role: role == "developer" ? "system" : role, text) } catch {
        throw APIError.invalid("\(error).", "messages[\(index)].role")
      }
    }
  }
}
