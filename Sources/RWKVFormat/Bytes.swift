// SPDX-License-Identifier: MIT
import Glibc

/// Reads little-endian numbers from a piece of the file, never past its end.
struct ByteCursor {
  private let bytes: UnsafeRawBufferPointer
  private(set) var position = 0
  /// Offset in the file of the first byte: for messages.
  private let origin: UInt64
  private let what: String

  init(_ bytes: UnsafeRawBufferPointer, origin: Int, what: String) {
    self.bytes = bytes
    self.origin = UInt64(origin)
    self.what = what
  }

  var offset: UInt64 { origin + UInt64(position) }
  var remaining: Int { bytes.count - position }

  mutating func take(_ count: Int) throws(ModelFileError) -> UnsafeRawBufferPointer {
    guard count >= 0, count <= remaining else {
      throw .invalid(what, found: "\(remaining) bytes", expected: "\(count) or more", offset: offset)
    }
    defer { position += count }
    return UnsafeRawBufferPointer(rebasing: bytes[position..<position + count])
  }

  mutating func integer<Number: FixedWidthInteger>(_: Number.Type) throws(ModelFileError) -> Number {
    let piece = try take(MemoryLayout<Number>.size)
    return Number(littleEndian: piece.loadUnaligned(as: Number.self))
  }

  /// A number stored as UInt8, UInt16 or UInt32.
  mutating func count<Number: FixedWidthInteger>(_ type: Number.Type) throws(ModelFileError) -> Int {
    Int(try integer(type))
  }

  /// Takes bytes that must be zero.
  mutating func zeros(_ count: Int, of name: String) throws(ModelFileError) {
    let at = offset
    guard isZero(try take(count)) else {
      throw .invalid("a reserved byte of \(name)", found: "not zero", expected: "0", offset: at)
    }
  }
}

extension [UInt8] {
  /// Appends a number, little-endian.
  mutating func append<Number: FixedWidthInteger>(littleEndian number: Number) {
    Swift.withUnsafeBytes(of: number.littleEndian) { append(contentsOf: $0) }
  }
}

/// True if all bytes are zero: the first is, and each equals the next.
func isZero(_ bytes: UnsafeRawBufferPointer) -> Bool {
  guard let base = bytes.baseAddress, bytes.count > 0 else { return true }
  return bytes[0] == 0 && memcmp(base, base + 1, bytes.count - 1) == 0
}
