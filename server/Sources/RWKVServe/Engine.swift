// SPDX-License-Identifier: MIT
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
  case finished(FinishReason, tokens: Int)
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
  /// Number of prompt tokens that the next turn of a conversation, or the text as it goes on, will begin with.
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
  let states: SavedStates
  let responses: KnownResponses
  let folder: StateFolder?
  /// Makes vectors and scores, if the model is an embedding model.
  let texts: TextModels?

  init(
    _ model: Model, _ template: ChatTemplate, name: String, _ scheduler: Scheduler, cacheBytes: Int,
    _ folder: StateFolder?, texts: TextModels? = nil
  ) throws {
    self.texts = texts
    guard let tokenizer = model.tokenizer else { throw APIError.invalid("The model has no tokenizer.") }
    self.model = model
    self.tokenizer = tokenizer
    self.template = template
    self.name = name
    self.scheduler = scheduler
    self.folder = folder
    cache = StateCache(capacity: cacheBytes, model, folder)
    states = SavedStates(model, folder)
    responses = KnownResponses(folder)
  }

  /// Events of all choices, each with the number of its choice, and how many tokens of the prompt came from the cache.
  ///
  /// The requests end when nobody listens any more.
  func run(_ generation: Generation) async throws -> (
    events: AsyncThrowingStream<(Int, Event), any Error>, cached: Int
  ) {
    let prompt = generation.prompt.isEmpty ? [0] : generation.prompt
    let isNew = generation.usesCache && generation.start == nil && !generation.reportsPrompt
    let found =
      isNew ? try await apart { [cache] in cache.longest(prefixOf: prompt, owner: generation.owner) } : nil
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
      let written = Mutex(0)
      request.observe = { [observe = request.observe] token in
        written.withLock { $0 += 1 }
        observe?(token)
      }
      request.finish = { [cache] result in
        switch result {
        case .success((let reason, let state)):
          if generation.usesCache && generation.start == nil && generation.limit == 0 && reason == .length {
            cache.insert(prompt, state, owner: generation.owner)
          }
          continuation.yield((choice, .finished(reason, tokens: written.withLock { $0 })))
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
    request.state = found?.state ?? generation.start?.state
    request.history = found == nil ? generation.start?.tokens ?? [] : Array(prompt[..<cached])
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
    let found =
      try await apart { [cache] in
        generation.start == nil ? cache.longest(prefixOf: tokens, owner: generation.owner) : nil
      }
    let rest = Array(tokens[(found?.count ?? 0)...])
    let start = found?.state ?? generation.start?.state
    var request = Request(prompt: rest, limit: 0) { _ in }
    request.state = start
    let state = try await self.state(after: request)
    return try await apart { [states] in
      try states.add(
        state.state, tokens: (generation.start?.tokens ?? []) + tokens, name: name, owner: generation.owner,
        answered: answered)
    }
  }

  /// The state after a request, which ends before the next pass if the task does: where the client has left.
  private func state(after request: Request) async throws -> UncheckedState {
    let ticket = Mutex<Scheduler.Ticket?>(nil)
    return try await withTaskCancellationHandler {
      try await withCheckedThrowingContinuation { continuation in
        var request = request
        request.finish = { result in
          continuation.resume(
            with: result.flatMap { reason, state in
              reason == .cancelled
                ? .failure(CancellationError()) : .success(UncheckedState(state: state))
            })
        }
        do {
          let taken = try scheduler.submit(request)
          ticket.withLock { $0 = taken }
          // Before there was a ticket.
          if Task.isCancelled { scheduler.cancel(taken) }
        } catch { continuation.resume(throwing: error) }
      }
    } onCancel: {
      if let ticket = ticket.withLock({ $0 }) { scheduler.cancel(ticket) }
    }
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
    var request = Request(prompt: tokens + [model.endOfText], limit: 0) { _ in }
    request.receiveEmbedding = { found in vector.withLock { $0 = found } }
    _ = try await state(after: request)
    return vector.withLock { $0 }
  }

  /// What is used where a request says nothing: what is stored in the file, then what a chat's template says.
  func sampling(_ template: ChatTemplate?) -> SamplingChoice {
    template?.choice(for: model) ?? SamplingChoice(given: SamplingAdvice(), model: model)
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

/// Runs what may take long, or wait for a disk, apart from the threads that serve the network.
func apart<Result: Sendable>(_ body: @escaping @Sendable () throws -> Result) async throws -> Result {
  try await withCheckedThrowingContinuation { continuation in
    RWKVFormat.apart { continuation.resume(with: Swift.Result { try body() }) }
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
