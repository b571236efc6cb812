// SPDX-License-Identifier: MIT
public import RWKV

/// A sampling option by the name that people type.
public enum SamplingSetting: String, CaseIterable, Sendable {
  case temperature
  case topP = "top-p"
  case topK = "top-k"
  case minP = "min-p"
  case presencePenalty = "presence-penalty"
  case frequencyPenalty = "frequency-penalty"
  case penaltyDecay = "penalty-decay"
  case seed
}

extension SamplingOptions {
  /// Sets an option from what was typed; false if that is not a number of the right kind. Ranges are checked later,
  /// by `Sampler`.
  public mutating func set(_ setting: SamplingSetting, _ text: String) -> Bool {
    func assign<Number: LosslessStringConvertible>(_ option: WritableKeyPath<SamplingOptions, Number>) -> Bool
    {
      guard let number = Number(text) else { return false }
      self[keyPath: option] = number
      return true
    }
    return switch setting {
    case .temperature: assign(\.temperature)
    case .topP: assign(\.topP)
    case .topK: assign(\.topK)
    case .minP: assign(\.minP)
    case .presencePenalty: assign(\.presencePenalty)
    case .frequencyPenalty: assign(\.frequencyPenalty)
    case .penaltyDecay: assign(\.penaltyDecay)
    case .seed: assign(\.seed)
    }
  }

  /// The value of an option as it would be typed.
  public func text(_ setting: SamplingSetting) -> String {
    switch setting {
    case .temperature: "\(temperature)"
    case .topP: "\(topP)"
    case .topK: "\(topK)"
    case .minP: "\(minP)"
    case .presencePenalty: "\(presencePenalty)"
    case .frequencyPenalty: "\(frequencyPenalty)"
    case .penaltyDecay: "\(penaltyDecay)"
    case .seed: "\(seed)"
    }
  }
}
