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
  let created = Int(Date().timeIntervalSince1970)
  let streams: Bool
  let includesUsage: Bool
  let echo: Bool
  let returnsState: Bool
  /// One for each prompt of a list.
  let generations: [Generation]
  /// Whether answers begin within a thought, and whether thoughts are told apart.
  let startsThinking: Bool
  let separatesThinking: Bool

  static let maximumLogprobs = 20

  init(_ fields: Fields, chat: Bool, engine: Engine, owner: String, maximum: Int, separates: Bool) throws {
    self.engine = engine
    isChat = chat
    model = try fields.string("model").flatMap { $0.isEmpty ? nil : $0 } ?? engine.name
    id = (chat ? "chatcmpl-" : "cmpl-") + String(UInt64.random(in: 0 ... .max), radix: 36)
    streams = try fields.bool("stream")
    includesUsage = try fields.object("stream_options")?.bool("include_usage") ?? false
    echo = try !chat && fields.bool("echo")
    returnsState = try fields.bool("return_state")
    for name in ["tools", "functions"] where !fields.list(name).isEmpty {
      throw APIError.invalid("'\(name)' is not supported by this server yet; leave it out.", name)
    }
    if let best = try fields.integer("best_of", in: 1...128), best > 1 {
      throw APIError.invalid("'best_of' above 1 is not supported; ask for n choices.", "best_of")
    }

    var base = Generation(prompt: [], limit: 0, owner: owner)
    base.start = try fields.string("state").map { try engine.states.find($0, owner: owner) }
    base.usesCache = try !fields.bool("no_cache")
    base.choices = try fields.integer("n", in: 1...16) ?? 1
    base.options = try Self.options(fields, engine.sampling(chat: chat).options)
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
    if chat {
      let (text, border, opening) = try Self.conversation(fields, engine, base.start)
      base.stop += engine.sampling(chat: true).stops
      base.prompt = try engine.encode(text)
      base.border = try border.map { Self.common(try $0.map(engine.encode), base.prompt) }
      startsThinking = opening.contains("<think") && !opening.contains("</think>")
      generations = [base]
    } else {
      startsThinking = false
      let prompts = try Self.prompts(fields, "prompt", engine)
      guard !prompts.isEmpty else { throw APIError.invalid("'prompt' is missing.", "prompt") }
      generations = prompts.map { prompt in
        var generation = base
        generation.prompt = prompt
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
    switch try fields.object("response_format")?.string("type") {
    case nil, "text": break
    case "json_object": options.onlyJSON = true
    case let type?:
      throw APIError.invalid(
        "'response_format' of type '\(type)' is not supported; json_object is.", "response_format.type")
    }
    return options
  }

  /// The text of messages, the beginnings that the next turn will have, and what the answer begins with.
  private static func conversation(
    _ fields: Fields, _ engine: Engine, _ start: SavedStates.Entry?
  ) throws -> (text: String, border: [String]?, opening: String) {
    let template = engine.template
    let messages = try messages(fields)
    guard !messages.isEmpty else { throw APIError.invalid("'messages' is empty.", "messages") }
    do {
      let way = try fields.string("reasoning").map { name throws(ChatMessageError) in
        try template.thinking(named: name)
      }
      var text = try template.text(of: messages, way)
      if let start {
        // The state has read the greeting, and perhaps an answer without what stands after it.
        if messages.first?.role != .system, text.hasPrefix(template.greeting) {
          text.removeFirst(template.greeting.count)
        }
        if start.answered { text = template.end + text }
      }
      let isOpen = messages.last?.role == .assistant && messages.last?.text.isEmpty == false
      let next = try ["a", "."].map { try template.text(of: messages + [ChatMessage(.assistant, $0)]) }
      return (
        text, start == nil && !isOpen ? next : nil,
        isOpen ? "" : (way ?? template.thinking.first)?.answer ?? ""
      )
    } catch let error as ChatMessageError {
      throw APIError.invalid("\(error).", "messages")
    }
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
      // What newer clients call instructions.
      do { return try ChatMessage(role: role == "developer" ? "system" : role, text) } catch {
        throw APIError.invalid("\(error).", "messages[\(index)].role")
      }
    }
  }

  /// A text, token ids, or a list of either.
  static func prompts(_ fields: Fields, _ name: String, _ engine: Engine) throws -> [[Int]] {
    func ids(_ values: [JSON]) throws -> [Int] {
      try values.map { value in
        guard case .integer(let id) = value, (0..<engine.model.configuration.vocabulary).contains(id) else {
          throw fields.wrong(
            name, "a string, token ids below \(engine.model.configuration.vocabulary), or a list of either")
        }
        return id
      }
    }
    let values = fields.list(name)
    if case .integer? = values.first { return [try ids(values)] }
    return try values.map { value in
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
      let (events, cached) = try engine.run(generation)
      promptTokens += generation.prompt.count
      cachedTokens += cached
      var parts = (0..<generation.choices).map { _ in Choice(self) }
      for try await (index, event) in events { parts[index].take(event, generation) }
      for part in parts {
        written += part.written
        choices.append(part.description(index: choices.count, generation))
      }
      if returnsState { state = .string(try await engine.keep(generation, parts[0].raw, name: nil).id) }
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

  /// Sends server-sent events as they happen.
  @Sendable func stream(_ send: (String) async throws -> Void) async throws {
    let generation = generations[0]
    let (events, cached) = try engine.run(generation)
    let begin = ContinuousClock.now
    var parts = (0..<generation.choices).map { _ in Choice(self) }
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
      members.append(("state", .string(try await engine.keep(generation, parts[0].raw, name: nil).id)))
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
    let members: [(String, JSON)] = [
      ("id", .string(id)), ("object", .string(isChat ? "chat.completion.chunk" : "text_completion")),
      ("created", .integer(created)), ("model", .string(model)), ("choices", .array(choices)),
    ]
    return "data: \(JSON.object(members + more).text)\n\n"
  }

  fileprivate func delta(_ index: Int, _ delta: JSON, logprobs: JSON = .null, reason: JSON = .null) -> JSON {
    ["index": .integer(index), "delta": delta, "logprobs": logprobs, "finish_reason": reason]
  }

  fileprivate func logprobs(_ reports: [TokenReport]) -> JSON {
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
    var offset = 0
    let offsets = reports.map { report in
      defer { offset += engine.text(report.id).unicodeScalars.count }
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

/// One choice of an answer while it is being written.
struct Choice {
  private let completion: Completion
  private var splitter: ThoughtSplitter
  private(set) var content = ""
  private(set) var reasoning = ""
  /// What the model wrote.
  private(set) var raw = ""
  private(set) var written = 0
  private var reports: [TokenReport] = []
  private var sent = 0
  private var reason: FinishReason?
  private var promptReports = 0

  init(_ completion: Completion) {
    self.completion = completion
    splitter = ThoughtSplitter(
      isThinking: completion.startsThinking, isActive: completion.separatesThinking)
  }

  /// Whether the limit of tokens ended it.
  var isCut: Bool { reason == .length }

  /// A part of an answer that can be sent.
  struct Piece {
    var content = ""
    var reasoning = ""
    var reports: [TokenReport]?
    var reason: FinishReason?

    func json(_ index: Int, _ completion: Completion) -> JSON {
      let ending: JSON = reason.map { .string($0 == .length ? "length" : "stop") } ?? .null
      let logprobs = reports.map { completion.logprobs($0) } ?? .null
      guard completion.isChat else {
        return [
          "index": .integer(index), "text": .string(content), "logprobs": logprobs, "finish_reason": ending,
        ]
      }
      var delta: [(String, JSON)] = []
      if !reasoning.isEmpty { delta.append(("reasoning_content", .string(reasoning))) }
      if !content.isEmpty { delta.append(("content", .string(content))) }
      return completion.delta(index, .object(delta), logprobs: logprobs, reason: ending)
    }
  }

  @discardableResult
  mutating func take(_ event: Event, _ generation: Generation) -> [Piece] {
    switch event {
    case .progress: return []
    case .token(let report):
      if generation.reportsPrompt && promptReports < generation.prompt.count - 1 {
        promptReports += 1
      } else {
        written += 1
      }
      reports.append(report)
      return []
    case .text(let text):
      raw += text
      if generation.logprobs == nil { written = max(written, 1) }
      return piece(splitter.push(text), generation)
    case .finished(let reason):
      self.reason = reason
      var last = piece(splitter.flush(), generation)
      if generation.logprobs == nil { written = (try? completion.engine.encode(raw).count) ?? written }
      last.append(Piece(reason: reason))
      return last
    }
  }

  private mutating func piece(_ parts: (content: String, reasoning: String), _ generation: Generation)
    -> [Piece]
  {
    content += parts.content
    reasoning += parts.reasoning
    guard !parts.content.isEmpty || !parts.reasoning.isEmpty else { return [] }
    let new = generation.logprobs == nil ? nil : Array(reports[sent...])
    sent = reports.count
    return [Piece(content: parts.content, reasoning: parts.reasoning, reports: new)]
  }

  func description(index: Int, _ generation: Generation) -> JSON {
    let ending: JSON = .string(reason == .length ? "length" : "stop")
    var logprobs: JSON = .null
    if generation.logprobs != nil {
      let first =
        generation.reportsPrompt && !generation.prompt.isEmpty
        ? [TokenReport(id: generation.prompt[0], logprob: .nan, top: [])] : []
      logprobs = completion.logprobs(first + reports)
    }
    guard completion.isChat else {
      let echoed = completion.echo ? generation.prompt.filter { $0 != 0 } : []
      let prompt = String(decoding: completion.engine.tokenizer.decode(echoed), as: UTF8.self)
      return [
        "index": .integer(index), "text": .string(prompt + content), "logprobs": logprobs,
        "finish_reason": ending,
      ]
    }
    var message: [(String, JSON)] = [("role", "assistant"), ("content", .string(content))]
    if !reasoning.isEmpty { message.append(("reasoning_content", .string(reasoning))) }
    return [
      "index": .integer(index), "message": .object(message), "logprobs": logprobs, "finish_reason": ending,
    ]
  }
}

/// Tells thoughts, between `<think>` and `</think>`, from the answer; a tag may come in pieces.
struct ThoughtSplitter {
  private var isThinking: Bool
  private let isActive: Bool
  private var held = ""
  private var hasBegun: Bool
  /// White space at the beginning of the answer or of a thought is left out.
  private var trims = true

  init(isThinking: Bool, isActive: Bool) {
    self.isThinking = isThinking
    self.isActive = isActive
    hasBegun = isThinking
    // A template may open the thought with "<think", and the model closes the tag.
    held = isThinking ? "<think" : ""
  }

  mutating func push(_ text: String) -> (content: String, reasoning: String) {
    guard isActive else { return (text, "") }
    held += text
    var result = (content: "", reasoning: "")
    while true {
      let tag = isThinking && !held.hasPrefix("<think") ? "</think>" : isThinking ? "<think" : "<think>"
      if isThinking && held.hasPrefix("<think") {
        guard held.count > 6 else { return result }
        held.removeFirst(6)
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
