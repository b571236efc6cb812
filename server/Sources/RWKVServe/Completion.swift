// SPDX-License-Identifier: MIT
import Foundation
import Hummingbird
import RWKV
import RWKVChat
import RWKVTokenizer

/// A request of `/v1/chat/completions` or `/v1/completions`, and how it is answered.
struct Completion: Sendable {
  let engine: Engine
  let isChat: Bool
  let model: String
  let id: String
  let created: Int
  let streams: Bool
  let includesUsage: Bool
  let echo: Bool
  let returnsState: Bool
  /// What is written for each prompt of a list.
  let generations: [Generation]
  /// What stands before the answer of what the model would have written, and whether thoughts are told apart.
  let opening: String
  let separatesThinking: Bool
  /// Tools that the model may call.
  let tools: Tools?
  /// What every event of a stream begins with.
  private let chunkHead: String

  static let maximumLogprobs = 20

  init(_ fields: Fields, chat: Bool, engine: Engine, owner: String, maximum: Int, separates: Bool) throws {
    self.engine = engine
    isChat = chat
    model = try fields.string("model").flatMap { $0.isEmpty ? nil : $0 } ?? engine.name
    id = (chat ? "chatcmpl-" : "cmpl-") + String(UInt64.random(in: 0 ... .max), radix: 36)
    created = Int(Date().timeIntervalSince1970)
    let head: JSON = [
      "id": .string(id), "object": chat ? "chat.completion.chunk" : "text_completion",
      "created": .integer(created), "model": .string(model),
    ]
    chunkHead = "data: \(head.text.dropLast()),"
    streams = try fields.bool("stream")
    includesUsage = try fields.object("stream_options")?.bool("include_usage") ?? false
    echo = try !chat && fields.bool("echo")
    returnsState = try fields.bool("return_state")
    tools = chat ? try Tools(fields) : nil
    let grammar = try Self.grammar(fields)
    if grammar != nil && tools != nil {
      throw APIError.invalid("'response_format' does not go with 'tools'.", "response_format")
    }
    if let best = try fields.integer("best_of", in: 1...128), best > 1 {
      throw APIError.invalid("'best_of' above 1 is not supported; ask for n choices.", "best_of")
    }

    var base = Generation(prompt: [], limit: 0, owner: owner)
    base.start = try fields.string("state").map { try engine.states.find($0, owner: owner) }
    base.usesCache = try !fields.bool("no_cache")
    base.choices = try fields.integer("n", in: 1...16) ?? 1
    let dialogue =
      chat
      ? try Dialogue(fields, engine, base.start, tools, isJSON: (grammar ?? tools?.required) != nil) : nil
    let sampling = engine.sampling(dialogue?.template)
    base.options = try Self.options(fields, sampling.options)
    base.options.jsonGrammar = grammar ?? tools?.required
    base.stop = try fields.strings("stop")
    guard base.stop.count <= 16, !base.stop.contains("") else {
      throw fields.wrong("stop", "at most 16 strings, none of them empty")
    }
    let wanted =
      try fields.integer("max_completion_tokens", in: 0...(1 << 30))
      ?? fields.integer("max_tokens", in: 0...(1 << 30))
    base.limit = min(wanted ?? (chat ? maximum : 16), maximum)
    if chat {
      if try fields.bool("logprobs") {
        base.logprobs = try fields.integer("top_logprobs", in: 0...Self.maximumLogprobs) ?? 0
      }
    } else {
      base.logprobs = try fields.integer("logprobs", in: 0...Self.maximumLogprobs)
      base.reportsPrompt = echo && base.logprobs != nil
    }
    if returnsState && base.choices > 1 {
      throw APIError.invalid("'return_state' goes with one choice.", "return_state")
    }

    separatesThinking = chat && separates
    opening = dialogue?.opening ?? ""
    if let dialogue {
      // In JSON they may stand in strings, or be white space.
      if base.options.jsonGrammar == nil { base.stop += sampling.stops }
      if tools != nil { base.stop.append(Tools.stop) }
      base.prompt = try engine.encode(dialogue.text)
      base.border = try dialogue.next.map { Self.common(try $0.map(engine.encode), base.prompt) }
      generations = [base]
    } else {
      let prompts = try Self.prompts(fields, "prompt", engine)
      guard !prompts.isEmpty else { throw fields.absent("prompt") }
      generations = prompts.map { prompt in
        var generation = base
        generation.prompt = prompt
        // A text that grows begins with all of it. Lists, and texts that are scored, seldom grow.
        if prompts.count == 1 && !base.reportsPrompt { generation.border = prompt.count }
        return generation
      }
      if streams && generations.count > 1 {
        throw APIError.invalid("A list of prompts cannot be streamed.", "stream")
      }
    }
    if returnsState && generations.count > 1 {
      throw APIError.invalid("'return_state' goes with one prompt.", "return_state")
    }
  }

  /// Number of tokens that all beginnings share with a prompt.
  private static func common(_ beginnings: [[Int]], _ prompt: [Int]) -> Int {
    beginnings.map { beginning in zip(beginning, prompt).prefix { $0 == $1 }.count }.min() ?? 0
  }

  private static func options(_ fields: Fields, _ base: SamplingOptions) throws -> SamplingOptions {
    var options = base
    options.temperature = try fields.number("temperature", in: 0...1000) ?? options.temperature
    options.topP = try fields.number("top_p", in: 0...1) ?? options.topP
    options.topK = try fields.integer("top_k", in: 0...Int(Int32.max)) ?? options.topK
    options.minP = try fields.number("min_p", in: 0...1) ?? options.minP
    // Temperature 0 is the likeliest token, unless penalties are asked for.
    if options.temperature == 0 { (options.presencePenalty, options.frequencyPenalty) = (0, 0) }
    options.presencePenalty =
      try fields.number("presence_penalty", in: -1000...1000) ?? options.presencePenalty
    options.frequencyPenalty =
      try fields.number("frequency_penalty", in: -1000...1000) ?? options.frequencyPenalty
    options.penaltyDecay = try fields.number("penalty_decay", in: 0...1) ?? options.penaltyDecay
    options.seed =
      try fields.integer("seed", in: Int.min...Int.max).map { UInt64(bitPattern: Int64($0)) }
      ?? .random(in: 0 ... .max)
    if let biases = try fields.object("logit_bias") {
      for name in biases.names {
        guard let token = Int(name), token >= 0 else { throw biases.wrong(name, "a token id with a number") }
        options.logitBias[token] = try biases.number(name, in: -1000...1000).map {
          $0 <= -100 ? -.infinity : Float($0)
        }
      }
    }
    return options
  }

  /// What the answer as a whole must be; nil: anything.
  private static func grammar(_ fields: Fields) throws -> JSONGrammar? {
    guard let format = try fields.object("response_format") else { return nil }
    switch try format.string("type") {
    case nil, "text": return nil
    case "json_object": return .object
    case "json_schema":
      let place = "response_format.json_schema.schema"
      guard let schema = try format.object("json_schema")?["schema"] else {
        throw APIError.invalid("'\(place)' is missing.", place)
      }
      do { return try JSONSchema.grammar(schema.value, place) } catch let error as JSONSchemaError {
        throw APIError.invalid(error.description, error.place)
      }
    default: throw format.wrong("type", "text, json_object or json_schema")
    }
  }

  /// A text, token ids, or a list of either.
  static func prompts(_ fields: Fields, _ name: String, _ engine: Engine) throws -> [[Int]] {
    func ids(_ values: [JSON]) throws -> [Int] {
      try values.map { value in
        guard let id = value.integer, (0..<engine.model.configuration.vocabulary).contains(id) else {
          throw fields.wrong(
            name, "a string, token ids below \(engine.model.configuration.vocabulary), or a list of either")
        }
        return id
      }
    }
    let values = fields.list(name)
    if values.first?.integer != nil { return [try ids(values)] }
    return try fields.texts(name).map { value in
      switch value {
      case .string(let text): try engine.encode(text)
      case .array(let list): try ids(list)
      default: try ids([value])
      }
    }
  }

  // MARK: Answers

  /// The whole answer, when it is complete.
  @Sendable func answer() async throws -> JSON {
    var choices: [JSON] = []
    var (promptTokens, cachedTokens, written) = (0, 0, 0)
    var state: JSON?
    let begin = ContinuousClock.now
    for generation in generations {
      let (events, cached) = try await engine.run(generation)
      promptTokens += generation.prompt.count
      cachedTokens += cached
      var parts = (0..<generation.choices).map { _ in Choice(self, generation) }
      for try await (index, event) in events { parts[index].take(event, generation) }
      for part in parts {
        written += part.written
        choices.append(part.description(index: choices.count, generation))
      }
      if returnsState {
        state = .string(try await engine.keep(generation, parts[0].raw, name: nil).description.id)
      }
    }
    var members: [(String, JSON)] = [
      ("id", .string(id)), ("object", .string(isChat ? "chat.completion" : "text_completion")),
      ("created", .integer(created)), ("model", .string(model)), ("choices", .array(choices)),
      ("usage", usage(promptTokens, written, cachedTokens)), ("timings", timings(written, since: begin)),
    ]
    if let state { members.append(("state", state)) }
    return .object(members)
  }

  private func usage(_ prompt: Int, _ written: Int, _ cached: Int) -> JSON {
    [
      "prompt_tokens": .integer(prompt), "completion_tokens": .integer(written),
      "total_tokens": .integer(prompt + written),
      "prompt_tokens_details": ["cached_tokens": .integer(cached)],
    ]
  }

  private func timings(_ written: Int, since begin: ContinuousClock.Instant) -> JSON {
    let seconds = (ContinuousClock.now - begin) / .seconds(1)
    return [
      "predicted_n": .integer(written), "predicted_per_second": .number(Double(written) / max(seconds, 1e-9)),
    ]
  }

  /// Begins an answer of server-sent events.
  @Sendable func stream() async throws -> Events {
    let generation = generations[0]
    let beginning =
      echo
      ? (0..<generation.choices).map { chunk([Choice.Piece(content: echoed(generation)).json($0, self)]) }
      : []
    let (events, cached) = try await engine.run(generation)
    return { send in
      for text in beginning { try await send(text) }
      try await self.send(events, generation, cached, send)
    }
  }

  private func send(
    _ events: AsyncThrowingStream<(Int, Event), any Error>, _ generation: Generation, _ cached: Int,
    _ send: (String) async throws -> Void
  ) async throws {
    let begin = ContinuousClock.now
    var parts = (0..<generation.choices).map { _ in Choice(self, generation) }
    var hasBegun = Set<Int>()
    for try await (index, event) in events {
      if isChat && hasBegun.insert(index).inserted {
        try await send(chunk([delta(index, ["role": "assistant", "content": ""])]))
      }
      if case .progress(let read) = event, read < generation.prompt.count {
        try await send(": prompt \(read)/\(generation.prompt.count)\n\n")
      }
      for piece in parts[index].take(event, generation) { try await send(chunk([piece.json(index, self)])) }
    }
    var members: [(String, JSON)] = []
    if returnsState {
      members.append(
        ("state", .string(try await engine.keep(generation, parts[0].raw, name: nil).description.id)))
    }
    let written = parts.reduce(0) { $0 + $1.written }
    if includesUsage {
      members += [
        ("usage", usage(generation.prompt.count, written, cached)),
        ("timings", timings(written, since: begin)),
      ]
    }
    if !members.isEmpty { try await send(chunk([], members)) }
    try await send("data: [DONE]\n\n")
  }

  private func chunk(_ choices: [JSON], _ more: [(String, JSON)] = []) -> String {
    let members: [(String, JSON)] = [("choices", .array(choices))]
    return "\(chunkHead)\(JSON.object(members + more).text.dropFirst())\n\n"
  }

  func delta(_ index: Int, _ delta: JSON, logprobs: JSON = .null, reason: JSON = .null) -> JSON {
    ["index": .integer(index), "delta": delta, "logprobs": logprobs, "finish_reason": reason]
  }

  /// What a completion with `echo` begins with.
  func echoed(_ generation: Generation) -> String {
    let tokens = echo ? generation.prompt.filter { $0 != 0 } : []
    return String(decoding: engine.tokenizer.decode(tokens), as: UTF8.self)
  }

  /// Characters that begin in a token.
  func characters(_ token: Int) -> Int {
    token == 0 ? 0 : engine.tokenizer.bytes(of: token).count { $0 & 0xC0 != 0x80 }
  }

  /// - Parameter offset: characters before the first token.
  func logprobs(_ reports: [TokenReport], offset: Int) -> JSON {
    func entry(_ id: Int, _ logprob: Double) -> [(String, JSON)] {
      let bytes = id == 0 ? [] : engine.tokenizer.bytes(of: id)
      return [
        ("token", .string(engine.text(id))), ("logprob", .number(logprob)),
        ("bytes", .array(bytes.map { .integer(Int($0)) })),
      ]
    }
    if isChat {
      return [
        "content": .array(
          reports.map { report in
            let top = report.top.map { JSON.object(entry($0.id, $0.logprob)) }
            return .object(entry(report.id, report.logprob) + [("top_logprobs", .array(top))])
          })
      ]
    }
    var offset = offset
    let offsets = reports.map { report in
      defer { offset += characters(report.id) }
      return JSON.integer(offset)
    }
    return [
      "tokens": .array(reports.map { .string(engine.text($0.id)) }),
      "token_logprobs": .array(reports.map { $0.logprob.isNaN ? .null : .number($0.logprob) }),
      "top_logprobs": .array(
        reports.map { report in
          report.logprob.isNaN ? .null : .object(report.top.map { (engine.text($0.id), .number($0.logprob)) })
        }),
      "text_offset": .array(offsets),
    ]
  }
}
