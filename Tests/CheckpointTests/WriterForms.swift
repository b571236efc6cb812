// SPDX-License-Identifier: MIT
import RWKVFormat
import RWKVQuantization
import Testing

@testable import RWKVCheckpoint

extension ForeignFileTests.Model {
  /// In the order of their names.
  var drafts: [Draft] { tensors.sorted { $0.key < $1.key }.map(\.value) }
}

extension Draft {
  /// The same values in F16; for values in F32 or BF16.
  var inF16: Draft {
    var copy = self
    copy.type = "F16"
    let values =
      type == "F32"
      ? floats
      : bytes.withUnsafeBytes { $0.bindMemory(to: UInt16.self).map { Float(bitPattern: UInt32($0) << 16) } }
    copy.bytes = values.map { Float16($0) }.withUnsafeBytes { Array($0) }
    return copy
  }

  /// With the last two axes exchanged.
  fileprivate var exchanged: Draft { shape.count == 3 ? swappingLastAxes : transposed }
}

extension WriterFormsTests {
  /// Writes a model as a program does; returns what is to be converted.
  func write(
    _ model: Model, as form: Form, to folder: TemporaryFolder, _ options: inout ConversionOptions
  ) throws -> String {
    let drafts = model.drafts
    switch form {
    case .pythonST: return folder.write("model.st", safetensors(pythonST(model).map(\.inF16)))
    case .rustST: return folder.write("model.st", safetensors(rustST(model).map(\.inF16)))
    case .prefixed:
      return folder.write("m.pth", torchBytes(drafts) { $0.tensors(drafts.prefixed("_forward_module.")) })
    case .deepSpeed: return folder.write("mp_rank_00_model_states.pt", deepSpeed(drafts))
    case .lightning: return folder.write("last.ckpt", lightning(drafts))
    case .legacyTorch: return folder.write("m.pth", legacyTorchFile(drafts))
    case .torchShards: return shards(drafts, named: "pytorch_model", "bin", folder) { torchFile($0).bytes }
    case .shards: return shards(drafts, named: "model", "safetensors", folder) { safetensors($0) }
    case .shardsWithoutIndex:
      _ = shards(drafts, named: "model", "safetensors", folder) { safetensors($0) }
      folder.remove("model.safetensors.index.json")
      return folder.path + "/model-00002-of-00003.safetensors"
    case .rwkvCpp:
      options.overrides = [("rwkv.group_norm_epsilon", .number(64e-5))].filter { _ in model.isVersion5 }
      return folder.write("m.bin", ForeignFileTests.rwkvCpp(model))
    case .gguf: return folder.write("m.gguf", ForeignFileTests.gguf(model).bytes)
    case .splitGGUF:
      let parts = GGUFTests.split(ForeignFileTests.gguf(model), into: 3)
      return parts.enumerated().map { folder.write("m-0000\($0 + 1)-of-00003.gguf", $1.bytes) }[1]
    case .peft, .ai00, .pissa: return try adapter(model, form, folder, &options)
    }
  }

  // MARK: .st

  /// RWKV-Runner's convert_safetensors.py, which web-rwkv and Ai00 have too.
  private func pythonST(_ model: Model) -> [Draft] {
    let transposed = [
      "time_mix_w1", "time_mix_w2", "time_decay_w1", "time_decay_w2", "w1", "w2", "a1", "a2", "g1", "g2",
      "v1",
      "v2", "time_state", "lora.0",
    ]
    let isGated = model.tensors["blocks.0.att.gate.weight"] != nil
    return model.drafts.map { draft in
      var draft = draft
      if isGated, !model.isVersion6, draft.shape.count == 1,
        ["time_decay", "time_faaaa"].contains(where: { draft.name.hasSuffix($0) })
      {
        // 5.1: one value for each head becomes a row of them.
        let width = model.width / draft.shape[0]
        draft = Draft(
          draft.name, [draft.shape[0], width], draft.floats.flatMap { [Float](repeating: $0, count: width) })
      }
      let name = draft.name.replacing("time_faaaa", with: "time_first").replacing(
        "time_maa", with: "time_mix")
      return (transposed.contains(where: name.holds) ? draft.exchanged : draft).renamed(name)
    }
  }

  /// web-rwkv-converter: version 7 stays as it is.
  private func rustST(_ model: Model) -> [Draft] {
    model.drafts.map { draft in
      let name = draft.name.replacing("time_faaaa", with: "time_first").replacing(
        "time_maa", with: "time_mix")
      let isExchanged = ["time_mix_w1", "time_mix_w2", "time_decay_w1", "time_decay_w2"].contains {
        name.hasSuffix($0)
      }
      return (isExchanged ? draft.exchanged : draft).renamed(name)
    }
  }

  // MARK: Trainers

  private func deepSpeed(_ drafts: [Draft]) -> [UInt8] {
    torchBytes(drafts) { pickle in
      pickle.op("}")
      pickle.op("(")
      pickle.text("module")
      pickle.tensors(drafts.prefixed("_forward_module."))
      pickle.text("global_steps")
      pickle.integer(1000)
      pickle.text("optimizer")
      pickle.op("N")
      pickle.op("u")
    }
  }

  private func lightning(_ drafts: [Draft]) -> [UInt8] {
    torchBytes(drafts) { pickle in
      pickle.op("}")
      pickle.op("(")
      pickle.text("epoch")
      pickle.integer(3)
      pickle.text("pytorch-lightning_version")
      pickle.text("1.9.5")
      pickle.text("state_dict")
      pickle.tensors(drafts.prefixed("model."))
      pickle.text("hparams_name")
      pickle.text("args")
      pickle.op("u")
    }
  }

  // MARK: Several files

  private func shards(
    _ drafts: [Draft], named stem: String, _ ending: String, _ folder: TemporaryFolder,
    _ bytes: ([Draft]) -> [UInt8]
  ) -> String {
    var map: [String] = []
    for number in 0..<3 {
      let name = "\(stem)-0000\(number + 1)-of-00003.\(ending)"
      let part = drafts.enumerated().filter { $0.offset % 3 == number }.map(\.element)
      folder.write(name, bytes(part))
      map += part.map { "\"\($0.name)\":\"\(name)\"" }
    }
    let index = "{\"metadata\":{\"total_size\":1},\"weight_map\":{" + map.joined(separator: ",") + "}}"
    folder.write("\(stem).\(ending).index.json", index.utf8)
    return folder.path
  }

  // MARK: Adapters

  /// The model without what an adapter adds to some of its matrices, and the adapter.
  private func adapter(
    _ model: Model, _ form: Form, _ folder: TemporaryFolder, _ options: inout ConversionOptions
  ) throws -> String {
    var base = model
    var (factors, initial): ([(name: String, a: Draft, b: Draft)], [Draft]) = ([], [])
    for leaf in ["att.key", "att.output", "ffn.value"] {
      let name = "blocks.1.\(leaf)"
      let matrix = try #require(model.tensors[name + ".weight"])
      let (outputs, inputs, rank) = (matrix.shape[0], matrix.shape[1], 4)
      func draft(_ shape: [Int], _ seed: Int) -> Draft {
        Draft("", shape, (0..<shape.reduce(1, *)).map { Float(($0 * 37 + seed) % 23 - 11) / 64 })
      }
      let (a, b) = (draft([rank, inputs], 1), draft([outputs, rank], 5))
      let (a0, b0) = (draft([rank, inputs], 2), draft([outputs, rank], 3))
      let (x, y) = (a.floats, b.floats)
      let (x0, y0) = (a0.floats, b0.floats)
      let values = matrix.floats.enumerated().map { index, value in
        let (output, input) = (index / inputs, index % inputs)
        var sum: Float = 0
        for r in 0..<rank {
          // alpha is twice the rank; of a PiSSA the initial factors are still in the matrix.
          sum += y[output * rank + r] * x[r * inputs + input] * (form == .pissa ? 1 : 2)
          if form == .pissa { sum -= y0[output * rank + r] * x0[r * inputs + input] }
        }
        return value - sum
      }
      base.tensors[name + ".weight"] = Draft(name + ".weight", matrix.shape, values)
      factors.append((name, a, b))
      initial += [a0.renamed(name + ".init_lora_A"), b0.renamed(name + ".init_lora_B")]
    }
    switch form {
    case .peft:
      let tensors = factors.flatMap { name, a, b in
        ["A": a, "B": b].map { $1.renamed("base_model.model.\(name).lora_\($0).weight") }
      }
      folder.write("adapter_model.safetensors", safetensors(tensors))
      folder.write("adapter_config.json", "{\"peft_type\": \"LORA\", \"r\": 4, \"lora_alpha\": 8}".utf8)
      options.fineTuning = FineTuning(lora: FineTuning.LoRA(path: folder.path))
    case .ai00:
      let tensors = factors.flatMap { name, a, b in
        [a.transposed.renamed(name + ".lora.0"), b.renamed(name + ".lora.1")]
      }
      let path = folder.write("lora.st", safetensors(tensors.map(\.inF16)))
      options.fineTuning = FineTuning(lora: FineTuning.LoRA(path: path, alpha: 8))
    default:
      let tensors = factors.flatMap { name, a, b in
        [a.renamed(name + ".lora_A"), b.renamed(name + ".lora_B")]
      }
      let path = folder.write("rwkv-0.safetensors", safetensors(tensors))
      let beside = folder.write("init_pissa.safetensors", safetensors(initial))
      options.fineTuning = FineTuning(lora: FineTuning.LoRA(path: path, initial: beside))
    }
    return folder.write("base.safetensors", safetensors(base.drafts))
  }
}

extension [Draft] {
  fileprivate func prefixed(_ prefix: String) -> [Draft] { map { $0.renamed(prefix + $0.name) } }
}
