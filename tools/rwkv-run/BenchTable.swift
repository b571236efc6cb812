// SPDX-License-Identifier: MIT
import Glibc
import RWKV
import RWKVFormat
import Terminal

/// Rows of `bench` as they come: JSON, or one table of at most 80 columns.
struct BenchTable {
  /// What a row says of its model.
  struct Model {
    let path: String
    let name: String
    let fileBytes: Int
    let type: String
    /// Bytes by which a state of RWKV-7b grows with each token; 0 in other versions.
    let stateBytesPerToken: Int

    init(_ file: ModelFile, path: String) {
      self.path = path
      let last = path.split(separator: "/").last.map(String.init) ?? path
      name = printable(last.hasSuffix(".rwkv") ? String(last.dropLast(5)) : last)
      fileBytes = Int(clamping: file.size)
      stateBytesPerToken = (try? Configuration(file.metadata))?.bytesPerToken ?? 0
      type = file.metadata.string("quantization.type") ?? "?"
    }
  }

  struct Row {
    let test: String
    let threads: Int
    /// Conversations that advance together.
    let streams: Int
    /// Tokens per second of all of them, ascending.
    let rates: [Double]
    /// Weights read for each token [bytes].
    let weightBytes: Int
    /// Tokens per second that the machine allows.
    let limit: Double

    var share: Double { median(rates) / limit }
  }

  private static let titles = ["model", "size", "type", "thr", "test", "tokens/s", "±", "limit"]
  private let asJSON: Bool
  private let widths: [Int]

  /// - Parameter tests: names of all rows' tests, or of the longest.
  init(asJSON: Bool, models: [Model], tests: [String]) {
    self.asJSON = asJSON
    let type = max(4, models.map(\.type.count).max() ?? 0)
    let test = max(4, tests.map(\.count).max() ?? 0)
    // A file's name gets what the others leave of 80 columns.
    let name = max(5, min(80 - 54 - type - test, models.map(\.name.count).max() ?? 0))
    widths = [name, 8, type, 3, test, 9, 4, 5]
  }

  /// What the machine can do, and the table's head.
  func begin(_ rooflines: [Roofline]) {
    guard !asJSON else { return }
    for roofline in rooflines { output(roofline.description) }
    output("")
    output(line(Self.titles))
    let rules = widths.enumerated().map { (column, width) in
      String(repeating: "-", count: width + 1) + (column == 0 ? "-" : ":")
    }
    output("|" + rules.joined(separator: "|") + "|")
  }

  private func line(_ cells: [String]) -> String {
    let padded = zip(cells, widths).enumerated().map { (column, cell) in
      let (text, width) = cell
      // A name is cut: its end tells types and sizes apart more often than its beginning.
      if text.count > width, column == 0 { return "…" + text.suffix(width - 1) }
      let space = String(repeating: " ", count: max(0, width - text.count))
      return column == 0 ? text + space : space + text
    }
    return "| " + padded.joined(separator: " | ") + " |"
  }

  func add(_ row: Row, of model: Model) {
    let (low, high) = (row.rates[0], row.rates[row.rates.count - 1])
    let rate = median(row.rates)
    guard asJSON else {
      let spread = 50 * (high - low) / rate
      return output(
        line([
          model.name, size(model.fileBytes), model.type, "\(row.threads)", row.test, decimal(rate, 2),
          decimal(spread, 0) + " %", decimal(100 * row.share, 0) + " %",
        ]))
    }
    output(
      JSON.object([
        ("model", .string(model.path)), ("type", .string(model.type)),
        ("file_bytes", .integer(model.fileBytes)), ("instruction_set", .string(instructionSet)),
        ("test", .string(row.test)), ("threads", .integer(row.threads)), ("streams", .integer(row.streams)),
        ("tokens_per_second", .number(rate, decimals: 3)), ("min", .number(low, decimals: 3)),
        ("max", .number(high, decimals: 3)), ("peak_rss_bytes", .integer(peakMemory())),
        ("weight_bytes_per_token", .integer(row.weightBytes)),
        ("state_bytes_per_token", .integer(model.stateBytesPerToken)),
        ("limit_tokens_per_second", .number(row.limit, decimals: 3)),
        ("share_of_limit", .number(row.share, decimals: 4)),
      ]).description)
  }
}

/// The median of ascending numbers.
func median(_ numbers: [Double]) -> Double {
  let middle = numbers.count / 2
  return numbers.count % 2 == 1 ? numbers[middle] : (numbers[middle - 1] + numbers[middle]) / 2
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
