// SPDX-License-Identifier: MIT
internal import RWKVFormat

extension Version {
  /// Recognises the architecture by the tensors of block 0, under BlinkDL names.
  static func detect(_ sources: [String: StoredTensor], file: String) throws(CheckpointError) -> Version {
    try refuseRelatives(sources, file: file)
    func has(_ leaf: String) -> Bool { sources["blocks.0." + leaf] != nil }
    if sources.keys.contains(where: { $0.hasPrefix("moba.") }) { return .x }
    if has("ffn.s_emb.weight") { return has("qkv.qq.weight") ? .v7b : .v7a }
    if has("att.r_k") || has("att.k_k") || has("att.x_r") { return .v7 }
    if has("att.time_maa_x") { return .v6 }
    guard let decay = sources["blocks.0.att.time_decay"] else {
      let names = sources.values.map(\.name).sorted().prefix(4).map(quoted).joined(separator: ", ")
      throw CheckpointError(
        .unsupported, file: file, "holds no RWKV model that is known", found: "tensors \(names), …",
        expected: "names of RWKV 4, 5, 6, 7, 7a, 7b or X (such as 'blocks.0.att.time_decay')",
        advice: "Give the language model's own checkpoint, not an adapter, a state or an optimizer file")
    }
    if !has("att.ln_x.weight") { return .v4 }
    if !has("att.gate.weight") { return .v50 }
    // One decay per head in 5.1, one per channel in 5.2. A file may have dropped axes of size one, so count.
    let width = sources["blocks.0.att.ln_x.weight"]?.count
    return decay.count == width ? .v52 : .v51
  }

  /// Models that resemble a known version, but compute something else.
  private static func refuseRelatives(
    _ sources: [String: StoredTensor], file: String
  ) throws(CheckpointError) {
    let relatives: [(sign: String, model: String)] = [
      ("rosa", "RWKV-8 (ROSA)"),
      (".qkv.ennk", "the RWKV-8 preview with attention"),
      (".qkv.kkup", "the RWKV-8 preview with attention"),
      (".qkv.vvup", "the RWKV-8 preview with attention"),
      (".qkv.emm", "the RWKV-8 preview with attention"),
      (".ffn.enn.", "the RWKV-8 preview"),
      (".self_attn.", "a grafted model (RWKV6Qwen2, ARWKV7 or a transformer)"),
      (".ffn.gate_proj.", "a grafted model (RWKV6Qwen2, ARWKV7 or a transformer)"),
      (".time_mixer.", "a grafted model (ARWKV7)"),
      (".ffn_gate.", "a grafted model (RWKV6Qwen2, ARWKV7 or a transformer)"),
    ]
    for relative in relatives {
      guard let key = sources.keys.filter({ $0.lowercased().holds(relative.sign) }).min() else { continue }
      let name = sources[key]?.name ?? key
      throw CheckpointError(
        .unsupported, file: file, "is \(relative.model), which is not supported",
        found: "tensor \(quoted(name))",
        expected: "RWKV 4, 5, 6, 7, 7a, 7b or X")
    }
  }
}

extension ModelKind {
  /// Recognises what a model of version 7 is for by its heads.
  static func detect(_ sources: [String: StoredTensor]) -> ModelKind {
    if !EmbeddingTask.heads(among: sources.keys).isEmpty { return .embedding }
    return sources.keys.contains { $0.hasPrefix("head.0.") } ? .reranker : .language
  }
}
