// SPDX-License-Identifier: MIT
import Testing

@testable import RWKVFormat

/// The bytes of a model file, to be changed and sealed again, so that the checks behind the checksums are reached.
struct Forgery {
  var bytes: [UInt8]

  init(_ samples: [Sample] = smallSamples, store: Bool = false) throws {
    let folder = TemporaryFolder()
    try writeModel(samples, to: folder.file("m"), store: store)
    bytes = readBytes(folder.file("m"))
  }

  func number<Number: FixedWidthInteger>(_ offset: Int, _: Number.Type) -> Number {
    bytes.withUnsafeBytes { Number(littleEndian: $0.loadUnaligned(fromByteOffset: offset, as: Number.self)) }
  }

  mutating func put(_ number: some FixedWidthInteger, at offset: Int) {
    withUnsafeBytes(of: number.littleEndian) { bytes.replaceSubrange(offset..<offset + $0.count, with: $0) }
  }

  var metadataBytes: Int { Int(number(28, UInt32.self)) }
  var tensorCount: Int { Int(number(20, UInt32.self)) }
  var chunkCount: Int { Int(number(24, UInt32.self)) }
  func tensor(_ index: Int) -> Int { 64 + metadataBytes + index * 48 }
  func chunk(_ index: Int) -> Int { tensor(tensorCount) + index * 24 }
  var names: Int { chunk(chunkCount) }
  var indexEnd: Int { names + Int(number(32, UInt32.self)) }

  /// Puts another frame in the place of the last chunk.
  mutating func replaceLastChunk(with frame: [UInt8]) {
    let record = chunk(chunkCount - 1)
    let offset = Int(number(record, UInt64.self))
    bytes.removeSubrange(offset...)
    bytes += frame
    put(XXH64.hash(frame), at: record + 8)
    put(UInt32(frame.count), at: record + 16)
    put(UInt64(bytes.count), at: 40)
  }

  /// Makes the checksums of index and header right.
  mutating func seal() {
    let end = min(max(indexEnd, 64), bytes.count)
    put(XXH64.hash(Array(bytes[64..<end])), at: 48)
    sealHeader()
  }

  mutating func sealHeader() { put(XXH64.hash(Array(bytes[..<56])), at: 56) }

  /// Opens the file and reads every tensor.
  func open() throws -> [[UInt8]] {
    let folder = TemporaryFolder()
    writeBytes(bytes, folder.file("m"))
    let file = try ModelFile(path: folder.file("m"))
    return try file.tensors.map { try contents(of: $0, in: file) }
  }

  /// What is said about the file, or nil if it is accepted.
  func refusal() -> String? {
    do {
      _ = try open()
      return nil
    } catch { return "\(error)" }
  }
}

/// A change to a file and a part of the message that it must give.
struct Attack: Sendable, CustomTestStringConvertible {
  let name: String
  let message: String
  let change: @Sendable (inout Forgery) -> Void

  init(_ name: String, _ message: String, _ change: @escaping @Sendable (inout Forgery) -> Void) {
    self.name = name
    self.message = message
    self.change = change
  }

  var testDescription: String { name }
}
