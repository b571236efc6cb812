// SPDX-License-Identifier: MIT
import Foundation
import RWKV
import RWKVFormat
import RWKVQuantization
import Testing

/// The trained models in examples against logits computed in float64 by tools/train/evaluate.py.
@Suite("Trained models")
struct TrainedModelTests {
  /// A folder of examples, and the name of the checkpoint in it.
  enum Trained: String, CaseIterable {
    case model = "rwkv7-docs-5m"
    case text = "rwkv7-docs-8m"

    func file(_ name: String) -> URL {
      URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../examples/\(self)/\(name)")
        .standardized
    }

    func converted(_ type: QuantizationType) throws -> Model {
      let path = try TemporaryFiles.shared.path(for: "trained-\(self)-\(type)") { path in
        try convert(file("\(rawValue).safetensors").path, to: path, type: type)
      }
      return try Model(path: path, threads: 2)
    }
  }

  @Test(arguments: Trained.allCases) func logitsMatchTheIndependentEvaluation(_ trained: Trained) throws {
    let ids = try JSONDecoder().decode([Int].self, from: Data(contentsOf: trained.file("tokens.json")))
    let expected = try readSafetensors(trained.file("expected.safetensors"), "logits")
    let session = try Session(trained.converted(.fp32), threads: 2)
    var logits: [Float] = []
    try session.forEachLogits(ids) { logits += $1 }
    #expect(logits.count == expected.count)
    #expect(distance(logits, expected) <= 2e-4)
  }

  /// Nats per byte of the first 4000 held-out bytes; four bits may cost 1 % of it.
  @Test func fourBitsKeepTheQuality() throws {
    let text = try Data(contentsOf: Trained.model.file("heldout.txt")).prefix(4001).map(Int.init)
    func nats(_ type: QuantizationType) throws -> Double {
      let session = try Session(Trained.model.converted(type), threads: 2)
      var sum = 0.0
      try session.forEachLogits(Array(text.dropLast())) { sum += crossEntropy($1, target: text[$0 + 1]) }
      return sum / Double(text.count - 1)
    }
    let exact = try nats(.fp32)
    #expect(exact < 1.4)
    #expect(try nats(.int4) < 1.01 * exact)
  }
}
