// SPDX-License-Identifier: MIT
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

  /// What other programs call it: `top_p`.
  public var key: String { String(rawValue.map { $0 == "-" ? "_" : $0 }) }
}

extension SamplingOptions {
  /// Sets an option from what was typed; false if that is not a number of the right kind. Ranges are checked later,
  /// by `Sampler`.
  public mutating func set(_ setting: SamplingSetting, _ text: String) -> Bool {
    if setting == .seed {
      guard let number = UInt64(text) else { return false }
      seed = number
      return true
    }
    return Double(text).map { set(setting, $0) } ?? false
  }

  /// Sets an option; false if it has to be a whole number and is not.
  public mutating func set(_ setting: SamplingSetting, _ number: Double) -> Bool {
    switch setting {
    case .temperature: temperature = number
    case .topP: topP = number
    case .topK:
      guard let whole = Int(exactly: number) else { return false }
      topK = whole
    case .minP: minP = number
    case .presencePenalty: presencePenalty = number
    case .frequencyPenalty: frequencyPenalty = number
    case .penaltyDecay: penaltyDecay = number
    case .seed:
      guard let whole = UInt64(exactly: number) else { return false }
      seed = whole
    }
    return true
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
