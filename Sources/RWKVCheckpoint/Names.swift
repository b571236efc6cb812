// SPDX-License-Identifier: MIT
/// The one table of names: Hugging Face (v4–v6), fla (v7, old and new), transformers' own model and
/// transformers-rwkv (v7), llama.cpp's second v7 style, GGUF, rwkv.cpp and RWKV-X, all to BlinkDL's. The spellings do
/// not collide, except that GGUF's need the version.
enum Names {
  /// Whole names and prefixes outside the blocks.
  private static let outer: [(String, String)] = [
    ("rwkv.embeddings.", "emb."), ("model.embeddings.", "emb."), ("token_embd.", "emb."),
    ("model.pre_ln.", "blocks.0.ln0."), ("token_embd_norm.", "blocks.0.ln0."),
    ("rwkv.ln_out.", "ln_out."), ("model.ln_out.", "ln_out."), ("model.norm.", "ln_out."),
    ("output_norm.", "ln_out."),
    ("lm_head.", "head."), ("model.head.", "head."), ("output.", "head."),
    ("rwkv.emb.", "emb."), ("rwkv.head.", "head."), ("token.", "emb."),
    ("rwkv7.emb.", "emb."), ("rwkv7.embeddings.", "emb."), ("rwkv7.ln_out.", "ln_out."),
    ("model.embed_tokens.", "emb."), ("model.embedding_norm.", "blocks.0.ln0."), ("model.emb.", "emb."),
  ]

  private static let blocks = [
    "blocks.", "rwkv.blocks.", "rwkv7.blocks.", "model.layers.", "model.blocks.", "blk.",
  ]

  /// Parts of a block.
  private static let modules: [(String, String)] = [
    ("pre_ln.", "ln0."), ("pre_norm.", "ln0."),
    ("attn_norm.", "ln1."), ("attn_norm_2.", "ln2."), ("ffn_norm.", "ln2."),
    ("attention.", "att."), ("attn.", "att."), ("feed_forward.", "ffn."),
    ("time_mix_ln.", "att.ln_x."),
    ("input_layernorm.", "ln1."), ("post_attention_layernorm.", "ln2."),
    ("linear_attn.", "att."), ("mlp.", "ffn."),
  ]

  /// Last parts, after the module has been translated. `outputMajor`: a low-rank matrix stored as [out, in].
  private static let leaves: [String: (name: String, outputMajor: Bool)] = {
    var table: [String: (String, Bool)] = [
      "att.r_proj.weight": ("att.receptance.weight", false), "att.k_proj.weight": ("att.key.weight", false),
      "att.v_proj.weight": ("att.value.weight", false), "att.o_proj.weight": ("att.output.weight", false),
      "att.g_norm.weight": ("att.ln_x.weight", false), "att.g_norm.bias": ("att.ln_x.bias", false),
      "att.time_mix_key": ("att.time_mix_k", false), "att.time_mix_value": ("att.time_mix_v", false),
      "att.time_mix_receptance": ("att.time_mix_r", false), "att.time_mix_gate": ("att.time_mix_g", false),
      "ffn.time_mix_key": ("ffn.time_mix_k", false), "ffn.time_mix_receptance": ("ffn.time_mix_r", false),
    ]
    for part in ["w", "a", "v", "g"] {
      table["att.\(part)_lora.lora.0.weight"] = ("att.\(part)1", true)
      table["att.\(part)_lora.lora.2.weight"] = ("att.\(part)2", true)
      table["att.\(part)_lora.lora.2.bias"] = ("att.\(part)0", false)
    }
    return table
  }()

  /// Stacked token-shift vectors, along the first axis in this order.
  private static let stacked: [String: [String]] = {
    let version7 = ["r", "w", "k", "v", "a", "g"].map { "att.x_" + $0 }
    let version6 = ["w", "k", "v", "r", "g"].map { "att.time_maa_" + $0 }
    return ["att.x_x": version7, "att.x_rwkvag": version7, "att.time_maa_fused": version6]
  }()

  /// GGUF calls tensors of versions 6 and 7 by the same names where BlinkDL does not.
  enum Dialect { case common, gguf6, gguf7 }

  /// `time_mix_key.weight` → `att.key.weight`, `time_mix_lerp_fused.weight` → `att.x_x`, …
  private static func ggufLeaf(_ leaf: String, _ dialect: Dialect) -> String? {
    let modules = [("time_mix_", "att."), ("channel_mix_", "ffn.")]
    guard leaf.hasSuffix(".weight"), let (prefix, module) = modules.first(where: { leaf.hasPrefix($0.0) })
    else {
      return nil
    }
    let name = String(leaf.dropFirst(prefix.count).dropLast(7))
    if ["key", "value", "receptance", "gate", "output"].contains(name) { return module + name + ".weight" }
    if dialect == .gguf7 {
      return module + (["lerp_fused": "x_x", "lerp_k": "x_k"][name] ?? name)
    }
    if name.hasPrefix("lerp_") { return module + "time_maa_" + name.dropFirst(5) }
    if name.hasPrefix("decay") { return module + "time_" + name }
    return module + (name == "first" ? "time_faaaa" : "time_maa_" + name)
  }

  /// BlinkDL names of one stored tensor; names that are not known come back as they are.
  static func sources(
    of tensor: StoredTensor, dialect: Dialect = .common
  ) throws(CheckpointError) -> [(name: String, source: StoredTensor)] {
    var (block, leaf) = split(tensor.name)
    if dialect != .common { leaf = ggufLeaf(leaf, dialect) ?? leaf }
    if let parts = stacked[leaf] {
      return try slices(tensor, parts: parts).map { (block + $0.leaf, $0.slice) }
    }
    var source = tensor
    if let known = leaves[leaf] {
      leaf = known.name
      if known.outputMajor { source.isOutputMajor = true }
    }
    return [(block + leaf, source)]
  }

  /// `model.layers.3.attn.k_k` → (`blocks.3.`, `att.k_k`). Names outside the blocks: ("", the whole name).
  static func split(_ name: String) -> (block: String, leaf: String) {
    for (prefix, replacement) in outer where name.hasPrefix(prefix) {
      return ("", replacement + name.dropFirst(prefix.count))
    }
    guard let prefix = blocks.first(where: { name.hasPrefix($0) }) else { return ("", name) }
    let rest = name.dropFirst(prefix.count)
    guard let dot = rest.firstIndex(of: ".") else { return ("", name) }
    let block = "blocks." + rest[..<dot] + "."
    let leaf = String(rest[rest.index(after: dot)...])
    for (module, replacement) in modules where leaf.hasPrefix(module) {
      return (block, replacement + leaf.dropFirst(module.count))
    }
    return (block, leaf)
  }

  /// The names without what trainers put before all of them, or before the names of parts.
  static func unwrapped(_ tensors: [StoredTensor]) -> [StoredTensor] {
    var tensors = tensors
    for index in tensors.indices {
      for wrapper in innerWrappers { tensors[index].name = tensors[index].name.removing(wrapper) }
    }
    // Whatever stands before the embedding's name, or a wrapper, if it stands before all others, too.
    let before = tensors.lazy.compactMap { wrapper(before: $0.name) }.first
    let prefix = ([before].compactMap(\.self) + wrappers).first { prefix in
      !prefix.isEmpty && tensors.allSatisfy { $0.name.hasPrefix(prefix) }
    }
    guard let prefix else { return tensors }
    for index in tensors.indices { tensors[index].name.removeFirst(prefix.count) }
    return unwrapped(tensors)
  }

  /// What stands before a name by which a model, or a tuned state, is known in some spelling; nil for other names.
  private static func wrapper(before name: String) -> String? {
    for known in landmarks {
      if name == known { return "" }
      if name.hasSuffix("." + known) { return String(name.dropLast(known.utf8.count)) }
    }
    return nil
  }

  /// Longer ones first, as others end like them.
  private static let landmarks = [
    "rwkv.embeddings.weight", "rwkv7.embeddings.weight", "rwkv7.emb.weight", "rwkv.emb.weight",
    "reranker.emb.weight", "model.embeddings.weight", "model.embed_tokens.weight", "emb.weight",
    "blocks.0.att.time_state",
  ]

  /// The tensors of the language model, embedding model or reranker in a checkpoint that has more beside it, such as an
  /// encoder of images or sound, and the names of what is left out. Other checkpoints come back whole.
  static func modelPart(_ tensors: [StoredTensor]) -> (tensors: [StoredTensor], leftOut: [String]) {
    let part = parts.first { part in
      tensors.contains {
        $0.name.hasPrefix(part) && split($0.name.removing(prefix: part)).block == "blocks.0."
      }
    }
    guard let part else { return (tensors, []) }
    var (kept, leftOut): ([StoredTensor], [String]) = ([], [])
    for var tensor in tensors {
      if tensor.name.hasPrefix(part) {
        // Those of RWKV-X and EmbeddingRWKV are a spelling of names.
        if part != "rwkv." { tensor.name = tensor.name.removing(prefix: part) }
      } else if !belongsToModel(tensor.name) {
        leftOut.append(tensor.name)
        continue
      }
      kept.append(tensor)
    }
    return (kept, leftOut)
  }

  /// What the names of the model's tensors begin with beside those of other parts: VisualRWKV, RWKV-X and
  /// EmbeddingRWKV; ModRWKV; RWKVReRanker.
  private static let parts = ["rwkv.", "llm.", "reranker."]

  /// Whether a name without the model's prefix is one of the model yet.
  private static func belongsToModel(_ name: String) -> Bool {
    if ["head.", "lm_head.", "reranker_layer_idx"].contains(where: name.hasPrefix) { return true }
    // An attention block of RWKV-X: other models may have a part of that name.
    let words = name.split(separator: ".", maxSplits: 3)
    return words.count == 4 && words[0] == "moba" && Int(words[1]) != nil
      && ["ln1", "att", "ln2", "ffn"].contains(words[2])
  }

  /// Prefixes that wrappers of whole models and of adapters add.
  private static let wrappers = ["module.", "base_model.model."]
  /// Parts of names that compilation, sharding and checkpointing of activations add.
  private static let innerWrappers = [
    "_forward_module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.",
  ]

  /// Cuts a tensor along its first axis.
  private static func slices(
    _ tensor: StoredTensor, parts: [String]
  ) throws(CheckpointError) -> [(leaf: String, slice: StoredTensor)] {
    let count = tensor.count / parts.count
    guard tensor.shape[0] == parts.count, let bytes = tensor.type.byteCount(count) else {
      throw CheckpointError(
        .mismatch, file: tensor.file.path, tensor: tensor.name, "has an unexpected shape",
        found: shapeText(tensor.shape), expected: "\(parts.count) stacked vectors")
    }
    return parts.enumerated().map { index, leaf in
      var slice = tensor
      slice.shape = [count]
      slice.offset += index * bytes
      if let strides = tensor.viewStrides {
        slice.shape = Array(tensor.shape.dropFirst())
        slice.strides = Array(strides.dropFirst())
        slice.offset = tensor.offset + index * strides[0] * tensor.type.blockBytes
        slice.isColumnMajor = false
      }
      return (leaf, slice)
    }
  }

  /// Whose names these are, as people are told.
  static func style(of tensors: [StoredTensor]) -> String {
    let styles = [
      ("moba.0.ln1.weight", "RWKV-X"), ("rwkv.emb.weight", "prefixed"), ("emb.weight", "BlinkDL"),
      ("rwkv.embeddings.weight", "Hugging Face"),
      ("model.embeddings.weight", "fla"), ("rwkv7.emb.weight", "transformers"),
      ("model.embedding_norm.weight", "transformers-rwkv"), ("token_embd.weight", "llama.cpp"),
    ]
    return styles.first { style in tensors.contains { $0.name == style.0 } }?.1 ?? "unknown"
  }
}

extension String {
  fileprivate func removing(prefix: String) -> String {
    hasPrefix(prefix) ? String(dropFirst(prefix.count)) : self
  }
}
