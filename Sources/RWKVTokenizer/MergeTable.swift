// SPDX-License-Identifier: MIT
/// What pairs of neighbouring tokens merge into. Open addressing with linear probing, at most half full.
struct MergeTable: Sendable {
  struct Merge: Sendable {
    /// The lowest rank goes first.
    let rank: Int32
    let token: Int32
  }

  /// No pair of token ids, which are not negative.
  private static let empty = UInt64.max

  private var keys: [UInt64]
  private var merges: [Merge]
  private let shift: UInt64

  /// Room for `count` pairs.
  init(count: Int) {
    let bits = max(4, Int.bitWidth - (2 * count).leadingZeroBitCount)
    keys = Array(repeating: Self.empty, count: 1 << bits)
    merges = Array(repeating: Merge(rank: 0, token: 0), count: 1 << bits)
    shift = UInt64(64 - bits)
  }

  subscript(left: Int32, right: Int32) -> Merge? {
    let key = Self.key(left, right)
    let slot = slot(key)
    return keys[slot] == key ? merges[slot] : nil
  }

  /// Adds a pair; returns false when it is there already.
  mutating func insert(_ left: Int32, _ right: Int32, _ merge: Merge) -> Bool {
    let key = Self.key(left, right)
    let slot = slot(key)
    guard keys[slot] == Self.empty else { return false }
    keys[slot] = key
    merges[slot] = merge
    return true
  }

  private static func key(_ left: Int32, _ right: Int32) -> UInt64 {
    UInt64(UInt32(bitPattern: left)) << 32 | UInt64(UInt32(bitPattern: right))
  }

  /// Where `key` is, or where it would be put.
  private func slot(_ key: UInt64) -> Int {
    var slot = Int((key &* 0x9E37_79B9_7F4A_7C15) >> shift)
    while keys[slot] != key && keys[slot] != Self.empty { slot = (slot + 1) & (keys.count - 1) }
    return slot
  }
}
