// SPDX-License-Identifier: MIT

/// A checkpoint that is worth having, as models.txt lists it.
struct RecommendedModel {
  let name: String
  /// The type to convert it to, as for `--type`.
  let type: String
  /// What is read over the network [bytes].
  let downloadBytes: Int
  /// What it takes while it runs [bytes].
  let memoryBytes: Int
  let checkpoint: String
  let vocabulary: String

  private init?(line: Substring) {
    let fields = line.split(separator: " ").map(String.init)
    guard fields.count == 6, let network = Int(fields[2]), let memory = Int(fields[3]) else { return nil }
    (name, type, downloadBytes, memoryBytes) = (fields[0], fields[1], network * 1_000_000, memory * 1_000_000)
    (checkpoint, vocabulary) = (fields[4], fields[5])
  }

  static let all = String(decoding: PackageResources.models_txt, as: UTF8.self).split(separator: "\n")
    .filter { !$0.hasPrefix("#") }.compactMap(RecommendedModel.init)
}
