// SPDX-License-Identifier: MIT
import Foundation
import RWKV
import RWKVQuantization
import RWKVTokenizer
import Synchronization
import Testing

/// Requests together against the same requests alone.
@Suite("Scheduler", .serialized)
struct SchedulerTests {
  /// A small random model of each version, with bytes as its tokens.
  static let versions = ["v4-hf", "v50-std", "v51-std", "v52-hf", "v6-hf", "v7-hf", "x-one"]

  /// What became of a request.
  struct Outcome: Sendable, Equatable {
    var text: [UInt8] = []
    var tokens: [Int] = []
    var reason: FinishReason?
    var error: String?
    var state: [UInt8] = []
    /// Number and file of each checkpoint.
    var checkpoints: [Int: [UInt8]] = [:]
    var promptLogits: [Int: Float] = [:]
  }

  private static func trained() throws -> Model { try TrainedModelTests.Trained.model.converted(.int8) }

  private static func random(_ name: String, maximumContext: Int? = nil) throws -> Model? {
    guard let golden = Golden.cases(name).first(where: { $0.name == name }) else { return nil }
    return try Model(
      path: TemporaryFiles.shared.path(for: "bytes-" + name) { path in
        var options = ConversionOptions()
        options.type = .int8
        options.overwrite = true
        options.tokenizer = .bytes
        _ = try Conversion.convert(golden.checkpoint.path, to: path, options)
      }, threads: 2, maximumContext: maximumContext)
  }

  /// Requests of all kinds: long prompts and short ones, greedy and drawn, cut by a stop string, with a state.
  private static func requests(_ model: Model, _ count: Int) -> [Request] {
    (0..<count).map { index in
      let length = [1, 3, 64, 65, 200, 17][index % 6] + index
      var request = Request(
        prompt: (0..<length).map { 1 + ($0 * 7 + index * 31) % 120 }, limit: [20, 7, 0, 33][index % 4]
      ) { _ in }
      request.options.temperature = index % 3 == 0 ? 0 : 1
      request.options.seed = UInt64(index)
      request.stop = index % 5 == 0 ? ["e", "\u{1}"] : []
      request.checkpoints = [1, length / 2, length]
      if index % 4 == 1 { request.observePrompt = { _, _, _ in } }
      return request
    }
  }

  /// Submits the requests together, or each after the one before it, and waits for all.
  private static func run(_ requests: [Request], on scheduler: Scheduler, together: Bool) throws -> [Outcome]
  {
    let outcomes = Mutex([Outcome](repeating: Outcome(), count: requests.count))
    let done = DispatchGroup()
    for (index, request) in requests.enumerated() {
      var request = request
      done.enter()
      request.receive = { text in
        outcomes.withLock { $0[index].text += text }
        return true
      }
      request.observe = { token in outcomes.withLock { $0[index].tokens.append(token.id) } }
      request.checkpoint = { read, state in
        let bytes = try? state.encoded()
        outcomes.withLock { $0[index].checkpoints[read] = bytes ?? [] }
      }
      if request.observePrompt != nil {
        request.observePrompt = { token, logits, _ in
          outcomes.withLock { $0[index].promptLogits[token] = logits[token % 50] }
        }
      }
      request.finish = { result in
        outcomes.withLock {
          switch result {
          case .success((let reason, let state)):
            $0[index].reason = reason
            $0[index].state = (try? state.encoded()) ?? []
          case .failure(let error): $0[index].error = "\(error)"
          }
        }
        done.leave()
      }
      try scheduler.submit(request)
      if !together { done.wait() }
    }
    done.wait()
    return outcomes.withLock { $0 }
  }

  /// Right and wrong guesses for every text: prompts tell the texts apart.
  private final class Guesser: Drafter {
    private let texts: [[Int]]
    private let period: Int
    private var read: [Int] = []

    init(_ texts: [[Int]], wrongEvery period: Int) { (self.texts, self.period) = (texts, period) }

    func reset() { read = [] }
    func read(_ tokens: [Int]) { read += tokens }

    func propose(_ count: Int) -> [Int] {
      guard let text = texts.first(where: { $0.starts(with: read) }) else { return [] }
      return text[read.count..<min(read.count + count, text.count)].enumerated().map { index, token in
        (read.count + index) % period == 0 ? (token + 1) % 100 : token
      }
    }
  }

  /// With any drafts, and with the pace that follows from time, what is written is the same.
  private static func checkDrafts(
    _ model: Model, _ alone: [Outcome], wrongEvery cases: [(period: Int, count: Int)]
  ) throws {
    // Drafts begin where the prompt ends.
    var (requests, alone) = (requests(model, 24), alone)
    for index in requests.indices {
      requests[index].checkpoints = []
      alone[index].checkpoints = [:]
    }
    let texts = zip(requests, alone).map { $0.prompt + $1.tokens }
    for (period, count) in cases {
      let scheduler = try Scheduler(
        model, threads: 2, parallel: 9, drafter: { Guesser(texts, wrongEvery: period) }, always: count)
      let drafted = try run(requests, on: scheduler, together: true)
      for (index, (one, other)) in zip(alone, drafted).enumerated() {
        #expect(one == other, "request \(index), \(count) drafted, wrong at each \(period)th")
      }
      scheduler.stop()  // the last pass is counted after the last request has ended
      let statistics = scheduler.statistics
      #expect(statistics.writtenTokens == alone.reduce(0) { $0 + $1.tokens.count })
      #expect(statistics.draftedTokens > 0 && (statistics.acceptedTokens > 0) == (period > 1))
      if period == .max { #expect(statistics.acceptedTokens == statistics.draftedTokens) }
    }
    let paced = try Scheduler(model, threads: 2, parallel: 9, drafter: { Guesser(texts, wrongEvery: 4) })
    #expect(try run(requests, on: paced, together: true) == alone)
  }

  private static func check(
    _ model: Model, drafts: [(Int, Int)] = [(Int.max, 4), (5, 3), (3, 8), (1, 2)]
  ) throws {
    let alone = try run(requests(model, 24), on: Scheduler(model, threads: 1, parallel: 1), together: false)
    let together = try run(requests(model, 24), on: Scheduler(model, threads: 2, parallel: 9), together: true)
    for (index, (one, other)) in zip(alone, together).enumerated() {
      #expect(one == other, "request \(index)")
      #expect(one.reason != nil && one.error == nil && !one.state.isEmpty)
    }
    try checkDrafts(model, alone, wrongEvery: drafts)
    #expect(alone.contains { $0.reason == .length && !$0.text.isEmpty })
    #expect(alone[1].promptLogits.count == 4 && alone[0].checkpoints.count >= 1)
  }

  @Test func togetherIsAlone() throws { try Self.check(try Self.trained(), drafts: [(5, 3)]) }

  @Test(arguments: versions) func togetherIsAloneInEveryVersion(_ name: String) throws {
    let model = try #require(try Self.random(name))
    try Self.check(model)
  }

  /// The same text, byte for byte, and the same state as by a session.
  @Test func writesWhatASessionWrites() throws {
    let model = try Self.trained()
    let tokenizer = try #require(model.tokenizer)
    let prompt = try tokenizer.encode("The database")
    var options = SamplingOptions()
    options.seed = 5
    let session = try Session(model, threads: 2)
    try session.prefill(prompt)
    var sampler = try Sampler(options, tokenizer: tokenizer)
    var text: [UInt8] = []
    let reason = try session.generate(60, with: &sampler, tokenizer: tokenizer, stop: [". "]) {
      text += $0
      return true
    }
    var request = Request(prompt: prompt, limit: 60) { _ in }
    request.options = options
    request.stop = [". "]
    let outcome = try Self.run([request], on: Scheduler(model, threads: 2), together: true)[0]
    #expect(outcome.text == text && outcome.reason == reason && !text.isEmpty)
    #expect(outcome.state == (try session.state.encoded()))
  }

  /// Every token counts once, and the time is that of the passes.
  @Test func statisticsAddUp() throws {
    let scheduler = try Scheduler(Self.trained(), threads: 1, parallel: 3)
    #expect(scheduler.statistics.passes == 0 && scheduler.statistics.nanoseconds == 0)
    let begin = DispatchTime.now().uptimeNanoseconds
    let requests = (0..<4).map { Request(prompt: [40, 41, 42 + $0], limit: 3) { _ in } }
    let outcomes = try Self.run(requests, on: scheduler, together: true)
    scheduler.stop()
    let all = DispatchTime.now().uptimeNanoseconds - begin
    let found = scheduler.statistics
    #expect(outcomes.allSatisfy { $0.reason == .length && $0.tokens.count == 3 })
    #expect(found.promptTokens == 12 && found.active == 0 && found.waiting == 0)
    // The last token of each text need not be read.
    #expect((8...12).contains(found.writtenTokens), "\(found.writtenTokens)")
    #expect(found.passes >= 3 && found.draftedTokens == 0 && found.acceptedTokens == 0)
    #expect(found.nanoseconds > 0 && found.nanoseconds < all)
  }

  /// A checkpoint and the rest of the prompt are the whole; a state that others hold, too, stays as it is.
  @Test func goesOnFromACheckpoint() throws {
    let model = try Self.trained()
    let whole = Self.requests(model, 5)[4]
    let expected = try Self.run([whole], on: Scheduler(model, threads: 2), together: true)[0]
    let half = whole.prompt.count / 2
    var rest = whole
    rest.prompt = Array(whole.prompt[half...])
    let checkpoint = try #require(expected.checkpoints[half])
    let shared = try model.loadState(bytes: checkpoint).state
    rest.state = shared
    let outcomes = try Self.run([rest, rest], on: Scheduler(model, threads: 2), together: true)
    #expect(outcomes.allSatisfy { $0.text == expected.text && $0.state == expected.state })
    #expect(try shared.encoded() == model.loadState(bytes: checkpoint).state.encoded())
  }

  @Test func aBoundedQueueRefusesAndACancelledRequestEnds() throws {
    let model = try Self.trained()
    let scheduler = try Scheduler(model, threads: 1, parallel: 1, queue: 1)
    let started = DispatchSemaphore(value: 0)
    let reasons = Mutex([FinishReason]())
    let ended = DispatchGroup()
    func endless() -> Request {
      ended.enter()
      var request = Request(prompt: [40, 41], limit: nil) { result in
        if case .success((let reason, _)) = result { reasons.withLock { $0.append(reason) } }
        ended.leave()
      }
      request.options.logitBias = [0: -.infinity]
      return request
    }
    var first = endless()
    first.receive = { _ in
      started.signal()
      return true
    }
    let writing = try scheduler.submit(first)
    started.wait()
    let waiting = try scheduler.submit(endless())
    #expect(throws: SchedulerError.full(waiting: 1)) {
      try scheduler.submit(Request(prompt: [40], limit: 1) { _ in Issue.record("was not taken") })
    }
    #expect(scheduler.statistics.waiting == 1 && scheduler.statistics.active == 1)
    scheduler.cancel(waiting)
    scheduler.cancel(writing)
    ended.wait()
    #expect(reasons.withLock { $0 } == [.cancelled, .cancelled])
    scheduler.close()
    #expect(throws: SchedulerError.closed) { try scheduler.submit(Request(prompt: [40], limit: 1) { _ in }) }
  }

  /// A text that is left while drafts are made: its state has read all that was written.
  @Test(arguments: ["v7-hf", "x-one"]) func aStateIsNotBehindItsCancelledText(_ name: String) throws {
    let model = try #require(try Self.random(name))
    let prompt = [1, 2, 3]
    var request = Request(prompt: prompt, limit: 40) { _ in }
    request.options.logitBias = [0: -.infinity]
    let whole = try Self.run([request], on: Scheduler(model, threads: 1), together: true)[0]
    for end in [4, 9, 17] {
      let text = prompt + whole.tokens
      let scheduler = try Scheduler(
        model, threads: 1, parallel: 1, drafter: { Guesser([text], wrongEvery: 4) }, always: 3)
      let written = Mutex([Int]())
      let ticket = Mutex(Scheduler.Ticket?.none)
      let (hasEnded, isSubmitted) = (DispatchSemaphore(value: 0), DispatchSemaphore(value: 0))
      let state = Mutex([UInt8]())
      var left = request
      left.observe = { token in
        let count = written.withLock { written in
          written.append(token.id)
          return written.count
        }
        if count == 1 { isSubmitted.wait() }
        if count == end, let ticket = ticket.withLock({ $0 }) { scheduler.cancel(ticket) }
      }
      left.finish = { result in
        if case .success((.cancelled, let left)) = result {
          state.withLock { $0 = (try? left.encoded()) ?? [] }
        }
        hasEnded.signal()
      }
      let taken = try scheduler.submit(left)
      ticket.withLock { $0 = taken }
      isSubmitted.signal()
      hasEnded.wait()
      let session = try Session(model, threads: 1)
      try session.prefill(prompt + written.withLock { $0 })
      #expect(try session.state.encoded() == state.withLock { $0 })
      #expect((end...end + 4).contains(written.withLock { $0.count }))
    }
  }

  /// RWKV-7b: a text that has no room left ends with an error, and the others go on.
  @Test func aFullContextEndsOneRequest() throws {
    let model = try #require(try Self.random("v7b-std", maximumContext: 40))
    var requests = [(30, 40), (10, 20), (50, 1), (3, 30)].map { length, limit in
      Request(prompt: (0..<length).map { 1 + $0 % 100 }, limit: limit) { _ in }
    }
    for index in requests.indices { requests[index].options.logitBias = [0: -.infinity] }
    let outcomes = try Self.run(requests, on: Scheduler(model, threads: 1), together: true)
    #expect(outcomes.map { $0.error == nil } == [false, true, false, true])
    #expect(outcomes[0].tokens.count >= 10 && outcomes[1].tokens.count == 20)
    let texts = zip(requests, outcomes).map { $0.prompt + $1.tokens }
    let drafting = try Scheduler(
      model, threads: 1, parallel: 4, drafter: { Guesser(texts, wrongEvery: 6) }, always: 4)
    #expect(try Self.run(requests, on: drafting, together: true).map(\.tokens) == outcomes.map(\.tokens))
  }

  /// The same with a model that drafts for all texts.
  @Test func aModelDraftsForManyTexts() throws {
    let model = try Self.trained()
    let expected = try Self.run(Self.requests(model, 6), on: Scheduler(model, threads: 1), together: true)
    let first = Mutex(try ModelDrafter(model, for: model, threads: 1))
    let scheduler = try Scheduler(
      model, threads: 1, parallel: 5, drafter: { first.withLock { ModelDrafter(beside: $0) } }, always: 3)
    #expect(try Self.run(Self.requests(model, 6), on: scheduler, together: true) == expected)
    scheduler.stop()
    #expect(scheduler.statistics.acceptedTokens > scheduler.statistics.draftedTokens / 4)
  }

  /// Texts that are scored and embedded among others that are written, against a session.
  @Test func scoresAndEmbedsAsASession() throws {
    let model = try Self.trained()
    let scheduler = try Scheduler(model, threads: 2, parallel: 7)
    let session = try Session(model, threads: 2)
    let scores = Mutex([Int: [TokenScore]]())
    let vectors = Mutex([Int: [Float]]())
    let done = DispatchGroup()
    let texts = [1, 2, 63, 64, 65, 200].map { length in (0..<length).map { 1 + ($0 * 11 + length) % 120 } }
    for (index, text) in texts.enumerated() {
      let counts = [text.count, 1, text.count / 2]
      var requests = counts.map { count in
        var request = Request(prompt: text, limit: 0) { _ in }
        request.targets = (0..<count).map { (index + $0) % 50 }
        request.receiveScores = { result in scores.withLock { $0[index * 1000 + count] = result } }
        return request
      }
      var embedded = Request(prompt: text + [0], limit: 0) { _ in }
      embedded.receiveEmbedding = { result in vectors.withLock { $0[index] = result } }
      requests += [embedded, Request(prompt: text, limit: 20) { _ in }]
      for var request in requests {
        done.enter()
        request.finish = { _ in done.leave() }
        try scheduler.submit(request)
      }
    }
    done.wait()
    for (index, text) in texts.enumerated() {
      for count in Set([text.count, 1, text.count / 2]) where count > 0 {
        session.state.reset()
        if count < text.count { try session.prefill(Array(text.dropLast(count))) }
        let expected = try session.scores(
          Array(text.suffix(count)), targets: (0..<count).map { (index + $0) % 50 })
        #expect(scores.withLock { $0[index * 1000 + count] } == expected)
      }
      let vector = try session.embedding(text)
      #expect(vectors.withLock { $0[index] } == vector)
    }
  }

  @Test func whatIsStoppedEndsBeforeStopReturns() throws {
    let model = try Self.trained()
    let scheduler = try Scheduler(model, threads: 1, parallel: 2)
    let reasons = Mutex([FinishReason]())
    for _ in 0..<5 {
      var request = Request(prompt: [40, 41], limit: nil) { result in
        if case .success((let reason, _)) = result { reasons.withLock { $0.append(reason) } }
      }
      request.options.logitBias = [0: -.infinity]
      try scheduler.submit(request)
    }
    scheduler.stop()
    #expect(reasons.withLock { $0 } == Array(repeating: .cancelled, count: 5))
    #expect(throws: SchedulerError.closed) { try scheduler.submit(Request(prompt: [40], limit: 1) { _ in }) }
    scheduler.stop()
  }

  @Test func refusesWhatTheModelCannotRead() throws {
    let model = try Self.trained()
    let other = try #require(try Self.random("v7-hf"))
    let scheduler = try Scheduler(model, threads: 1)
    var foreign = Request(prompt: [1], limit: 1) { _ in }
    foreign.state = other.newState()
    var hot = Request(prompt: [1], limit: 1) { _ in }
    hot.options.temperature = -1
    let vocabulary = model.configuration.vocabulary
    var unknown = Request(prompt: [1, 2], limit: 0) { _ in }
    unknown.targets = [vocabulary]
    var many = Request(prompt: [1, 2], limit: 0) { _ in }
    many.targets = [1, 2, 3]
    for request in [
      unknown, many,
      Request(prompt: [1, vocabulary], limit: 1) { _ in }, Request(prompt: [-1], limit: 1) { _ in },
      Request(prompt: [], limit: 1) { _ in }, foreign, hot,
    ] {
      #expect(throws: (any Error).self) { try scheduler.submit(request) }
    }
    #expect(scheduler.statistics.passes == 0)
  }
}
