// SPDX-License-Identifier: MIT
internal import CRWKVKernels
import Glibc

/// ln p of a vocabulary's tokens under a softmax, in nats, summed in double precision.
public struct LogProbabilities {
  private let logits: UnsafeBufferPointer<Float>
  private var groups = LogitGroups()
  /// ln Σ e^logit; not a number if a logit is NaN or +∞.
  private let normalizer: Double

  /// - Parameter logits: one for each token, [V]; they must stay valid.
  public init(_ logits: UnsafeBufferPointer<Float>) {
    self.logits = logits
    guard groups.findMaxima(logits), groups.maximum > -.infinity else {
      normalizer = .nan
      return
    }
    normalizer = log(groups.sum(logits, scale: 1)) + Double(groups.maximum)
  }

  /// The natural logarithm of the probability of a token.
  public subscript(token: Int) -> Double { Double(logits[token]) - normalizer }

  /// The `count` most likely tokens in descending order, equal ones by ascending id; all, if there are fewer.
  public mutating func likeliest(_ count: Int) -> [Int] {
    guard count > 0, !normalizer.isNaN, let base = logits.baseAddress else { return [] }
    let lowest = max(groups.reached(byAtLeast: count), -.greatestFiniteMagnitude)
    var tokens = [Int32](repeating: 0, count: logits.count)
    var found = [Float](repeating: 0, count: logits.count)
    let near = bestKernels.within(
      base, logits.count, lowest, groups.maximum, &tokens, &found)
    let order = (0..<near).sorted { found[$0] != found[$1] ? found[$0] > found[$1] : $0 < $1 }
    return order.prefix(count).map { Int(tokens[$0]) }
  }
}
