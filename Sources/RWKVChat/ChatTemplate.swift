// SPDX-License-Identifier: MIT
public import RWKV
internal import RWKVFormat

/// How a conversation is written down for a model: what stands around messages and answers, and what ends an answer.
///
/// Templates are text (docs/states-and-chats.md, "Templates"), parsed by `init(parsing:name:)`; nothing in them is
/// evaluated.
public struct ChatTemplate: Sendable {
  /// Text with a place for another text in it.
  public struct Pattern: Sendable {
    let before: String
    let after: String

    func filled(with text: String) -> String { before + text + after }
  }

  /// A way of answering: what is added to the message, and what the answer starts with.
  public struct Thinking: Sendable {
    /// The name of the way of answering.
    public let name: String
    /// Added to the end of the user's message.
    let message: String
    /// What is added to `assistant`; the answer goes on from there.
    public let answer: String
  }

  /// The name of the template, or of its file.
  public let name: String
  /// How instructions are written, before everything else; nil if the models know none.
  public internal(set) var system: Pattern?
  /// What every conversation starts with, after the instructions.
  public internal(set) var greeting = ""
  /// How a message of the user is written.
  public internal(set) var user = Pattern(before: "", after: "")
  /// How the answer of a tool is written; nil if it is written as a message of the user.
  public internal(set) var tool: Pattern?
  /// What stands before an answer.
  public internal(set) var assistant = ""
  /// What stands after an answer.
  public internal(set) var end = ""
  /// What ends an answer when the model writes it, besides token 0. It is never shown, and the state never reads it.
  public internal(set) var stops: [String] = []
  /// The ways of answering, of which the first is the default. Without any, answers are not prefixed.
  public internal(set) var thinking: [Thinking] = []
  /// Whether line ends of messages become \n, repeated ones a single \n, and white space around them is removed.
  public internal(set) var cleans = true
  /// What the models' authors recommend.
  public internal(set) var sampling = SamplingAdvice()

  init(name: String) { self.name = name }

  /// How a model answers in this template: by what its file recommends, then by the template.
  public func choice(for model: Model, given: SamplingAdvice = SamplingAdvice()) -> SamplingChoice {
    var advice = sampling
    advice.stops = stops
    return SamplingChoice(given: given, model: model, template: advice)
  }

  /// A message or instructions as the models know them from their training.
  func cleaned(_ text: String) -> String {
    guard cleans else { return text }
    var result = ""
    // Scalars: "\r\n" is one Character.
    for scalar in text.unicodeScalars where scalar != "\r" {
      if scalar == "\n" && result.hasSuffix("\n") { continue }
      result.unicodeScalars.append(scalar)
    }
    return String(result.trimmed)
  }

  /// What a conversation starts with.
  func opening(system text: String) -> String {
    let text = cleaned(text)
    return (text.isEmpty ? "" : system?.filled(with: text) ?? "") + greeting
  }

  /// What is read between the user's pressing of Enter and the model's answer.
  func question(_ message: String, _ thinking: Thinking?) -> String {
    user.filled(with: cleaned(message) + (thinking?.message ?? "")) + assistant + (thinking?.answer ?? "")
  }
}

extension StringProtocol {
  /// The text without white space at its ends.
  var trimmed: SubSequence {
    guard let first = firstIndex(where: { !$0.isWhitespace }),
      let last = lastIndex(where: { !$0.isWhitespace })
    else { return self[endIndex...] }
    return self[first...last]
  }
}

extension ChatTemplate {
  /// Names of the templates that need no file.
  public static var builtInNames: [String] { sources.map(\.name) }

  /// A template that needs no file; nil if there is none of this name.
  public static func builtIn(_ name: String) -> ChatTemplate? {
    // They are tested: a mistake in one is a mistake in this file.
    sources.first { $0.name == name }.flatMap { try? ChatTemplate(parsing: $0.text, name: name) }
  }

  /// The text of a template that needs no file, to start one's own from.
  public static func source(_ name: String) -> String? { sources.first { $0.name == name }?.text }

  /// The template in which models that were trained with this one call tools: one of its own where there is one.
  public var withTools: ChatTemplate { ["g1", "bot"].contains(name) ? Self.builtIn("tools") ?? self : self }

  /// The template that a model was most likely trained with.
  ///
  /// It is G1 for version 7 with the World vocabulary, Raven for version 4 with another vocabulary, else World.
  public static func name(for model: Model) -> String {
    switch model.configuration.version {
    case .v7, .v7a, .v7b, .x: "g1"
    case .v4 where model.metadata.string("tokenizer.kind") != "world": "raven"
    case .v4, .v50, .v51, .v52, .v6: "world"
    }
  }

  private static let sources: [(name: String, text: String)] = [
    (
      "g1",
      #"""
      # RWKV-7 G1.   BlinkDL/RWKV-LM, RWKV-v7/RWKV7-G1x-templates.txt
      system = "System: {text}\n\n"
      user = "User: {text}\n\n"
      assistant = "Assistant:"
      end = "\n\n"
      stop = "\n\nUser:"
      stop = "\n\nSystem:"
      think off = "" ""
      think on = "" " <think"
      think short = " (think a bit)" " <think"
      think long = " (think a lot)" " <think"
      think fake = "" " <think>\n</think"
      temperature = 1
      top-p = 0.5
      presence-penalty = 2
      frequency-penalty = 0.1
      penalty-decay = 0.99
      """#
    ),
    (
      "bot",
      #"""
      # RWKV-7 from G1h on, for conversations.   rwkv-rs/transformers-rwkv, rwkv_chat_template.jinja
      system = "System✿{text}✿\n"
      user = "User✿{text}✿\n"
      assistant = "Bot✿"
      end = "✿\n"
      stop = "✿"
      think on = "" "<think"
      think fake = "" "<think></think"
      temperature = 0.96
      top-p = 0.76
      top-k = 32
      presence-penalty = 1
      frequency-penalty = 0.1
      penalty-decay = 0.988
      """#
    ),
    (
      "tools",
      #"""
      # RWKV-7 from G1h on, for calls of tools.   rwkv-rs/transformers-rwkv, rwkv_chat_template.jinja
      # Tools are described in the instructions, each under ### `name` with **Description:**, **Parameters:** and \#
      fenced JSON.
      system = "### System\n{text}\n"
      user = "### User\n{text}\n"
      tool = "### Tool Output\n{text}\n"
      assistant = "### Assistant\n"
      end = "\n"
      stop = "\n### User"
      think on = "" "<think"
      think fake = "" "<think></think"
      temperature = 0.96
      top-p = 0.76
      top-k = 32
      """#
    ),
    (
      "world",
      #"""
      # World models of all versions.   BlinkDL/ChatRWKV, API_DEMO_CHAT.py
      system = "System: {text}\n\n"
      greeting = "User: hi\n\nAssistant: Hi. I am your assistant and I will provide expert full response in full \#
      details. Please feel free to ask any question and I will always answer it.\n\n"
      user = "User: {text}\n\n"
      assistant = "Assistant:"
      end = "\n\n"
      stop = "\n\n"
      temperature = 1
      top-p = 0.3
      presence-penalty = 0.5
      frequency-penalty = 0.5
      penalty-decay = 0.996
      """#
    ),
    (
      "raven",
      #"""
      # RWKV-4 Raven.   huggingface.co/BlinkDL/rwkv-4-raven; sampling: BlinkDL/ChatRWKV, v2/chat.py
      user = "Bob: {text}\n\n"
      assistant = "Alice:"
      end = "\n\n"
      stop = "\n\n"
      temperature = 1
      top-p = 0.8
      presence-penalty = 0.2
      frequency-penalty = 0.2
      penalty-decay = 1
      """#
    ),
    (
      "none",
      #"""
      # For models that know no conversation: every message is continued as it stands.
      user = "{text}"
      assistant = ""
      clean = off
      """#
    ),
  ]
}
