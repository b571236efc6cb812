// SPDX-License-Identifier: MIT
import Foundation
import Testing

/// What rwkv-run does where memory is short: the same text, or an error, and never more than it may take.
@Suite("Limits on memory", .serialized)
struct MemoryLimitTests {
  let tool = Tool(name: "rwkv-run")
  let folder = TemporaryFolder()
  private var model: String { folder.file("m.rwkv") }
  private var arguments: [String] { [model, "-p", "The library", "-n", "6", "--temp", "0"] }
  private let text: String
  /// What the model needs at least [MiB], as the refusal says.
  private let minimum: Int

  init() throws {
    let checkpoint = "\(packageRoot)/examples/model/rwkv7-docs-5m.safetensors"
    let convert = ["--type", "fp32", "--no-measure"]
    #expect(try Tool(name: "rwkv-quantize").run([checkpoint, folder.file("m.rwkv")] + convert).status == 0)
    let arguments = [folder.file("m.rwkv"), "-p", "The library", "-n", "6", "--temp", "0"]
    text = try tool.run(arguments).output
    let refusal = try tool.run(arguments + ["--memory-limit", "1M"])
    #expect(refusal.status == 1 && refusal.output == "")
    let words = refusal.errors.split(separator: " ")
    let unit = try #require(words.firstIndex(of: "MiB"))
    minimum = try #require(Int(words[unit - 1]))
  }

  @Test func theTextIsTheSameWithinTheLimit() throws {
    let limit = ["--memory-limit", "\(minimum + 1)M"]
    let result = try tool.run(arguments + limit)
    #expect(result.status == 0 && result.output == text)
    #expect(
      result.errors.contains("--memory-limit") && result.errors.contains("of 6 blocks are read from the file")
    )
  }

  /// Prompts longer than a pass, and tokens.
  @Test func theLimitIsKept() throws {
    let limit = minimum + 1
    let result = try tool.run(
      ["bench", model, "-p", "600", "-n", "8", "-r", "1", "-o", "json", "--memory-limit", "\(limit)M"])
    let rows = try result.output.split(separator: "\n").map {
      try #require(try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any])
    }
    #expect(rows.count == 3)
    for row in rows {
      #expect(try #require(row["peak_rss_bytes"] as? Int) <= limit << 20)
      #expect(try #require(row["limit_tokens_per_second"] as? Double) > 0)
    }
  }

  /// Without an option: addresses that `ulimit` takes away.
  @Test func fewAddressesMakeItStream() throws {
    func run(_ limit: Int) throws -> Tool.Result {
      try tool.run(arguments, after: "ulimit -v \(limit << 10)")
    }
    // Up to about one MiB above what loading the program takes, the runtime's own allocations end it (SECURITY.md).
    let loading = try #require(try (16...minimum).first { try run($0).status != 127 })
    try expectStreaming(from: max(loading + 2, minimum - 16), run)
  }

  /// Without an option: a control group, where this process may make one.
  @Test func aControlGroupMakesItStream() throws {
    let isOld = FileManager.default.fileExists(atPath: "/sys/fs/cgroup/memory/cgroup.procs")
    let group = "/sys/fs/cgroup\(isOld ? "/memory" : "")/rwkv-test-\(getpid())"
    let file = "\(group)/\(isOld ? "memory.limit_in_bytes" : "memory.max")"
    guard mkdir(group, 0o755) == 0 else { return print("skipped: no control group can be made here") }
    defer { rmdir(group) }
    guard access(file, W_OK) == 0 else {
      return print("skipped: control groups have no limit on memory here")
    }
    try expectStreaming(from: minimum - 16) { limit in
      try tool.run(arguments, after: "echo \(limit)M > \(file) && echo $$ > \(group)/cgroup.procs || exit 99")
    }
  }

  /// Some limit [MiB] makes `run` stream by itself, and none makes it fail in another way than by saying so.
  private func expectStreaming(from least: Int, _ run: (Int) throws -> Tool.Result) throws {
    var streamed = 0
    for limit in stride(from: least, through: minimum + 120, by: 4) {
      let result = try run(limit)
      #expect(result.status == 0 || result.status == 1, "\(limit) MiB: \(result.status) \(result.errors)")
      if result.status == 1 { #expect(result.errors.contains("memory"), "\(limit) MiB: \(result.errors)") }
      if result.status == 0 { #expect(result.output == text) }
      guard result.status == 0 else { continue }
      if result.errors.contains("the model does not fit into the memory that is left") { streamed += 1 }
      if streamed > 0 && result.errors == "" { break }
    }
    #expect(streamed > 0)
  }
}
