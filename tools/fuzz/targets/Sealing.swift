// SPDX-License-Identifier: MIT
import RWKVFormat

// Checksums would stop nearly every mutated input at the door, so the harness puts the right ones in.

/// Bytes with little-endian integers that can be read and set where they exist.
struct Patch {
  private(set) var bytes: [UInt8]

  init(_ bytes: [UInt8]) { self.bytes = bytes }

  func integer(_ offset: Int, _ width: Int) -> Int? {
    guard offset >= 0, offset <= bytes.count - width else { return nil }
    let value = bytes[offset..<offset + width].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
    return Int(exactly: value)
  }

  mutating func set(_ offset: Int, _ value: UInt64, _ width: Int = 8) {
    guard offset >= 0, offset <= bytes.count - width else { return }
    for index in 0..<width { bytes[offset + index] = UInt8(truncatingIfNeeded: value >> (8 * UInt64(index))) }
  }

  func hash(_ range: Range<Int>) -> UInt64 { XXH64.hash(Array(bytes[range.clamped(to: 0..<bytes.count)])) }
}

/// A `.rwkv` file with its length and the checksums of its chunks, its index and its header put right.
func sealedModelFile(_ input: [UInt8]) -> [UInt8] {
  var file = Patch(input)
  guard let tensors = file.integer(20, 4), let chunks = file.integer(24, 4),
    let metadata = file.integer(28, 4),
    let names = file.integer(32, 4)
  else { return input }
  file.set(40, UInt64(input.count))
  let table = 64 + metadata + 48 * tensors
  for chunk in 0..<min(chunks, 4096) {
    let record = table + 24 * chunk
    guard let offset = file.integer(record, 8), let length = file.integer(record + 16, 4),
      offset <= input.count, length <= input.count - offset
    else { continue }
    file.set(record + 8, file.hash(offset..<offset + length))
  }
  let end = table + 24 * chunks + names
  if end <= input.count { file.set(48, file.hash(64..<end)) }
  file.set(56, file.hash(0..<56))
  return file.bytes
}

/// A state file of a model: identity, length and checksums put right. Its frame is the input's, or a frame of it.
func sealedState(_ input: [UInt8], identity: UInt64, compressing: Bool, counting: Bool) -> [UInt8] {
  var file = Patch(input)
  guard let name = file.integer(10, 2), 64 + name <= input.count else { return input }
  if compressing {
    let payload = Array(input[(64 + name)...])
    file = Patch(Array(input[..<(64 + name)]) + payload.withUnsafeBytes { ZstdFrame.compress($0) })
    if counting { file.set(24, UInt64(payload.count / 4)) }
  }
  file.set(16, identity)
  file.set(40, UInt64(file.bytes.count))
  file.set(48, file.hash(64 + name..<file.bytes.count))
  file.set(56, XXH64.hash(Array(file.bytes[..<56] + file.bytes[64..<64 + name])))
  return file.bytes
}

/// A ZIP archive whose entries have the CRC-32 of their contents, as far as they can be found.
func sealedArchive(_ input: [UInt8]) -> [UInt8] {
  var file = Patch(input)
  guard let end = file.integer(input.count - 6, 4), let count = file.integer(input.count - 12, 2) else {
    return input
  }
  var entry = end
  for _ in 0..<min(count, 4096) {
    guard let size = file.integer(entry + 24, 4), let local = file.integer(entry + 42, 4),
      let name = file.integer(local + 26, 2), let extra = file.integer(local + 28, 2),
      let nameLength = file.integer(entry + 28, 2), let extraLength = file.integer(entry + 30, 2),
      let commentLength = file.integer(entry + 32, 2)
    else { break }
    let start = local + 30 + name + extra
    if start <= input.count, size <= input.count - start {
      let crc = UInt64(crc32(file.bytes[start..<start + size]))
      file.set(entry + 16, crc, 4)
      if file.integer(local + 14, 4) != 0 { file.set(local + 14, crc, 4) }
    }
    entry += 46 + nameLength + extraLength + commentLength
  }
  return file.bytes
}

private let crcTable: [UInt32] = (0..<256).map { number in
  (0..<8).reduce(UInt32(number)) { value, _ in value & 1 == 1 ? value >> 1 ^ 0xEDB8_8320 : value >> 1 }
}

private func crc32(_ bytes: ArraySlice<UInt8>) -> UInt32 {
  ~bytes.reduce(~0) { crcTable[Int(UInt8(truncatingIfNeeded: $0) ^ $1)] ^ $0 >> 8 }
}

/// Undoes `ZstdFrame.compress`.
func inflate(_ frame: UnsafeRawBufferPointer, _ target: UnsafeMutableRawBufferPointer) -> Bool {
  ZstdFrame.decompress(frame, into: target)
}
