// SPDX-License-Identifier: MIT
// What programs know of a conversation: a list of messages, of which the text for the model is made anew.

/// A message of a conversation.
public struct ChatMessage: Sendable, Equatable {
  /// Who says a message.
  public enum Role: String, CaseIterable, Sendable {
    case system, user, assistant, tool
  }

  /// Who says it.
  public let role: Role
  /// What is said.
  public let text: String

  /// Makes a message.
  public init(_ role: Role, _ text: String) {
    self.role = role
    self.text = text
  }

  /// - Parameter role: as programs write it.
  public init(role: String, _ text: String) throws(ChatMessageError) {
    guard let role = Role(rawValue: role) else { throw ChatMessageError.unknownRole(role) }
    self.init(role, text)
  }
}

/// Why messages cannot be written down with a template.
public enum ChatMessageError: Error, Sendable, Equatable, CustomStringConvertible {
  case unknownRole(String)
  case noSystemMessage(template: String)
  case unknownThinking(String, template: String, known: [String])

  public var description: String {
    switch self {
    case .unknownRole(let role):
      "a message has the role '\(role)', expected one of "
        + ChatMessage.Role.allCases.map(\.rawValue).joined(separator: ", ")
    case .noSystemMessage(let template): "the template '\(template)' has no place for a system message"
    case .unknownThinking(let name, let template, let known):
      known.isEmpty
        ? "the template '\(template)' knows no ways of thinking"
        : "the template '\(template)' knows no thinking '\(name)'; there are "
          + known.joined(separator: ", ")
    }
  }
}

extension ChatTemplate {
  /// A way of answering by its name.
  public func thinking(named name: String) throws(ChatMessageError) -> Thinking {
    guard let way = thinking.first(where: { $0.name == name }) else {
      throw ChatMessageError.unknownThinking(name, template: self.name, known: thinking.map(\.name))
    }
    return way
  }

  /// The text that a model reads before it answers the last message.
  ///
  /// If the last message is the assistant's, the answer goes on from it, white space and all; an empty one there is
  /// left out.
  /// - Parameter thinking: how to answer; nil for the template's first way.
  public func text(of messages: [ChatMessage], _ thinking: Thinking? = nil) throws(ChatMessageError) -> String
  {
    var messages = messages[...]
    if let last = messages.last, last.role == .assistant, last.text.isEmpty { messages.removeLast() }
    let first = messages.first?.role == .system ? messages.popFirst()?.text : nil
    var text = try first.map { text throws(ChatMessageError) in try instructions(text) } ?? ""
    text += greeting
    let way = thinking ?? self.thinking.first
    for (index, message) in zip(messages.indices, messages) {
      let isLast = index == messages.endIndex - 1
      switch message.role {
      case .system: text += try instructions(message.text)
      case .user: text += user.filled(with: cleaned(message.text) + (isLast ? way?.message ?? "" : ""))
      case .tool: text += (tool ?? user).filled(with: cleaned(message.text))
      case .assistant:
        let answer = isLast ? message.text : cleaned(message.text)
        let isApart = assistant.last != ":" || answer.first?.isWhitespace ?? true
        text += assistant + (isApart ? "" : " ") + answer + (isLast ? "" : end)
      }
    }
    return messages.last?.role == .assistant ? text : text + assistant + (way?.answer ?? "")
  }

  private func instructions(_ text: String) throws(ChatMessageError) -> String {
    guard let system else { throw ChatMessageError.noSystemMessage(template: name) }
    let text = cleaned(text)
    return text.isEmpty ? "" : system.filled(with: text)
  }
}
