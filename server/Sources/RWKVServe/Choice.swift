// SPDX-License-Identifier: MIT
import RWKV
import RWKVTokenizer

/// One choice of an answer while it is being written.
struct Choice {
  private let completion: Completion
  private var splitter: ThoughtSplitter
  private var tools: Tools.Splitter?
  private(set) var content = ""
  private(set) var reasoning = ""
  private(set) var calls: [Tools.Call] = []
  /// What the model wrote.
  private(set) var raw = ""
  /// Tokens, once it has ended.
  private(set) var written = 0
  private var reports: [TokenReport] = []
  /// Reports that were sent, and characters of their tokens.
  private var sent = 0
  private var offset = 0
  private var reason: FinishReason?

  init(_ completion: Completion, _ generation: Generation) {
    self.completion = completion
    splitter = ThoughtSplitter(completion.opening, isActive: completion.separatesThinking)
    tools = completion.tools.map { Tools.Splitter($0) }
    // Nothing stands before the first token of a prompt, so it has no probability.
    if generation.reportsPrompt, let first = generation.prompt.first {
      reports = [TokenReport(id: first, logprob: .nan, top: [])]
    }
  }

  /// Whether the limit of tokens ended it.
  var isCut: Bool { reason == .length && calls.isEmpty }

  /// Why it ended, as clients know it.
  private var ending: JSON {
    guard let reason else { return .null }
    return calls.isEmpty ? reason == .length ? "length" : "stop" : "tool_calls"
  }

  /// A part of an answer that can be sent.
  struct Piece {
    var content = ""
    var reasoning = ""
    var logprobs = JSON.null
    /// The number of the call that is being written, and what is new of it; nil outside of calls.
    var call: (index: Int, new: JSON)?
    var ending = JSON.null

    func json(_ index: Int, _ completion: Completion) -> JSON {
      guard completion.isChat else {
        return [
          "index": .integer(index), "text": .string(content), "logprobs": logprobs, "finish_reason": ending,
        ]
      }
      var delta: [(String, JSON)] = []
      if !reasoning.isEmpty { delta.append(("reasoning_content", .string(reasoning))) }
      if !content.isEmpty { delta.append(("content", .string(content))) }
      if let call, case .object(let members) = call.new {
        delta.append(("tool_calls", [.object([("index", .integer(call.index))] + members)]))
      }
      return completion.delta(index, .object(delta), logprobs: logprobs, reason: ending)
    }
  }

  @discardableResult
  mutating func take(_ event: Event, _ generation: Generation) -> [Piece] {
    switch event {
    case .progress: return []
    case .token(let report):
      reports.append(report)
      return []
    case .text(let text):
      raw += text
      let (content, reasoning) = splitter.push(text)
      return piece(tools?.push(content) ?? content, reasoning, generation)
    case .finished(let reason, let tokens):
      self.reason = reason
      written = tokens
      var (content, reasoning) = splitter.flush()
      if tools != nil {
        content = tools?.push(content) ?? ""
        let (rest, calls) = tools?.flush() ?? ("", [])
        content += rest
        self.calls = calls
      }
      var pieces = piece(content, reasoning, generation)
      for (index, call) in calls.enumerated() {
        let head = call.description(arguments: "")
        pieces.append(Piece(call: (index, head)))
        pieces.append(Piece(call: (index, ["function": ["arguments": .string(call.arguments)]])))
      }
      pieces.append(Piece(logprobs: newLogprobs(generation), ending: ending))
      return pieces
    }
  }

  private mutating func piece(_ content: String, _ reasoning: String, _ generation: Generation) -> [Piece] {
    self.content += content
    self.reasoning += reasoning
    guard !content.isEmpty || !reasoning.isEmpty else { return [] }
    return [Piece(content: content, reasoning: reasoning, logprobs: newLogprobs(generation))]
  }

  /// What is known of the tokens since the last piece.
  private mutating func newLogprobs(_ generation: Generation) -> JSON {
    guard generation.logprobs != nil, sent < reports.count else { return .null }
    let new = reports[sent...]
    defer {
      sent = reports.count
      offset += new.reduce(0) { $0 + completion.characters($1.id) }
    }
    return completion.logprobs(Array(new), offset: offset)
  }

  func description(index: Int, _ generation: Generation) -> JSON {
    let logprobs = generation.logprobs == nil ? .null : completion.logprobs(reports, offset: 0)
    guard completion.isChat else {
      return [
        "index": .integer(index), "text": .string(completion.echoed(generation) + content),
        "logprobs": logprobs, "finish_reason": ending,
      ]
    }
    var message: [(String, JSON)] = [
      ("role", "assistant"), ("content", content.isEmpty && !calls.isEmpty ? .null : .string(content)),
    ]
    if !reasoning.isEmpty { message.append(("reasoning_content", .string(reasoning))) }
    if !calls.isEmpty {
      message.append(("tool_calls", .array(calls.map { $0.description(arguments: $0.arguments) })))
    }
    return [
      "index": .integer(index), "message": .object(message), "logprobs": logprobs, "finish_reason": ending,
    ]
  }
}

extension Tools.Call {
  func description(arguments: String) -> JSON {
    [
      "id": .string(id), "type": "function",
      "function": ["name": .string(name), "arguments": .string(arguments)],
    ]
  }
}
