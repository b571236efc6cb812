// SPDX-License-Identifier: MIT

/// XXH64 of a stream of bytes (Yann Collet, xxHash specification 0.1.1, seed 0 unless given).
///
/// Not cryptographic: it finds damage, not malice. A value type; not for concurrent use.
package struct XXH64 {
  private static let prime1: UInt64 = 0x9E37_79B1_85EB_CA87
  private static let prime2: UInt64 = 0xC2B2_AE3D_27D4_EB4F
  private static let prime3: UInt64 = 0x1656_67B1_9E37_79F9
  private static let prime4: UInt64 = 0x85EB_CA77_C2B2_AE63
  private static let prime5: UInt64 = 0x27D4_EB2F_1656_67C5

  private typealias Lanes = (UInt64, UInt64, UInt64, UInt64)

  private let seed: UInt64
  private var lanes: Lanes
  private var length: UInt64 = 0
  /// Bytes that do not fill a stripe of 32 yet; `length % 32` of them are valid.
  private var pending: Lanes = (0, 0, 0, 0)

  package init(seed: UInt64 = 0) {
    self.seed = seed
    lanes = (seed &+ Self.prime1 &+ Self.prime2, seed &+ Self.prime2, seed, seed &- Self.prime1)
  }

  /// The hash of one piece of bytes.
  package static func hash(_ bytes: UnsafeRawBufferPointer, seed: UInt64 = 0) -> UInt64 {
    var state = XXH64(seed: seed)
    state.update(bytes)
    return state.value
  }

  package static func hash(_ bytes: [UInt8], seed: UInt64 = 0) -> UInt64 {
    bytes.withUnsafeBytes { hash($0, seed: seed) }
  }

  package mutating func update(_ bytes: UnsafeRawBufferPointer) {
    guard var next = bytes.baseAddress, bytes.count > 0 else { return }
    var count = bytes.count
    let filled = Int(length % 32)
    length &+= UInt64(count)
    if filled > 0 {
      let taken = min(32 - filled, count)
      withUnsafeMutableBytes(of: &pending) {
        $0.baseAddress?.advanced(by: filled).copyMemory(from: next, byteCount: taken)
      }
      next += taken
      count -= taken
      guard filled + taken == 32 else { return }
      withUnsafeBytes(of: pending) { if let stripe = $0.baseAddress { Self.consume(stripe, 1, &lanes) } }
    }
    Self.consume(next, count / 32, &lanes)
    let rest = UnsafeRawBufferPointer(start: next + (count & ~31), count: count & 31)
    withUnsafeMutableBytes(of: &pending) { $0.copyMemory(from: rest) }
  }

  package mutating func update(_ bytes: [UInt8]) {
    bytes.withUnsafeBytes { update($0) }
  }

  /// The hash of everything given so far; more may follow.
  package var value: UInt64 {
    var hash: UInt64
    if length >= 32 {
      hash = Self.rotate(lanes.0, 1) &+ Self.rotate(lanes.1, 7) &+ Self.rotate(lanes.2, 12)
      hash = hash &+ Self.rotate(lanes.3, 18)
      for lane in [lanes.0, lanes.1, lanes.2, lanes.3] {
        hash = (hash ^ Self.round(0, lane)) &* Self.prime1 &+ Self.prime4
      }
    } else {
      hash = seed &+ Self.prime5
    }
    hash &+= length
    let tail = pending
    hash = withUnsafeBytes(of: tail) {
      Self.finish(hash, UnsafeRawBufferPointer(rebasing: $0[..<Int(length % 32)]))
    }
    hash = (hash ^ (hash >> 33)) &* Self.prime2
    hash = (hash ^ (hash >> 29)) &* Self.prime3
    return hash ^ (hash >> 32)
  }

  /// The last 0…31 bytes: eight at a time, then four, then single ones.
  private static func finish(_ start: UInt64, _ tail: UnsafeRawBufferPointer) -> UInt64 {
    var hash = start
    var index = 0
    while index + 8 <= tail.count {
      let word = UInt64(littleEndian: tail.loadUnaligned(fromByteOffset: index, as: UInt64.self))
      hash = rotate(hash ^ round(0, word), 27) &* prime1 &+ prime4
      index += 8
    }
    if index + 4 <= tail.count {
      let word = UInt32(littleEndian: tail.loadUnaligned(fromByteOffset: index, as: UInt32.self))
      hash = rotate(hash ^ (UInt64(word) &* prime1), 23) &* prime2 &+ prime3
      index += 4
    }
    while index < tail.count {
      hash = rotate(hash ^ (UInt64(tail[index]) &* prime5), 11) &* prime1
      index += 1
    }
    return hash
  }

  /// `count` stripes of 32 bytes; the four lanes stay in registers.
  private static func consume(_ bytes: UnsafeRawPointer, _ count: Int, _ lanes: inout Lanes) {
    var (a, b, c, d) = lanes
    var next = bytes
    let end = bytes + count * 32
    while next < end {
      a = round(a, UInt64(littleEndian: next.loadUnaligned(as: UInt64.self)))
      b = round(b, UInt64(littleEndian: next.loadUnaligned(fromByteOffset: 8, as: UInt64.self)))
      c = round(c, UInt64(littleEndian: next.loadUnaligned(fromByteOffset: 16, as: UInt64.self)))
      d = round(d, UInt64(littleEndian: next.loadUnaligned(fromByteOffset: 24, as: UInt64.self)))
      next += 32
    }
    lanes = (a, b, c, d)
  }

  @inline(__always)
  private static func round(_ lane: UInt64, _ word: UInt64) -> UInt64 {
    rotate(lane &+ word &* prime2, 31) &* prime1
  }

  @inline(__always)
  private static func rotate(_ value: UInt64, _ count: UInt64) -> UInt64 {
    (value << count) | (value >> (64 - count))
  }
}
