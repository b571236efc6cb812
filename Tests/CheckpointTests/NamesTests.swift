// SPDX-License-Identifier: MIT
import RWKVFormat
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

  /// The two layouts of 2026 hold the models of two other cases.
  @Test(arguments: [
    ("v7-hf-native", "v7-std", "2 safetensors shards, transformers names, BF16"),
    ("v7-hf-fork", "v7-f32-small", "safetensors, transformers-rwkv names, F32"),
  ])
  func newLayoutsReadAsBlinkDL(name: String, original: String, source: String) throws {
    let checkpoint = try Checkpoint(path: goldens + "/" + name)
    #expect(checkpoint.source == source)
    #expect(checkpoint.groupNormEpsilon.map { abs($0 - 64e-5) < 1e-12 } == true)
    try expectSame(checkpoint, Checkpoint(path: goldens + "/" + original + "/model.safetensors"))
  }

  @Test func configsThatChangeTheComputationAreHonouredOrRefused() throws {
    let folder = TemporaryFolder()
    folder.write("model.safetensors", try contents(goldens + "/v7-f32-small/model.safetensors"))
    for config in ["{\"hidden_act\": \"silu\"}", "{\"embedding_layer_norm_fused\": true}"] {
      folder.write("config.json", config.utf8)
      expectFailure(folder.path, .unsupported, "config.json")
    }
    for (config, epsilon) in [
      ("{\"hidden_act\": \"sqrelu\"}", 64e-5), ("{\"head_size_divisor\": 16}", 256e-5),
    ] {
      folder.write("config.json", config.utf8)
      let found = try #require(try Checkpoint(path: folder.path).groupNormEpsilon)
      #expect(abs(found - epsilon) < 1e-12)
    }
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
    for name in ["blocks.1.att.w1", "blocks.1.att.w2", "blocks.0.att.g1"] {
      check(drafts.filter { $0.name != name }, .mismatch, "1 missing: '\(name)'", "RWKV-7")
    }
    check(
      drafts.map { $0.name == "blocks.1.att.w2" ? $0.transposed : $0 }, .mismatch, "att.w2", "axes exchanged")
    for (name, model) in [
      ("blocks.0.att.rosa_q.weight", "RWKV-8 (ROSA)"), ("emb_ROSA.weight", "RWKV-8 (ROSA)"),
      ("blocks.0.qkv.ennk.weight", "RWKV-8"), ("blocks.0.qkv.kkup.weight", "RWKV-8"),
      ("blocks.0.qkv.vvup.weight", "RWKV-8"), ("blocks.0.qkv.emm.weight", "RWKV-8"),
      ("blocks.0.ffn.enn.weight", "RWKV-8"), ("model.layers.0.mlp.gate_proj.weight", "RWKV6Qwen2"),
      ("model.layers.0.self_attn.time_mixer.x_r", "ARWKV7"),
    ] { check(drafts + [Draft(name, [2], [1, 2])], .unsupported, model, name) }
    // Parts of 7a and 7b alone.
    check(drafts + [Draft("blocks.0.ffn.s_emb.weight", [2], [1, 2])], .mismatch, "RWKV-7A", "s_emb")
    check(
      drafts + [Draft("blocks.0.qkv.qq.weight", [2], [1, 2])], .mismatch,
      "1 unknown: 'blocks.0.qkv.qq.weight'")
    for name in [
      "blocks.9.ln1.weight", "blocks.x.ln1.weight", "blocks.01.ln1.weight", "blocks.-1.ln1.weight",
    ] {
      check(drafts + [Draft(name, [2], [1, 2])], .mismatch, "block")
    }
    check([Draft("lm_head.weight", [2], [1, 2])], .unsupported, "no RWKV model")
  }

  /// Hugging Face's names of versions 4 to 6 were BlinkDL's: back with them, and the model is the same.
  @Test(arguments: [
    ("v4-hf", ["model.safetensors"]), ("v52-hf", ["model.safetensors"]),
    ("v6-hf", ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]),
  ])
  func huggingFaceNamesReadAsBlinkDL(name: String, files: [String]) throws {
    let drafts = try files.flatMap { try NamesTests.drafts(name + "/" + $0) }.map { draft in
      var name = draft.name
      for (from, to) in [
        ("rwkv.", ""), ("embeddings.", "emb."), ("pre_ln.", "ln0."), ("attention.", "att."),
        ("feed_forward.", "ffn."), ("time_mix_key", "time_mix_k"), ("time_mix_value", "time_mix_v"),
        ("time_mix_receptance", "time_mix_r"), ("time_mix_gate", "time_mix_g"),
      ] { name = name.replacing(from, with: to) }
      return draft.renamed(name)
    }
    let folder = TemporaryFolder()
    let renamed = try Checkpoint(path: folder.write("model", safetensors(drafts)))
    #expect(renamed.source.hasPrefix("safetensors, BlinkDL names"))
    try expectSame(Checkpoint(path: goldens + "/" + name), renamed)
  }

  @Test func lowRankMatricesOfVersion6AreTransposedPartByPart() throws {
    let checkpoint = try Checkpoint(path: goldens + "/v6-hf")
    let file = try InputFile(path: goldens + "/v6-hf/model-00001-of-00002.safetensors")
    let stored = try #require(
      Safetensors.read(file).first { $0.name == "rwkv.blocks.0.attention.time_maa_w2" })
    let (parts, rank, width) = (5, 16, 64)
    #expect(stored.shape == [parts, rank, width])
    let bytes = try Draft(stored).bytes
    let tensor = try #require(checkpoint.tensors.first { $0.name == "blocks.0.att.time_maa_w2" })
    #expect(tensor.rows == parts * width && tensor.columns == rank && tensor.transposed)
    for step in [1, 16, 48, 320] {
      let found = try values(checkpoint, tensor, step: step)
      for part in 0..<parts {
        for row in 0..<width {
          for column in 0..<rank {
            let index = (part * rank + column) * width + row
            let expected = Float(
              bitPattern: UInt32(try #require(bytes.integer(UInt16.self, at: 2 * index))) << 16)
            guard found[(part * width + row) * rank + column] == expected else {
              Issue.record("part \(part), row \(row), column \(column)")
              return
            }
          }
        }
      }
    }
  }

  /// RWKV-X: version 7 under a prefix, and attention blocks with an ffn size of their own.
  @Test func attentionBlocksOfRWKVXAreFound() throws {
    let plain = try NamesTests.drafts("v7-f32-small/model.safetensors")
    var drafts = plain.map { $0.renamed("rwkv." + $0.name) }
    let square = [Float](repeating: 0.5, count: 64 * 64)
    for block in ["moba.0.", "moba.1."] {
      for norm in ["ln1.weight", "ln1.bias", "ln2.weight", "ln2.bias", "ffn.x_k"] {
        drafts.append(Draft(block + norm, [64], Array(repeating: 1, count: 64)))
      }
      for name in ["receptance", "key", "value", "output"] {
        drafts.append(Draft(block + "att." + name + ".weight", [64, 64], square))
      }
      drafts.append(Draft(block + "ffn.key.weight", [128, 64], square + square))
      drafts.append(Draft(block + "ffn.value.weight", [64, 128], (0..<64 * 128).map { Float($0) }))
    }
    let folder = TemporaryFolder()
    let checkpoint = try Checkpoint(path: folder.write("model", safetensors(drafts)))
    #expect(checkpoint.version == .x && checkpoint.layers == 2 && checkpoint.attentionLayers == 2)
    #expect(checkpoint.ffn == 256 && checkpoint.groupNormEpsilon == 64e-5)
    let names = checkpoint.tensors.map(\.name)
    let first = try #require(names.firstIndex(of: "moba.0.ln1.weight"))
    #expect(names[first - 1] == "blocks.1.ffn.value.weight")
    #expect(names.suffix(4) == ["moba.1.ffn.value.weight", "ln_out.weight", "ln_out.bias", "head.weight"])
    let value = try #require(checkpoint.tensors.first { $0.name == "moba.1.ffn.value.weight" })
    #expect(value.rows == 128 && value.columns == 64 && value.role == .rows)
    #expect(try values(checkpoint, value)[64 * 3 + 5] == Float(5 * 128 + 3))
    // Without attention blocks it is a plain version 7.
    let without = try Checkpoint(
      path: folder.write("plain", safetensors(plain.map { $0.renamed("rwkv." + $0.name) })))
    try expectSame(without, Checkpoint(path: goldens + "/v7-f32-small/model.safetensors"))
    let incomplete = drafts.filter { !$0.name.hasPrefix("moba.0.") }
    expectFailure(folder.write("hole", safetensors(incomplete)), .mismatch, "whole blocks")
  }

  /// Versions 5.0 to 5.2 differ in the gate and the number of decays; the bonus keeps its name. It is BF16 here:
  /// where all is F16, rows of `time_first` are web-rwkv's and no exponents.
  @Test(arguments: [
    (Version.v50, "time_first", 4), (.v50, "time_faaaa", 4), (.v51, "time_first", 4),
    (.v51, "time_faaaa", 4), (.v52, "time_faaaa", 64), (.v52, "time_first", 64),
  ])
  func versionsOf5AreToldApart(version: Version, bonus: String, decays: Int) throws {
    let drafts = try NamesTests.drafts("v52-hf/model.safetensors").compactMap { draft -> Draft? in
      if version == .v50, draft.name.contains("gate") { return nil }
      let parts: [(String, String)] = [("time_decay", "time_decay"), ("time_faaaa", bonus)]
      for (from, to) in parts where draft.name.hasSuffix(from) {
        var short = draft.renamed(draft.name.replacing(from, with: to))
        short.shape = version == .v52 ? [4, 16] : [decays]
        short.type = "BF16"
        short.bytes = Array(short.bytes.prefix(2 * decays))
        return short
      }
      return draft
    }
    let folder = TemporaryFolder()
    let checkpoint = try Checkpoint(path: folder.write("model", safetensors(drafts)))
    #expect(checkpoint.version == version && checkpoint.headSize == 16)
    #expect(checkpoint.tensors.contains { $0.name == "blocks.1.att." + bonus && $0.columns == decays })
    #expect(checkpoint.tensors.contains { $0.name == "blocks.1.att.gate.weight" } == (version != .v50))
  }

  @Test func initialStatesAreKept() throws {
    let state = Draft("blocks.1.att.time_state", [1, 64, 64], (0..<4096).map { Float($0) })
    let drafts = try NamesTests.drafts("v7-f32-small/model.safetensors") + [state]
    let folder = TemporaryFolder()
    let checkpoint = try Checkpoint(path: folder.write("model", safetensors(drafts)))
    let tensor = try #require(checkpoint.tensors.first { $0.name == state.name })
    #expect(tensor.role == .state && tensor.rows == 64 && tensor.columns == 64 && !tensor.transposed)
    #expect(try values(checkpoint, tensor)[65] == 65)
  }
}
