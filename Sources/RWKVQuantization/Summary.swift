// SPDX-License-Identifier: MIT
import RWKV
public import RWKVFormat
import RWKVTokenizer

/// What is in a model file: the figures that people ask for.
public struct ModelSummary: Sendable {
  /// The tensors of one format.
  public struct Share: Sendable {
    public let format: WeightFormat
    public internal(set) var tensors = 0
    public internal(set) var parameters = 0
    /// In memory [bytes].
    public internal(set) var rawBytes = 0
    /// In the file [bytes].
    public internal(set) var storedBytes = 0
  }

  /// "4", "5.0", "5.1", "5.2", "6", "7", "7a", "7b", "x".
  public let version: String
  /// "language", "embedding", "reranker".
  public let kind: String
  /// L, D, V, F of the metadata; 0 where it has none.
  public let layers, embedding, vocabulary, ffn: Int
  /// N; nil in version 4.
  public let headSize: Int?
  public let parameters: Int
  /// Memory by which a state grows with each token [bytes]: of RWKV-7b; 0 in other versions.
  public let stateBytesPerToken: Int
  public let fileBytes: Int
  /// Bytes of weights in the file and in memory.
  public let storedBytes, rawBytes: Int
  /// By format, the one with the most parameters first; without the tokenizer.
  public let formats: [Share]
  public let metadata: Metadata
  /// "world", "bpe", "bytes", or nil.
  public let tokenizer: String?
  public let identity: UInt64

  /// In the file, of all weights.
  public var bitsPerWeight: Double { 8 * Double(storedBytes) / Double(max(1, parameters)) }
  /// In memory, of all weights.
  public var bitsPerWeightInMemory: Double { 8 * Double(rawBytes) / Double(max(1, parameters)) }

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
