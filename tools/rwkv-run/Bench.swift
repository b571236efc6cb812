import ArgumentParser
import Glibc
import RWKV
import RWKVFormat
import Terminal

struct Bench: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Measures reading a prompt (pp) and writing tokens (tg), in tokens per second.",
    discussion: """
      EXAMPLES
        rwkv-run bench model.rwkv
        rwkv-run bench a.rwkv b.rwkv -p 512 -n 128 -t 1,2 -r 5 -o json
        rwkv-run bench model.rwkv -p 0 -n 32 -d 0,1000,10000
      """)

  enum Format: String, ExpressibleByArgument, CaseIterable {
    case md, json
  }

  @Argument(help: "Models.", completion: .file(extensions: ["rwkv"]))
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
    _ = try (threadCounts(), numbers(depth, "-d", atLeast: 0))
  }

  func run() throws {
    catchInterrupts()
    try reporting("rwkv-run") {
      let table = Table(format)
      for count in try threadCounts() {
        let bandwidth = readBandwidth(threads: count)
        if format == .md {
          output("Reading memory with \(count) threads: \(decimal(bandwidth / 1e9, 1)) GB/s.\n")
        }
        table.begin()
        for path in models {
          forgetPeakMemory()
          let session = try Session(memory.open(path, threads: count), threads: count)
          for depth in try numbers(depth, "-d", atLeast: 0) {
            try read(depth, session)
            let place = depth > 0 ? "@d\(depth)" : ""
            if prompt > 0 {
              let name = "pp\(prompt)\(place)"
              table.add(try measure(name, session, count, tokens: prompt) { try session.prefill($0) })
            }
            if predict > 0 {
              var row = try measure("tg\(predict)\(place)", session, count, tokens: predict) {
                for token in $0 { try session.decode(token) }
              }
              row.bandwidth = bandwidth
              table.add(row)
            }
          }
        }
      }
    }
  }

  private func threadCounts() throws -> [Int] {
    guard let threads else { return [processorCount()] }
    return try numbers(threads, "-t", atLeast: 1)
  }

  /// The numbers of a list as 1,2.
  private func numbers(_ list: String, _ option: String, atLeast least: Int) throws -> [Int] {
    try list.split(separator: ",").map { word in
      guard let number = Int(word), number >= least else {
        throw ValidationError("\(option): '\(word)' is not a number from \(least) on.")
      }
      return number
    }
  }

  /// Any tokens do: every token costs the same.
  private func tokens(_ count: Int, _ session: Session) -> [Int] {
    (0..<count).map { ($0 * 7919 + 13) % session.model.configuration.vocabulary }
  }

  /// Leaves the session after `depth` tokens.
  private func read(_ depth: Int, _ session: Session) throws {
    session.state.reset()
    guard depth > 0 else { return }
    let (progress, start) = (ProgressLine(), now())
    defer { progress.clear() }
    try session.prefill(tokens(depth, session)) { done in
      progress.update("reading", done, of: depth, since: start)
      return !isInterrupted
    }
  }

  /// Runs one test `repetitions` times after a warm-up, each time from where the session is.
  private func measure(
    _ test: String, _ session: Session, _ threads: Int, tokens count: Int, _ body: ([Int]) throws -> Void
  ) throws -> Row {
    let tokens = tokens(count, session)
    let place = session.state.copy()
    try body(Array(tokens.prefix(16)))
    var rates: [Double] = []
    for _ in 0..<repetitions {
      if isInterrupted { throw interruptedExit }
      session.state.assign(place)
      let start = now()
      try body(tokens)
      rates.append(Double(count) / (now() - start))
    }
    session.state.assign(place)
    rates.sort()
    return Row(
      path: session.model.path, test: test, threads: threads, rates: rates, bytes: session.weightBytesPerToken
    )
  }

  struct Row {
    let path: String
    let test: String
    let threads: Int
    /// Tokens per second, ascending.
    let rates: [Double]
    /// Weights read per decoded token [bytes].
    let bytes: Int
    /// What decoding is measured against [bytes/s].
    var bandwidth: Double?

    var median: Double {
      let middle = rates.count / 2
      return rates.count % 2 == 1 ? rates[middle] : (rates[middle - 1] + rates[middle]) / 2
    }
  }

  /// Prints rows as they come.
  struct Table {
    let format: Format

    init(_ format: Format) { self.format = format }

    func begin() {
      guard format == .md else { return }
      output("| model | threads | test | tokens/s | min … max | MB read per token | of the bandwidth |")
      output("|---|---|---|---|---|---|---|")
    }

    func add(_ row: Row) {
      let (low, high) = (row.rates[0], row.rates[row.rates.count - 1])
      let share = row.bandwidth.map { row.median * Double(row.bytes) / $0 }
      switch format {
      case .md:
        output(
          "| \(row.path) | \(row.threads) | \(row.test) | \(decimal(row.median, 2)) | "
            + "\(decimal(low, 2)) … \(decimal(high, 2)) | \(decimal(Double(row.bytes) / 1e6, 1)) | "
            + (share.map { "\(decimal(100 * $0, 0)) %" } ?? "") + " |")
      case .json:
        output(
          JSON.object([
            ("model", .string(row.path)), ("test", .string(row.test)), ("threads", .integer(row.threads)),
            ("tokens_per_second", .number(row.median, decimals: 3)), ("min", .number(low, decimals: 3)),
            ("max", .number(high, decimals: 3)), ("peak_rss_bytes", .integer(peakMemory())),
            ("weight_bytes_per_token", .integer(row.bytes)),
            ("bandwidth_share", share.map { .number($0, decimals: 4) } ?? .null),
          ]).description)
      }
    }
  }
}

/// Largest resident size of this process since the last `forgetPeakMemory` [bytes].
func peakMemory() -> Int {
  let status = (try? readFile("/proc/self/status")).map { String(decoding: $0, as: UTF8.self) } ?? ""
  let line = status.split(separator: "\n").first { $0.hasPrefix("VmHWM:") }
  return 1024 * (line.flatMap { Int($0.filter(\.isNumber)) } ?? 0)
}

/// Lets `peakMemory` start anew.
func forgetPeakMemory() {
  let descriptor = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC)
  guard descriptor >= 0 else { return }
  write(Array("5".utf8), to: descriptor)
  close(descriptor)
}
