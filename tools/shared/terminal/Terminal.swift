// SPDX-License-Identifier: MIT
import ArgumentParser
import CRWKVABI
import Glibc
import Synchronization

/// The version of the programs and the library, as rwkv.h has it.
package let version = "\(RWKV_VERSION_MAJOR).\(RWKV_VERSION_MINOR).\(RWKV_VERSION_PATCH)"

/// Why standard output could not be written, as an `errno`: the first time that it failed.
private let outputFailure = Atomic<Int32>(0)

/// Opens what the caller closed of stdin, stdout and stderr, so that no file of ours gets such a number and is read or
/// written in its place. Writing to a closed stdout stays an error.
private func reserveStandardStreams() {
  for stream in STDIN_FILENO...STDERR_FILENO where fcntl(stream, F_GETFD) < 0 {
    _ = open("/dev/null", stream == STDERR_FILENO ? O_WRONLY : O_RDONLY)
  }
}

/// Writes bytes to a descriptor; false when they cannot be written. `reporting` makes that an error for stdout.
@discardableResult
package func write(_ bytes: [UInt8], to descriptor: Int32 = STDOUT_FILENO) -> Bool {
  bytes.withUnsafeBytes { buffer in
    var rest = buffer[...]
    while let start = UnsafeRawBufferPointer(rebasing: rest).baseAddress, !rest.isEmpty {
      let count = Glibc.write(descriptor, start, rest.count)
      if count < 0 && errno == EINTR { continue }
      if count < 0 {
        let isOutput = descriptor == STDOUT_FILENO
        if isOutput { _ = outputFailure.compareExchange(expected: 0, desired: errno, ordering: .relaxed) }
        return false
      }
      rest = rest.dropFirst(count)
    }
    return true
  }
}

/// A line, or several, on stderr: what names and texts of files have of control characters is shown, not obeyed. Faint
/// where that is a terminal with colours: not with NO_COLOR, not for TERM=dumb.
package func note(_ text: String, faint: Bool = false) {
  let isFaint = faint && isatty(STDERR_FILENO) == 1 && variable("NO_COLOR").isEmpty && !isDumbTerminal
  let text = printable(text)
  let start = ProgressLine.isShown.load(ordering: .relaxed) ? ProgressLine.erasure : ""
  write(Array((start + (isFaint ? "\u{1B}[2m\(text)\u{1B}[0m\n" : text + "\n")).utf8), to: STDERR_FILENO)
}

/// A line, or several, on stdout, like `note`.
package func output(_ text: String) { write(Array((printable(text) + "\n").utf8)) }

/// Text in which control characters, also those that turn the direction of writing, stand as `\x1B`: a terminal obeys
/// none of them. Line ends and tabs stay.
package func printable(_ text: String) -> String {
  var result = ""
  for scalar in text.unicodeScalars {
    switch scalar.value {
    case 0x0A, 0x09: result.unicodeScalars.append(scalar)
    case 0..<0x20, 0x7F..<0xA0:
      result += "\\x" + (scalar.value < 0x10 ? "0" : "") + String(scalar.value, radix: 16, uppercase: true)
    case 0x202A...0x202E, 0x2066...0x2069: result += "\\u" + String(scalar.value, radix: 16, uppercase: true)
    default: result.unicodeScalars.append(scalar)
    }
  }
  return result
}

/// One line of progress, rewritten in place; silent where stderr is not a terminal, or one that only types.
package final class ProgressLine: Sendable {
  private let enabled = isatty(STDERR_FILENO) == 1 && !isDumbTerminal
  /// Percents.
  private let shown = Mutex((label: "", share: -1))
  /// Whether one stands in the window, which a note takes the place of; the next percent is shown below it.
  fileprivate static let isShown = Atomic<Bool>(false)
  fileprivate static let erasure = "\r\u{1B}[K"

  package init() {}

  /// Shows how many of `total` tokens are done since `start`, how fast, and how long it still takes.
  package func update(
    _ label: String, _ done: Int, of total: Int, unit: String = "tokens", since start: Double
  ) {
    let rate = Double(done) / max(now() - start, 1e-9)
    let rest = Int((Double(total - done) / max(rate, 1e-9)).rounded(.up))
    let time = rest < 100 ? "\(rest) s" : "\((rest + 59) / 60) min"
    update(
      label, Double(done) / Double(total), ", \(decimal(rate, rate < 10 ? 1 : 0)) \(unit)/s, \(time) left")
  }

  /// Shows `label` with the share done, 0…1. From any thread.
  package func update(_ label: String, _ share: Double, _ details: String = "") {
    guard enabled else { return }
    let percent = Int(share * 100)
    shown.withLock { last in
      // Threads may report out of order.
      guard label != last.label || percent > last.share else { return }
      last = (label, percent)
      Self.isShown.store(true, ordering: .relaxed)
      write(Array("\r\(label) \(percent) %\(details)\u{1B}[K".utf8), to: STDERR_FILENO)
    }
  }

  /// Removes the line.
  package func clear() {
    guard enabled else { return }
    shown.withLock { last in
      if last.share >= 0 { write(Array(Self.erasure.utf8), to: STDERR_FILENO) }
      Self.isShown.store(false, ordering: .relaxed)
      last = ("", -1)
    }
  }
}

/// Ends with exit code 1 and the error's text on stderr, 130 after Ctrl-C or 143 after SIGTERM.
///
/// Output that was lost is an error too, except where its reader has seen enough (`| head`).
package func reporting<Result>(_ tool: String, _ body: () throws -> Result) throws -> Result {
  reserveStandardStreams()
  do {
    let result = try body()
    let failure = outputFailure.load(ordering: .relaxed)
    if failure != 0 && failure != EPIPE {
      throw CommandError("standard output: \(String(cString: strerror(failure)))")
    }
    return result
  } catch let error as ExitCode { throw error } catch let error as ValidationError {
    throw error
  } catch {
    if isInterrupted { throw interruptedExit }
    note("\(tool): \(error)")
    throw ExitCode(1)
  }
}

/// A whole file, or stdin for "-".
package func readFile(_ path: String) throws -> [UInt8] {
  if path != "-" { try requireFile(path) }
  let descriptor = path == "-" ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC)
  guard descriptor >= 0 else { throw CommandError("\(path): \(String(cString: strerror(errno)))") }
  defer { if descriptor != STDIN_FILENO { close(descriptor) } }
  var content: [UInt8] = []
  var buffer = [UInt8](repeating: 0, count: 1 << 16)
  while true {
    let count = buffer.withUnsafeMutableBytes { read(descriptor, $0.baseAddress, $0.count) }
    if count < 0 && errno == EINTR {
      if isInterrupted { throw interruptedExit }
      continue
    }
    guard count >= 0 else { throw CommandError("\(path): \(String(cString: strerror(errno)))") }
    guard count > 0 else { return content }
    content += buffer[..<count]
  }
}

/// An error of the command itself, with its message.
package struct CommandError: Error, CustomStringConvertible {
  package let description: String
  package init(_ description: String) { self.description = description }
}

/// Seconds on a clock that only moves forward.
package func now() -> Double {
  var time = timespec()
  clock_gettime(CLOCK_MONOTONIC, &time)
  return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
}

/// `value` with `digits` decimals.
package func decimal(_ value: Double, _ digits: Int) -> String {
  guard value.isFinite else { return "\(value)" }
  let scale = pow(10, Double(digits))
  let scaled = (abs(value) * scale).rounded()
  guard scaled < 1e15 else { return "\(value)" }
  let sign = value < 0 && scaled > 0 ? "-" : ""
  let whole = Int(scaled / scale)
  guard digits > 0 else { return "\(sign)\(whole)" }
  let fraction = String(Int(scaled - Double(whole) * scale))
  return "\(sign)\(whole)." + String(repeating: "0", count: digits - fraction.count) + fraction
}

/// A number of bytes for people: "382.1 MB".
package func size(_ bytes: Int) -> String {
  var (value, unit) = (Double(bytes), 0)
  let units = ["B", "kB", "MB", "GB", "TB"]
  while value >= 999.95, unit + 1 < units.count { (value, unit) = (value / 1000, unit + 1) }
  return decimal(value, unit == 0 ? 0 : 1) + " " + units[unit]
}

/// Whether the terminal knows nothing but letters and line ends.
var isDumbTerminal: Bool { variable("TERM") == "dumb" }

/// A variable of the environment; empty if it is not set.
package func variable(_ name: String) -> String { getenv(name).map { String(cString: $0) } ?? "" }
