// SPDX-License-Identifier: MIT
import Foundation
import Testing

/// Embedding models and rerankers from the command line.
@Suite("rwkv-run embed and rerank")
struct EmbedTests {
  private let quantize = Tool(name: "rwkv-quantize")
  private let tool = Tool(name: "rwkv-run")
  private let folder = TemporaryFolder()
  private var embedder: String { folder.file("embedder.rwkv") }
  private var reranker: String { folder.file("reranker.rwkv") }
  private var documents: String { folder.file("documents.txt") }
  private static let vocabulary = packageRoot + "/../shared/tokenizers/rwkv_vocab_v20230424.txt"

  init() throws {
    let tokenizer = FileManager.default.fileExists(atPath: Self.vocabulary) ? Self.vocabulary : "bytes"
    let converted = try quantize.run(
      golden("emb-std/model.pth"), embedder, "--type", "fp32", "--tokenizer", tokenizer)
    #expect(converted.status == 0 && converted.errors.contains("'proj.…', 'vit.…'"), "\(converted.errors)")
    #expect(try quantize.run(golden("rerank-std/model.pth"), reranker, "--type", "fp32").status == 0)
    try texts.joined(separator: "\n").write(toFile: documents, atomically: true, encoding: .utf8)
  }

  /// Those of the golden reranker with the same query.
  private let texts = [
    "Bees dance to tell others where flowers are.",
    "Concrete hardens by a reaction with water, not by drying.", "蜜蜂は踊って花の場所を伝える。",
  ]
  private let query = "How do bees share the place of food?"

  private func objects(_ arguments: [String]) throws -> [[String: Any]] {
    let result = try tool.run(arguments)
    #expect(result.status == 0, "\(result.errors)")
    return try result.output.split(separator: "\n").map {
      try #require(try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any])
    }
  }

  @Test func showSaysWhatTheyAre() throws {
    for (model, kind) in [(embedder, "embedding"), (reranker, "reranker")] {
      let shown = try quantize.run("show", model, "--json")
      let object = try JSONSerialization.jsonObject(with: Data(shown.output.utf8)) as? [String: Any]
      #expect(object?["kind"] as? String == kind && object?["version"] as? String == "7")
      #expect(try quantize.run("show", model).output.contains("\(kind) model"))
      #expect(try quantize.run("verify", model).status == 0)
    }
  }

  @Test(arguments: ["retrieval", "sts", "classification"])
  func vectorsOfEachTask(_ task: String) throws {
    let arguments = ["embed", embedder, "-f", documents, "--lines", "--task", task]
    let raw = try objects(arguments + ["--no-normalize"]).map { try #require($0["embedding"] as? [Double]) }
    let unit = try objects(arguments).map { try #require($0["embedding"] as? [Double]) }
    #expect(raw.count == 3 && raw.allSatisfy { $0.count == 64 })
    for (raw, unit) in zip(raw, unit) {
      let length = raw.reduce(0) { $0 + $1 * $1 }.squareRoot()
      #expect(abs(length - 1) > 0.1)
      #expect(zip(raw, unit).allSatisfy { abs($0 / length - $1) < 1e-6 })
    }
    let file = folder.file("v.npy")
    #expect(try tool.run(arguments + ["--no-normalize", "--out", file]).status == 0)
    let values = try Data(contentsOf: URL(filePath: file)).suffix(4 * 3 * 64).withUnsafeBytes {
      Array($0.bindMemory(to: Float.self))
    }
    #expect(values == raw.flatMap { $0 }.map(Float.init))
    if task == "retrieval" { #expect(try objects(Array(arguments.dropLast(2))).count == 3) }
  }

  /// The goldens' values, where the vocabulary is at hand.
  @Test(.enabled("needs ../shared/tokenizers") { FileManager.default.fileExists(atPath: vocabulary) })
  func goldensFromTheCommandLine() throws {
    let data = try Data(contentsOf: URL(filePath: golden("emb-std/texts.json")))
    let first = try #require(try JSONSerialization.jsonObject(with: data) as? [[String: Any]])[0]
    let text = try #require((first["parts"] as? [String])?.first)
    for (task, name) in [("retrieval", "retr"), ("sts", "sts"), ("classification", "cls")] {
      let found = try objects(["embed", embedder, "-p", text, "--task", task, "--no-normalize"])
      let vector = try #require(found[0]["embedding"] as? [Double])
      let expected = try tensor("text.0.\(name)", in: golden("emb-std/expected.safetensors"))
      #expect(zip(vector, expected).allSatisfy { abs($0 - Double($1)) <= 2e-4 })
    }
    let scores = try tensor("scores", in: golden("rerank-std/expected.safetensors"))
    for item in try objects(["rerank", embedder, reranker, "-q", query, "-f", documents]) {
      let index = try #require(item["index"] as? Int)
      #expect(abs(try #require(item["score"] as? Double) - Double(scores[index])) <= 2e-4)
    }
  }

  /// An empty text is a text, however it is given: its vector is that of the token that ends it.
  @Test func anEmptyTextHasAVector() throws {
    let empty = folder.file("empty")
    try "".write(toFile: empty, atomically: true, encoding: .utf8)
    let given = try objects(["embed", embedder, "-p", ""])
    #expect(given.count == 1 && given[0]["tokens"] as? Int == 0)
    #expect((given[0]["embedding"] as? [Double])?.count == 64)
    let read = try objects(["embed", embedder, "-f", empty])
    #expect(read[0]["embedding"] as? [Double] == given[0]["embedding"] as? [Double])
    #expect(try tool.run("embed", embedder, "-f", empty, "--lines").status == 1)
  }

  @Test func keptStatesGiveTheSameScores() throws {
    let states = folder.file("documents.states")
    let vectors = try tool.run("embed", embedder, "-f", documents, "--lines")
    let kept = try tool.run("embed", embedder, "-f", documents, "--lines", "--keep-states", states)
    #expect(kept.status == 0 && kept.output == vectors.output)
    let fromTexts = try tool.run("rerank", embedder, reranker, "-q", query, "-f", documents)
    let fromStates = try tool.run("rerank", embedder, reranker, "-q", query, "--states", states, "-t", "1")
    #expect(fromTexts.status == 0 && fromTexts.output == fromStates.output)
    let ranked = try objects(["rerank", embedder, reranker, "-q", query, "--states", states])
    #expect(Set(ranked.compactMap { $0["index"] as? Int }) == [0, 1, 2])
    let scores = try ranked.map { try #require($0["score"] as? Double) }
    #expect(scores == scores.sorted(by: >))
    for (item, score) in zip(ranked, scores) {
      #expect(abs(try #require(item["probability"] as? Double) - 1 / (1 + exp(-score))) < 1e-9)
    }
  }

  @Test func whatCannotBeIsRefused() throws {
    let plain = folder.file("plain.rwkv")
    #expect(try quantize.run(golden("v7-std/model.safetensors"), plain, "--tokenizer", "bytes").status == 0)
    func refuses(_ status: Int, _ word: String, _ arguments: String...) throws {
      let result = try tool.run(arguments)
      #expect(result.status == status && result.errors.contains(word), "\(result.errors)")
      #expect(result.output == "")
    }
    try refuses(64, "--task", "embed", plain, "-p", "a", "--task", "sts")
    try refuses(64, "--keep-states", "embed", plain, "-p", "a", "--keep-states", folder.file("s"))
    try refuses(64, "--pooling", "embed", embedder, "-p", "a", "--pooling", "mean")
    try refuses(1, "embedding model", embedder, "-p", "a")
    try refuses(1, "embedding model", "perplexity", embedder, "-f", documents)
    try refuses(1, "language model", "rerank", plain, reranker, "-q", "a", "-f", documents)
    try refuses(1, "language model", "rerank", embedder, plain, "-q", "a", "-f", documents)
    try refuses(
      64, "-f or --states", "rerank", embedder, reranker, "-q", "a", "-f", documents, "--states", "s")
    try refuses(1, "--keep-states", "rerank", embedder, reranker, "-q", "a", "--states", documents)
    // In the other order, and where there is no use of one.
    try refuses(1, "\(reranker): is a reranker", "rerank", reranker, embedder, "-q", "a", "-f", documents)
    try refuses(1, "\(embedder): is an embedding", "rerank", embedder, embedder, "-q", "a", "-f", documents)
    for arguments in [[], ["chat"], ["perplexity"], ["embed"], ["tokenize"]] {
      let result = try tool.run(arguments + [reranker, arguments == ["perplexity"] ? "-f" : "-p", documents])
      #expect(result.status == 1 && result.errors.contains("is a reranker"), "\(arguments) \(result.errors)")
    }
    // A saved state where those of documents are wanted, and these where a saved one is.
    let (saved, states) = (folder.file("a.state"), folder.file("d.states"))
    #expect(try tool.run(plain, "-p", "a", "-n", "1", "--save-state", saved).status == 0)
    #expect(
      try tool.run("embed", embedder, "-f", documents, "--lines", "--keep-states", states).status == 0)
    try refuses(1, "one saved state", "rerank", embedder, reranker, "-q", "a", "--states", saved)
    try refuses(1, "a file of states of documents", plain, "-p", "a", "--load-state", states)
    try refuses(1, "something else", plain, "-p", "a", "--save-state", states)
    try refuses(1, "no such file", "rerank", embedder, reranker, "-q", "a", "--states", folder.file("none"))
    #expect(!folder.contents.contains("s"))
  }

  /// One F32 tensor of a small safetensors file.
  private func tensor(_ name: String, in path: String) throws -> [Float] {
    let data = try Data(contentsOf: URL(filePath: path))
    let length = Int(data.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) })
    let header = try #require(
      try JSONSerialization.jsonObject(with: data[8..<8 + length]) as? [String: [String: Any]])
    let offsets = try #require(header[name]?["data_offsets"] as? [Int])
    return data[(8 + length + offsets[0])..<(8 + length + offsets[1])].withUnsafeBytes { bytes in
      (0..<bytes.count / 4).map { bytes.loadUnaligned(fromByteOffset: 4 * $0, as: Float.self) }
    }
  }
}
