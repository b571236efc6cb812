// SPDX-License-Identifier: MIT
import ArgumentParser
import RWKVFormat
import RWKVQuantization
import Terminal

struct Show: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Shows what is in a .rwkv file.",
    discussion: """
      EXAMPLES
        rwkv-quantize show model.rwkv
        rwkv-quantize show model.rwkv --json
      """)

  @Argument(model: "A .rwkv file made by rwkv-quantize, or a name that rwkv-run list has.")
  var model: String

  @Flag(name: .customLong("json"), help: "One JSON object on stdout.")
  var asJSON = false

  func run() throws {
    try reporting {
      try requireFile(model, ending: ".rwkv")
      let summary = ModelSummary(try ModelFile(path: model))
      output(asJSON ? "\(summary.json(path: model))" : summary.text(path: model))
    }
  }
}

extension ModelSummary {
  /// "RWKV-7, 191.0 M parameters".
  var title: String {
    let count = Double(parameters)
    return "RWKV-\(version.uppercased()), " + (kind == "language" ? "" : "\(kind) model, ")
      + (count < 1e9 ? "\(decimal(count / 1e6, 1)) M parameters" : "\(decimal(count / 1e9, 2)) B parameters")
  }

  private var identityText: String {
    let digits = String(identity, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
  }

  /// What is shown to people.
  func text(path: String) -> String {
    let heads = headSize.map { ", \(embedding / max(1, $0)) heads of \($0)" } ?? ""
    var lines = [
      "\(path): \(title)",
      "  layers \(layers), embedding \(embedding), hidden \(ffn), vocabulary \(vocabulary)\(heads)",
      "  file \(size(fileBytes)), \(decimal(bitsPerWeight, 2)) bits per weight; "
        + "in memory \(size(rawBytes)), \(decimal(bitsPerWeightInMemory, 2)) bits per weight",
      "  tokenizer \(tokenizer ?? "none"), identity \(identityText)",
    ]
    if stateBytesPerToken > 0 {
      lines.append("  a state grows by \(size(stateBytesPerToken)) with each token")
    }
    lines.append("")
    var tables = table(
      [["format", "tensors", "parameters", "in the file", "in memory", "bits/weight"]]
        + formats.map { share in
          [
            share.format.name, "\(share.tensors)", "\(share.parameters)", size(share.storedBytes),
            size(share.rawBytes),
            decimal(8 * Double(share.storedBytes) / Double(share.parameters), 2),
          ]
        })
    tables.append("")
    tables += table(metadata.entries.map { [$0.key, $0.value.text] }, leftAligned: 2)
    lines += tables.map { $0.isEmpty ? "" : "  " + $0 }
    return lines.joined(separator: "\n")
  }

  /// One object; `more` members stand at its end.
  func json(path: String, more: [(String, JSON)] = []) -> JSON {
    let shares: [(String, JSON)] = formats.map { share in
      let bits = 8 * Double(share.storedBytes) / Double(share.parameters)
      return (
        share.format.name,
        .object([
          ("tensors", .integer(share.tensors)), ("parameters", .integer(share.parameters)),
          ("stored_bytes", .integer(share.storedBytes)), ("raw_bytes", .integer(share.rawBytes)),
          ("bits_per_weight", .number(bits, decimals: 4)),
        ])
      )
    }
    return .object(
      [
        ("model", .string(path)), ("version", .string(version)), ("kind", .string(kind)),
        ("layers", .integer(layers)),
        ("embedding", .integer(embedding)), ("vocabulary", .integer(vocabulary)), ("ffn", .integer(ffn)),
        ("head_size", headSize.map { .integer($0) } ?? .null), ("parameters", .integer(parameters)),
        ("file_bytes", .integer(fileBytes)), ("bits_per_weight", .number(bitsPerWeight, decimals: 4)),
        ("memory_bytes", .integer(rawBytes)), ("state_bytes_per_token", .integer(stateBytesPerToken)),
        ("memory_bits_per_weight", .number(bitsPerWeightInMemory, decimals: 4)), ("formats", .object(shares)),
        ("tokenizer", tokenizer.map { .string($0) } ?? .null), ("identity", .string(identityText)),
        ("metadata", .object(metadata.entries.map { ($0.key, $0.value.json) })),
      ] + more)
  }
}

extension MetadataValue {
  var text: String {
    switch self {
    case .bool(let value): "\(value)"
    case .integer(let value): "\(value)"
    case .number(let value): "\(value)"
    case .string(let value): value.replacing("\n", with: "\\n")
    case .integers(let values): values.map(String.init).joined(separator: ", ")
    }
  }

  var json: JSON {
    switch self {
    case .bool(let value): .bool(value)
    case .integer(let value): .integer(Int(value))
    case .number(let value): .exactNumber(value)
    case .string(let value): .string(value)
    case .integers(let values): .array(values.map { .integer(Int($0)) })
    }
  }
}
