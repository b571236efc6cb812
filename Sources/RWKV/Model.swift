// SPDX-License-Identifier: MIT
public import RWKVFormat
public import RWKVTokenizer

/// One model: configuration, weights and tokenizer. Immutable; share it between any number of sessions and threads.
public final class Model: Sendable {
  /// The path of the file.
  public let path: String
  /// The sizes of the model.
  public let configuration: Configuration
  /// What the file says about the model, by key.
  public let metadata: Metadata
  /// A hash of sizes and weights: states belong to models of one identity. Re-packing a file does not change it.
  public let identity: UInt64
  /// The tokenizer in the file, if it has one.
  public let tokenizer: (any Tokenizer)?
  /// How many bytes of weights decoding one token reads at most: all but the embedding table.
  public let weightBytes: Int
  /// Those of them that belong to single hidden units of channel mixing.
  let hiddenRowBytes: Int

  /// How the model runs if it is larger than its memory limit; nil if all of it is in memory.
  ///
  /// Sessions of such a model take turns.
  public let streaming: Streaming?
  /// What may still be taken of the memory that the model was given [bytes].
  let spareMemory: Int

  /// The most tokens that a state of RWKV-7b remembers, which grows with each; nil in all other versions.
  public let maximumContext: Int?

  let initialState: InitialState?
  let embeddings: RowTable
  let inputNorm: LayerNorm
  let outputNorm: LayerNorm
  let head: Head
  let weights: Weights
  let store: WeightStore

  /// What is made of the last block's output.
  enum Head: Sendable {
    case language(Matrix)
    case embedding([EmbeddingTask: EmbeddingHead])
    case reranker(ScoreHead)

    init(_ store: WeightStore) throws(ModelError) {
      let (V, D) = (store.configuration.vocabulary, store.configuration.embedding)
      switch store.configuration.kind {
      case .language: self = .language(try store.matrix("head.weight", rows: V, columns: D))
      case .embedding:
        var heads: [EmbeddingTask: EmbeddingHead] = [:]
        for task in store.embeddingTasks { heads[task] = try EmbeddingHead(store, task) }
        self = .embedding(heads)
      case .reranker: self = .reranker(try ScoreHead(store))
      }
    }
  }

  /// The head that predicts tokens, if it is a model of language.
  var languageHead: Matrix? { if case .language(let matrix) = head { matrix } else { nil } }

  /// The blocks of each version.
  enum Weights: Sendable {
    case v4([RWKV4.Layer])
    case v5([RWKV5.Layer])
    case v6([RWKV6.Layer])
    case v7([RWKV7.Layer])
    case x(RWKVX.Weights)

    /// The largest F of any block.
    func hiddenUnits(_ configuration: Configuration) -> Int {
      guard case .x(let weights) = self else { return configuration.ffn }
      return weights.attention.reduce(configuration.ffn) { max($0, $1.channelMix.key.rows) }
    }
  }

  /// Opens a `.rwkv` file and loads its weights with `threads` threads, verifying checksums.
  ///
  /// Matrices that are stored uncompressed stay in the file, which is mapped: opening reads little, and the first
  /// evaluation verifies them.
  ///
  /// - Parameters:
  ///   - memoryLimit: the most memory that the process may use with one session [bytes]. A model that needs more runs
  ///     all the same, more slowly: see `streaming`.
  ///   - maximumContext: of RWKV-7b, the most tokens that a state remembers; by default as many as there is memory for.
  ///   - states: among how many states that memory is shared.
  ///   - kinds: what the model may be for. Another kind is `ModelError.wrongKind`, thrown before weights are loaded.
  ///   - requiresTokenizer: whether a file without a tokenizer is an error, which is thrown before weights are loaded.
  ///   - progress: called with the share done, 0…1, from any thread; loading stops when it returns false.
  public convenience init(
    path: String, threads: Int = processorCount(), memoryLimit: Int? = nil, maximumContext: Int? = nil,
    states: Int = 1, kinds: [ModelKind] = ModelKind.allCases, requiresTokenizer: Bool = false,
    progress: (@Sendable (Double) -> Bool)? = nil
  ) throws(ModelError) {
    try self.init(
      path: path, threads: threads, maximumContext: maximumContext, states: states, kinds: kinds,
      requiresTokenizer: requiresTokenizer, progress: progress
    ) { file, configuration throws(ModelError) in
      try MemoryPlan(file, configuration, limit: memoryLimit, threads: threads)
    }
  }

  init(
    path: String, threads: Int, maximumContext: Int? = nil, states: Int = 1,
    kinds: [ModelKind] = ModelKind.allCases, requiresTokenizer: Bool = false,
    progress: (@Sendable (Double) -> Bool)? = nil,
    plan: (ModelFile, Configuration) throws(ModelError) -> MemoryPlan
  ) throws(ModelError) {
    try checkInstructionSet()
    let file: ModelFile
    do { file = try ModelFile(path: path) } catch { throw ModelError(error) }
    do throws(ModelError) {
      self.path = path
      metadata = file.metadata
      identity = file.identity
      let problems = Blueprint.problems(file.metadata, file.tensors.map(TensorPlan.init))
      if let problem = problems.first { throw problem }
      configuration = try Configuration(file.metadata)
      if !kinds.contains(configuration.kind), let expected = kinds.last {
        throw ModelError(.wrongKind(configuration.kind, expected: expected))
      }
      tokenizer = try Self.tokenizer(in: file)
      if let size = tokenizer?.vocabularySize, size > configuration.vocabulary {
        throw ModelError(.largeTokenizer(tokens: size, vocabulary: configuration.vocabulary))
      }
      if requiresTokenizer && tokenizer == nil { throw ModelError(.noTokenizer) }
      embeddings = try RowTable(
        file, "emb.weight", rows: configuration.vocabulary, columns: configuration.embedding)
      initialState = try InitialState(file, configuration)
      let plan = try plan(file, configuration)
      store = try WeightStore(file, configuration, plan, threads: threads, progress: progress)
      streaming = store.streaming
      spareMemory = plan.spare
      self.maximumContext = MemoryPlan.maximumContext(
        configuration, wanted: maximumContext, states: states, plan)
      weightBytes = store.byteCount
      hiddenRowBytes = file.tensors.reduce(0) {
        $0 + ($1.name.hasSuffix("ffn.value.weight") ? $1.rawBytes : 0)
      }
      let D = configuration.embedding
      inputNorm = try store.layerNorm("blocks.0.ln0", D)
      outputNorm = try store.layerNorm("ln_out", D)
      head = try Head(store)
      weights =
        switch configuration.version {
        case .v4: .v4(try RWKV4.Layer.all(store))
        case .v50, .v51, .v52: .v5(try RWKV5.Layer.all(store))
        case .v6: .v6(try RWKV6.Layer.all(store))
        case .v7, .v7a, .v7b: .v7(try RWKV7.Layer.all(store))
        case .x: .x(try RWKVX.Weights(store))
        }
    } catch {
      throw error.path == nil ? ModelError(error.reason, path: path) : error
    }
  }

  /// What the names of each block's tensors begin with, in the order of evaluation.
  package var blockPrefixes: [String] { configuration.blocks.map(\.prefix) }

  /// How long `threads` threads need for one pass over the blocks of a streamed model with nothing else to do [s]; nil
  /// if it is not streamed. Reads what a token needs and puts it where the token needs it, without checksums.
  package func secondsPerPass(threads: Int) throws(ModelError) -> Double? {
    try store.secondsPerPass(threads: threads)
  }

  /// The state before the first token.
  public func newState() -> State { State(self) }

  /// The number of floats of a state, without the caches of RWKV-7b and RWKV-X, which grow.
  public var stateCount: Int { State.Layout(configuration).count }

  /// The name of the model in the metadata, or the name of its file.
  public var name: String {
    metadata.string("model.name") ?? path.split(separator: "/").last.map(String.init) ?? path
  }

  /// The tokenizer, or an error that says what to do where there is none.
  package func requireTokenizer() throws(ModelError) -> any Tokenizer {
    if let tokenizer { return tokenizer }
    throw ModelError(noTokenizerOf: configuration.kind, path: path)
  }

  /// The tokenizer of a file, whose weights are not loaded, or an error that says what to do where there is none.
  package static func requireTokenizer(path: String) throws(ModelError) -> any Tokenizer {
    let file: ModelFile
    do { file = try ModelFile(path: path) } catch { throw ModelError(error) }
    if let tokenizer = try tokenizer(in: file) { return tokenizer }
    throw ModelError(noTokenizerOf: try Configuration(file.metadata).kind, path: path)
  }

  /// The tokenizer of a file, without its weights; nil if it has none.
  public static func tokenizer(path: String) throws(ModelError) -> (any Tokenizer)? {
    let file: ModelFile
    do { file = try ModelFile(path: path) } catch { throw ModelError(error) }
    return try tokenizer(in: file)
  }

  package static func tokenizer(in file: ModelFile) throws(ModelError) -> (any Tokenizer)? {
    if let problem = Blueprint.tokenizerProblem(file.metadata, file.tensors.map(TensorPlan.init)) {
      throw ModelError(problem.reason, path: file.path)
    }
    guard let kind = file.metadata.string("tokenizer.kind").flatMap(TokenizerKind.init(rawValue:)) else {
      return nil
    }
    guard kind != .bytes, let tensor = file["tokenizer"] else { return ByteTokenizer() }
    var failure: ModelFileError?
    let blob = [UInt8](unsafeUninitializedCapacity: tensor.rawBytes) { bytes, count in
      do throws(ModelFileError) { try file.read(tensor, into: UnsafeMutableRawBufferPointer(bytes)) } catch {
        failure = error
      }
      count = failure == nil ? tensor.rawBytes : 0
    }
    if let failure { throw ModelError(failure) }
    do { return try kind.tokenizer(blob: blob) } catch {
      throw ModelError(.tokenizer(error), path: file.path)
    }
  }
}
