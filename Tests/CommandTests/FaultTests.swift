// SPDX-License-Identifier: MIT
import Foundation
import Testing

/// Programs/faults.c, preloaded into a tool: what the system may do to it at any time.
private struct Faults {
  enum Calls: String, CaseIterable { case read, write, sync, name }
  enum Kind: String { case none, error, short, eintr, kill }

  /// Nil where it cannot be compiled.
  static let library: String? = {
    let path = NSTemporaryDirectory() + "rwkv-faults-\(getpid()).so"
    atexit { unlink(NSTemporaryDirectory() + "rwkv-faults-\(getpid()).so") }
    let source = "\(packageRoot)/Tests/CommandTests/Programs/faults.c"
    let command = ["-c", "cc -shared -fPIC -O1 -Wall -Wextra -Werror \(source) -o \(path) -ldl"]
    return (try? Running("/bin/sh", command).wait().status) == 0 ? path : nil
  }()

  /// Files below this folder are meant.
  let folder: String

  /// Runs a tool with a fault at call number `at`; the number of calls, unless it was killed.
  @discardableResult
  func run(
    _ tool: Tool, _ arguments: [String], _ kind: Kind, _ calls: [Calls] = Calls.allCases, at: Int = 0,
    error: Int32 = 0
  ) throws -> (result: Tool.Result, calls: Int) {
    let log = NSTemporaryDirectory() + "rwkv-fault-calls-\(UUID().uuidString)"
    defer { unlink(log) }
    let settings = [
      "FAULT_PATH": folder, "FAULT_CALLS": calls.map(\.rawValue).joined(separator: ","),
      "FAULT_KIND": kind.rawValue, "FAULT_AT": "\(at)", "FAULT_ERRNO": "\(error)", "FAULT_LOG": log,
      "LD_PRELOAD": try #require(Self.library),
    ]
    let before = settings.map { "export \($0)='\($1)'" }.joined(separator: "; ")
    let result = try tool.run(arguments, after: before)
    let count = (try? String(contentsOfFile: log, encoding: .utf8)).flatMap {
      Int($0.trimmingCharacters(in: .newlines))
    }
    return (result, count ?? 0)
  }
}

/// What goes wrong around the tools: a clear error, and nothing is lost.
@Suite("Faults", .serialized, .enabled("needs a C compiler") { Faults.library != nil })
struct FaultTests {
  let quantize = Tool(name: "rwkv-quantize")
  let run = Tool(name: "rwkv-run")
  /// Inputs and outputs; faults hit this folder alone.
  let folder = TemporaryFolder()
  private var faults: Faults { Faults(folder: folder.path) }
  private var input: String { folder.file("in") }
  private var model: String { folder.file("m.rwkv") }
  private var state: String { folder.file("state") }
  private var options: [String] { ["--tokenizer", "bytes", "--no-measure", "--force", "-t", "2"] }
  private var convert: [String] { [input, model, "--type", "int8"] + options }
  private var saving: [String] {
    [model, "-p", "hello", "-n", "3", "--temp", "0", "-t", "1", "--save-state", state]
  }

  init() throws {
    try FileManager.default.copyItem(atPath: golden("v4-hf"), toPath: input)
  }

  private func bytes(_ path: String) -> Data? { FileManager.default.contents(atPath: path) }

  /// The old contents of the model, and what the conversion makes of it.
  private func oldAndNewModel() throws -> (old: Data, new: Data) {
    #expect(try quantize.run(convert).status == 0)
    let new = try #require(bytes(model))
    #expect(
      try quantize.run([input, model, "--type", "int4"] + options).status == 0)
    return (try #require(bytes(model)), new)
  }

  /// The same for a saved state.
  private func oldAndNewState() throws -> (old: Data, new: Data) {
    #expect(try quantize.run(convert).status == 0 && run.run(saving).status == 0)
    let new = try #require(bytes(state))
    #expect(try run.run([model, "-p", "x", "-n", "1", "--temp", "0", "--save-state", state]).status == 0)
    return (try #require(bytes(state)), new)
  }

  // MARK: - Reading and writing

  @Test(arguments: ["short", "eintr"]) func piecemealAndInterruptedCallsChangeNothing(kind: String) throws {
    let kind = try #require(Faults.Kind(rawValue: kind))
    let (_, new) = try oldAndNewModel()
    let text = try quantize.run(convert).status == 0 ? run.run(saving).output : ""
    let saved = bytes(state)
    #expect(text.count > 1 && saved != nil)
    #expect(try faults.run(quantize, convert, kind).result.status == 0)
    #expect(bytes(model) == new)
    #expect(try faults.run(run, saving, kind).result.output == text)
    #expect(bytes(state) == saved)
    let loading = [model, "-p", "more", "-n", "3", "--temp", "0", "--load-state", state]
    let more = try run.run(loading)
    let result = try faults.run(run, loading, kind).result
    #expect(more.status == 0 && result.status == 0 && result.output == more.output)
  }

  /// Every single call of a conversion fails, one after the other.
  @Test(arguments: [("read", EIO), ("write", ENOSPC), ("write", EIO), ("sync", EIO), ("name", EACCES)])
  func anyFailingCallOfAConversionIsAnErrorAndTheOldFileStays(call: String, code: Int32) throws {
    let call = try #require(Faults.Calls(rawValue: call))
    let (old, new) = try oldAndNewModel()
    let count = try faults.run(quantize, convert, .none, [call]).calls
    #expect(count > 0)
    try old.write(to: URL(filePath: model))
    for at in stride(from: 1, through: count, by: max(1, count / 12)) {
      let result = try faults.run(quantize, convert, .error, [call], at: at, error: code).result
      #expect(result.status == 1, "\(call) \(at) of \(count): \(result.errors)")
      #expect(result.errors.contains(String(cString: strerror(code))), "\(result.errors)")
      #expect(result.errors.contains(folder.path), "names the file: \(result.errors)")
      // After the renaming only the folder's own sync is left, and the new file is complete.
      let found = bytes(model)
      #expect(found == old || call == .sync && at > 1 && found == new, "\(call) \(at) of \(count)")
      try old.write(to: URL(filePath: model))
    }
    #expect(folder.contents == ["in", "m.rwkv"])
  }

  @Test(arguments: [("write", ENOSPC), ("sync", EIO), ("name", EACCES)])
  func anyFailingCallOfSavingAStateIsAnErrorAndTheOldStateStays(call: String, code: Int32) throws {
    let call = try #require(Faults.Calls(rawValue: call))
    let (old, new) = try oldAndNewState()
    let count = try faults.run(run, saving, .none, [call]).calls
    #expect(count > 0)
    for at in 1...max(1, count) {
      try old.write(to: URL(filePath: state))
      let result = try faults.run(run, saving, .error, [call], at: at, error: code).result
      #expect(
        result.status == 1 && result.errors.contains(String(cString: strerror(code))), "\(result.errors)")
      let found = bytes(state)
      #expect(found == old || call == .sync && at > 1 && found == new)
    }
  }

  /// Logits, and vectors of `embed`, which are written by the same function.
  @Test(arguments: [("write", ENOSPC), ("write", EIO), ("sync", EIO), ("name", EACCES)])
  func anyFailingCallOfWritingLogitsIsAnErrorAndTheOldFileStays(call: String, code: Int32) throws {
    let call = try #require(Faults.Calls(rawValue: call))
    #expect(try quantize.run(convert).status == 0)
    let logits = folder.file("logits.safetensors")
    let old = Data("old".utf8)
    let writing = ["logits", model, "--tokens", "1,2,3", "--out", logits]
    let (written, count) = try faults.run(run, writing, .none, [call])
    let new = bytes(logits)
    #expect(written.status == 0 && count > 0 && new != nil)
    for at in 1...max(1, count) {
      try old.write(to: URL(filePath: logits))
      let result = try faults.run(run, writing, .error, [call], at: at, error: code).result
      #expect(
        result.status == 1 && result.errors.contains(String(cString: strerror(code))), "\(result.errors)")
      let found = bytes(logits)
      #expect(found == old || call == .sync && at > 1 && found == new)
    }
    // What is not a file of its own stays what it is.
    let link = folder.file("link")
    try FileManager.default.createSymbolicLink(atPath: link, withDestinationPath: "/dev/null")
    #expect(try run.run(["logits", model, "--tokens", "1", "--out", link]).status == 0)
    #expect(try FileManager.default.destinationOfSymbolicLink(atPath: link) == "/dev/null")
  }

  @Test func anyFailingReadOfAModelOrStateIsAnError() throws {
    let (_, new) = try oldAndNewState()
    try new.write(to: URL(filePath: state))
    let loading = [model, "-p", "more", "-n", "3", "--temp", "0", "-t", "2", "--load-state", state]
    let count = try faults.run(run, loading, .none, [.read]).calls
    for at in stride(from: 1, through: count, by: max(1, count / 20)) {
      let result = try faults.run(run, loading, .error, [.read], at: at, error: EIO).result
      #expect(
        result.status == 1 && result.errors.contains("Input/output error"), "read \(at): \(result.errors)")
      #expect(result.errors.contains(folder.path))
    }
  }

  // MARK: - Killed

  private func expectOldOrNew(_ path: String, _ pair: (old: Data, new: Data), _ when: String) {
    let found = bytes(path)
    #expect(found == pair.old || found == pair.new, "\(when): \(found?.count ?? -1) bytes")
  }

  @Test func killedBeforeAnyCallOfAConversionTheFileIsTheOldOrTheNewOne() throws {
    let pair = try oldAndNewModel()
    let calls: [Faults.Calls] = [.write, .sync, .name]
    let count = try faults.run(quantize, convert, .none, calls).calls
    try pair.old.write(to: URL(filePath: model))
    for at in Set(stride(from: 1, to: count, by: max(1, count / 20))).union(max(1, count - 6)...count) {
      #expect(try faults.run(quantize, convert, .kill, calls, at: at).result.status == -Int(SIGKILL))
      expectOldOrNew(model, pair, "call \(at) of \(count)")
    }
  }

  /// `kill -9` at 100 random times of a conversion and 100 of saving a state.
  @Test func killedAtRandomTimesFilesAreTheOldOrTheNewOnes() throws {
    var generator = SystemRandomNumberGenerator()
    func attack(_ tool: Tool, _ arguments: [String], _ path: String, _ pair: (old: Data, new: Data)) throws {
      let start = ContinuousClock.now
      #expect(try tool.run(arguments).status == 0)
      let usual = (ContinuousClock.now - start) / Duration.microseconds(1)
      var killed = 0
      for _ in 0..<100 {
        try pair.old.write(to: URL(filePath: path))
        let running = try tool.start(arguments)
        usleep(UInt32.random(in: 0...UInt32(min(usual * 1.1, 1e6)), using: &generator))
        kill(running.process, SIGKILL)
        if try running.wait().status == -Int(SIGKILL) { killed += 1 }
        expectOldOrNew(path, pair, "killed")
      }
      #expect(killed > 20, "the times say nothing: \(killed) of 100 were killed")
    }
    try attack(run, saving, state, oldAndNewState())
    try attack(quantize, convert, model, oldAndNewModel())
  }

  // MARK: - Output

  @Test func outputThatCannotBeWrittenIsAnError() throws {
    #expect(try quantize.run(convert).status == 0)
    for (tool, arguments) in [
      (run, [model, "-p", "hello", "-n", "5", "--temp", "0"]),
      (run, [model, "-p", "hello", "-n", "5", "--temp", "0", "--json"]),
      (run, ["tokenize", model, "-p", "hello"]), (quantize, ["show", model]),
      (quantize, ["show", model, "--json"]),
    ] {
      let full = try tool.run(arguments, after: "exec > /dev/full")
      #expect(full.status == 1 && full.errors.contains("standard output: No space left"), "\(arguments)")
      let closed = try tool.run(arguments, after: "exec >&-")
      #expect(closed.status == 1 && closed.errors.contains("standard output: Bad file"), "\(arguments)")
    }
  }

  /// No file may get the number of a closed stream and be written in its place.
  @Test func closedStreamsDoNotEndUpInFiles() throws {
    let (_, new) = try oldAndNewModel()
    #expect(try quantize.run(convert + ["--json"], after: "exec <&- >&- 2>&-").status == 1)
    #expect(bytes(model) == new)
  }

  @Test func aReaderThatHasSeenEnoughEndsTheTextQuietly() throws {
    #expect(try quantize.run(convert).status == 0)
    let command = "'\(run.path)' '\(model)' -p hello -n 100000 --temp 1 --seed 1 | head -c 1 | wc -c"
    let start = ContinuousClock.now
    let result = try Running("/bin/sh", ["-c", command]).wait()
    #expect(result.output == "1\n" && result.errors == "")
    // It stopped: 100,000 tokens would take minutes.
    #expect(ContinuousClock.now - start < .seconds(60))
  }

  // MARK: - Memory

  /// From far too little address space up to plenty: it works, or says what is missing, but never crashes or hangs.
  @Test(.timeLimit(.minutes(3))) func limitedAddressSpaceIsAnErrorOrEnough() throws {
    #expect(try quantize.run(convert).status == 0)
    let text = try run.run(saving).output
    // What the loader of shared libraries alone needs [KiB].
    let least = try #require(
      stride(from: 20_000, to: 200_000, by: 2000).first { limit in
        try quantize.run(["--version"], after: "ulimit -v \(limit)").status == 0
      })
    var (worked, refused) = (0, 0)
    // In the last MiB before that, the Swift runtime itself has no memory for a few bytes and ends the program.
    for limit in Array(stride(from: least + 2000, to: least + 8000, by: 500))
      + [20_000, 40_000, 80_000].map({ least + $0 })
    {
      let bench = ["bench", model, "-p", "0", "-n", "1", "-r", "1", "-t", "2"]
      for (tool, arguments) in [(run, saving), (run, bench), (quantize, convert)] {
        let result = try tool.run(arguments, after: "ulimit -c 0; ulimit -v \(limit)")
        #expect(result.status == 0 || result.status == 1, "\(limit) KiB: \(result.status) \(result.errors)")
        if result.status == 1 { #expect(result.errors.contains("memory"), "\(limit) KiB: \(result.errors)") }
        if result.status == 0 && arguments == saving { #expect(result.output == text) }
        (worked, refused) = (worked + (result.status == 0 ? 1 : 0), refused + (result.status == 1 ? 1 : 0))
      }
    }
    #expect(worked > 0 && refused > 0)
  }
}
