// SPDX-License-Identifier: MIT
import Foundation
import RWKVFormat
import RWKVQuantization
import RWKVTokenizer
import Synchronization
import Testing

@testable import RWKV

/// What must hold however long an input is: the whole equals any cut, and streamed weights equal resident ones.
///
/// The one list of what inputs are cut into inside, and of lengths on both sides of each.
@Suite("Sizes")
struct SizeTests {
  /// Rows of a block of the evaluator, columns of a task, rows of a streamed pass, tokens of the largest of all.
  static let blocks = [Evaluator.capacity, 256, Streaming.tokensPerPass, 4096]
  static let lengths = [1, 2] + blocks.flatMap { [$0 - 1, $0, $0 + 1] }
  static let longest = 4096 + 3

  @Test func theListNamesTheBlocks() { #expect(Self.blocks == [64, 256, 512, 4096]) }

  /// A kind of state, with what one token after another makes of the longest input.
  struct Case: CustomTestStringConvertible, Sendable {
    let name: String
    let path: String
    let tokens: [Int]
    /// After each token, [tokens, V].
    let logits: [Float]
    /// After `lengths`, and after all.
    let states: [Int: Snapshot]
    var testDescription: String { name }

    init(_ name: String, _ model: Model) throws {
      self.name = name
      path = model.path
      let V = model.configuration.vocabulary
      tokens = (0..<SizeTests.longest).map { ($0 * $0 * 31 + $0 * 7919 + 13) % V }
      let session = try Session(model, threads: 1)
      var (logits, states): ([Float], [Int: Snapshot]) = ([], [:])
      logits.reserveCapacity(tokens.count * V)
      for (index, token) in tokens.enumerated() {
        try session.decode(token)
        logits.append(contentsOf: session.logits)
        if SizeTests.lengths.contains(index + 1) { states[index + 1] = Snapshot(session.state) }
      }
      states[tokens.count] = Snapshot(session.state)
      (self.logits, self.states) = (logits, states)
    }

    /// Whether these are the logits after token `index`.
    func has(_ values: UnsafeBufferPointer<Float>, at index: Int) -> Bool {
      logits.withUnsafeBytes { logits in
        let bytes = UnsafeRawBufferPointer(values)
        guard let all = logits.baseAddress, let base = bytes.baseAddress else { return false }
        return memcmp(all + index * bytes.count, base, bytes.count) == 0
      }
    }

    func has(_ state: State, after count: Int) -> Bool { states[count] == Snapshot(state) }

    func streamed() throws -> Model {
      try Model(path: path, threads: 2) { file, configuration in
        let groups = TensorGroups(file, configuration)
        return MemoryPlan(streaming: groups, of: file, room: 0, limit: 0, minimum: 0)
      }
    }
  }

  /// Made once; RWKV-X with chunks of 8 tokens and a cache that is compressed at 60, so that all it does is done.
  private static let made: [String: Result<Case, any Error>] = {
    var made: [String: Result<Case, any Error>] = [:]
    for name in ["v4-hf", "v52-hf", "v6-hf", "v7-f32-small"] {
      made[name] = Result {
        try Case(name, #require(Golden.cases(name).first { $0.name == name }).model(.int4))
      }
    }
    for run in RWKVXTests.runs where run.golden.name == "x-one" && run.name == "decode_evict" {
      made["x-one \(run.name)"] = Result { try Case("x-one \(run.name)", run.model(.int4)) }
    }
    return made
  }()
  static let names = ["v4-hf", "v52-hf", "v6-hf", "v7-f32-small", "x-one decode_evict"]

  private func get(_ name: String) throws -> Case { try #require(Self.made[name]).get() }

  @Test(arguments: names)
  func promptsOfAnyLengthLeaveLogitsAndStateOfTheirTokens(_ name: String) throws {
    let test = try get(name)
    for model in [try Model(path: test.path), try test.streamed()] {
      let session = try Session(model, threads: 2)
      for length in Self.lengths {
        session.state.reset()
        try session.prefill(Array(test.tokens.prefix(length)))
        #expect(test.has(session.logits, at: length - 1), "\(length) tokens")
        #expect(test.has(session.state, after: length), "\(length) tokens")
      }
    }
  }

  /// Several threads read a long prompt in a wave; caches that grow, and short prompts, are read together.
  @Test(arguments: names)
  func longPromptsAreReadInWaves(_ name: String) throws {
    let test = try get(name)
    let evaluator = try Evaluator(Model(path: test.path), threads: 2)
    let state = evaluator.model.newState()
    let isLong = evaluator.wave(rows: 2 * Evaluator.capacity, state) != nil
    #expect(isLong == state.caches.isEmpty)
    #expect(evaluator.wave(rows: 2 * Evaluator.capacity - 1, state) == nil)
    #expect(try Evaluator(Model(path: test.path), threads: 1).wave(rows: 4096, state) == nil)
    #expect(try Evaluator(test.streamed(), threads: 2).wave(rows: 4096, state) == nil)
  }

  /// However many threads take blocks of a prompt through the model, at once or in pieces.
  @Test(arguments: names)
  func anyNumberOfThreadsReadsAPromptTheSame(_ name: String) throws {
    let test = try get(name)
    let model = try Model(path: test.path)
    for threads in [1, 2, 3, 5, 16] {
      let session = try Session(model, threads: threads)
      for first in threads > 5 ? [0] : [0, 64 * threads + 1] {
        session.state.reset()
        var ends: [Int] = []
        for range in [0..<first, first..<test.tokens.count] {
          try session.prefill(Array(test.tokens[range])) {
            ends.append(range.lowerBound + $0)
            return true
          }
        }
        #expect(ends == ends.sorted() && Set(ends).count == ends.count && ends.last == test.tokens.count)
        #expect(test.has(session.logits, at: test.tokens.count - 1), "\(threads) threads, cut at \(first)")
        #expect(test.has(session.state, after: test.tokens.count), "\(threads) threads, cut at \(first)")
      }
    }
  }

  /// A prompt that is stopped, or in which there is no such token, has been read as far as was said.
  @Test(arguments: names, [1, 2, 5])
  func aPromptThatEndsEarlyHasBeenReadAsFarAsWasSaid(_ name: String, threads: Int) throws {
    let test = try get(name)
    let session = try Session(Model(path: test.path), threads: threads)
    for limit in [1, 1000] {
      for isWrong in [false, true] {
        session.state.reset()
        var tokens = test.tokens
        if isWrong { tokens[limit + 64] = -1 }
        var end = 0
        #expect(throws: ModelError.self) {
          try session.prefill(tokens) {
            end = $0
            return isWrong || $0 < limit
          }
        }
        #expect(isWrong ? end <= limit + 64 : end >= limit && end < test.tokens.count)
        try session.prefill(Array(test.tokens[end...]))
        #expect(test.has(session.logits, at: test.tokens.count - 1), "\(limit), \(end)")
        #expect(test.has(session.state, after: test.tokens.count), "\(limit), \(end)")
      }
    }
  }

  /// Each row has its own place, wherever the input is cut and however the weights come.
  @Test(arguments: names)
  func rowsOfAnyCutAreThoseOfTheWhole(_ name: String) throws {
    let test = try get(name)
    for model in [try Model(path: test.path), try test.streamed()] {
      let session = try Session(model, threads: 2)
      for first in model.streaming == nil ? [0, 1, 65, 511, 4096] : [0, 513] {
        session.state.reset()
        var found = Set<Int>()
        for range in [0..<first, first..<test.tokens.count] {
          var ends: [Int] = []
          try session.forEachLogits(
            Array(test.tokens[range]),
            progress: {
              ends.append($0)
              return true
            }, { if test.has($1, at: range.lowerBound + $0) { found.insert(range.lowerBound + $0) } })
          #expect(ends.last ?? 0 == range.count && ends == ends.sorted())
        }
        #expect(found.count == test.tokens.count, "cut at \(first)")
        #expect(test.has(session.state, after: test.tokens.count), "cut at \(first)")
      }
    }
  }

  /// Losses and hidden vectors by token, against those of single tokens.
  @Test(arguments: names)
  func lossesAndHiddenVectorsBelongToTheirTokens(_ name: String) throws {
    let test = try get(name)
    let (inputs, targets) = (test.tokens.dropLast(), Array(test.tokens.dropFirst()))
    let single = try Session(Model(path: test.path), threads: 1)
    var (losses, hidden): ([Double], [Float]) = ([], [])
    for (token, target) in zip(inputs, targets) {
      try single.decode(token)
      losses.append(crossEntropy(single.logits, target: target))
      hidden.append(contentsOf: single.hidden)
    }
    for model in [try Model(path: test.path), try test.streamed()] {
      let session = try Session(model, threads: 2)
      #expect(try session.losses(Array(inputs), targets: targets) == losses)
      session.state.reset()
      var found = [Float](repeating: .nan, count: hidden.count)
      try session.forEachHidden(Array(inputs)) { index, hidden in
        for (i, value) in hidden.enumerated() { found[index * hidden.count + i] = value }
      }
      let areEqual = found == hidden
      #expect(areEqual)
    }
  }

  /// As many conversations as a batch takes, begun and not begun, each as far on as one of the lengths.
  @Test(arguments: names)
  func conversationsOfAnyAgeShareABatch(_ name: String) throws {
    let test = try get(name)
    let model = try Model(path: test.path)
    let session = try Session(model, threads: 2)
    let ages = [0] + Self.lengths + [0]
    let begun = try ages.map { age in
      session.state.reset()
      if age > 0 { try session.prefill(Array(test.tokens.prefix(age))) }
      return session.state.copy()
    }
    let batch = try Batch(model, threads: 2)
    for count in [1, 2, 3, Evaluator.capacity - 1, Evaluator.capacity] {
      let members = (0..<count).map { ($0 * 5 + count) % ages.count }
      let states = members.map { begun[$0].copy() }
      try batch.decode(members.map { test.tokens[ages[$0]] }, states)
      for (index, member) in members.enumerated() {
        #expect(test.has(batch.logits(index), at: ages[member]), "\(index) of \(count)")
        let age = ages[member] + 1
        if test.states[age] != nil { #expect(test.has(states[index], after: age), "\(index) of \(count)") }
      }
    }
  }

  /// Prompts of all lengths beside each other: the logits and the state of each are those of its tokens.
  @Test(arguments: names)
  func promptsOfAnyLengthShareAScheduler(_ name: String) throws {
    let test = try get(name)
    for model in name.hasPrefix("v7")
      ? [try Model(path: test.path), try test.streamed()] : [try Model(path: test.path)]
    {
      let scheduler = try Scheduler(model, threads: 2, parallel: 5)
      let right = Mutex<[Int]>([])
      let done = DispatchGroup()
      for length in Self.lengths {
        var request = Request(prompt: Array(test.tokens.prefix(length)), limit: 0) { result in
          if case .success((.length, let state)) = result, test.has(state, after: length) {
            right.withLock { $0.append(length) }
          }
          done.leave()
        }
        // The others' rows are read without logits.
        if length % 2 == 1 {
          request.observePrompt = { index, logits, _ in
            if !test.has(logits, at: index) { right.withLock { $0.append(-index) } }
          }
        }
        done.enter()
        try scheduler.submit(request)
      }
      done.wait()
      #expect(right.withLock { $0.sorted() } == Self.lengths)
    }
  }

  /// What is guessed changes neither text nor state, right or wrong, at and beyond the end of each block.
  @Test(arguments: names)
  func draftsAcrossTheEndsOfBlocksChangeNothing(_ name: String) throws {
    let test = try get(name)
    let (resident, streamed) = (try Model(path: test.path), try test.streamed())
    let greedy = DraftTests.settings[0]
    for length in [1] + Self.blocks.map({ $0 - 2 }) {
      let prompt = Array(test.tokens.prefix(length))
      let expected = try DraftTests.write(resident, greedy, count: 9, after: prompt)
      func drafts() -> Drafts { Drafts(Oracle(prompt + expected.tokens, wrongEvery: 4), always: 3) }
      #expect(try DraftTests.write(resident, greedy, count: 9, after: prompt, drafts: drafts()) == expected)
      #expect(try DraftTests.write(streamed, greedy, count: 9, after: prompt, drafts: drafts()) == expected)
      let model = Drafts(try ModelDrafter(resident, for: resident, threads: 2), always: 3)
      #expect(try DraftTests.write(resident, greedy, count: 9, after: prompt, drafts: model) == expected)
      #expect(model.drafted > 0 && model.accepted == model.drafted, "\(length) tokens")
    }
  }

  /// A state that is saved and loaded goes on as if it had stayed.
  @Test(arguments: names)
  func statesOfAnyAgeAreSavedWhole(_ name: String) throws {
    let test = try get(name)
    let model = try Model(path: test.path)
    let session = try Session(model, threads: 2)
    for length in Self.lengths {
      session.state.reset()
      try session.prefill(Array(test.tokens.prefix(length)))
      let bytes = try session.state.encoded(tokens: Array(test.tokens.prefix(length)))
      let loaded = try model.loadState(bytes: bytes)
      #expect(loaded.tokens == Array(test.tokens.prefix(length)))
      let continued = try Session(model, state: loaded.state, threads: 1)
      for token in length..<length + 2 {
        try continued.decode(test.tokens[token])
        #expect(test.has(continued.logits, at: token), "\(length) tokens")
      }
    }
  }

  /// As many tokens as were asked for, and the same text however many that is.
  @Test func textsOfAnyLengthBeginTheLongest() throws {
    let model = try Model(path: get("v7-f32-small").path)
    var options = SamplingOptions()
    options.logitBias[0] = -.infinity
    func write(_ count: Int) throws -> [Int] {
      let session = try Session(model, threads: 1)
      try session.prefill([1, 2, 3])
      var sampler = try Sampler(options)
      var tokens: [Int] = []
      let reason = try session.generate(
        count, with: &sampler, tokenizer: ByteTokenizer(), observe: { tokens.append($0.id) },
        receive: { _ in true })
      #expect(reason == .length)
      return tokens
    }
    let longest = try write(4097)
    #expect(longest.count == 4097)
    for length in [0] + Self.lengths where length < 600 || length == 4096 {
      #expect(try write(length) == Array(longest.prefix(length)), "\(length) tokens")
    }
  }
}

/// All that a state remembers.
struct Snapshot: Equatable, Sendable {
  private let flat: [Float]
  /// Keys and values of each attention block's heads.
  private let caches: [[Float]]

  init(_ state: State) {
    flat = Array(state.flat)
    caches = state.caches.map { cache in
      (0..<cache.heads).flatMap { head in
        Array(UnsafeMutableBufferPointer(start: cache.keys(head), count: cache.count * cache.keySize))
          + Array(UnsafeMutableBufferPointer(start: cache.values(head), count: cache.count * cache.valueSize))
      }
    }
  }
}

/// How much of the weights a token reads.
@Suite("Weights that are read")
struct WeightBytesTests {
  /// Hidden units come as r, −r, 0, 0: of every four, exactly one is not zero.
  @Test func rowsOfZeroHiddenUnitsAreNotCounted() throws {
    let golden = try #require(Golden.cases("v7-f32-small").first)
    let source = try changedCheckpoint(golden) { name, values, shape in
      guard name.hasSuffix("ffn.key.weight") else { return }
      let D = shape[1]
      for unit in 0..<shape[0] {
        for i in 0..<D {
          let r = values[unit / 4 * 4 * D + i]
          values[unit * D + i] = unit % 4 == 0 ? r : unit % 4 == 1 ? -r : 0
        }
      }
    }
    defer { try? FileManager.default.removeItem(at: source) }
    let path = try TemporaryFiles.shared.path(for: "quarter") {
      try convert(source.path, to: $0, type: .fp32)
    }
    let file = try ModelFile(path: path)
    let rows = file.tensors.filter { $0.name.hasSuffix("ffn.value.weight") }.reduce(0) { $0 + $1.rawBytes }
    let model = try Model(path: path)
    for threads in [1, 2] {
      let session = try Session(model, threads: threads)
      for token in 1..<20 { try session.decode(token) }
      #expect(session.weightBytesPerToken == model.weightBytes - rows * 3 / 4)
    }
  }
}
