// SPDX-License-Identifier: MIT
import Glibc
import RWKVFormat
import Terminal

/// Writes a whole file, which appears when it is complete or leaves the old one. Devices, pipes and what links stand for
/// (/dev/stdout is one) are written to.
func write(_ bytes: [UInt8], to path: String) throws {
  guard isElsewhere(path) else { return try writeAtOnce(bytes, to: path) }
  let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o666)
  guard descriptor >= 0 else { throw CommandError("\(path): \(String(cString: strerror(errno)))") }
  let complete = write(bytes, to: descriptor)
  guard close(descriptor) == 0, complete else {
    throw CommandError("\(path): \(String(cString: strerror(errno)))")
  }
}

private func writeAtOnce(_ bytes: [UInt8], to path: String) throws(ModelFileError) {
  do {
    let file = try OutputFile(path: path, overwrite: true)
    try file.write(bytes, at: 0)
    try file.finish()
  } catch {
    throw error.inFile(path)
  }
}
