// SPDX-License-Identifier: MIT
import RWKV
import RWKVFormat
import RWKVQuantization
import Testing

/// All versions against the logits, states and greedy ids of the original implementations.
@Suite("Golden logits")
struct GoldenTests {
  static let cases = Golden.cases("v")

  @Test(arguments: cases)
  func decodingMatchesTheReference(_ golden: Golden) throws {
    let session = try Session(golden.model(), threads: 1)
    var logits: [Float] = []
    for token in try golden.tokens {
      try session.decode(token)
      logits += session.logits
    }
    #expect(distance(logits, try golden.expected("logits")) <= (try golden.tolerance))
  }

  @Test(arguments: cases)
  func prefillMatchesTheReference(_ golden: Golden) throws {
    let session = try Session(golden.model(), threads: 2)
    var logits: [Float] = []
    try session.forEachLogits(golden.tokens) { _, row in logits += row }
    #expect(distance(logits, try golden.expected("logits")) <= (try golden.tolerance))
  }

  @Test(arguments: cases)
  func greedyIdsMatchTheReference(_ golden: Golden) throws {
    let session = try Session(golden.model(), threads: 2)
    try session.prefill(golden.tokens)
    var ids: [Int] = []
    for _ in try golden.greedy {
      ids.append(argmax(session.logits))
      try session.decode(ids[ids.count - 1])
    }
    #expect(ids == (try golden.greedy))
  }

  @Test(arguments: cases)
  func finalStateMatchesTheReference(_ golden: Golden) throws {
    let model = try golden.model()
    let session = try Session(model, threads: 1)
    try session.prefill(golden.tokens)
    let tolerance = try golden.tolerance
    for layer in 0..<model.configuration.layers {
      let prefix = "state.blocks.\(layer)."
      #expect(
        distance(session.state.timeShift(layer), try golden.expected(prefix + "att_x_prev")) <= tolerance)
      #expect(
        distance(session.state.channelShift(layer), try golden.expected(prefix + "ffn_x_prev")) <= tolerance)
      let expected =
        model.configuration.version == .v4
        ? try ["aa", "bb", "pp"].flatMap { try golden.expected(prefix + $0) }
        : try golden.expected(prefix + "wkv")
      #expect(distance(session.state.wkv(layer), expected) <= tolerance)
    }
  }

  @Test(arguments: cases.filter { ["v7-std", "v6-std", "v7a-std", "v7b-std"].contains($0.name) })
  func longSequencesMatchTheReference(_ golden: Golden) throws {
    let session = try Session(golden.model(), threads: 2)
    let tokens = try #require(try golden.json("tokens_long.json") as? [Int])
    try session.prefill(tokens)
    let expected = try golden.expected("logits_last", in: "expected_long.safetensors")
    #expect(distance(session.logits, expected) <= (try golden.tolerance))
  }
}

/// What must hold for every version, weight type and thread count, bit for bit.
@Suite("Invariants")
struct InvariantTests {
  struct Case: CustomTestStringConvertible, Sendable {
    let golden: Golden
    let type: QuantizationType
    var testDescription: String { "\(golden.name) \(type)" }
  }

  static let cases = GoldenTests.cases.flatMap { golden in
    QuantizationType.allCases.map { Case(golden: golden, type: $0) }
  }

  /// Logits after every token, bit patterns.
  private func bits(_ session: Session, _ pieces: [[Int]]) throws -> [UInt32] {
    var result: [UInt32] = []
    for piece in pieces {
      try session.forEachLogits(piece) { _, logits in result += logits.map(\.bitPattern) }
    }
    return result
  }

  @Test(arguments: cases)
  func anySplitOfASequenceEqualsTheWhole(_ test: Case) throws {
    let model = try test.golden.model(test.type)
    // Longer than a block of the evaluator, so that block borders are crossed.
    let tokens = try test.golden.tokens + test.golden.tokens + test.golden.tokens
    let whole = try bits(Session(model, threads: 1), [tokens])
    #expect(try bits(Session(model, threads: 1), tokens.map { [$0] }) == whole)
    for lengths in [[1, 2, 3, 5, 8, 13, 21, 34, 33], [63, 1, 56], [64, 56]] {
      var rest = tokens[...]
      let pieces = lengths.map { length in
        defer { rest = rest.dropFirst(length) }
        return Array(rest.prefix(length))
      }
      #expect(try bits(Session(model, threads: 1), pieces) == whole)
    }
  }

  /// Of a prompt, only the last rows go through the last channel mixing.
  @Test(arguments: cases + Golden.cases("x-").map { Case(golden: $0, type: .int4) })
  func aPromptLeavesTheLogitsAndTheStateOfItsTokens(_ test: Case) throws {
    let model = try test.golden.model(test.type)
    let tokens = try test.golden.tokens
    let more = Array(tokens.prefix(3))
    for (count, threads) in [(2, 1), (3, 2), (64, 2), (67, 1)] {
      let prompt = Array((tokens + tokens + tokens).prefix(count))
      let (whole, single) = (try Session(model, threads: threads), try Session(model, threads: 1))
      try whole.prefill(prompt)
      for token in prompt { try single.decode(token) }
      #expect(whole.logits.map(\.bitPattern) == single.logits.map(\.bitPattern))
      #expect(whole.state.flat.map(\.bitPattern) == single.state.flat.map(\.bitPattern))
      #expect(try bits(whole, [more]) == bits(single, [more]))
    }
  }

  @Test(arguments: cases)
  func anyNumberOfThreadsGivesTheSameBits(_ test: Case) throws {
    let model = try test.golden.model(test.type)
    let tokens = try test.golden.tokens
    let pieces = [tokens] + tokens.prefix(8).map { [$0] }
    let one = try bits(Session(model, threads: 1), pieces)
    for threads in [2, 3, 4] {
      #expect(try bits(Session(model, threads: threads), pieces) == one)
    }
  }

  @Test(arguments: cases.filter { $0.type == .int4 })
  func copiedStatesContinueIndependently(_ test: Case) throws {
    let model = try test.golden.model(test.type)
    let tokens = try test.golden.tokens
    let session = try Session(model, threads: 2)
    try session.prefill(tokens)
    let fork = session.state.copy()
    let first = try bits(session, [tokens])
    session.state.assign(fork)
    #expect(try bits(session, [tokens]) == first)
    session.state.reset()
    #expect(try bits(session, [tokens]) == bits(Session(model, threads: 1), [tokens]))
  }
}
