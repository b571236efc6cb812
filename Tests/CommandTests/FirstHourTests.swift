// SPDX-License-Identifier: MIT
import Foundation
import Testing

/// What a person types who comes from another program, and small things that are met in the first hour.
@Suite("The first hour")
struct FirstHourTests {
  private let quantize = Tool(name: "rwkv-quantize")
  private let tool = Tool(name: "rwkv-run")
  private let folder = TemporaryFolder()
  private var input: String { golden("v7-std/model.safetensors") }
  private var model: String { folder.file("m.rwkv") }

  init() throws {
    #expect(try quantize.run(input, model, "--no-measure").status == 0)
  }

  @Test func otherProgramsFlagsMeanTheSame() throws {
    let ours = try tool.run(model, "-p", "hi", "-n", "5", "--temp", "0")
    #expect(ours.status == 0)
    for arguments in [
      ["-m", model, "-p", "hi", "--n-predict", "5", "--temperature", "0"],
      ["--model", model, "-p", "hi", "-n", "5", "--temperature=0.0", "--repeat-penalty", "1.0"],
      ["generate", "-m", model, "-p", "hi", "-n", "5", "--temp", "0"],
      [model, "-p", "hi", "--n_predict", "5", "--temp", "0"],
    ] {
      let result = try tool.run(arguments)
      #expect(result.status == 0 && result.output == ours.output && result.errors.isEmpty, "\(result.errors)")
    }
    let needless = [
      "-c", "4096", "--ctx-size=8", "-ngl", "99", "-fa", "on", "-fa", "-b", "512", "--mlock", "-no-cnv",
    ]
    let remarked = try tool.run(
      ["-m", model] + needless + ["-p", "hi", "-n", "5", "--temp", "0"])
    #expect(remarked.status == 0 && remarked.output == ours.output, "\(remarked.errors)")
    for name in ["-c", "--ctx-size", "-ngl", "-fa", "-b", "--mlock", "-no-cnv"] {
      #expect(remarked.errors.contains("rwkv-run: \(name) changes nothing: "), "\(remarked.errors)")
    }
    // A text is a text, whatever it looks like.
    let text = try tool.run(model, "-p", "-m", "-n", "1", "--stop", "-c")
    #expect(text.status == 0 && !text.errors.contains("changes nothing"), "\(text.errors)")
    #expect(
      try tool.run("tokenize", "-m", model, "-p", "--temp_x").output == "45,45,116,101,109,112,95,120\n")
    #expect(try tool.run("tokenize", "-m", model, "--prompt=a=b").output == "97,61,98\n")
  }

  @Test func whereTheyMeanNothingTheAnswerSaysWhatToType() throws {
    for (arguments, answer) in [
      ([model, "-i"], "rwkv-run chat MODEL"), ([model, "-cnv"], "rwkv-run chat MODEL"),
      ([model, "--repeat-penalty", "1.1"], "--presence-penalty"), ([model, "--mirostat", "2"], "--top-p"),
      ([model, "--grammar-file", "a.gbnf"], "--only-json"), ([model, "--prompt-cache", "x"], "--save-state"),
      ([model, "-sys", "Be brief."], "rwkv-run chat"), (["chat", model, "-r", "User:"], "--template"),
      (["-hf", "a/b"], "rwkv-run pull hf:"), (["serve", model], "rwkv-serve MODEL"),
      (["run", model], "rwkv-run chat MODEL"),
      ([model, "--lora", "a"], "rwkv-quantize"),
    ] {
      let result = try tool.run(arguments)
      #expect(result.status == 64 && result.output.isEmpty, "\(arguments)")
      #expect(result.errors.contains(answer), "\(arguments): \(result.errors)")
    }
    let imatrix = try quantize.run(input, folder.file("o.rwkv"), "--imatrix", "x")
    #expect(imatrix.status == 64 && imatrix.errors.contains("--calibrate"))
  }

  private func typeOf(_ path: String, command: String) throws -> String? {
    let shown = try quantize.run(command, path, "--json").output
    let object = try JSONSerialization.jsonObject(with: Data(shown.utf8)) as? [String: Any]
    return (object?["metadata"] as? [String: Any])?["quantization.type"] as? String
  }

  @Test func typesOfOtherFormatsMeanThoseOfAsManyBits() throws {
    let output = folder.file("o.rwkv")
    for (names, type) in [
      (["INT4", "Q4_K_M", "q4_0", "IQ4_XS", "Q4_K"], "int4"), (["Q5_1", "Q5_K_S"], "int5"),
      (["Q8_0", "INT8"], "int8"), (["F16", "BF16", "FP16"], "fp16"), (["f32"], "fp32"),
    ] {
      for name in names {
        let result = try quantize.run(input, output, "--type", name, "--force", "--no-measure")
        #expect(result.status == 0, "\(name): \(result.errors)")
        #expect(
          try typeOf(output, command: "info") == type, "\(name)")
        #expect(result.errors.contains("\(name) is a type of another format") == (name.lowercased() != type))
      }
    }
    // As llama.cpp and rwkv.cpp have it.
    #expect(try quantize.run(input, output, "Q5_1", "--force", "--no-measure").status == 0)
    #expect(try typeOf(output, command: "show") == "int5")
    #expect(try quantize.run(input, output, "Q2_K", "--force").status == 64)
    #expect(try quantize.run(input, "--outfile", folder.file("p.rwkv"), "--outtype", "f16").status == 0)
    for ending in ["gguf", "bin", "safetensors"] {
      let named = try quantize.run(input, folder.file("o.\(ending)"))
      #expect(
        named.status == 64 && named.errors.contains("rwkv-quantize \(input) \(output)"), "\(named.errors)")
    }
    #expect(folder.contents == ["m.rwkv", "o.rwkv", "p.rwkv"])
  }

  @Test func helpAndVersionSayWhatPeopleLookFor() throws {
    let types = try quantize.run("--help").output
    for type in ["int4-small", "int4", "int5", "int8", "fp16", "fp32", "Q4_K_M"] {
      #expect(types.contains(type))
    }
    let flags = try tool.run("--help").output
    for flag in ["-p TEXT", "-n N", "--temp", "--top-p", "--seed", "-t N", "--load-state", "--json"] {
      #expect(flags.contains(flag))
    }
    for program in [tool, quantize] {
      let version = try program.run(["--version"], after: "export RWKV_ISA=scalar").output
      #expect(version.contains(", scalar, ") && version.contains(" processors\n"), "\(version)")
    }
  }

  @Test func benchIsOneTableOf80Columns() throws {
    let long = folder.file("a-model-with-a-name-that-is-quite-long-\u{1B}[31m-7.2b.rwkv")
    try FileManager.default.copyItem(atPath: model, toPath: long)
    let result = try tool.run([
      "bench", model, long, "-p", "8", "-n", "4", "-r", "1", "-t", "1,2", "-d", "0,16384", "--streams",
      "1,16",
    ])
    #expect(result.status == 0, "\(result.errors)")
    let rows = result.output.split(separator: "\n").filter { $0.hasPrefix("|") }
    #expect(rows.count == 2 + 2 * 2 * (2 * 3 + 2) && Set(rows.map(\.count)).count == 1, "\(result.output)")
    #expect(result.output.split(separator: "\n").allSatisfy { $0.count <= 80 }, "\(result.output)")
    #expect(!result.output.contains("\u{1B}"))
    for row in rows.dropFirst(2) {
      let cells = row.split(separator: "|").map { $0.trimmingCharacters(in: .whitespaces) }
      #expect(cells[1].hasSuffix(" kB") && cells[2] == "int4")
      #expect(try #require(Int(cells[7].dropLast(2))) <= 100, "\(row)")
    }
    #expect(result.output.contains(/reads [1-9]\d*\.\d GB\/s/), "\(result.output)")
    for isa in ["thread", instructionSetInUse(result.output)] { #expect(result.output.contains(isa)) }
    // Nothing is measured or printed before all is known to be there.
    let missing = try tool.run("bench", model, folder.file("none.rwkv"))
    #expect(missing.status == 1 && missing.output.isEmpty)
  }

  /// The word after "1 thread, ".
  private func instructionSetInUse(_ output: String) -> String {
    String(output.split(separator: ",", maxSplits: 1)[1].drop { $0 == " " }.prefix { $0 != ":" })
  }

  @Test func limitsAndNamesOfTheEnvironmentAreChecked() throws {
    for command in [[model, "-p", "a"], ["bench", model], ["embed", model, "-p", "a"]] {
      #expect(try tool.run(command + ["-t", "100000"]).status == 64)
      let result = try tool.run(command, after: "export RWKV_ISA=avx3")
      #expect(result.status == 1 && result.errors.contains("RWKV_ISA is 'avx3', expected one of scalar, "))
    }
    for program in [tool, quantize] {
      let version = try program.run(["--version"], after: "export RWKV_ISA=avx3").output
      #expect(version.contains("RWKV_ISA is 'avx3', expected one of scalar, "), "\(version)")
    }
    let conversion = try quantize.run([input, folder.file("o.rwkv")], after: "export RWKV_ISA=AVX2")
    #expect(conversion.status == 1 && conversion.errors.contains("RWKV_ISA"))
    #expect(try tool.run([model, "-p", "a", "-n", "1"], after: "export RWKV_ISA=").status == 0)
  }

  @Test func jsonThatIsCutIsAnError() throws {
    let arguments = [model, "-p", "a", "--only-json", "-n", "3", "--logit-bias", "93=-inf"]
    let result = try tool.run(arguments)
    #expect(result.status == 1 && result.errors.contains("cut after 3 tokens"), "\(result.errors)")
    let json = try tool.run(arguments + ["--json"])
    #expect(json.status == 1 && json.output.contains("\"finish\":\"length\""))
  }

  @Test func theLastLineOfAConversionIsItsSuccess() throws {
    let result = try quantize.run(input, folder.file("o.rwkv"))
    #expect(result.status == 0)
    let last = try #require(result.errors.split(separator: "\n").last)
    #expect(last.hasPrefix("written: \(folder.file("o.rwkv")): RWKV-7"), "\(result.errors)")
  }

  @Test func textsAndIdsComeAsPeopleGiveThem() throws {
    for ids in ["97, 98 99", "[97,98,\n 99]"] {
      #expect(try tool.run("tokenize", model, "--ids", ids).output == "abc")
    }
    let text = folder.file("text")
    try "abc".write(toFile: text, atomically: true, encoding: .utf8)
    for command in ["tokenize", "embed"] {
      let given = try tool.run(command, model, "-p", "abc")
      #expect(given.status == 0 && given.output.count > 5)
      #expect(try tool.run(command, model, "-f", text).output == given.output)
      #expect(try tool.run([command, model], after: "exec < '\(text)'").output == given.output)
      #expect(try tool.run(command, model, "-p", "a", "-f", text).status == 64)
    }
  }

  @Test func namesThatAreNotTextAreRefusedAsSuch() throws {
    let result = try Running(
      "/bin/sh",
      [
        "-c",
        "cd '\(folder.path)'; name=$(printf 'a\\377.rwkv'); cp '\(model)' \"$name\"; exec '\(tool.path)' \"$name\" -p a",
      ]
    ).wait()
    #expect(result.status == 64 && result.errors.contains("not UTF-8"), "\(result.errors)")
  }

  @Test func controlCharactersOfFilesAreShown() throws {
    let name = folder.file("\u{1B}]0;title\u{7}.rwkv")
    for result in [
      try tool.run(name, "-p", "a"), try quantize.run("show", name), try quantize.run(name, model, "--force"),
    ] {
      #expect(result.status == 1 && result.errors.contains("\\x1B]0;title\\x07"), "\(result.errors)")
      #expect(!result.errors.contains("\u{1B}"))
    }
  }
}
