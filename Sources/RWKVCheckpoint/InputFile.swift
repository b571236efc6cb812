// SPDX-License-Identifier: MIT
import Glibc

/// One open regular file, read by position: safe to use from several threads, and a file that shrinks while
/// it is read gives an error, not a signal.
final class InputFile: Sendable {
  let path: String
  let size: Int
  /// -1 for a substitute.
  private let descriptor: Int32
  private let substitute: (any RemoteBytes)?

  init(path: String) throws(CheckpointError) {
    self.path = path
    substitute = SubstituteFiles.bytes(at: path)
    if let substitute {
      (descriptor, size) = (-1, substitute.size)
      return
    }
    descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
    guard descriptor >= 0 else {
      throw CheckpointError(.unreadable, file: path, "cannot be opened: " + String(cString: strerror(errno)))
    }
    var status = stat()
    guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
      close(descriptor)
      throw CheckpointError(.unreadable, file: path, "is not a regular file")
    }
    size = Int(status.st_size)
  }

  deinit { if descriptor >= 0 { close(descriptor) } }

  /// Fills `buffer` with the bytes at `offset`.
  func read(at offset: Int, into buffer: UnsafeMutableRawBufferPointer) throws(CheckpointError) {
    guard offset >= 0, offset <= size, buffer.count <= size - offset else {
      throw malformed(
        "ends too early", found: "\(size) bytes", expected: "\(buffer.count) bytes at \(offset)")
    }
    if let substitute {
      guard let problem = substitute.read(at: offset, into: buffer) else { return }
      throw CheckpointError(.unreadable, file: path, problem)
    }
    var done = 0
    while done < buffer.count {
      let count = pread(
        descriptor, buffer.baseAddress.map { $0 + done }, buffer.count - done, off_t(offset + done))
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else {
        let reason = count == 0 ? "it became shorter" : String(cString: strerror(errno))
        throw CheckpointError(.unreadable, file: path, "read error at byte \(offset + done): " + reason)
      }
      done += count
    }
  }

  /// Says that these ranges, small ones, are read next, which is of use where each would be a request.
  func willRead(_ ranges: [Range<Int>]) { substitute?.willRead(ranges) }

  /// The bytes of a range. The caller bounds `count`; it is checked against the size before anything is
  /// allocated.
  func bytes(at offset: Int, count: Int) throws(CheckpointError) -> [UInt8] {
    guard offset >= 0, count >= 0, offset <= size, count <= size - offset else {
      throw malformed("ends too early", found: "\(size) bytes", expected: "\(count) bytes at \(offset)")
    }
    var bytes = [UInt8](repeating: 0, count: count)
    var failure: CheckpointError?
    bytes.withUnsafeMutableBytes { buffer in
      do throws(CheckpointError) { try read(at: offset, into: buffer) } catch { failure = error }
    }
    if let failure { throw failure }
    return bytes
  }

  func malformed(
    _ problem: String, tensor: String? = nil, found: String? = nil, expected: String? = nil
  ) -> CheckpointError {
    CheckpointError(
      .malformed, file: path, tensor: tensor, problem, found: found, expected: expected,
      advice: "The file is damaged or was not written by a known program; get it again")
  }
}

/// Little-endian integers out of a byte array. Every access is checked: nil means out of range.
extension [UInt8] {
  func integer<T: FixedWidthInteger & UnsignedInteger>(_ type: T.Type, at offset: Int) -> T? {
    let size = MemoryLayout<T>.size
    guard offset >= 0, offset <= count, size <= count - offset else { return nil }
    return withUnsafeBytes { T(littleEndian: $0.loadUnaligned(fromByteOffset: offset, as: T.self)) }
  }
}

/// Products of untrusted sizes: nil when the result would not fit, or a factor is negative.
func product(_ factors: [Int]) -> Int? {
  var result = 1
  for factor in factors {
    guard factor >= 0 else { return nil }
    let (value, overflow) = result.multipliedReportingOverflow(by: factor)
    if overflow { return nil }
    result = value
  }
  return result
}
