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

  /// fla has the factors of its low-rank pairs as layers [outputs, inputs], for which adapters are trained like for
  /// others.
  @Test(arguments: ["attn.w_lora.lora.0", "attn.g_lora.lora.2", "attn.v_proj", "ffn.value"])
  func lorasOfFlasLayersAreAdded(layer: String) throws {
    let name = "model.layers.1.\(layer)"
    var drafts = try Container(path: goldens + "/v7-hf").tensors.map {
      Draft($0.name, $0.shape, try $0.values())
    }
    let index = try #require(drafts.firstIndex { $0.name == name + ".weight" })
    let (outputs, inputs) = (drafts[index].shape[0], drafts[index].shape[1])
    let (a, b) = (draft(name + ".lora_A.weight", [4, inputs]), draft(name + ".lora_B.weight", [outputs, 4]))
    let path = folder.write("lora.safetensors", safetensors([a, b]))
    let plain = folder.write("plain.safetensors", safetensors(drafts))
    let (x, y) = (numbers(a), numbers(b))
    let values = numbers(drafts[index]).enumerated().map { place, value in
      value + Float(2 * product(y, x, rank: 4, inputs: inputs, place / inputs, place % inputs))
    }
    drafts[index] = Draft(name + ".weight", [outputs, inputs], values)
    let updated = folder.write("updated.safetensors", safetensors(drafts))
    let lora = FineTuning.LoRA(path: path, alpha: 8)
    try expectSame(
      Checkpoint(path: plain, fineTuning: FineTuning(lora: lora)), Checkpoint(path: updated), within: 1e-5)
  }

  private func wholeValues(_ checkpoint: Checkpoint, _ tensor: CheckpointTensor) throws -> [Float] {
    let whole = try values(checkpoint, tensor)
    #expect(try values(checkpoint, tensor, step: 7) == whole)
    return whole
  }

  /// What is added to every matrix of the folder's checkpoint, from the differences of all values.
  private func expectAdded(
    _ tuning: FineTuning, _ wanted: (_ name: String, _ output: Int, _ input: Int) -> Double?,
    location: SourceLocation = #_sourceLocation
  ) throws {
    let (plain, merged) = try (Checkpoint(path: base), Checkpoint(path: base, fineTuning: tuning))
    for (a, b) in zip(plain.tensors, merged.tensors) {
      let (x, y) = (try values(plain, a), try wholeValues(merged, b))
      for index in x.indices {
        let (row, column) = (index / a.columns, index % a.columns)
        let sum = a.transposed ? wanted(a.name, column, row) : wanted(a.name, row, column)
        guard abs(Double(y[index]) - Double(x[index]) - (sum ?? 0)) > 1e-5 else { continue }
        Issue.record("\(a.name), \(row), \(column)", sourceLocation: location)
        break
      }
    }
  }

  private func product(_ b: [Float], _ a: [Float], rank: Int, inputs: Int, _ output: Int, _ input: Int)
    -> Double
  {
    (0..<rank).reduce(0) { $0 + Double(b[output * rank + $1]) * Double(a[$1 * inputs + input]) }
  }

  /// W − B₀A₀ + BA, with another prefix in one of the files, as the trainer has it.
  @Test(arguments: ["att.key", "ffn.value"])
  func pissaIsMergedByItsRule(name: String) throws {
    let full = "blocks.1.\(name)"
    let (outputs, inputs) = name == "att.key" ? (128, 128) : (128, 320)
    let (a, b) = (draft(full + ".lora_A", [4, inputs]), draft(full + ".lora_B", [outputs, 4]))
    let initial = [a, b].map { draft in
      Draft(
        "model." + draft.name.replacing(".lora_", with: ".init_lora_"), draft.shape,
        numbers(draft).enumerated().map { $1 * Float(1 + $0 % 3) / 4 })
    }
    let path = folder.write("rwkv-0.safetensors", safetensors([a, b]))
    let beside = folder.write("init_pissa.safetensors", safetensors(initial))
    let lora = FineTuning.LoRA(path: path, initial: beside)
    let (x, y, x0, y0) = (numbers(a), numbers(b), numbers(initial[0]), numbers(initial[1]))
    try expectAdded(FineTuning(lora: lora)) { name, output, input in
      guard name == full + ".weight" else { return nil }
      return product(y, x, rank: 4, inputs: inputs, output, input)
        - product(y0, x0, rank: 4, inputs: inputs, output, input)
    }
    // Without its other half it is refused, with what is missing.
    expectFailure(FineTuning(lora: .init(path: path, alpha: 4)), "PiSSA", "init_pissa.safetensors")
    expectFailure(FineTuning(lora: .init(path: beside, alpha: 4)), "initial half of a PiSSA")
    expectFailure(FineTuning(lora: .init(path: path, initial: path)), "does not belong")
    let half = folder.write("half.safetensors", safetensors([initial[0]]))
    expectFailure(FineTuning(lora: .init(path: path, initial: half)), "lacks the initial factors")
  }

  /// W[o, i] + D[i mod rank, o], also where the rank does not divide the inputs; needs no alpha.
  @Test(arguments: [4, 48])
  func dishaIsMergedByItsRule(rank: Int) throws {
    let drafts = [
      draft("blocks.0.att.key.disha", [rank, 128]), draft("blocks.2.ffn.value.disha", [rank, 128]),
      draft("blocks.2.ffn.key.disha", [rank, 320]),
    ]
    let path = folder.write("disha.safetensors", safetensors(drafts))
    let added = Dictionary(uniqueKeysWithValues: drafts.map { (String($0.name.dropLast(5)) + "weight", $0) })
    let values = added.mapValues(numbers)
    try expectAdded(FineTuning(lora: .init(path: path))) { name, output, input in
      guard let draft = added[name], let values = values[name] else { return nil }
      return Double(values[input % rank * draft.shape[1] + output])
    }
    let rows = folder.write("rows.safetensors", safetensors([draft("blocks.0.att.key.disha", [4, 4, 4])]))
    expectFailure(FineTuning(lora: .init(path: rows)), "DiSHA's multiplying form")
    let bone = folder.write("bone.safetensors", safetensors([draft("blocks.0.att.key.bone", [4, 4, 4])]))
    expectFailure(FineTuning(lora: .init(path: bone)), "Bone")
    let wrong = folder.write("wrong.safetensors", safetensors([draft("blocks.0.att.key.disha", [4, 64])]))
    expectFailure(FineTuning(lora: .init(path: wrong)), "does not fit its matrix", "4×64")
  }

  // MARK: Folders

  private func adapter(_ tensors: [Draft], _ json: String) -> String {
    folder.write("adapter_model.safetensors", safetensors(tensors))
    folder.write("adapter_config.json", Array(json.utf8))
    return folder.path
  }

  /// PEFT's names and numbers; rsLoRA divides by the root of the rank.
  @Test(arguments: [("", 2.0), (#", "use_rslora": true"#, 4.0)])
  func foldersOfPEFTAreMerged(more: String, scale: Double) throws {
    let name = "base_model.model.model.layers.1.attn.k_proj"
    let (a, b) = (draft(name + ".lora_A.weight", [4, 128]), draft(name + ".lora_B.weight", [128, 4]))
    let norm = draft("base_model.model.model.norm.modules_to_save.weight", [128])
    let path = adapter([a, b, norm], #"{"peft_type": "LORA", "r": 4, "lora_alpha": 8"# + more + "}")
    let (x, y) = (numbers(a), numbers(b))
    let merged = try Checkpoint(path: base, fineTuning: FineTuning(lora: .init(path: path)))
    let plain = try Checkpoint(path: base)
    for (before, after) in zip(plain.tensors, merged.tensors) {
      let (old, new) = (try values(plain, before), try values(merged, after))
      switch before.name {
      case "ln_out.weight": #expect(new == numbers(norm))
      case "blocks.1.att.key.weight":
        for index in old.indices {
          let sum = product(y, x, rank: 4, inputs: 128, index / 128, index % 128)
          #expect(abs(Double(new[index]) - Double(old[index]) - scale * sum) < 1e-5)
        }
      default: #expect(old == new, "\(before.name)")
      }
    }
  }

  @Test(arguments: [
    (#"{"peft_type": "LOHA"}"#, "LOHA"), (#"{"lora_alpha": 8, "use_dora": true}"#, "use_dora"),
    (#"{"lora_alpha": 8, "rank_pattern": {"a": 2}}"#, "rank_pattern"),
    (#"{"lora_alpha": 8, "init_lora_weights": "pissa"}"#, "pissa"), ("{}", "lora_alpha"),
    (#"{"lora_alpha": 8, "r": 16}"#, "r = 16"),
  ])
  func foldersOfOtherRulesAreRefused(json: String, word: String) {
    let name = "base_model.model.blocks.0.att.key"
    let pair = [draft(name + ".lora_A.weight", [4, 128]), draft(name + ".lora_B.weight", [128, 4])]
    expectFailure(FineTuning(lora: .init(path: adapter(pair, json))), word)
  }

  /// rwkvtune's: tensors under `lora_state_dict`, numbers under `config`.
  @Test(arguments: [(false, 2.0), (true, 4.0)])
  func rwkvtunesFilesAreMerged(isRankStabilized: Bool, scale: Double) throws {
    let name = "blocks.1.att.key"
    let pair = [draft(name + ".lora_A", [4, 128]), draft(name + ".lora_B", [128, 4])]
    var pickle = PickleDraft()
    pickle.op("}")
    pickle.op("(")
    pickle.text("lora_state_dict")
    pickle.tensors(pair)
    pickle.text("config")
    pickle.op("}")
    pickle.op("(")
    pickle.text("lora_alpha")
    pickle.integer(8)
    pickle.text("use_rslora")
    pickle.boolean(isRankStabilized)
    pickle.text("target_modules")
    pickle.op("]")
    pickle.text("key")
    pickle.op("a")
    pickle.op("u")
    pickle.op("u")
    pickle.op(".")
    var zip = ZipDraft()
    zip.entries = [.init(name: "m/data.pkl", data: pickle.bytes)]
    for index in 0..<2 { zip.entries.append(.init(name: "m/data/\(index)", data: pair[index].bytes)) }
    let path = folder.write("lora_weights.pth", zip.bytes)
    let (x, y) = (numbers(pair[0]), numbers(pair[1]))
    try expectAdded(FineTuning(lora: .init(path: path))) { tensor, output, input in
      tensor == name + ".weight" ? scale * product(y, x, rank: 4, inputs: 128, output, input) : nil
    }
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
      #expect(error.kind != .unreadable, "\(error)", sourceLocation: location)
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
