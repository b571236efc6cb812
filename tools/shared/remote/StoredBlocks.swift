// SPDX-License-Identifier: MIT
import Glibc
import Terminal

/// Blocks of a file on a server that are to be read on later: in a file without a name on this machine's disk, since a
/// matrix that is read column by column would take too much memory. Not thread-safe.
final class StoredBlocks {
  private let blockBytes: Int
  /// How many there may be.
  private let limit: Int
  /// -1: there is no file yet, or none can be had.
  private var descriptor: Int32 = -1
  private var canStore = true
  /// Places that were given back, and how many there are in all.
  private var free: [Int] = []
  private var count = 0

  init(of blockBytes: Int, limit: Int) { (self.blockBytes, self.limit) = (blockBytes, limit) }

  deinit { if descriptor >= 0 { close(descriptor) } }

  /// Whether another one can be taken only when one is given back.
  var isFull: Bool { free.isEmpty && count >= limit }

  /// Takes a block; nil where there is no room for it.
  func store(_ bytes: [UInt8]) -> Int? {
    guard canStore, !isFull else { return nil }
    if descriptor < 0 { descriptor = Self.unnamedFile() }
    let place = free.popLast() ?? count
    guard descriptor >= 0, write(bytes, at: place * blockBytes) else {
      canStore = false
      return nil
    }
    count = max(count, place + 1)
    return place
  }

  func giveBack(_ place: Int) { free.append(place) }

  /// Reads from a block; false where the disk fails.
  func read(_ place: Int, at start: Int, into buffer: UnsafeMutableRawBufferPointer) -> Bool {
    var done = 0
    while done < buffer.count {
      let offset = off_t(place * blockBytes + start + done)
      let count = pread(descriptor, buffer.baseAddress.map { $0 + done }, buffer.count - done, offset)
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else { return false }
      done += count
    }
    return true
  }

  private func write(_ bytes: [UInt8], at offset: Int) -> Bool {
    bytes.withUnsafeBytes { buffer in
      var done = 0
      while done < buffer.count {
        let count = pwrite(
          descriptor, buffer.baseAddress.map { $0 + done }, buffer.count - done, off_t(offset + done))
        if count < 0 && errno == EINTR { continue }
        guard count > 0 else { return false }
        done += count
      }
      return true
    }
  }

  /// Where large temporary files belong: /tmp is often memory.
  private static func unnamedFile() -> Int32 {
    let chosen = variable("TMPDIR")
    for folder in chosen.isEmpty ? ["/var/tmp", "/tmp"] : [chosen] {
      var template = Array((folder + "/rwkv-XXXXXX").utf8CString)
      let descriptor = template.withUnsafeMutableBufferPointer { name in
        name.baseAddress.map { mkstemp($0) } ?? -1
      }
      guard descriptor >= 0 else { continue }
      unlink(template)
      _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
      return descriptor
    }
    return -1
  }
}
