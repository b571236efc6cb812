import ArgumentParser
import Glibc
import RWKV
import Synchronization

/// Writes bytes to a descriptor; false when the reader is gone.
@discardableResult
func write(_ bytes: [UInt8], to descriptor: Int32 = STDOUT_FILENO) -> Bool {
  bytes.withUnsafeBytes { buffer in
    var rest = buffer[...]
    while let start = UnsafeRawBufferPointer(rebasing: rest).baseAddress, !rest.isEmpty {
      let count = Glibc.write(descriptor, start, rest.count)
      if count < 0 && errno == EINTR { continue }
      if count < 0 { return false }
      rest = rest.dropFirst(count)
    }
    return true
  }
}

/// A line on stderr.
func note(_ text: String) { write(Array((text + "\n").utf8), to: STDERR_FILENO) }

/// One line of progress, rewritten in place; silent where stderr is not a terminal.
final class ProgressLine: Sendable {
  private let enabled = isatty(STDERR_FILENO) == 1
  private let shown = Mutex(-1)

  /// Shows `label` with the share done, 0…1. From any thread.
  func update(_ label: String, _ share: Double) {
    guard enabled else { return }
    let percent = Int(share * 100)
    shown.withLock { last in
      guard percent != last else { return }
      last = percent
      write(Array("\r\(label) \(percent) %".utf8), to: STDERR_FILENO)
    }
  }

  /// Removes the line.
  func clear() {
    guard enabled else { return }
    shown.withLock { last in
      if last >= 0 { write(Array("\r\u{1B}[K".utf8), to: STDERR_FILENO) }
      last = -1
    }
  }
}

private let interrupted = Atomic<Bool>(false)

/// Whether Ctrl-C was pressed; long work looks at it and stops in order.
var isInterrupted: Bool { interrupted.load(ordering: .relaxed) }

/// Makes Ctrl-C set `isInterrupted`; a second one ends the program at once.
func catchInterrupts() {
  signal(SIGPIPE, SIG_IGN)
  signal(SIGINT) { _ in
    if interrupted.exchange(true, ordering: .relaxed) { _exit(130) }
  }
}

/// Exit code after Ctrl-C.
let interruptedExit = ExitCode(130)

/// Ends with exit code 1 and the error's text on stderr, or 130 after Ctrl-C.
func reporting<Result>(_ body: () throws -> Result) throws -> Result {
  do { return try body() } catch let error as ExitCode { throw error } catch let error as ValidationError {
    throw error
  } catch {
    if isInterrupted { throw interruptedExit }
    note("rwkv-run: \(error)")
    throw ExitCode(1)
  }
}

/// A whole file, or stdin for "-".
func readFile(_ path: String) throws -> [UInt8] {
  let descriptor = path == "-" ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC)
  guard descriptor >= 0 else { throw CommandError("\(path): \(String(cString: strerror(errno)))") }
  defer { if descriptor != STDIN_FILENO { close(descriptor) } }
  var content: [UInt8] = []
  var buffer = [UInt8](repeating: 0, count: 1 << 16)
  while true {
    let count = buffer.withUnsafeMutableBytes { read(descriptor, $0.baseAddress, $0.count) }
    if count < 0 && errno == EINTR { continue }
    guard count >= 0 else { throw CommandError("\(path): \(String(cString: strerror(errno)))") }
    guard count > 0 else { return content }
    content += buffer[..<count]
  }
}

/// An error of the command itself, with its message.
struct CommandError: Error, CustomStringConvertible {
  let description: String
  init(_ description: String) { self.description = description }
}

/// Seconds on a clock that only moves forward.
func now() -> Double {
  var time = timespec()
  clock_gettime(CLOCK_MONOTONIC, &time)
  return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
}

/// `value` with `digits` decimals.
func decimal(_ value: Double, _ digits: Int) -> String {
  guard value.isFinite else { return "\(value)" }
  let scale = pow(10, Double(digits))
  let scaled = (abs(value) * scale).rounded()
  guard scaled < 1e15 else { return "\(value)" }
  let whole = Int(scaled / scale)
  guard digits > 0 else { return (value < 0 ? "-" : "") + "\(whole)" }
  let fraction = String(Int(scaled - Double(whole) * scale))
  return (value < 0 ? "-" : "") + "\(whole)." + String(repeating: "0", count: digits - fraction.count)
    + fraction
}

/// A JSON string literal.
func json(_ text: String) -> String {
  var result = "\""
  for scalar in text.unicodeScalars {
    switch scalar {
    case "\"": result += "\\\""
    case "\\": result += "\\\\"
    case "\n": result += "\\n"
    case "\t": result += "\\t"
    case "\r": result += "\\r"
    case _ where scalar.value < 0x20:
      let digits = String(scalar.value, radix: 16)
      result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
    default: result.unicodeScalars.append(scalar)
    }
  }
  return result + "\""
}
