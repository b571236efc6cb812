// SPDX-License-Identifier: MIT
import Dispatch
import Glibc
import Testing

@testable import RWKVFormat

@Suite("Model file")
struct ModelFileTests {
  let folder = TemporaryFolder()

  @Test(arguments: [false, true])
  func whatIsWrittenIsRead(store: Bool) throws {
    let file = try writeModel(smallSamples, to: folder.file("a.rwkv"), store: store)
    #expect(file.metadata == sampleMetadata)
    #expect(file.tensors.map(\.name) == smallSamples.map(\.plan.name))
    #expect(file.size == UInt64(readBytes(file.path).count))
    for sample in smallSamples {
      let tensor = try #require(file[sample.plan.name])
      #expect(tensor.format == sample.plan.format)
      #expect(tensor.rows == sample.plan.rows && tensor.columns == sample.plan.columns)
      #expect(tensor.rowsPerRecord == sample.plan.rowsPerRecord)
      #expect(tensor.transposed == sample.plan.transposed)
      #expect(same(try contents(of: tensor, in: file), sample.raw))
      #expect((file.storedOffset(of: tensor) != nil) || !store)
    }
    #expect(file["missing"] == nil)
    try file.checkPadding()
  }

  /// Chunks: of 1 MiB, of the rest, of 16 KiB in tables; one record longer than 1 MiB; records of 16·odd bytes.
  static let large = [
    Sample("emb.weight", .int5, 100, 1440, by: 1),
    Sample("panels", .int4, 900, 4096, by: 16),
    Sample("rows", .int4, 2001, 1056, by: 1),
    Sample("wide", .f32, 17, 20_000, by: 16),
    Sample("random", .f16, 1, 600_000, by: 1, noise: true),
    Sample("bytes", .bytes, 1_100_001, 1, by: 1),
  ]

  /// Compression saves something for some chunks of a tensor only.
  @Test func aTensorOfStoredAndCompressedChunksIsReadButNotMapped() throws {
    let folder = TemporaryFolder()
    let plan = TensorPlan(name: "w", format: .f32, rows: 512, columns: 1024, rowsPerRecord: 16)
    let (noise, smooth) = (Sample(plan, noise: true, seed: 1), Sample(plan, noise: false, seed: 1))
    for noiseFirst in [true, false] {
      let half = noise.raw.count / 2
      let parts =
        noiseFirst ? [noise.raw[..<half], smooth.raw[half...]] : [smooth.raw[..<half], noise.raw[half...]]
      let sample = Sample(raw: parts.flatMap { $0 }, plan: plan)
      let file = try writeModel([sample], to: folder.file("m"), overwrite: true)
      let codecs = file.chunks.map(\.codec)
      #expect(codecs.contains(.stored) && codecs.contains(.zstd))
      #expect(file.storedOffset(of: file.tensors[0]) == nil)
      #expect(same(try contents(of: file.tensors[0], in: file), sample.raw))
    }
  }

  @Test func chunksFollowTheRules() throws {
    let file = try writeModel(Self.large, to: folder.file("large.rwkv"))
    for (sample, tensor) in zip(Self.large, file.tensors) {
      let lengths = (0..<tensor.chunkCount).map { file.rawLength(ofChunk: $0, of: tensor) }
      #expect(lengths.reduce(0, +) == tensor.rawBytes && tensor.rawBytes == sample.raw.count)
      #expect(lengths.dropLast().allSatisfy { $0 % 64 == 0 && $0 == lengths[0] })
      let limit = tensor.name == "emb.weight" ? 16 << 10 : 1 << 20
      #expect(lengths[0] <= limit || tensor.recordsPerChunk == 1)
      if tensor.chunkCount > 1 { #expect(lengths[0] > limit / 2) }
      #expect(same(try contents(of: tensor, in: file), sample.raw))
    }
    #expect(try #require(file["rows"]).recordsPerChunk % 4 == 0)  // 16·37 + … bytes
    #expect(try #require(file["wide"]).chunkCount == 2)
  }

  @Test func aStoredFileCanBeMapped() throws {
    let file = try writeModel(Self.large, to: folder.file("stored.rwkv"), store: true)
    let mapping = try FileMapping(file)
    for (sample, tensor) in zip(Self.large, file.tensors) {
      let offset = Int(try #require(file.storedOffset(of: tensor)))
      #expect(offset % (tensor.rawBytes >= 65_536 ? 4096 : 64) == 0)
      let mapped = UnsafeRawBufferPointer(rebasing: mapping.bytes[offset..<offset + tensor.rawBytes])
      #expect(same(mapped, sample.raw))
    }
  }

  /// Some chunks of a tensor can be compressed and others not, in any order.
  @Test(arguments: [[true, false], [false, true], [true, false, true]])
  func tensorsOfStoredAndCompressedChunksAreRead(noise: [Bool]) throws {
    let raw = noise.enumerated().flatMap { index, noise in
      Sample("", .f32, 1, 1 << 18, by: 1, noise: noise).raw
    }
    let plan = TensorPlan(name: "a", format: .f32, rows: noise.count, columns: 1 << 18, rowsPerRecord: 1)
    let file = try writeModel([Sample(raw: raw, plan: plan)], to: folder.file("m"))
    let tensor = try #require(file["a"])
    #expect(file.chunks.map { $0.codec == .stored } == noise && tensor.chunkCount == noise.count)
    #expect(file.storedOffset(of: tensor) == nil)
    #expect(same(try contents(of: tensor, in: file), raw))
  }

  /// formats/rwkv-v1.md: from 64 KiB on, stored tensors start at a page.
  @Test func tensorsOf64KiBStartAtAPage() throws {
    func offset(_ columns: Int) throws -> UInt64 {
      let samples = [
        Sample("a", .f16, 1, 32, by: 1, noise: true), Sample("b", .f16, 1, columns, by: 1, noise: true),
      ]
      let file = try writeModel(samples, to: folder.file("m"), store: true, overwrite: true)
      let tensor = try #require(file["b"])
      return try #require(file.storedOffset(of: tensor))
    }
    #expect(try offset(32_768 - 32) % 4096 != 0)
    #expect(try offset(32_768) % 4096 == 0)
    #expect(try offset(32_768 + 32) % 4096 == 0)
  }

  @Test func theNumberOfThreadsDoesNotChangeTheFile() throws {
    let one = folder.file("1.rwkv")
    try writeModel(Self.large, to: one)
    let plans = Self.large.map(\.plan)
    let writer = try ModelFileWriter(
      path: folder.file("2.rwkv"), overwrite: false, metadata: sampleMetadata, tensors: plans, store: false)
    for (index, sample) in Self.large.enumerated() {
      let count = writer.chunkCount(ofTensor: index)
      let encoded = UnsafeMutableBufferPointer<EncodedChunk?>.allocate(capacity: count)
      encoded.initialize(repeating: nil)
      defer { encoded.deinitialize().deallocate() }
      nonisolated(unsafe) let slots = encoded
      DispatchQueue.concurrentPerform(iterations: count) { chunk in
        let records = writer.recordRange(ofTensor: index, chunk: chunk)
        let bytes = writer.tensors[index].recordBytes
        slots[chunk] = sample.raw[records.lowerBound * bytes..<records.upperBound * bytes].withUnsafeBytes {
          try? writer.encode($0, chunk: chunk, ofTensor: index, using: ChunkWriter())
        }
      }
      for chunk in encoded { try writer.append(try #require(chunk)) }
    }
    try writer.finish()
    #expect(same(readBytes(one), readBytes(folder.file("2.rwkv"))))
  }

  @Test func chunksAreReadByManyThreads() throws {
    let file = try writeModel(Self.large, to: folder.file("parallel.rwkv"))
    let tensor = try #require(file["panels"])
    let all = UnsafeMutableRawBufferPointer.allocate(byteCount: tensor.rawBytes, alignment: 64)
    defer { all.deallocate() }
    nonisolated(unsafe) let target = all
    DispatchQueue.concurrentPerform(iterations: tensor.chunkCount) { chunk in
      let records = tensor.records(ofChunk: chunk)
      let piece = target[records.lowerBound * tensor.recordBytes..<records.upperBound * tensor.recordBytes]
      try? file.readChunk(
        chunk, of: tensor, into: UnsafeMutableRawBufferPointer(rebasing: piece), using: ChunkReader())
    }
    #expect(same(UnsafeRawBufferPointer(all), Self.large[1].raw))
  }

  @Test func identityDependsOnTheModelAlone() throws {
    let compressed = try writeModel(smallSamples, to: folder.file("a"))
    #expect(try writeModel(smallSamples, to: folder.file("b"), store: true).identity == compressed.identity)
    var metadata = sampleMetadata
    metadata["writer"] = .string("another")
    let noTokenizer = Array(smallSamples.dropLast())
    #expect(
      try writeModel(noTokenizer, to: folder.file("c"), metadata: metadata).identity == compressed.identity)
    metadata["rwkv.layers"] = .integer(2)
    #expect(
      try writeModel(smallSamples, to: folder.file("d"), metadata: metadata).identity != compressed.identity)
    let others = [Sample(smallSamples[0].plan, noise: false, seed: 1)] + smallSamples.dropFirst()
    #expect(try writeModel(others, to: folder.file("e")).identity != compressed.identity)
  }
}

@Suite("Model file writer")
struct ModelFileWriterTests {
  let folder = TemporaryFolder()

  private func begin(_ path: String, overwrite: Bool = false) throws -> ModelFileWriter {
    try ModelFileWriter(
      path: path, overwrite: overwrite, metadata: sampleMetadata, tensors: smallSamples.map(\.plan),
      store: false)
  }

  @Test func anUnfinishedFileLeavesNothingBehind() throws {
    do {
      let writer = try begin(folder.file("m.rwkv"))
      // A file without a name, or one whose name nobody takes for a model.
      #expect([[], [".m.rwkv.\(getpid()).partial"]].contains(folder.names))
      try smallSamples[0].raw.withUnsafeBytes { try writer.write($0, tensor: 0, using: ChunkWriter()) }
    }
    #expect(folder.names == [])
  }

  @Test func anExistingFileIsKeptUnlessItMayBeOverwritten() throws {
    let path = folder.file("m.rwkv")
    writeBytes([1, 2, 3], path)
    #expect(throws: ModelFileError(.exists, path: path)) { try begin(path) }
    #expect(readBytes(path) == [1, 2, 3])
    let file = try writeModel(smallSamples, to: path, overwrite: true)
    #expect(file.tensors.count == smallSamples.count)
    #expect(folder.names == ["m.rwkv"])
  }

  @Test func aFileThatAppearsMeanwhileIsKept() throws {
    let path = folder.file("m.rwkv")
    let writer = try begin(path)
    for (index, sample) in smallSamples.enumerated() {
      try sample.raw.withUnsafeBytes { try writer.write($0, tensor: index, using: ChunkWriter()) }
    }
    writeBytes([1, 2, 3], path)
    #expect(throws: ModelFileError(.exists, path: path)) { try writer.finish() }
    #expect(readBytes(path) == [1, 2, 3])
  }

  @Test func anExistingFileSurvivesAnUnfinishedOverwrite() throws {
    let path = folder.file("m.rwkv")
    writeBytes([1, 2, 3], path)
    do { _ = try begin(path, overwrite: true) }
    #expect(readBytes(path) == [1, 2, 3])
    #expect(folder.names == ["m.rwkv"])
  }

  @Test func aMissingFolderIsAnError() {
    let path = folder.file("missing/m.rwkv")
    #expect(throws: ModelFileError(.system(call: "create", errno: ENOENT), path: path)) { try begin(path) }
  }

  @Test(arguments: [
    TensorPlan(name: "", format: .f32, rows: 1, columns: 1, rowsPerRecord: 1),
    TensorPlan(name: "a/b", format: .f32, rows: 1, columns: 1, rowsPerRecord: 1),
    TensorPlan(name: "a", format: .f32, rows: 0, columns: 1, rowsPerRecord: 1),
    TensorPlan(name: "a", format: .f32, rows: 1, columns: 1 << 31, rowsPerRecord: 1),
    TensorPlan(name: "a", format: .f32, rows: 1 << 31, columns: 1, rowsPerRecord: 1),
    TensorPlan(name: "a", format: .f32, rows: 1, columns: 1, rowsPerRecord: 8),
    TensorPlan(name: "a", format: .f32, rows: 1, columns: 5 << 20, rowsPerRecord: 1),
    TensorPlan(name: "a", format: .bytes, rows: 1, columns: 2, rowsPerRecord: 1),
    TensorPlan(name: "a", format: .f32, rows: .max, columns: .max, rowsPerRecord: 1),
  ])
  func impossibleTensorsAreRefused(plan: TensorPlan) {
    #expect(throws: ModelFileError.self) {
      try ModelFileWriter(
        path: folder.file("m"), overwrite: false, metadata: Metadata(), tensors: [plan], store: true)
    }
    #expect(folder.names == [])
  }

  @Test func namesAreUnique() throws {
    let plans = [smallSamples[0].plan, smallSamples[1].plan, smallSamples[0].plan]
    let error = #expect(throws: ModelFileError.self) {
      try ModelFileWriter(
        path: folder.file("m"), overwrite: false, metadata: Metadata(), tensors: plans, store: true)
    }
    #expect(error?.description.contains("'emb.weight' twice") == true)
    #expect(folder.names == [])
  }

  @Test func impossibleMetadataIsRefused() {
    for (key, value) in [
      ("UPPER", .bool(true)), ("", .bool(true)), (String(repeating: "a", count: 65), .bool(true)),
      ("a", .number(.nan)), ("a", .string("nul\0")), ("a", .string(String(repeating: "x", count: 1_048_577))),
      ("a", .integers(.init(repeating: 0, count: 65_537))),
    ] as [(String, MetadataValue)] {
      var metadata = Metadata()
      metadata[key] = value
      #expect(throws: ModelFileError.self) { try metadata.encoded() }
    }
  }
}

@Suite("Available threads")
struct AvailableThreadsTests {
  @Test func areAsManyAsAreWantedWhereNothingLimitsThem() {
    for wanted in 0...4 { #expect(availableThreads(wanted) == max(1, wanted)) }
  }
}
