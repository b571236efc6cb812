// SPDX-License-Identifier: MIT
import RWKVFormat

typealias JSON = JSONValue

extension InputFile {
  /// The whole file (at most `limit` bytes) as JSON.
  func json(limit: Int, depth: Int) throws(CheckpointError) -> JSON {
    guard size <= limit else {
      throw malformed("is too long for a JSON file", found: "\(size) bytes", expected: "at most \(limit)")
    }
    let content = try bytes(at: 0, count: size)
    return try json(
      content.starts(with: [0xEF, 0xBB, 0xBF]) ? Array(content.dropFirst(3)) : content, depth: depth)
  }

  /// The whole file as JSON that people and other programs have written beside a checkpoint.
  func config(limit: Int = 16 << 20) throws(CheckpointError) -> JSON {
    guard size <= limit else {
      throw malformed("is too long for a JSON file", found: "\(size) bytes", expected: "at most \(limit)")
    }
    return try json(bytes(at: 0, count: size), depth: 64, lenient: true)
  }

  func json(_ bytes: [UInt8], depth: Int, lenient: Bool = false) throws(CheckpointError) -> JSON {
    do throws(JSON.SyntaxError) {
      return try JSON(parsing: bytes, depth: depth, lenient: lenient)
    } catch {
      throw malformed("JSON: \(error.problem) at byte \(error.offset)")
    }
  }
}
