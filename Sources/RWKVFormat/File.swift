// SPDX-License-Identifier: MIT
import Glibc

/// An open file descriptor, closed with the object. Reads and writes at offsets, so any thread may use it.
package final class File: Sendable {
  let descriptor: Int32
  /// The size of the file when it was opened [bytes].
  package let size: UInt64
  /// When it was opened: to notice that another program writes to it.
  private let modified: timespec

  /// Opens a regular file for reading. Returns at once for pipes and devices too: with an error.
  package init(reading path: String) throws(ModelFileError) {
    descriptor = try File.call("open") { open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC) }
    var status = stat()
    let descriptor = descriptor
    do throws(ModelFileError) {
      try File.call("fstat") { fstat(descriptor, &status) }
      guard status.st_mode & S_IFMT == S_IFREG else { throw ModelFileError(.notRegularFile) }
    } catch {
      close(descriptor)
      throw error
    }
    size = UInt64(status.st_size)
    modified = status.st_mtim
  }

  /// Whether size and time of the last change are what they were when the file was opened.
  var isUnchanged: Bool {
    var status = stat()
    guard fstat(descriptor, &status) == 0 else { return false }
    return UInt64(status.st_size) == size && status.st_mtim.tv_sec == modified.tv_sec
      && status.st_mtim.tv_nsec == modified.tv_nsec
  }

  /// Creates a file that must not exist.
  init(creating path: String) throws(ModelFileError) {
    descriptor = try File.call("create") { open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o666) }
    size = 0
    modified = timespec()
  }

  /// Opens a device or a pipe for `append`.
  init(streamingTo path: String) throws(ModelFileError) {
    descriptor = try File.call("open") { open(path, O_WRONLY | O_CLOEXEC) }
    size = 0
    modified = timespec()
  }

  /// Creates a file that has no name yet (`name` gives it one) and vanishes with the process. Nil where that cannot be.
  init?(unnamedIn directory: String) {
    // O_TMPFILE, whose definition Swift cannot import; the descriptor gets its name by way of /proc.
    descriptor = open(directory, O_RDWR | O_DIRECTORY | 0o20_000_000 | O_CLOEXEC, 0o666)
    size = 0
    modified = timespec()
    guard descriptor >= 0, access("/proc/self/fd/\(descriptor)", F_OK) == 0 else { return nil }
  }

  deinit { if descriptor >= 0 { close(descriptor) } }

  /// Gives an unnamed file its name, which must be free. Does nothing to a file that has one.
  func name(_ path: String) throws(ModelFileError) {
    var status = stat()
    try File.call("fstat") { fstat(descriptor, &status) }
    guard status.st_nlink == 0 else { return }
    try File.call("link") {
      linkat(AT_FDCWD, "/proc/self/fd/\(descriptor)", AT_FDCWD, path, Int32(AT_SYMLINK_FOLLOW))
    }
  }

  /// Repeats an interrupted call and turns −1 into an error.
  @discardableResult
  static func call(_ name: String, _ body: () -> Int32) throws(ModelFileError) -> Int32 {
    while true {
      let result = body()
      if result >= 0 { return result }
      let code = errno
      if code != EINTR { throw ModelFileError(.system(call: name, errno: code)) }
    }
  }

  /// Fills `buffer` with the bytes from `offset` on. A file that ends before is an error.
  package func read(into buffer: UnsafeMutableRawBufferPointer, at offset: UInt64) throws(ModelFileError) {
    guard let base = buffer.baseAddress else { return }
    var done = 0
    while done < buffer.count {
      let count = pread(descriptor, base + done, buffer.count - done, off_t(offset) + off_t(done))
      if count > 0 {
        done += count
      } else if count == 0 {
        let found = offset + UInt64(done)
        throw ModelFileError(.wrongSize(expected: offset + UInt64(buffer.count), found: found), offset: found)
      } else if errno != EINTR {
        throw ModelFileError(.system(call: "read", errno: errno), offset: offset)
      }
    }
  }

  func write(_ bytes: [UInt8], at offset: UInt64) throws(ModelFileError) {
    var done = 0
    while done < bytes.count {
      let count = bytes.withUnsafeBytes {
        pwrite(descriptor, $0.baseAddress.map { $0 + done }, bytes.count - done, off_t(offset) + off_t(done))
      }
      if count >= 0 {
        done += count
      } else if errno != EINTR {
        throw ModelFileError(.system(call: "write", errno: errno), offset: offset)
      }
    }
  }

  /// Writes after what was written before.
  func append(_ bytes: [UInt8]) throws(ModelFileError) {
    var done = 0
    while done < bytes.count {
      let count = bytes.withUnsafeBytes {
        Glibc.write(descriptor, $0.baseAddress.map { $0 + done }, bytes.count - done)
      }
      if count >= 0 {
        done += count
      } else if errno != EINTR {
        throw ModelFileError(.system(call: "write", errno: errno))
      }
    }
  }

  /// Waits until everything written is on the disk.
  func synchronize() throws(ModelFileError) {
    try File.call("fsync") { fsync(descriptor) }
  }

  /// Waits until a directory's entries are on the disk. File systems that cannot do that are left alone.
  static func synchronizeDirectory(_ path: String) throws(ModelFileError) {
    let descriptor = try call("open directory") { open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) }
    defer { close(descriptor) }
    guard fsync(descriptor) != 0, errno != EINVAL, errno != EINTR else { return }
    throw ModelFileError(.system(call: "fsync directory", errno: errno))
  }
}
