// SPDX-License-Identifier: MIT
import Glibc

/// −ln p(target) of a softmax over `logits`, in nats, summed in double precision.
public func crossEntropy(_ logits: UnsafeBufferPointer<Float>, target: Int) -> Double {
  -LogProbabilities(logits)[target]
}

/// KL(reference ‖ model) of two softmax distributions in nats: Σ p ln(p / q), summed in double precision.
public func divergence(_ reference: UnsafeBufferPointer<Float>, _ model: UnsafeBufferPointer<Float>) -> Double
{
  precondition(reference.count == model.count)
  let (p0, q0) = (Double(reference.max() ?? 0), Double(model.max() ?? 0))
  var (pSum, qSum, difference) = (0.0, 0.0, 0.0)
  for (p, q) in zip(reference, model) {
    let weight = exp(Double(p) - p0)
    pSum += weight
    qSum += exp(Double(q) - q0)
    difference += weight * ((Double(p) - p0) - (Double(q) - q0))
  }
  return difference / pSum - log(pSum) + log(qSum)
}

/// How well logits predict a token.
public struct TokenScore: Sendable, Equatable {
  /// ln p(target) of a softmax over the logits.
  public var logProbability = 0.0
  /// The token with the largest logit, the first of equals.
  public var mostLikely = 0
}

extension TokenScore {
  init(_ logits: UnsafeBufferPointer<Float>, target: Int) {
    var best = 0
    for (token, logit) in logits.enumerated() where logit > logits[best] { best = token }
    self.init(logProbability: -crossEntropy(logits, target: target), mostLikely: best)
  }
}
