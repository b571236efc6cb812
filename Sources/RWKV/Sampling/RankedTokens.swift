// SPDX-License-Identifier: MIT
internal import CRWKVKernels

/// The more likely tokens of a vocabulary, from the highest logit to the lowest, equal logits by ascending id.
///
/// They are never sorted as a whole: of buckets of neighbouring logits the sums are known, and only the bucket in which
/// a cut or a draw ends is put in order.
struct RankedTokens: Sendable {
  private static let bucketCount = 1024

  private struct Bucket {
    var count = 0
    var weight = 0.0
    var tempered = 0.0
  }

  /// Ascending ids, their logits and e^(logit − maximum). Positions below are places in these lists.
  private var tokens: [Int32] = []
  private var logits: [Float] = []
  private var weights: [Double] = []
  private var count = 0
  private var maximum: Float = 0
  /// e^((logit − maximum) / temperature), where that is another number.
  private var tempered: [Double] = []
  private var isTempered = false
  private var sums: [Double] = []

  /// The bucket of the highest logits comes first.
  private var buckets = [Bucket](repeating: Bucket(), count: bucketCount)
  private var bucketsPerUnit = 0.0
  /// Positions of one bucket's tokens, in order.
  private var sorted: [Int32] = []
  private var found: [Int32] = []
  private var foundLogits: [Float] = []

  /// What the cut keeps: the buckets before `last`, and these positions of `last`, in order.
  private var last = 0
  private var ends: [Int32] = []
  /// Σ of what is kept, with the temperature.
  private var temperedSum = 0.0

  /// Takes the tokens from `lowest` to `maximum`, finite logits, that are at least `minP` times as likely as the first.
  mutating func gather(
    _ input: UnsafeBufferPointer<Float>, from lowest: Float, to maximum: Float, temperature: Double,
    minP: Double
  ) {
    if tokens.count < input.count { makeRoom(input.count) }
    self.maximum = maximum
    guard let base = input.baseAddress else { return }
    count = bestKernels.within(base, input.count, lowest, maximum, &tokens, &logits)
    bestKernels.softmax_terms(logits, count, maximum, 1, &weights, &sums)
    if minP > 0 { dropBelow(minP) }
    isTempered = temperature != 1
    if isTempered {
      if tempered.count < tokens.count { tempered = Array(repeating: 0, count: tokens.count) }
      bestKernels.softmax_terms(logits, count, maximum, LogitGroups.scale(temperature), &tempered, &sums)
    }
    let range = Double(maximum) - Double(lowest)
    bucketsPerUnit = range > 0 ? Double(Self.bucketCount) / range : 0
    fillBuckets()
  }

  private mutating func makeRoom(_ size: Int) {
    tokens = Array(repeating: 0, count: size)
    logits = Array(repeating: 0, count: size)
    weights = Array(repeating: 0, count: size)
    found = Array(repeating: 0, count: size)
    foundLogits = Array(repeating: 0, count: size)
    sums = Array(repeating: 0, count: size / LogitGroups.size + 1)
  }

  private mutating func dropBelow(_ minP: Double) {
    var kept = 0
    for position in 0..<count where weights[position] >= minP {
      tokens[kept] = tokens[position]
      logits[kept] = logits[position]
      weights[kept] = weights[position]
      kept += 1
    }
    count = kept
  }

  private mutating func fillBuckets() {
    let (count, maximum, scale) = (count, Double(maximum), bucketsPerUnit)
    let tempered = isTempered ? tempered : weights
    buckets.withUnsafeMutableBufferPointer { buckets in
      buckets.update(repeating: Bucket())
      for position in 0..<count {
        let number = Self.bucket(logits[position], maximum, scale)
        buckets[number].count += 1
        buckets[number].weight += weights[position]
        buckets[number].tempered += tempered[position]
      }
    }
  }

  /// Monotone: equal logits are in the same bucket, and a higher one is in no later bucket.
  @inline(__always)
  private static func bucket(_ logit: Float, _ maximum: Double, _ scale: Double) -> Int {
    Int(min((maximum - Double(logit)) * scale, Double(bucketCount - 1)))
  }

  /// Puts a bucket's tokens in order.
  private mutating func sort(_ number: Int) {
    // A little more than the bucket, because of rounding; the last one takes in what lies below.
    func bound(_ end: Double) -> Float { Float(Double(maximum) - end / bucketsPerUnit) }
    let isLast = bucketsPerUnit == 0 || number == Self.bucketCount - 1
    let low = isLast ? -.greatestFiniteMagnitude : bound(Double(number) + 1.001).nextDown
    let high = number == 0 ? maximum : bound(Double(number) - 0.001).nextUp
    let near = bestKernels.within(logits, count, low, high, &found, &foundLogits)
    sorted.removeAll(keepingCapacity: true)
    for place in 0..<near
    where Self.bucket(foundLogits[place], Double(maximum), bucketsPerUnit) == number {
      sorted.append(found[place])
    }
    sorted.sort {
      let (a, b) = (logits[Int($0)], logits[Int($1)])
      return a != b ? a > b : $0 < $1
    }
  }

  private func temperedWeight(_ position: Int32) -> Double {
    isTempered ? tempered[Int(position)] : weights[Int(position)]
  }

  /// Keeps the most likely tokens up to `limit`, or until their weights add up to `mass`, together with those as likely
  /// as the last one needed for it; the first in any case. Returns their number.
  mutating func cut(mass: Double, limit: Int) -> Int {
    var (kept, sum) = (0, 0.0)
    (last, temperedSum) = (0, 0)
    ends.removeAll(keepingCapacity: true)
    while last < Self.bucketCount && kept < limit && (kept == 0 || sum < mass) {
      let bucket = buckets[last]
      if kept + bucket.count > limit || sum + bucket.weight >= mass {
        sort(last)
        var logit = Float.nan
        for position in sorted {
          let next = logits[Int(position)]
          if kept == limit || (kept > 0 && sum >= mass && next != logit) { break }
          logit = next
          kept += 1
          sum += weights[Int(position)]
          temperedSum += temperedWeight(position)
          ends.append(position)
        }
        guard ends.count == bucket.count else { return kept }
        ends.removeAll(keepingCapacity: true)
      } else {
        kept += bucket.count
        sum += bucket.weight
        temperedSum += bucket.tempered
      }
      last += 1
    }
    return kept
  }

  /// The token that `share`, 0 ..< 1, of the sum falls on, from the most likely one on.
  mutating func token(at share: Double) -> Int {
    var rest = share * temperedSum
    for number in 0..<last {
      let sum = buckets[number].tempered
      if rest < sum {
        sort(number)
        if let token = token(at: rest, in: sorted) { return token }
      }
      rest -= sum
    }
    if let token = token(at: rest, in: ends) { return token }
    // Sums in another order differ in their last bits, so that there may be a rest behind the end. The first bucket
    // has the most likely token, whose weight is 1.
    for number in (0..<last).reversed() where buckets[number].tempered > 0 {
      sort(number)
      if let token = token(at: .infinity, in: sorted) { return token }
    }
    preconditionFailure("nothing has been cut")
  }

  private func token(at share: Double, in positions: [Int32]) -> Int? {
    var rest = share
    var token: Int?
    for position in positions where temperedWeight(position) > 0 {
      token = Int(tokens[Int(position)])
      rest -= temperedWeight(position)
      if rest < 0 { break }
    }
    return token
  }

  /// What is kept, with the probabilities of being drawn.
  func forEachProbability(_ body: (_ token: Int, _ probability: Double) -> Void) {
    for position in 0..<Int32(count) {
      let number = Self.bucket(logits[Int(position)], Double(maximum), bucketsPerUnit)
      guard number < last || (number == last && ends.contains(position)) else { continue }
      body(Int(tokens[Int(position)]), temperedWeight(position) / temperedSum)
    }
  }
}
