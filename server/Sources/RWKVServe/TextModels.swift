// SPDX-License-Identifier: MIT
import Foundation
import Hummingbird
import RWKV
import RWKVFormat
import Synchronization

/// An embedding model, and its reranker where there is one: vectors and scores, for one request at a time.
final class TextModels: Sendable {
  let hasReranker: Bool
  private let turns: Turns
  private nonisolated(unsafe) let session: Session
  private nonisolated(unsafe) let reranker: Reranker?

  /// - Parameters:
  ///   - reranker: its file.
  ///   - queue: requests that wait at most.
  init(_ model: Model, reranker: String?, threads: Int, queue: Int) throws {
    session = try Session(model, threads: threads)
    self.reranker = try reranker.map { path in
      try Reranker(
        DocumentReader(model, threads: threads), Model(path: path, threads: threads, kinds: [.reranker]),
        threads: threads)
    }
    hasReranker = reranker != nil
    turns = Turns(queue: queue)
  }

  /// The vectors of texts, of length 1.
  func vectors(_ texts: [[Int]], _ task: EmbeddingTask) async throws -> [[Float]] {
    var options = EmbeddingOptions()
    options.task = task
    let how = options
    return try await run { try self.session.embeddings(texts, how, progress: $0) }
  }

  /// How well documents answer a query.
  func scores(_ query: String, _ documents: [String]) async throws -> [Float] {
    try await run {
      try self.reranker?.scores(
        query: Array(query.utf8), texts: documents.map { Array($0.utf8) }, progress: $0) ?? []
    }
  }

  /// Requests that wait, and those that are read.
  var statistics: (waiting: Int, active: Int) { turns.statistics }

  /// - Parameter body: gets what says after each pass whether to go on: not where the client has left.
  private func run<Result: Sendable>(
    _ body: @escaping @Sendable (_ goesOn: (Int) -> Bool) throws -> Result
  ) async throws -> Result {
    try await turns.begin()
    defer { turns.end() }
    let hasLeft = Mutex(false)
    return try await withTaskCancellationHandler {
      try await apart { try body { _ in !hasLeft.withLock { $0 } } }
    } onCancel: {
      hasLeft.withLock { $0 = true }
    }
  }
}

/// Lets one in after another, in the order in which they came.
private final class Turns: Sendable {
  private struct State {
    var isTaken = false
    var last = 0
    var waiting: [(id: Int, continuation: CheckedContinuation<Void, any Error>)] = []
  }

  private let state = Mutex(State())
  private let queue: Int

  init(queue: Int) { self.queue = queue }

  var statistics: (waiting: Int, active: Int) { state.withLock { ($0.waiting.count, $0.isTaken ? 1 : 0) } }

  /// Returns when it is the caller's turn, which `end` ends. Throws if too many wait, or the task is cancelled first.
  func begin() async throws {
    let id = state.withLock { state in
      state.last += 1
      return state.last
    }
    try await withTaskCancellationHandler {
      try await withCheckedThrowingContinuation { continuation in
        if let known = enter(id, continuation) { continuation.resume(with: known) }
      }
    } onCancel: {
      let waiting = state.withLock { state in
        state.waiting.firstIndex { $0.id == id }.map { state.waiting.remove(at: $0).continuation }
      }
      waiting?.resume(throwing: CancellationError())
    }
  }

  /// What a request that comes is told at once; nil: it waits.
  private func enter(
    _ id: Int, _ continuation: CheckedContinuation<Void, any Error>
  ) -> Result<Void, any Error>? {
    state.withLock { state in
      if Task.isCancelled { return .failure(CancellationError()) }
      if !state.isTaken {
        state.isTaken = true
        return .success(())
      }
      guard state.waiting.count < queue else {
        return .failure(SchedulerError.full(waiting: state.waiting.count))
      }
      state.waiting.append((id, continuation))
      return nil
    }
  }

  func end() {
    let next = state.withLock { state in
      state.isTaken = !state.waiting.isEmpty
      return state.isTaken ? state.waiting.removeFirst().continuation : nil
    }
    next?.resume()
  }
}

/// What is asked of `/v1/embeddings`.
struct Vectors: Sendable {
  /// Tokens of each text.
  let inputs: [[Int]]
  let task: EmbeddingTask?
  private let isPacked: Bool

  init(_ fields: Fields, _ engine: Engine) throws {
    inputs = try Completion.prompts(fields, "input", engine)
    guard !inputs.isEmpty else { throw fields.absent("input") }
    task = try fields.string("task").map { name in
      guard let task = EmbeddingTask(rawValue: name) else {
        throw fields.wrong("task", EmbeddingTask.allCases.map(\.rawValue).joined(separator: ", "))
      }
      return task
    }
    let format = try fields.string("encoding_format") ?? "float"
    guard ["float", "base64"].contains(format) else {
      throw fields.wrong("encoding_format", "float or base64")
    }
    isPacked = format == "base64"
    let width = engine.model.configuration.embedding
    guard try fields.integer("dimensions", in: 1...(1 << 20)) ?? width == width else {
      throw fields.wrong("dimensions", "\(width), which is what the model has")
    }
  }

  func answer(_ vectors: [[Float]], model: String) -> JSON {
    let data = vectors.enumerated().map { index, vector -> JSON in
      let embedding: JSON =
        isPacked
        ? .string(vector.withUnsafeBytes { Data($0) }.base64EncodedString())
        : .array(vector.map { .number(Double($0)) })
      return ["object": "embedding", "index": .integer(index), "embedding": embedding]
    }
    let count = inputs.reduce(0) { $0 + $1.count }
    return [
      "object": "list", "data": .array(data), "model": .string(model),
      "usage": ["prompt_tokens": .integer(count), "total_tokens": .integer(count)],
    ]
  }
}

/// What is asked of `/v1/rerank`, in Cohere's and Jina's form.
struct Reranking: Sendable {
  let query: String
  let documents: [String]
  private let most: Int
  private let returnsDocuments: Bool

  init(_ fields: Fields) throws {
    guard let query = try fields.string("query") else { throw fields.absent("query") }
    self.query = query
    documents = try fields.texts("documents").enumerated().map { index, value in
      switch value {
      case .string(let text): return text
      case .object:
        let document = try Fields(value, "documents[\(index)]")
        guard let text = try document.string("text") else { throw document.wrong("text", "a string") }
        return text
      default: throw fields.wrong("documents", "a list of strings, or of objects with a text")
      }
    }
    guard !documents.isEmpty else { throw fields.absent("documents") }
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
