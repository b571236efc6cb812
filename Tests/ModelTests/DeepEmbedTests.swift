// SPDX-License-Identifier: MIT
import RWKVFormat
import RWKVQuantization
import Testing

@testable import RWKV

/// What RWKV-7a and 7b have beyond the others. Their logits, cuts, threads and states are among the tests of all
/// versions.
@Suite("DeepEmbed")
struct DeepEmbedTests {
  static let cases = Golden.cases("v7a") + Golden.cases("v7b")
  static let withAttention = Golden.cases("v7b")

  @Test func bothAreTested() {
    #expect(Self.cases.contains { $0.name.hasPrefix("v7a") } && !Self.withAttention.isEmpty)
  }

  /// Every weight format of the tables.
  @Test(arguments: cases, QuantizationType.allCases)
  func tablesGetTheFormatOfTheType(_ golden: Golden, _ type: QuantizationType) throws {
    let model = try golden.model(type)
    let file = try ModelFile(path: model.path)
    #expect(file.metadata.string("rwkv.version") == String(golden.name.dropFirst().prefix(2)))
    let formats: [QuantizationType: [WeightFormat]] = [
      .int4Small: [.int4], .int4: [.int4], .int5: [.int5], .int8: [.int8], .fp16: [.f16, .bf16],
      .fp32: [.f32],
    ]
    let tables = file.tensors.filter { $0.name.hasSuffix("_emb.weight") }
    let perLayer = golden.name.hasPrefix("v7b") ? 3 : 1
    #expect(tables.count == perLayer * model.configuration.layers)
    for table in tables {
      #expect(table.rows == model.configuration.vocabulary && table.rowsPerRecord == 1)
      #expect(formats[type]?.contains(table.format) == true, "\(table.name) \(table.format.name)")
      // Rows are read alone: a small part of the table at a time.
      #expect(table.recordsPerChunk * table.recordBytes <= 16 << 10)
    }
    // They are no weights that every token reads.
    let weights = file.tensors.filter { $0.format != .bytes && !TensorInfo.isTable($0.name) }
    #expect(model.weightBytes == TensorGroups.byteCount(weights))
  }

  @Test(arguments: withAttention)
  func theStateHasTheReferencesQueries(_ golden: Golden) throws {
    let model = try golden.model()
    let session = try Session(model, threads: 2)
    try session.prefill(golden.tokens)
    for layer in 0..<model.configuration.layers {
      let query = session.state.flat[session.state.layout.attentionShift(layer)...].prefix(256)
      let expected = try golden.expected("state.blocks.\(layer).qkv.q_prev")
      #expect(distance(query, expected) <= (try golden.tolerance))
    }
    #expect(session.state.caches.allSatisfy { $0.count == (try? golden.tokens.count) })
  }

  @Test(arguments: Golden.cases("v7b") + Golden.cases("v7a-std"))
  func longSequencesMatchAtEveryPosition(_ golden: Golden) throws {
    guard let tokens = try? golden.json("tokens_long.json") as? [Int] else { return }
    let described = try #require(golden.json("case.json") as? [String: Any])
    let positions = try #require((described["long"] as? [String: Any])?["saved_positions"] as? [Int])
    let expected = try golden.expected("logits", in: "expected_long.safetensors")
    let V = try golden.model().configuration.vocabulary
    for pieces in [[tokens.count], [1, 99, 64, tokens.count - 164]] {
      let session = try Session(golden.model(), threads: 2)
      var (logits, start): ([[Float]], Int) = ([], 0)
      for count in pieces {
        try session.forEachLogits(Array(tokens[start..<start + count])) { _, row in logits.append(Array(row))
        }
        start += count
      }
      for (index, position) in positions.enumerated() {
        let row = expected[index * V..<(index + 1) * V]
        #expect(distance(logits[position], row) <= (try golden.tolerance), "position \(position)")
      }
    }
  }

  @Test(arguments: withAttention)
  func beyondItsContextEvaluationFailsAndNothingIsForgotten(_ golden: Golden) throws {
    let path = try golden.model(.int4).path
    let model = try Model(path: path, threads: 2, maximumContext: 20)
    #expect(model.maximumContext == 20)
    let tokens = Array((try golden.tokens).prefix(20))
    let (session, free) = (try Session(model, threads: 2), try Session(golden.model(.int4), threads: 2))
    try session.prefill(Array(tokens.prefix(15)))
    func fails(_ body: () throws -> Void) {
      #expect { try body() } throws: { error in
        guard case .contextFull(20)? = (error as? ModelError)?.reason else { return false }
        return "\(error)".contains("20 tokens")
      }
    }
    fails { try session.prefill(tokens) }
    try session.prefill(Array(tokens.suffix(5)))
    try free.prefill(tokens)
    #expect(session.logits.map(\.bitPattern) == free.logits.map(\.bitPattern))
    let before = try session.state.encoded()
    fails { try session.decode(tokens[0]) }
    #expect(try session.state.encoded() == before)
    // Such a state has no room in a model that was opened for less.
    let small = try Model(path: path, threads: 1, maximumContext: 19)
    #expect { try small.loadState(bytes: before) } throws: { error in
      guard case .tooLong(tokens: 20, limit: 19)? = (error as? StateFileError)?.reason else { return false }
      return "\(error)".contains("remembers 20 tokens") && "\(error)".contains("--max-context")
    }
    // What is left of memory is the bound where none is given.
    #expect(try #require(golden.model(.int4).maximumContext) >= 1024)
    #expect(try Golden.cases("v7-std")[0].model(.int4).maximumContext == nil)
    let limited = try Model(path: path, threads: 1, memoryLimit: residentMemory() + (64 << 20))
    let most = try #require(limited.maximumContext) * limited.configuration.bytesPerToken
    #expect(limited.streaming == nil && most < 64 << 20)
    // Among several states it is shared.
    let shared = try Model(path: path, threads: 1, memoryLimit: residentMemory() + (64 << 20), states: 3)
    let share = try #require(shared.maximumContext) * shared.configuration.bytesPerToken
    #expect(share * 2 < most && share > 1024)
  }

  /// The cache grows by what the configuration says; a copy has one of its own.
  @Test(arguments: withAttention)
  func statesGrowWithTheirTokens(_ golden: Golden) throws {
    let model = try golden.model(.int4)
    let session = try Session(model, threads: 1)
    let empty = session.state.byteCount
    for _ in 0..<8 { try session.prefill(golden.tokens) }
    let tokens = try 8 * golden.tokens.count
    #expect(session.state.byteCount >= empty + tokens * model.configuration.bytesPerToken)
    let copy = session.state.copy()
    try session.decode(1)
    let continued = session.logits.map(\.bitPattern)
    session.state.assign(copy)
    try session.decode(1)
    #expect(session.logits.map(\.bitPattern) == continued)
  }

  @Test(arguments: cases)
  func vectorsHaveNoRowInTheTables(_ golden: Golden) throws {
    let model = try golden.model(.int4)
    let session = try Session(model, threads: 1)
    let vectors = [Float](repeating: 0, count: model.configuration.embedding)
    vectors.withUnsafeBufferPointer { vectors in
      #expect { try session.prefill(vectors: vectors) } throws: {
        if case .needsTokens? = ($0 as? ModelError)?.reason { true } else { false }
      }
    }
  }

  /// Several conversations of different length in one pass.
  @Test(arguments: cases)
  func batchesEqualOneByOne(_ golden: Golden) throws {
    let model = try golden.model(.int8)
    let tokens = try golden.tokens
    let batch = try Batch(model, threads: 2)
    var states: [State] = []
    var sessions: [Session] = []
    for count in [0, 3, 20] {
      for _ in 0..<2 {
        let session = try Session(model, threads: 1)
        if count > 0 { try session.prefill(Array(tokens.prefix(count))) }
        if states.count == sessions.count {
          states.append(session.state.copy())
          sessions.append(session)
        }
      }
    }
    for step in 0..<3 {
      let next = states.indices.map { tokens[(5 * $0 + step) % tokens.count] }
      try batch.decode(next, states)
      for index in states.indices {
        try sessions[index].decode(next[index])
        #expect(batch.logits(index).map(\.bitPattern) == sessions[index].logits.map(\.bitPattern))
      }
    }
  }
}
