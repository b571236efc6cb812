// SPDX-License-Identifier: MIT
import Foundation
import RWKV
import RWKVFormat
import RWKVQuantization
import Testing

/// The trained model in examples/model against logits computed in float64 by tools/train/evaluate.py.
@Suite("Trained model")
struct TrainedModelTests {
  static let folder = URL(filePath: #filePath).deletingLastPathComponent().appending(
    path: "../../examples/model"
  )
  .standardized

  private func model(_ type: QuantizationType) throws -> Model {
    let path = try TemporaryFiles.shared.path(for: "trained-\(type)") { path in
      try convert(Self.folder.appending(path: "rwkv7-docs-5m.safetensors").path, to: path, type: type)
    }
    return try Model(path: path, threads: 2)
  }

  @Test func logitsMatchTheIndependentEvaluation() throws {
    let ids = try JSONDecoder().decode(
      [Int].self, from: Data(contentsOf: Self.folder.appending(path: "tokens.json")))
    let expected = try readSafetensors(Self.folder.appending(path: "expected.safetensors"), "logits")
    let session = try Session(model(.fp32), threads: 2)
    var logits: [Float] = []
    try session.forEachLogits(ids) { logits += $1 }
    #expect(logits.count == expected.count)
    #expect(distance(logits, expected) <= 2e-4)
  }

  /// Nats per byte of the first 4000 held-out bytes; four bits may cost 1 % of it.
  @Test func fourBitsKeepTheQuality() throws {
    let text = try Data(contentsOf: Self.folder.appending(path: "heldout.txt")).prefix(4001).map(Int.init)
    func nats(_ type: QuantizationType) throws -> Double {
      let session = try Session(model(type), threads: 2)
      var sum = 0.0
      try session.forEachLogits(Array(text.dropLast())) { sum += crossEntropy($1, target: text[$0 + 1]) }
      return sum / Double(text.count - 1)
    }
    let exact = try nats(.fp32)
    #expect(exact < 1.4)
    #expect(try nats(.int4) < 1.01 * exact)
  }
}
