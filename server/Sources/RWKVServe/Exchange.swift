// SPDX-License-Identifier: MIT
import RWKV
import RWKVChat

/// A request of `/v1/responses` and how it is answered: a conversation of which the client sends what is new.
struct Exchange: Sendable {
  let completion: Completion
  private let id: String
  private let previous: String?
  private let messages: [JSON]
  private let owner: String

  init(_ fields: Fields, engine: Engine, owner: String, maximum: Int) throws {
    self.owner = owner
    id = "resp_" + String(UInt64.random(in: 0 ... .max), radix: 36)
    previous = try fields.string("previous_response_id")
    var messages = try previous.map { try engine.responses.find($0, owner: owner) } ?? []
    switch fields["input"] {
    case .string(let text)?: messages.append(["role": "user", "content": .string(text)])
    case .array?: messages += try fields.objects("input").compactMap(Self.message)
    default: throw fields.wrong("input", "a string or a list of items")
    }
    guard !messages.isEmpty else { throw fields.absent("input") }
    self.messages = messages
    var chat: [String: JSON] = [:]
    for name in [
      "model", "temperature", "top_p", "top_k", "min_p", "seed", "stream", "tools", "tool_choice",
      "parallel_tool_calls", "no_cache",
    ] { chat[name] = fields[name] }
    chat["max_tokens"] = fields["max_output_tokens"]
    if let format = try fields.object("text")?["format"] {
      // What chat completions have one level deeper.
      chat["response_format"] = ["type": format["type"] ?? .null, "json_schema": format]
    }
    let instructions =
      try fields.string("instructions").map { [["role": "system", "content": .string($0)] as JSON] } ?? []
    chat["messages"] = .array(instructions + messages)
    completion = try Completion(
      Fields(chat), chat: true, engine: engine, owner: owner, maximum: maximum, separates: true)
  }

  /// An item as a message of a chat; nil: the server needs nothing of it.
  private static func message(_ item: Fields) throws -> JSON? {
    switch try item.string("type") ?? "message" {
    case "message": return ["role": item["role"] ?? .null, "content": content(item["content"])]
    case "function_call":
      return call(item["call_id"] ?? .null, item["name"] ?? .null, item["arguments"] ?? .null)
    case "function_call_output": return ["role": "tool", "content": content(item["output"])]
    case "reasoning": return nil
    default: throw item.wrong("type", "message, function_call or function_call_output")
    }
  }

  private static func call(_ id: JSON, _ name: JSON, _ arguments: JSON) -> JSON {
    let function: JSON = ["name": name, "arguments": arguments]
    return [
      "role": "assistant", "content": .null,
      "tool_calls": [["id": id, "type": "function", "function": function]],
    ]
  }

  /// Parts of a message under the names that chat completions have for them.
  private static func content(_ content: JSON?) -> JSON {
    guard case .array(let parts)? = content else { return content ?? .null }
    return .array(
      parts.map { part in
        guard case .object(let members) = part else { return part }
        return .object(
          members.map { name, value in
            guard name == "type", case .string(let type) = value,
              ["input_text", "output_text"].contains(type)
            else {
              return (name, value)
            }
            return (name, "text")
          })
      })
  }

  @Sendable func answer() async throws -> JSON {
    let (events, cached) = try await completion.engine.run(generation)
    var choice = Choice(completion, generation)
    for try await (_, event) in events { choice.take(event, generation) }
    return try await finish(choice, cached)
  }

  @Sendable func stream() async throws -> Events {
    let (events, cached) = try await completion.engine.run(generation)
    return { send in try await self.send(events, cached, send) }
  }

  private func send(
    _ events: AsyncThrowingStream<(Int, Event), any Error>, _ cached: Int,
    _ send: (String) async throws -> Void
  ) async throws {
    var choice = Choice(completion, generation)
    var number = 0
    func emit(_ type: String, _ members: [(String, JSON)]) async throws {
      let event = JSON.object([("type", .string(type)), ("sequence_number", .integer(number))] + members)
      number += 1
      try await send("event: \(type)\ndata: \(event.text)\n\n")
    }
    let place: [(String, JSON)] = [
      ("item_id", .string(messageID)), ("output_index", 0), ("content_index", 0),
    ]
    var hasBegun = false
    func begin() async throws {
      hasBegun = true
      let empty = message("", "in_progress", isEmpty: true)
      try await emit("response.output_item.added", [("output_index", 0), ("item", empty)])
      try await emit("response.content_part.added", place + [("part", part(""))])
    }
    let started = response("in_progress", [], usage: .null)
    try await emit("response.created", [("response", started)])
    try await emit("response.in_progress", [("response", started)])
    for try await (_, event) in events {
      for piece in choice.take(event, generation) where !piece.content.isEmpty {
        if !hasBegun { try await begin() }
        try await emit(
          "response.output_text.delta", place + [("delta", .string(piece.content)), ("logprobs", [])])
      }
    }
    let whole = try await finish(choice, cached)
    if !hasBegun && choice.calls.isEmpty { try await begin() }
    if hasBegun {
      try await emit(
        "response.output_text.done", place + [("text", .string(choice.content)), ("logprobs", [])])
      try await emit("response.content_part.done", place + [("part", part(choice.content))])
      let item = message(choice.content, "completed")
      try await emit("response.output_item.done", [("output_index", 0), ("item", item)])
    }
    for (index, call) in choice.calls.enumerated() {
      let index = JSON.integer(index + (hasBegun ? 1 : 0))
      let place: [(String, JSON)] = [("item_id", .string("fc_" + call.id)), ("output_index", index)]
      let begun = item(call, "in_progress", arguments: "")
      let whole = item(call, "completed", arguments: call.arguments)
      try await emit("response.output_item.added", [("output_index", index), ("item", begun)])
      try await emit(
        "response.function_call_arguments.delta", place + [("delta", .string(call.arguments))])
      try await emit(
        "response.function_call_arguments.done",
        place + [("name", .string(call.name)), ("arguments", .string(call.arguments))])
      try await emit("response.output_item.done", [("output_index", index), ("item", whole)])
    }
    try await emit(choice.isCut ? "response.incomplete" : "response.completed", [("response", whole)])
  }

  private var generation: Generation { completion.generations[0] }
  private var messageID: String { "msg_" + id.dropFirst(5) }

  /// Remembers the exchange under its id.
  private func finish(_ choice: Choice, _ cached: Int) async throws -> JSON {
    var said = messages
    if !choice.content.isEmpty || choice.calls.isEmpty {
      said.append(["role": "assistant", "content": .string(choice.content)])
    }
    said += choice.calls.map { Self.call(.string($0.id), .string($0.name), .string($0.arguments)) }
    let (known, whole) = (completion.engine.responses, said)
    try await apart { known.insert(id, whole, owner: owner) }
    let usage: JSON = [
      "input_tokens": .integer(generation.prompt.count), "output_tokens": .integer(choice.written),
      "total_tokens": .integer(generation.prompt.count + choice.written),
      "input_tokens_details": ["cached_tokens": .integer(cached)],
      "output_tokens_details": ["reasoning_tokens": 0],
    ]
    let status = choice.isCut ? "incomplete" : "completed"
    let text = choice.content.isEmpty && !choice.calls.isEmpty ? [] : [message(choice.content, status)]
    let calls = choice.calls.map { item($0, "completed", arguments: $0.arguments) }
    return response(status, text + calls, usage: usage)
  }

  private func part(_ text: String) -> JSON {
    ["type": "output_text", "text": .string(text), "annotations": [], "logprobs": []]
  }

  private func message(_ text: String, _ status: String, isEmpty: Bool = false) -> JSON {
    [
      "type": "message", "id": .string(messageID), "role": "assistant", "status": .string(status),
      "content": isEmpty ? [] : [part(text)],
    ]
  }

  private func item(_ call: Tools.Call, _ status: String, arguments: String) -> JSON {
    [
      "type": "function_call", "id": .string("fc_" + call.id), "call_id": .string(call.id),
      "name": .string(call.name), "arguments": .string(arguments), "status": .string(status),
    ]
  }

  private func response(_ status: String, _ output: [JSON], usage: JSON) -> JSON {
    [
      "id": .string(id), "object": "response", "created_at": .integer(completion.created),
      "status": .string(status),
      "model": .string(completion.model), "output": .array(output), "usage": usage, "error": .null,
      "incomplete_details": status == "incomplete" ? ["reason": "max_output_tokens"] : .null,
      "instructions": .null,
      "metadata": [:], "parallel_tool_calls": true, "tool_choice": "auto", "tools": [],
      "previous_response_id": previous.map { .string($0) } ?? .null,
      "temperature": .number(generation.options.temperature), "top_p": .number(generation.options.topP),
    ]
  }
}
