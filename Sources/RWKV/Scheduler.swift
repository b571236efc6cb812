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
  /// The state to go on from; nil begins a new document. If nobody else holds it the request reads on in it, otherwise
  /// in a copy, which is made when the request has a place.
  public var state: State?
  /// The tokens that the state has read, as far as they are known. Drafts are guessed from them.
  public var history: [Int] = []
  /// How many tokens to write at most; nil goes on until the model ends the text.
  public var limit: Int?
  /// How tokens are chosen.
  public var options = SamplingOptions()
  /// Strings that end the text and are no part of it.
  public var stop: [String] = []
  /// Numbers of prompt tokens, ascending, after which `checkpoint` is called.
  public var checkpoints: [Int] = []
  /// Gets a copy of the state after so many tokens of the prompt.
  public var checkpoint: (_ read: Int, State) -> Void = { _, _ in }
  /// Called after each piece of the prompt with the number of tokens read so far.
  public var progress: (_ read: Int) -> Void = { _ in }
  /// Where there is one, it is called for each token of the prompt with its index, the logits after it, [V], and the
  /// hidden vector that they were made from, [D].
  public var observePrompt:
    ((_ index: Int, _ logits: UnsafeBufferPointer<Float>, _ hidden: UnsafeBufferPointer<Float>) -> Void)?
  /// The tokens that follow each of the last tokens of the prompt, as many as there are here. `receiveScores` gets how
  /// well they were predicted.
  public var targets: [Int] = []
  /// Gets the scores of `targets`. It is called before `finish`, unless that gets an error.
  public var receiveScores: ([TokenScore]) -> Void = { _ in }
  /// Where there is one, it gets the vector of the prompt before `finish`, unless that gets an error. For a text with
  /// `Model.endOfText` behind it this is the vector of `Session.embedding`.
  public var receiveEmbedding: (([Float]) -> Void)?
  /// How that vector is made.
  public var embeddingOptions = EmbeddingOptions()
  /// Where there is one, it gets each token that is chosen, before the state reads it.
  public var observe: ((ChosenToken) -> Void)?
  /// Gets the text, UTF-8 in pieces of whole characters; false ends it. The last piece of a cancelled text is what
  /// was held back, an unfinished character or the beginning of a stop string, which the state has read.
  public var receive: ([UInt8]) -> Bool = { _ in true }
  /// Called once, at the end: why it ended, and the state, which has read the prompt and every written token.
  public var finish: (Result<(FinishReason, State), any Error>) -> Void

  /// Makes a request; everything else has a default and can be set afterwards.
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
/// numbers, and so its text, are the same bits whether it is alone or among others, with drafts or without.
///
/// With drafts, rows that nobody else needs go to guesses of what the texts go on with, as far as that pays.
///
/// Thread-safe. Passes run on a thread of the scheduler's own while there are requests, and none otherwise.
public final class Scheduler: Sendable {
  /// The model that all requests are read and written with.
  public let model: Model
  /// How many requests are read or written at the same time at most; each needs a state.
  public let parallel: Int
  /// How many requests wait for a place at most.
  public let queue: Int

  private let thread = DispatchQueue(label: "rwkv.scheduler")
  private let waiting: Mutex<Waiting>
  // These are only touched on `thread`.
  private nonisolated(unsafe) let evaluator: Evaluator
  private nonisolated(unsafe) var active: [Job] = []
  private let drafter: (@Sendable () -> any Drafter)?
  /// Decides how many drafts a pass reads; nil: always as many as may be.
  private nonisolated(unsafe) var pace: DraftPace?
  private let mostDrafts: Int
  /// What the last pass took, if it read nothing but texts that go on.
  private nonisolated(unsafe) var last: (rows: Int, texts: Int, drafting: Double, seconds: Double)?

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
    /// How many requests wait for a place, and how many have one.
    public var waiting = 0
    /// How many requests have a place.
    public var active = 0
    /// How many passes over the weights there were, and how many rows in them: tokens of prompts, and written ones.
    public var passes = 0
    /// How many tokens of prompts were read.
    public var promptTokens = 0
    /// How many tokens were written.
    public var writtenTokens = 0
    /// How many tokens were drafted, and how many of these were right.
    public var draftedTokens = 0
    /// How many drafted tokens were right.
    public var acceptedTokens = 0
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
  ///   - drafter: makes what guesses how a text goes on, one for each text; all of them are used on one thread. Nil:
  ///     none.
  public convenience init(
    _ model: Model, threads: Int = processorCount(), parallel: Int = 16, queue: Int = 256,
    drafter: (@Sendable () -> any Drafter)? = nil
  ) throws(ModelError) {
    try self.init(model, threads: threads, parallel: parallel, queue: queue, drafter: drafter, always: nil)
  }

  /// - Parameter always: tokens to draft for each pass, whether that pays or not; nil: what pays.
  package init(
    _ model: Model, threads: Int, parallel: Int, queue: Int = 256, drafter: (@Sendable () -> any Drafter)?,
    always: Int?
  ) throws(ModelError) {
    precondition((1...Evaluator.capacity).contains(parallel) && queue >= 0)
    self.model = model
    self.parallel = parallel
    self.queue = queue
    self.drafter = drafter
    pace = always == nil ? DraftPace() : nil
    mostDrafts = always ?? Drafts.limitByDefault
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

  /// Ends a request before the next pass; its `finish` gets `.cancelled`. A state that is behind its text because
  /// drafts were wrong takes part in that pass. Nothing happens if the request has ended.
  public func cancel(_ ticket: Ticket) {
    waiting.withLock { if $0.isRunning { _ = $0.cancelled.insert(ticket.id) } }
  }

  /// Takes no more requests; those that were taken are served.
  public func close() {
    waiting.withLock { $0.isClosed = true }
  }

  /// Takes no more requests, ends those that were taken before the next pass, and returns when they have ended. A
  /// closure of a request must not call it.
  public func stop() {
    waiting.withLock {
      $0.isClosed = true
      $0.isStopped = true
    }
    thread.sync {}
  }

  /// What the scheduler has done so far, and has to do.
  public var statistics: Statistics { waiting.withLock { $0.statistics } }

  // MARK: Passes

  private func run() {
    while admit() {
      let begin = DispatchTime.now().uptimeNanoseconds
      let read = step()
      let time = DispatchTime.now().uptimeNanoseconds - begin
      active.removeAll { $0.isFinished }
      waiting.withLock { waiting in
        waiting.statistics.active = active.count
        waiting.statistics.passes += 1
        waiting.statistics.promptTokens += read.prompt
        waiting.statistics.writtenTokens += read.written
        waiting.statistics.draftedTokens += read.drafted
        waiting.statistics.acceptedTokens += read.accepted
        waiting.statistics.nanoseconds += time
      }
    }
  }

  /// Ends what was cancelled and gives places to those who wait; false if nothing is left to do.
  private func admit() -> Bool {
    var ended: [Job] = []
    var new: ArraySlice<Job> = []
    let goesOn = waiting.withLock { waiting in
      if waiting.isStopped || !waiting.cancelled.isEmpty {
        let isEnding = { (job: Job) in
          waiting.isStopped || (waiting.cancelled.contains(job.id) && !job.endsAfterAPass())
        }
        ended = (active + waiting.jobs).filter(isEnding)
        let ids = Set(ended.map(\.id))
        active.removeAll { ids.contains($0.id) }
        waiting.jobs.removeAll { ids.contains($0.id) }
        waiting.cancelled = []
      }
      let places = min(parallel - active.count, waiting.jobs.count)
      new = waiting.jobs.prefix(places)
      active += new
      waiting.jobs.removeFirst(places)
      waiting.statistics.waiting = waiting.jobs.count
      waiting.statistics.active = active.count
      waiting.isRunning = !active.isEmpty
      return waiting.isRunning
    }
    for job in ended { job.end(.success(.cancelled)) }
    for job in new { job.begin(drafter.map { Drafts($0(), always: mostDrafts) }) }
    return goesOn
  }

  /// One pass. It reads what each text that is being written has chosen; the other rows are for prompts, the oldest
  /// first, and, where no prompt waits, for drafts.
  private func step() -> (prompt: Int, written: Int, drafted: Int, accepted: Int) {
    let writing = active.filter { $0.isWriting }
    evaluator.team.each(writing.count) { writing[$0].choose() }
    var (written, drafted, accepted) = (0, 0, 0)
    for job in writing {
      written += job.follow()
      drafted += job.drafted
      accepted += job.accepted
    }
    if let last {
      pace?.learn(
        rows: last.rows, texts: last.texts, drafted: drafted, accepted: accepted, drafting: last.drafting,
        pass: last.seconds)
    }
    last = nil
    let start = DispatchTime.now().uptimeNanoseconds
    let texts = active.filter { !$0.isFinished }
    let isSteady = texts.allSatisfy(\.isWriting)
    if isSteady { draft(texts) }
    let begin = DispatchTime.now().uptimeNanoseconds
    let (rows, prompt) = pass()
    let end = DispatchTime.now().uptimeNanoseconds
    if isSteady && rows > 0 {
      last = (rows, texts.count, Double(begin - start) * 1e-9, Double(end - begin) * 1e-9)
    }
    return (prompt, written, drafted, accepted)
  }

  /// Proposes what the texts may go on with.
  private func draft(_ texts: [Job]) {
    guard drafter != nil else { return }
    let bounds = texts.map(\.draftBounds)
    var room = Evaluator.capacity - bounds.reduce(0) { $0 + $1.unread }
    let counts = pace?.counts(bounds) ?? bounds.map(\.most)
    for (job, count) in zip(texts, counts) where room > 0 {
      job.propose(min(count, room))
      room -= count
    }
  }

  /// Reads what the texts that are being written have chosen, and pieces of prompts; returns the rows of both.
  private func pass() -> (texts: Int, prompt: Int) {
    var readers: [(job: Job, tokens: ArraySlice<Int>)] = []
    var room = Evaluator.capacity
    for job in active where !job.isFinished && !job.tokens.isEmpty && job.hasRoom(job.tokens.count) {
      readers.append((job, job.tokens[...]))
      room -= job.tokens.count
    }
    let texts = Evaluator.capacity - room
    for job in active where job.isReading && !job.isFinished && room > 0 {
      let piece = job.nextPiece(room)
      if piece.isEmpty || !job.hasRoom(piece.count) { continue }
      readers.append((job, piece))
      room -= piece.count
    }
    guard !readers.isEmpty else { return (0, 0) }
    var runs: [Run] = []
    var tokens: [Int] = []
    for (job, piece) in readers {
      runs.append(job.run(first: tokens.count, count: piece.count))
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
    return (texts, tokens.count - texts)
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
