// SPDX-License-Identifier: MIT
import Glibc

/// What a file's writer had done to the values of a tensor.
enum ValueTransform: Sendable, Equatable {
  case none
  /// Stored exp(x).
  case exponential
  /// Stored −exp(x).
  case negativeExponential
  /// Stored exp(−exp(x)).
  case decay
  /// Stored x divided by a power of two.
  case divided(by: Float)
  /// The file does not have the tensor; all of its values are zero.
  case absent

  /// Gives back the checkpoint's own values. Stored results that lost their argument (exp(−exp(x)) rounded to
  /// 0 or 1) become finite arguments with the same result.
  func undo(_ values: UnsafeMutableBufferPointer<Float>) {
    switch self {
    case .none: return
    case .absent: values.update(repeating: 0)
    case .exponential: for i in values.indices { values[i] = Float(log(Double(values[i]))) }
    case .negativeExponential: for i in values.indices { values[i] = Float(log(-Double(values[i]))) }
    case .decay:
      for i in values.indices {
        let decay = Double(values[i])
        values[i] = decay == 1 ? -20 : decay == 0 ? 5 : Float(log(-log(decay)))
      }
    case .divided(let divisor): for i in values.indices { values[i] *= divisor }
    }
  }
}
