// SPDX-License-Identifier: MIT
import Foundation
import RWKV
import RWKVChat
import RWKVFormat
import RWKVTokenizer
import Synchronization

/// A token that was read or written, and what else was likely.
struct TokenReport: Sendable {
  let id: Int
  let logprob: Double
  let top: [(id: Int, logprob: Double)]
}

/// What happens to one choice of a request.
enum Event: Sendable {
  case progress(read: Int)
  case token(TokenReport)
  case text(String)
  case finished(FinishReason)
}

/// Tokens to read, and how to go on.
struct Generation: Sendable {
  var prompt: [Int]
  /// The state before the prompt; nil: a new document.
  var start: SavedStates.Entry?
  var limit: Int
  var options = SamplingOptions()
  var stop: [String] = []
  var choices = 1
  /// Likely tokens to list for each.
  var logprobs: Int?
  var reportsPrompt = false
  var usesCache = true
  /// Number of prompt tokens that the next turn of a conversation will begin with.
  var border: Int?
  /// Whose states may be used.
  var owner: String
}

/// A model and everything that requests share.
final class Engine: Sendable {
  let model: Model
  let tokenizer: any Tokenizer
  let template: ChatTemplate
  let name: String
  let scheduler: Scheduler
  let cache: StateCache
  let states = SavedStates()
  let responses = KnownResponses()
  /// Of an embedding model.
  let texts: TextModels?

  init(
    _ model: Model, _ template: ChatTemplate, name: String, _ scheduler: Scheduler, cacheBytes: Int,
    texts: TextModels? = nil
  ) throws {
    self.texts = texts
    guard let tokenizer = model.tokenizer else { throw APIError.invalid("The model has no tokenizer.") }
    self.model = model
    self.tokenizer = tokenizer
    self.template = template
    self.name = name
    self.scheduler = scheduler
    cache = StateCache(capacity: cacheBytes)
  }

  /// Events of all choices, each with the number of its choice, and how many tokens of the prompt came from the cache.
  ///
  /// The requests end when nobody listens any more.
  func run(_ generation: Generation) throws -> (
    events: AsyncThrowingStream<(Int, Event), any Error>, cached: Int
  ) {
    let prompt = generation.prompt.isEmpty ? [0] : generation.prompt
    let found =
      generation.usesCache && generation.start == nil && !generation.reportsPrompt
      ? cache.longest(prefixOf: prompt, owner: generation.owner) : nil
    let cached = found?.count ?? 0
    let (events, continuation) = AsyncThrowingStream<(Int, Event), any Error>.makeStream()
    let left = Mutex(generation.choices)
    let tickets = Mutex([Scheduler.Ticket]())
    // A listener that leaves while requests are being submitted is noticed at the end.
    let isOver = Mutex(false)
    let scheduler = scheduler
    continuation.onTermination = { _ in
      isOver.withLock { $0 = true }
      for ticket in tickets.withLock({ $0 }) { scheduler.cancel(ticket) }
    }
    for choice in 0..<generation.choices {
      var request = request(generation, choice, prompt, found) { continuation.yield((choice, $0)) }
      request.finish = { [cache] result in
        switch result {
        case .success((let reason, let state)):
          if generation.usesCache && generation.start == nil && generation.limit == 0 && reason == .length {
            cache.insert(prompt, state, owner: generation.owner)
          }
          continuation.yield((choice, .finished(reason)))
          let remaining = left.withLock { left in
            left -= 1
            return left
          }
          if remaining == 0 { continuation.finish() }
        case .failure(let error): continuation.finish(throwing: error)
        }
      }
      do {
        let ticket = try scheduler.submit(request)
        tickets.withLock { $0.append(ticket) }
      } catch {
        for ticket in tickets.withLock({ $0 }) { scheduler.cancel(ticket) }
        throw error
      }
    }
    if isOver.withLock({ $0 }) { for ticket in tickets.withLock({ $0 }) { scheduler.cancel(ticket) } }
    return (events, cached)
  }

  private func request(
    _ generation: Generation, _ choice: Int, _ prompt: [Int], _ found: StateCache.Found?,
    _ send: @escaping @Sendable (Event) -> Void
  ) -> Request {
    let cached = found?.count ?? 0
    var request = Request(prompt: Array(prompt[cached...]), limit: generation.limit) { _ in }
    request.state = found?.state.copy() ?? generation.start?.copy()
    request.options = generation.options
    request.options.seed &+= UInt64(choice)
    request.stop = generation.stop
    if generation.usesCache && generation.start == nil && choice == 0 {
      let borders = Set(stride(from: 512, to: prompt.count, by: 512)).union([generation.border ?? 0])
      request.checkpoints = borders.map { $0 - cached }.filter { $0 > 0 }.sorted()
      request.checkpoint = { [cache] read, state in
        cache.insert(Array(prompt[..<(cached + read)]), state, owner: generation.owner)
      }
    }
    if choice == 0 { request.progress = { send(.progress(read: cached + $0)) } }
    if generation.reportsPrompt {
      request.observePrompt = { index, logits, _ in
        guard index + 1 < prompt.count else { return }
        send(.token(TokenReport(prompt[index + 1], logits, listing: generation.logprobs ?? 0)))
      }
    }
    if let count = generation.logprobs {
      request.observe = { send(.token(TokenReport($0.id, $0.logits, listing: count))) }
    }
    request.receive = { text in
      send(.text(String(decoding: text, as: UTF8.self)))
      return true
    }
    return request
  }

  /// A state that has read `start` and then the tokens, kept under a new id.
  func keep(
    _ generation: Generation, _ answer: String, name: String?, answered: Bool = true
  ) async throws -> SavedStates.Entry {
    let tokens = generation.prompt + (try encode(answer))
    let found = generation.start == nil ? cache.longest(prefixOf: tokens, owner: generation.owner) : nil
    let rest = Array(tokens[(found?.count ?? 0)...])
    let start = found?.state.copy() ?? generation.start?.copy()
    let state: UncheckedState = try await withCheckedThrowingContinuation { continuation in
      var request = Request(prompt: rest, limit: 0) { result in
        continuation.resume(with: result.map { UncheckedState(state: $0.1) })
      }
      request.state = start
      do { try scheduler.submit(request) } catch { continuation.resume(throwing: error) }
    }
    return try states.add(
      state.state, tokens: (generation.start?.tokens ?? []) + tokens, name: name, owner: generation.owner,
      answered: answered)
  }

  /// The vectors of texts, of length 1: what `rwkv-run embed` gives.
  func embeddings(_ texts: [[Int]], _ task: EmbeddingTask?) async throws -> [[Float]] {
    if let models = self.texts { return try await models.vectors(texts, task ?? .retrieval) }
    guard task == nil else {
      throw APIError.invalid("'task' is for embedding models; this is a model of language.", "task")
    }
    var vectors: [[Float]] = []
    for tokens in texts { vectors.append(try await embedding(tokens)) }
    return vectors
  }

  private func embedding(_ tokens: [Int]) async throws -> [Float] {
    let vector = Mutex([Float]())
    let _: Bool = try await withCheckedThrowingContinuation { continuation in
      var request = Request(prompt: tokens + [model.endOfText], limit: 0) { result in
        continuation.resume(with: result.map { _ in true })
      }
      request.receiveEmbedding = { found in vector.withLock { $0 = found } }
      do { try scheduler.submit(request) } catch { continuation.resume(throwing: error) }
    }
    return vector.withLock { $0 }
  }

  /// What is used where a request says nothing: what is stored in the file, then in a chat the template's.
  func sampling(chat: Bool) -> SamplingChoice {
    chat ? template.choice(for: model) : SamplingChoice(given: SamplingAdvice(), model: model)
  }

  /// A text's tokens; an error of the request where the vocabulary cannot express it.
  func encode(_ text: String) throws -> [Int] {
    do { return try tokenizer.encode(text) } catch { throw APIError.invalid("\(error)") }
  }

  /// What a token is written with, for people: as OpenAI writes bytes that are no character.
  func text(_ id: Int) -> String {
    if id == 0 { return "<|endoftext|>" }
    let bytes = tokenizer.bytes(of: id)
    return String(validating: bytes, as: UTF8.self)
      ?? "bytes:" + bytes.map { "\\x" + String($0 >> 4, radix: 16) + String($0 & 15, radix: 16) }.joined()
  }
}

/// A state that goes from one thread to another.
struct UncheckedState: @unchecked Sendable {
  let state: State
}

extension TokenReport {
  init(_ id: Int, _ logits: UnsafeBufferPointer<Float>, listing count: Int) {
    var best: [(id: Int, logit: Float)] = []
    if count > 0 {
      for (token, logit) in logits.enumerated() where best.count < count || logit > best[count - 1].logit {
        let place = best.firstIndex { logit > $0.logit } ?? best.count
        best.insert((token, logit), at: place)
        if best.count > count { best.removeLast() }
      }
    }
    let own = -crossEntropy(logits, target: id)
    let normalizer = Double(logits[id]) - own
    self.init(id: id, logprob: own, top: best.map { ($0.id, Double($0.logit) - normalizer) })
  }
}

/// States after prefixes of texts, the least recently used ones dropped first. Thread-safe.
final class StateCache: Sendable {
  struct Found: @unchecked Sendable {
    let state: State
    let count: Int
  }

  private struct Entry: @unchecked Sendable {
    let tokens: [Int]
    let owner: String
    let state: State
    var lastUse: Int
    var bytes: Int { state.byteCount + 8 * tokens.count }
  }

  private let capacity: Int
  private let entries = Mutex<(list: [Entry], clock: Int, bytes: Int, hits: Int, misses: Int)>(
    ([], 0, 0, 0, 0))

  init(capacity: Int) { self.capacity = capacity }

  /// The state after the longest known beginning of a text that leaves at least one token to read.
  func longest(prefixOf tokens: [Int], owner: String) -> Found? {
    entries.withLock { entries in
      let index = entries.list.indices.filter { index in
        let entry = entries.list[index]
        return entry.owner == owner && entry.tokens.count < tokens.count && tokens.starts(with: entry.tokens)
      }.max { entries.list[$0].tokens.count < entries.list[$1].tokens.count }
      guard let index else {
        entries.misses += 1
        return nil
      }
      entries.hits += 1
      entries.clock += 1
      entries.list[index].lastUse = entries.clock
      return Found(state: entries.list[index].state, count: entries.list[index].tokens.count)
    }
  }

  /// Keeps a state that nobody changes any more.
  func insert(_ tokens: [Int], _ state: State, owner: String) {
    let entry = UncheckedState(state: state)
    entries.withLock { entries in
      entries.clock += 1
      if let index = entries.list.firstIndex(where: { $0.owner == owner && $0.tokens == tokens }) {
        entries.list[index].lastUse = entries.clock
        return
      }
      let new = Entry(tokens: tokens, owner: owner, state: entry.state, lastUse: entries.clock)
      entries.list.append(new)
      entries.bytes += new.bytes
      while entries.bytes > capacity,
        let oldest = entries.list.indices.min(by: { entries.list[$0].lastUse < entries.list[$1].lastUse })
      {
        entries.bytes -= entries.list[oldest].bytes
        entries.list.remove(at: oldest)
      }
    }
  }

  var statistics: (entries: Int, bytes: Int, hits: Int, misses: Int) {
    entries.withLock { ($0.list.count, $0.bytes, $0.hits, $0.misses) }
  }
}

/// States that clients keep by id, each its owner's alone. Thread-safe.
final class SavedStates: Sendable {
  struct Entry: @unchecked Sendable {
    let id: String
    let name: String?
    let owner: String
    let tokens: [Int]
    /// Whether the last thing that it has read is an answer of the model.
    let answered: Bool
    let created: Int
    private let state: State

    init(_ state: State, id: String, name: String?, owner: String, tokens: [Int], answered: Bool) {
      self.id = id
      self.name = name
      self.owner = owner
      self.tokens = tokens
      self.answered = answered
      self.state = state
      created = Int(Date().timeIntervalSince1970)
    }

    /// What is kept never changes: whoever goes on does so on a copy.
    func copy() -> State { state.copy() }
    func file() throws -> [UInt8] { try state.encoded(tokens: tokens) }
    var bytes: Int { state.byteCount }

    var description: JSON {
      [
        "id": .string(id), "object": "state", "name": name.map { .string($0) } ?? .null,
        "bytes": .integer(bytes),
        "tokens": .integer(tokens.count), "created": .integer(created),
      ]
    }
  }

  static let capacity = 1 << 30
  private let entries = Mutex<[String: Entry]>([:])

  func add(_ state: State, tokens: [Int], name: String?, owner: String, answered: Bool, id: String? = nil)
    throws -> Entry
  {
    let id = id ?? "state-" + (0..<2).map { _ in String(UInt64.random(in: 0 ... .max), radix: 36) }.joined()
    let entry = Entry(state, id: id, name: name, owner: owner, tokens: tokens, answered: answered)
    try entries.withLock { entries in
      if let old = entries[id], old.owner != owner { throw Self.unknown(id) }
      guard entries.values.reduce(entry.bytes, { $0 + $1.bytes }) <= Self.capacity else {
        throw APIError(
          status: .tooManyRequests, message: "States take \(Self.capacity >> 20) MiB already; delete some.")
      }
      entries[id] = entry
    }
    return entry
  }

  func find(_ id: String, owner: String) throws -> Entry {
    guard let entry = entries.withLock({ $0[id] }), entry.owner == owner else { throw Self.unknown(id) }
    return entry
  }

  func list(owner: String) -> [Entry] {
    entries.withLock { $0.values.filter { $0.owner == owner } }.sorted {
      ($0.created, $0.id) < ($1.created, $1.id)
    }
  }

  func remove(_ id: String, owner: String) throws {
    _ = try find(id, owner: owner)
    entries.withLock { _ = $0.removeValue(forKey: id) }
  }

  var bytes: Int { entries.withLock { $0.values.reduce(0) { $0 + $1.bytes } } }

  private static func unknown(_ id: String) -> APIError {
    APIError(
      status: .notFound, message: "There is no state '\(id)'.", parameter: "state", code: "state_not_found")
  }
}
