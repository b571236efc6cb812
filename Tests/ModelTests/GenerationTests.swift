// SPDX-License-Identifier: MIT
import Foundation
import RWKV
import RWKVQuantization
import RWKVTokenizer
import Synchronization
import Testing

/// Text as an asynchronous sequence against the same text by callback.
@Suite("Generated text")
struct GenerationTests {
  private let model: Model
  private let prompt = "The database"
  private let options: SamplingOptions

  init() throws {
    model = try TrainedModelTests.Trained.model.converted(.int8)
    var options = SamplingOptions.greedy
    options.temperature = 0.8
    options.seed = 3
    self.options = options
  }

  /// The text and the state after it.
  private func byCallback(_ count: Int, options: SamplingOptions? = nil) throws -> (
    text: String, session: Session
  ) {
    let tokenizer = try #require(model.tokenizer)
    let session = try Session(model, threads: 2)
    try session.prefill(tokenizer.encode(prompt))
    var sampler = try Sampler(options ?? self.options, tokenizer: tokenizer)
    var text: [UInt8] = []
    _ = try session.generate(count, with: &sampler, tokenizer: tokenizer) {
      text += $0
      return true
    }
    return (String(decoding: text, as: UTF8.self), session)
  }

  @Test func token0EndsTheTextAndIsNeitherReadNorWritten() throws {
    let tokenizer = try #require(model.tokenizer)
    let session = try Session(model, threads: 1)
    try session.prefill(tokenizer.encode(prompt))
    let before = try session.state.encoded()
    var options = SamplingOptions.greedy
    options.logitBias[0] = 1000
    var sampler = try Sampler(options, tokenizer: tokenizer)
    let reason = try session.generate(5, with: &sampler, tokenizer: tokenizer) { _ in
      Issue.record("wrote something")
      return true
    }
    #expect(reason == .end)
    #expect(try session.state.encoded() == before)
  }

  @Test func equalsTheTextByCallback() async throws {
    let expected = try byCallback(80)
    let session = try Session(model, threads: 2)
    let text = try session.generate(prompt, count: 80, options: options)
    var pieces: [String] = []
    for try await piece in text {
      #expect(text.finishReason == nil || text.finishReason == .length)
      pieces.append(piece)
    }
    #expect(pieces.joined() == expected.text && pieces.count > 40)
    #expect(text.finishReason == .length)
    #expect(session.logits.elementsEqual(expected.session.logits))
  }

  @Test func goesOnFromWhatTheSessionHasRead() async throws {
    let options = SamplingOptions.greedy
    let session = try Session(model, threads: 2)
    for try await _ in try session.generate(prompt, count: 5, options: options) {}
    let fork = try Session(model, state: session.state.copy(), threads: 2)
    try fork.prefill(Array("more".utf8).map(Int.init))
    var first = ""
    for try await piece in try fork.generate("", count: 20, options: options) { first += piece }
    var second = ""
    for try await piece in try session.generate("more", count: 20, options: options) { second += piece }
    #expect(first == second && first.utf8.count == 20)
  }

  /// Without prompt and past, a document starts.
  @Test func startsADocumentWithoutPrompt() async throws {
    let (one, other) = (try Session(model, threads: 1), try Session(model, threads: 1))
    try other.decode(0)
    var texts = ["", ""]
    for try await piece in try one.generate("", count: 20, options: options) { texts[0] += piece }
    for try await piece in try other.generate("", count: 20, options: options) { texts[1] += piece }
    #expect(texts[0] == texts[1] && !texts[0].isEmpty)
  }

  @Test func endsAtAStopString() async throws {
    let whole = try byCallback(200).text
    let stop = String(whole.dropFirst(20).prefix(3))
    let session = try Session(model, threads: 2)
    let text = try session.generate(prompt, count: 200, options: options, stop: [stop])
    var written = ""
    for try await piece in text { written += piece }
    #expect(text.finishReason == .stop)
    #expect(written == whole.text(before: stop))
  }

  /// The state is where the last piece ends, so that the rest follows.
  @Test @MainActor func canBeLeftAtAnyPiece() async throws {
    let options = SamplingOptions.greedy
    let expected = try byCallback(30, options: options).text
    let session = try Session(model, threads: 2)
    var written = ""
    for try await piece in try session.generate(prompt, count: 30, options: options) {
      written += piece
      if written.utf8.count >= 10 { break }
    }
    let rest = 30 - written.utf8.count
    for try await piece in try session.generate("", count: rest, options: options) { written += piece }
    #expect(written == expected)
  }

  /// Tokens of which nothing can be shown yet: the beginning of a stop string, or of a character (C3 is one, and none
  /// behind another C3).
  static let held: [(byte: Int, stops: [String], text: String)] = [
    (120, ["xxy"], "xxx"), (120, ["xxxxxxy", "z"], "xxxxxxx"), (0xC3, [], "\u{FFFD}\u{FFFD}"),
    (0xC3, ["\u{FFFD}"], "\u{FFFD}\u{FFFD}"), (120, [], "x"),
  ]

  private func writing(_ byte: Int) -> SamplingOptions {
    var options = SamplingOptions.greedy
    options.logitBias = [byte: 1e6]
    return options
  }

  /// Whoever stops at the first piece has been given all that the state has read: alone, with drafts, among others.
  @Test(arguments: held) func anInterruptedTextIsWhatTheStateRemembers(
    _ byte: Int, _ stops: [String], _ text: String
  ) async throws {
    let tokenizer = try #require(model.tokenizer)
    let start = try tokenizer.encode(prompt)
    for drafts in [nil, Drafts(RepetitionDrafter(), limit: 4)] {
      let session = try Session(model, threads: 1)
      try session.prefill(start)
      try drafts?.follow(start)
      var sampler = try Sampler(writing(byte), tokenizer: tokenizer)
      var (given, tokens): ([UInt8], [Int]) = ([], [])
      let reason = try session.generate(
        50, with: &sampler, tokenizer: tokenizer, stop: stops, drafts: drafts,
        observe: { tokens.append($0.id) },
        receive: {
          given += $0
          return false
        })
      #expect(reason == .cancelled && String(decoding: given, as: UTF8.self) == text)
      #expect(given == Array(String(decoding: tokenizer.decode(tokens), as: UTF8.self).utf8))
      #expect(try session.state.encoded() == read(start + tokens))
    }

    let session = try Session(model, threads: 1)
    let pieces = try session.generate(prompt, count: 50, options: writing(byte), stop: stops)
    var given = ""
    for try await piece in pieces {
      given = piece
      break
    }
    given += pieces.takeHeld()
    #expect(given == text && pieces.takeHeld() == "" && pieces.finishReason == .cancelled)
    let read = try read(start + [Int](repeating: byte, count: text.count))
    #expect(try session.state.encoded() == read)

    for cancels in [false, true] {
      #expect(try await scheduled(start, writing(byte), stops, cancels: cancels) == (text, read))
    }
  }

  /// The state after these tokens.
  private func read(_ tokens: [Int]) throws -> [UInt8] {
    let session = try Session(model, threads: 1)
    try session.prefill(tokens)
    return try session.state.encoded()
  }

  /// A request that ends with its first piece, by what the receiver says or by `cancel`.
  private func scheduled(
    _ tokens: [Int], _ options: SamplingOptions, _ stops: [String], cancels: Bool
  ) async throws -> (String, [UInt8]) {
    let scheduler = try Scheduler(model, threads: 1)
    let given = Mutex([UInt8]())
    let ticket = Mutex<Scheduler.Ticket?>(nil)
    let state = try await withCheckedThrowingContinuation { continuation in
      var request = Request(prompt: tokens, limit: 50) { result in
        continuation.resume(with: result.flatMap { found in Result { try found.1.encoded() } })
      }
      request.options = options
      request.stop = stops
      request.receive = { text in
        given.withLock { $0 += text }
        // The lock waits until `submit` has returned.
        if cancels { ticket.withLock { $0.map(scheduler.cancel) } }
        return cancels
      }
      do { try ticket.withLock { $0 = try scheduler.submit(request) } } catch {
        continuation.resume(throwing: error)
      }
    }
    return (String(decoding: given.withLock { $0 }, as: UTF8.self), state)
  }

  @Test func cancellingTheTaskEndsTheLoop() async throws {
    let model = model
    let options = options
    let task = Task {
      let session = try Session(model, threads: 1)
      var count = 0
      // A prompt of some seconds, then text without an end.
      for try await _ in try session.generate(
        String(repeating: "The database is written. ", count: 4000), options: options)
      {
        count += 1
      }
      return count
    }
    try await Task.sleep(for: .milliseconds(50))
    task.cancel()
    await #expect(throws: CancellationError.self) { try await task.value }
  }

  @Test func aModelWithoutATokenizerIsRefused() throws {
    // Its vocabulary is that of no tokenizer.
    let golden = try #require(Golden.cases("v51-std").first)
    let session = try Session(golden.model(), threads: 1)
    #expect(throws: ModelError.self) { try session.generate("x") }
  }
}

extension StringProtocol {
  /// What stands before the first `part`.
  fileprivate func text(before part: String) -> String {
    String(range(of: part).map { self[..<$0.lowerBound] } ?? self[...])
  }
}
