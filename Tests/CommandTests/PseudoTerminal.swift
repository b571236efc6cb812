// SPDX-License-Identifier: MIT
import Foundation
import Testing

/// A program with a terminal of its own for input and messages; its stdout goes to a file.
final class PseudoTerminal {
  private var master: Int32
  private let process: pid_t
  private let folder = TemporaryFolder()
  /// The beginning of a character whose other bytes have not come yet.
  private var partial: [UInt8] = []
  private var seen = ""
  private var searched: String.Index

  convenience init(
    _ tool: Tool, _ arguments: [String], environment: [String: String] = [:], size: (Int, Int) = (80, 24),
    showsOutput: Bool = false
  ) throws {
    try self.init(
      path: tool.path, arguments, environment: environment, size: size, showsOutput: showsOutput)
  }

  /// - Parameters:
  ///   - path: of the program.
  ///   - environment: added to that of the tests.
  ///   - size: columns and rows.
  ///   - showsOutput: stdout goes to the terminal, too.
  init(
    path: String, _ arguments: [String], environment: [String: String] = [:], size: (Int, Int) = (80, 24),
    showsOutput: Bool = false
  ) throws {
    // posix_openpt, unlockpt and ptsname, which Swift does not import: TIOCSPTLCK and TIOCGPTN of Linux.
    master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC)
    var (locked, number) = (Int32(0), UInt32(0))
    guard master >= 0, ioctl(master, 0x4004_5431, &locked) == 0, ioctl(master, 0x8004_5430, &number) == 0
    else {
      throw POSIXError(.ENOTTY)
    }
    let slave = "/dev/pts/\(number)"
    var window = winsize(ws_row: UInt16(size.1), ws_col: UInt16(size.0), ws_xpixel: 0, ws_ypixel: 0)
    _ = ioctl(master, UInt(TIOCSWINSZ), &window)
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    // The first terminal that a new session opens becomes its own: Ctrl-C arrives as a signal.
    posix_spawn_file_actions_addopen(&actions, 0, slave, O_RDWR, 0)
    if showsOutput {
      posix_spawn_file_actions_adddup2(&actions, 0, 1)
    } else {
      posix_spawn_file_actions_addopen(&actions, 1, folder.file("output"), O_WRONLY | O_CREAT, 0o600)
    }
    posix_spawn_file_actions_adddup2(&actions, 0, 2)
    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    sigemptyset(&none)
    posix_spawnattr_setsigmask(&attributes, &none)
    posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK) | 0x80)  // 0x80: POSIX_SPAWN_SETSID
    let strings = ([path] + arguments).map { strdup($0) }
    let variables = ProcessInfo.processInfo.environment.merging(["TERM": "dumb"]) { $1 }.merging(environment)
    { $1 }
    let environment = variables.map { strdup("\($0)=\($1)") }
    defer { (strings + environment).forEach { free($0) } }
    var process: pid_t = 0
    let code = posix_spawn(&process, path, &actions, &attributes, strings + [nil], environment + [nil])
    guard code == 0 else { throw POSIXError(POSIXErrorCode(rawValue: code) ?? .EIO) }
    self.process = process
    searched = seen.startIndex
    _ = fcntl(master, F_SETFL, O_NONBLOCK)
  }

  deinit { hangUp() }

  /// Closes the terminal's window.
  func hangUp() {
    if master >= 0 { close(master) }
    master = -1
  }

  /// Gives the window this many columns and rows.
  func resize(_ size: (Int, Int)) {
    var size = winsize(ws_row: UInt16(size.1), ws_col: UInt16(size.0), ws_xpixel: 0, ws_ypixel: 0)
    #expect(ioctl(master, UInt(TIOCSWINSZ), &size) == 0)
  }

  func send(_ signal: Int32) { kill(process, signal) }

  /// Types all of it. The terminal takes less at a time, or nothing, while the system is short of memory.
  func type(_ text: String) {
    var rest = Array(text.utf8)[...]
    for _ in 0..<6000 where !rest.isEmpty {
      let count = rest.withUnsafeBytes { write(master, $0.baseAddress, $0.count) }
      if count > 0 {
        rest = rest.dropFirst(count)
      } else if count < 0, errno != EAGAIN, errno != EINTR {
        break
      } else {
        receive()
        usleep(10_000)
      }
    }
    #expect(rest.isEmpty, "\(rest.count) bytes of '\(text)' could not be typed")
  }

  /// Waits until this text has appeared on the terminal after what was expected before; false after a minute.
  @discardableResult
  func expect(_ text: String) -> Bool {
    for _ in 0..<6000 {
      receive()
      if let found = seen.range(of: text, range: searched..<seen.endIndex) {
        searched = found.upperBound
        return true
      }
      usleep(10_000)
    }
    Issue.record(
      "'\(text)' did not appear after '\(seen[..<searched].suffix(80))'; there is '\(seen[searched...])'")
    return false
  }

  /// What the program has written to stdout so far.
  var output: String {
    String(decoding: FileManager.default.contents(atPath: folder.file("output")) ?? Data(), as: UTF8.self)
  }

  func waitForOutput(beyond count: Int = 0) {
    for _ in 0..<6000 where output.utf8.count <= count { usleep(10_000) }
  }

  /// All that was on the terminal.
  var screen: String { seen }

  /// Waits for the end; the exit code, −signal if one killed it.
  func wait() -> Int {
    // Reading on: a program that fills the terminal's buffer would never end.
    let code = waitForEnd(of: process) { receive() }
    receive()
    return code
  }

  private func receive() {
    var buffer = [UInt8](repeating: 0, count: 4096)
    while true {
      let count = read(master, &buffer, buffer.count)
      guard count > 0 else { return }
      let place = seen.utf8.distance(from: seen.startIndex, to: searched)
      partial += buffer[..<count]
      let whole = partial.count - Self.unfinished(partial)
      seen += String(decoding: partial[..<whole], as: UTF8.self)
      partial.removeFirst(whole)
      searched = seen.utf8.index(seen.startIndex, offsetBy: place)
    }
  }
  /// How many bytes at the end begin a character of UTF-8 that goes on.
  private static func unfinished(_ bytes: [UInt8]) -> Int {
    for (back, byte) in bytes.suffix(3).reversed().enumerated() where byte & 0xC0 != 0x80 {
      let length = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : byte >= 0xC0 ? 2 : 1
      return length > back + 1 ? back + 1 : 0
    }
    return 0
  }
}
