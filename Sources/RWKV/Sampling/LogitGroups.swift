// SPDX-License-Identifier: MIT
internal import CRWKVKernels

/// Sums and maxima of a vocabulary's logits, by groups of 64: what tells most tokens apart without looking at each.
struct LogitGroups: Sendable {
  static let size = Int(RK_LOGIT_GROUP)
  /// The largest logit of each group.
  private(set) var maxima: [Float] = []
  /// Σ e^((logit − maximum) · scale) of each group.
  private(set) var sums: [Double] = []
  /// The largest logit of all.
  private(set) var maximum = -Float.infinity
  /// The least that is not −∞.
  private(set) var minimum = Float.infinity
  private var heap = CandidateHeap()

  /// Looks for the maxima. False if a logit is NaN or +∞.
  mutating func findMaxima(_ logits: UnsafeBufferPointer<Float>) -> Bool {
    resize(logits.count)
    guard let base = logits.baseAddress, !logits.isEmpty else {
      maximum = -.infinity
      return true
    }
    let isFinite = bestKernels.maxima(base, logits.count, &maxima, &minimum) != 0
    maximum = maxima.reduce(-.infinity) { $1 > $0 ? $1 : $0 }
    return isFinite
  }

  /// 1 / temperature; finite, because infinity times 0 is not a number.
  static func scale(_ temperature: Double) -> Double { min(1 / temperature, .greatestFiniteMagnitude) }

  /// Σ e^((logit − maximum) · scale), once the maxima are known and finite.
  mutating func sum(_ logits: UnsafeBufferPointer<Float>, scale: Double) -> Double {
    guard let base = logits.baseAddress else { return 0 }
    bestKernels.softmax_terms(base, logits.count, maximum, scale, nil, &sums)
    return sums.reduce(0, +)
  }

  /// Σ e^(logit − maximum), off by less than `sumError` of it, in a fifth of the time.
  func estimatedSum(_ logits: UnsafeBufferPointer<Float>) -> Double {
    logits.baseAddress.map { bestKernels.sum_exp($0, logits.count, maximum) } ?? 0
  }

  static let sumError = 0x1p-15

  /// The lowest id with the largest logit.
  func mostLikely(_ logits: UnsafeBufferPointer<Float>) -> Int {
    let start = (maxima.firstIndex(of: maximum) ?? 0) * Self.size
    return logits[start...].firstIndex(of: maximum) ?? 0
  }

  /// A logit that at least `count` tokens reach: each of so many groups has one. −∞ if there are fewer groups.
  mutating func reached(byAtLeast count: Int) -> Float {
    guard count <= maxima.count else { return -.infinity }
    heap.removeAll()
    for (group, logit) in maxima.enumerated() { heap.add(logit, group) }
    heap.build()
    for _ in 1..<max(count, 1) { _ = heap.popFirst() }
    return heap.first?.logit ?? -.infinity
  }

  private mutating func resize(_ count: Int) {
    let groups = (count + Self.size - 1) / Self.size
    guard groups != maxima.count else { return }
    maxima = Array(repeating: 0, count: groups)
    sums = Array(repeating: 0, count: groups)
  }
}
