// SPDX-License-Identifier: MIT
import Glibc
import Testing

@testable import RWKVCheckpoint

/// One of several files given alone, sets without an index, and what is said where one is missing.
@Suite("Shards")
struct ShardTests {
  private let folder = TemporaryFolder()
  private let drafts: [Draft]

  init() throws { drafts = try NamesTests.drafts("v7-oddlora/model.safetensors") }

  private var whole: Checkpoint {
    get throws { try Checkpoint(path: golden("v7-oddlora").map { $0 + "/model.safetensors" } ?? "") }
  }

  private func write(_ names: [String]) {
    let share = drafts.count / names.count + 1
    for (index, name) in names.enumerated() {
      folder.write(name, safetensors(Array(drafts.dropFirst(index * share).prefix(share))))
    }
  }

  /// A folder with one file of a trainer's or converter's, whatever else a training leaves there.
  @Test(arguments: ["last.ckpt", "rwkv-final.pt", "model.st", "mp_rank_00_model_states.pt"])
  func theOnlyFileOfAFolderIsTaken(name: String) throws {
    let path = goldens + "/v7-f32-small/model.safetensors"
    folder.write(name, try contents(path))
    folder.write("scheduler.json", "{}".utf8)
    folder.write("training_args.bin", "PK".utf8)
    if name.hasPrefix("mp_rank") { folder.write("zero_pp_rank_0_mp_rank_00_optim_states.pt", "PK".utf8) }
    try expectSame(Checkpoint(path: folder.path), Checkpoint(path: path))
  }

  @Test(arguments: [
    [
      "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
      "model-00003-of-00003.safetensors",
    ],
    ["rwkv-7-g1-0-of-2.st", "rwkv-7-g1-1-of-2.st"],
    ["x-00000-of-00002.safetensors", "x-00001-of-00002.safetensors"],
    ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"],
  ])
  func setsWithoutAnIndexAreRead(names: [String]) throws {
    write(names)
    for path in [folder.path] + names.map({ folder.path + "/" + $0 }) {
      try expectSame(Checkpoint(path: path), whole)
    }
    folder.write("config.json", "{\"hidden_act\": \"silu\"}".utf8)
    expectFailure(folder.path + "/" + names[1], .unsupported, "hidden_act")
    unlink(folder.path + "/config.json")
    unlink(folder.path + "/" + names[1])
    for path in [folder.path, folder.path + "/" + names[0]] {
      expectFailure(path, .unreadable, "1 are missing", "'\(names[1])'")
    }
  }

  /// DeepSpeed's folder of all steps, and what trainers leave beside it.
  @Test func theStepIsTakenThatLatestNames() throws {
    let (old, new) = (goldens + "/v7-oddlora/model.safetensors", goldens + "/v7-f32-small/model.safetensors")
    for (step, path) in [("global_step10", old), ("global_step20", new)] {
      mkdir(folder.path + "/" + step, 0o700)
      folder.write(step + "/mp_rank_00_model_states.pt", try contents(path))
      folder.write(step + "/zero_pp_rank_0_mp_rank_00_optim_states.pt", "PK".utf8)
    }
    for name in ["rng_state_0.pth", "scheduler.pt", "zero_to_fp32.py"] { folder.write(name, "PK".utf8) }
    for (text, path) in [("global_step20", new), ("global_step10\n", old)] {
      folder.write("latest", text.utf8)
      try expectSame(Checkpoint(path: folder.path), Checkpoint(path: path))
    }
    // A checkpoint in the folder itself comes first.
    folder.write("model.safetensors", try contents(new))
    try expectSame(Checkpoint(path: folder.path + "/"), Checkpoint(path: new))
    for name in ["model.safetensors", "rng_state_0.pth", "scheduler.pt"] { unlink(folder.path + "/" + name) }
    for text in ["global_step30", "..", "", "../r", "global_step20/", String(repeating: "x", count: 5000)] {
      folder.write("latest", text.utf8)
      expectFailure(folder.path, .unreadable, "/latest", "names a folder that is not beside it")
    }
    symlink(".", folder.path + "/round")
    folder.write("latest", "round".utf8)
    expectFailure(folder.path, .unreadable, "holds no checkpoints")
  }

  @Test func anIndexIsFoundFromAnyOfItsFiles() throws {
    write(["a.safetensors", "b.safetensors", "c.safetensors"])
    let share = drafts.count / 3 + 1
    let entries = drafts.enumerated().map { "\"\($1.name)\": \"\(["a", "b", "c"][$0 / share]).safetensors\"" }
    let index = folder.write(
      "m.safetensors.index.json", "{\"weight_map\": {\(entries.joined(separator: ", "))}}".utf8)
    for path in [folder.path, folder.path + "/a.safetensors", folder.path + "/c.safetensors", index] {
      try expectSame(Checkpoint(path: path), whole)
    }
    // As others write it: a byte order mark, whatever beside the map, names with ./ before them.
    let other = entries.map { $0.replacing(": \"", with: ": \"./") }.joined(separator: ", ")
    folder.write(
      "m.safetensors.index.json",
      "\u{FEFF}{\"metadata\": {\"a\": [[{\"b\": [NaN]}]]}, \"weight_map\": {\(other)}}".utf8)
    for path in [folder.path, folder.path + "/b.safetensors"] {
      try expectSame(Checkpoint(path: path), whole)
    }
    unlink(folder.path + "/a.safetensors")
    unlink(folder.path + "/c.safetensors")
    expectFailure(
      folder.path + "/b.safetensors", .unreadable, "2 are missing", "'a.safetensors', 'c.safetensors'")
  }

  @Test func otherFilesBesideASetAreNotGuessedAt() throws {
    write(["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"])
    folder.write("lora.safetensors", safetensors([drafts[0]]))
    expectFailure(folder.path, .unreadable, "several checkpoints")
    #expect(throws: Never.self) { try Checkpoint(path: folder.path + "/model-00002-of-00002.safetensors") }
  }

  @Test(arguments: [
    "model.safetensors", "a-1-of-1.gguf", "a-b-of-2.st", "of-2.st", "1-of-2.st", "a-1-of-2", "a-1-of-2x.st",
  ])
  func otherNamesAreNoSet(name: String) { #expect(ShardName("/tmp/" + name) == nil) }
}

@Suite("config.json")
struct ConfigTests {
  private let folder = TemporaryFolder()

  init() throws {
    folder.write("model.safetensors", try contents(goldens + "/v7-f32-small/model.safetensors"))
  }

  private static let nested =
    String(repeating: "[", count: 3000) + "\"]\"" + String(repeating: "]", count: 3000)

  @Test(
    "what does not change the computation stops nothing",
    arguments: [
      "\u{FEFF}{\"hidden_size\": 64}", "{\"x\": Infinity, \"y\": -Infinity, \"z\": NaN}",
      "{\"x\": \(nested)}",
      "{\"max_position_embeddings\": 1000000000000000019884624838656, \"rope\": 1e999}",
      "{\"x\": 1, \"x\": 2, \"hidden_size\": 64}",
      "{\"architectures\": 5, \"torch_dtype\": {\"a\": [null]}, \"auto_map\": \"\"}",
      "{\"x\": \"\\ud800\", \"y\": \"a\tb\"}",
      "{\"hidden_size\": null, \"hidden_act\": null, \"norm_eps\": null}",
      "{\"hidden_size\": 64.0, \"vocab_size\": \"256\", \"num_hidden_layers\": \"2\"}",
      "{\"initializer_range\": \"0.02\", \"id2label\": {\"0\": \"LABEL_0\"}, \"use_cache\": 1, \"rescale_every\": []}",
      "{}", "[]", "null", "{\"attn\": null}", "{\"attn\": {\"layers\": []}}",
    ])
  func harmless(config: String) throws {
    folder.write("config.json", config.utf8)
    #expect(try Checkpoint(path: folder.path).groupNormEpsilon == 64e-5)
  }

  /// As Windows' shell writes it, and as Python reads it: with a byte order mark and without one.
  @Test(arguments: [[0xFF, 0xFE], [0xFE, 0xFF], [0, 0x7B], [0x7B, 0]] as [[UInt8]])
  func utf16IsRead(start: [UInt8]) throws {
    func utf16(_ text: String) -> [UInt8] {
      let units = ((start.contains(0xFF) ? "\u{FEFF}" : "") + text).utf16
      return units.flatMap {
        littleEndian(start == [0, 0x7B] || start == [0xFE, 0xFF] ? $0.byteSwapped : $0)
      }
    }
    #expect(utf16("{").starts(with: start))
    folder.write(
      "config.json", utf16("{\"x\": \"größer 😀\", \"hidden_size\": 64, \"head_size_divisor\": 16}"))
    folder.write("generation_config.json", utf16("{\"stop_strings\": [\"größer 😀\"]}"))
    let checkpoint = try Checkpoint(path: folder.path)
    #expect(try abs(#require(checkpoint.groupNormEpsilon) - 256e-5) < 1e-12)
    #expect(checkpoint.generation.stops == ["größer 😀"])
    folder.write("config.json", utf16("{\"hidden_size\": 128}"))
    expectFailure(folder.path, .mismatch, "embedding size", "128")
    folder.write("config.json", utf16("{\"hidden_size\": 64}").dropLast())
    expectFailure(folder.path, .malformed, "UTF-16")
    unlink(folder.path + "/generation_config.json")
  }

  @Test(
    "what would change the computation is refused",
    arguments: [
      "{\"hidden_act\": \"silu\"}", "{\"hidden_act\": 3}", "{\"embedding_layer_norm_fused\": true}",
      "{\"norm_eps\": 1e-6}", "{\"layer_norm_epsilon\": \"1e-6\"}", "{\"norm_eps\": Infinity}",
      "{\"norm_eps\": NaN}",
      "{\"norm_eps\": [1e-5]}", "{\"head_size_divisor\": \"eight\"}", "{\"head_size_divisor\": 0}",
      "{\"hidden_size\": 128}", "{\"num_hidden_layers\": 3}", "{\"head_dim\": 32}",
      "{\"use_deep_embed\": true}", "{\"attn\": {\"layers\": [1], \"num_heads\": 2}}",
    ])
  func refused(config: String) throws {
    folder.write("config.json", config.utf8)
    #expect(throws: CheckpointError.self) { try Checkpoint(path: folder.path) }
  }

  @Test(
    "what changes the computation is honoured, in any spelling of the number",
    arguments: [
      ("{\"head_size_divisor\": 16}", 256e-5), ("{\"head_size_divisor\": \"4\"}", 16e-5),
      ("{\"model_type\": \"rwkv7\", \"norm_eps\": \"1e-05\", \"head_dim\": \"64\"}", 64e-5),
      ("{\"model_type\": \"rwkv7\", \"norm_eps\": 0.00001}", 64e-5),
    ])
  func honoured(config: String, epsilon: Double) throws {
    folder.write("config.json", config.utf8)
    let found = try #require(try Checkpoint(path: folder.path).groupNormEpsilon)
    #expect(abs(found - epsilon) < 1e-12)
  }

  @Test func recommendationsAreReadAndNeverStopAConversion() throws {
    func read(_ text: String) throws -> GenerationConfig {
      folder.write("generation_config.json", text.utf8)
      return try Checkpoint(path: folder.path).generation
    }
    let fork = try read(
      """
      {"bos_token_id": 0, "do_sample": true, "frequency_penalty": 0.1, "penalty_decay": 0.988, "presence_penalty": 1.0,
       "stop_strings": ["\\u273f", "\\nUser:", "\\n### User"], "temperature": 0.96, "top_k": 32, "top_p": 0.76,
       "transformers_version": "5.12.0"}
      """)
    #expect(fork.numbers["temperature"] == 0.96 && fork.numbers["top_k"] == 32 && fork.notes.isEmpty)
    #expect(fork.stops == ["✿", "\nUser:", "\n### User"])
    #expect(try read("{\"do_sample\": false, \"temperature\": 0.7}").numbers["temperature"] == 0)
    #expect(try read("{\"stop_strings\": \"END\", \"temperature\": \"hot\"}").stops == ["END"])
    #expect(try read("{\"repetition_penalty\": 1.2}").notes.count == 1)
    #expect(try read("{\"repetition_penalty\": 1.0, \"num_beams\": 1}").notes.isEmpty)
    #expect(try read("{\"stop_strings\": [\"\", 5, \"a\\u0000\", \"b\", \"b\"]}").stops == ["b"])
    for damaged in ["", "{", "[]", "{\"temperature\": }"] {
      let config = try read(damaged)
      #expect(config.numbers.isEmpty && config.notes.count == 1)
    }
    unlink(folder.path + "/generation_config.json")
  }
}
