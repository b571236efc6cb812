// SPDX-License-Identifier: MIT
internal import RWKVFormat

/// What somebody recommends or asks for: how tokens are chosen, and what ends a text. What is not in it is left to
/// others.
public struct SamplingAdvice: Sendable, Equatable {
  /// The options about which something is said.
  public var values: [SamplingSetting: Double] = [:]
  /// Strings that end a text; nil if nothing is said about them.
  public var stops: [String]?

  /// Makes advice; by default it says nothing.
  public init(values: [SamplingSetting: Double] = [:], stops: [String]? = nil) {
    self.values = values
    self.stops = stops
  }
}

/// Where the value of an option comes from; the first that has one decides.
public enum SamplingOrigin: String, CaseIterable, Sendable {
  /// Whoever calls: the command line, the program.
  case given
  /// What is stored in the model's file.
  case file
  case template
  /// Temperature 1, top-p 0.85, no penalties.
  case standard
}

/// How tokens are chosen and what ends a text, and who said so.
public struct SamplingChoice: Sendable {
  /// The options that result.
  public var options = SamplingOptions()
  /// Who decided each option.
  public private(set) var origins: [SamplingSetting: SamplingOrigin] = [:]
  /// Strings that end a text.
  public let stops: [String]
  /// Who named each of `stops`.
  public let stopOrigins: [SamplingOrigin]

  /// - Parameters:
  ///   - given: what the caller asks for.
  ///   - model: whose file may have a recommendation.
  ///   - template: how a conversation is written. Its stop strings belong to that: they stand beside those of the file,
  ///     unless the caller names others.
  public init(
    given: SamplingAdvice = SamplingAdvice(), model: Model, template: SamplingAdvice = SamplingAdvice()
  ) {
    let file = model.samplingAdvice
    for setting in SamplingSetting.allCases {
      origins[setting] = .standard
      // The last to set it is the first that is asked.
      for (origin, advice) in [(SamplingOrigin.template, template), (.file, file), (.given, given)] {
        if let number = advice.values[setting], options.set(setting, number) { origins[setting] = origin }
      }
    }
    if let stops = given.stops {
      self.stops = stops
      stopOrigins = stops.map { _ in .given }
    } else {
      let own = file.stops ?? []
      let others = (template.stops ?? []).filter { !own.contains($0) }
      stops = own + others
      stopOrigins = own.map { _ in .file } + others.map { _ in .template }
    }
  }

  /// Sets an option from what was typed; false if that is not a number of the right kind.
  public mutating func set(_ setting: SamplingSetting, _ text: String) -> Bool {
    guard options.set(setting, text) else { return false }
    origins[setting] = .given
    return true
  }
}

extension Model {
  /// What the model's publisher recommends, if the file has it: `generation.temperature`, … and `generation.stop.0`, …
  public var samplingAdvice: SamplingAdvice {
    var advice = SamplingAdvice()
    for setting in SamplingSetting.allCases where setting != .seed {
      advice.values[setting] = metadata.number("generation." + setting.key)
    }
    var stops: [String] = []
    while let stop = metadata.string("generation.stop.\(stops.count)") { stops.append(stop) }
    if !stops.isEmpty { advice.stops = stops }
    return advice
  }
}
