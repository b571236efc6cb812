// SPDX-License-Identifier: MIT
import RWKVFormat

typealias JSON = JSONValue

extension InputFile {
  /// The whole file (at most `limit` bytes) as JSON.
  func json(limit: Int, depth: Int) throws(CheckpointError) -> JSON {
    guard size <= limit else {
      throw malformed("is too long for a JSON file", found: "\(size) bytes", expected: "at most \(limit)")
    }
    return try json(utf8(), depth: depth)
  }

  /// The whole file as JSON that people and other programs have written beside a checkpoint.
  func config(limit: Int = 16 << 20) throws(CheckpointError) -> JSON {
    guard size <= limit else {
      throw malformed("is too long for a JSON file", found: "\(size) bytes", expected: "at most \(limit)")
    }
    return try json(utf8(), depth: 64, lenient: true)
  }

  /// The whole file without a byte order mark, from UTF-16 too, in which Windows' shell writes; the first character of
  /// JSON is an ASCII one.
  private func utf8() throws(CheckpointError) -> [UInt8] {
    let content = try bytes(at: 0, count: size)
    let isLittle =
      content.starts(with: [0xFF, 0xFE]) || content.count > 1 && content[0] != 0 && content[1] == 0
    let isBig = content.starts(with: [0xFE, 0xFF]) || content.count > 1 && content[0] == 0 && content[1] != 0
    guard isLittle || isBig else {
      return content.starts(with: [0xEF, 0xBB, 0xBF]) ? Array(content.dropFirst(3)) : content
    }
    guard content.count.isMultiple(of: 2) else { throw malformed("is UTF-16 that ends within a character") }
    let units = stride(from: 0, to: content.count, by: 2).map { place in
      UInt16(content[place + (isLittle ? 1 : 0)]) << 8 | UInt16(content[place + (isLittle ? 0 : 1)])
    }
    return Array(String(decoding: units.first == 0xFEFF ? units[1...] : units[...], as: UTF16.self).utf8)
  }

  func json(_ bytes: [UInt8], depth: Int, lenient: Bool = false) throws(CheckpointError) -> JSON {
    do throws(JSON.SyntaxError) {
      return try JSON(parsing: bytes, depth: depth, lenient: lenient)
    } catch {
      throw malformed("JSON: \(error.problem) at byte \(error.offset)")
    }
  }
}
