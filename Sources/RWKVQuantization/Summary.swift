// SPDX-License-Identifier: MIT
import RWKV
public import RWKVFormat
import RWKVTokenizer

/// What is in a model file: the figures that people ask for.
public struct ModelSummary: Sendable {
  /// The tensors of one format.
  public struct Share: Sendable {
    /// The format of the tensors.
    public let format: WeightFormat
    /// The number of tensors.
    public internal(set) var tensors = 0
    /// The number of weights.
    public internal(set) var parameters = 0
    /// What the tensors take in memory [bytes].
    public internal(set) var rawBytes = 0
    /// What the tensors take in the file [bytes].
    public internal(set) var storedBytes = 0
  }

  /// The version: "4", "5.0", "5.1", "5.2", "6", "7", "7a", "7b" or "x".
  public let version: String
  /// What the model makes of a text: "language", "embedding" or "reranker".
  public let kind: String
  /// The sizes L, D, V and F in the metadata; 0 where it has none.
  public let layers, embedding, vocabulary, ffn: Int
  /// The channels of a head, N; nil in version 4.
  public let headSize: Int?
  /// The number of weights of the model.
  public let parameters: Int
  /// The memory by which a state of RWKV-7b grows with each token [bytes]; 0 in other versions.
  public let stateBytesPerToken: Int
  /// The length of the file [bytes].
  public let fileBytes: Int
  /// What the weights take in the file, and in memory [bytes].
  public let storedBytes, rawBytes: Int
  /// The tensors by format, the one with the most parameters first; without the tokenizer.
  public let formats: [Share]
  /// What the file says about the model, by key.
  public let metadata: Metadata
  /// The kind of tokenizer in the file: "world", "bpe", "bytes" or another; nil without one.
  public let tokenizer: String?
  /// What states are bound to: see `ModelFile.identity`.
  public let identity: UInt64

  /// Bits that a weight takes in the file, on average over all weights.
  public var bitsPerWeight: Double { 8 * Double(storedBytes) / Double(max(1, parameters)) }
  /// Bits that a weight takes in memory, on average over all weights.
  public var bitsPerWeightInMemory: Double { 8 * Double(rawBytes) / Double(max(1, parameters)) }

  /// Sums up an open file.
  public init(_ file: ModelFile) {
    metadata = file.metadata
    func size(_ key: String) -> Int { file.metadata.integer(key).map(Int.init) ?? 0 }
    version = file.metadata.string("rwkv.version") ?? "?"
    kind = file.metadata.string("rwkv.kind") ?? ModelKind.language.rawValue
    layers = size("rwkv.layers")
    embedding = size("rwkv.embedding")
    vocabulary = size("rwkv.vocabulary")
    ffn = size("rwkv.ffn")
    headSize = file.metadata.integer("rwkv.head_size").map(Int.init)
    tokenizer = file.metadata.string("tokenizer.kind")
    stateBytesPerToken = (try? Configuration(file.metadata))?.bytesPerToken ?? 0
    identity = file.identity
    fileBytes = Int(file.size)

    var shares: [WeightFormat: Share] = [:]
    for tensor in file.tensors where tensor.format != .bytes {
      var share = shares[tensor.format] ?? Share(format: tensor.format)
      share.tensors += 1
      share.parameters += tensor.rows * tensor.columns
      share.rawBytes += tensor.rawBytes
      share.storedBytes += file.storedBytes(of: tensor)
      shares[tensor.format] = share
    }
    formats = shares.values.sorted {
      ($0.parameters, $1.format.rawValue) > ($1.parameters, $0.format.rawValue)
    }
    parameters = formats.reduce(0) { $0 + $1.parameters }
    rawBytes = formats.reduce(0) { $0 + $1.rawBytes }
    storedBytes = formats.reduce(0) { $0 + $1.storedBytes }
  }
}
