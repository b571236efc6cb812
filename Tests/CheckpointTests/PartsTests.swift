// SPDX-License-Identifier: MIT
import RWKV
import RWKVFormat
import RWKVQuantization
import Testing

@testable import RWKVCheckpoint

/// Checkpoints that hold more than a language model, or another kind of model.
@Suite("Checkpoints with other parts")
struct PartsTests {
  private let folder = TemporaryFolder()

  private static let vision = [
    Draft("vit.vision_model.embeddings.patch_embedding.weight", [2, 2], [1, 2, 3, 4]),
    Draft("proj.gate.weight", [2], [1, 2]), Draft("encoder.layers.0.norm.weight", [2], [1, 2]),
  ]

  /// VisualRWKV's and ModRWKV's prefixes, inside a trainer's wrapper too, and fla's names behind one.
  @Test(arguments: ["rwkv.", "llm.", "module.llm.", "module.rwkv.", "llm.fla"])
  func theLanguagePartReadsAsAPlainModel(_ prefix: String) throws {
    var drafts = try NamesTests.drafts("v7-f32-small/model.safetensors")
    let isFLA = prefix.hasSuffix("fla")
    if isFLA { drafts = drafts.compactMap { NamesTests.fla($0) } }
    let (own, wrapper) = (isFLA ? "llm." : prefix, prefix.hasPrefix("module.") ? "module." : "")
    let whole =
      drafts.map { $0.renamed(own + $0.name) } + Self.vision.map { $0.renamed(wrapper + $0.name) }
    let checkpoint = try Checkpoint(path: folder.write("model", safetensors(whole)))
    #expect(checkpoint.kind == .language)
    try expectSame(checkpoint, Checkpoint(path: goldens + "/v7-f32-small/model.safetensors"))
    #expect(
      checkpoint.remarks == [
        "left out, as the model does without them: 3 tensors of other parts, 'encoder.…', 'proj.…', 'vit.…'"
      ])
  }

  /// What lies beside a plain model's tensors is no other part.
  @Test func unknownTensorsOfAPlainModelAreStillRefused() throws {
    let drafts = try NamesTests.drafts("v7-f32-small/model.safetensors")
    expectFailure(folder.write("m", safetensors(drafts + Self.vision)), .mismatch, "3 unknown")
    let part = drafts.map { $0.renamed("llm." + $0.name) }
    let more = part + Self.vision + [Draft("llm.blocks.0.att.q", [2], [1, 2])]
    expectFailure(folder.write("m", safetensors(more)), .mismatch, "1 unknown: 'blocks.0.att.q'")
  }

  /// RWKV-X's attention stands beside the prefix of the others; what is only called so makes no RWKV-X.
  @Test(
    arguments: ["moba.gate.weight", "moba.0.weight", "moba.0.conv.weight", "moba.layers.0.att.key.weight"])
  func aPartThatIsNamedLikeAttentionIsLeftOut(_ name: String) throws {
    let drafts = try NamesTests.drafts("v7-f32-small/model.safetensors").map { $0.renamed("rwkv." + $0.name) }
    let checkpoint = try Checkpoint(
      path: folder.write("m", safetensors(drafts + [Draft(name, [2], [1, 2])])))
    try expectSame(checkpoint, Checkpoint(path: goldens + "/v7-f32-small/model.safetensors"))
    #expect(
      checkpoint.remarks == ["left out, as the model does without them: 1 tensor of other parts, 'moba.…'"])
    // A block of attention that lacks the rest is no other part.
    let block = Draft("moba.0.att.key.weight", [2], [1, 2])
    expectFailure(folder.write("m", safetensors(drafts + [block])), .mismatch, "moba.0.")
  }

  @Test func embeddingModelsReadTheSameFromSafetensors() throws {
    let torch = try Checkpoint(path: goldens + "/emb-std/model.pth")
    #expect(torch.kind == .embedding && torch.version == .v7 && torch.vocabulary == 65_536)
    let drafts = try Container(path: goldens + "/emb-std/model.pth").tensors.map { try Draft($0) }
    let other = try Checkpoint(path: folder.write("model", safetensors(drafts)))
    #expect(other.kind == .embedding)
    #expect(torch.tensors.map(\.name) == other.tensors.map(\.name))
    for name in ["head.retr_head.fc1.weight", "head.sts_head.norm.bias", "blocks.2.att.w1"] {
      let (a, b) = (torch.tensors.first { $0.name == name }, other.tensors.first { $0.name == name })
      #expect(try values(torch, #require(a)) == values(other, #require(b)))
    }
    #expect(torch.remarks.contains { $0.contains("'proj.…', 'vit.…'") })
    let lacking = drafts.filter { $0.name != "head.sts_head.fc2.weight" }
    expectFailure(
      folder.write("model", safetensors(lacking)), .mismatch, "1 missing: 'head.sts_head.fc2.weight'")
  }

  /// A head that the model has gives the same vectors; one that it lacks is named.
  @Test func embeddingModelsMayHaveSomeOfTheHeads() throws {
    let path = goldens + "/emb-std/model.pth"
    let drafts = try Container(path: path).tensors.map { try Draft($0) }
    let some = drafts.filter { !$0.name.hasPrefix("head.") || $0.name.hasPrefix("head.sts_head.") }
    func session(_ source: String, _ name: String) throws -> Session {
      var options = ConversionOptions()
      options.type = .fp32
      _ = try Conversion.convert(source, to: folder.path + name, options)
      return try Session(Model(path: folder.path + name), threads: 1)
    }
    let (whole, part) = try (
      session(path, "/whole.rwkv"), session(folder.write("model", safetensors(some)), "/part.rwkv")
    )
    var options = EmbeddingOptions()
    options.task = .sts
    #expect(try part.embedding([1, 2, 3], options) == whole.embedding([1, 2, 3], options))
    options.task = .retrieval
    #expect {
      try part.embedding([1, 2, 3], options)
    } throws: {
      "\($0)".contains("has no head for the task retrieval, only for sts")
    }
  }

  @Test func embeddingModelsWithoutTheTokenThatEndsTextsAreRefused() throws {
    var drafts = try Container(path: goldens + "/emb-std/model.pth").tensors.map { try Draft($0) }
    let table = try #require(drafts.firstIndex { $0.name.hasSuffix("emb.weight") })
    drafts[table].bytes.removeLast(drafts[table].bytes.count / 65_536)
    drafts[table].shape[0] = 65_535
    expectFailure(
      folder.write("model", safetensors(drafts)), .unsupported, "the token that ends the texts", "65535 rows")
  }

  /// With and without the prefix, under the older name of the table, and with the layers in every form.
  @Test func rerankersReadTheSameUnderAllNames() throws {
    let path = goldens + "/rerank-std/model.pth"
    let original = try Checkpoint(path: path)
    #expect(original.kind == .reranker && original.vocabulary == 1 && original.stateLayers == [2, 0])
    let drafts = try Container(path: path).tensors.map { try Draft($0) }
    func check(_ drafts: [Draft], _ layers: [Int]?) throws {
      let other = try Checkpoint(path: folder.write("model", safetensors(drafts)))
      try expectSame(other, original)
      #expect(other.kind == .reranker && other.stateLayers == layers)
    }
    try check(drafts, nil)
    let bare = drafts.filter { $0.name.hasPrefix("reranker.") }.map {
      $0.renamed(String($0.name.dropFirst(9)))
    }
    try check(bare, nil)
    var older = drafts
    for index in older.indices where older[index].name == "reranker.emb.weight" {
      older[index].name = "reranker.token.weight"
      older[index].shape = [64]
    }
    try check(older, nil)
    for (type, bytes) in [
      ("I64", littleEndian(Int64(-1)) + littleEndian(Int64(0))),
      ("I32", littleEndian(Int32(-1)) + littleEndian(Int32(0))),
    ] {
      var list = Draft("reranker_layer_idx", [2], [])
      (list.type, list.bytes) = (type, bytes)
      try check(drafts + [list], [-1, 0])
    }
    for layers: [Int64] in [[2], [2, 0, 1], [5000, 0]] {
      var list = Draft("reranker_layer_idx", [layers.count], [])
      (list.type, list.bytes) = ("I64", layers.flatMap { littleEndian($0) })
      expectFailure(
        folder.write("m", safetensors(drafts + [list])), .mismatch, "'reranker_layer_idx'", "\(layers)",
        "2 layers")
    }
    let wrong = Draft("reranker_layer_idx", [2], [1, 0])
    expectFailure(folder.write("m", safetensors(drafts + [wrong])), .malformed, "no list of integers")
    let lacking = drafts.filter { $0.name != "reranker.head.2.weight" }
    expectFailure(folder.write("m", safetensors(lacking)), .mismatch, "1 missing: 'head.2.weight'")
  }
}
