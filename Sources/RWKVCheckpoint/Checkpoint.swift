// SPDX-License-Identifier: MIT
public import RWKVFormat
import Synchronization

/// What a tensor is for; it decides orientation and admissible formats in our file.
public enum TensorRole: Sendable {
  /// y = W x, rows = outputs.
  case matrix
  /// A factor of a low-rank pair, rows = outputs (transposed with respect to BlinkDL).
  case lowRank
  /// `emb.weight`: one row per token.
  case embedding
  /// `ffn.s_emb.weight` and the like of 7a and 7b: one row per token, of which a token reads its own.
  case table
  /// `head.weight`: one row per token.
  case head
  /// `ffn.value.weight` as one row per hidden unit (transposed with respect to BlinkDL).
  case rows
  /// One row.
  case vector
  /// `att.time_state` of state-tuned files: H·N rows of N, as stored.
  case state
}

/// One tensor of a checkpoint, in our file's orientation (formats/rwkv-v1.md, section 3).
public struct CheckpointTensor: Sendable {
  /// The name that BlinkDL gives it, for example `blocks.0.att.key.weight`, `moba.0.ffn.x_k`.
  public let name: String
  /// What the tensor is for.
  public let role: TensorRole
  /// The number of rows in our orientation.
  public let rows: Int
  /// The number of columns in our orientation.
  public let columns: Int
  /// Whether our orientation differs from BlinkDL's.
  public let transposed: Bool
  /// How the checkpoint stores the values.
  public var sourceType: SourceType { source.type }
  /// Whether a LoRA is merged into the stored values.
  public var isUpdated: Bool { source.update != nil }

  let source: StoredTensor
  /// nil: the file has the values row by row. Otherwise it has them column by column, in groups of this many
  /// rows.
  var groupRows: Int?
}

/// A foreign checkpoint under one uniform view: BlinkDL names, our orientation, values as they were trained.
///
/// Immutable and safe to use from several threads. Nothing but names and shapes is held in memory; values are
/// read on demand. Non-finite values are passed on as they are.
public final class Checkpoint: Sendable {
  /// The version of the architecture.
  public let version: Version
  /// What the model makes of a text.
  public let kind: ModelKind
  /// For each block of a reranker, the layer of the embedding model whose state it reads; nil where it is not said.
  public let stateLayers: [Int]?
  /// The number of RWKV blocks, L.
  public let layers: Int
  /// The number of attention blocks; 0 except for RWKV-X.
  public let attentionLayers: Int
  /// The numbers of an embedding, D.
  public let embedding: Int
  /// The tokens of the vocabulary, V: rows of the embedding.
  public let vocabulary: Int
  /// The hidden units of channel mixing in the RWKV blocks, F.
  public let ffn: Int
  /// The channels of a head, N; 0 for version 4.
  public let headSize: Int
  /// The epsilon of `ln_x`; nil for version 4.
  public let groupNormEpsilon: Double?
  /// The tensors, in this order: embedding, blocks, attention blocks, output norm, head.
  public let tensors: [CheckpointTensor]
  /// How the publisher recommends to sample.
  public let generation: GenerationConfig
  /// The tokenizer's vocabulary, where the checkpoint itself has it.
  public let tokenizer: Vocabulary?
  /// What the checkpoint is, for people to read: "safetensors, fla names, BF16".
  public let source: String
  /// The paths of the files that hold the tensors.
  public let files: [String]
  /// What was done about tensors that are unneeded or absent, one sentence each.
  public let remarks: [String]

  let stripes = Mutex(RecentValues<Stripe>())
  let updates = Mutex(RecentValues<LowRankUpdate.Factors>())

  /// Opens a checkpoint: a file (`.safetensors`, `.pth`, `.bin`, `.gguf`) or a directory with one or with
  /// shards. The kind is recognised by content. `allowQuantized` admits ggml's quantized types, whose errors
  /// a second quantization only adds to.
  public init(
    path: String, fineTuning: FineTuning = FineTuning(), allowQuantized: Bool = false
  ) throws(CheckpointError) {
    let container = try Container(path: path)
    files = Set(container.tensors.map(\.file.path)).sorted()
    var sources: [String: StoredTensor] = [:]
    let (tensors, leftOut) = Names.modelPart(container.tensors)
    for tensor in tensors {
      guard allowQuantized || !tensor.type.isCoarse else {
        throw CheckpointError(
          .unsupported, file: path, tensor: tensor.name, "is already quantized", found: tensor.type.rawValue,
          expected: "F32, F16, BF16 or Q8_0", advice: "Convert the original, or allow quantized sources")
      }
      for (name, source) in try Names.sources(of: tensor, dialect: container.dialect) {
        guard sources.updateValue(source, forKey: name) == nil else {
          throw CheckpointError(
            .mismatch, file: path, tensor: tensor.name, "is a second tensor for \(quoted(name))")
        }
      }
    }
    try WebRWKV.undo(&sources, isSafetensors: container.kind.holds("safetensors"), file: path)
    var remarks = container.remarks + (leftOut.isEmpty ? [] : [remark(leftOut: leftOut)])
    stateLayers = try sources["reranker_layer_idx"]?.integers() ?? container.lists["reranker_layer_idx"]
    sources["reranker_layer_idx"] = nil
    for (name, tensor) in sources.sorted(by: { $0.key < $1.key }) where tensor.type.isInteger {
      sources[name] = nil
      remarks.append("tensor \(quoted(tensor.name)) is of integers and left out")
    }
    if container.claims.tiesHead, sources["emb.weight"] != nil { sources["head.weight"] = nil }
    if sources["head.weight"] == nil, let table = sources["emb.weight"],
      !sources.keys.contains(where: { $0.hasPrefix("head.") || $0.hasPrefix("reranker.") })
    {
      sources["head.weight"] = table
      remarks.append("no head.weight: the head is the embedding")
    }
    addBiases(to: &sources, &remarks)
    self.remarks = remarks
    try fineTuning.merge(into: &sources)
    version = try Version.detect(sources, file: path)
    kind = ModelKind.detect(sources)
    let model = try ModelAssembly(
      version: version, kind: kind, sources: sources, claims: container.claims, file: path)
    (layers, attentionLayers, embedding) = (model.layers, model.attentionLayers, model.embedding)
    (vocabulary, ffn, headSize) = (model.vocabulary, model.ffn, model.headSize)
    if kind == .reranker, let stateLayers,
      stateLayers.count != layers || !stateLayers.allSatisfy((-4096...4095).contains)
    {
      throw CheckpointError(
        .mismatch, file: path, tensor: "reranker_layer_idx", "does not name a layer for each block",
        found: "\(stateLayers.prefix(8))", expected: "\(layers) layers",
        advice: "The file may be incomplete; get it again")
    }
    groupNormEpsilon = version == .v4 ? nil : container.claims.groupNormEpsilon ?? 64e-5
    self.tensors = model.tensors
    (tokenizer, generation) = (container.vocabulary, container.generation)
    let types = SourceType.allCases.filter { type in model.tensors.contains { $0.sourceType == type } }
    source =
      "\(container.kind), \(Names.style(of: tensors)) names, "
      + types.map(\.rawValue).joined(separator: "/")
  }
}

/// The parts by what their names begin with.
private func remark(leftOut names: [String]) -> String {
  let parts = Set(names.map { name in "'" + name.prefix { $0 != "." } + ".…'" }).sorted()
  let count = names.count == 1 ? "1 tensor" : "\(names.count) tensors"
  return "left out, as the model does without them: \(count) of other parts, \(parts.joined(separator: ", "))"
}

/// Norms that were trained without a bias, all of a kind: with one of zeros they compute the same.
private func addBiases(to sources: inout [String: StoredTensor], _ remarks: inout [String]) {
  for norm in ["ln0", "ln1", "ln2", "ln_x", "ln_out"] {
    func has(_ part: String) -> (String) -> Bool {
      let suffix = norm + part
      return { $0 == suffix || $0.hasSuffix("." + suffix) }
    }
    let weights = sources.keys.filter(has(".weight"))
    guard !weights.isEmpty, !sources.keys.contains(where: has(".bias")) else { continue }
    for name in weights {
      var bias = sources[name]
      bias?.transform = .absent
      sources[name.dropLast(6) + "bias"] = bias
    }
    remarks.append("no \(norm).bias: it is zero")
  }
}
