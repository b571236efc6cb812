// SPDX-License-Identifier: MIT
public import RWKVFormat
internal import RWKVTokenizer
internal import Glibc

/// Reads documents with an embedding model as its reranker wants them, so that what the model remembers of each can
/// be kept. Not thread-safe.
public final class DocumentReader {
  /// The embedding model that reads.
  public let model: Model
  fileprivate let evaluator: Evaluator
  private let tokenizer: any Tokenizer

  /// How many documents are read, or scored, at the same time; as many states are in memory.
  public static let batch = Evaluator.capacity

  /// Makes a reader; throws if `model` is no embedding model, or has no tokenizer.
  public convenience init(_ model: Model, threads: Int = processorCount()) throws(ModelError) {
    try self.init(Evaluator(model, threads: threads))
  }

  /// A reader that shares the memory and threads of an evaluator.
  package init(_ evaluator: Evaluator) throws(ModelError) {
    (model, self.evaluator) = (evaluator.model, evaluator)
    guard model.configuration.kind == .embedding else {
      throw ModelError(.wrongKind(model.configuration.kind, expected: .embedding), path: model.path)
    }
    tokenizer = try model.requireTokenizer()
  }

  /// The states after documents, each read from the start.
  ///
  /// - Parameter progress: called with the number of tokens read so far; reading stops when it returns false.
  public func states(
    _ documents: [[UInt8]], progress: (Int) -> Bool = { _ in true }
  ) throws(ModelError) -> [State] {
    var texts: [[Int]] = []
    for document in documents { texts.append(try tokens(ofDocument: document)) }
    let states = documents.map { _ in model.newState() }
    try evaluator.read(texts, states, output: .none, progress: progress) { _ in }
    return states
  }

  /// What stands before the query. Cut where a document's state is kept: no token crosses a line's end.
  func tokens(ofDocument document: [UInt8]) throws(ModelError) -> [Int] {
    let form = "Instruct: Given a query, retrieve documents that answer the query\nDocument: "
    return try tokens(Array(form.utf8) + document + [UInt8(ascii: "\n")])
  }

  func tokens(ofQuery query: [UInt8]) throws(ModelError) -> [Int] {
    try tokens(Array("Query: ".utf8) + query) + [EmbeddingTask.endOfText]
  }

  private func tokens(_ text: [UInt8]) throws(ModelError) -> [Int] {
    do { return try tokenizer.encode(text) } catch {
      throw ModelError(.tokenizer(error), path: model.path)
    }
  }
}

/// A reranker with the embedding model whose states it reads: says how well documents answer a query.
///
/// The embedding model reads each document and then the query; one token of the reranker, which has blocks of its own,
/// makes a score of the recurrences that are left. What a document leaves behind can be kept: then a query costs its
/// own tokens only, and the scores are the same bits. Not thread-safe.
public final class Reranker {
  /// The reader of documents and queries, with the embedding model.
  public let documents: DocumentReader
  /// The reranker's own model.
  public let model: Model
  private let evaluator: Evaluator
  private let head: ScoreHead
  /// The layer of the embedding model whose state each block reads, 0….
  private let layers: [Int]

  /// - Parameters:
  ///   - documents: reads documents and queries.
  ///   - model: the reranker; throws where it is none, or not one for this embedding model.
  public convenience init(
    _ documents: DocumentReader, _ model: Model, threads: Int = processorCount()
  ) throws(ModelError) {
    try self.init(documents, Evaluator(model, threads: threads))
  }

  /// A reranker that shares the memory and threads of an evaluator.
  package init(_ documents: DocumentReader, _ evaluator: Evaluator) throws(ModelError) {
    let model = evaluator.model
    guard case .reranker(let head) = model.head else {
      throw ModelError(.wrongKind(model.configuration.kind, expected: .reranker), path: model.path)
    }
    let (own, other) = (model.configuration, documents.model.configuration)
    layers = own.stateLayers.map { $0 < 0 ? $0 + other.layers : $0 }
    guard own.embedding == other.embedding, own.headSize == other.headSize,
      layers.allSatisfy({ (0..<other.layers).contains($0) })
    else {
      throw ModelError(
        .wrongPair(
          reranker: "\(own.heads) heads of \(own.headSize) in layers \(own.stateLayers)",
          embedder: "\(other.heads) heads of \(other.headSize) in \(other.layers) layers"), path: model.path)
    }
    (self.documents, self.model, self.evaluator, self.head) = (documents, model, evaluator, head)
  }

  /// How well documents answer a query, by their states, which stay as they are: the higher the better, 0 undecided.
  ///
  /// - Parameter progress: called after each pass over the weights with the number of states scored so far; scoring
  ///   stops when it returns false.
  public func scores(
    query: [UInt8], _ states: [State], progress: (Int) -> Bool = { _ in true }
  ) throws(ModelError) -> [Float] {
    guard states.allSatisfy({ $0.model.identity == documents.model.identity }) else {
      throw ModelError(.invalidBatch("a state of another model"))
    }
    let tokens = try documents.tokens(ofQuery: query)
    var scores: [Float] = []
    for start in stride(from: 0, to: states.count, by: DocumentReader.batch) {
      let copies = states[start..<min(start + DocumentReader.batch, states.count)].map { $0.copy() }
      try documents.evaluator.read(
        copies.map { _ in tokens }, copies, output: .none, progress: { _ in progress(start) }
      ) { _ in }
      scores += try self.scores(after: copies)
      guard progress(scores.count) else { throw ModelError(.cancelled) }
    }
    return scores
  }

  /// How well texts answer a query: reads them, and scores their states.
  public func scores(
    query: [UInt8], texts: [[UInt8]], progress: (Int) -> Bool = { _ in true }
  ) throws(ModelError) -> [Float] {
    var scores: [Float] = []
    for start in stride(from: 0, to: texts.count, by: DocumentReader.batch) {
      let part = Array(texts[start..<min(start + DocumentReader.batch, texts.count)])
      func goesOn(_: Int) -> Bool { progress(start) }
      scores += try self.scores(query: query, documents.states(part, progress: goesOn), progress: goesOn)
      guard progress(scores.count) else { throw ModelError(.cancelled) }
    }
    return scores
  }

  /// How likely a document with this score answers the query, 0…1.
  public static func probability(_ score: Float) -> Double { 1 / (1 + exp(-Double(score))) }

  /// One token without any before it, on the recurrences of the embedding model; at most `DocumentReader.batch` states.
  func scores(after states: [State]) throws(ModelError) -> [Float] {
    let layout = State.Layout(model.configuration)
    let own = states.map { state in
      let own = model.newState()
      for (block, layer) in layers.enumerated() {
        (own.values + block * layout.layer + layout.wkv).update(
          from: state.values + layer * state.layout.layer + state.layout.wkv,
          count: layout.channelShift - layout.wkv)
      }
      return own
    }
    let runs = own.enumerated().map { Run(first: $0, count: 1, $1) }
    try evaluator.evaluate(
      .tokens(own.map { _ in 0 }[...]), runs, output: .lastOfEachRun, logits: false)
    return try evaluator.scores(of: own.indices.map { Array(evaluator.hidden($0)) }, head)
  }
}
