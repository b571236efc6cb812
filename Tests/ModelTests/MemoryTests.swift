// SPDX-License-Identifier: MIT
import Foundation
import RWKVFormat
import RWKVQuantization
import Synchronization
import Testing

@testable import RWKV

/// Weights in memory, in the mapped file or streamed from it: the same numbers, within the memory that is allowed.
@Suite("Memory")
struct MemoryTests {
  static let cases = Golden.cases("v") + Golden.cases("x-")

  /// A converted golden checkpoint, with all chunks stored if `stored`.
  private func path(
    _ golden: Golden, _ type: QuantizationType, stored: Bool, recipe: String? = nil
  ) throws -> String {
    let key = "\(golden.name)-\(type)\(stored ? "-stored" : "")\(recipe.map { "-\($0.hashValue)" } ?? "")"
    return try TemporaryFiles.shared.path(for: key) { path in
      var options = ConversionOptions()
      options.type = type
      options.recipe = try recipe.map { try Recipe($0, path: "recipe") }
      options.overwrite = true
      options.store = stored
      _ = try Conversion.convert(golden.checkpoint.path, to: path, options)
    }
  }

  /// Opens a model of which blocks of `room` bytes stay in memory.
  private func streamed(_ path: String, room: Int = 0) throws -> Model {
    try Model(path: path, threads: 2) { file, configuration in
      let groups = TensorGroups(file, configuration)
      return MemoryPlan(streaming: groups, of: file, room: room, limit: 0, minimum: 0)
    }
  }

  /// Bit patterns of the logits of `tokens` in one piece, then token by token, and of the final state.
  private func bits(_ model: Model, _ tokens: [Int], threads: Int) throws -> [UInt32] {
    let session = try Session(model, threads: threads)
    var result: [UInt32] = []
    try session.forEachLogits(tokens) { _, logits in result += logits.map(\.bitPattern) }
    for token in tokens.prefix(5) {
      try session.decode(token)
      result += session.logits.map(\.bitPattern)
    }
    return result + (0..<session.state.count).map { session.state.values[$0].bitPattern }
  }

  @Test(arguments: cases, [QuantizationType.int4, .fp32])
  func mappedWeightsGiveTheSameBitsAsLoadedOnes(_ golden: Golden, _ type: QuantizationType) throws {
    let loaded = try Model(path: path(golden, type, stored: false), threads: 2)
    let mapped = try Model(path: path(golden, type, stored: true), threads: 2)
    #expect(mapped.store.isMapped)
    let tokens = try golden.tokens
    #expect(try bits(mapped, tokens, threads: 2) == bits(loaded, tokens, threads: 1))
  }

  @Test(arguments: cases, [false, true])
  func streamedWeightsGiveTheSameBitsAsResidentOnes(_ golden: Golden, _ stored: Bool) throws {
    let path = try path(golden, .int4, stored: stored)
    let piece = try golden.tokens
    // Longer than a pass, so that the state crosses borders of blocks of rows and of passes.
    // 7b keeps at most 1024 tokens unless more are allowed.
    let length = golden.name.hasPrefix("v7b") ? 700 : 1100
    let tokens = stored ? piece : Array(repeatElement(piece, count: length / piece.count + 1).joined())
    let expected = try bits(Model(path: path), tokens, threads: 1)
    let model = try streamed(path)
    #expect(model.streaming?.streamedBlocks == model.configuration.blocks.count)
    #expect(try bits(model, tokens, threads: 2) == expected)
    #expect(try bits(model, piece, threads: 1) == bits(Model(path: path), piece, threads: 1))
    // With half of the blocks in memory.
    let bytes = try #require(model.streaming?.streamedBytes)
    let partly = try streamed(path, room: bytes / 2 + bytes / 8)
    #expect(try #require(partly.streaming).streamedBytes < bytes)
    #expect(try bits(partly, piece, threads: 2) == bits(Model(path: path), piece, threads: 1))
  }

  /// Embedding and head as int8 keeps them in models where they are small, which these are not.
  @Test(arguments: cases, ["fp16", "fp32"])
  func otherFormatsOfEmbeddingAndHeadGiveTheSameBits(_ golden: Golden, _ format: String) throws {
    func path(stored: Bool) throws -> String {
      try self.path(
        golden, .int8, stored: stored, recipe: "emb.weight \(format)\nhead.weight \(format)")
    }
    let loaded = try Model(path: path(stored: false))
    let tokens = try golden.tokens
    let expected = try bits(loaded, tokens, threads: 1)
    #expect(try bits(Model(path: path(stored: true)), tokens, threads: 2) == expected)
    for stored in [false, true] {
      #expect(try bits(streamed(path(stored: stored)), tokens, threads: 2) == expected)
    }
    let session = try Session(loaded, threads: 2)
    var inTurn: [UInt32] = []
    for token in tokens {
      try session.decode(token)
      inTurn += session.logits.map(\.bitPattern)
    }
    #expect(expected.starts(with: inTurn))
    let file = try ModelFile(path: path(stored: true))
    #expect(file["head.weight"]?.format != .int8 && file["blocks.0.ffn.key.weight"]?.format == .int8)
  }

  @Test func aLimitBelowTheMinimumIsRefusedWithTheMinimum() throws {
    let golden = try #require(Golden.cases("v7-std").first)
    let path = try path(golden, .int4, stored: false)
    #expect {
      _ = try Model(path: path, threads: 1, memoryLimit: 1 << 20)
    } throws: { error in
      guard case .memoryLimit(1 << 20, let minimum) = (error as? ModelError)?.reason else { return false }
      return minimum > 1 << 20 && "\(error)".contains("\((minimum + (1 << 20) - 1) >> 20) MiB")
    }
  }

  @Test(arguments: cases)
  func scratchStaysWithinThePlan(_ golden: Golden) throws {
    let path = try path(golden, .int4, stored: false)
    let file = try ModelFile(path: path)
    let model = try Model(path: path)
    let evaluator = try Evaluator(model, threads: 1)
    // Models this small have ranks as large as D, and the ends of pages count: part of the plan's allowance.
    #expect(evaluator.scratchBytes <= MemoryPlan.sessionBytes(file, model.configuration) + (1 << 20))
  }

  /// Every block has limits of its own for the rows of its value matrix.
  @Test func thePlanCountsTheLimitsOfEveryBlock() throws {
    let golden = try #require(Golden.cases("v7-std").first)
    let file = try ModelFile(path: path(golden, .int4, stored: false))
    let configuration = try golden.model(.int4).configuration
    let (D, T, V) = (configuration.embedding, Evaluator.capacity, configuration.vocabulary)
    let hidden = try #require(file["blocks.0.ffn.key.weight"]).rows
    let limits = configuration.layers * HiddenSums.limitsBytes(units: hidden, columns: D)
    let parts = [
      4 * State.Layout(configuration).count, MemoryPlan.activationBytes(configuration, hiddenUnits: hidden),
      limits, 4 * T * paddedWidth(V), 4 * T * paddedWidth(D),
    ]
    #expect(configuration.layers > 1 && MemoryPlan.sessionBytes(file, configuration) == parts.reduce(0, +))
  }

  @Test func sessionsOfAStreamedModelTakeTurns() async throws {
    let golden = try #require(Golden.cases("v7-std").first)
    let model = try streamed(path(golden, .int4, stored: false))
    let tokens = try golden.tokens
    let expected = try bits(Model(path: model.path), tokens, threads: 1)
    try await withThrowingTaskGroup(of: Bool.self) { group in
      for _ in 0..<4 { group.addTask { try bits(model, tokens, threads: 2) == expected } }
      for try await isEqual in group { #expect(isEqual) }
    }
  }

  @Test func aStreamedModelMayGoWhileItsNextBlockIsInflated() throws {
    let golden = try #require(Golden.cases("v7-std").first)
    let path = try path(golden, .int4, stored: false)
    // The background thread is at work whenever a token is done.
    for _ in 0..<200 { try Session(streamed(path), threads: 1).decode(1) }
  }

  @Test func twoModelsOfOneStoredFileShareIt() throws {
    let golden = try #require(Golden.cases("v7-std").first)
    let path = try path(golden, .int4, stored: true)
    let (first, second) = (try Model(path: path), try Model(path: path))
    let tokens = try golden.tokens
    #expect(try bits(first, tokens, threads: 1) == bits(second, tokens, threads: 2))
  }

  @Test func aMissingTokenizerIsReportedBeforeWeightsAreRead() throws {
    let golden = try #require(Golden.cases("v7-std").first)
    let path = try path(golden, .int4, stored: false)
    let bare = path + "-bare"
    var bytes = try Data(contentsOf: URL(filePath: path))
    let key = try #require(bytes.range(of: Data("tokenizer.kind".utf8)))
    bytes.replaceSubrange(key, with: Data("tokenizer.none".utf8))
    // The checksums of the index and of the header: formats/rwkv-v1.md, section 1.
    func count(_ offset: Int) -> Int {
      (0..<4).reduce(0) { $0 + Int(bytes[offset + $1]) << (8 * $1) }
    }
    let end = 64 + count(28) + 48 * count(20) + 24 * count(24) + count(32)
    func seal(_ range: Range<Int>, at offset: Int) {
      let hash = XXH64.hash(Array(bytes[range]))
      for index in 0..<8 { bytes[offset + index] = UInt8(truncatingIfNeeded: hash >> (8 * index)) }
    }
    seal(64..<end, at: 48)
    seal(0..<56, at: 56)
    try bytes.write(to: URL(filePath: bare))

    let hasLoaded = Atomic<Bool>(false)
    @Sendable func progress(_ share: Double) -> Bool {
      hasLoaded.store(true, ordering: .relaxed)
      return true
    }
    #expect {
      _ = try Model(path: bare, requiresTokenizer: true) { progress($0) }
    } throws: { "\($0)".contains("no tokenizer") && "\($0)".contains(bare) }
    let hadLoaded = hasLoaded.load(ordering: .relaxed)
    #expect(!hadLoaded)
    #expect(try Model(path: bare) { progress($0) }.tokenizer == nil)
    let hasLoadedNow = hasLoaded.load(ordering: .relaxed)
    #expect(hasLoadedNow)
  }

  // MARK: - Files that change

  /// A stored copy that the test may destroy.
  private func copy(_ golden: Golden) throws -> String {
    let source = try path(golden, .int4, stored: true)
    let copy = source + "-\(UUID().uuidString)"
    try FileManager.default.copyItem(atPath: source, toPath: copy)
    return copy
  }

  private func damageKeys(_ path: String) throws { try damage(path, "blocks.1.att.key.weight", at: 100) }

  /// Changes one byte of a tensor.
  private func damage(_ path: String, _ name: String, at place: Int) throws {
    let file = try ModelFile(path: path)
    let tensor = try #require(file[name])
    let offset = try Int(#require(file.storedOffset(of: tensor))) + place
    let descriptor = open(path, O_RDWR)
    defer { close(descriptor) }
    var byte: UInt8 = 0
    try #require(pread(descriptor, &byte, 1, off_t(offset)) == 1)
    byte ^= 0x5A
    try #require(pwrite(descriptor, &byte, 1, off_t(offset)) == 1)
  }

  @Test func aMappedFileThatShrinksIsAnError() throws {
    let golden = try #require(Golden.cases("v7-std").first)
    let path = try copy(golden)
    let session = try Session(Model(path: path), threads: 2)
    try session.prefill(golden.tokens)
    let before = session.state.copy()
    #expect(truncate(path, 8192) == 0)
    #expect { try session.decode(1) } throws: { "\($0)".contains("another program changed the file") }
    // It was noticed before anything was computed.
    #expect((0..<before.count).allSatisfy { session.state.values[$0] == before.values[$0] })
  }

  @Test func missingPagesOfAMappingReadAsZerosAndAreReported() throws {
    let golden = try #require(Golden.cases("v7-std").first)
    let path = try copy(golden)
    let mapping = try FileMapping(ModelFile(path: path))
    try mapping.check()
    #expect(truncate(path, 8192) == 0)
    // These pages are gone: without a guard, reading them would kill the process.
    #expect(mapping.bytes.suffix(1 << 16).allSatisfy { $0 == 0 })
    #expect(throws: ModelFileError.self) { try mapping.check() }
  }

  @Test func aMappedFileThatIsWrittenToWithinTheSameSecondIsAnError() throws {
    let golden = try #require(Golden.cases("v7-std").first)
    let path = try copy(golden)
    func setTime(_ nanoseconds: Int) {
      let time = timespec(tv_sec: 1_700_000_000, tv_nsec: nanoseconds)
      #expect(utimensat(AT_FDCWD, path, [time, time], 0) == 0)
    }
    setTime(1)
    let session = try Session(Model(path: path), threads: 1)
    try session.decode(1)
    setTime(2)
    #expect { try session.decode(1) } throws: { "\($0)".contains("another program changed the file") }
  }

  @Test func damagedMappedWeightsAreFoundByTheFirstEvaluation() throws {
    let golden = try #require(Golden.cases("v7-std").first)
    let path = try copy(golden)
    try damageKeys(path)
    let session = try Session(Model(path: path), threads: 2)
    for _ in 0..<2 {
      #expect { try session.decode(1) } throws: { "\($0)".contains("blocks.1.att.key.weight") }
    }
  }

  @Test func damagedStreamedWeightsAreFoundByEachEvaluation() throws {
    let golden = try #require(Golden.cases("v7-std").first)
    let path = try copy(golden)
    // The first block, which is read to see how fast that goes, is whole.
    try damageKeys(path)
    let session = try Session(streamed(path), threads: 2)
    let logits = [Float](repeating: 0, count: session.model.configuration.vocabulary)
    for _ in 0..<3 {
      session.resume(logits)
      #expect { try session.decode(1) } throws: { "\($0)".contains("blocks.1.att.key.weight") }
      #expect((0..<session.state.count).allSatisfy { session.state.values[$0] == 0 })
      #expect(session.logits.isEmpty)
    }
  }

  /// A chunk of the embedding that cannot be read leaves nothing of itself to the tokens of the chunk before it.
  @Test func damagedRowsOfTheEmbeddingSpoilNoOthers() throws {
    let golden = try #require(Golden.cases("v7-std").first)
    let whole = try Session(Model(path: path(golden, .int4, stored: true)), threads: 1)
    try whole.decode(1)
    let path = try copy(golden)
    let table = try #require(ModelFile(path: path)["emb.weight"])
    let last = table.rows - 1
    #expect(last >= table.recordsPerChunk && 1 < table.recordsPerChunk)
    try damage(path, "emb.weight", at: last * table.recordBytes)
    let session = try Session(Model(path: path), threads: 1)
    for _ in 0..<2 {
      session.state.reset()
      try session.decode(1)
      #expect(session.logits.map(\.bitPattern) == whole.logits.map(\.bitPattern))
      #expect { try session.decode(last) } throws: { "\($0)".contains("emb.weight") }
    }
  }

  @Test func aStreamedFileThatIsChangedIsAnErrorThoughItsChecksumsHaveBeenCompared() throws {
    let golden = try #require(Golden.cases("v7-std").first)
    let path = try copy(golden)
    let session = try Session(streamed(path), threads: 2)
    try session.prefill(golden.tokens)
    let before = session.state.copy()
    try damageKeys(path)
    for _ in 0..<2 {
      #expect { try session.decode(1) } throws: { "\($0)".contains("another program changed the file") }
      // It was noticed before anything was computed.
      #expect((0..<before.count).allSatisfy { session.state.values[$0] == before.values[$0] })
    }
  }

  @Test func aStreamedFileThatShrinksIsAnError() throws {
    let golden = try #require(Golden.cases("v7-std").first)
    let path = try copy(golden)
    let session = try Session(streamed(path), threads: 2)
    try session.prefill(golden.tokens)
    let before = session.state.copy()
    #expect(truncate(path, 8192) == 0)
    #expect { try session.decode(1) } throws: { "\($0)".contains("another program changed the file") }
    #expect((0..<before.count).allSatisfy { session.state.values[$0] == before.values[$0] })
  }

  @Test func theTimeOfAPassIsMeasuredBetweenEvaluations() throws {
    let golden = try #require(Golden.cases("v7-std").first)
    let path = try path(golden, .int4, stored: false)
    let (model, tokens) = (try streamed(path), try golden.tokens)
    let expected = try bits(Model(path: path), tokens, threads: 1)
    for _ in 0..<2 {
      #expect(try bits(model, tokens, threads: 2) == expected)
      let seconds = try model.secondsPerPass(threads: 2)
      #expect(try #require(seconds) > 0)
    }
    #expect(try Model(path: path).secondsPerPass(threads: 2) == nil)
  }

  // MARK: - Over time

  @Test func memoryStaysFlatOver20000Tokens() throws {
    let golden = try #require(Golden.cases("v7-std").first)
    let session = try Session(golden.model(.int4), threads: 1)
    let V = session.model.configuration.vocabulary
    for token in 0..<2000 { try session.decode(token * 7919 % V) }
    // Other tests run in this process meanwhile, but a state that grew by its own size per 100 tokens would show in
    // each of ten stretches.
    let growth = try (0..<10).map { _ in
      let before = residentMemory()
      for token in 0..<2000 { try session.decode(token * 7919 % V) }
      return residentMemory() - before
    }
    #expect(growth.contains { $0 < 2000 / 100 * session.state.count * 4 })
  }
}
