// SPDX-License-Identifier: MIT
import ArgumentParser
import Glibc
import RWKV
import RWKVFormat
import Terminal

struct Bench: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Measures reading a prompt (pp) and writing tokens (tg), in tokens per second.",
    discussion: """
      The limit of a row is what this machine's memory (weights read; the state read and written) and \
      arithmetic (products of the matrices, zeros included) allow, each measured in the same run with nothing \
      else to do; and what was reached, where that is more, because caches held the weights. For a model that \
      is larger than --memory-limit it is at most what reading and inflating the blocks that are not kept \
      allows: the same chunks, threads and buffers, after every repetition, without checksums and without \
      evaluation. The table has medians, and half the distance from the slowest to the fastest repetition; -o \
      json has all of it, and the weights read for a token. Rows with +sample choose what they read next \
      (temperature 1, top-p 0.7, presence penalty 1), as in writing.

      EXAMPLES
        rwkv-run bench model.rwkv
        rwkv-run bench a.rwkv b.rwkv -p 512 -n 128 -t 1,2 -r 5 -o json
        rwkv-run bench model.rwkv -p 0 -n 32 -d 0,1000,10000
        rwkv-run bench model.rwkv --streams 1,4,16
      """)

  enum Format: String, ExpressibleByArgument, CaseIterable {
    case md, json
  }

  @Argument(
    help: "Models: files, or names that rwkv-run list has.", completion: .file(extensions: ["rwkv"]),
    transform: ModelDirectory.resolve)
  var models: [String]

  @Option(name: .customShort("p"), help: "Tokens of the prompt; 0 leaves this test out.")
  var prompt = 512

  @Option(name: .customShort("n"), help: "Tokens to write; 0 leaves this test out.")
  var predict = 128

  @Option(
    name: .customShort("d"), help: "Tokens that have been read before each test, as 0,4096: row tg128@d4096.")
  var depth = "0"

  @Option(name: .customShort("t"), help: "Threads, as 1,2 (default: the processors this process may use).")
  var threads: String?

  @Option(
    help: ArgumentHelp(
      "Conversations that advance together, as 1,4,16; tokens per second are those of all of them.",
      valueName: "counts"))
  var streams = "1"

  @Option(name: .customShort("r"), help: "Repetitions; the median counts.")
  var repetitions = 5

  @Option(name: .customShort("o"), help: "md: a table; json: one object per row.")
  var format = Format.md

  @OptionGroup var memory: MemoryOptions

  func validate() throws {
    if models.isEmpty { throw ValidationError("Give at least one model.") }
    if prompt < 0 || predict < 0 || prompt + predict == 0 {
      throw ValidationError("-p and -n must be 0 or more, one of them more.")
    }
    if repetitions < 1 { throw ValidationError("-r must be at least 1.") }
    _ = try (threadCounts(), numbers(depth, "-d", atLeast: 0), streamCounts())
  }

  func run() throws {
    catchInterrupts()
    try reporting("rwkv-run") {
      // Before anything is measured or printed.
      let summaries = try models.map { path in
        try checkModelPath(path)
        return BenchTable.Model(try ModelFile(path: path), path: path)
      }
      let rooflines = try threadCounts().map { try Roofline(threads: $0) }
      let table = BenchTable(asJSON: format == .json, models: summaries, tests: try testNames())
      table.begin(rooflines)
      for roofline in rooflines {
        for (path, summary) in zip(models, summaries) {
          forgetPeakMemory()
          let model = try memory.open(path, threads: roofline.threads)
          try measure(model, threads: roofline.threads, roofline) { table.add($0, of: summary) }
        }
      }
    }
  }

  /// All tests of one model.
  private func measure(
    _ model: Model, threads: Int, _ roofline: Roofline, _ add: (BenchTable.Row) -> Void
  ) throws {
    // One for all tests, so that a limit on memory holds.
    let evaluator = try Evaluator(model, threads: threads)
    let session = Session(evaluator, model.newState())
    let file = try ModelFile(path: model.path)
    let (reading, writing) = (Roofline.Work(file, head: false), Roofline.Work(file, head: true))
    let stateBytes = 2 * 4 * model.stateCount  // read and written
    for depth in try numbers(depth, "-d", atLeast: 0) {
      try read(depth, session)
      let start = session.state.copy()
      func row(_ test: String, _ streams: Int, _ measured: Measured, weights: Int) -> BenchTable.Row {
        let isPrompt = test.hasPrefix("pp")
        let bytes = isPrompt ? (weights + stateBytes) / prompt : weights + stateBytes
        let passes = (prompt + Streaming.tokensPerPass - 1) / Streaming.tokensPerPass
        let tokensPerPass = isPrompt ? Double(prompt) / Double(passes) : Double(streams)
        let allowed = min(
          roofline.limit(bytes: bytes, isPrompt ? reading : writing),
          measured.passSeconds.isEmpty ? .infinity : tokensPerPass / median(measured.passSeconds))
        return BenchTable.Row(
          test: test, threads: threads,
          streams: streams, rates: measured.rates, weightBytes: weights,
          limit: max(allowed, measured.rates.last ?? 0))
      }
      if prompt > 0 {
        let measured = try repeated(model, threads, prompt, [session.state], start) {
          try session.prefill($0) { _ in !isInterrupted }
        }
        add(row(testName("pp", prompt, depth: depth), 1, measured, weights: session.weightBytesPerToken))
      }
      for count in predict > 0 ? try streamCounts() : [] {
        for samples in depth == 0 ? [false, true] : [false] {
          let measured = try repeatedBatch(evaluator, threads, count, start, samples: samples)
          // A hidden unit that is zero in one conversation rarely is in all others: all weights are read.
          let weights = count == 1 ? session.weightBytesPerToken : model.weightBytes / count
          let name = testName("tg", predict, streams: count, depth: depth, samples: samples)
          add(row(name, count, measured, weights: weights))
        }
      }
    }
  }

  /// Conversations from `start` on that read different tokens, or what they choose; the tokens per second of all of
  /// them.
  private func repeatedBatch(
    _ evaluator: Evaluator, _ threads: Int, _ count: Int, _ start: State, samples: Bool
  ) throws -> Measured {
    let batch = Batch(evaluator)
    let states = (0..<count).map { _ in start.copy() }
    // As people write: a temperature, a cut, a penalty.
    var options = SamplingOptions()
    (options.temperature, options.topP, options.presencePenalty) = (1, 0.7, 1)
    let sampler = try Sampler(options, tokenizer: evaluator.model.tokenizer)
    var measured = try repeated(evaluator.model, threads, predict, states, start) { tokens in
      var samplers = Array(repeating: sampler, count: count)
      var chosen: [Int]?
      for first in tokens.indices {
        if isInterrupted { throw interruptedExit }
        try batch.decode(chosen ?? states.indices.map { tokens[(first + $0) % tokens.count] }, states)
        if samples { chosen = try batch.sample(with: &samplers) }
      }
    }
    measured.rates = measured.rates.map { $0 * Double(count) }
    return measured
  }

  /// "pp512", "tg128", after some tokens "tg128@d4096", of conversations that advance together "tg128x4", where
  /// tokens are chosen "tg128+sample".
  private func testName(
    _ kind: String, _ tokens: Int, streams: Int = 1, depth: Int, samples: Bool = false
  ) -> String {
    "\(kind)\(tokens)" + (streams > 1 ? "x\(streams)" : "") + (depth > 0 ? "@d\(depth)" : "")
      + (samples ? "+sample" : "")
  }

  private func testNames() throws -> [String] {
    try numbers(depth, "-d", atLeast: 0).flatMap { depth in
      (prompt > 0 ? [testName("pp", prompt, depth: depth)] : [])
        + (predict > 0 ? try streamCounts() : []).flatMap { count in
          (depth == 0 ? [false, true] : [false]).map {
            testName("tg", predict, streams: count, depth: depth, samples: $0)
          }
        }
    }
  }

  private func threadCounts() throws -> [Int] {
    guard let threads else { return [processorCount()] }
    return try numbers(threads, "-t", atLeast: 1, atMost: ThreadOptions.most)
  }

  /// The numbers of a list as 1,2.
  private func numbers(
    _ list: String, _ option: String, atLeast least: Int, atMost most: Int = .max
  ) throws -> [Int] {
    let numbers = try list.split(whereSeparator: { $0 == "," || $0 == " " }).map { word in
      guard let number = Int(word), (least...most).contains(number) else {
        let range = most == .max ? "from \(least) on" : "from \(least) to \(most)"
        throw ValidationError("\(option): '\(word)' is not a number \(range).")
      }
      return number
    }
    guard !numbers.isEmpty else { throw ValidationError("\(option) needs a number.") }
    return numbers
  }

  private func streamCounts() throws -> [Int] {
    let counts = try numbers(streams, "--streams", atLeast: 1)
    guard counts.allSatisfy({ $0 <= Batch.capacity }) else {
      throw ValidationError("--streams: at most \(Batch.capacity) at once.")
    }
    return counts
  }

  /// Any tokens do: every token costs the same.
  private func tokens(_ count: Int, _ model: Model) -> [Int] {
    (0..<count).map { ($0 * 7919 + 13) % model.configuration.vocabulary }
  }

  /// Leaves the session after `depth` tokens.
  private func read(_ depth: Int, _ session: Session) throws {
    session.state.reset()
    guard depth > 0 else { return }
    let (progress, start) = (ProgressLine(), now())
    defer { progress.clear() }
    try session.prefill(tokens(depth, session.model)) { done in
      progress.update("reading", done, of: depth, since: start)
      return !isInterrupted
    }
  }

  /// What the repetitions of a test gave, ascending.
  struct Measured {
    /// Tokens per second.
    var rates: [Double] = []
    /// How long the blocks of a streamed model take for one pass when nothing is evaluated [s].
    var passSeconds: [Double] = []
  }

  /// Runs `body` on `count` tokens `repetitions` times after a warm-up, each time with the states as they were at
  /// `start`.
  private func repeated(
    _ model: Model, _ threads: Int, _ count: Int, _ states: [State], _ start: State,
    _ body: ([Int]) throws -> Void
  ) throws -> Measured {
    let tokens = tokens(count, model)
    try body(Array(tokens.prefix(16)))
    var measured = Measured()
    for _ in 0..<repetitions {
      if isInterrupted { throw interruptedExit }
      for state in states { state.assign(start) }
      let begin = now()
      try body(tokens)
      measured.rates.append(Double(count) / (now() - begin))
      if let seconds = try model.secondsPerPass(threads: threads) { measured.passSeconds.append(seconds) }
    }
    for state in states { state.assign(start) }
    measured.rates.sort()
    measured.passSeconds.sort()
    return measured
  }
}
