import Testing

@testable import RWKVCheckpoint

/// The same model under other names, shapes and in other files reads as the same model.
@Suite("Checkpoint names")
struct NamesTests {
  static func drafts(_ name: String) throws -> [Draft] {
    try Safetensors.read(InputFile(path: goldens + "/" + name)).map { try Draft($0) }
  }

  /// fla's names; low-rank matrices transposed, vectors without axes of size one.
  static func fla(_ draft: Draft) -> Draft? {
    var draft = draft
    let lowRank = ["w", "a", "v", "g"].flatMap { [$0 + "1", $0 + "2"] }
    let leaf = String(draft.name.split(separator: ".").last ?? "")
    if lowRank.contains(leaf) { draft = draft.transposed }
    let layer = draft.name.hasPrefix("blocks.") ? "model.layers." : ""
    if draft.name.hasPrefix("blocks.0.att.v"), leaf.count == 2 { return nil }
    var name = draft.name
    if layer != "" { name = layer + name.dropFirst(7) }
    for part in ["w", "a", "v", "g"] {
      name = name.replacing("att.\(part)0", with: "att.\(part)_lora.lora.2.bias")
      name = name.replacing("att.\(part)1", with: "att.\(part)_lora.lora.0.weight")
      name = name.replacing("att.\(part)2", with: "att.\(part)_lora.lora.2.weight")
    }
    for (from, to) in [
      ("att.receptance", "att.r_proj"), ("att.key", "att.k_proj"), ("att.value", "att.v_proj"),
      ("att.output", "att.o_proj"), ("att.ln_x", "att.g_norm"), (".att.", ".attn."), ("ln0.", "pre_norm."),
      ("ln1.", "attn_norm."), ("ln2.", "ffn_norm."), ("emb.weight", "model.embeddings.weight"),
      ("ln_out.", "model.norm."), ("head.weight", "lm_head.weight"),
    ] { name = name.replacing(from, with: to) }
    draft.name = name
    if draft.shape.prefix(2) == [1, 1] { draft.shape = [draft.shape[2]] }
    return draft
  }

  @Test(arguments: [false, true])
  func flaNamesOldAndNewReadAsBlinkDL(stacked: Bool) throws {
    let original = try NamesTests.drafts("v7-oddlora/model.safetensors")
    var drafts = original.compactMap { NamesTests.fla($0) }
    if stacked {
      for layer in 0..<2 {
        let names = ["r", "w", "k", "v", "a", "g"].map { "model.layers.\(layer).attn.x_\($0)" }
        let parts = try names.map { name in try #require(drafts.first { $0.name == name }) }
        drafts.removeAll { names.contains($0.name) }
        var fused = parts[0].renamed("model.layers.\(layer).attn.x_x")
        fused.shape = [6, parts[0].shape[0]]
        fused.bytes = parts.flatMap(\.bytes)
        drafts.append(fused)
      }
    }
    let folder = TemporaryFolder()
    folder.write("model.safetensors", safetensors(drafts))
    let renamed = try Checkpoint(path: folder.path)
    #expect(renamed.source == "safetensors, fla names, F16")
    try expectSame(renamed, Checkpoint(path: goldens + "/v7-oddlora/model.safetensors"))
  }

  @Test func shardsReadAsOneFile() throws {
    let drafts = try NamesTests.drafts("v7-oddlora/model.safetensors")
    let folder = TemporaryFolder()
    let half = drafts.count / 2
    folder.write("a.safetensors", safetensors(Array(drafts[..<half])))
    folder.write("b.safetensors", safetensors(Array(drafts[half...])))
    let entries = drafts.enumerated().map { "\"\($1.name)\":\"\($0 < half ? "a" : "b").safetensors\"" }
    func index(_ entries: [String]) {
      let map = "{\"metadata\":{\"total_size\":1},\"weight_map\":{" + entries.joined(separator: ",") + "}}"
      folder.write("model.safetensors.index.json", map.utf8)
    }
    index(entries)
    let sharded = try Checkpoint(path: folder.path)
    #expect(sharded.source == "2 safetensors shards, BlinkDL names, F16")
    try expectSame(sharded, Checkpoint(path: goldens + "/v7-oddlora/model.safetensors"))

    index(Array(entries.dropLast()))
    expectFailure(folder.path, .malformed, "does not list")
    index(entries + ["\"surplus\":\"b.safetensors\""])
    expectFailure(folder.path, .malformed, "surplus", "lacks")
    for name in ["../b.safetensors", "/b.safetensors", "x\\\\b.safetensors", "", "..", "a\\u0000"] {
      index(entries + ["\"surplus\":\"\(name)\""])
      expectFailure(folder.path, .malformed, "outside its directory")
    }
    index(entries + ["\"surplus\":\"c.safetensors\""])
    expectFailure(folder.path, .unreadable, "c.safetensors")
    folder.write("model.safetensors.index.json", "{}".utf8)
    expectFailure(folder.path, .malformed, "weight_map")
  }

  @Test func errorsNameWhatIsMissingAndWhatIsUnknown() throws {
    let drafts = try NamesTests.drafts("v7-f32-small/model.safetensors")
    let folder = TemporaryFolder()
    func check(_ drafts: [Draft], _ kind: CheckpointError.Kind, _ first: String, _ second: String = "") {
      expectFailure(folder.write("m", safetensors(drafts)), kind, first, second)
    }
    check(
      drafts.filter { $0.name != "blocks.1.att.k_k" }, .mismatch, "1 missing: 'blocks.1.att.k_k'", "RWKV-7")
    check(
      drafts + [Draft("blocks.0.att.q", [2], [1, 2])], .mismatch, "1 unknown: 'blocks.0.att.q'", "RWKV-7")
    check(drafts.filter { !$0.name.hasPrefix("blocks.0.") }, .unsupported, "no RWKV model")
    check(drafts.filter { $0.name != "emb.weight" }, .mismatch, "emb.weight", "missing")
    check(drafts + [Draft("rwkv.emb.weight", [2], [1, 2])], .mismatch, "second tensor for 'emb.weight'")
    check(drafts.map { $0.name == "head.weight" ? $0.transposed : $0 }, .mismatch, "64×256", "256×64")
    check(drafts.filter { $0.name != "blocks.1.att.w1" }, .mismatch, "att.w2", "shape")
    for (name, model) in [
      ("blocks.0.ffn.s_emb.weight", "RWKV-7a"), ("blocks.0.qkv.qq.weight", "RWKV-7b"),
      ("blocks.0.ffn.enn.weight", "RWKV-8"), ("model.layers.0.mlp.gate_proj.weight", "RWKV6Qwen2"),
      ("model.layers.0.self_attn.time_mixer.x_r", "ARWKV7"),
    ] { check(drafts + [Draft(name, [2], [1, 2])], .unsupported, model, name) }
    for name in [
      "blocks.9.ln1.weight", "blocks.x.ln1.weight", "blocks.01.ln1.weight", "blocks.-1.ln1.weight",
    ] {
      check(drafts + [Draft(name, [2], [1, 2])], .mismatch, "block")
    }
    check([Draft("lm_head.weight", [2], [1, 2])], .unsupported, "no RWKV model")
  }
}
