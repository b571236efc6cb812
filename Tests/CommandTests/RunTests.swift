// SPDX-License-Identifier: MIT
import Foundation
import Testing

@Suite("rwkv-run")
struct RunTests {
  /// Whether this user may have file systems of its own.
  static let canHideProc = (try? Running("/bin/sh", ["-c", hideProc + "true"]).wait().status) == 0
  private static let hideProc = "exec unshare -rm sh -c 'mount -t tmpfs none /proc && exec \"$@\"' sh "

  /// In a container without /proc: words, memory and unnamed files are found another way, or done without.
  @Test(.enabled(if: canHideProc, "needs user namespaces")) func withoutProc() throws {
    func run(_ name: String, _ arguments: String...) throws -> Tool.Result {
      let words = [Tool(name: name).path] + arguments
      return try Running("/bin/sh", ["-c", Self.hideProc + "\"$@\"", "sh"] + words).wait()
    }
    let folder = TemporaryFolder()
    let (model, state) = (folder.file("m.rwkv"), folder.file("s.state"))
    let made = try run(
      "rwkv-quantize", golden("v7-std/model.safetensors"), model, "--type", "int8", "--tokenizer", "bytes")
    #expect(made.status == 0, "\(made.errors)")
    let written = try run("rwkv-run", model, "-p", "a", "-n", "3", "--temp", "0", "--save-state", state)
    #expect(written.status == 0, "\(written.errors)")
    #expect(folder.contents == ["m.rwkv", "s.state"])
    #expect(try run("rwkv-quantize", "verify", model).status == 0)
  }

  let quantize = Tool(name: "rwkv-quantize")
  let tool = Tool(name: "rwkv-run")
  let folder = TemporaryFolder()
  private var model: String { folder.file("m.rwkv") }

  init() throws {
    #expect(try quantize.run(golden("v7-std/model.safetensors"), model).status == 0)
  }

  @Test func sameSeedGivesTheSameTextForAnyNumberOfThreads() throws {
    // Token 0 would end the text.
    let options = ["-n", "40", "--temp", "1", "--seed", "7", "--logit-bias", "0=-inf"]
    let arguments = [model, "-p", "hello"] + options
    let first = try tool.run(arguments + ["-t", "1"])
    #expect(first.status == 0 && first.output.utf8.count > 20)
    for threads in ["1", "2", "3"] {
      #expect(try tool.run(arguments + ["-t", threads]).output == first.output)
    }
    #expect(try tool.run([model, "-p", "hello", "-n", "40", "--seed", "8"]).output != first.output)
  }

  @Test func tokenizingShowsHowFarItIs() throws {
    let (vocabulary, text, own) = (folder.file("v.txt"), folder.file("long.txt"), folder.file("own.rwkv"))
    try "1 'a' 1\n2 'b ' 2\n".write(toFile: vocabulary, atomically: true, encoding: .utf8)
    try String(repeating: "ab b ", count: 1 << 19).write(toFile: text, atomically: true, encoding: .utf8)
    let made = try quantize.run(golden("v7-std/model.safetensors"), own, "--tokenizer", vocabulary)
    #expect(made.status == 0, "\(made.errors)")
    let terminal = try PseudoTerminal(
      tool, ["tokenize", own, "-f", text], environment: ["TERM": "xterm"])
    #expect(terminal.expect("tokenizing ") && terminal.expect(" kB/s, ") && terminal.expect(" left"))
    #expect(terminal.wait() == 0)
    let ids = terminal.output.split(separator: ",")
    #expect(ids.count == 3 << 19 && terminal.output.hasPrefix("1,2,2,1,2") && ids.last == "2\n")
  }

  @Test func promptComesFromArgumentFileOrStandardInput() throws {
    let file = folder.file("prompt.txt")
    try "hello".write(toFile: file, atomically: true, encoding: .utf8)
    let options = ["-n", "12", "--temp", "0"]
    let argument = try tool.run([model, "-p", "hello"] + options)
    #expect(argument.status == 0)
    #expect(try tool.run([model, "-f", file] + options).output == argument.output)
    for words in [[], ["-f", "-"]] {
      let piped = try tool.run([model] + words + options, after: "exec <'\(file)'")
      #expect(piped.output == argument.output, "\(piped.errors)")
    }
  }

  @Test func outputIsWholeLinesOfJSONOnRequest() throws {
    let result = try tool.run([model, "-p", "hello", "-n", "5", "--temp", "0", "--json"])
    let objects = try result.output.split(separator: "\n").map {
      try #require(try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any])
    }
    #expect(objects.dropLast().allSatisfy { $0["text"] is String })
    #expect(objects.last?["finish"] as? String == "length")
    #expect(objects.last?["prompt_tokens"] as? Int == 5)
  }

  /// A text that was stopped goes on as if it had not been, without anything new to read.
  @Test func savedStatesGoOnWithoutANewText() throws {
    func ids(_ arguments: String...) throws -> [Int] {
      let result = try tool.run([model, "--temp", "0", "--json", "--logprobs", "0"] + arguments)
      #expect(result.status == 0, "\(result.errors)")
      return try result.output.split(separator: "\n").flatMap { line in
        let object = try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any]
        return (object?["tokens"] as? [[String: Any]] ?? []).compactMap { $0["id"] as? Int }
      }
    }
    let state = folder.file("tale.state")
    let bias = "0=-inf"
    let whole = try ids("-p", "hello", "-n", "30", "--logit-bias", bias)
    #expect(whole.count == 30)
    // Before the first token, and twice in the middle.
    for first in [0, 12] {
      var parts = try ids("-p", "hello", "-n", "\(first)", "--save-state", state, "--logit-bias", bias)
      parts += try ids("--load-state", state, "-n", "9", "--save-state", state, "--logit-bias", bias)
      parts += try ids("--load-state", state, "-n", "\(21 - first)", "--logit-bias", bias)
      #expect(parts == whole)
    }
    #expect(try tool.run("state", "show", state).output.contains("with or without a new text"))
    // A chat's states end where a message is expected.
    #expect(try tool.run("chat", model, "-p", "a", "-n", "2", "--save-state", state, "--force").status == 0)
    let refused = try tool.run(model, "--load-state", state)
    #expect(refused.status == 1 && refused.errors.contains("give a text"), "\(refused.errors)")
  }

  @Test func logitsAreTheSameInBothModesAndForAnyChunk() throws {
    var files: [Data] = []
    for (number, options) in [
      ["--mode", "decode"], ["--mode", "prefill"], ["--mode", "prefill", "--chunk", "3", "-t", "2"],
    ].enumerated() {
      let out = folder.file("\(number).safetensors")
      let result = try tool.run(["logits", model, "--tokens", "5,0,17,5,200,31,9", "--out", out] + options)
      #expect(result.status == 0 && result.output == "" && result.errors == "")
      files.append(try Data(contentsOf: URL(filePath: out)))
    }
    #expect(files[0].count > 7 * 256 * 4)
    #expect(files[1] == files[0] && files[2] == files[0])
  }

  @Test func tokenizeGoesBothWays() throws {
    #expect(try tool.run(["tokenize", model, "-p", "abc"]).output == "97,98,99\n")
    #expect(try tool.run(["tokenize", model, "--ids", "97,98,99"]).output == "abc")
  }

  @Test func perplexityPrintsTheFixedKeys() throws {
    let file = folder.file("text.txt")
    try String(repeating: "some text ", count: 30).write(toFile: file, atomically: true, encoding: .utf8)
    let result = try tool.run(["perplexity", model, "-f", file, "--json"])
    let object = try #require(
      try JSONSerialization.jsonObject(with: Data(result.output.utf8)) as? [String: Any])
    #expect(object["tokens"] as? Int == 300)
    let nats = try #require(object["nats_per_token"] as? Double)
    let perplexity = try #require(object["perplexity"] as? Double)
    #expect(abs(perplexity / exp(nats) - 1) < 1e-4)
  }

  /// What `logits` writes says the same about a text longer than any block.
  @Test func perplexityIsThatOfTheLogitsHoweverLongTheText() throws {
    let (file, out) = (folder.file("text.txt"), folder.file("l.safetensors"))
    let text = (0..<4200).map { UInt8(32 + $0 * $0 % 89) }
    try Data(text).write(to: URL(filePath: file))
    let ids = "[" + ([0] + text.map(Int.init)).map(String.init).joined(separator: ",") + "]"
    try ids.write(toFile: folder.file("ids.json"), atomically: true, encoding: .utf8)
    #expect(try tool.run("logits", model, "--tokens", folder.file("ids.json"), "--out", out).status == 0)
    let logits = try Data(contentsOf: URL(filePath: out)).suffix(4201 * 256 * 4)
    let nats = logits.withUnsafeBytes { bytes in
      let logits = bytes.bindMemory(to: Float.self)
      return text.indices.map { row in
        let p = UnsafeBufferPointer(rebasing: logits[row * 256..<(row + 1) * 256])
        let highest = Double(p.max() ?? 0)
        return highest + log(p.reduce(0) { $0 + exp(Double($1) - highest) }) - Double(p[Int(text[row])])
      }
    }
    let result = try tool.run("perplexity", model, "-f", file, "--json")
    let object = try #require(
      try JSONSerialization.jsonObject(with: Data(result.output.utf8)) as? [String: Any])
    func mean(_ nats: some Collection<Double>) -> Double { nats.reduce(0, +) / Double(nats.count) }
    #expect(object["tokens"] as? Int == 4200)
    #expect(abs(try #require(object["nats_per_token"] as? Double) - mean(nats)) < 2e-6)
    let positions = try #require(object["positions"] as? [[String: Any]])
    #expect(positions.map { $0["start"] as? Int } == [0, 64, 256, 1024, 4096])
    #expect(positions.map { $0["tokens"] as? Int } == [64, 192, 768, 3072, 104])
    for (position, range) in zip(positions, [0..<64, 64..<256, 256..<1024, 1024..<4096, 4096..<4200]) {
      #expect(abs(try #require(position["nats_per_token"] as? Double) - mean(nats[range])) < 2e-6)
    }
  }

  @Test func benchPrintsTheFixedKeys() throws {
    let result = try tool.run(
      ["bench", model, "-p", "8", "-n", "4", "--streams", "1,3", "-t", "1,2", "-r", "2", "-o", "json"])
    let rows = try result.output.split(separator: "\n").map {
      try #require(try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any])
    }
    let tests = ["pp8", "tg4", "tg4+sample", "tg4x3", "tg4x3+sample"]
    #expect(rows.map { $0["test"] as? String } == tests + tests)
    #expect(rows.map { $0["threads"] as? Int } == [1, 1, 1, 1, 1, 2, 2, 2, 2, 2])
    #expect(rows.map { $0["streams"] as? Int } == [1, 1, 1, 3, 3, 1, 1, 1, 3, 3])
    for row in rows {
      for key in ["tokens_per_second", "min", "max", "peak_rss_bytes", "weight_bytes_per_token"] {
        #expect((row[key] as? Double ?? 0) > 0, "\(key)")
      }
      #expect(row["model"] as? String == model)
    }
  }

  /// RWKV-7b with two layers, values of 96 channels and keys of 256: 2 · (96 + 256) · 4 bytes.
  @Test func whatEachTokenAddsToAStateIsSaid() throws {
    #expect(try quantize.run(golden("v7b-odd/model.safetensors"), model, "--force").status == 0)
    let bench = ["bench", model, "-p", "4", "-n", "0", "-r", "1", "-t", "1"]
    #expect(try tool.run(bench).errors.contains("remembers every token: 2.8 kB each"))
    for result in [try quantize.run("show", model, "--json"), try tool.run(bench + ["-o", "json"])] {
      #expect(result.output.contains(/"state_bytes_per_token": ?2816\b/), "\(result.output)")
    }
  }

  @Test func benchMeasuresAtAnyDepth() throws {
    let result = try tool.run([
      "bench", model, "-p", "0", "-n", "4", "-t", "1", "-r", "1", "-d", "0,70", "-o", "json",
    ])
    let tests = try result.output.split(separator: "\n").map {
      (try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any])?["test"] as? String
    }
    #expect(tests == ["tg4", "tg4+sample", "tg4@d70"])
    #expect(try tool.run(["bench", model, "-d", "x"]).status == 64)
  }

  @Test func logprobsAreThoseOfTheModel() throws {
    let result = try tool.run([
      model, "-p", "hello", "-n", "6", "--temp", "0", "--json", "--logprobs", "256", "--logit-bias", "7=-inf",
    ])
    #expect(result.status == 0)
    var ids: [Int] = []
    for line in result.output.split(separator: "\n") {
      let object = try #require(try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [String: Any])
      for token in object["tokens"] as? [[String: Any]] ?? [] {
        let top = try #require(token["top"] as? [[String: Any]])
        let values = try top.map { try #require($0["logprob"] as? Double) }
        #expect(top.count == 256 && values == values.sorted(by: >))
        #expect(abs(values.reduce(0) { $0 + exp($1) } - 1) < 1e-4)
        // Greedy: the likeliest, unless it is banned.
        let best = try #require(top.lazy.compactMap { $0["id"] as? Int }.first { $0 != 7 })
        #expect(token["id"] as? Int == best)
        ids.append(best)
      }
    }
    #expect(ids.count == 6)
    #expect(try tool.run([model, "-p", "a", "--logprobs", "1"]).status == 64)
    #expect(try tool.run([model, "-p", "a", "--logit-bias", "x=1"]).status == 64)
    #expect(try tool.run([model, "-p", "a", "-n", "1", "--logit-bias", "255=1"]).status == 0)
    let outside = try tool.run([model, "-p", "a", "-n", "1", "--logit-bias", "256=1"])
    #expect(outside.status == 1 && outside.errors.contains("no token 256"), "\(outside)")
  }

  @Test func draftsChangeNoByteAndAreCounted() throws {
    let start = [
      model, "-p", "hello", "-n", "60", "--seed", "3", "--logit-bias", "0=-inf", "--json", "--logprobs", "2",
    ]
    func write(_ number: Int, _ options: [String]) throws -> (
      lines: [Substring], end: [String: Any], state: Data
    ) {
      let state = folder.file("\(number).state")
      let result = try tool.run(start + ["--save-state", state] + options)
      #expect(result.status == 0, "\(result.errors)")
      let lines = result.output.split(separator: "\n")
      let end = try JSONSerialization.jsonObject(with: Data(try #require(lines.last).utf8))
      return (
        lines.dropLast(), try #require(end as? [String: Any]), try Data(contentsOf: URL(filePath: state))
      )
    }
    for (number, options) in [["--temp", "0"], ["--temp", "1", "--presence-penalty", "0.5"]].enumerated() {
      let plain = try write(number, options)
      #expect(plain.end["passes"] as? Int == 60 && plain.end["drafted"] as? Int == 0)
      for drafts in [["--draft", "ngram"], ["--draft", model, "--draft-max", "3"], ["--draft", model]] {
        let drafted = try write(number, options + drafts + (number == 0 ? [] : ["-t", "2"]))
        #expect(drafted.lines == plain.lines && drafted.state == plain.state)
        let (passes, guesses, right) = (
          try #require(drafted.end["passes"] as? Int), try #require(drafted.end["drafted"] as? Int),
          try #require(drafted.end["accepted"] as? Int)
        )
        #expect(passes <= 60 && right <= guesses && drafted.end["tokens"] as? Int == 60)
        // A model drafts for itself, as long as that is worth its time.
        #expect(number > 0 || drafts[1] == "ngram" || right > 0)
      }
    }
    let other = folder.file("letters.rwkv")
    #expect(try quantize.run(golden("v51-std"), other).status == 0)
    let refused = try tool.run(model, "-p", "a", "--draft", other)
    #expect(refused.status == 1 && refused.errors.contains("letters.rwkv"), "\(refused.errors)")
    #expect(try tool.run(model, "-p", "a", "--draft-max", "3").status == 64)
    #expect(try tool.run(model, "-p", "a", "--draft", "ngram", "--draft-max", "17").status == 64)
  }

  @Test func savedStatesCarryTheirText() throws {
    let (first, second) = (folder.file("a.state"), folder.file("b.state"))
    // Without token 0, which would end the text before its five tokens.
    let start = ["--temp", "0", "-n", "5", "--logit-bias", "0=-100"]
    let written = try tool.run([model, "-p", "hello", "--save-state", first] + start)
    let more = try tool.run([model, "-p", "more", "--load-state", first, "--save-state", second] + start)
    #expect(written.status == 0 && more.status == 0)
    let shown = try tool.run("state", "show", second, "--model", model, "--json")
    let object = try #require(
      try JSONSerialization.jsonObject(with: Data(shown.output.utf8)) as? [String: Any])
    #expect(
      object["text"] as? String == "hello" + written.output.dropLast() + "more" + more.output.dropLast())
    #expect(object["tokens"] as? Int == 19)
    #expect(try tool.run("state", "show", first).output.contains("tokens   10\n"))

    // Another model: refused with both names.
    let other = folder.file("other.rwkv")
    #expect(try quantize.run(golden("v6-hf"), other).status == 0)
    let refused = try tool.run(other, "-p", "a", "--load-state", first)
    #expect(refused.status == 1 && refused.errors.contains("belongs to 'model'"), "\(refused.errors)")
    #expect(refused.errors.contains("not to 'v6-hf'"), "\(refused.errors)")
    var bytes = try Data(contentsOf: URL(filePath: first))
    bytes[bytes.count / 2] ^= 1
    try bytes.write(to: URL(filePath: first))
    #expect(try tool.run("state", "show", first).errors.contains("damaged"))
  }

  /// From a model that has never seen any.
  @Test func onlyJSONIsJSON() throws {
    for seed in ["1", "2", "3"] {
      let result = try tool.run([
        model, "-p", "hello", "-n", "2000", "--only-json", "--seed", seed, "--top-p", "1", "--logit-bias",
        "34=6",
        "--logit-bias", "93=4", "--logit-bias", "125=4",
      ])
      #expect(result.status == 0)
      #expect((try? JSONSerialization.jsonObject(with: Data(result.output.utf8))) != nil, "\(result.output)")
    }
  }

  @Test func unlimitedEndsAtAStopString() throws {
    // A random model writes every byte sooner or later.
    let result = try tool.run([
      model, "-p", "hello", "-n", "-1", "--seed", "3", "--top-p", "1", "--stop", "e",
    ])
    #expect(result.status == 0 && !result.output.contains("e"))
  }

  @Test func embeddingsAreVectorsOfLengthOne() throws {
    let (texts, file) = (folder.file("texts"), folder.file("v.npy"))
    try "one text\r\n\nanother\n".write(toFile: texts, atomically: true, encoding: .utf8)
    for (pooling, dimensions) in [("mean", 128), ("last", 128), ("state", 128 * 64)] {
      let options = ["embed", model, "-f", texts, "--lines", "--pooling", pooling]
      let vectors = try tool.run(options).output.split(separator: "\n").map {
        let object = try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any]
        return try #require(object?["embedding"] as? [Double])
      }
      #expect(vectors.count == 2 && vectors[0] != vectors[1])
      for vector in vectors {
        #expect(vector.count == dimensions && abs(vector.reduce(0) { $0 + $1 * $1 } - 1) < 1e-5)
      }
      #expect(try tool.run(options + ["--out", file]).status == 0)
      let data = try Data(contentsOf: URL(filePath: file))
      #expect(data.starts(with: [0x93] + Array("NUMPY".utf8)) && data.count % 64 == 0)
      let values = data.suffix(8 * dimensions).withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
      let areEqual = values == vectors.flatMap { $0 }.map(Float.init)
      #expect(areEqual)
      // A line of a file is the same as the text alone.
      let alone = try tool.run("embed", model, "-p", "another", "--pooling", pooling)
      #expect(try tool.run(options).output.hasSuffix(alone.output))
    }
  }

  @Test func wrongPathsAreMetWithTheRightOnes() throws {
    let typo = try tool.run(folder.file("n.rwkv"), "-p", "a")
    #expect(typo.status == 1 && typo.errors.contains("no such file; did you mean \(model)?"))
    let checkpoint = try tool.run(golden("v7-std/model.safetensors"), "-p", "a")
    #expect(checkpoint.status == 1)
    #expect(
      checkpoint.errors.contains("\n  rwkv-quantize \(golden("v7-std/model.safetensors")) model.rwkv\n"))
    let spaced = folder.file("my model.gguf")
    try "x".write(toFile: spaced, atomically: true, encoding: .utf8)
    #expect(
      try tool.run("tokenize", spaced, "-p", "a").errors.contains("rwkv-quantize '\(spaced)' 'my model.rwkv'")
    )
    let inFolder = try tool.run("chat", golden("v7-hf"))
    #expect(inFolder.errors.contains("rwkv-quantize \(golden("v7-hf")) v7-hf.rwkv"))
    #expect(try tool.run(folder.path, "-p", "a").errors.contains("did you mean \(folder.file("m.rwkv"))?"))
    try "x".write(toFile: folder.file("note.txt"), atomically: true, encoding: .utf8)
    for option in ["-f", "--load-state"] {
      let missing = try tool.run(model, option, folder.file("nite.txt"))
      #expect(missing.status == 1 && missing.errors.contains("did you mean \(folder.file("note.txt"))?"))
    }
  }

  @Test func errorsSayWhatIsWrongAndExitWithOne() throws {
    let missing = try tool.run([folder.file("none.rwkv"), "-p", "a"])
    #expect(missing.status == 1 && missing.output == "" && missing.errors.contains("none.rwkv"))
    let other = try tool.run([golden("v7-std/model.safetensors"), "-p", "a"])
    #expect(other.status == 1 && other.errors.contains("rwkv-quantize"))
    let outside = try tool.run(["logits", model, "--tokens", "5,320", "--out", folder.file("x")])
    #expect(outside.status == 1 && outside.errors.contains("320"))
    #expect(!FileManager.default.fileExists(atPath: folder.file("x")))
    for (arguments, message) in [
      (["--logit-bias", "999=1"], "no token 999"), (["--temp", "-1"], "temperature is -1.0"),
      (["--save-state", "/missing/a.state"], "No such file"), (["--save-state", folder.path], "directory"),
    ] {
      // Before anything is written.
      let refused = try tool.run([model, "-p", "a", "-n", "3"] + arguments)
      #expect(refused.status == 1 && refused.output == "", "\(arguments)")
      #expect(refused.errors.contains(message), "\(refused.errors)")
    }
    let ids = try tool.run("tokenize", model, "--ids", "97,999")
    #expect(ids.status == 1 && ids.errors.contains("'999' is not a token id"))
  }

  @Test func misplacedArgumentsAreMetWithTheRightPlace() throws {
    for (arguments, message) in [
      ([model, "hello"], "goes after -p"), (["chatt", model], "did you mean 'chat'?"),
      ([model, "-p", "a", "--tmp", "0.5"], "Did you mean '--temp'?"),
    ] {
      let result = try tool.run(arguments)
      #expect(result.status == 64 && result.errors.contains(message), "\(result.errors)")
    }
    // Texts and numbers may begin with a minus sign.
    #expect(
      try tool.run(model, "-p", "- a", "--stop", "-x", "--presence-penalty", "-0.5", "-n", "1").status == 0)
  }

  @Test func wrongUsageExitsWith64() throws {
    #expect(try tool.run([model, "-p", "a", "-f", "b"]).status == 64)
    #expect(try tool.run([model, "-p", "a", "-t", "0"]).status == 64)
    #expect(try tool.run(["bench"]).status == 64)
    #expect(try tool.run(["bench", model, "--streams", "1,65"]).status == 64)
  }
}
