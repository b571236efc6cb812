// SPDX-License-Identifier: MIT
import RWKVFormat

/// What a `generation_config.json` beside a checkpoint recommends. None of it can stop a conversion.
public struct GenerationConfig: Sendable, Equatable {
  /// Numbers by their names in the file: `temperature`, `top_p`, …
  public private(set) var numbers: [String: Double] = [:]
  /// Texts that end an answer.
  public private(set) var stops: [String] = []
  /// What cannot be followed, one sentence each.
  public private(set) var notes: [String] = []

  /// Settings that would change what is written and have no counterpart here, with the values that change nothing.
  private static let others: [(key: String, neutral: [Double])] = [
    ("repetition_penalty", [1]), ("encoder_repetition_penalty", [1]), ("typical_p", [1]), ("num_beams", [1]),
    ("no_repeat_ngram_size", [0]), ("epsilon_cutoff", [0]), ("eta_cutoff", [0]), ("length_penalty", [1]),
    ("diversity_penalty", [0]),
  ]
  private static let mostStops = 64
  private static let longestStop = 1024

  init() {}

  /// Reads the file at `path`, if it is there.
  init(path: String) {
    do {
      guard case .object(let members, _) = try InputFile(path: path).config() else {
        notes = ["\(path) is no JSON object: its recommendations are left out"]
        return
      }
      read(members, path)
    } catch {
      notes = ["its recommendations are left out: \(error)"]
    }
  }

  private mutating func read(_ members: [String: JSON], _ path: String) {
    for (key, value) in members {
      if let number = value.double, number.isFinite { numbers[key] = number }
    }
    // Without a draw the likeliest token is taken, whatever else is said.
    if members["do_sample"] == .bool(false) { numbers["temperature"] = 0 }
    for (key, neutral) in Self.others {
      if let number = numbers[key], !neutral.contains(number) {
        notes.append("\(path): '\(key)' has no counterpart here and is left out")
      }
    }
    let texts: [JSON]? = members["stop_strings"].flatMap { $0.string.map { [.string($0)] } ?? $0.array }
    for text in (texts ?? []).compactMap(\.string) where !text.isEmpty && !stops.contains(text) {
      guard stops.count < Self.mostStops, text.utf8.count <= Self.longestStop, !text.utf8.contains(0) else {
        notes.append("\(path): the stop string \(quoted(text)) is left out: too many, too long, or with NUL")
        continue
      }
      stops.append(text)
    }
    notes.sort()
  }
}
