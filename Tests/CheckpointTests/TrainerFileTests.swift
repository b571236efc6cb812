// SPDX-License-Identifier: MIT
import Testing

@testable import RWKVCheckpoint

/// What trainers and torch of all times write around the weights.
@Suite("Trainers' files")
struct TrainerFileTests {
  private let base = goldens + "/v7-std/model.safetensors"
  private let folder = TemporaryFolder()

  private func drafts() throws -> [Draft] { try Container(path: base).tensors.map { try Draft($0) } }

  private func expectGolden(_ bytes: [UInt8], location: SourceLocation = #_sourceLocation) throws {
    let read = try Checkpoint(path: folder.write("model.pth", bytes))
    let original = try Checkpoint(path: base)
    #expect(read.tensors.map(\.name) == original.tensors.map(\.name), sourceLocation: location)
    for (a, b) in zip(original.tensors, read.tensors) {
      #expect(try values(original, a) == values(read, b), "\(a.name)", sourceLocation: location)
    }
  }

  @Test(arguments: [
    "model.", "module.", "_forward_module.", "_orig_mod.", "_forward_module._orig_mod.model.", "student.net.",
  ])
  func prefixesAreTakenOff(prefix: String) throws {
    let drafts = try drafts()
    try expectGolden(torchBytes(drafts) { $0.tensors(drafts.map { $0.renamed(prefix + $0.name) }) })
  }

  /// Every spelling of names in the same wrappings: the file reads as without them.
  @Test(
    arguments: ["v7-hf-native", "v7-hf-fork", "v7-hf", "v6-hf", "v52-hf", "v4-hf", "x-one/model.pth"],
    ["module.", "model.", "_forward_module.module.", "student.net."])
  func prefixesAreTakenOffAllSpellings(golden: String, prefix: String) throws {
    let tensors = try Container(path: goldens + "/" + golden).tensors
    let wrapped = tensors.map { tensor in
      var tensor = tensor
      tensor.name = prefix + tensor.name
      return tensor
    }
    #expect(Names.unwrapped(wrapped).map(\.name) == tensors.map(\.name))
  }

  @Test func prefixesOfPartsAreTakenOff() throws {
    let drafts = try drafts()
    let renamed = drafts.map { draft in
      draft.renamed(
        "_fsdp_wrapped_module." + draft.name.replacing(".att.", with: "._checkpoint_wrapped_module.att."))
    }
    try expectGolden(torchBytes(drafts) { $0.tensors(renamed) })
  }

  @Test(arguments: ["module", "state_dict", "model_state_dict", "model", "weights", "params"])
  func wrappingsAreOpened(name: String) throws {
    let drafts = try drafts()
    try expectGolden(
      torchBytes(drafts) { pickle in
        pickle.op("}")
        pickle.op("(")
        pickle.text("epoch")
        pickle.integer(3)
        pickle.text(name)
        pickle.tensors(drafts)
        pickle.text("optimizer")
        pickle.op("N")
        pickle.op("u")
      })
  }

  /// Averages over steps, or copies, beside the weights: what is taken is told, wherever the others stand.
  @Test(arguments: [
    ("model", "ema", ""), ("state_dict", "state_dict_ema", "module."), ("module", "ema|shadow", ""),
    ("model", "optimizer|exp_avg", ""), ("model", "optimizer_state_dict", ""),
  ])
  func otherWeightsBesideAreNamed(taken: String, other: String, prefix: String) throws {
    let drafts = try drafts()
    let second = Array(drafts.map { $0.renamed(prefix + $0.name) }.reversed())
    let path = other.split(separator: "|").map(String.init)
    let bytes = torchBytes(drafts + second) { pickle in
      pickle.op("}")
      pickle.op("(")
      pickle.text(path[0])
      if path.count > 1 {
        pickle.op("}")
        pickle.op("(")
        pickle.text(path[1])
      }
      pickle.tensors(second, first: drafts.count)
      if path.count > 1 { pickle.op("u") }
      pickle.text(taken)
      pickle.tensors(drafts)
      pickle.text("statistics")
      pickle.tensors(Array(drafts.prefix(2)))
      pickle.op("u")
    }
    try expectGolden(bytes)
    let remarks = try Checkpoint(path: folder.write("m.pth", bytes)).remarks
    if path[0].hasPrefix("optim") {
      #expect(remarks.isEmpty)
    } else {
      #expect(remarks.count == 1 && remarks[0].contains("under '\(taken)'"), "\(remarks)")
      #expect(remarks[0].contains("under '\(path[0])':"), "\(remarks)")
    }
  }

  @Test func theSameWeightsUnderTwoNamesAreNoOthers() throws {
    let drafts = try drafts()
    let bytes = torchBytes(drafts) { pickle in
      pickle.op("}")
      pickle.op("(")
      for name in ["model", "copy"] {
        pickle.text(name)
        pickle.tensors(drafts)
      }
      pickle.op("u")
    }
    try expectGolden(bytes)
    #expect(try Checkpoint(path: folder.write("m.pth", bytes)).remarks.isEmpty)
  }

  /// As Lightning writes it: loops, optimizers with numbers as keys, hyper-parameters that are objects.
  @Test func lightningFilesAreRead() throws {
    let drafts = try drafts()
    try expectGolden(
      torchBytes(drafts) { pickle in
        pickle.op("}")
        pickle.op("(")
        pickle.text("pytorch-lightning_version")
        pickle.text("2.5.0")
        pickle.text("state_dict")
        pickle.tensors(drafts.map { $0.renamed("model." + $0.name) })
        pickle.text("optimizer_states")
        pickle.op("]")
        pickle.op("}")
        pickle.integer(0)
        pickle.op("N")
        pickle.op("s")
        pickle.op("a")
        pickle.text("hyper_parameters")
        pickle.global("argparse Namespace")
        pickle.op(")")
        pickle.bytes.append(0x81)  // NEWOBJ
        pickle.op("}")
        pickle.text("lr")
        pickle.op("G", [0x3F, 0x50, 0x62, 0x4D, 0xD2, 0xF1, 0xA9, 0xFC])
        pickle.op("s")
        pickle.op("b")
        pickle.op("u")
      })
  }

  /// As DeepSpeed writes it: shapes as torch.Size, sets, numbers of numpy.
  @Test func deepSpeedFilesAreRead() throws {
    let drafts = try drafts()
    try expectGolden(
      torchBytes(drafts) { pickle in
        pickle.op("}")
        pickle.op("(")
        pickle.text("module")
        pickle.tensors(drafts)
        pickle.text("param_shapes")
        pickle.op("]")
        pickle.op("}")
        pickle.text("emb.weight")
        pickle.global("torch Size")
        pickle.tuple([256, 128])
        pickle.bytes.append(0x85)
        pickle.op("R")
        pickle.op("s")
        pickle.op("a")
        pickle.text("sparse_tensor_module_names")
        // As protocol 2 has it.
        pickle.global("__builtin__ set")
        pickle.op("]")
        pickle.bytes.append(0x85)
        pickle.op("R")
        pickle.text("skipped_steps")
        pickle.global("numpy.core.multiarray scalar")
        pickle.op(")")
        pickle.op("R")
        pickle.op("u")
      })
  }

  /// A counter, a mask, a type that no weight has, a dictionary with a default.
  @Test func whatNoModelNeedsIsLeftOut() throws {
    let drafts = try drafts()
    let read = try Checkpoint(
      path: folder.write(
        "m.pth",
        torchBytes(drafts) { pickle in
          pickle.global("collections defaultdict")
          pickle.global("__builtin__ long")
          pickle.bytes.append(0x85)
          pickle.op("R")
          pickle.op("(")
          pickle.text("model")
          pickle.tensors(drafts)
          pickle.op("u")
        }))
    try expectSame(read, Checkpoint(path: base))

    var counter = Draft("step", [], [])
    (counter.type, counter.bytes) = ("I64", littleEndian(Int64(7)))
    let counted = try Checkpoint(path: folder.write("m.safetensors", safetensors(drafts + [counter])))
    try expectSame(counted, Checkpoint(path: base))
    #expect(counted.remarks == ["tensor 'step' is of integers and left out"])
  }

  @Test func shardsOfZeRO3AreRefusedByName() {
    var pickle = PickleDraft()
    pickle.op("}")
    pickle.text("emb.weight")
    pickle.tensor(type: "HalfStorage", key: "0", count: 0, shape: [0], strides: [1])
    pickle.op("s")
    pickle.op(".")
    var zip = ZipDraft()
    zip.entries = [.init(name: "m/data.pkl", data: pickle.bytes), .init(name: "m/data/0", data: [])]
    expectFailure(folder.write("zero3.pt", zip.bytes), .unsupported, "ZeRO-3", "zero_to_fp32.py")
  }

  /// Protocol 4 as pickle writes it: frames, names from the stack, implied numbers in the memo.
  @Test(arguments: [4, 5] as [UInt8])
  func laterProtocolsAreRead(version: UInt8) throws {
    let drafts = try drafts()
    var pickle = PickleDraft()
    pickle.bytes = [0x80, version, 0x95] + littleEndian(UInt64(99))
    func short(_ text: String) { pickle.bytes += [0x8C, UInt8(text.utf8.count)] + text.utf8 + [0x94] }
    func global(_ module: String, _ name: String) {
      short(module)
      short(name)
      pickle.bytes += [0x93, 0x94]
    }
    func number(_ value: Int) { pickle.op("J", littleEndian(Int32(value))) }
    pickle.bytes += Array("}".utf8) + [0x94] + Array("(".utf8)
    for (index, draft) in drafts.enumerated() {
      short(draft.name)
      global("torch._utils", "_rebuild_tensor_v2")
      pickle.op("(")
      pickle.op("(")
      short("storage")
      global("torch", "BFloat16Storage")
      short("\(index)")
      short("cpu")
      number(draft.bytes.count / 2)
      pickle.bytes += Array("t".utf8) + [0x94] + Array("Q".utf8)
      number(0)
      for values in [draft.shape, draft.shape.indices.map { draft.shape[($0 + 1)...].reduce(1, *) }] {
        pickle.op("(")
        values.forEach(number)
        pickle.bytes += Array("t".utf8) + [0x94]
      }
      pickle.boolean(false)
      global("collections", "OrderedDict")
      pickle.bytes += Array(")R".utf8) + [0x94] + Array("t".utf8) + [0x94] + Array("R".utf8) + [0x94]
    }
    pickle.op("u")
    pickle.op(".")
    var zip = ZipDraft()
    zip.entries.append(.init(name: "m/data.pkl", data: pickle.bytes))
    for (index, draft) in drafts.enumerated() {
      zip.entries.append(.init(name: "m/data/\(index)", data: draft.bytes))
    }
    try expectGolden(zip.bytes)
  }

  // MARK: Before torch 1.6

  @Test func filesFromBeforeTheArchiveAreRead() throws { try expectGolden(legacyTorchFile(drafts())) }

  @Test func damagedFilesFromBeforeTheArchiveAreRefused() throws {
    let drafts = try drafts()
    let sound = legacyTorchFile(drafts)
    for length in [sound.count - 1, sound.count / 2, 2000, 16] {
      expectFailure(folder.write("m.pth", sound.prefix(length)), .malformed)
    }
    expectFailure(folder.write("m.pth", sound + [0]), .malformed, "wrong length")
    expectFailure(folder.write("m.pth", legacyTorchFile(drafts, keys: ["0", "0"])), .malformed, "storage")
    expectFailure(folder.write("m.pth", legacyTorchFile(drafts, keys: ["0"])), .malformed, "missing")
  }

  // MARK: Views

  /// Every matrix as a part of a larger one, with a row pitch; vectors as columns.
  @Test func viewsWithGapsAreRead() throws {
    let drafts = try drafts()
    var pickle = PickleDraft()
    var zip = ZipDraft()
    pickle.op("}")
    pickle.op("(")
    for (index, draft) in drafts.enumerated() {
      let size = draft.valueBytes
      let columns = draft.shape.last ?? 1
      let isMatrix = draft.shape.count == 2
      let (pitch, step) = isMatrix ? (columns + 3, 1) : (columns * 5, 5)
      var data = [UInt8](repeating: 0xFF, count: 2 * size)
      for row in 0..<draft.bytes.count / size / columns {
        for column in 0..<pitch {
          let start = (row * columns + column / step) * size
          let isValue = column % step == 0 && column / step < columns
          data += isValue ? Array(draft.bytes[start..<start + size]) : [UInt8](repeating: 0xFF, count: size)
        }
      }
      var strides = draft.shape.indices.map { draft.shape[($0 + 1)...].reduce(1, *) * step }
      if isMatrix { strides = [pitch, 1] }
      pickle.text(draft.name)
      pickle.tensor(
        type: "BFloat16Storage", key: "\(index)", count: data.count / size, offset: 2, shape: draft.shape,
        strides: strides)
      zip.entries.append(.init(name: "m/data/\(index)", data: data))
    }
    pickle.op("u")
    pickle.op(".")
    zip.entries.insert(.init(name: "m/data.pkl", data: pickle.bytes), at: 0)
    try expectGolden(zip.bytes)
  }

  // MARK: What may be absent

  @Test(arguments: [["ln1", "ln2", "ln0", "ln_x", "ln_out"], ["ln_x"], ["ln_out"]])
  func normsWithoutABiasHaveOneOfZeros(norms: [String]) throws {
    let drafts = try drafts().filter { draft in
      !norms.contains { (("." + draft.name).hasSuffix("." + $0 + ".bias")) }
    }
    let read = try Checkpoint(path: folder.write("m.safetensors", safetensors(drafts)))
    let original = try Checkpoint(path: base)
    for (a, b) in zip(original.tensors, read.tensors) {
      let isZero = norms.contains { ("." + a.name).hasSuffix("." + $0 + ".bias") }
      let wanted = try isZero ? [Float](repeating: 0, count: a.columns) : values(original, a)
      #expect(try values(read, b) == wanted, "\(a.name)")
    }
    #expect(Set(read.remarks) == Set(norms.map { "no \($0).bias: it is zero" }))
  }

  /// One of several that lacks its bias is no model without biases.
  @Test func oneMissingBiasIsDamage() throws {
    let drafts = try drafts().filter { $0.name != "blocks.1.ln1.bias" }
    expectFailure(folder.write("m", safetensors(drafts)), .mismatch, "1 missing", "blocks.1.ln1.bias")
  }
}
