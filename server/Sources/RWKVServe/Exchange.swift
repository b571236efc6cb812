// SPDX-License-Identifier: MIT
import RWKV
import RWKVChat
import Synchronization

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
    case .array?:
      for item in try fields.objects("input") {
        guard try item.string("type") ?? "message" == "message" else { throw item.wrong("type", "message") }
        messages.append(["role": item["role"] ?? .null, "content": Self.content(item["content"])])
      }
    default: throw fields.wrong("input", "a string or a list of messages")
    }
    self.messages = messages
    var chat: [String: JSON] = [:]
    for name in ["model", "temperature", "top_p", "top_k", "min_p", "seed", "stream", "tools", "no_cache"] {
      chat[name] = fields[name]
    }
    chat["max_tokens"] = fields["max_output_tokens"]
    let instructions =
      try fields.string("instructions").map { [["role": "system", "content": .string($0)] as JSON] } ?? []
    chat["messages"] = .array(instructions + messages)
    completion = try Completion(
      Fields(chat), chat: true, engine: engine, owner: owner, maximum: maximum, separates: true)
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
    let (events, cached) = try completion.engine.run(generation)
    var choice = Choice(completion)
    for try await (_, event) in events { choice.take(event, generation) }
    return finish(choice, cached)
  }

  @Sendable func stream(_ send: (String) async throws -> Void) async throws {
    let (events, cached) = try completion.engine.run(generation)
    var choice = Choice(completion)
    var number = 0
    func emit(_ type: String, _ members: [(String, JSON)]) async throws {
      let event = JSON.object([("type", .string(type)), ("sequence_number", .integer(number))] + members)
      number += 1
      try await send("event: \(type)\ndata: \(event.text)\n\n")
    }
    let place: [(String, JSON)] = [
      ("item_id", .string(message)), ("output_index", 0), ("content_index", 0),
    ]
    let item: [(String, JSON)] = [("output_index", 0)]
    let started = response("in_progress", [], usage: .null)
    try await emit("response.created", [("response", started)])
    try await emit("response.in_progress", [("response", started)])
    try await emit("response.output_item.added", item + [("item", output("", "in_progress", isEmpty: true))])
    try await emit("response.content_part.added", place + [("part", part(""))])
    for try await (_, event) in events {
      for piece in choice.take(event, generation) where !piece.content.isEmpty {
        try await emit(
          "response.output_text.delta", place + [("delta", .string(piece.content)), ("logprobs", [])])
      }
    }
    let whole = finish(choice, cached)
    try await emit(
      "response.output_text.done", place + [("text", .string(choice.content)), ("logprobs", [])])
    try await emit("response.content_part.done", place + [("part", part(choice.content))])
    try await emit("response.output_item.done", item + [("item", output(choice.content, "completed"))])
    try await emit(choice.isCut ? "response.incomplete" : "response.completed", [("response", whole)])
  }

  private var generation: Generation { completion.generations[0] }
  private var message: String { "msg_" + id.dropFirst(5) }

  /// Remembers the exchange under its id.
  private func finish(_ choice: Choice, _ cached: Int) -> JSON {
    completion.engine.responses.insert(
      id, messages + [["role": "assistant", "content": .string(choice.content)]], owner: owner)
    let usage: JSON = [
      "input_tokens": .integer(generation.prompt.count), "output_tokens": .integer(choice.written),
      "total_tokens": .integer(generation.prompt.count + choice.written),
      "input_tokens_details": ["cached_tokens": .integer(cached)],
      "output_tokens_details": ["reasoning_tokens": 0],
    ]
    return response(
      choice.isCut ? "incomplete" : "completed",
      [output(choice.content, choice.isCut ? "incomplete" : "completed")],
      usage: usage)
  }

  private func part(_ text: String) -> JSON {
    ["type": "output_text", "text": .string(text), "annotations": [], "logprobs": []]
  }

  private func output(_ text: String, _ status: String, isEmpty: Bool = false) -> JSON {
    [
      "type": "message", "id": .string(message), "role": "assistant", "status": .string(status),
      "content": isEmpty ? [] : [part(text)],
    ]
  }

  private func response(_ status: String, _ output: [JSON], usage: JSON) -> JSON {
    [
      "id": .string(id), "object": "response", "created_at": .integer(completion.created),
      "status": .string(status),
      "model": .string(completion.model), "output": .array(output), "usage": usage, "error": .null,
      "incomplete_details": status == "incomplete" ? ["reason": "max_output_tokens"] : .null,
      "instructions": .null,
      "metadata": [:], "parallel_tool_calls": false, "tool_choice": "none", "tools": [],
      "previous_response_id": previous.map { .string($0) } ?? .null,
      "temperature": .number(generation.options.temperature), "top_p": .number(generation.options.topP),
    ]
  }
}

/// Conversations that clients go on with by the id of the last answer; the oldest are forgotten first. Thread-safe.
final class KnownResponses: Sendable {
  private static let capacity = 4096
  private let known = Mutex<(messages: [String: (owner: String, messages: [JSON])], order: [String])>(
    ([:], []))

  func find(_ id: String, owner: String) throws -> [JSON] {
    guard let found = known.withLock({ $0.messages[id] }), found.owner == owner else {
      throw APIError(
        status: .notFound, message: "There is no response '\(id)'; the server may have forgotten it.",
        parameter: "previous_response_id", code: "previous_response_not_found")
    }
    return found.messages
  }

  func insert(_ id: String, _ messages: [JSON], owner: String) {
    known.withLock { known in
      known.messages[id] = (owner, messages)
      known.order.append(id)
      if known.order.count > Self.capacity { known.messages[known.order.removeFirst()] = nil }
    }
  }
}
