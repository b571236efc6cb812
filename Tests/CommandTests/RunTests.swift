import Foundation
import Testing

@Suite("rwkv-run")
struct RunTests {
  let quantize = Tool(name: "rwkv-quantize")
  let tool = Tool(name: "rwkv-run")
  let folder = TemporaryFolder()
  private var model: String { folder.file("m.rwkv") }

  init() throws {
    #expect(try quantize.run(golden("v7-std/model.safetensors"), model).status == 0)
  }

  @Test func sameSeedGivesTheSameTextForAnyNumberOfThreads() throws {
    let arguments = [model, "-p", "hello", "-n", "40", "--temp", "1", "--seed", "7"]
    let first = try tool.run(arguments + ["-t", "1"])
    #expect(first.status == 0 && first.output.utf8.count > 20)
    for threads in ["1", "2", "3"] {
      #expect(try tool.run(arguments + ["-t", threads]).output == first.output)
    }
    #expect(try tool.run([model, "-p", "hello", "-n", "40", "--seed", "8"]).output != first.output)
  }

  @Test func promptComesFromArgumentFileOrStandardInput() throws {
    let file = folder.file("prompt.txt")
    try "hello".write(toFile: file, atomically: true, encoding: .utf8)
    let options = ["-n", "12", "--temp", "0"]
    let argument = try tool.run([model, "-p", "hello"] + options)
    #expect(argument.status == 0)
    #expect(try tool.run([model, "-f", file] + options).output == argument.output)
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

  @Test func benchPrintsTheFixedKeys() throws {
    let result = try tool.run(["bench", model, "-p", "8", "-n", "4", "-t", "1,2", "-r", "2", "-o", "json"])
    let rows = try result.output.split(separator: "\n").map {
      try #require(try JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any])
    }
    #expect(rows.map { $0["test"] as? String } == ["pp8", "tg4", "pp8", "tg4"])
    #expect(rows.map { $0["threads"] as? Int } == [1, 1, 2, 2])
    for row in rows {
      for key in ["tokens_per_second", "min", "max", "peak_rss_bytes", "weight_bytes_per_token"] {
        #expect((row[key] as? Double ?? 0) > 0, "\(key)")
      }
      #expect(row["model"] as? String == model)
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
  }

  @Test func wrongUsageExitsWith64() throws {
    #expect(try tool.run([model, "-p", "a", "-f", "b"]).status == 64)
    #expect(try tool.run([model, "-p", "a", "-t", "0"]).status == 64)
    #expect(try tool.run(["bench"]).status == 64)
  }
}
