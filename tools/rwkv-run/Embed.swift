// SPDX-License-Identifier: MIT
public import ArgumentParser
import Glibc
public import RWKV
public import RWKVFormat
import RWKVTokenizer
import Terminal

struct Embed: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Turns texts into vectors, to compare them by.",
    discussion: """
      Each text is read from an empty state. Vectors have length 1: their dot product is the cosine of their angle.

      An embedding model (EmbeddingRWKV) has a pooling and heads of its own: --task says which head. With \
      --keep-states each text is read a second time, as a document for a reranker, and what the model remembers of \
      it goes to a file, from which rwkv-run rerank answers queries.

      With a model of language each text ends with token 0, and the vector is made of what the model has in place of \
      words after each token: the output of its last block after the final norm, from which it makes its predictions. \
      mean is the average over all tokens of the text; last is the one after token 0, which has seen the whole text; \
      state is the recurrent state of the last block. Models of language predict words; how well their vectors tell \
      meanings apart has to be tried.

      EXAMPLES
        rwkv-run embed model.rwkv -p "a text"
        rwkv-run embed model.rwkv -f sentences.txt --lines --out vectors.npy
        rwkv-run embed emb.rwkv -f docs.txt --lines --keep-states docs.states
      """)

  @OptionGroup var options: ModelOptions

  @Option(name: [.customShort("p"), .long], parsing: .unconditional, help: "The text.")
  var prompt: String?

  @Option(
    name: [.customShort("f"), .long], help: "File with the text; - is stdin, which is also read without -p.",
    completion: .file())
  var file: String?

  @Flag(help: "Every line that is not empty is a text of its own.")
  var lines = false

  @Option(help: "Language models: what a vector is made of (default: mean).")
  var pooling: Pooling?

  @Option(help: "Embedding models: what the vectors are for (default: retrieval).")
  var task: EmbeddingTask?

  @Flag(name: .customLong("no-normalize"), help: "Vectors as the model makes them, of any length.")
  var keepsLength = false

  @Option(
    help: "Embedding models: a file for what the model remembers of each text, for rwkv-run rerank.",
    completion: .file())
  var keepStates: String?

  @Flag(help: "Keep the states over a file that is none of states, too.")
  var force = false

  @Option(
    name: .customLong("out"),
    help: "A .npy file for NumPy, F32 [texts, dimensions] (default: JSON on stdout, a line per text).",
    completion: .file(extensions: ["npy"]))
  var outputPath: String?

  func validate() throws {
    if prompt != nil && file != nil { throw ValidationError("Give -p or -f, not both.") }
    if let outputPath, !outputPath.hasSuffix(".npy") { throw ValidationError("--out must end in .npy.") }
    if let keepStates, keepStates == outputPath {
      throw ValidationError("--out and --keep-states are one file.")
    }
  }

  func run() throws {
    catchInterrupts()
    try reporting("rwkv-run") {
      if let outputPath { try requireWritable(outputPath, besides: [options.model, file]) }
      if let keepStates {
        try requireStateFile(keepStates, force: force, besides: [options.model, file, outputPath]) {
          path throws(StateFileError) in
          _ = try StateCollection.count(path: path)
        }
      }
      let bytes = try givenText(prompt, file)
      // An empty text has a vector too: that of the token that ends it.
      let texts = lines ? linesOf(bytes) : [bytes]
      guard !texts.isEmpty else { throw CommandError("there is no text to embed") }
      let model = try options.open(kinds: [.language, .embedding], requiresTokenizer: true)
      let how = try embeddingOptions(model)
      let evaluator = try Evaluator(model, threads: options.threadCount)
      try embed(texts, evaluator, how)
      if let keepStates { try keep(texts, DocumentReader(evaluator), in: keepStates) }
    }
  }

  /// Refuses what a model of this kind does not have.
  private func embeddingOptions(_ model: Model) throws -> EmbeddingOptions {
    if model.configuration.kind == .embedding {
      if pooling != nil { throw ValidationError("--pooling: an embedding model has its own; see --task.") }
    } else if task != nil || keepStates != nil {
      throw ValidationError(
        "\(task == nil ? "--keep-states" : "--task"): only an embedding model has heads for tasks and states to rerank "
          + "by.")
    }
    var how = EmbeddingOptions()
    how.pooling = pooling ?? .mean
    how.task = task ?? .retrieval
    how.normalizes = !keepsLength
    return how
  }

  /// Texts that are read together: enough to fill the passes over the weights.
  private static let batch = 64

  private func embed(_ texts: [[UInt8]], _ evaluator: Evaluator, _ how: EmbeddingOptions) throws {
    let tokenizer = try evaluator.model.requireTokenizer()
    let progress = ProgressLine()
    defer { progress.clear() }
    let begin = now()
    var (vectors, done): ([Float], Int) = ([], 0)
    for part in texts.parts(of: Self.batch) {
      if isInterrupted { throw interruptedExit }
      let tokens = try part.map { text in try endingAtOnce { try tokenizer.encode(text) } }
      let total = tokens.reduce(0) { $0 + $1.count + 1 }
      let found = try evaluator.embeddings(tokens, nil, how) { read in
        if texts.count == 1 {
          progress.update("reading", read, of: total, since: begin)
        } else {
          let share = Double(read) / Double(total) * Double(part.count)
          progress.update("reading", (Double(done) + share) / Double(texts.count))
        }
        return !isInterrupted
      }
      done += part.count
      for (tokens, vector) in zip(tokens, found) {
        if outputPath == nil { printVector(vector, tokens.count) } else { vectors += vector }
      }
    }
    progress.clear()
    if let outputPath { try write(npy(vectors, rows: texts.count), to: outputPath) }
  }

  private func printVector(_ vector: [Float], _ tokens: Int) {
    output(
      JSON.object([
        ("tokens", .integer(tokens)), ("embedding", .array(vector.map { .exactNumber(Double($0)) })),
      ]).description)
  }

  /// Reads each text in the form of the reranker's documents.
  private func keep(_ documents: [[UInt8]], _ reader: DocumentReader, in path: String) throws {
    let writer = try StateCollection.Writer(path: path, count: documents.count)
    let progress = ProgressLine()
    defer { progress.clear() }
    var done = 0
    for part in documents.parts(of: Self.batch) {
      for state in try reader.states(Array(part), progress: { _ in !isInterrupted }) { try writer.add(state) }
      done += part.count
      progress.update("reading documents", Double(done) / Double(documents.count))
    }
  }
}

extension Pooling: ExpressibleByArgument {}
extension EmbeddingTask: ExpressibleByArgument {}
