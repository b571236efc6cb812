// SPDX-License-Identifier: MIT
import Glibc
import RWKVFormat
import Synchronization
import Testing

@testable import RWKVCheckpoint

/// Files of rwkv.cpp and llama.cpp, written here from golden models as their converters do, and back.
@Suite("rwkv.cpp and GGUF files")
struct ForeignFileTests {
  let folder = TemporaryFolder()

  // MARK: Golden models with BlinkDL's names, in F32

  struct Model {
    var path: String
    var tensors: [String: Draft] = [:]
    var isVersion7: Bool { tensors["blocks.0.att.r_k"] != nil }
    var isVersion6: Bool { tensors["blocks.0.att.time_maa_x"] != nil }
    var isVersion5: Bool { !isVersion6 && !isVersion7 && tensors["blocks.0.att.ln_x.weight"] != nil }

    init(_ name: String) throws {
      let place = try #require(golden(name))
      path = exists(place + "/model.pth") ? place + "/model.pth" : place
      let checkpoint = try Checkpoint(path: path)
      for stored in try Container(path: path).tensors {
        let (name, source) = try Names.sources(of: stored)[0]
        var values = [Float](repeating: 0, count: stored.count)
        let bytes = try Draft(stored).bytes
        bytes.withUnsafeBytes { raw in
          values.withUnsafeMutableBufferPointer { buffer in
            if let raw = raw.baseAddress, let base = buffer.baseAddress {
              stored.type.decode(raw, count: stored.count, into: base)
            }
          }
        }
        let draft = Draft(name, stored.shape, values)
        tensors[name] = source.isOutputMajor ? draft.transposed : draft
      }
      #expect(checkpoint.layers > 1)
    }

    /// Takes out vectors and stacks them.
    mutating func fuse(_ names: [String], as fused: String, shape: [Int]) {
      let parts = names.compactMap { tensors.removeValue(forKey: $0) }
      guard parts.count == names.count, var first = parts.first else { return }
      first.name = fused
      first.shape = shape
      first.bytes = parts.flatMap(\.bytes)
      tensors[fused] = first
    }

    var layers: Int { tensors.keys.count { $0.hasSuffix(".ln1.weight") } }
    var width: Int { tensors["ln_out.weight"]?.shape[0] ?? 0 }
  }

  static let lowRank7 = ["w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2"]
  static let lowRank6 = ["time_maa_w1", "time_decay_w1", "time_decay_w2"]

  // MARK: rwkv.cpp

  static func rwkvCpp(_ model: Model) -> [UInt8] {
    var model = model
    for layer in 0..<model.layers where model.isVersion7 {
      let names = ["r", "w", "k", "v", "a", "g"].map { "blocks.\(layer).att.x_" + $0 }
      model.fuse(names, as: "blocks.\(layer).att.x_rwkvag", shape: [6, 1, model.width])
    }
    var bytes = Array("fmgg".utf8)
    for value in [101, model.tensors["emb.weight"]?.shape[0] ?? 0, model.width, model.layers, 0] {
      bytes += littleEndian(UInt32(value))
    }
    for name in model.tensors.keys.sorted() {
      guard var draft = model.tensors[name] else { continue }
      let leaf = String(name.split(separator: ".").last ?? "")
      if name.contains(".time_") { draft.shape = draft.shape.filter { $0 != 1 } }
      if leaf == "time_maa_w2" { draft = draft.swappingLastAxes }
      if (model.isVersion7 ? lowRank7 : lowRank6).contains(leaf) { draft = draft.transposed }
      if leaf == "time_decay", !model.isVersion6 {
        draft = draft.mapped { model.isVersion5 ? exp(-exp($0)) : -exp($0) }
      }
      if leaf == "time_first", model.isVersion5 { draft = draft.mapped { exp($0) } }
      if model.isVersion5 || model.isVersion6, ["time_decay", "time_faaaa", "time_first"].contains(leaf) {
        draft.shape.append(1)
      }
      bytes += littleEndian(UInt32(draft.shape.count)) + littleEndian(UInt32(name.utf8.count)) + [0, 0, 0, 0]
      for size in draft.shape.reversed() { bytes += littleEndian(UInt32(size)) }
      bytes += name.utf8 + draft.bytes
    }
    return bytes
  }

  @Test(arguments: ["v4-hf", "v52-hf", "v6-hf", "v7-f32-small", "v7-hf"])
  func filesOfRWKVCppReadAsTheirOriginals(name: String) throws {
    let model = try Model(name)
    let checkpoint = try Checkpoint(path: folder.write("m.bin", ForeignFileTests.rwkvCpp(model)))
    #expect(checkpoint.source == "rwkv.cpp, BlinkDL names, F32")
    if checkpoint.version != .v4 { #expect(checkpoint.groupNormEpsilon == (model.isVersion5 ? 1e-5 : 64e-5)) }
    try expectSame(checkpoint, Checkpoint(path: model.path), within: 1e-4)
  }

  @Test(arguments: ["4v0-660K", "5v2-730K", "7v0-834K"])
  func trainedFilesOfRWKVCppAgreeWithTheirSafetensors(name: String) throws {
    let path = shared + "/tiny-rwkv/tiny-rwkv-" + name
    guard exists(path + ".safetensors") else { return }
    try expectSame(
      Checkpoint(path: path + "-FP32.bin"), Checkpoint(path: path + ".safetensors"), within: 1e-5)
  }

  @Test func lostDecaysStayFinite() {
    var values: [Float] = [0, 1, exp(-exp(-3)), exp(-exp(2))]
    values.withUnsafeMutableBufferPointer { ValueTransform.decay.undo($0) }
    #expect(values.filter(\.isFinite).count == 4)
    #expect(exp(-exp(values[0])) == 0 && exp(-exp(values[1])) == 1)
    #expect(abs(values[2] + 3) < 1e-5 && abs(values[3] - 2) < 1e-5)
  }

  @Test func damagedFilesOfRWKVCppAreRefused() throws {
    let sound = ForeignFileTests.rwkvCpp(try Model("v7-f32-small"))
    func refuse(_ offset: Int, _ bytes: [UInt8], _ kind: CheckpointError.Kind, _ word: String) {
      var file = sound
      file.replaceSubrange(offset..<offset + bytes.count, with: bytes)
      expectFailure(folder.write("m.bin", file), kind, word)
    }
    refuse(4, [102], .unsupported, "version")
    refuse(20, [4], .unsupported, "type")
    refuse(11, [0x80], .malformed, "vocabulary size")
    refuse(12, [128], .mismatch, "128 in the header")
    refuse(16, [3], .mismatch, "layers")
    refuse(24, [4], .malformed, "number of axes")
    refuse(24, [0], .malformed, "")
    refuse(28, [0, 1], .malformed, "name length")
    refuse(32, [17], .unsupported, "type")
    refuse(36, [0, 0, 0, 0], .malformed, "shape")
    refuse(36, [255, 255, 255, 255], .malformed, "outside the file")
    expectFailure(folder.write("m.bin", sound + [0]), .malformed, "ends too early")
    expectFailure(folder.write("m.bin", sound.dropLast()), .malformed, "outside the file")
    expectFailure(folder.write("m.bin", sound.prefix(20)), .malformed, "ends too early")
    expectFailure(folder.write("m.bin", sound + sound[24...]), .malformed, "twice")
    refuse(32, [2], .malformed, "")  // a Q4_0 tensor of the wrong length
  }

  // MARK: GGUF

  struct GGUFDraft {
    var metadata: [(String, UInt32, [UInt8])] = []
    var tensors: [Draft] = []
    var types: [String: UInt32] = ["F32": 0, "F16": 1, "BF16": 30, "Q8_0": 8, "Q4_0": 2]
    var version: UInt32 = 3
    var alignment = 32
    var offsetOfLast: UInt64?

    static func text(_ text: String) -> [UInt8] { littleEndian(UInt64(text.utf8.count)) + text.utf8 }

    mutating func add(_ key: String, _ value: Int) { metadata.append((key, 4, littleEndian(UInt32(value)))) }
    mutating func add(_ key: String, _ value: String) { metadata.append((key, 8, GGUFDraft.text(value))) }

    var bytes: [UInt8] {
      var header = Array("GGUF".utf8) + littleEndian(version) + littleEndian(UInt64(tensors.count))
      header += littleEndian(UInt64(metadata.count))
      for (key, type, value) in metadata { header += GGUFDraft.text(key) + littleEndian(type) + value }
      var data: [UInt8] = []
      func pad(_ bytes: inout [UInt8]) {
        bytes += [UInt8](repeating: 0, count: (alignment - bytes.count % alignment) % alignment)
      }
      for (index, tensor) in tensors.enumerated() {
        let shape = tensor.shape.reversed()
        header += GGUFDraft.text(tensor.name) + littleEndian(UInt32(shape.count))
        for size in shape { header += littleEndian(UInt64(size)) }
        let offset = index == tensors.count - 1 ? offsetOfLast ?? UInt64(data.count) : UInt64(data.count)
        header += littleEndian(types[tensor.type] ?? 99) + littleEndian(offset)
        data += tensor.bytes
        pad(&data)
      }
      pad(&header)
      return header + data
    }
  }

  /// llama.cpp's names and changes; version 6 rescaled after every `rescale` layers.
  static func gguf(_ original: Model, rescale: Int = 1, fused: Bool = true) -> GGUFDraft {
    var model = original
    var file = GGUFDraft()
    let architecture = model.isVersion7 ? "rwkv7" : "rwkv6"
    file.add("general.architecture", architecture)
    file.metadata.append(
      (
        "tokenizer.ggml.tokens", 9,
        [8, 0, 0, 0] + littleEndian(UInt64(2)) + GGUFDraft.text("a") + GGUFDraft.text("")
      ))
    file.metadata.append(
      ("tokenizer.ggml.scores", 9, [6, 0, 0, 0] + littleEndian(UInt64(1)) + [0, 0, 0, 0]))
    file.metadata.append(("general.flag", 7, [1]))
    file.add("tokenizer.chat_template", "{% evil %}")
    file.add(architecture + ".embedding_length", model.width)
    file.add(architecture + ".block_count", model.layers)
    file.add(architecture + ".wkv.head_size", 64)
    file.metadata.append(
      (architecture + ".attention.layer_norm_epsilon", 6, littleEndian(Float(1e-5).bitPattern)))
    if !model.isVersion7 { file.add("rwkv6.rescale_every_n_layers", rescale) }
    for layer in 0..<model.layers {
      let att = "blocks.\(layer).att."
      if model.isVersion7 {
        let names = ["r", "w", "k", "v", "a", "g"].map { att + "x_" + $0 }
        model.fuse(names, as: att + "lerp_fused", shape: [6, 1, 1, model.width])
      } else if fused {
        let names = ["w", "k", "v", "r", "g"].map { att + "time_maa_" + $0 }
        model.fuse(names, as: att + "time_maa_fused", shape: [5, 1, 1, model.width])
      }
    }
    for index in 0...2 { model.tensors["blocks.0.att.v\(index)"] = model.tensors["blocks.0.att.a\(index)"] }
    for name in model.tensors.keys.sorted() {
      guard let tensor = model.tensors[name] else { continue }
      file.tensors.append(ggufTensor(name, tensor, model, rescale: rescale))
    }
    return file
  }

  private static func ggufTensor(_ name: String, _ tensor: Draft, _ model: Model, rescale: Int) -> Draft {
    var draft = tensor
    let leaf = String(name.split(separator: ".").last ?? "")
    if leaf == "time_maa_w2" { draft = draft.swappingLastAxes }
    if (model.isVersion7 ? lowRank7 : lowRank6).contains(leaf) { draft = draft.transposed }
    if leaf == "r_k" { draft.shape = [model.width] }
    if draft.shape.prefix(2) == [1, 1] { draft.shape = [model.width] }
    let parts = name.split(separator: ".")
    if parts.count > 2, let layer = Int(parts[1]), !model.isVersion7, rescale > 0,
      name.hasSuffix("att.output.weight") || name.hasSuffix("ffn.value.weight")
    {
      draft = draft.mapped { $0 / Float(1 << (layer / rescale)) }
    }
    var new = name
    for (from, to) in [
      ("emb.", "token_embd."), ("ln_out.", "output_norm."), ("blocks.0.ln0.", "token_embd_norm."),
      ("blocks.", "blk."),
      ("ln1.", "attn_norm."), ("ln2.", "attn_norm_2."), ("att.ln_x.", "time_mix_ln."),
      ("att.time_maa_w1", "time_mix_w1"), ("att.time_maa_w2", "time_mix_w2"), ("time_faaaa", "first"),
      ("time_decay", "decay"), ("time_maa_", "lerp_"), ("ffn.x_k", "ffn.lerp_k"), ("att.", "time_mix_"),
      ("ffn.", "channel_mix_"),
    ] { new = new.replacing(from, with: to) }
    if new == "head.weight" { new = "output.weight" }
    draft.name = new.hasSuffix(".weight") || new.hasSuffix(".bias") ? new : new + ".weight"
    return draft
  }

  @Test(arguments: ["v6-hf", "v7-f32-small", "v7-hf"], [true, false])
  func filesOfLlamaCppReadAsTheirOriginals(name: String, fused: Bool) throws {
    let model = try Model(name)
    let checkpoint = try Checkpoint(
      path: folder.write("m.gguf", ForeignFileTests.gguf(model, fused: fused).bytes))
    #expect(checkpoint.source == "GGUF, llama.cpp names, F32")
    try expectSame(checkpoint, Checkpoint(path: model.path))
  }

  /// The shape of a square matrix does not tell which way it stands; where all are square, no other's does either.
  @Test(arguments: ["blocks.1.", "blocks."]) func squareLowRankMatricesAreTurned(prefix: String) throws {
    var model = try Model("v7-f32-small")
    let D = model.width
    for name in model.tensors.keys
    where name.hasPrefix(prefix) && Self.lowRank7.contains(where: { name.hasSuffix(".att." + $0) }) {
      model.tensors[name] = Draft(name, [D, D], (0..<D * D).map { Float($0 % 97) / 64 })
    }
    let original = try Checkpoint(path: folder.write("original.safetensors", safetensors(model.drafts)))
    try expectSame(Checkpoint(path: folder.write("m.gguf", Self.gguf(model).bytes)), original)
    try expectSame(
      Checkpoint(path: folder.write("m.bin", Self.rwkvCpp(model))), original, within: 1e-4)
  }

  /// The bytes of a file, and how often they were asked for.
  private final class Counted: RemoteBytes {
    let bytes: [UInt8]
    let reads = Atomic<Int>(0)
    var size: Int { bytes.count }

    init(_ bytes: [UInt8]) { self.bytes = bytes }

    func read(at offset: Int, into buffer: UnsafeMutableRawBufferPointer) -> String? {
      reads.add(1, ordering: .relaxed)
      buffer.copyBytes(from: bytes[offset..<offset + buffer.count])
      return nil
    }

    func willRead(_ ranges: [Range<Int>]) {}
  }

  /// Each may be a request to a server.
  @Test func headersAreReadInFewPieces() throws {
    let file = Counted(Self.gguf(try Model("v7-f32-small")).bytes)
    let path = folder.write("counted.gguf", [])
    SubstituteFiles.put(file, at: path)
    defer { SubstituteFiles.remove(path) }
    _ = try Checkpoint(path: path)
    let reads = file.reads.load(ordering: .relaxed)
    #expect((1...8).contains(reads), "\(reads)")
  }

  @Test func quantizedTensorsNeedAPermission() throws {
    var file = ForeignFileTests.gguf(try Model("v7-f32-small"))
    let index = try #require(file.tensors.firstIndex { $0.name == "blk.0.channel_mix_value.weight" })
    // One Q8_0 block: d = 0.5, codes 1…32; ffn.value [64, 256] has 8 of them in each of 64 rows.
    let block = littleEndian(UInt16(0x3800)) + Array(1...32)
    file.tensors[index].type = "Q8_0"
    file.tensors[index].bytes = (0..<64 * 8).flatMap { _ in block }
    let checkpoint = try Checkpoint(path: folder.write("m.gguf", file.bytes))
    let tensor = try #require(checkpoint.tensors.first { $0.name == "blocks.0.ffn.value.weight" })
    for step in [1, 5, 16, 256] {
      let found = try values(checkpoint, tensor, step: step)
      let expected = (0..<256).flatMap { row in [Float](repeating: 0.5 * Float(row % 32 + 1), count: 64) }
      #expect(found == expected)
    }
    file.tensors[index].type = "Q4_0"
    file.tensors[index].bytes = (0..<64 * 8).flatMap { _ in block.prefix(18) }
    let path = folder.write("q4.gguf", file.bytes)
    expectFailure(path, .unsupported, "already quantized", "Q4_0")
    #expect(throws: Never.self) { try Checkpoint(path: path, allowQuantized: true) }
  }

  /// Blocks of 32 values lie along the rows of a matrix that is read transposed: whole stripes at once, pieces of
  /// them, and pieces that begin or end within a block.
  @Test func quantizedTensorsAreReadFromAnyRow() throws {
    let (D, F) = (64, 800)
    var file = ForeignFileTests.gguf(try Model("v7-f32-small"))
    for (index, tensor) in file.tensors.enumerated() {
      if tensor.name.hasSuffix("channel_mix_key.weight") {
        file.tensors[index].shape = [F, D]
        file.tensors[index].bytes = [UInt8](repeating: 0, count: 4 * F * D)
      } else if tensor.name.hasSuffix("channel_mix_value.weight") {
        file.tensors[index].shape = [D, F]
        file.tensors[index].type = "Q8_0"
        // d = 2^(column % 4), codes that differ from value to value.
        var bytes: [UInt8] = []
        for block in 0..<D * F / 32 {
          bytes += littleEndian(UInt16(0x3C00 + 0x400 * (block / (F / 32) % 4)))
          for value in 0..<32 { bytes.append(UInt8(truncatingIfNeeded: 7 * block + 3 * value)) }
        }
        file.tensors[index].bytes = bytes
      }
    }
    let checkpoint = try Checkpoint(path: folder.write("m.gguf", file.bytes), allowQuantized: true)
    let tensor = try #require(checkpoint.tensors.first { $0.name == "blocks.0.ffn.value.weight" })
    #expect(tensor.rows == F && tensor.columns == D)
    for rows in [0..<F, 0..<256, 32..<300, 7..<270, 1..<F, 256..<F, 255..<512, 544..<F, 31..<32] {
      var found = [Float](repeating: .nan, count: rows.count * D)
      try found.withUnsafeMutableBufferPointer { try checkpoint.readRows(tensor, rows: rows, into: $0) }
      var expected: [Float] = []
      for row in rows {
        for column in 0..<D {
          let block = column * (F / 32) + row / 32
          let code = Int8(truncatingIfNeeded: 7 * block + 3 * (row % 32))
          expected.append(Float(1 << (column % 4)) * Float(code))
        }
      }
      #expect(found == expected, "\(rows)")
    }
  }

  /// Values as gguf-py 0.17.1 dequantizes these blocks.
  @Test func quantizedBlocksHaveTheirValues() throws {
    let file = try InputFile(path: packageRoot + "/Tests/Fixtures/ggml-blocks.json")
    let fixture = try file.json(limit: 1 << 20, depth: 4)
    for type in SourceType.allCases where type.blockLength > 1 {
      let entry = try #require(fixture[type.rawValue])
      let digits = Array(try #require(entry["bytes"]?.string).utf8)
      let bytes = try stride(from: 0, to: digits.count, by: 2).map { i in
        try #require(UInt8(String(decoding: digits[i...i + 1], as: UTF8.self), radix: 16))
      }
      let expected = try #require(entry["values"]?.array).map { Float($0.double ?? .nan) }
      #expect(bytes.count == 2 * type.blockBytes && expected.count == 2 * type.blockLength)
      // Against pages that nobody may touch, so that an access beyond the blocks is seen.
      for place in [GuardedMemory.Place.beforeAPage, .behindAPage] {
        let source = try #require(GuardedMemory(byteCount: bytes.count, place))
        let target = try #require(GuardedMemory(byteCount: 4 * expected.count, place))
        source.bytes.copyBytes(from: bytes)
        let found = target.bytes.bindMemory(to: Float.self)
        type.decode(
          try #require(source.bytes.baseAddress), count: expected.count, into: try #require(found.baseAddress)
        )
        #expect(found.elementsEqual(expected), "\(type)")
      }
    }
  }

  @Test func damagedGGUFIsRefused() throws {
    let sound = ForeignFileTests.gguf(try Model("v7-f32-small"))
    func refuse(_ kind: CheckpointError.Kind, _ word: String, _ change: (inout GGUFDraft) -> Void) {
      var file = sound
      change(&file)
      expectFailure(folder.write("m.gguf", file.bytes), kind, word)
    }
    refuse(.unsupported, "version") { $0.version = 2 }
    refuse(.unsupported, "rwkv6qwen2") { $0.metadata[0].2 = GGUFDraft.text("rwkv6qwen2") }
    refuse(.unsupported, "llama") { $0.metadata[0].2 = GGUFDraft.text("llama") }
    refuse(.malformed, "architecture") { $0.metadata.removeFirst() }
    refuse(.malformed, "twice") { $0.add("general.flag", 1) }
    refuse(.malformed, "alignment") { $0.add("general.alignment", 0) }
    refuse(.malformed, "alignment") { $0.add("general.alignment", 24) }
    refuse(.malformed, "alignment") { $0.add("general.alignment", 1 << 17) }
    refuse(.malformed, "unknown type 13") { $0.metadata.append(("x", 13, [])) }
    refuse(.malformed, "array of unknown type 9") {
      $0.metadata.append(("x", 9, [9, 0, 0, 0] + littleEndian(UInt64(1))))
    }
    refuse(.malformed, "array length") {
      $0.metadata.append(("x", 9, [0, 0, 0, 0] + littleEndian(UInt64.max)))
    }
    refuse(.malformed, "length of a text") { $0.metadata.append(("x", 8, littleEndian(UInt64.max))) }
    refuse(.malformed, "ends too early") { $0.metadata.append(("x", 8, littleEndian(UInt64(16_000_000)))) }
    refuse(.malformed, "occurs twice") { $0.tensors[1].name = $0.tensors[0].name }
    refuse(.malformed, "gap") { $0.offsetOfLast = 0 }
    refuse(.malformed, "offset") { $0.offsetOfLast = .max }
    refuse(.malformed, "shape") { $0.tensors[0].shape = [0, 4] }
    refuse(.malformed, "shape") { $0.tensors[0].shape = [1 << 40, 1 << 40] }
    refuse(.malformed, "number of axes") { $0.tensors[0].shape = [1, 1, 1, 1, 1] }
    refuse(.unsupported, "ggml type 99") { $0.tensors[0].type = "I32" }
    refuse(.mismatch, "65 in the GGUF metadata") { $0.metadata[5].2 = littleEndian(UInt32(65)) }
    refuse(.mismatch, "heads") { $0.metadata[7].2 = littleEndian(UInt32(48)) }
    refuse(.mismatch, "heads") { $0.metadata.remove(at: 7) }
    for count: UInt64 in [65_537, 1 << 32, .max] {
      var bytes = sound.bytes
      bytes.replaceSubrange(8..<16, with: littleEndian(count))
      expectFailure(folder.write("m.gguf", bytes), .malformed, "number of tensors")
      bytes = sound.bytes
      bytes.replaceSubrange(16..<24, with: littleEndian(count))
      expectFailure(folder.write("m.gguf", bytes), .malformed, "metadata entries")
    }
    for length in [4, 20, 100, sound.bytes.count / 2] {
      expectFailure(folder.write("m.gguf", sound.bytes.prefix(length)), .malformed)
    }
  }

  @Test func damagedBytesNeverCrash() throws {
    try fuzz(ForeignFileTests.gguf(Model("v7-f32-small")).bytes, in: folder, rounds: 1000)
    try fuzz(ForeignFileTests.rwkvCpp(Model("v7-f32-small")), in: folder, rounds: 1000)
  }
}

extension Draft {
  var floats: [Float] { bytes.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) } }

  func mapped(_ change: (Float) -> Float) -> Draft { Draft(name, shape, floats.map(change)) }

  /// [5, P, D] → [5, D, P]
  var swappingLastAxes: Draft {
    let (parts, rows, columns, all) = (shape[0], shape[1], shape[2], floats)
    var values: [Float] = []
    for part in 0..<parts {
      for column in 0..<columns {
        for row in 0..<rows { values.append(all[(part * rows + row) * columns + column]) }
      }
    }
    return Draft(name, [parts, columns, rows], values)
  }
}
