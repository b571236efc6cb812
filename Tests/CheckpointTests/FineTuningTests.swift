// SPDX-License-Identifier: MIT
import Testing

@testable import RWKVCheckpoint

@Suite("Fine-tuning")
struct FineTuningTests {
  private let base = goldens + "/v7-std/model.safetensors"
  private let folder = TemporaryFolder()

  /// A LoRA tensor of small distinct values.
  private func draft(_ name: String, _ shape: [Int]) -> Draft {
    let count = shape.reduce(1, *)
    return Draft(name, shape, (0..<count).map { Float(($0 * 37 + shape[0]) % 23 - 11) / 64 })
  }

  private func numbers(_ draft: Draft) -> [Float] {
    stride(from: 0, to: draft.bytes.count, by: 4).map { start in
      Float(bitPattern: draft.bytes[start..<start + 4].reversed().reduce(0) { $0 << 8 | UInt32($1) })
    }
  }

  /// W + alpha / rank · B A, for a matrix in its own orientation and for one that our file has transposed; and with
  /// factors that torch saved as transposed views.
  @Test(arguments: ["att.key", "ffn.value"])
  func loraIsAdded(name: String) throws {
    let checkpoint = try Checkpoint(path: base)
    let full = "blocks.1.\(name)"
    let tensor = try #require(checkpoint.tensors.first { $0.name == full + ".weight" })
    let (outputs, inputs) = (tensor.source.shape[0], tensor.source.shape[1])
    let (a, b) = (draft(full + ".lora_A", [4, inputs]), draft(full + ".lora_B", [outputs, 4]))
    let path = folder.write("lora.safetensors", safetensors([a, b]))
    let merged = try Checkpoint(
      path: base, fineTuning: FineTuning(lora: FineTuning.LoRA(path: path, alpha: 10)))

    #expect(merged.tensors.map(\.name) == checkpoint.tensors.map(\.name))
    #expect(merged.tensors.filter(\.isUpdated).map(\.name) == [full + ".weight"])
    let before = try wholeValues(checkpoint, tensor)
    let updated = try #require(merged.tensors.first { $0.isUpdated })
    let after = try wholeValues(merged, updated)
    let (x, y) = (numbers(a), numbers(b))
    for row in 0..<tensor.rows {
      for column in 0..<tensor.columns {
        let (output, input) = tensor.transposed ? (column, row) : (row, column)
        let sum = (0..<4).reduce(0) { $0 + Double(y[output * 4 + $1]) * Double(x[$1 * inputs + input]) }
        let index = row * tensor.columns + column
        let expected = Double(before[index]) + 2.5 * sum
        #expect(abs(Double(after[index]) - expected) < 1e-5)
      }
    }
  }

  private func wholeValues(_ checkpoint: Checkpoint, _ tensor: CheckpointTensor) throws -> [Float] {
    let whole = try values(checkpoint, tensor)
    #expect(try values(checkpoint, tensor, step: 7) == whole)
    return whole
  }

  /// What a LoRA file has beside its pairs replaces the checkpoint's tensors, as the authors' merge does.
  @Test func otherTensorsReplace() throws {
    let name = "blocks.0.att.key"
    let path = folder.write(
      "lora.safetensors",
      safetensors([
        draft(name + ".lora_A", [2, 128]), draft(name + ".lora_B", [128, 2]), draft("ln_out.weight", [128]),
      ]))
    let merged = try Checkpoint(
      path: base, fineTuning: FineTuning(lora: FineTuning.LoRA(path: path, alpha: 2)))
    let norm = try #require(merged.tensors.first { $0.name == "ln_out.weight" })
    #expect(try values(merged, norm) == numbers(draft("ln_out.weight", [128])))
  }

  private func expectFailure(
    _ tuning: FineTuning, _ words: String..., location: SourceLocation = #_sourceLocation
  ) {
    do throws(CheckpointError) {
      _ = try Checkpoint(path: base, fineTuning: tuning)
      Issue.record("merged", sourceLocation: location)
    } catch {
      #expect(error.kind == .mismatch, "\(error)", sourceLocation: location)
      for word in words { #expect(error.description.contains(word), "\(error)", sourceLocation: location) }
    }
  }

  @Test func lorasThatDoNotFitAreRefused() {
    func lora(_ drafts: Draft...) -> FineTuning {
      FineTuning(
        lora: FineTuning.LoRA(path: folder.write("lora.safetensors", safetensors(drafts)), alpha: 16))
    }
    let key = "blocks.0.att.key"
    expectFailure(lora(draft(key + ".lora_A", [4, 128])), "blocks.0.att.key.lora_A", "stands alone")
    expectFailure(
      lora(draft(key + ".lora_A", [4, 64]), draft(key + ".lora_B", [128, 4])), "does not fit its matrix",
      "128×4", "4×64", "128×128")
    expectFailure(
      lora(draft(key + ".lora_A", [4, 128]), draft(key + ".lora_B", [128, 8])), "does not fit its matrix")
    for rows in [64, 127, 129, 256] {
      expectFailure(
        lora(draft(key + ".lora_A", [4, 128]), draft(key + ".lora_B", [rows, 4])),
        "does not fit its matrix", "\(rows)×4", "128×128")
    }
    expectFailure(
      lora(draft("blocks.9.att.key.lora_A", [4, 128]), draft("blocks.9.att.key.lora_B", [128, 4])),
      "belongs to no tensor", "blocks.9.att.key.weight")
    expectFailure(lora(draft("ln_out.weight", [128])), "has no LoRA")
  }

  // MARK: States

  private func states(layers: Range<Int> = 0..<3, shape: [Int] = [2, 64, 64]) -> String {
    folder.write(
      "state.safetensors", safetensors(layers.map { draft("blocks.\($0).att.time_state", shape) }))
  }

  @Test func statesAreRead() throws {
    let read = try TimeStates.read(path: states())
    #expect(read.count == 3)
    #expect(read[2] == numbers(draft("blocks.2.att.time_state", [2, 64, 64])))
    let merged = try Checkpoint(path: base, fineTuning: FineTuning(state: states()))
    #expect(merged.tensors.filter { $0.role == .state }.map(\.name).count == 3)
  }

  @Test func statesThatDoNotFitAreRefused() {
    expectFailure(FineTuning(state: base), "is no state-tuned file")
    expectFailure(FineTuning(state: states(shape: [2, 32, 64])), "2×32×64")
    expectFailure(FineTuning(state: states(shape: [1, 64, 64])), "blocks.0.att.time_state", "1×64×64")
    expectFailure(FineTuning(state: states(layers: 0..<4)), "larger model", "4 layers", "3")
    expectFailure(FineTuning(state: states(layers: 0..<2)), "lacks the state of layer 2")
    expectFailure(FineTuning(state: states(layers: 1..<3)), "lacks the state of layer 0")
    #expect(throws: CheckpointError.self) { try TimeStates.read(path: states(layers: 1..<3)) }
  }
}
