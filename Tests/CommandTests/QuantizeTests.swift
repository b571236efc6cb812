// SPDX-License-Identifier: MIT
import Foundation
import Testing

/// Writes an RWKV-4 checkpoint of zeros, D = 64: a sparse file, however long.
private func writeZeros(_ path: String, vocabulary: Int) throws {
  let (D, F) = (64, 256)
  var shapes: [(String, [Int])] = [("emb.weight", [vocabulary, D]), ("head.weight", [vocabulary, D])]
  for norm in ["blocks.0.ln0", "blocks.0.ln1", "blocks.0.ln2", "ln_out"] {
    shapes += [("\(norm).weight", [D]), ("\(norm).bias", [D])]
  }
  shapes += ["time_decay", "time_first", "time_mix_k", "time_mix_v", "time_mix_r"].map {
    ("blocks.0.att.\($0)", [D])
  }
  shapes += ["receptance", "key", "value", "output"].map { ("blocks.0.att.\($0).weight", [D, D]) }
  shapes += ["time_mix_k", "time_mix_r"].map { ("blocks.0.ffn.\($0)", [D]) }
  shapes += [("key", [F, D]), ("receptance", [D, D]), ("value", [D, F])].map {
    ("blocks.0.ffn.\($0).weight", $1)
  }
  var (entries, end) = ([String](), 0)
  for (name, shape) in shapes {
    let start = end
    end += 4 * shape.reduce(1, *)
    entries.append("\"\(name)\":{\"dtype\":\"F32\",\"shape\":\(shape),\"data_offsets\":[\(start),\(end)]}")
  }
  let header = "{" + entries.joined(separator: ",") + "}"
  let length = withUnsafeBytes(of: UInt64(header.utf8.count).littleEndian) { Data($0) }
  try (length + Data(header.utf8)).write(to: URL(fileURLWithPath: path))
  #expect(truncate(path, off_t(8 + header.utf8.count + end)) == 0)
}

private func object(_ text: String) throws -> [String: Any] {
  #expect(text.hasSuffix("}\n") && text.filter { $0 == "\n" }.count == 1, "one object on one line")
  return try #require(try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [String: Any])
}

@Suite("rwkv-quantize")
struct QuantizeTests {
  let tool = Tool(name: "rwkv-quantize")
  let folder = TemporaryFolder()
  private var input: String { golden("v7-std/model.safetensors") }
  private var model: String { folder.file("m.rwkv") }

  @Test func convertsAndShowsAndVerifies() throws {
    let made = try tool.run(input, model)
    #expect(made.status == 0 && made.output == "")
    #expect(made.errors.contains("RWKV-7, 0.6 M parameters"))
    #expect(folder.contents == ["m.rwkv"])

    let shown = try tool.run("show", model)
    #expect(shown.status == 0 && shown.errors == "")
    for text in ["RWKV-7", "layers 3, embedding 128", "INT4", "INT8", "tokenizer bytes", "quantization.type"]
    {
      #expect(shown.output.contains(text), "\(text)")
    }
    let verified = try tool.run("verify", model)
    #expect(verified.status == 0 && verified.output == "")
  }

  @Test func showPrintsTheFixedKeysAsJSON() throws {
    #expect(try tool.run(input, model, "--type", "int8").status == 0)
    let summary = try object(tool.run("show", model, "--json").output)
    #expect(summary["version"] as? String == "7")
    #expect(summary["layers"] as? Int == 3 && summary["embedding"] as? Int == 128)
    #expect(summary["vocabulary"] as? Int == 256 && summary["parameters"] as? Int == 605_696)
    let size = try FileManager.default.attributesOfItem(atPath: model)[.size] as? Int
    #expect(summary["file_bytes"] as? Int == size)
    #expect(try #require(summary["bits_per_weight"] as? Double) < 8.5)
    #expect(Set(try #require(summary["formats"] as? [String: Any]).keys) == ["INT8", "F32"])
  }

  @Test func convertPrintsOneObjectWithJSON() throws {
    let result = try tool.run(input, model, "--json", "--type", "fp16")
    #expect(try object(result.output)["model"] as? String == model)
  }

  @Test func compareFindsNoDifferenceToItselfAndSomeToINT4() throws {
    let exact = folder.file("exact.rwkv")
    let text = folder.file("text.txt")
    try "The quick brown fox jumps over the lazy dog, again and again.".write(
      toFile: text, atomically: true, encoding: .utf8)
    #expect(try tool.run(input, exact, "--type", "fp32").status == 0)
    #expect(try tool.run(input, model).status == 0)
    let same = try object(tool.run("compare", exact, exact, "--text", text, "--json").output)
    #expect(same["kl"] as? Double == 0 && same["top1"] as? Double == 1 && same["state_drift"] as? Double == 0)
    #expect(same["tokens"] as? Int == 61)
    let other = try object(tool.run("compare", exact, model, "--text", text, "--json").output)
    #expect(try #require(other["kl"] as? Double) > 0)
    #expect(other["reference_nats"] as? Double == same["model_nats"] as? Double)
    #expect(try #require(other["model_nats"] as? Double) > 0)
    try Data("T".utf8).write(to: URL(fileURLWithPath: text))
    #expect(
      try object(tool.run("compare", exact, exact, "--text", text, "--json").output)["tokens"] as? Int == 1)
    try Data().write(to: URL(fileURLWithPath: text))
    let empty = try tool.run("compare", exact, model, "--text", text)
    #expect(empty.status == 1 && empty.errors.contains("rwkv-quantize: \(text): the text is empty"))
  }

  @Test func compareLetsBothModelsAnswer() throws {
    let exact = folder.file("exact.rwkv")
    let prompts = folder.file("prompts.txt")
    try "The quick brown\r\n\nfox jumps\nover the lazy dog".write(
      toFile: prompts, atomically: true, encoding: .utf8)
    #expect(try tool.run(input, exact, "--type", "fp32").status == 0)
    #expect(try tool.run(input, model).status == 0)
    let generate = ["--generate", "--prompts", prompts, "-n", "20", "--json"]
    let same = try object(tool.run(["compare", exact, exact] + generate).output)
    #expect(same["agreeing_tokens"] as? Double == 20 && same["whole_answers"] as? Double == 1)
    #expect(same["prompts"] as? Int == 3 && same["kl"] as? Double == 0)
    let other = try object(tool.run(["compare", exact, model] + generate).output)
    #expect(try #require(other["agreeing_tokens"] as? Double) < 20)
    // Without a file the prompts are pieces of the text.
    let pieces = try tool.run("compare", exact, model, "--text", prompts, "--generate", "-n", "4")
    #expect(pieces.output.contains("answers of up to 4 tokens"))
    #expect(try tool.start(["compare", exact, model, "--prompts", prompts]).wait().status == 64)
  }

  @Test func aConversionThatAnswersOtherwiseIsRefused() throws {
    let refused = try tool.run(input, model, "--min-agreeing-tokens", "64")
    #expect(refused.status == 1 && refused.errors.contains("not written: answers part from the original's"))
    #expect(folder.contents == [])
    let made = try tool.run(input, model, "--min-agreeing-tokens", "0", "--json")
    let loss = try #require(try object(made.output)["loss"] as? [String: Any])
    #expect(try #require(loss["agreeing_tokens"] as? Double) < 64 && loss["length"] as? Int == 64)
    #expect(made.errors.contains("answers of up to 64 tokens are the same as the original's for"))
  }

  @Test func anExistingOutputIsKeptWithoutForce() throws {
    try Data([1, 2, 3]).write(to: URL(fileURLWithPath: model))
    let refused = try tool.run(input, model)
    #expect(refused.status == 1 && refused.errors.contains("exists already"))
    #expect(try Data(contentsOf: URL(fileURLWithPath: model)) == Data([1, 2, 3]))
    #expect(try tool.run(input, model, "--force").status == 0)
    #expect(folder.contents == ["m.rwkv"])
  }

  @Test func wrongUsageIs64() throws {
    for arguments in [
      [input], [input, model, "extra"], [input, model, "--type", "int3"], [input, model, "--threads", "0"],
      [input, model, "--group-norm-eps", "2"], [input, model, "--moba-topk", "0"], ["show"],
      ["compare", model],
    ] {
      let result = try tool.start(arguments).wait()
      #expect(result.status == 64 && result.output == "", "\(arguments)")
      #expect(result.errors.contains("Usage:"), "\(arguments)")
    }
    #expect(folder.contents == [])
    #expect(try tool.run(input, model, "huge").errors.contains("with --type: int4-small, int4, int5"))
    #expect(try tool.run("sho", model).errors.contains("did you mean 'show'?"))
  }

  @Test func runTimeErrorsAre1AndSayWhat() throws {
    let cases = [
      ([folder.file("missing"), model], "no such file"), ([input, "/missing/m.rwkv"], "No such file"),
      ([input, model, "--tokenizer", folder.file("none")], "No such file"),
      ([input, folder.path], "directory"), ([input, "/dev/null", "--force"], "a folder or a device"),
      ([model, input], "rwkv-quantize \(input) \(model)"),
      ([#filePath, model], "QuantizeTests.swift"), (["show", input], "not a .rwkv model file"),
      ([input, model, "--moba-topk", "3"], "not RWKV-X"),
      (["verify", folder.file("missing")], "no such file"),
    ]
    for (arguments, message) in cases {
      let result = try tool.start(arguments).wait()
      #expect(result.status == 1 && result.output == "", "\(arguments)")
      #expect(
        result.errors.hasPrefix("rwkv-quantize: ") && result.errors.contains(message), "\(result.errors)")
    }
    #expect(folder.contents == [])
  }

  @Test func verifyListsDamageAndExitsWith1() throws {
    #expect(try tool.run(input, model).status == 0)
    var bytes = try Data(contentsOf: URL(fileURLWithPath: model))
    bytes[bytes.count / 2] ^= 1
    bytes[bytes.count - 5] ^= 1
    try bytes.write(to: URL(fileURLWithPath: model))
    let result = try tool.run("verify", model)
    #expect(result.status == 1)
    #expect(result.errors.contains("checksum") && result.errors.contains("2 problems"))
  }

  @Test func aFullDiskIsAnErrorAndLeavesNothing() throws {
    // 100 blocks of 512 bytes, and the signal for more ignored: writing fails as on a full disk.
    let result = try tool.run([input, model], after: "ulimit -f 100; trap '' XFSZ")
    #expect(result.status == 1)
    #expect(result.errors.contains("too large"), "\(result.errors)")
    #expect(folder.contents == [])
  }

  @Test(arguments: [(SIGINT, 130), (SIGTERM, 143), (SIGKILL, -Int(SIGKILL))])
  func aSignalInTheMiddleLeavesNothing(signal: Int32, status: Int) throws {
    let long = folder.file("long.safetensors")
    try writeZeros(long, vocabulary: 2 << 20)
    let running = try tool.start([long, model, "--type", "int4"])
    #expect(running.hasOpened(fileIn: folder.path, besides: long))
    kill(running.process, signal)
    let result = try running.wait()
    #expect(result.status == status, "\(result.errors)")
    #expect(folder.contents == ["long.safetensors"])
  }

  @Test func memoryDoesNotGrowWithTheModel() throws {
    // A model of 1 GiB; the limit of the data segment [KiB] leaves room for a few chunks per thread.
    let long = folder.file("long.safetensors")
    try writeZeros(long, vocabulary: 2 << 20)
    let result = try tool.run(
      [long, model, "--type", "int8", "--threads", "2"], after: "ulimit -d 131072")
    #expect(result.status == 0, "\(result.errors)")
  }

  @Test func tooLittleMemoryIsAnErrorAndLeavesNothing() throws {
    let long = folder.file("long.safetensors")
    try writeZeros(long, vocabulary: 1 << 17)
    // What is left of the data segment [KiB] goes from nothing to plenty.
    var statuses: [Int] = []
    for limit in [24, 32, 40, 48, 64, 128] {
      let result = try tool.run(
        [long, model, "--type", "int4", "--threads", "2", "--force"], after: "ulimit -d \(limit << 10)")
      statuses.append(result.status)
      if result.status == 0 { continue }
      #expect(result.status == 1 && result.errors.contains("MiB of memory"), "\(limit): \(result.errors)")
      #expect(folder.contents == ["long.safetensors"])
    }
    #expect(statuses.first == 1 && statuses.last == 0)
  }

  @Test func helpShowsExamplesAndVersionIsOneLine() throws {
    let help = try tool.run("--help")
    #expect(help.status == 0 && help.output.contains("EXAMPLES"))
    for command in ["show", "verify", "compare"] { #expect(help.output.contains(command)) }
    let version = try tool.run("--version")
    #expect(version.status == 0 && version.output.filter { $0 == "\n" }.count == 1)
  }
}
