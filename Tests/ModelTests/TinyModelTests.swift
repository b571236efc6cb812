// SPDX-License-Identifier: MIT
import Foundation
import RWKV
import RWKVFormat
import RWKVQuantization
import Testing

/// Three small trained models and the logits that rwkv.cpp expects of them after the prompt `"in`.
///
/// They are another project's data and not part of this repository: without ../shared there is nothing to run.
@Suite("Trained tiny models")
struct TinyModelTests {
  struct Tiny: CustomTestStringConvertible, Sendable {
    let name: String
    let file: String
    /// Group-norm epsilon where the source does not imply it.
    var epsilon: Double?
    var testDescription: String { file }
  }

  static let folder = URL(filePath: #filePath).deletingLastPathComponent()
    .appending(path: "../../../shared/tiny-rwkv").standardized

  static let models = [
    Tiny(name: "4v0-660K", file: "tiny-rwkv-4v0-660K.safetensors"),
    Tiny(name: "5v2-730K", file: "tiny-rwkv-5v2-730K.safetensors", epsilon: 1e-5),
    Tiny(name: "7v0-834K", file: "tiny-rwkv-7v0-834K.safetensors"),
    Tiny(name: "4v0-660K", file: "tiny-rwkv-4v0-660K-FP32.bin"),
    Tiny(name: "5v2-730K", file: "tiny-rwkv-5v2-730K-FP32.bin"),
    Tiny(name: "7v0-834K", file: "tiny-rwkv-7v0-834K-FP32.bin"),
  ].filter { FileManager.default.fileExists(atPath: folder.appending(path: $0.file).path) }

  @Test(arguments: models)
  func logitsMatchThePublishedOnes(_ tiny: Tiny) throws {
    let path = try TemporaryFiles.shared.path(for: tiny.file) { path in
      try convert(
        Self.folder.appending(path: tiny.file).path, to: path, type: .fp32,
        metadata: tiny.epsilon.map { [("rwkv.group_norm_epsilon", .number($0))] } ?? [])
    }
    let bytes = try Data(contentsOf: Self.folder.appending(path: "expected-logits-\(tiny.name).bin"))
    let expected = bytes.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
    let model = try Model(path: path, threads: 1)
    for prefill in [true, false] {
      let session = try Session(model, threads: 2)
      let prompt = Array("\"in".utf8).map(Int.init)
      if prefill { try session.prefill(prompt) } else { for token in prompt { try session.decode(token) } }
      #expect(expected.count == session.logits.count)
      #expect(distance(session.logits, expected) <= 1e-4)
    }
  }
}
