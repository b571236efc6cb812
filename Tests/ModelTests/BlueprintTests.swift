// SPDX-License-Identifier: MIT
import RWKV
import RWKVFormat
import Testing

/// The two lists of a version's tensors, of checkpoints (`ModelAssembly`) and of model files (`Blueprint`), are one.
@Suite("Blueprints")
struct BlueprintTests {
  static let cases = Golden.cases("v") + Golden.cases("x")

  @Test func everyVersionIsTested() throws {
    let versions = try Self.cases.map { try $0.model().configuration.version }
    #expect(Set(versions) == Set(Version.allCases))
  }

  /// Version 6 stacks matrices of D rows in panels of 16 rows; one that begins within a panel cannot be opened.
  @Test func stackedMatricesOfVersion6AreWholePanels() throws {
    let file = try ModelFile(path: #require(Golden.cases("v6").first).model().path)
    var metadata = file.metadata
    (metadata["rwkv.embedding"], metadata["rwkv.head_size"]) = (.integer(72), .integer(8))
    let problems = Blueprint.problems(metadata, file.tensors.map(TensorPlan.init))
    #expect(problems.count == 1 && problems.contains { "\($0)".contains("is 72, expected a multiple of 16") })
  }

  /// A file has what was taken from a checkpoint. None of it is too much, and none of it can be left out.
  @Test(arguments: cases)
  func asksForWhatCheckpointsHaveAndForNothingElse(_ golden: Golden) throws {
    let file = try ModelFile(path: golden.model().path)
    let tensors = file.tensors.map(TensorPlan.init)
    #expect(Blueprint.problems(file.metadata, tensors).isEmpty)
    for (index, tensor) in tensors.enumerated() where tensor.name != "tokenizer" {
      var others = tensors
      others.remove(at: index)
      let problems = Blueprint.problems(file.metadata, others)
      #expect(problems.count == 1)
      guard case .missingTensor(let name)? = problems.first?.reason else {
        Issue.record("\(tensor.name) is not missed: \(problems)")
        continue
      }
      // Version 5 has one of two names for the same thing.
      let (old, new) = (".time_first", ".time_faaaa")
      #expect(name == tensor.name || (name.hasSuffix(new) && tensor.name.hasSuffix(old)))
    }
  }
}
