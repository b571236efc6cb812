// SPDX-License-Identifier: MIT
/// Merges the tokens of one word: again and again the neighbours with the lowest rank, of equals the
/// leftmost.
///
/// The tokens form a linked list, and a heap holds every pair that could merge, so that a word of n tokens
/// costs O(n log n): a text without spaces must not take forever. Keeps its memory from word to word.
struct WordMerger {
  private struct Entry {
    let rank: Int32
    /// Where the left token of the pair stands.
    let position: Int32

    func precedes(_ other: Entry) -> Bool {
      rank != other.rank ? rank < other.rank : position < other.position
    }
  }

  private static let none: Int32 = -1

  private let merges: MergeTable
  private var tokens: [Int32] = []
  private var previous: [Int32] = []
  private var next: [Int32] = []
  private var heap: [Entry] = []

  init(_ merges: MergeTable) { self.merges = merges }

  /// Hands out the merged tokens in order.
  mutating func merge(_ word: some Collection<Int32>, _ body: (Int) -> Void) {
    start(word)
    while let entry = popFirst() {
      // An entry is out of date when one of its tokens has merged since.
      guard let merge = pair(at: entry.position), merge.rank == entry.rank else { continue }
      let left = Int(entry.position)
      let right = Int(next[left])
      tokens[left] = merge.token
      tokens[right] = Self.none
      next[left] = next[right]
      if next[left] != Self.none { previous[Int(next[left])] = entry.position }
      addPair(at: entry.position)
      if previous[left] != Self.none { addPair(at: previous[left]) }
    }
    for token in tokens where token != Self.none { body(Int(token)) }
  }

  private mutating func start(_ word: some Collection<Int32>) {
    tokens.removeAll(keepingCapacity: true)
    previous.removeAll(keepingCapacity: true)
    next.removeAll(keepingCapacity: true)
    for (position, token) in word.enumerated() {
      tokens.append(token)
      previous.append(Int32(position) - 1)  // −1 is none
      next.append(position + 1 < word.count ? Int32(position) + 1 : Self.none)
    }
    for position in tokens.indices { addPair(at: Int32(position)) }
  }

  /// What the token at `position` and the one after it merge into.
  private func pair(at position: Int32) -> MergeTable.Merge? {
    let right = next[Int(position)]
    guard right != Self.none, tokens[Int(position)] != Self.none else { return nil }
    return merges[tokens[Int(position)], tokens[Int(right)]]
  }

  private mutating func addPair(at position: Int32) {
    guard let merge = pair(at: position) else { return }
    heap.append(Entry(rank: merge.rank, position: position))
    var index = heap.count - 1
    while index > 0, heap[index].precedes(heap[(index - 1) / 2]) {
      heap.swapAt(index, (index - 1) / 2)
      index = (index - 1) / 2
    }
  }

  private mutating func popFirst() -> Entry? {
    guard let first = heap.first, let last = heap.popLast() else { return nil }
    if heap.isEmpty { return first }
    heap[0] = last
    var index = 0
    while true {
      var child = 2 * index + 1
      if child + 1 < heap.count, heap[child + 1].precedes(heap[child]) { child += 1 }
      guard child < heap.count, heap[child].precedes(heap[index]) else { return first }
      heap.swapAt(index, child)
      index = child
    }
  }
}
