// SPDX-License-Identifier: MIT
internal import RWKVFormat

/// What a checkpoint says about its model beside the tensors (config.json, GGUF metadata, rwkv.cpp header).
/// The tensors decide; a contradiction is an error.
struct Claims: Sendable {
  /// Where they come from, for messages.
  var origin = ""
  var embedding: Int?
  var layers: Int?
  var vocabulary: Int?
  var ffn: Int?
  var headSize: Int?
  var groupNormEpsilon: Double?
  /// Whether the embedding is the head, whatever stands in the checkpoint for that.
  var tiesHead = false
  /// Epsilon of the other norms; the runtime's is fixed.
  var layerNormEpsilon: Double?
}

extension Claims {
  /// The entries of a Hugging Face config.json that matter. All are optional; null counts as absent.
  ///
  /// What changes the computation is honoured or refused. Sizes are those of the tensors: a contradiction is an error,
  /// and a value that is no number of any kind is passed over. Nothing else is looked at.
  init(config: JSON, file: String) throws(CheckpointError) {
    origin = "config.json"
    func size(_ keys: String...) throws(CheckpointError) -> Int? {
      for key in keys {
        guard let number = config[key]?.number else { continue }
        guard let size = Int(exactly: number), size > 0 else {
          throw CheckpointError(
            .malformed, file: file, "has an impossible \(key)", found: "\(number)",
            expected: "a positive integer")
        }
        return size
      }
      return nil
    }
    func epsilon(_ keys: String...) throws(CheckpointError) -> Double? {
      for key in keys {
        guard let value = config[key], value != .null else { continue }
        guard let number = value.number, number.isFinite else {
          throw CheckpointError(.malformed, file: file, "has an impossible \(key)", expected: "a number")
        }
        return number
      }
      return nil
    }
    embedding = try size("hidden_size")
    layers = try size("num_hidden_layers")
    vocabulary = try size("vocab_size")
    ffn = try size("intermediate_size")
    headSize = try size("head_dim", "head_size")
    layerNormEpsilon = try epsilon("norm_eps", "layer_norm_epsilon")
    // Version 7's layouts scale the epsilon of the group norm with the head size; BlinkDL's stays 64e-5.
    let isVersion7 = [config["model_type"], config["architecture_version"]].contains(.string("rwkv7"))
    if isVersion7, let layerNormEpsilon, let headSize {
      groupNormEpsilon = Double(headSize) * layerNormEpsilon
    } else if !isVersion7, let divisor = try epsilon("head_size_divisor") {
      groupNormEpsilon = 1e-5 * divisor * divisor
    }
    tiesHead = config["tie_word_embeddings"] == .bool(true)
    try Claims.refuseOtherFunctions(config, file: file)
  }

  /// Throws where the config asks for another function than the tensors' version computes.
  private static func refuseOtherFunctions(_ config: JSON, file: String) throws(CheckpointError) {
    let squaredReLU = ["sqrelu", "relu2", "relu_squared", "squared_relu"]
    if let activation = config["hidden_act"], activation != .null,
      !squaredReLU.contains(activation.string ?? "")
    {
      throw CheckpointError(
        .unsupported, file: file, "asks for an activation that no RWKV model of a known version has",
        found: "hidden_act \(activation.string.map(quoted) ?? "that is no name")", expected: "sqrelu")
    }
    if let layers = config["attn"]?["layers"]?.array, !layers.isEmpty {
      throw CheckpointError(
        .unsupported, file: file,
        "says that some layers are of attention, as in no RWKV model of a known version",
        found: "attn.layers")
    }
    if config["embedding_layer_norm_fused"] == .bool(true) {
      throw CheckpointError(
        .unsupported, file: file, "says that the first norm is contained in the embedding",
        found: "embedding_layer_norm_fused", advice: "Convert the checkpoint that still has its first norm")
    }
    if config["use_deep_embed"] == .bool(true) {
      throw CheckpointError(
        .unsupported, file: file, "asks for vectors per token and layer that stand outside of the checkpoint",
        found: "use_deep_embed", advice: "Convert the checkpoint of the original, which has them")
    }
  }

  /// Throws for the first claim that the tensors contradict.
  func check(_ model: ModelAssembly) throws(CheckpointError) {
    let pairs: [(String, Int?, Int)] = [
      ("embedding size", embedding, model.embedding), ("number of layers", layers, model.layers),
      ("vocabulary size", vocabulary, model.vocabulary), ("ffn size", ffn, model.ffn),
      ("head size", model.version == .v4 ? nil : headSize, model.headSize),
    ]
    for (what, claimed, actual) in pairs {
      if let claimed, claimed != actual {
        throw CheckpointError(
          .mismatch, file: model.file, "\(origin) and the tensors disagree on the \(what)",
          found: "\(claimed) in \(origin)", expected: "\(actual), the size of the tensors",
          advice: "Use the \(origin) that belongs to this checkpoint")
      }
    }
    if let layerNormEpsilon, abs(layerNormEpsilon - 1e-5) > 1e-9 {
      throw CheckpointError(
        .unsupported, file: model.file, "\(origin) has an unsupported epsilon of the layer norm",
        found: "\(layerNormEpsilon)", expected: "1e-05")
    }
    if let groupNormEpsilon, !(groupNormEpsilon > 0 && groupNormEpsilon < 1) {
      throw CheckpointError(
        .malformed, file: model.file, "\(origin) has an impossible epsilon of the group norm",
        found: "\(groupNormEpsilon)", expected: "between 0 and 1")
    }
  }
}
