// SPDX-License-Identifier: MIT
package import RWKVFormat
internal import RWKVTokenizer

/// The tensors that a model of some version and size must have: the one list that loading, conversion, re-packing and
/// verification compare a file with, before anything of it is read.
///
/// Letters: L layers, D embedding, V vocabulary, F hidden units, N head size. Shapes: rows × columns as stored.
package struct Blueprint {
  private enum Rows: Equatable {
    case count(Int)
    /// A multiple of the number with this name, such as the rank of a low-rank pair; the first tensor decides.
    case rank(String, times: Int)
  }
  /// How a tensor's values are kept.
  private enum Storage {
    /// F32 values, one row after the other.
    case floats
    /// Rows one by one, in any weight format.
    case rows(transposed: Bool)
    /// Panels of 16 rows, in any weight format.
    case panels(transposed: Bool)

    var rowsPerRecord: Int { if case .panels = self { 16 } else { 1 } }
    var isTransposed: Bool {
      switch self {
      case .floats: false
      case .rows(let transposed), .panels(let transposed): transposed
      }
    }
    /// What `accepts` takes, in words.
    var formats: String { if case .floats = self { "F32" } else { "weights" } }
    func accepts(_ format: WeightFormat) -> Bool {
      if case .floats = self { format == .f32 } else { format != .bytes }
    }
  }
  private struct Requirement {
    let name: String
    /// Another name for the same thing.
    let alternative: String?
    let rows, columns: Rows
    let storage: Storage
    let isOptional: Bool
  }

  private let version: Version
  private let kind: ModelKind
  private let (L, D, V, F, N): (Int, Int, Int, Int, Int)
  /// Whether the model was state-tuned: then every layer has its initial state.
  private let hasInitialState: Bool
  /// Those tasks of an embedding model that any tensor is for: their heads must be whole.
  private let embeddingTasks: [EmbeddingTask]
  private var requirements: [Requirement] = []

  /// Largest tokenizer [bytes].
  static let tokenizerBytes = 16 << 20

  /// What makes tensors differ from what a model with this metadata has; empty if it can be run.
  package static func problems(_ metadata: Metadata, _ tensors: [TensorPlan]) -> [ModelError] {
    do throws(ModelError) {
      let blueprint = try Blueprint(Configuration(metadata), tensors)
      return blueprint.problems(tensors) + [tokenizerProblem(metadata, tensors)].compactMap(\.self)
    } catch { return [error] }
  }

  /// What is wrong with the tokenizer's place in the file, which is known before any of it is read.
  static func tokenizerProblem(_ metadata: Metadata, _ tensors: [TensorPlan]) -> ModelError? {
    let tensor = tensors.first { $0.name == "tokenizer" }
    guard let value = metadata["tokenizer.kind"] else {
      return tensor == nil ? nil : ModelError(.missingMetadata(key: "tokenizer.kind"))
    }
    guard let kind = metadata.string("tokenizer.kind").flatMap(TokenizerKind.init(rawValue:)) else {
      return ModelError(
        .invalidMetadata(
          key: "tokenizer.kind", found: "\(value)",
          expected: TokenizerKind.allCases.map(\.rawValue).joined(separator: ", ")))
    }
    guard let tensor else { return kind == .bytes ? nil : ModelError(.missingTensor("tokenizer")) }
    guard tensor.format == .bytes, tensor.columns == 1, tensor.rowsPerRecord == 1 else {
      return ModelError(.wrongFormat(tensor: "tokenizer", found: tensor.format.name, expected: "bytes"))
    }
    guard tensor.rows <= tokenizerBytes else {
      return ModelError(
        .wrongFormat(
          tensor: "tokenizer", found: "\(tensor.rows) bytes", expected: "at most \(tokenizerBytes) bytes"))
    }
    return nil
  }

  private init(_ configuration: Configuration, _ tensors: [TensorPlan]) throws(ModelError) {
    (version, kind) = (configuration.version, configuration.kind)
    (L, D, V) = (configuration.layers, configuration.embedding, configuration.vocabulary)
    (F, N) = (configuration.ffn, configuration.headSize)
    hasInitialState = tensors.contains { $0.name.hasSuffix(Self.initialStateSuffix) }
    embeddingTasks = EmbeddingTask.heads(among: tensors.lazy.map(\.name))
    let attention = configuration.sparseAttention?.layers ?? 0
    // A small file must not make a long list.
    for (key, count) in [("rwkv.layers", L), ("rwkv.x.layers", attention)] where count > tensors.count {
      throw ModelError(
        .invalidMetadata(
          key: key, found: "\(count)", expected: "at most the \(tensors.count) tensors there are"))
    }
    addModel()
    for layer in 0..<attention { addAttention(BlockID.attention(layer).prefix) }
  }

  private static let initialStateSuffix = ".att.time_state"

  // MARK: - What there must be

  private mutating func addModel() {
    add("emb.weight", .count(V), .count(D), kind == .reranker ? .floats : .rows(transposed: false))
    for layer in 0..<L {
      let block = BlockID.recurrent(layer).prefix
      if layer == 0 { norm(block + "ln0") }
      norm(block + "ln1")
      norm(block + "ln2")
      switch version {
      case .v4: addTimeMix4(block + "att.")
      case .v50, .v51, .v52: addTimeMix5(block + "att.")
      case .v6: addTimeMix6(block + "att.")
      case .v7, .v7a, .v7b, .x: addTimeMix7(block + "att.", isFirst: layer == 0)
      }
      if version == .v7b { addDeepAttention(block + "qkv.") }
      addChannelMix(block + "ffn.", .count(F))
      if version.hasTokenTables { addDeepEmbed(block + "ffn.") }
    }
    norm("ln_out")
    switch kind {
    case .language: add("head.weight", .count(V), .count(D), .panels(transposed: false))
    case .embedding:
      for task in embeddingTasks.isEmpty ? EmbeddingTask.allCases : embeddingTasks {
        matrices(task.head, "fc1 fc2")
        norm(task.head + "norm")
      }
    case .reranker:
      matrices("head.", "0")
      vectors("head.", "0.bias 2.weight")
    }
  }

  private mutating func addTimeMix4(_ att: String) {
    vectors(att, "time_decay time_first time_mix_k time_mix_v time_mix_r")
    matrices(att, "key value receptance output")
  }

  private mutating func addTimeMix5(_ att: String) {
    let perHead = version == .v52 ? D : D / N
    vectors(att, "time_mix_k time_mix_v time_mix_r")
    vectors(att, "time_decay", perHead)
    add(att + "time_faaaa", or: att + "time_first", .count(1), .count(perHead), .floats)
    matrices(att, "receptance key value output")
    norm(att + "ln_x")
    initialState(att)
    guard version != .v50 else { return }
    vectors(att, "time_mix_g")
    matrices(att, "gate")
  }

  private mutating func addTimeMix6(_ att: String) {
    vectors(att, "time_maa_x time_maa_w time_maa_k time_maa_v time_maa_r time_maa_g time_decay time_faaaa")
    initialState(att)
    add(att + "time_maa_w1", .rank(att + "maa", times: 5), .count(D), .panels(transposed: true))
    add(att + "time_maa_w2", .count(5 * D), .rank(att + "maa", times: 1), .panels(transposed: true))
    lowRank(att, "time_decay_w")
    matrices(att, "receptance key value gate output")
    norm(att + "ln_x")
  }

  private mutating func addTimeMix7(_ att: String, isFirst: Bool) {
    vectors(att, "x_r x_w x_k x_v x_a x_g w0 a0 k_k k_a r_k")
    // Layer 0 may have a value residual; it is never used.
    vectors(att, "v0", optional: isFirst)
    for name in ["w", "a", "g"] { lowRank(att, name) }
    lowRank(att, "v", optional: isFirst)
    matrices(att, "receptance key value output")
    norm(att + "ln_x")
    initialState(att)
  }

  /// F is the number of hidden units; attention blocks have their own.
  private mutating func addChannelMix(_ ffn: String, _ F: Rows) {
    switch version {
    case .v4, .v50, .v51, .v52: vectors(ffn, "time_mix_k time_mix_r")
    case .v6: vectors(ffn, "time_maa_k time_maa_r")
    case .v7, .v7a, .v7b, .x: vectors(ffn, "x_k")
    }
    if !version.isRWKV7 { matrices(ffn, "receptance") }
    add(ffn + "key.weight", F, .count(D), .panels(transposed: false))
    add(ffn + "value.weight", F, .count(D), .rows(transposed: true))
  }

  private mutating func addDeepEmbed(_ ffn: String) {
    table(ffn + "s_emb", DeepEmbedSizes.width)
    add(ffn + "s1", .count(DeepEmbedSizes.rank), .count(D), .panels(transposed: true))
    add(ffn + "s2", .count(F), .count(DeepEmbedSizes.rank), .panels(transposed: true))
    vectors(ffn, "s0", F)
  }

  private mutating func addDeepAttention(_ qkv: String) {
    let (rank, keys) = (Rows.count(DeepEmbedSizes.attentionRank), DeepEmbedSizes.keys)
    add(qkv + "qq.weight", .count(keys), .count(D), .panels(transposed: false))
    for (name, width) in [("k", keys), ("v", D)] {
      add(qkv + name + "1", rank, .count(D), .panels(transposed: true))
      add(qkv + name + "2", .count(width), rank, .panels(transposed: true))
      table(qkv + name + "_emb", width)
    }
    for (name, width) in [("q", keys), ("k", keys), ("v", D)] {
      vectors(qkv, "x_\(name) ln\(name).weight ln\(name).bias", width)
    }
  }

  /// A table by token and what makes the rest of a row from the token's embedding.
  private mutating func table(_ name: String, _ width: Int) {
    add(name + ".weight", .count(V), .count(width), .rows(transposed: false))
    add(name + "_x.weight", .count(width), .count(D), .panels(transposed: false))
  }

  /// An attention block of RWKV-X.
  private mutating func addAttention(_ block: String) {
    norm(block + "ln1")
    norm(block + "ln2")
    matrices(block + "att.", "receptance key value output")
    addChannelMix(block + "ffn.", .rank(block, times: 1))
  }

  private mutating func add(
    _ name: String, or alternative: String? = nil, _ rows: Rows, _ columns: Rows, _ storage: Storage,
    optional: Bool = false
  ) {
    requirements.append(
      Requirement(
        name: name, alternative: alternative, rows: rows, columns: columns, storage: storage,
        isOptional: optional))
  }

  private mutating func vectors(
    _ prefix: String, _ names: String, _ count: Int? = nil, optional: Bool = false
  ) {
    for name in names.split(separator: " ") {
      add(prefix + name, .count(1), .count(count ?? D), .floats, optional: optional)
    }
  }

  private mutating func norm(_ name: String) { vectors(name + ".", "weight bias") }

  private mutating func matrices(_ prefix: String, _ names: String) {
    for name in names.split(separator: " ") {
      add("\(prefix)\(name).weight", .count(D), .count(D), .panels(transposed: false))
    }
  }

  /// The initial state [H, N, N] of a layer, which state-tuned files have.
  private mutating func initialState(_ att: String) {
    add(att + "time_state", .count(D), .count(N), .floats, optional: !hasInitialState)
  }

  private mutating func lowRank(_ prefix: String, _ name: String, optional: Bool = false) {
    let rank = Rows.rank(prefix + name, times: 1)
    add("\(prefix)\(name)1", rank, .count(D), .panels(transposed: true), optional: optional)
    add("\(prefix)\(name)2", .count(D), rank, .panels(transposed: true), optional: optional)
  }

  // MARK: - What there is

  private func problems(_ tensors: [TensorPlan]) -> [ModelError] {
    var rest: [String: TensorPlan] = [:]
    var problems: [ModelError] = []
    for tensor in tensors where tensor.name != "tokenizer" {
      if rest.updateValue(tensor, forKey: tensor.name) != nil {
        problems.append(ModelError(.unknownTensor(tensor.name, "stands twice")))
      }
    }
    var ranks: [String: Int] = [:]
    for requirement in requirements {
      let found = rest.removeValue(forKey: requirement.name)
      guard let tensor = found ?? requirement.alternative.flatMap({ rest.removeValue(forKey: $0) }) else {
        if !requirement.isOptional { problems.append(ModelError(.missingTensor(requirement.name))) }
        continue
      }
      func size(_ rows: Rows, _ found: Int) -> Int {
        switch rows {
        case .count(let count): return count
        case .rank(let name, let times):
          let rank = ranks[name] ?? max(1, found / times)
          ranks[name] = rank
          return rank * times
        }
      }
      let expected = [size(requirement.rows, tensor.rows), size(requirement.columns, tensor.columns)]
      if [tensor.rows, tensor.columns] != expected {
        problems.append(
          ModelError(
            .wrongShape(tensor: tensor.name, found: [tensor.rows, tensor.columns], expected: expected)))
      } else if let problem = storageProblem(tensor, requirement.storage) {
        problems.append(problem)
      }
    }
    return problems
      + rest.keys.sorted().map {
        ModelError(.unknownTensor($0, "does not belong to RWKV-\(version.rawValue) with \(L) layers"))
      }
  }

  private func storageProblem(_ tensor: TensorPlan, _ storage: Storage) -> ModelError? {
    func problem(_ found: String, _ expected: String) -> ModelError {
      ModelError(.wrongFormat(tensor: tensor.name, found: found, expected: expected))
    }
    guard storage.accepts(tensor.format) else {
      return problem(tensor.format.name, storage.formats)
    }
    guard tensor.rowsPerRecord == storage.rowsPerRecord else {
      return problem("\(tensor.rowsPerRecord) rows per record", "\(storage.rowsPerRecord)")
    }
    guard tensor.transposed == storage.isTransposed else {
      return problem(
        tensor.transposed ? "transposed" : "not transposed",
        storage.isTransposed ? "transposed" : "not transposed")
    }
    return nil
  }
}
