// SPDX-License-Identifier: MIT
import Foundation
import RWKV
import RWKVFormat
import RWKVQuantization
import Testing

/// The hybrid's sparse attention against the reference's token-by-token runs.
@Suite("RWKV-X")
struct RWKVXTests {
  /// A run of a case: attention options and the positions whose logits the reference saved.
  struct Run: CustomTestStringConvertible, Sendable {
    let golden: Golden
    let name: String
    var testDescription: String { "\(golden.name) \(name)" }

    /// The case's attention options, with those of the run.
    func parameters() throws -> [String: Any] {
      let root = try #require(try golden.json("case.json") as? [String: Any])
      var merged = try #require(root["config"] as? [String: Any])
      let runs = try #require(root["runs"] as? [String: [String: Any]])
      merged.merge(try #require(runs[name])) { $1 }
      merged["saved_positions"] = root["saved_positions"]
      return merged
    }

    func model(_ type: QuantizationType = .fp32) throws -> Model {
      let parameters = try parameters()
      var metadata: [(key: String, value: MetadataValue)] = []
      for (ours, theirs) in [
        ("chunk_size", "chunk_size"), ("top_k", "topk"), ("max_kv_cache", "max_kv_cache_size"),
        ("min_kv_cache", "min_kv_cache_size"), ("kv_window", "kv_cache_window_size"),
      ] {
        metadata.append(("rwkv.x.\(ours)", .integer(Int64(try #require(parameters[theirs] as? Int)))))
      }
      metadata.append(("rwkv.x.mode", .string(name == "decode_full" ? "full" : "sparse")))
      let path = try TemporaryFiles.shared.path(for: "\(golden.name)-\(name)-\(type)") { path in
        try convert(golden.checkpoint.path, to: path, type: type, metadata: metadata)
      }
      return try Model(path: path, threads: 1)
    }
  }

  static let runs = Golden.cases("x-").flatMap { golden in
    ["decode", "decode_full", "decode_evict"].map { Run(golden: golden, name: $0) }
  }

  @Test(arguments: runs)
  func matchesTheReferenceHoweverThePromptIsCut(_ run: Run) throws {
    let model = try run.model()
    let V = model.configuration.vocabulary
    let tokens = try run.golden.tokens
    let expected = try run.golden.expected("\(run.name).logits")
    let positions = try #require(try run.parameters()["saved_positions"] as? [Int])
    for (threads, step) in [(1, 1), (2, tokens.count), (2, 7)] {
      let session = try Session(model, threads: threads)
      var logits: [[Float]] = []
      for start in stride(from: 0, to: tokens.count, by: step) {
        try session.forEachLogits(Array(tokens[start..<min(start + step, tokens.count)])) {
          logits.append(Array($1))
        }
      }
      for (row, position) in positions.enumerated() {
        let reference = expected[row * V..<(row + 1) * V]
        #expect(distance(logits[position], reference) <= (try run.golden.tolerance), "position \(position)")
      }
    }
  }

  /// What a loaded state chooses its chunks by is made when it is loaded.
  @Test(arguments: runs)
  func savedStatesGoOnBeyondTheWindow(_ run: Run) throws {
    let model = try run.model()
    let tokens = try run.golden.tokens
    // The first is within the window, the others beyond it; 96 ends a chunk.
    for count in [9, 59, 96, 101] {
      let session = try Session(model, threads: 1)
      try session.prefill(Array(tokens.prefix(count)))
      let loaded = try model.loadState(bytes: session.state.encoded()).state
      let continued = try Session(model, state: loaded, threads: 1)
      for token in tokens.dropFirst(count) {
        try session.decode(token)
        try continued.decode(token)
        #expect(continued.logits.map(\.bitPattern) == session.logits.map(\.bitPattern))
      }
    }
  }
}
