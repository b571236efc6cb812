// SPDX-License-Identifier: MIT
import Foundation
import RWKVFormat
import RWKVQuantization
import Testing

@testable import RWKV

/// EmbeddingRWKV and its reranker against what the original implementations compute from the same checkpoints.
@Suite("Embedding models")
struct EmbeddingModelTests {
  static let embedder = EmbeddingCase()
  static let heads: [(task: EmbeddingTask, name: String)] = [
    (.retrieval, "retr"), (.sts, "sts"), (.classification, "cls"),
  ]

  @Test(arguments: heads.map(\.task))
  func vectorsMatchTheReference(_ task: EmbeddingTask) throws {
    let (golden, head) = (Self.embedder, try #require(Self.heads.first { $0.task == task }?.name))
    let evaluator = try Evaluator(golden.model(), threads: 2)
    var options = EmbeddingOptions()
    (options.task, options.normalizes) = (task, false)
    let texts = try golden.texts
    let together = try evaluator.embeddings(texts.map { Array($0.dropLast()) }, nil, options)
    for (index, vector) in together.enumerated() {
      let expected = try golden.golden.expected("text.\(index).\(head)")
      #expect(distance(vector, expected) <= (try golden.golden.tolerance), "text \(index)")
      // Alone it is the same, bit for bit, and scaled it has length 1.
      let alone = try Session(golden.model(), threads: 1)
      let tokens = Array(texts[index].dropLast())
      #expect(try alone.embedding(tokens, options).map(\.bitPattern) == vector.map(\.bitPattern))
      var scaled = EmbeddingOptions()
      scaled.task = task
      let unit = try alone.embedding(tokens, scaled)
      #expect(abs(unit.reduce(0) { $0 + $1 * $1 } - 1) < 1e-5)
      let length = vector.reduce(0) { $0 + $1 * $1 }.squareRoot()
      #expect(distance(unit.map { $0 * length }, vector) < 1e-4)
    }
  }

  /// Decoding, prefill and pieces leave the reference's hidden vectors and state.
  @Test(arguments: [0, 1, 7])
  func hiddenVectorsAndStatesMatchTheReference(_ piece: Int) throws {
    let golden = Self.embedder
    let tolerance = try golden.golden.tolerance
    for (index, tokens) in try golden.texts.enumerated() {
      let session = try Session(golden.model(), threads: 2)
      var hidden: [Float] = []
      for start in stride(from: 0, to: tokens.count, by: piece == 0 ? tokens.count : piece) {
        let part = tokens[start..<min(tokens.count, start + (piece == 0 ? tokens.count : piece))]
        try session.forEachHidden(Array(part)) { _, row in hidden += row }
      }
      let prefix = "text.\(index).state.blocks."
      #expect(distance(hidden, try golden.golden.expected("text.\(index).rows")) <= tolerance)
      for layer in 0..<session.model.configuration.layers {
        let wkv = try golden.golden.expected("\(prefix)\(layer).wkv")
        #expect(distance(session.state.wkv(layer), wkv) <= tolerance)
        let shift = try golden.golden.expected("\(prefix)\(layer).att_x_prev")
        #expect(distance(session.state.timeShift(layer), shift) <= tolerance)
      }
    }
  }

  @Test(arguments: QuantizationType.allCases)
  func everyTypeGivesTheSameBitsForAnyThreadsAndCompany(_ type: QuantizationType) throws {
    let model = try Self.embedder.model(type)
    let texts = try Self.embedder.texts.map { Array($0.dropLast()) }
    let reference = try Evaluator(model, threads: 1).embeddings(texts)
    for threads in [2, 3] {
      let evaluator = try Evaluator(model, threads: threads)
      // Twice as many texts: others share the passes.
      let found = try evaluator.embeddings(texts.reversed() + texts).suffix(texts.count)
      #expect(Array(found) == reference)
    }
    #expect(
      zip(reference, try Evaluator(Self.embedder.model(), threads: 1).embeddings(texts))
        .allSatisfy { zip($0, $1).reduce(0) { $0 + $1.0 * $1.1 } > 0.9 })
  }

  @Test func theFileSaysWhatItIs() throws {
    let embedder = ModelSummary(try ModelFile(path: Self.embedder.model().path))
    #expect((embedder.version, embedder.kind) == ("7", "embedding"))
    let reranker = ModelSummary(try ModelFile(path: RerankerTests.reranker.model().path))
    #expect((reranker.version, reranker.kind, reranker.vocabulary) == ("7", "reranker", 1))
    #expect(reranker.metadata.integers("rwkv.state_layers") == [2, 0])
    let plain = ModelSummary(try ModelFile(path: Golden.cases("v7-std")[0].model(.int4).path))
    #expect(plain.kind == "language")
    for path in try [Self.embedder.model().path, RerankerTests.reranker.model().path] {
      #expect(try Verification.problems(of: path) == [])
    }
  }

  /// What predicts no text is not asked for any, and what makes no vectors for none.
  @Test func otherKindsAreRefusedByName() throws {
    func refuses(_ kind: ModelKind, _ body: () throws -> Void) {
      #expect { try body() } throws: {
        if case .wrongKind(kind, _)? = ($0 as? ModelError)?.reason { true } else { false }
      }
    }
    let embedder = try Self.embedder.model(.int4)
    let session = try Session(embedder, threads: 1)
    refuses(.embedding) { try session.prefill([1, 2]) }
    refuses(.embedding) { try session.decode(1) }
    refuses(.embedding) { _ = try session.scores([1], targets: [2]) }
    refuses(.embedding) {
      _ = try Scheduler(embedder, threads: 1).submit(Request(prompt: [1], limit: 1) { _ in })
    }
    #expect(session.logits.isEmpty)
    let reranker = try RerankerTests.reranker.model()
    refuses(.reranker) { _ = try Session(reranker, threads: 1).embedding([]) }
    refuses(.reranker) { _ = try DocumentReader(reranker) }
    // It has no tokenizer; that is not what is wrong.
    refuses(.reranker) { _ = try Session(reranker, threads: 1).generate("a") }
    refuses(.reranker) { _ = try Model.requireTokenizer(path: reranker.path) }
    for kinds: [ModelKind] in [[.language], [.embedding], [.embedding, .language]] {
      refuses(.reranker) { _ = try Model(path: reranker.path, kinds: kinds, requiresTokenizer: true) }
    }
    #expect(try Model(path: embedder.path, kinds: [.language, .embedding]).configuration.kind == .embedding)
    let language = try Golden.cases("v7-std")[0].model(.int4)
    refuses(.language) { _ = try DocumentReader(language) }
    let reader = try DocumentReader(Self.embedder.withBytes(), threads: 1)
    refuses(.language) { _ = try Reranker(reader, language, threads: 1) }
    // Damaged or forged files.
    for value in ["language", "other"] {
      var metadata = embedder.metadata
      metadata["rwkv.kind"] = .string(value)
      #expect(throws: ModelError.self) { try Configuration(metadata) }
    }
    var small = embedder.metadata
    small["rwkv.vocabulary"] = .integer(65_535)
    #expect(throws: ModelError.self) { try Configuration(small) }
    var layers = reranker.metadata
    layers["rwkv.state_layers"] = .integers([0])
    #expect(throws: ModelError.self) { try Configuration(layers) }
  }
}

@Suite("Reranker")
struct RerankerTests {
  static let reranker = Golden.cases("rerank-std")[0]

  @Test func scoresMatchTheReference() throws {
    let (golden, tolerance) = (Self.reranker, try Self.reranker.tolerance)
    let embedder = try EmbeddingModelTests.embedder.withBytes()
    let reranker = try Reranker(DocumentReader(embedder, threads: 1), golden.model(), threads: 2)
    let texts = try #require(golden.json("texts.json") as? [[String: Any]])
    let states = try texts.map { text in
      let ids = try #require(text["ids"] as? [Int])
      let state = embedder.newState()
      try Evaluator(embedder, threads: 2).read(.tokens(ids[...]), state, output: .none) { _, _ in true }
      return state
    }
    for (index, state) in states.enumerated() {
      for layer in 0..<3 {
        let expected = try golden.expected("input.\(index).blocks.\(layer).wkv", in: "states.safetensors")
        #expect(distance(state.wkv(layer), expected) <= tolerance)
      }
    }
    let scores = try reranker.scores(after: states)
    #expect(distance(scores, try golden.expected("scores")) <= tolerance)
    let probabilities = scores.map { Float(Reranker.probability($0)) }
    #expect(distance(probabilities, try golden.expected("probabilities")) <= tolerance)
    #expect(try reranker.scores(after: [states[2]]) == [scores[2]])
  }

  /// The prompt's tokens are those of its two parts, where the vocabulary is at hand.
  @Test(
    .enabled("needs ../shared/tokenizers") {
      FileManager.default.fileExists(atPath: EmbeddingCase.vocabulary)
    })
  func textsBecomeTheReferencesTokens() throws {
    let path = try TemporaryFiles.shared.path(for: "emb-std-world") { path in
      var options = ConversionOptions()
      (options.type, options.tokenizer) = (.fp32, .file(EmbeddingCase.vocabulary))
      _ = try Conversion.convert(EmbeddingModelTests.embedder.golden.checkpoint.path, to: path, options)
    }
    let reader = try DocumentReader(Model(path: path), threads: 1)
    let reranker = try Reranker(reader, Self.reranker.model(), threads: 1)
    let texts = try #require(Self.reranker.json("texts.json") as? [[String: Any]])
    var scores: [Float] = []
    for text in texts {
      let (document, query) = (
        try #require(text["document"] as? String), try #require(text["query"] as? String)
      )
      let first = try reader.tokens(ofDocument: Array(document.utf8))
      #expect(first.count == text["document_tokens"] as? Int)
      #expect(try first + reader.tokens(ofQuery: Array(query.utf8)) == text["ids"] as? [Int])
      scores += try reranker.scores(query: Array(query.utf8), texts: [Array(document.utf8)])
    }
    #expect(distance(scores, try Self.reranker.expected("scores")) <= (try Self.reranker.tolerance))
  }

  /// Scoring ends after any pass: over documents, and over the query behind them.
  @Test func scoringEndsAfterAnyPass() throws {
    let reader = try DocumentReader(EmbeddingModelTests.embedder.withBytes(), threads: 1)
    let reranker = try Reranker(reader, Self.reranker.model(), threads: 1)
    let query = [UInt8](repeating: UInt8(ascii: "a"), count: 500)
    let texts = ["b", "c"].map { Array($0.utf8) }
    func scores(passes most: Int) throws -> (passes: Int, scores: [Float]) {
      var passes = 0
      let scores = try reranker.scores(query: query, texts: texts) { _ in
        passes += 1
        #expect(passes <= most)
        return passes < most
      }
      return (passes, scores)
    }
    let whole = try scores(passes: .max)
    #expect(whole.passes >= 2 * 500 / 64)
    for most in 1...whole.passes {
      #expect { try scores(passes: most) } throws: {
        if case .cancelled? = ($0 as? ModelError)?.reason { true } else { false }
      }
    }
    #expect(try scores(passes: .max).scores == whole.scores)
  }

  /// With states made once, in company, saved and loaded: the same scores.
  @Test func keptStatesGiveTheSameBits() throws {
    let model = try EmbeddingModelTests.embedder.withBytes()
    let documents = (0..<70).map { Array(String(repeating: "document \($0) ", count: 1 + $0 % 5).utf8) }
    let reader = try DocumentReader(model, threads: 2)
    let reranker = try Reranker(reader, Self.reranker.model(), threads: 2)
    let query = Array("what?".utf8)
    let scores = try reranker.scores(query: query, texts: documents)
    #expect(Set(scores).count > 60)
    let file = FileManager.default.temporaryDirectory.appending(path: "kept-\(UUID().uuidString)").path
    defer { try? FileManager.default.removeItem(atPath: file) }
    let writer = try StateCollection.Writer(path: file, count: documents.count)
    for document in documents { try writer.add(reader.states([document])[0]) }
    let kept = try StateCollection(path: file, model)
    #expect(kept.count == documents.count)
    var again: [Float] = []
    while case let states = try kept.next(DocumentReader.batch), !states.isEmpty {
      // States stay as they are, so that the next query finds them.
      let before = try states[0].encoded()
      again += try reranker.scores(query: query, states)
      #expect(try states[0].encoded() == before)
    }
    #expect(again.map(\.bitPattern) == scores.map(\.bitPattern))
    try refuseDamaged(file, model)
  }

  private func refuseDamaged(_ file: String, _ model: Model) throws {
    let whole = try Data(contentsOf: URL(filePath: file))
    func refuses(_ data: Data) throws {
      try data.write(to: URL(filePath: file))
      #expect(throws: StateFileError.self) {
        let kept = try StateCollection(path: file, model)
        while try !kept.next(8).isEmpty {}
      }
    }
    for count in [0, 7, 15, 16, 20, 100, whole.count - 1] { try refuses(whole.prefix(count)) }
    try refuses(whole + [0])
    // The highest bit of a length, too: what follows from it must not be computed.
    for place in [0, 8, 12, 16, 23, 40, whole.count / 2] {
      for bit: UInt8 in [0x40, 0x80] {
        var changed = whole
        changed[place] ^= bit
        try refuses(changed)
      }
    }
    func bytes(_ value: some FixedWidthInteger) -> [UInt8] {
      withUnsafeBytes(of: value.littleEndian) { Array($0) }
    }
    func list(_ state: [UInt8]) -> Data {
      whole.prefix(12) + Data(bytes(UInt32(1)) + bytes(UInt64(state.count)) + state)
    }
    // What it is instead is said.
    func says(_ words: String, _ body: () throws -> Void) {
      #expect { try body() } throws: { "\($0)".contains(words) && "\($0)".contains("--keep-states") }
    }
    try Data(model.newState().encoded()).write(to: URL(filePath: file))
    says("one saved state, expected states of documents") { _ = try StateCollection(path: file, model) }
    try Data("something".utf8).write(to: URL(filePath: file))
    says("those of another file, expected states of documents") { _ = try StateCollection(path: file, model) }
    #expect { try model.loadState(bytes: Array(whole)) } throws: {
      "\($0)".contains("a file of states of documents, for rwkv-run rerank --states")
    }
    try list(model.newState().encoded()).write(to: URL(filePath: file))
    #expect(try StateCollection(path: file, model).next(8).count == 1)
    try refuses(list(model.newState().encoded(tokens: [1])))
    let other = try EmbeddingModelTests.embedder.model(.int8)
    try whole.write(to: URL(filePath: file))
    #expect(throws: StateFileError.self) { try StateCollection(path: file, other).next(1) }
  }
}

/// The golden embedding model.
struct EmbeddingCase: Sendable {
  let golden = Golden.cases("emb-std")[0]
  static let vocabulary = URL(filePath: #filePath).appending(
    path: "../../../../shared/tokenizers/rwkv_vocab_v20230424.txt"
  ).standardized.path

  var texts: [[Int]] {
    get throws {
      try #require(golden.json("texts.json") as? [[String: Any]]).map { try #require($0["ids"] as? [Int]) }
    }
  }

  func model(_ type: QuantizationType = .fp32) throws -> Model {
    try golden.model(type)
  }

  /// With a tokenizer.
  func withBytes() throws -> Model {
    let path = try TemporaryFiles.shared.path(for: "emb-std-bytes") { path in
      var options = ConversionOptions()
      (options.type, options.tokenizer) = (.fp32, .bytes)
      _ = try Conversion.convert(golden.checkpoint.path, to: path, options)
    }
    return try Model(path: path, threads: 1)
  }
}
