// SPDX-License-Identifier: MIT
internal import Dispatch
public import RWKVFormat
internal import Synchronization

/// What a scheduler is to do for one caller: read a prompt, then write a text.
///
/// The closures are called on threads of the scheduler, never two of one request at a time, and should return soon:
/// everybody waits for them. The pointers that they get are valid during the call.
public struct Request: @unchecked Sendable {
  /// Token ids to read first; empty only if `limit` is 0.
  public var prompt: [Int]
  /// What the request goes on from: the request's own from now on. Nil: a new document.
  public var state: State?
  /// Tokens to write at most; nil: until the model ends the text.
  public var limit: Int?
  public var options = SamplingOptions()
  /// Strings that end the text and are no part of it.
  public var stop: [String] = []
  /// Numbers of prompt tokens, ascending, after which `checkpoint` is called.
  public var checkpoints: [Int] = []
  /// Gets a copy of the state after so many tokens of the prompt.
  public var checkpoint: (_ read: Int, State) -> Void = { _, _ in }
  /// Called after each piece of the prompt with the number of tokens read so far.
  public var progress: (_ read: Int) -> Void = { _ in }
  /// If it is there, called for each token of the prompt with its index, the logits after it, [V], and the hidden
  /// vector that they were made from, [D].
  public var observePrompt:
    ((_ index: Int, _ logits: UnsafeBufferPointer<Float>, _ hidden: UnsafeBufferPointer<Float>) -> Void)?
  /// What follows each of the last tokens of the prompt, as many as there are here; `receiveScores` gets how well it was
  /// predicted.
  public var targets: [Int] = []
  /// Called before `finish`, if that is no error: the scores of `targets`.
  public var receiveScores: ([TokenScore]) -> Void = { _ in }
  /// If it is there, called before `finish`, if that is no error: with the vector of the prompt, `Session.embedding` if
  /// that is a text with `Model.endOfText` behind it.
  public var receiveEmbedding: (([Float]) -> Void)?
  /// How that vector is made.
  public var embeddingOptions = EmbeddingOptions()
  /// Called with each token that is chosen, before the state reads it.
  public var observe: ((ChosenToken) -> Void)?
  /// Gets the text, UTF-8 in pieces of whole characters; false ends it.
  public var receive: ([UInt8]) -> Bool = { _ in true }
  /// Called once, at the end: why it ended, and the state, which has read the prompt and every written token.
  public var finish: (Result<(FinishReason, State), any Error>) -> Void

  public init(
    prompt: [Int], limit: Int?, finish: @escaping (Result<(FinishReason, State), any Error>) -> Void
  ) {
    self.prompt = prompt
    self.limit = limit
    self.finish = finish
  }
}

/// Why a scheduler did not take a request.
public enum SchedulerError: Error, Sendable, Equatable, CustomStringConvertible {
  case full(waiting: Int)
  case closed

  public var description: String {
    switch self {
    case .full(let waiting): "\(waiting) requests are waiting already; try again later"
    case .closed: "no more requests are taken"
    }
  }
}

/// Serves many requests with one pass over the weights at a time.
///
/// Each pass reads at most 64 rows: one token of every text that is being written, and pieces of the prompts that wait,
/// so that a long prompt never stops those who write. Requests are served in the order in which they came. A request's
/// numbers, and so its text, are the same bits whether it is alone or among others.
///
/// Thread-safe. Passes run on a thread of the scheduler's own while there are requests, and none otherwise.
public final class Scheduler: Sendable {
  public let model: Model
  /// Requests that are read or written at the same time at most; each needs a state.
  public let parallel: Int
  /// Requests that wait for a place at most.
  public let queue: Int

  private let thread = DispatchQueue(label: "rwkv.scheduler")
  private let waiting: Mutex<Waiting>
  /// Only touched on `thread`.
  private nonisolated(unsafe) let evaluator: Evaluator
  private nonisolated(unsafe) var active: [Job] = []

  private struct Waiting {
    var jobs: [Job] = []
    /// Cancelled since the last pass.
    var cancelled: Set<Int> = []
    var next = 0
    var isRunning = false
    var isClosed = false
    /// Whether all that was taken is to end before the next pass.
    var isStopped = false
    var statistics = Statistics()
  }

  /// What a scheduler has done, and has to do.
  public struct Statistics: Sendable {
    /// Requests without a place, and with one.
    public var waiting = 0
    public var active = 0
    /// Passes over the weights, and rows in them: tokens of prompts, and written ones.
    public var passes = 0
    public var promptTokens = 0
    public var writtenTokens = 0
    /// Time in passes, sampling included [ns].
    public var nanoseconds: UInt64 = 0
  }

  /// A request that was taken.
  public struct Ticket: Sendable, Hashable {
    fileprivate let id: Int
  }

  /// - Parameters:
  ///   - threads: threads of a pass.
  ///   - parallel: requests that advance together at most, 1…64.
  ///   - queue: requests that wait at most.
  public init(
    _ model: Model, threads: Int = processorCount(), parallel: Int = 16, queue: Int = 256
  ) throws(ModelError) {
    precondition((1...Evaluator.capacity).contains(parallel) && queue >= 0)
    self.model = model
    self.parallel = parallel
    self.queue = queue
    waiting = Mutex(Waiting())
    evaluator = try Evaluator(model, threads: threads)
  }

  /// Takes a request, or throws without having called any of its closures.
  ///
  /// - Throws: `SchedulerError` if there is no room; `ModelError` if a token or the state is not the model's, or the
  ///   model has no tokenizer to write with; `SamplingError` if an option is out of range.
  @discardableResult
  public func submit(_ request: Request) throws -> Ticket {
    let job = try Job(request, model)
    return try waiting.withLock { waiting throws(SchedulerError) in
      guard !waiting.isClosed else { throw .closed }
      // Those who will have a place at the next pass do not wait.
      guard waiting.jobs.count < queue + max(0, parallel - waiting.statistics.active) else {
        throw .full(waiting: waiting.jobs.count)
      }
      waiting.next += 1
      job.id = waiting.next
      waiting.jobs.append(job)
      waiting.statistics.waiting = waiting.jobs.count
      if !waiting.isRunning {
        waiting.isRunning = true
        thread.async { self.run() }
      }
      return Ticket(id: job.id)
    }
  }

  /// Ends a request before the next pass; its `finish` gets `.cancelled`. Nothing happens if it has ended.
  public func cancel(_ ticket: Ticket) {
    waiting.withLock { if $0.isRunning { _ = $0.cancelled.insert(ticket.id) } }
  }

  /// Takes no more requests; those that were taken are served.
  public func close() {
    waiting.withLock { $0.isClosed = true }
  }

  /// Takes no more requests, ends those that were taken before the next pass, and returns when they have ended. Not to be
  /// called by a closure of a request.
  public func stop() {
    waiting.withLock {
      $0.isClosed = true
      $0.isStopped = true
    }
    thread.sync {}
  }

  public var statistics: Statistics { waiting.withLock { $0.statistics } }

  // MARK: Passes

  private func run() {
    while admit() {
      let begin = DispatchTime.now().uptimeNanoseconds
      let (prompt, written) = step()
      let time = DispatchTime.now().uptimeNanoseconds - begin
      active.removeAll { $0.isFinished }
      waiting.withLock { waiting in
        waiting.statistics.active = active.count
        waiting.statistics.passes += 1
        waiting.statistics.promptTokens += prompt
        waiting.statistics.writtenTokens += written
        waiting.statistics.nanoseconds += time
      }
    }
  }

  /// Ends what was cancelled and gives places to those who wait; false if nothing is left to do.
  private func admit() -> Bool {
    var ended: [Job] = []
    let goesOn = waiting.withLock { waiting in
      if waiting.isStopped || !waiting.cancelled.isEmpty {
        let isEnding = { (job: Job) in waiting.isStopped || waiting.cancelled.contains(job.id) }
        ended = (active + waiting.jobs).filter(isEnding)
        active.removeAll(where: isEnding)
        waiting.jobs.removeAll(where: isEnding)
        waiting.cancelled = []
      }
      let places = min(parallel - active.count, waiting.jobs.count)
      active += waiting.jobs.prefix(places)
      waiting.jobs.removeFirst(places)
      waiting.statistics.waiting = waiting.jobs.count
      waiting.statistics.active = active.count
      waiting.isRunning = !active.isEmpty
      return waiting.isRunning
    }
    for job in ended { job.end(.success(.cancelled)) }
    return goesOn
  }

  /// One pass: a row for each text that is being written, the others for prompts, the oldest first.
  private func step() -> (prompt: Int, written: Int) {
    let writing = active.filter { $0.isWriting }
    DispatchQueue.concurrentPerform(iterations: writing.count) { writing[$0].choose() }
    var room = Evaluator.capacity
    var readers: [(job: Job, tokens: ArraySlice<Int>)] = []
    for job in writing where job.chosen != nil {
      readers.append((job, [job.chosen ?? 0]))
      room -= 1
    }
    let written = readers.count
    for job in active where !job.isWriting && !job.isFinished && room > 0 {
      let piece = job.nextPiece(room)
      if piece.isEmpty { continue }
      readers.append((job, piece))
      room -= piece.count
    }
    guard !readers.isEmpty else { return (0, 0) }
    var runs: [Run] = []
    var tokens: [Int] = []
    for (job, piece) in readers {
      runs.append(Run(first: tokens.count, count: piece.count, job.state))
      tokens += piece
    }
    do throws(ModelError) {
      try evaluator.evaluate(
        .tokens(tokens[...]), runs, output: .eachRun(readers.map { $0.job.output($0.tokens) }),
        logits: evaluator.model.languageHead != nil)
    } catch {
      for (job, _) in readers { job.end(.failure(error)) }
      return (0, 0)
    }
    score(readers)
    var row = 0
    for (job, piece) in readers { job.advance(piece, evaluator, &row) }
    return (tokens.count - written, written)
  }

  /// Gives the requests that were read how well the pass predicted their targets.
  private func score(_ readers: [(job: Job, tokens: ArraySlice<Int>)]) {
    var row = 0
    var wanted: [(row: Int, target: Int)] = []
    var counts: [Int] = []
    for (job, piece) in readers {
      let targets = job.targets(of: piece)
      wanted += targets.enumerated().map { (row + $0.offset, $0.element) }
      counts.append(targets.count)
      row += job.rows(of: piece)
    }
    guard !wanted.isEmpty else { return }
    var scores = evaluator.scores(wanted)[...]
    for (reader, count) in zip(readers, counts) {
      reader.job.scores += scores.prefix(count)
      scores = scores.dropFirst(count)
    }
  }
}

/// A request that is being served. Not thread-safe.
private final class Job: @unchecked Sendable {
  var id = 0
  let state: State
  private let request: Request
  private var writer: TextWriter?
  private var sampler: Sampler
  /// Tokens of the prompt that the state has read.
  private var read = 0
  private var checkpoints: ArraySlice<Int>
  /// What the next token is chosen from, [V], in the evaluator's memory until its next pass; empty before the prompt
  /// is read. Every text that is being written takes part in every pass.
  private var logits = UnsafeBufferPointer<Float>(start: nil, count: 0)
  /// The token that the state reads next.
  private(set) var chosen: Int?
  /// Why the text ends when the state has read `chosen`.
  private var ending: FinishReason?
  private(set) var isFinished = false
  /// Those of the request's targets so far.
  var scores: [TokenScore] = []
  private var pooling: TextPooling?
  private var vector: [Float] = []

  init(_ request: Request, _ model: Model) throws {
    let vocabulary = model.configuration.vocabulary
    for token in request.prompt + request.targets where !(0..<vocabulary).contains(token) {
      throw ModelError(.tokenOutOfRange(token, vocabulary: vocabulary), path: model.path)
    }
    guard !request.prompt.isEmpty || request.limit == 0 else {
      throw ModelError(.invalidBatch("a request without a prompt; token 0 begins a document"))
    }
    guard request.targets.count <= request.prompt.count else {
      throw ModelError(.invalidBatch("more targets than tokens of the prompt"))
    }
    if let state = request.state, state.model.identity != model.identity {
      throw ModelError(.invalidBatch("a state of another model"))
    }
    self.request = request
    sampler = try Sampler(request.options, tokenizer: model.tokenizer)
    if request.limit != 0 {
      guard model.languageHead != nil else {
        throw ModelError(.wrongKind(model.configuration.kind, expected: .language), path: model.path)
      }
      guard let tokenizer = model.tokenizer else { throw ModelError(.noTokenizer, path: model.path) }
      writer = TextWriter(request.limit, tokenizer: tokenizer, stop: request.stop)
    }
    state = request.state ?? model.newState()
    checkpoints = request.checkpoints.filter { (1...max(1, request.prompt.count)).contains($0) }[...]
    if request.receiveEmbedding != nil { pooling = try TextPooling(model, request.embeddingOptions) }
  }

  /// Whether the prompt is read and the text is not at its end.
  var isWriting: Bool { read == request.prompt.count && !isFinished && !logits.isEmpty }

  /// Chooses the token that the next pass is to read, and hands out the text that is certain by then.
  func choose() {
    do {
      guard var writer else { return }
      let (token, text) = try writer.choose(logits, with: &sampler, observe: request.observe)
      self.writer = writer
      ending = writer.reason
      if !text.isEmpty && !request.receive(text) && ending == nil { ending = .cancelled }
      chosen = token
      if token == nil { end(.success(ending ?? .length)) }
    } catch {
      end(.failure(error))
    }
  }

  /// Tokens of the prompt to read next, no further than the next checkpoint or the first token with a target.
  func nextPiece(_ room: Int) -> ArraySlice<Int> {
    if request.prompt.isEmpty { end(.success(.length)) }
    let end = min(
      read + room, checkpoints.first ?? .max, read < firstWithTarget ? firstWithTarget : .max,
      request.prompt.count)
    return request.prompt[read..<end]
  }

  /// Index of the first token of the prompt that has a target.
  private var firstWithTarget: Int { request.prompt.count - request.targets.count }

  /// The targets of a piece of the prompt.
  func targets(of tokens: ArraySlice<Int>) -> ArraySlice<Int> {
    guard chosen == nil, read >= firstWithTarget else { return [] }
    return request.targets[read - firstWithTarget..<read - firstWithTarget + tokens.count]
  }

  /// Rows whose logits the request needs of a pass over `tokens`.
  func output(_ tokens: ArraySlice<Int>) -> Evaluator.Output {
    guard chosen == nil else { return ending == nil ? .lastOfEachRun : .none }
    let wantsAll = request.observePrompt != nil || request.receiveEmbedding != nil
    if wantsAll || !targets(of: tokens).isEmpty { return .all }
    return read + tokens.count == request.prompt.count && request.limit != 0 ? .lastOfEachRun : .none
  }

  /// Their number.
  func rows(of tokens: ArraySlice<Int>) -> Int {
    switch output(tokens) {
    case .all: tokens.count
    case .none: 0
    default: 1
    }
  }

  /// The state has read `tokens`; the rows of logits that `output` asked for begin at `row`.
  func advance(_ tokens: ArraySlice<Int>, _ evaluator: Evaluator, _ row: inout Int) {
    let count = rows(of: tokens)
    defer { row += count }
    if chosen != nil {
      chosen = nil
      if let ending { return end(.success(ending)) }
    } else {
      if let observe = request.observePrompt {
        for index in 0..<count {
          observe(read + index, evaluator.logits(row + index), evaluator.hidden(row + index))
        }
      }
      for index in pooling == nil ? 0..<0 : 0..<count {
        pooling?.add(
          evaluator.hidden(row + index), after: tokens[tokens.startIndex + index],
          isLast: read + index == request.prompt.count - 1)
      }
      read += tokens.count
      if checkpoints.first == read {
        checkpoints.removeFirst()
        request.checkpoint(read, state.copy())
      }
      request.progress(read)
      guard read == request.prompt.count else { return }
      if let pooling {
        do throws(ModelError) {
          vector = try evaluator.vectors(of: [pooling.pooled(state)], request.embeddingOptions)[0]
        } catch {
          return end(.failure(error))
        }
      }
      if request.limit == 0 { return end(.success(.length)) }
    }
    logits = evaluator.logits(row + count - 1)
  }

  func end(_ result: Result<FinishReason, any Error>) {
    guard !isFinished else { return }
    isFinished = true
    if case .success(.length) = result {
      if !request.targets.isEmpty { request.receiveScores(scores) }
      request.receiveEmbedding?(vector)
    }
    request.finish(result.map { ($0, state) })
  }
}
