import Glibc

/// −ln p(target) of a softmax over `logits`, in nats, summed in double precision.
public func crossEntropy(_ logits: UnsafeBufferPointer<Float>, target: Int) -> Double {
  let maximum = Double(logits.max() ?? 0)
  var sum = 0.0
  for logit in logits { sum += exp(Double(logit) - maximum) }
  return log(sum) + maximum - Double(logits[target])
}
