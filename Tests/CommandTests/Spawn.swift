// SPDX-License-Identifier: MIT
import Foundation
import Testing

/// The folder of this package.
let packageRoot = #filePath.split(separator: "/").dropLast(3).reduce("") { $0 + "/" + $1 }

func golden(_ name: String) -> String { "\(packageRoot)/Tests/Fixtures/goldens/\(name)" }

/// A new empty folder, removed with all that is in it when the test lets go of it.
final class TemporaryFolder: Sendable {
  let path: String

  init() {
    path = NSTemporaryDirectory() + "rwkv-command-" + UUID().uuidString
    try? FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  }

  deinit { remove() }

  func remove() { try? FileManager.default.removeItem(atPath: path) }

  func file(_ name: String) -> String { path + "/" + name }
  var contents: [String] { ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).sorted() }
}

/// A program of this package, as it was built for the tests.
struct Tool {
  let name: String

  struct Result {
    /// Exit code; −signal if one killed it, which is not what a shell's 128 + signal tells apart.
    let status: Int
    let output: String
    let errors: String
  }

  /// Beside the bundle that is being run.
  var path: String {
    let bundle = CommandLine.arguments.first { $0.hasSuffix(".xctest") || $0.contains(".xctest/") }
    let folder = bundle.map {
      ($0.components(separatedBy: ".xctest")[0] as NSString).deletingLastPathComponent
    }
    return (folder ?? packageRoot + "/.build/debug") + "/" + name
  }

  /// Runs to the end.
  func run(_ arguments: String...) throws -> Result { try run(arguments) }
  func run(_ arguments: [String]) throws -> Result { try start(arguments).wait() }

  /// Runs in a shell that says `before` first, for limits.
  func run(_ arguments: [String], after before: String) throws -> Result {
    try Running("/bin/sh", ["-c", before + "; exec \"$@\"", "sh", path] + arguments).wait()
  }

  func start(_ arguments: [String]) throws -> Running { try Running(path, arguments) }
}

/// A program that has been started.
final class Running {
  let process: pid_t
  private let folder = TemporaryFolder()

  init(_ path: String, _ arguments: [String]) throws {
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
    posix_spawn_file_actions_addopen(&actions, 1, folder.file("output"), O_WRONLY | O_CREAT, 0o600)
    posix_spawn_file_actions_addopen(&actions, 2, folder.file("errors"), O_WRONLY | O_CREAT, 0o600)
    // The threads that run tests block signals, and a child would inherit that.
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    sigemptyset(&none)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
    let strings = ([path] + arguments).map { strdup($0) }
    defer { strings.forEach { free($0) } }
    var process: pid_t = 0
    let code = posix_spawn(&process, path, &actions, &attributes, strings + [nil], environ)
    guard code == 0 else { throw POSIXError(POSIXErrorCode(rawValue: code) ?? .EIO) }
    self.process = process
  }

  /// Waits until it has a file open below `folder` other than `input`; false if it ends before, or after five minutes.
  func hasOpened(fileIn folder: String, besides input: String) -> Bool {
    let descriptors = "/proc/\(process)/fd"
    let start = ContinuousClock.now
    while ContinuousClock.now - start < .seconds(300),
      let names = try? FileManager.default.contentsOfDirectory(atPath: descriptors), !names.isEmpty
    {
      for name in names {
        let target = try? FileManager.default.destinationOfSymbolicLink(atPath: "\(descriptors)/\(name)")
        if let target, target.hasPrefix(folder + "/"), target != input { return true }
      }
      usleep(1000)
    }
    return false
  }

  /// Waits until it handles Ctrl-C itself, so that a signal finds it at work; false if it ends before.
  func catchesSignals() -> Bool {
    for _ in 0..<60_000 {
      guard let status = try? String(contentsOfFile: "/proc/\(process)/status", encoding: .utf8) else {
        return false
      }
      let line = status.split(separator: "\n").first { $0.hasPrefix("SigCgt:") }
      guard let line, let caught = UInt64(line.dropFirst(7).trimmingCharacters(in: .whitespaces), radix: 16)
      else { return false }
      if [SIGINT, SIGTERM].allSatisfy({ caught >> UInt64($0 - 1) & 1 == 1 }) { return true }
      usleep(1000)
    }
    return false
  }

  /// What it has written to stdout so far.
  var output: String {
    String(decoding: FileManager.default.contents(atPath: folder.file("output")) ?? Data(), as: UTF8.self)
  }

  func waitForOutput(beyond count: Int = 0) {
    for _ in 0..<6000 where output.utf8.count <= count { usleep(10_000) }
  }

  func wait() throws -> Tool.Result {
    let code = waitForEnd(of: process)
    return Tool.Result(
      status: code, output: try String(contentsOfFile: folder.file("output"), encoding: .utf8),
      errors: try String(contentsOfFile: folder.file("errors"), encoding: .utf8))
  }
}

/// Waits for a child; its exit code, −signal if one killed it. One that takes longer than five minutes hangs: it is
/// killed, so that a test fails instead of none ending.
func waitForEnd(of process: pid_t, meanwhile: () -> Void = {}) -> Int {
  var status: Int32 = 0
  let start = ContinuousClock.now
  while waitpid(process, &status, WNOHANG) == 0 {
    if ContinuousClock.now - start > .seconds(300) {
      Issue.record("process \(process) does not end")
      kill(process, SIGKILL)
      waitpid(process, &status, 0)
      break
    }
    meanwhile()
    usleep(1000)
  }
  return status & 0x7F == 0 ? Int(status >> 8) & 0xFF : -Int(status & 0x7F)
}
