// SPDX-License-Identifier: MIT
import RWKVFormat
import Testing

@testable import RWKVCheckpoint

/// Pickle opcodes, by hand.
struct PickleDraft {
  var bytes: [UInt8] = [0x80, 2]

  mutating func op(_ code: Character, _ argument: [UInt8] = []) {
    bytes += Array(String(code).utf8) + argument
  }
  mutating func text(_ text: String) { op("X", littleEndian(UInt32(text.utf8.count)) + text.utf8) }
  mutating func global(_ name: String) { op("c", Array(name.replacing(" ", with: "\n").utf8) + [0x0A]) }
  mutating func integer(_ value: Int) {
    if let value = Int32(exactly: value) {
      op("J", littleEndian(value))
    } else {
      bytes += [0x8A, 8] + littleEndian(value)
    }
  }
  mutating func tuple(_ values: [Int]) {
    op("(")
    values.forEach { integer($0) }
    op("t")
  }

  mutating func tensor(type: String, key: String, count: Int, offset: Int = 0, shape: [Int], strides: [Int]) {
    global("torch._utils _rebuild_tensor_v2")
    op("(")
    op("(")
    text("storage")
    global("torch " + type)
    text(key)
    text("cpu")
    integer(count)
    op("t")
    op("Q")
    integer(offset)
    tuple(shape)
    tuple(strides)
    bytes.append(0x89)
    global("collections OrderedDict")
    op(")")
    op("R")
    op("t")
    op("R")
  }
}

/// A stored ZIP archive as torch writes it. `change` may falsify the fields of one entry.
struct ZipDraft {
  struct Entry {
    var name: String
    var data: [UInt8]
    var flags: UInt16 = 0x0808
    var method: UInt16 = 0
    var localName: String?
    var localSize: UInt32 = 0
    var localOffset: UInt32?
    var size: UInt32?
    var crc: UInt32?
  }
  var entries: [Entry] = []
  var is64 = false
  var comment: [UInt8] = []

  var bytes: [UInt8] {
    var body: [UInt8] = []
    var directory: [UInt8] = []
    for entry in entries {
      let local = UInt32(body.count)
      let localName = Array((entry.localName ?? entry.name).utf8)
      body +=
        littleEndian(UInt32(0x0403_4B50)) + [0, 0] + littleEndian(entry.flags) + littleEndian(entry.method)
      body += [UInt8](repeating: 0, count: 8) + littleEndian(entry.localSize) + littleEndian(entry.localSize)
      body += littleEndian(UInt16(localName.count)) + [4, 0] + localName + [0x46, 0x42, 0, 0] + entry.data
      let size = entry.size ?? UInt32(entry.data.count)
      let shown: UInt32 = is64 ? .max : size
      directory += littleEndian(UInt32(0x0201_4B50)) + [0, 0, 0, 0] + littleEndian(entry.flags)
      directory += littleEndian(entry.method) + [0, 0, 0, 0] + littleEndian(entry.crc ?? crc32(entry.data))
      directory += littleEndian(shown) + littleEndian(shown) + littleEndian(UInt16(entry.name.utf8.count))
      directory += [is64 ? 28 : 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
      directory += littleEndian(is64 ? .max : entry.localOffset ?? local) + entry.name.utf8
      if is64 {
        directory += [1, 0, 24, 0] + littleEndian(UInt64(size)) + littleEndian(UInt64(size))
        directory += littleEndian(UInt64(entry.localOffset ?? local))
      }
    }
    let (start, size, count) = (body.count, directory.count, entries.count)
    var end: [UInt8] = []
    if is64 {
      end +=
        littleEndian(UInt32(0x0606_4B50)) + littleEndian(UInt64(44)) + [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
      end += littleEndian(UInt64(count)) + littleEndian(UInt64(count)) + littleEndian(UInt64(size))
      end += littleEndian(UInt64(start)) + littleEndian(UInt32(0x0706_4B50)) + [0, 0, 0, 0]
      end += littleEndian(UInt64(start + size)) + [1, 0, 0, 0]
    }
    end += littleEndian(UInt32(0x0605_4B50)) + [0, 0, 0, 0]
    end += littleEndian(is64 ? UInt16.max : UInt16(count)) + littleEndian(is64 ? UInt16.max : UInt16(count))
    end += littleEndian(is64 ? UInt32.max : UInt32(size)) + littleEndian(is64 ? UInt32.max : UInt32(start))
    return body + directory + end + littleEndian(UInt16(comment.count)) + comment
  }
}

/// A torch file with these tensors; those chosen by `transposing` as transposed views, vectors behind each other in
/// one storage.
func torchFile(_ drafts: [Draft], transposing: (Draft) -> Bool = { _ in false }) -> ZipDraft {
  var pickle = PickleDraft()
  var zip = ZipDraft()
  var vectors: [UInt8] = []
  pickle.op("}")
  pickle.op("(")
  let shared = drafts.indices.last.map { $0 + 1 } ?? 0
  let types = ["F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage"]
  let vectorCount = drafts.filter { $0.shape.count == 1 }.reduce(0) { $0 + $1.bytes.count / $1.valueBytes }
  for (index, draft) in drafts.enumerated() {
    let type = types[draft.type] ?? ""
    pickle.text(draft.name)
    if draft.shape.count == 1 {
      pickle.tensor(
        type: type, key: "\(shared)", count: vectorCount, offset: vectors.count / draft.valueBytes,
        shape: draft.shape, strides: [1])
      vectors += draft.bytes
    } else {
      let swapped = transposing(draft)
      var strides = draft.shape.indices.map { draft.shape[($0 + 1)...].reduce(1, *) }
      if swapped { strides = [1, draft.shape[0]] }
      pickle.tensor(
        type: type, key: "\(index)", count: draft.bytes.count / draft.valueBytes, shape: draft.shape,
        strides: strides)
      zip.entries.append(.init(name: "m/data/\(index)", data: swapped ? draft.transposed.bytes : draft.bytes))
    }
  }
  pickle.op("u")
  pickle.op(".")
  zip.entries.insert(.init(name: "m/data.pkl", data: pickle.bytes), at: 0)
  zip.entries.append(.init(name: "m/data/\(shared)", data: vectors))
  zip.entries.append(.init(name: "m/byteorder", data: Array("little".utf8)))
  zip.entries.append(.init(name: "m/version", data: Array("3\n".utf8)))
  return zip
}

@Suite("PyTorch checkpoints")
struct TorchTests {
  let folder = TemporaryFolder()
  let model = goldens + "/v7-f32-small/model.safetensors"

  @Test func torchFilesAreRead() throws {
    let checkpoint = try Checkpoint(path: goldens + "/v7-pth/model.pth")
    #expect(checkpoint.version == .v7 && checkpoint.layers == 3 && checkpoint.embedding == 64)
    #expect(checkpoint.source == "PyTorch, BlinkDL names, F16")
    // Values as torch.load gives them.
    let tensor = try #require(checkpoint.tensors.first { $0.name == "blocks.1.att.w1" })
    let found = try values(checkpoint, tensor)
    #expect([tensor.rows, tensor.columns] == [16, 64])
    #expect(
      Array(found.prefix(4)) == [
        0.08856201171875, -0.003009796142578125, 0.0232696533203125, 0.0244293212890625,
      ])
  }

  @Test(arguments: [false, true], [false, true])
  func tensorsReadAsInSafetensors(transposing: Bool, is64: Bool) throws {
    let drafts = try Safetensors.read(InputFile(path: model)).map { try Draft($0) }
    var zip = torchFile(drafts) { transposing && $0.shape.count == 2 }
    zip.is64 = is64
    try expectSame(Checkpoint(path: folder.write("m.pth", zip.bytes)), Checkpoint(path: model))
  }

  @Test func transposedStacksAreRead() throws {
    var drafts = try Safetensors.read(InputFile(path: model)).map { try Draft($0) }
    let names = ["r", "w", "k", "v", "a", "g"].map { "blocks.0.att.x_\($0)" }
    let parts = try names.map { name in try #require(drafts.first { $0.name == name }) }
    drafts.removeAll { names.contains($0.name) }
    var stacked = parts[0].renamed("blocks.0.att.x_x")
    stacked.shape = [6, parts[0].bytes.count / parts[0].valueBytes]
    stacked.bytes = parts.flatMap(\.bytes)
    drafts.append(stacked)
    let sound = folder.write("stacked.pth", torchFile(drafts).bytes)
    try expectSame(Checkpoint(path: sound), Checkpoint(path: model))
    let transposed = folder.write("transposed.pth", torchFile(drafts) { $0.name == stacked.name }.bytes)
    try expectSame(Checkpoint(path: transposed), Checkpoint(path: model))
  }

  @Test func transposedVectorsAreRead() throws {
    let path = goldens + "/v7-oddlora/model.safetensors"
    let drafts = try Safetensors.read(InputFile(path: path)).map { try Draft($0) }
    let zip = torchFile(drafts) { $0.name == "blocks.1.att.r_k" }
    try expectSame(Checkpoint(path: folder.write("m.pth", zip.bytes)), Checkpoint(path: path))
  }

  @Test func shardsOfTorchFilesAreRead() throws {
    let drafts = try Safetensors.read(InputFile(path: model)).map { try Draft($0) }
    let half = drafts.count / 2
    folder.write("a.bin", torchFile(Array(drafts[..<half])).bytes)
    folder.write("b.bin", torchFile(Array(drafts[half...])).bytes)
    let entries = drafts.enumerated().map { "\"\($1.name)\":\"\($0 < half ? "a" : "b").bin\"" }
    let map = "{\"weight_map\":{" + entries.joined(separator: ",") + "}}"
    folder.write("pytorch_model.bin.index.json", map.utf8)
    try expectSame(Checkpoint(path: folder.path), Checkpoint(path: model))
  }

  // MARK: Refusals

  private func refuse(_ zip: ZipDraft, _ kind: CheckpointError.Kind, _ word: String) {
    expectFailure(folder.write("m.pth", zip.bytes), kind, word)
  }

  @Test func damagedArchivesAreRefused() {
    let sound = torchFile([Draft("a", [2, 2], [1, 2, 3, 4]), Draft("b", [2], [1, 2])])
    refuse(sound, .unsupported, "no RWKV model")  // sound up to here
    func change(
      _ index: Int, _ kind: CheckpointError.Kind, _ word: String, _ edit: (inout ZipDraft.Entry) -> Void
    ) {
      var zip = sound
      edit(&zip.entries[index])
      refuse(zip, kind, word)
    }
    change(1, .unsupported, "compressed") { $0.method = 8 }
    change(1, .unsupported, "encrypted") { $0.flags |= 1 }
    change(1, .malformed, "headers") { $0.localName = "m/data/7" }
    change(1, .malformed, "headers") { $0.localSize = 5 }
    change(1, .malformed, "headers") { $0.localOffset = 3 }
    change(1, .malformed, "outside") { $0.localOffset = 0xFFFF_FFF0 }
    change(1, .malformed, "outside") { $0.size = 0x7FFF_FFFF }
    change(1, .malformed, "64-bit") { $0.size = .max }
    change(0, .malformed, "checksum") { $0.crc = 1 }
    change(0, .malformed, "overlaps") { $0.size = UInt32($0.data.count + 40) }
    change(1, .malformed, "storage") { $0.data.append(0) }
    change(1, .unsupported, "does not belong") { $0.name = "m/../../etc/passwd" }
    change(1, .unsupported, "does not belong") { $0.name = "x/data/0" }
    change(1, .unsupported, "does not belong") { $0.name = "m/code/a.py" }
    change(1, .malformed, "two entries") { $0.name = "m/version" }
    change(0, .unsupported, "does not belong") { $0.name = "m/data.pkl2" }
    change(3, .unsupported, "big-endian") { $0.data = Array("big".utf8) }
    var zip = sound
    zip.comment = [1, 2, 3]
    refuse(zip, .malformed, "end record")
    zip = sound
    zip.entries.remove(at: 0)
    refuse(zip, .malformed, "data.pkl")
    for length in [4, 21, 41, 100, sound.bytes.count - 1] {
      expectFailure(folder.write("m.pth", sound.bytes.prefix(length)), .malformed)
    }
    expectFailure(folder.write("m.pth", sound.bytes + [0]), .malformed, "end record")
    expectFailure(
      folder.write("m.pth", [0x80, 2, 0x8A, 10, 0, 0, 0, 0, 0]), .unsupported, "before version 1.6")
  }

  private func refuse(_ kind: CheckpointError.Kind, _ word: String, _ build: (inout PickleDraft) -> Void) {
    var pickle = PickleDraft()
    build(&pickle)
    var zip = ZipDraft()
    zip.entries = [
      .init(name: "m/data.pkl", data: pickle.bytes),
      .init(name: "m/data/0", data: [UInt8](repeating: 0, count: 16)),
    ]
    refuse(zip, kind, word)
  }

  @Test(arguments: [
    "os system", "posix system", "builtins eval", "builtins exec", "collections OrderedDict2",
    "torch._utils _rebuild_tensor", "collections\u{430} OrderedDict", "nt system",
    "torch.serialization load",
  ])
  func forbiddenNamesAreRefused(name: String) {
    refuse(.unsupported, "refers to") {
      $0.global(name)
      $0.text("echo")
      $0.bytes.append(0x85)
      $0.op("R")
      $0.op(".")
    }
  }

  @Test func damagedPicklesAreRefused() {
    refuse(.malformed, "ends too early") { _ in }
    refuse(.unsupported, "protocol 2 to 5") { $0.bytes[1] = 6 }
    refuse(.unsupported, "no dictionary") {
      $0.op("N"); $0.op(".")
    }
    refuse(.unsupported, "no dictionary") {
      $0.op("}"); $0.op("}"); $0.op(".")
    }
    refuse(.malformed, "empty stack") { $0.op("R") }
    refuse(.malformed, "empty stack") {
      $0.op("}"); $0.op("("); $0.op("q", [0])
    }
    // What lies below a mark is out of reach until the mark is gone.
    refuse(.malformed, "empty stack") {
      $0.op("}"); $0.text("a"); $0.op("("); $0.op("N"); $0.op("s"); $0.op(".")
    }
    refuse(.malformed, "empty stack") {
      $0.text("a"); $0.op("("); $0.op("N"); $0.bytes.append(0x86); $0.op(".")
    }
    refuse(.malformed, "mark") { $0.op("t") }
    refuse(.malformed, "never kept") { $0.op("h", [9]) }
    refuse(.malformed, "too long") { $0.bytes += [0x8A, 9] + [UInt8](repeating: 1, count: 9) }
    // A number that the pickle ends in.
    for length: UInt8 in 1...8 {
      let rest = [UInt8](repeating: 1, count: Int(length) - 1)
      refuse(.malformed, "too long") { $0.bytes += [0x8A, length] + rest }
    }
    refuse(.malformed, "damaged text") { $0.op("X", [255, 255, 255, 255]) }
    refuse(.malformed, "damaged text") { $0.op("X", [1, 0, 0, 0, 0xFF]) }
    refuse(.unsupported, "opcode") { $0.op("i", Array("os\nsystem\n".utf8)) }
    refuse(.malformed, "empty stack") { $0.bytes.append(0x93) }
    refuse(.malformed, "no function") {
      $0.text("os"); $0.op(")"); $0.op("R")
    }
    refuse(.malformed, "unknown way") {
      $0.global("torch FloatStorage"); $0.op(")"); $0.op("R")
    }
    refuse(.malformed, "no dictionary") {
      $0.op("]"); $0.op("N"); $0.op("N"); $0.op("s")
    }
    refuse(.malformed, "no list") {
      $0.op("}"); $0.op("N"); $0.op("a")
    }
    refuse(.malformed, "builds an object") {
      $0.op(")"); $0.op("}"); $0.op("b")
    }
    refuse(.malformed, "storage of an unknown form") {
      $0.op(")"); $0.op("Q")
    }
    refuse(.malformed, "without an end") { $0.op("c", [UInt8](repeating: 65, count: 300)) }
    refuse(.unsupported, "no text") {
      $0.op("}"); $0.op("N"); $0.op("N"); $0.op("s"); $0.op(".")
    }
    refuse(.unsupported, "else than a tensor") {
      $0.op("}"); $0.text("a"); $0.op("N"); $0.op("s"); $0.op(".")
    }
  }

  @Test func bombsStaySmall() {
    // Doubling tuples: 2⁴⁰⁰ leaves if anything walked them.
    refuse(.unsupported, "no dictionary") { pickle in
      pickle.op(")")
      for index in 0..<UInt8(200) {
        pickle.op("q", [index])
        pickle.op("h", [index])
        pickle.bytes.append(0x86)
      }
      pickle.op(".")
    }
    refuse(.malformed, "too large") { $0.bytes += [UInt8](repeating: UInt8(ascii: "("), count: 200_000) }
    refuse(.malformed, "too large") { $0.bytes += [UInt8](repeating: UInt8(ascii: "N"), count: 200_000) }
    // Nested as deep as it is long.
    refuse(.unsupported, "no dictionary") { pickle in
      pickle.op(")")
      pickle.bytes += [UInt8](repeating: 0x85, count: 500_000)
      pickle.op(".")
    }
    refuse(.malformed, "too large") { pickle in
      pickle.op(")")
      pickle.bytes += [UInt8](repeating: 0x85, count: 2_000_000)
      pickle.op(".")
    }
  }

  @Test func tensorsOutsideTheirStorageAreRefused() {
    func tensor(
      _ kind: CheckpointError.Kind, _ word: String, key: String = "0", count: Int = 4, offset: Int = 0,
      shape: [Int] = [2, 2], strides: [Int] = [2, 1]
    ) {
      refuse(kind, word) { pickle in
        pickle.op("}")
        pickle.text("emb.weight")
        pickle.tensor(
          type: "FloatStorage", key: key, count: count, offset: offset, shape: shape, strides: strides)
        pickle.op("s")
        pickle.op(".")
      }
    }
    tensor(.unsupported, "no RWKV model")  // sound up to here
    tensor(.malformed, "storage", key: "1")
    tensor(.malformed, "storage", key: "../0")
    tensor(.malformed, "storage", count: 5)
    tensor(.malformed, "storage", count: -4)
    tensor(.malformed, "storage", count: .max)
    tensor(.malformed, "outside its storage", offset: 1)
    tensor(.malformed, "outside its storage", offset: -1)
    tensor(.malformed, "outside its storage", offset: .max)
    tensor(.malformed, "outside its storage", shape: [-2, -2])
    tensor(.unsupported, "without values", shape: [0, 2])
    tensor(.malformed, "outside its storage", shape: [1 << 32, 1 << 32])
    tensor(.malformed, "outside its storage", shape: [.max, 2])
    tensor(.malformed, "outside its storage", strides: [.max, 1])
    tensor(.malformed, "outside its storage", strides: [3, 1])
    tensor(.unsupported, "no RWKV model", shape: [2], strides: [3])
    tensor(.malformed, "outside its storage", shape: [2], strides: [4])
    tensor(.unsupported, "repeats", strides: [0, 0])
    tensor(.unsupported, "repeats", shape: [4, 2], strides: [0, 1])
    tensor(.unsupported, "repeats", strides: [-2, 1])
    tensor(.unsupported, "repeats", strides: [2])
  }
}
