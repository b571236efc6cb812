// SPDX-License-Identifier: MIT
import RWKV
import RWKVFormat
import RWKVQuantization
import Testing

@testable import RWKVCheckpoint

/// Reading a checkpoint and running a model each say what tensors a version has: of every tensor they must say the
/// same.
@Suite("Assembly")
struct AssemblyTests {
  static let cases = [
    "v4-hf", "v50-std/model.safetensors", "v51-std/model.safetensors", "v52-hf", "v6-hf",
    "v7-oddlora/model.safetensors",
    "v7a-pth/model.pth", "v7b-std/model.safetensors", "x-one/model.pth", "emb-std/model.pth",
    "rerank-std/model.pth",
  ]

  @Test(arguments: cases)
  func checkpointsAndModelsHaveTheSameTensors(_ name: String) throws {
    let path = try #require(golden(name))
    let folder = TemporaryFolder()
    let file = folder.path + "/model.rwkv"
    var options = ConversionOptions()
    options.type = .fp32
    _ = try Conversion.convert(path, to: file, options)
    let (metadata, plans) = try (
      ModelFile(path: file).metadata, ModelFile(path: file).tensors.map { TensorPlan($0) }
    )
    let checkpoint = try Checkpoint(path: path)
    let sources = Dictionary(uniqueKeysWithValues: checkpoint.tensors.map { ($0.name, $0.source) })
    #expect(Set(sources.keys) == Set(plans.map(\.name)))
    func assembly(_ sources: [String: StoredTensor]) throws -> ModelAssembly {
      try ModelAssembly(
        version: checkpoint.version, kind: checkpoint.kind, sources: sources,
        claims: Claims(headSize: checkpoint.headSize), file: path)
    }
    func agree(_ change: String, _ sources: [String: StoredTensor], _ plans: [TensorPlan]) -> Bool {
      let isModel = Blueprint.problems(metadata, plans).isEmpty
      #expect(((try? assembly(sources)) != nil) == isModel, "\(change)")
      return isModel
    }
    #expect(agree("as it is", sources, plans))
    for plan in plans {
      var fewer = sources
      fewer[plan.name] = nil
      #expect(!agree("without \(plan.name)", fewer, plans.filter { $0 != plan }))
      // That is what is said, under one of its names where there are two, and nothing else is blamed.
      let names = [plan.name, plan.name.replacing("time_first", with: "time_faaaa")]
      #expect("without \(plan.name)") { try assembly(fewer) } throws: { error in
        "\(error)".contains("missing") && names.contains { "\(error)".contains("'\($0)'") }
      }
      // A row more in the file, where it is not that row which says how many tokens there are.
      if checkpoint.kind != .embedding || plan.name != "emb.weight" {
        var longer = sources
        longer[plan.name]?.shape[0] += 1
        let grown = plans.map { $0 == plan ? $0.with(rows: $0.rows + 1) : $0 }
        #expect(!agree("more rows of \(plan.name)", longer, grown))
      }
      // One of another name.
      var surplus = sources
      surplus[plan.name + "_"] = sources[plan.name]
      #expect(!agree("\(plan.name)_", surplus, plans + [plan.with(name: plan.name + "_")]))
    }
  }
}

extension TensorPlan {
  fileprivate func with(name: String? = nil, rows: Int? = nil) -> TensorPlan {
    var plan = self
    (plan.name, plan.rows) = (name ?? plan.name, rows ?? plan.rows)
    return plan
  }
}
