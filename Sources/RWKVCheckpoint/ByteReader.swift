// SPDX-License-Identifier: MIT
/// Reads a file from front to back through a small window: headers of GGUF and rwkv.cpp files.
struct ByteReader {
  let file: InputFile
  /// Where the next byte stands in the file.
  private(set) var position: Int
  private var window: [UInt8] = []
  private var windowStart = 0

  private static let windowLength = 64 << 10

  init(_ file: InputFile, at position: Int = 0) {
    self.file = file
    self.position = position
  }

  var isAtEnd: Bool { position == file.size }

  /// The next `count` bytes; fails before it allocates if the file has fewer.
  mutating func bytes(_ count: Int) throws(CheckpointError) -> [UInt8] {
    if count > ByteReader.windowLength {
      defer { position += count }
      return try file.bytes(at: position, count: count)
    }
    try fill(count)
    defer { position += count }
    return Array(window[position - windowStart..<position - windowStart + count])
  }

  mutating func skip(_ count: Int) throws(CheckpointError) {
    guard count >= 0, count <= file.size - position else { throw file.malformed("ends too early") }
    position += count
  }

  mutating func integer<T: FixedWidthInteger & UnsignedInteger>(_ type: T.Type) throws(CheckpointError) -> T {
    let size = MemoryLayout<T>.size
    try fill(size)
    guard let value = window.integer(type, at: position - windowStart) else {
      throw file.malformed("ends too early")
    }
    position += size
    return value
  }

  /// An unsigned integer that must not exceed `limit`.
  mutating func count<T: FixedWidthInteger & UnsignedInteger>(
    _ type: T.Type, limit: Int, of what: String
  ) throws(CheckpointError) -> Int {
    let value = try integer(type)
    guard let count = Int(exactly: value), count <= limit else {
      throw file.malformed("has an impossible \(what)", found: "\(value)", expected: "at most \(limit)")
    }
    return count
  }

  /// UTF-8 without NUL.
  mutating func text(_ count: Int, of what: String) throws(CheckpointError) -> String {
    let bytes = try bytes(count)
    guard !bytes.contains(0), let text = String(validating: bytes, as: UTF8.self) else {
      throw file.malformed("has a damaged \(what)")
    }
    return text
  }

  /// Moves the window so that it holds the next `count` bytes.
  private mutating func fill(_ count: Int) throws(CheckpointError) {
    let inside = position >= windowStart && position - windowStart + count <= window.count
    if inside { return }
    let length = min(ByteReader.windowLength, file.size - position)
    window = try file.bytes(at: position, count: max(count, length))
    windowStart = position
  }
}
