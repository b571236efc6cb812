// SPDX-License-Identifier: MIT
import Synchronization

/// The bytes of a file that is somewhere else.
package protocol RemoteBytes: AnyObject, Sendable {
  var size: Int { get }
  /// Fills `buffer` with the bytes at `offset`, which are within the file; returns what was wrong. Called
  /// from any thread.
  func read(at offset: Int, into buffer: UnsafeMutableRawBufferPointer) -> String?
  /// These ranges, small ones, are read next: they may be fetched together.
  func willRead(_ ranges: [Range<Int>])
}

/// Paths at which checkpoints are read from somewhere else: empty files stand there for those who look for
/// names.
package enum SubstituteFiles {
  private static let files = Mutex<[String: any RemoteBytes]>([:])

  package static func put(_ bytes: any RemoteBytes, at path: String) { files.withLock { $0[path] = bytes } }
  package static func remove(_ path: String) { files.withLock { $0[path] = nil } }
  static func bytes(at path: String) -> (any RemoteBytes)? { files.withLock { $0[path] } }
}
