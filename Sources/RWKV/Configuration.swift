// SPDX-License-Identifier: MIT
public import RWKVFormat

/// Sizes of a model, as its file states them. Letters as in ARCHITECTURE.md: L, D, V, F, N, H.
public struct Configuration: Sendable, Equatable {
  /// The version of the architecture.
  public let version: Version
  /// What the model makes of a text.
  public let kind: ModelKind
  /// The number of recurrent layers, L.
  public let layers: Int
  /// The numbers of an embedding, and of every token between blocks, D.
  public let embedding: Int
  /// The tokens of the vocabulary, V: rows of the embedding and of the head.
  public let vocabulary: Int
  /// The hidden units of channel mixing, F.
  public let ffn: Int
  /// The channels of a head, N; 1 in version 4, which has no heads.
  public let headSize: Int
  /// The epsilon of the group norm after the recurrence; 0 in version 4, which has none.
  public let groupNormEpsilon: Float
  /// The attention of RWKV-X; nil in all other versions.
  public let sparseAttention: SparseAttention?
  /// For each block of a reranker, the layer of the embedding model whose state it reads; negative numbers count from
  /// the end. Empty for all other models.
  public let stateLayers: [Int]
  /// The number of heads, H = D / N.
  public var heads: Int { embedding / headSize }
  /// Memory by which a state of RWKV-7b grows with each token [bytes]; 0 in all other versions, whose states have a
  /// fixed size or, in RWKV-X, a bound.
  public var bytesPerToken: Int {
    version == .v7b ? layers * (DeepEmbedSizes.keys + embedding) * MemoryLayout<Float>.size : 0
  }

  /// Largest head size that the recurrences accept.
  static let maximumHeadSize = 256

  package init(_ metadata: Metadata) throws(ModelError) {
    guard case .string(let name)? = metadata["rwkv.version"] else {
      throw ModelError(.missingMetadata(key: "rwkv.version"))
    }
    guard let version = Version(rawValue: name) else { throw ModelError(.unsupportedVersion(name)) }
    self.version = version
    kind = try ModelKind(metadata, version)
    layers = try metadata.integer("rwkv.layers", in: 1...4096)
    embedding = try metadata.integer("rwkv.embedding", in: 1...65_536)
    vocabulary = try metadata.integer("rwkv.vocabulary", in: 1...1 << 24)
    ffn = try metadata.integer("rwkv.ffn", in: 1...1 << 20)
    sparseAttention = version == .x ? try SparseAttention(metadata) : nil
    stateLayers = try kind == .reranker ? metadata.stateLayers(layers) : []
    guard kind != .embedding || vocabulary > EmbeddingTask.endOfText else {
      throw ModelError(
        .invalidMetadata(
          key: "rwkv.vocabulary", found: "\(vocabulary)", expected: "more than \(EmbeddingTask.endOfText)"))
    }
    guard version != .v4 else {
      headSize = 1
      groupNormEpsilon = 0
      return
    }
    // Of version 6 a matrix stacks five of so many rows, in panels of 16.
    guard version != .v6 || embedding % 16 == 0 else {
      throw ModelError(
        .invalidMetadata(key: "rwkv.embedding", found: "\(embedding)", expected: "a multiple of 16"))
    }
    headSize = try metadata.integer("rwkv.head_size", in: 1...Self.maximumHeadSize)
    guard embedding % headSize == 0 else {
      throw ModelError(
        .invalidMetadata(key: "rwkv.head_size", found: "\(headSize)", expected: "a divisor of \(embedding)"))
    }
    guard case .number(let epsilon)? = metadata["rwkv.group_norm_epsilon"], epsilon > 0, epsilon < 1 else {
      throw ModelError(.missingMetadata(key: "rwkv.group_norm_epsilon"))
    }
    groupNormEpsilon = Float(epsilon)
  }
}

extension ModelKind {
  fileprivate init(_ metadata: Metadata, _ version: Version) throws(ModelError) {
    guard let value = metadata["rwkv.kind"] else {
      self = .language
      return
    }
    guard let kind = metadata.string("rwkv.kind").flatMap(Self.init), kind != .language, version == .v7 else {
      throw ModelError(
        .invalidMetadata(
          key: "rwkv.kind", found: "\(value) of version \(version.rawValue)",
          expected: "'embedding' or 'reranker' of version 7"))
    }
    self = kind
  }
}

/// One block of a model.
enum BlockID: Hashable, Sendable {
  case recurrent(Int)
  /// RWKV-X only.
  case attention(Int)

  /// What the names of its tensors begin with.
  var prefix: String {
    switch self {
    case .recurrent(let layer): "blocks.\(layer)."
    case .attention(let index): "moba.\(index)."
    }
  }
}

extension Configuration {
  /// The blocks in the order in which they are evaluated.
  ///
  /// RWKV-X: with q = L / M, M times q RWKV-7 blocks and an attention block; RWKV-7 blocks that are left over are not
  /// evaluated, as in the reference.
  var blocks: [BlockID] {
    guard let attention = sparseAttention?.layers, attention > 0 else {
      return (0..<layers).map { .recurrent($0) }
    }
    let between = layers / attention
    return (0..<attention).flatMap { index in
      (index * between..<(index + 1) * between).map { .recurrent($0) } + [.attention(index)]
    }
  }
}

/// The sparse attention of RWKV-X.   arXiv:2504.21463; howard-hou/RWKV-X `package/src/rwkv_x/model.py`.
public struct SparseAttention: Sendable, Equatable {
  /// The number of attention blocks, M.
  public let layers: Int
  /// How many cached tokens make a chunk.
  public let chunkSize: Int
  /// How many chunks a token attends to.
  public let topK: Int
  /// The number of cached tokens beyond which the cache is compressed; 0: it never is.
  public let maximumCache: Int
  /// How many cached tokens a compression leaves.
  public let minimumCache: Int
  /// How many of the latest tokens a compression always keeps.
  public let keptWindow: Int
  /// Whether a token attends to the whole cache instead of the best chunks.
  public let isFull: Bool

  /// Cached tokens up to which attention is full anyway.
  var window: Int { chunkSize * topK }

  init(_ metadata: Metadata) throws(ModelError) {
    layers = try metadata.integer("rwkv.x.layers", in: 1...4096)
    chunkSize = try metadata.integer("rwkv.x.chunk_size", in: 1...1 << 24)
    topK = try metadata.integer("rwkv.x.top_k", in: 1...1 << 16)
    maximumCache = try metadata.integer("rwkv.x.max_kv_cache", in: 0...1 << 24)
    minimumCache = try metadata.integer("rwkv.x.min_kv_cache", in: 0...1 << 24)
    keptWindow = try metadata.integer("rwkv.x.kv_window", in: 0...minimumCache)
    guard case .string(let mode)? = metadata["rwkv.x.mode"], mode == "sparse" || mode == "full" else {
      throw ModelError(.missingMetadata(key: "rwkv.x.mode"))
    }
    isFull = mode == "full"
  }
}

extension Metadata {
  /// One for each block; without any, each reads the layer of its own number.
  fileprivate func stateLayers(_ count: Int) throws(ModelError) -> [Int] {
    guard let value = self["rwkv.state_layers"] else { return Array(0..<count) }
    guard case .integers(let layers) = value, layers.count == count,
      layers.allSatisfy({ (-4096...4095).contains($0) })
    else {
      throw ModelError(
        .invalidMetadata(key: "rwkv.state_layers", found: "\(value)", expected: "\(count) layers"))
    }
    return layers.map(Int.init)
  }

  /// An integer within `range`.
  fileprivate func integer(_ key: String, in range: ClosedRange<Int>) throws(ModelError) -> Int {
    guard let value = self[key] else { throw ModelError(.missingMetadata(key: key)) }
    guard case .integer(let integer) = value, let found = Int(exactly: integer), range.contains(found) else {
      throw ModelError(
        .invalidMetadata(
          key: key, found: "\(value)", expected: "an integer in \(range.lowerBound)…\(range.upperBound)"))
    }
    return found
  }
}
