// SPDX-License-Identifier: MIT
import RWKV
import RWKVCheckpoint
import Testing

@testable import RWKVFormat
@testable import RWKVQuantization

@Suite("Verification")
struct VerificationTests {
  let folder = TemporaryFolder()

  /// Writes a copy of `file` with some tensors' plans or bytes changed; nil leaves a tensor out.
  private func forge(
    _ file: ModelFile, metadata: Metadata? = nil, _ change: (String, inout TensorPlan, inout [UInt8]) -> Bool
  ) throws -> [String] {
    var (plans, contents): ([TensorPlan], [[UInt8]]) = ([], [])
    for tensor in file.tensors {
      var (plan, bytes) = (TensorPlan(tensor), try raw(file, tensor))
      guard change(tensor.name, &plan, &bytes) else { continue }
      plans.append(plan)
      contents.append(bytes)
    }
    let path = folder.file("forged.rwkv")
    let writer = try ModelFileWriter(
      path: path, overwrite: true, metadata: metadata ?? file.metadata, tensors: plans, store: false)
    for (number, bytes) in contents.enumerated() {
      try bytes.withUnsafeBytes { try writer.write($0, tensor: number, using: ChunkWriter()) }
    }
    try writer.finish()
    return try Verification.problems(of: path)
  }

  private func model(_ type: QuantizationType, _ name: String = "v7-std") throws -> ModelFile {
    try convert(golden(name), to: folder.file("m.rwkv"), type)
  }

  @Test func aSoundFileHasNoProblems() throws {
    #expect(try forge(model(.int4)) { _, _, _ in true } == [])
  }

  @Test func missingAndForeignTensorsAreNamed() throws {
    let file = try model(.int4)
    let problems = try forge(file) { name, plan, _ in
      if name == "blocks.1.att.w0" { plan.name = "blocks.1.att.w9" }
      return name != "blocks.2.ffn.key.weight"
    }
    #expect(problems.count == 3)
    for name in ["'blocks.1.att.w0' is missing", "'blocks.2.ffn.key.weight' is missing", "blocks.1.att.w9"] {
      #expect(problems.contains { $0.contains(name) }, "\(name)")
    }
  }

  @Test func wrongShapesAndMetadataAreNamed() throws {
    let file = try model(.int4)
    var metadata = file.metadata
    metadata["rwkv.layers"] = .integer(4)
    #expect(
      try forge(file, metadata: metadata) { _, _, _ in true }.contains { $0.contains("blocks.3.ln1.weight") })
    // Not a list of what millions of layers lack.
    metadata["rwkv.layers"] = .integer(1 << 24)
    #expect(
      try forge(file, metadata: metadata) { _, _, _ in true } == [
        "metadata 'rwkv.layers' is 16777216, expected an integer in 1…4096; make the file again with rwkv-quantize"
      ])
    metadata["rwkv.layers"] = .integer(4096)
    #expect(
      try forge(file, metadata: metadata) { _, _, _ in true } == [
        "metadata 'rwkv.layers' is 4096, expected at most the \(file.tensors.count) tensors there are; "
          + "make the file again with rwkv-quantize"
      ])
    metadata["rwkv.layers"] = nil
    #expect(try forge(file, metadata: metadata) { _, _, _ in true }.contains { $0.contains("rwkv.layers") })
    let problems = try forge(file) { name, plan, _ in
      if name == "blocks.0.ln0.weight" { plan.columns -= 1 }  // padded: the same bytes
      return true
    }
    #expect(problems.count == 1 && problems.first?.contains("[1, 127], expected [1, 128]") == true)
  }

  /// A file whose parts contradict each other is refused when it is opened, with the words of `verify`.
  @Test(arguments: ["v4-hf", "v50-std", "v52-hf", "v6-hf", "v7-std", "x-one"])
  func opensWhatIsSoundAndNothingElse(name: String) throws {
    let file = try model(.int4, name)
    typealias Change = (String, inout TensorPlan, inout [UInt8]) -> Bool
    func check(_ what: String, _ key: String? = nil, _ value: MetadataValue? = nil, _ change: Change) throws {
      var metadata = file.metadata
      if let key { metadata[key] = value }
      let problems = try forge(file, metadata: metadata, change)
      #expect(!problems.isEmpty, "\(what)")
      do {
        _ = try Model(path: folder.file("forged.rwkv"), threads: 1)
        Issue.record("\(what): opened")
      } catch { #expect(problems.contains { "\(error)".contains($0) }, "\(what): \(error), not \(problems)") }
    }
    #expect(try forge(file) { _, _, _ in true } == [])
    _ = try Model(path: folder.file("forged.rwkv"), threads: 1)

    try check("ffn", "rwkv.ffn", .integer(1)) { _, _, _ in true }
    try check("fewer layers", "rwkv.layers", .integer(1)) { _, _, _ in true }
    try check("more layers", "rwkv.layers", .integer(9)) { _, _, _ in true }
    try check("vocabulary", "rwkv.vocabulary", .integer(7)) { _, _, _ in true }
    let weights = file.tensors.filter { $0.format != .bytes }
    for tensor in stride(from: 0, to: weights.count, by: 7).map({ weights[$0] }) {
      try check("unknown \(tensor.name)") { name, plan, _ in
        if name == tensor.name { plan.name = "evil.weight" }
        return true
      }
      guard tensor.columns % 32 != 1 else { continue }
      try check("shape of \(tensor.name)") { name, plan, _ in
        if name == tensor.name { plan.columns -= 1 }  // padded: the same bytes
        return true
      }
    }
    guard file.metadata.string("rwkv.version") == "x" else { return }
    for (key, values) in [
      ("layers", [0, 4097]), ("chunk_size", [0, 1 << 62]), ("top_k", [0, 1 << 62]),
      ("max_kv_cache", [1 << 62]),
      ("min_kv_cache", [1 << 62]), ("kv_window", [1 << 24]),
    ] {
      for value in values {
        try check("\(key) \(value)", "rwkv.x.\(key)", .integer(Int64(value))) { _, _, _ in true }
      }
    }
  }

  @Test(arguments: [QuantizationType.int4, .int5, .int8, .fp32])
  func damageIsFoundWhereverItIs(type: QuantizationType) throws {
    let file = try model(type)
    let bytes = readBytes(file.path)
    for place in stride(from: 3, to: bytes.count, by: bytes.count / 61) {
      var damaged = bytes
      damaged[place] ^= 0x10
      writeBytes(damaged, folder.file("damaged.rwkv"))
      #expect(try Verification.problems(of: folder.file("damaged.rwkv")) != [], "byte \(place)")
    }
  }

  /// Values that checksums cannot tell from good ones.
  @Test(arguments: [
    (QuantizationType.int4, "blocks.0.att.key.weight", 1, UInt8(0x7C), "scale d"),
    (.int4, "blocks.0.att.key.weight", 64, 0x60, "block scale -32"),
    (.int5, "blocks.0.att.key.weight", 64, 0xC0, "block scale -64"),
    (.int8, "blocks.0.att.key.weight", 128 + 4 * 3 + 2, 0, "invalid code 0"),
    (.int8, "emb.weight", 16 + 16 + 127, 0, "invalid code 0"),
    (.int4, "blocks.0.ffn.value.weight", 16, 0x20, "block scale -32"),
    (.fp16, "head.weight", 1, 0x7F, "NaN or infinity"),
    (.fp32, "head.weight", 3, 0x7F, "NaN or infinity"),
  ])
  func invalidValuesAreFound(
    type: QuantizationType, name: String, place: Int, byte: UInt8, expected: String
  ) throws {
    let problems = try forge(model(type)) { tensor, _, bytes in
      if tensor == name {
        bytes[place] = byte
        if expected.hasPrefix("NaN") { bytes[place - 1] |= 0x80 }
      }
      return true
    }
    #expect(problems.count == 1 && problems.first?.contains(expected) == true, "\(problems)")
  }

  /// Re-packing would give what is broken new, right checksums.
  @Test(arguments: [
    (QuantizationType.int8, "emb.weight", 0, UInt8(0xFF)), (.int4, "blocks.0.ffn.value.weight", 16, 0x20),
    (.fp32, "blocks.1.ln1.weight", 3, 0x7F), (.fp16, "head.weight", 1, 0x7F),
  ])
  func whatIsBrokenIsNotRepacked(type: QuantizationType, name: String, place: Int, byte: UInt8) throws {
    let problems = try forge(model(type)) { tensor, _, bytes in
      guard tensor == name else { return true }
      bytes[place] = byte
      if place > 0, byte != 0x20 { bytes[place - 1] = 0xFF }
      if place == 0 { bytes[1] = 0xFF }
      return true
    }
    #expect(problems.count == 1)
    for type in [nil, QuantizationType.int4] {
      #expect {
        try convert(folder.file("forged.rwkv"), to: folder.file("again.rwkv"), type)
      } throws: { "\($0)" == problems.first }
    }
    #expect(!folder.contents.contains("again.rwkv"))
    // A tensor whose checksum, or whose padding, is another.
    let sound = try convert(golden("v7-std"), to: folder.file("sound.rwkv"), type)
    let end = sound.chunks[0].offset + UInt64(sound.chunks[0].length)
    try #require(sound.chunks[1].offset > end)
    var bytes = readBytes(sound.path)
    bytes[Int(end)] = 1
    writeBytes(bytes, folder.file("forged.rwkv"))
    #expect { try convert(folder.file("forged.rwkv"), to: folder.file("again.rwkv")) } throws: {
      "\($0)".contains("padding after a chunk")
    }
  }

  @Test func paddingMayBeZero() throws {
    // Rows of the last panel and columns of the last block that do not exist have the INT8 code 0.
    let file = try convert(golden("v7-oddlora"), to: folder.file("m.rwkv"), .int8)
    #expect(file.tensors.contains { $0.rowsPerRecord == 16 && $0.rows % 16 != 0 || $0.columns % 32 != 0 })
    #expect(try Verification.problems(of: file.path) == [])
  }

  /// Panels of two runs of codes, of 128 columns and the rest, with padding behind the last column and the last row.
  @Test func invalidCodesAreToldFromPadding() throws {
    let (D, V) = (144, 250)
    let source = folder.write("small.safetensors", smallModel(embedding: D, vocabulary: V))
    let file = try convert(source, to: folder.file("m.rwkv"), .int8) { $0.measuresLoss = false }
    let head = try #require(file["head.weight"])
    let runs = head.layout.runs()[3]
    try #require(head.format == .int8 && head.rowsPerRecord == 16 && runs.count == 2)
    for row in [0, 17, 249, 250, 255] {
      for column in [0, 1, 127, 128, 143, 144, 159] {
        // Lines of 64 bytes have 4 columns of 16 rows.
        let start = runs[column / 128].offset + column % 128 / 4 * 64
        let problems = try forge(file) { name, _, bytes in
          let place = row / 16 * head.recordBytes + start + row % 16 * 4 + column % 4
          if name == "head.weight" { bytes[place] = 0 }
          return true
        }
        guard row < V, column < D else {
          #expect(problems == [], "row \(row), column \(column)")
          continue
        }
        let place = "the invalid code 0 in record \(row / 16), column \(column)"
        #expect(problems.count == 1 && problems.first?.hasSuffix(place) == true, "\(problems)")
      }
    }
  }

  @Test func aTokenizerThatDoesNotFitIsFound() throws {
    let file = try model(.int4)
    var metadata = file.metadata
    metadata["tokenizer.kind"] = .string("world")
    #expect(try forge(file, metadata: metadata) { _, _, _ in true }.count == 1)
    metadata["tokenizer.kind"] = .string("other")
    #expect(try forge(file, metadata: metadata) { _, _, _ in true }.count == 1)
  }

  @Test(arguments: ["", "not a model"]) func otherFilesAreNotModels(text: String) throws {
    let path = folder.write("other.rwkv", Array(text.utf8))
    #expect(try Verification.problems(of: path).count == 1)
  }
}

@Suite("Summary")
struct SummaryTests {
  @Test func countsAgreeWithTheCheckpoint() throws {
    let folder = TemporaryFolder()
    let checkpoint = try Checkpoint(path: golden("v7-std"))
    let file = try convert(golden("v7-std"), to: folder.file("m.rwkv"), .int4)
    let summary = ModelSummary(file)
    #expect(summary.version == "7" && summary.layers == checkpoint.layers)
    #expect(summary.parameters == checkpoint.tensors.reduce(0) { $0 + $1.rows * $1.columns })
    #expect(summary.fileBytes == readBytes(file.path).count)
    #expect(summary.formats.map(\.format) == [.int4, .int8, .int5, .f32])
    #expect(summary.formats.reduce(0) { $0 + $1.tensors } == checkpoint.tensors.count)
    #expect(summary.storedBytes < summary.fileBytes && summary.storedBytes > summary.fileBytes * 9 / 10)
    #expect(summary.bitsPerWeight < summary.bitsPerWeightInMemory)
  }
}
