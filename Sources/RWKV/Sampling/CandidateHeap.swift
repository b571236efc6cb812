// SPDX-License-Identifier: MIT
/// Hands out tokens from the highest logit to the lowest, equal logits by ascending id.
///
/// A cut looks at the few most likely of many tokens, so a heap (O(n) to build, O(log n) each) beats a sort.
struct CandidateHeap: Sendable {
  struct Candidate: Sendable {
    let logit: Float
    let token: Int32

    @inline(__always)
    func precedes(_ other: Candidate) -> Bool {
      logit != other.logit ? logit > other.logit : token < other.token
    }
  }

  private var storage: [Candidate] = []

  var first: Candidate? { storage.first }

  /// Starts anew without giving memory back; candidates may be added until `build` is called.
  mutating func removeAll() { storage.removeAll(keepingCapacity: true) }

  mutating func add(_ logit: Float, _ token: Int) {
    storage.append(Candidate(logit: logit, token: Int32(token)))
  }

  mutating func build() {
    storage.withUnsafeMutableBufferPointer { storage in
      for index in (0..<storage.count / 2).reversed() { Self.sink(index, in: storage) }
    }
  }

  mutating func popFirst() -> Candidate? {
    guard let last = storage.popLast() else { return nil }
    guard let first = storage.first else { return last }
    storage[0] = last
    storage.withUnsafeMutableBufferPointer { Self.sink(0, in: $0) }
    return first
  }

  /// Moves an element down until both its children come after it.
  private static func sink(_ start: Int, in storage: UnsafeMutableBufferPointer<Candidate>) {
    var index = start
    let moved = storage[index]
    while true {
      var child = 2 * index + 1
      guard child < storage.count else { break }
      if child + 1 < storage.count, storage[child + 1].precedes(storage[child]) { child += 1 }
      guard storage[child].precedes(moved) else { break }
      storage[index] = storage[child]
      index = child
    }
    storage[index] = moved
  }
}
