// SPDX-License-Identifier: MIT
import RWKV
import RWKVChat

/// The tools of a request, how a model is told of them, and how its calls are read.
///
/// The form is the one that RWKV-7 models were trained with (rwkv-rs/transformers-rwkv, rwkv_chat_template.jinja).
struct Tools: Sendable {
  struct Function: Sendable {
    let name: String
    let description: String
    let parameters: JSON
  }

  struct Call: Sendable {
    let id = "call_" + String(UInt64.random(in: 0 ... .max), radix: 36)
    let name: String
    /// A JSON object, as text.
    let arguments: String
  }

  let functions: [Function]
  /// What a call must be of that has to come; nil: the model chooses whether to call.
  let required: JSONGrammar?
  private let onlyOne: Bool

  static let mark = "**Tool Call:**"
  private static let fence = "```"
  /// Where a model would go on with what a tool answers.
  static let stop = "\n### Tool Output"
  /// What a call is written after.
  static let opening = "\(mark)\n\(fence)json\n"

  /// Reads the tools of a request; nil: the model is to know of none.
  init?(_ fields: Fields) throws {
    guard fields.list("functions").isEmpty else {
      throw APIError.invalid("'functions' is not supported; use 'tools'.", "functions")
    }
    functions = try fields.objects("tools").map(Self.function)
    onlyOne = try fields["parallel_tool_calls"] != nil && !fields.bool("parallel_tool_calls")
    var chosen: [Function] = []
    switch fields["tool_choice"] {
    case nil, .string("auto")?: break
    case .string("none")?: return nil
    case .string("required")?:
      guard !functions.isEmpty else { throw fields.wrong("tool_choice", "none or auto without tools") }
      chosen = functions
    case .object?:
      let choice = try fields.object("tool_choice") ?? fields
      let name = try choice.object("function")?.string("name") ?? choice.string("name")
      chosen = functions.filter { $0.name == name }
      guard !chosen.isEmpty else { throw fields.wrong("tool_choice", "the name of one of the tools") }
    default: throw fields.wrong("tool_choice", "none, auto, required or a function")
    }
    guard !functions.isEmpty else { return nil }
    required = chosen.isEmpty ? nil : try Self.grammar(chosen)
  }

  /// Reads a function of the list `tools`: nested, as chat completions have it, or flat, as Responses do.
  private static func function(_ tool: Fields) throws -> Function {
    guard try tool.string("type") ?? "function" == "function" else {
      throw tool.wrong("type", "function: there are no other tools here")
    }
    let function = try tool.object("function") ?? tool
    guard let name = try function.string("name"), (1...64).contains(name.utf8.count),
      name.utf8.allSatisfy({ $0 > 0x20 && $0 < 0x7F && $0 != UInt8(ascii: "`") && $0 != UInt8(ascii: "\"") })
    else { throw function.wrong("name", "1 to 64 visible ASCII characters") }
    let parameters = function["parameters"] ?? ["type": "object", "properties": [:]]
    guard case .object = parameters else { throw function.wrong("parameters", "a schema") }
    return Function(name: name, description: try function.string("description") ?? "", parameters: parameters)
  }

  /// A call of one of some functions. Its arguments are any object where their schema has keywords that are not known.
  private static func grammar(_ functions: [Function]) throws -> JSONGrammar {
    var definitions: [String: JSONShape] = [:]
    let calls = functions.map { function in
      var arguments = JSONShape.object([], others: .any)
      if let (shape, own) = try? JSONSchema.shapes(
        function.parameters.value, function.name, prefix: function.name),
        (try? JSONGrammar(shape, definitions: own)) != nil
      {
        arguments = shape
        definitions.merge(own) { $1 }
      }
      return JSONShape.object(
        [.init("name", .oneOf([JSON.string(function.name).text])), .init("arguments", arguments)], others: nil
      )
    }
    do { return try JSONGrammar(.either(calls), definitions: definitions) } catch {
      throw APIError.invalid("The parameters of the tools cannot be used: \(error).", "tools")
    }
  }

  // MARK: What the model reads

  /// What stands in the instructions.
  var instructions: String {
    let tools = functions.map { tool in
      "### `\(tool.name)`\n" + (tool.description.isEmpty ? "" : "**Description:** \(tool.description)\n")
        + "**Parameters:**\n" + Self.fenced(tool.parameters)
    }
    return tools.joined(separator: "\n") + """

      To call one of these tools, write exactly this format:
      \(Self.opening){"name": "tool_name", "arguments": {"key": "value"}}
      \(Self.fence)
      Do not invent tool call IDs or write tool outputs yourself.
      """
  }

  /// Messages with the tools in their instructions.
  func described(in messages: [ChatMessage]) -> [ChatMessage] {
    let system = messages.prefix { $0.role == .system }
    let text = (system.map(\.text).filter { !$0.isEmpty } + [instructions]).joined(separator: "\n")
    return [ChatMessage(.system, text)] + messages.dropFirst(system.count)
  }

  private static func fenced(_ value: JSON) -> String { "\(fence)json\n\(value.prettyText)\n\(fence)" }

  /// Calls of a message as the model has written them.
  static func text(of message: Fields) throws -> String {
    try message.objects("tool_calls").map { call in
      guard let function = try call.object("function"), let name = try function.string("name") else {
        throw call.wrong("function", "an object with a name and arguments")
      }
      return text(name, function["arguments"] ?? "{}")
    }.joined(separator: "\n")
  }

  static func text(_ name: String, _ arguments: JSON) -> String {
    "\(mark)\n" + fenced(["name": .string(name), "arguments": parsed(arguments)])
  }

  /// What a tool has answered.
  static func output(_ text: String) -> String { fenced(parsed(.string(text))) }

  /// A text that is JSON as what it is.
  private static func parsed(_ value: JSON) -> JSON {
    guard case .string(let text) = value else { return value }
    return (try? JSON(parsing: Array(text.utf8))) ?? value
  }

  // MARK: What the model has written

  /// The calls that an answer ends with, and what stands before them. Nil: there are none, or one is not in the form or
  /// of a function that is not there, or something follows.
  func calls(in text: String) -> (before: String, calls: [Call])? {
    guard let first = text.firstRange(of: Self.mark) else { return nil }
    var rest = text[first.lowerBound...]
    var calls: [Call] = []
    while !rest.isEmpty {
      guard rest.hasPrefix(Self.opening) else { return nil }
      rest.removeFirst(Self.opening.count)
      guard let end = rest.firstRange(of: "\n\(Self.fence)"), let call = call(String(rest[..<end.lowerBound]))
      else {
        return nil
      }
      calls.append(call)
      rest = rest[end.upperBound...].drop { $0.isWhitespace }
    }
    return (String(text[..<first.lowerBound]), onlyOne ? Array(calls.prefix(1)) : calls)
  }

  private func call(_ text: String) -> Call? {
    guard let value = try? JSON(parsing: Array(text.utf8)), case .object(let members) = value,
      members.count == 2,
      case .string(let name)? = value["name"], let arguments = value["arguments"], case .object = arguments,
      functions.contains(where: { $0.name == name })
    else { return nil }
    return Call(name: name, arguments: arguments.text)
  }

  /// Holds an answer back from where a call may begin.
  struct Splitter {
    private let tools: Tools
    private var held: String
    private let suffix: String

    init(_ tools: Tools) {
      self.tools = tools
      // A call that has to come has begun in the prompt, and ends with its last bracket.
      held = tools.required == nil ? "" : opening
      suffix = tools.required == nil ? "" : "\n\(fence)"
    }

    /// What is certainly no call, nor white space before one.
    mutating func push(_ text: String) -> String {
      held += text
      let kept = (1..<mark.count).reversed().first { held.hasSuffix(mark.prefix($0)) } ?? 0
      var sent = held.firstRange(of: mark).map { held[..<$0.lowerBound] } ?? held.dropLast(kept)
      while sent.last?.isWhitespace ?? false { sent.removeLast() }
      held.removeFirst(sent.count)
      return String(sent)
    }

    /// Ends the text: returns what is left of it and is no call, and the calls.
    mutating func flush() -> (text: String, calls: [Call]) {
      defer { held = "" }
      if let found = tools.calls(in: held + suffix) { return ("", found.calls) }
      return (suffix.isEmpty ? held : String(held.dropFirst(opening.count)), [])
    }
  }
}
