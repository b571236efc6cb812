// SPDX-License-Identifier: MIT
public import CRWKVABI
import Dispatch
import RWKV
import RWKVFormat
import Synchronization

// Part 2 of rwkv.h: many requests at once.

/// `struct rwkv_scheduler`
final class SchedulerObject: Object, @unchecked Sendable {
  override class var kind: String { "scheduler" }
  let model: Model
  private let scheduler: Scheduler
  private let content = Mutex(Content())
  /// Counts the results that are there.
  private let news = DispatchSemaphore(value: 0)

  private struct Content {
    var next: UInt64 = 1
    /// Requests whose end was not handed out.
    var pending: [UInt64: Pending] = [:]
    /// Those that have something to hand out, and how many of them were taken.
    var ready: [Pending] = []
    var taken = 0
    var isFreed = false

    mutating func nextReady() -> Pending? {
      guard !isFreed, taken < ready.count else { return nil }
      defer {
        taken += 1
        // Now and then, so that a result costs the same however many are there.
        if taken > 64 && taken > ready.count / 2 {
          ready.removeFirst(taken)
          taken = 0
        }
      }
      return ready[taken]
    }
  }

  private final class Pending: Sendable {
    struct Content {
      var ticket: Scheduler.Ticket?
      /// What came since the last result.
      var news = ResultObject.News()
      /// Whether it waits to be handed out.
      var isReady = false
    }
    let id: UInt64
    let content = Mutex(Content())

    init(_ id: UInt64) { self.id = id }

    func take() -> ResultObject {
      content.withLock { content in
        defer {
          content.news = ResultObject.News()
          content.isReady = false
        }
        return ResultObject(id, content.news)
      }
    }
  }

  init(_ model: Model, threads: Int, parallel: Int) throws {
    self.model = model
    scheduler = try Scheduler(model, threads: threads, parallel: parallel, queue: Int.max >> 1)
  }

  /// Ends everything; those who wait for results get an error.
  func free() {
    content.withLock { $0.isFreed = true }
    news.signal()
    scheduler.stop()
  }

  var pendingCount: Int { content.withLock { $0.pending.count } }

  func cancel(_ id: UInt64) {
    let pending = content.withLock { $0.pending[id] }
    if let ticket = pending?.content.withLock({ $0.ticket }) { scheduler.cancel(ticket) }
  }

  /// Takes a request whose results `next` hands out.
  func submit(_ request: Request, streams: Bool = false, logProbabilities: Bool = false) throws -> UInt64 {
    let pending = content.withLock { content in
      let pending = Pending(content.next)
      content.next += 1
      content.pending[pending.id] = pending
      return pending
    }
    var request = request
    request.observe = { [self] chosen in
      let logProbability = logProbabilities ? LogProbabilities(chosen.logits)[chosen.id] : nil
      add(pending) {
        $0.tokens.append(chosen.id)
        if let logProbability { $0.logProbabilities.append(logProbability) }
      }
    }
    request.receive = { [self] text in
      add(pending, ready: streams) { $0.text += text }
      return true
    }
    request.receiveScores = { [self] scores in
      add(pending) {
        $0.tokens = scores.map(\.mostLikely)
        $0.logProbabilities = scores.map(\.logProbability)
      }
    }
    if request.receiveEmbedding != nil {
      request.receiveEmbedding = { [self] vector in add(pending) { $0.vector = vector } }
    }
    request.finish = { [self] outcome in add(pending, ready: true) { $0.outcome = outcome } }
    do {
      let ticket = try scheduler.submit(request)
      pending.content.withLock { $0.ticket = ticket }
      return pending.id
    } catch {
      content.withLock { $0.pending[pending.id] = nil }
      throw error
    }
  }

  private func add(_ pending: Pending, ready: Bool = false, _ body: (inout ResultObject.News) -> Void) {
    let isNew = pending.content.withLock { content in
      body(&content.news)
      defer { content.isReady = content.isReady || ready }
      return ready && !content.isReady
    }
    guard isNew else { return }
    content.withLock { $0.ready.append(pending) }
    news.signal()
  }

  /// What is new of a request; nil if nothing comes within some seconds, negative ones: ever.
  func next(_ timeout: Double) throws -> ResultObject? {
    guard !timeout.isNaN else { throw Failure(RWKV_ERROR_ARGS, "timeout is not a number, expected seconds") }
    let isEndless = timeout < 0 || timeout > 1e9
    guard news.wait(timeout: isEndless ? .distantFuture : .now() + timeout) == .success else { return nil }
    guard let pending = content.withLock({ $0.nextReady() }) else {
      news.signal()  // for the next who waits
      throw Failure(RWKV_ERROR_CTX, "the scheduler was freed")
    }
    let result = pending.take()
    if result.news.outcome != nil { content.withLock { $0.pending[pending.id] = nil } }
    return result
  }
}

/// `struct rwkv_result`
final class ResultObject: Object, @unchecked Sendable {
  override class var kind: String { "result" }
  let request: UInt64
  let news: News

  struct News {
    var text: [UInt8] = []
    var tokens: [Int] = []
    var logProbabilities: [Double] = []
    var vector: [Float] = []
    /// Nil while the request goes on.
    var outcome: Result<(FinishReason, State), any Error>?
  }

  init(_ request: UInt64, _ news: News) {
    self.request = request
    self.news = news
  }
}

@c @implementation
public func rwkv_scheduler_new(_ ctx: OpaquePointer?, _ threads: UInt32, _ parallel: UInt32) -> OpaquePointer?
{
  ask(ctx, nil) { context in
    let threads = try threadCount(threads)
    guard (1...Batch.capacity).contains(Int(parallel)) else {
      throw Failure(RWKV_ERROR_ARGS, "n_parallel is \(parallel), expected 1…\(Batch.capacity)")
    }
    return Handles.add(try SchedulerObject(context.model, threads: threads, parallel: Int(parallel)))
  }
}

@c @implementation
public func rwkv_scheduler_free(_ scheduler: OpaquePointer?) {
  Handles.remove(scheduler, SchedulerObject.self)?.free()
}

@c @implementation
public func rwkv_scheduler_generate(
  _ scheduler: OpaquePointer?, _ state: OpaquePointer?, _ sampler: OpaquePointer?,
  _ tokens: UnsafePointer<UInt32>?, _ count: Int, _ maxTokens: Int,
  _ stops: UnsafePointer<UnsafePointer<CChar>?>?, _ stopCount: Int, _ flags: UInt32
) -> UInt64 {
  attempt(0) {
    let object = try Handles.get(scheduler, SchedulerObject.self)
    var request = try object.request(state, list(tokens, count))
    let choice = SamplingChoice(model: object.model)
    request.limit = maxTokens < 0 ? nil : maxTokens
    request.options = choice.options
    if sampler != nil {
      let sampler = try Handles.get(sampler, SamplerObject.self)
      request.options = try sampler.exclusively { sampler.options }
    }
    request.stop = stops == nil && stopCount == 0 ? choice.stops : try texts(stops, stopCount, "stops")
    let known = RWKV_REQUEST_STREAM.rawValue | RWKV_REQUEST_LOGPROBS.rawValue
    guard flags & ~known == 0 else {
      throw Failure(RWKV_ERROR_ARGS, "flags is \(flags); this version knows those in \(known)")
    }
    return try object.submit(
      request, streams: flags & RWKV_REQUEST_STREAM.rawValue != 0,
      logProbabilities: flags & RWKV_REQUEST_LOGPROBS.rawValue != 0)
  }
}

@c @implementation
public func rwkv_scheduler_score(
  _ scheduler: OpaquePointer?, _ state: OpaquePointer?, _ tokens: UnsafePointer<UInt32>?, _ count: Int,
  _ first: Int
) -> UInt64 {
  attempt(0) {
    let object = try Handles.get(scheduler, SchedulerObject.self)
    let tokens = try list(tokens, count)
    guard (1..<max(2, tokens.count)).contains(first), tokens.count > 1 else {
      throw Failure(
        RWKV_ERROR_ARGS, "first is \(first), expected 1 or more and less than the \(tokens.count) tokens")
    }
    var request = try object.request(state, tokens.dropLast())
    request.targets = Array(tokens[first...])
    return try object.submit(request)
  }
}

@c @implementation
public func rwkv_scheduler_embed(
  _ scheduler: OpaquePointer?, _ tokens: UnsafePointer<UInt32>?, _ count: Int
) -> UInt64 {
  attempt(0) {
    let object = try Handles.get(scheduler, SchedulerObject.self)
    var request = try object.request(nil, list(tokens, count) + [object.model.endOfText])
    request.receiveEmbedding = { _ in }
    return try object.submit(request)
  }
}

extension SchedulerObject {
  /// A request that writes nothing, and has a copy of a state.
  fileprivate func request(_ handle: OpaquePointer?, _ tokens: [Int]) throws -> Request {
    guard !tokens.isEmpty else { throw Failure(RWKV_ERROR_ARGS, "no tokens; give at least one") }
    var request = Request(prompt: tokens, limit: 0) { _ in }
    if handle != nil {
      let object = try Handles.get(handle, StateObject.self)
      request.state = try object.exclusively { object.state.copy() }
    }
    return request
  }
}

@c @implementation
public func rwkv_scheduler_cancel(_ scheduler: OpaquePointer?, _ request: UInt64) -> Bool {
  attempt(false) {
    try Handles.get(scheduler, SchedulerObject.self).cancel(request)
    return true
  }
}

@c @implementation
public func rwkv_scheduler_get_pending(_ scheduler: OpaquePointer?) -> Int {
  attempt(failed) { try Handles.get(scheduler, SchedulerObject.self).pendingCount }
}

@c @implementation
public func rwkv_scheduler_next(
  _ scheduler: OpaquePointer?, _ timeout: Double, _ result: UnsafeMutablePointer<OpaquePointer?>?
) -> Bool {
  attempt(false) {
    let object = try Handles.get(scheduler, SchedulerObject.self)
    guard let result else { throw Failure.null("result_out") }
    result.pointee = try object.next(timeout).flatMap { Handles.add($0) }
    return true
  }
}

// MARK: - Results

@c @implementation
public func rwkv_result_get_request(_ result: OpaquePointer?) -> UInt64 {
  attempt(0) { try Handles.get(result, ResultObject.self).request }
}

@c @implementation
public func rwkv_result_get_finish(_ result: OpaquePointer?) -> rwkv_finish {
  attempt(RWKV_FINISH_ERROR) {
    guard let outcome = try Handles.get(result, ResultObject.self).news.outcome else {
      return RWKV_FINISH_NOT_YET
    }
    return try outcome.get().0.flag
  }
}

@c @implementation
public func rwkv_result_get_text(
  _ result: OpaquePointer?, _ buffer: UnsafeMutablePointer<CChar>?, _ size: Int
) -> Int {
  attempt(failed) { try write(Handles.get(result, ResultObject.self).news.text, buffer, size) }
}

@c @implementation
public func rwkv_result_get_tokens(
  _ result: OpaquePointer?, _ tokens: UnsafeMutablePointer<UInt32>?, _ capacity: Int
) -> Int {
  attempt(failed) { try write(Handles.get(result, ResultObject.self).news.tokens, tokens, capacity) }
}

@c @implementation
public func rwkv_result_get_logprobs(
  _ result: OpaquePointer?, _ logprobs: UnsafeMutablePointer<Double>?, _ capacity: Int
) -> Int {
  attempt(failed) {
    try write(Handles.get(result, ResultObject.self).news.logProbabilities, "logprobs", logprobs, capacity)
  }
}

@c @implementation
public func rwkv_result_get_vector(
  _ result: OpaquePointer?, _ vector: UnsafeMutablePointer<Float>?, _ capacity: Int
) -> Int {
  attempt(failed) {
    try write(Handles.get(result, ResultObject.self).news.vector, "vector", vector, capacity)
  }
}

@c @implementation
public func rwkv_result_get_state(_ result: OpaquePointer?) -> OpaquePointer? {
  attempt(nil) {
    guard let outcome = try Handles.get(result, ResultObject.self).news.outcome else {
      throw Failure(RWKV_ERROR_CTX, "the request goes on; its state is there when it has ended")
    }
    return Handles.add(StateObject(try outcome.get().1.copy()))
  }
}

@c @implementation
public func rwkv_result_free(_ result: OpaquePointer?) { Handles.remove(result, ResultObject.self) }
