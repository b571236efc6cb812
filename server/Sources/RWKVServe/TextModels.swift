// SPDX-License-Identifier: MIT
import Dispatch
import Foundation
import Hummingbird
import RWKV
import RWKVFormat

/// An embedding model, and its reranker where there is one: vectors and scores, for one request at a time.
final class TextModels: Sendable {
  let hasReranker: Bool
  private let queue = DispatchQueue(label: "texts")
  private nonisolated(unsafe) let session: Session
  private nonisolated(unsafe) let reranker: Reranker?

  /// - Parameter reranker: its file.
  init(_ model: Model, reranker: String?, threads: Int) throws {
    session = try Session(model, threads: threads)
    self.reranker = try reranker.map { path in
      try Reranker(
        DocumentReader(model, threads: threads), Model(path: path, threads: threads), threads: threads)
    }
    hasReranker = reranker != nil
  }

  /// The vectors of texts, of length 1.
  func vectors(_ texts: [[Int]], _ task: EmbeddingTask) async throws -> [[Float]] {
    var options = EmbeddingOptions()
    options.task = task
    let how = options
    return try await run { try self.session.embeddings(texts, how) }
  }

  /// How well documents answer a query.
  func scores(_ query: String, _ documents: [String]) async throws -> [Float] {
    try await run {
      try self.reranker?.scores(query: Array(query.utf8), texts: documents.map { Array($0.utf8) }) ?? []
    }
  }

  private func run<Result: Sendable>(_ body: @escaping @Sendable () throws -> Result) async throws -> Result {
    try await withCheckedThrowingContinuation { continuation in
      queue.async { continuation.resume(with: Swift.Result { try body() }) }
    }
  }
}

/// What is asked of `/v1/rerank`, in Cohere's and Jina's form.
struct Reranking: Sendable {
  let query: String
  let documents: [String]
  private let most: Int
  private let returnsDocuments: Bool

  init(_ fields: Fields) throws {
    guard let query = try fields.string("query") else {
      throw APIError.invalid("'query' is missing.", "query")
    }
    self.query = query
    documents = try fields.list("documents").enumerated().map { index, value in
      switch value {
      case .string(let text): return text
      case .object:
        let document = try Fields(value, "documents[\(index)]")
        guard let text = try document.string("text") else { throw document.wrong("text", "a string") }
        return text
      default: throw fields.wrong("documents", "a list of strings, or of objects with a text")
      }
    }
    guard !documents.isEmpty else { throw APIError.invalid("'documents' is missing.", "documents") }
    most = try fields.integer("top_n", in: 1...Int.max) ?? documents.count
    returnsDocuments = try fields.bool("return_documents")
  }

  /// The best documents first, each with the probability that it answers the query.
  func answer(_ scores: [Float], model: String) -> JSON {
    let order = scores.indices.sorted { (scores[$1], $0) < (scores[$0], $1) }.prefix(most)
    let results = order.map { index -> JSON in
      var result: [(String, JSON)] = [
        ("index", .integer(index)), ("relevance_score", .number(Reranker.probability(scores[index]))),
      ]
      if returnsDocuments { result.append(("document", ["text": .string(documents[index])])) }
      return .object(result)
    }
    return [
      "id": .string("rerank-" + UUID().uuidString.lowercased()), "object": "list", "model": .string(model),
      "results": .array(results), "meta": ["api_version": ["version": "1"]],
    ]
  }
}
