// SPDX-License-Identifier: MIT
/// Byte strings with ids, for exact and longest-prefix look-up. Immutable once built.
///
/// Nodes are numbered breadth first, so the children of a node are neighbours, ascending by label:
///
///     children of node i   firstChild[i] ..< firstChild[i + 1]
///     label[i]             the byte on the edge from i's parent to i
///     value[i]             the id of the string that ends in i, or −1
///
/// Nine bytes per node: 1 MB for the 116,079 nodes of the World vocabulary.
struct Trie: Sendable {
  private var firstChild: [UInt32] = []
  private var label: [UInt8] = [0]
  private var value: [Int32] = []

  /// The most nodes. Long tokens without common beginnings would make one for each of their bytes.
  static let maximumNodes = 1 << 20

  /// The node's subtree is `order[start..<end]`, tokens that agree in their first `depth` bytes.
  private struct Pending {
    let start, end, depth: UInt32

    init(_ range: Range<Int>, depth: Int) {
      (start, end, self.depth) = (UInt32(range.lowerBound), UInt32(range.upperBound), UInt32(depth))
    }
  }

  /// Builds the trie of the non-empty tokens of `table` whose ids satisfy `included`; no two may be equal.
  init(unique table: TokenTable, where included: (Int) -> Bool) throws(TokenizerError) {
    let order = Self.sorted(table, where: included)
    var queue = [Pending(0..<order.count, depth: 0)]
    var next = 0
    while next < queue.count {
      let depth = Int(queue[next].depth)
      var range = Int(queue[next].start)..<Int(queue[next].end)
      firstChild.append(UInt32(queue.count))
      value.append(-1)
      // Sorted order puts the token that ends here before those that continue.
      if let first = range.first, table.range(of: order[first]).count == depth {
        value[next] = Int32(order[first])
        range = first + 1..<range.upperBound
        if let second = range.first, table.range(of: order[second]).count == depth {
          throw TokenizerError(.token(order[second]), "has the same bytes as token \(order[first])")
        }
      }
      while let start = range.first {
        let byte = table.bytes[Int(table.starts[order[start]]) + depth]
        var end = start + 1
        while end < range.upperBound, table.bytes[Int(table.starts[order[end]]) + depth] == byte { end += 1 }
        label.append(byte)
        queue.append(Pending(start..<end, depth: depth + 1))
        range = end..<range.upperBound
      }
      guard queue.count <= Self.maximumNodes else {
        throw TokenizerError(
          .vocabulary, "the tokens are too long and too different: over \(Self.maximumNodes) beginnings")
      }
      next += 1
    }
    firstChild.append(UInt32(queue.count))
  }

  /// The ids of the non-empty tokens, ascending by their bytes, then by id.
  private static func sorted(_ table: TokenTable, where included: (Int) -> Bool) -> [Int] {
    // Comparing the first eight bytes as one big-endian number settles nearly every comparison.
    var keys: [(prefix: UInt64, id: Int)] = []
    keys.reserveCapacity(table.count)
    for id in 0..<table.count where included(id) {
      let range = table.range(of: id)
      if range.isEmpty { continue }
      let head = range.prefix(8)
      let prefix = head.reduce(UInt64(0)) { $0 << 8 | UInt64(table.bytes[$1]) }
      keys.append((prefix << UInt64(64 - 8 * head.count), id))
    }
    keys.sort { a, b in
      if a.prefix != b.prefix { return a.prefix < b.prefix }
      let (left, right) = (table.range(of: a.id), table.range(of: b.id))
      let common = min(left.count, right.count)
      for index in 8..<max(8, common) {
        let (x, y) = (table.bytes[left.lowerBound + index], table.bytes[right.lowerBound + index])
        if x != y { return x < y }
      }
      return left.count != right.count ? left.count < right.count : a.id < b.id
    }
    return keys.map(\.id)
  }

  /// The longest string that is a prefix of `bytes[start...]`, and its length; nil when there is none.
  @inline(__always)
  func longestMatch(_ bytes: UnsafeBufferPointer<UInt8>, from start: Int) -> (id: Int, length: Int)? {
    var node = 0
    var best: (id: Int, length: Int)?
    var position = start
    while position < bytes.count, let child = child(of: node, bytes[position]) {
      node = child
      position += 1
      if value[node] >= 0 { best = (Int(value[node]), position - start) }
    }
    return best
  }

  /// A string found in a text, or what stands between two of them.
  enum Piece {
    case token(Int)
    case text(ArraySlice<UInt8>)
  }

  /// The strings found in `text`, the longest at the first place, and the pieces between them, in order.
  func pieces(of text: [UInt8]) -> [Piece] {
    var pieces: [Piece] = []
    var (start, position) = (0, 0)
    text.withUnsafeBufferPointer { bytes in
      while position < bytes.count {
        guard let match = longestMatch(bytes, from: position) else {
          position += 1
          continue
        }
        if start < position { pieces.append(.text(text[start..<position])) }
        pieces.append(.token(match.id))
        position += match.length
        start = position
      }
    }
    if start < text.count { pieces.append(.text(text[start...])) }
    return pieces
  }

  /// The id of exactly `string`.
  func find(_ string: some Sequence<UInt8>) -> Int? {
    var node = 0
    for byte in string {
      guard let child = child(of: node, byte) else { return nil }
      node = child
    }
    return value[node] >= 0 ? Int(value[node]) : nil
  }

  /// Throws unless each byte that satisfies `needed` is a string by itself, so that all input can be encoded.
  func requireBytes(_ needed: (UInt8) -> Bool) throws(TokenizerError) {
    for byte in UInt8.min...UInt8.max where needed(byte) && find(CollectionOfOne(byte)) == nil {
      throw TokenizerError(.vocabulary, "no token for the single byte \(byte)")
    }
  }

  @inline(__always)
  private func child(of node: Int, _ byte: UInt8) -> Int? {
    var low = Int(firstChild[node])
    var high = Int(firstChild[node + 1])
    // The root of a complete vocabulary has all 256 children.
    if high - low == 256 { return low + Int(byte) }
    while high - low > 4 {
      let middle = (low + high) / 2
      if label[middle] <= byte { low = middle } else { high = middle }
    }
    while low < high {
      if label[low] == byte { return low }
      low += 1
    }
    return nil
  }
}
