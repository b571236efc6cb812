// SPDX-License-Identifier: MIT
import ArgumentParser
import RWKV
import RWKVFormat
import Terminal

struct Rerank: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Says which documents answer a query best.",
    discussion: """
      A reranker (RWKVReRanker) and the embedding model that it was trained with. The embedding model reads each \
      document and then the query, the reranker scores what it then remembers. JSON lines, the best document \
      first: its number, counted from 0, its score, and how likely it answers the query by that score.

      With --states, from rwkv-run embed --keep-states, the documents are not read again: a query costs its own tokens \
      for each of them, and the scores are the same.

      EXAMPLES
        rwkv-run rerank emb.rwkv rerank.rwkv -q "What do bees eat?" -f docs.txt
        rwkv-run embed emb.rwkv -f docs.txt --lines --keep-states docs.states
        rwkv-run rerank emb.rwkv rerank.rwkv -q "Why honey?" --states docs.states
      """)

  @Argument(model: "The embedding model, a .rwkv file.")
  var embedder: String

  @Argument(model: "The reranker, a .rwkv file.")
  var reranker: String

  @Option(name: [.customShort("q"), .long], parsing: .unconditional, help: "What is asked.")
  var query: String

  @Option(
    name: [.customShort("f"), .long],
    help:
      "File with the documents, a line each, but for empty lines; - is stdin, which is also read without it.",
    completion: .file())
  var file: String?

  @Option(help: "File with states of documents.", completion: .file())
  var states: String?

  @OptionGroup var threads: ThreadOptions

  @OptionGroup var memory: MemoryOptions

  func validate() throws {
    if file != nil && states != nil { throw ValidationError("Give -f or --states, not both.") }
  }

  func run() throws {
    catchInterrupts()
    try reporting("rwkv-run") {
      let texts = states == nil ? linesOf(try givenText(nil, file)) : []
      if states == nil, texts.isEmpty { throw CommandError("there are no documents") }
      if let states { try requireFile(states, ending: ".states") }
      let embedder = try memory.open(
        embedder, threads: threads.count, kinds: [.embedding], requiresTokenizer: true)
      let model = try memory.open(self.reranker, threads: threads.count, kinds: [.reranker])
      let reranker = try Reranker(
        DocumentReader(embedder, threads: threads.count), model, threads: threads.count)
      let scores = try states.map { try self.scores(reranker, statesIn: $0) } ?? self.scores(reranker, texts)
      for (index, score) in scores.enumerated().sorted(by: { ($1.1, $0.0) < ($0.1, $1.0) }) {
        output(
          JSON.object([
            ("index", .integer(index)), ("score", .exactNumber(Double(score))),
            ("probability", .exactNumber(Reranker.probability(score))),
          ]).description)
      }
    }
  }

  private func scores(_ reranker: Reranker, _ texts: [[UInt8]]) throws -> [Float] {
    let progress = ProgressLine()
    defer { progress.clear() }
    return try reranker.scores(query: Array(query.utf8), texts: texts) { done in
      progress.update("scoring", Double(done) / Double(texts.count))
      return !isInterrupted
    }
  }

  private func scores(_ reranker: Reranker, statesIn path: String) throws -> [Float] {
    let progress = ProgressLine()
    defer { progress.clear() }
    let kept = try StateCollection(path: path, reranker.documents.model)
    var scores: [Float] = []
    while true {
      let part = try kept.next(DocumentReader.batch)
      if part.isEmpty { return scores }
      scores += try reranker.scores(query: Array(query.utf8), part) { _ in !isInterrupted }
      progress.update("scoring", Double(scores.count) / Double(kept.count))
    }
  }
}
