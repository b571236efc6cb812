// SPDX-License-Identifier: MIT
import Glibc
import Terminal

/// A file fetched whole and in order, and so hashed where the repository lists a SHA-256. Goes on where an
/// earlier attempt stopped, if the file is still the same.
struct Download {
  private let file: RemoteFile
  private let target: String

  init(_ file: RemoteFile, to target: String) { (self.file, self.target) = (file, target) }

  func run(progress: (Int) -> Void) throws {
    if try isThere() { return }
    // The version is in its name: of another one, or an unknown one, nothing is kept.
    let part = target + "." + SHA256.hex(Array((file.identity ?? "").utf8)).prefix(12) + ".part"
    let descriptor = open(part, O_RDWR | O_CREAT | O_CLOEXEC, 0o666)
    guard descriptor >= 0 else { throw failure(part) }
    defer { close(descriptor) }
    guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
      throw CommandError("\(part): another program is fetching it")
    }
    if file.identity == nil { ftruncate(descriptor, 0) }
    var hash = SHA256()
    let block = UnsafeMutableRawBufferPointer.allocate(byteCount: RemoteFile.blockBytes, alignment: 64)
    defer { block.deallocate() }
    var done = try hashed(descriptor, part, into: &hash, block)
    while done < file.size {
      if isInterrupted { throw CommandError("interrupted") }
      let buffer = UnsafeMutableRawBufferPointer(rebasing: block[..<min(block.count, file.size - done)])
      if let problem = file.read(at: done, into: buffer) { throw CommandError(problem) }
      guard write(Array(buffer), to: descriptor) else { throw failure(part) }
      hash.add(UnsafeRawBufferPointer(buffer))
      done += buffer.count
      progress(done)
    }
    if let expected = file.expected.sha256, hash.finish() != expected {
      unlink(part)
      throw CommandError(
        "\(file.address.shown): what came has another SHA-256 than the repository lists, and was removed; "
          + "try again"
      )
    }
    guard fsync(descriptor) == 0, rename(part, target) == 0 else { throw failure(part) }
  }

  /// Whether an earlier attempt has come to its end, which only a SHA-256 can tell.
  private func isThere() throws -> Bool {
    let descriptor = open(target, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return false }
    defer { close(descriptor) }
    var status = stat()
    guard let expected = file.expected.sha256, fstat(descriptor, &status) == 0,
      Int(status.st_size) == file.size
    else { return false }
    var (hash, done) = (SHA256(), 0)
    let block = UnsafeMutableRawBufferPointer.allocate(byteCount: RemoteFile.blockBytes, alignment: 64)
    defer { block.deallocate() }
    while done < file.size, !isInterrupted {
      let count = pread(descriptor, block.baseAddress, block.count, off_t(done))
      guard count > 0 else { throw failure(target) }
      hash.add(UnsafeRawBufferPointer(rebasing: block[..<count]))
      done += count
    }
    return hash.finish() == expected
  }

  /// Hashes what is there already, whole blocks of it, and returns how much that is.
  private func hashed(
    _ descriptor: Int32, _ path: String, into hash: inout SHA256, _ block: UnsafeMutableRawBufferPointer
  ) throws -> Int {
    var status = stat()
    guard fstat(descriptor, &status) == 0 else { throw failure(path) }
    let there = min(Int(status.st_size), file.size) / block.count * block.count
    for start in stride(from: 0, to: there, by: block.count) {
      guard pread(descriptor, block.baseAddress, block.count, off_t(start)) == block.count else {
        throw failure(path)
      }
      hash.add(UnsafeRawBufferPointer(block))
    }
    guard ftruncate(descriptor, off_t(there)) == 0, lseek(descriptor, 0, SEEK_END) == off_t(there) else {
      throw failure(path)
    }
    return there
  }

  private func failure(_ path: String) -> CommandError {
    CommandError("\(path): \(String(cString: strerror(errno)))")
  }
}
