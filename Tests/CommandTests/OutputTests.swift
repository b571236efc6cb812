// SPDX-License-Identifier: MIT
import Foundation
import Testing

/// An option, or an argument without a name, that takes a value.
struct ValueArgument: CustomTestStringConvertible, Sendable {
  let tool: String
  /// Words of the command.
  let command: [String]
  /// As it is typed, --out; the name in the help for an argument without one.
  let name: String
  /// What its value is completed with: "file", "list"; nil: nothing.
  let completion: String?

  var testDescription: String { ([tool] + command + [name]).joined(separator: " ") }

  /// All of both programs, from what they tell of themselves.
  static let all: [ValueArgument] = ["rwkv-run", "rwkv-quantize"].flatMap { tool in
    guard let result = try? Tool(name: tool).run("--experimental-dump-help"),
      let dump = try? JSONSerialization.jsonObject(with: Data(result.output.utf8)) as? [String: Any],
      let root = dump["command"] as? [String: Any]
    else { return [ValueArgument]() }
    func collect(_ command: [String: Any], _ words: [String]) -> [ValueArgument] {
      let own = (command["arguments"] as? [[String: Any]] ?? []).filter { $0["kind"] as? String != "flag" }
      let found = own.map { argument in
        let names = argument["names"] as? [[String: Any]] ?? []
        let long = names.first { $0["kind"] as? String == "long" }
        let name =
          long.flatMap { $0["name"] as? String }.map { "--" + $0 }
          ?? names.first.flatMap { $0["name"] as? String }.map { "-" + $0 }
        return ValueArgument(
          tool: tool, command: words, name: name ?? argument["valueName"] as? String ?? "",
          completion: (argument["completionKind"] as? [String: Any])?.keys.first)
      }
      return found
        + (command["subcommands"] as? [[String: Any]] ?? []).flatMap { inner in
          let name = inner["commandName"] as? String ?? ""
          return name == "help" ? [] : collect(inner, words + [name])
        }
    }
    return collect(root, [])
  }

  enum Role: Equatable {
    /// No file's name.
    case value
    /// A file that is read, which has this name in the tests' folder.
    case reads(String)
    case writes
  }

  /// What it is for; nil: it is new. Say here what it is, and below how an output is asked for.
  var role: Role? {
    if completion == "list" { return .value }
    switch name {
    case "--save-state", "--out", "--keep-states", "output": return .writes
    case "model", "models", "reference", "embedder", "reranker", "--model", "--draft":
      return .reads("model.rwkv")
    case "--states", "--load-state", "file": return .reads("in.state")
    case "--file": return .reads("prompt.txt")
    case "--tokens": return .reads("ids.json")
    case "--template": return .reads("template")
    case "input": return .reads("model.safetensors")
    case "--recipe": return .reads("recipe")
    case "--calibrate", "--text", "--prompts": return .reads("text.txt")
    case "--tokenizer": return .reads("vocabulary.txt")
    case "--lora", "--pissa", "--state": return .reads("adapter.safetensors")
    case "--chunk", "--draft-max", "--frequency-penalty", "--group-norm-eps", "--ids", "--kv-window",
      "--logit-bias",
      "--logprobs", "--lora-alpha", "--max-context", "--max-kl", "--max-kv-cache", "--memory-limit",
      "--min-agreeing-tokens", "--min-kv-cache", "--min-p", "--moba-chunk-size", "--moba-topk",
      "--penalty-decay",
      "--name", "--predict", "--presence-penalty", "--prompt", "--query", "--seed", "--stop", "--streams",
      "--system",
      "--temp",
      "--think", "--threads", "--top-k", "--top-p", "--type", "-d", "-n", "-p", "-r", "-t", "names", "rest":
      return .value
    default: return nil
    }
  }

  /// The file that is read.
  var input: String? {
    if case .reads(let file) = role { file } else { nil }
  }
}

/// What is written replaces nothing that it must not: every output of every command, against links, devices, and all
/// that the same call reads.
struct OutputTests {
  static let outputs = ValueArgument.all.filter { $0.role == .writes }

  private let folder = TemporaryFolder()
  private var model: String { folder.file("model.rwkv") }
  /// Made where it is needed.
  private var embedder: String {
    get throws {
      let path = folder.file("embedder.rwkv")
      if FileManager.default.fileExists(atPath: path) { return path }
      let made = try Tool(name: "rwkv-quantize").run(
        golden("emb-std/model.pth"), path, "--type", "fp32", "--tokenizer", "bytes")
      #expect(made.status == 0, "\(made.errors)")
      return path
    }
  }

  init() throws {
    let made = try Tool(name: "rwkv-quantize").run(
      golden("v7-std") + "/model.safetensors", model, "--type", "fp32", "--tokenizer", "bytes")
    #expect(made.status == 0, "\(made.errors)")
    let manager = FileManager.default
    let files = [
      "prompt.txt": "a text of one line", "ids.json": "[1, 2, 3]", "recipe": "blocks.0.att.key.weight int8\n",
      "text.txt": String(repeating: "many words of a text. ", count: 60),
    ]
    for (name, text) in files { _ = manager.createFile(atPath: folder.file(name), contents: Data(text.utf8)) }
    try Data(contentsOf: URL(fileURLWithPath: golden("v7-std") + "/model.safetensors")).write(
      to: URL(fileURLWithPath: folder.file("model.safetensors")))
    let saved = try Tool(name: "rwkv-run").run(
      model, "-p", "x", "-n", "1", "--save-state", folder.file("in.state"))
    #expect(saved.status == 0, "\(saved.errors)")
  }

  /// A file that the programs write cannot be left out here: every argument with a value has a role, and those that name
  /// files are completed as such, by shells too.
  @Test func everyArgumentIsKnown() {
    #expect(ValueArgument.all.count > 100)
    for argument in ValueArgument.all {
      let isFile = argument.role != .value
      #expect(argument.role != nil, "\(argument.testDescription): is it a file that is read or written?")
      #expect(isFile == (argument.completion == "file"), "\(argument.testDescription)")
    }
    #expect(Self.outputs.count >= 6)
  }

  /// Runs the command of an output with this path for it. `added`: another file that it reads.
  private func run(_ output: ValueArgument, _ path: String, added: ValueArgument? = nil) throws -> Tool.Result
  {
    let tool = Tool(name: output.tool)
    func given(_ name: String) -> [String] {
      guard let added, added.name == name, let file = added.input else { return [] }
      return [name, folder.file(file)]
    }
    let prompt = given("--file").isEmpty ? ["-p", "a"] : given("--file")
    switch (output.command.first, output.name) {
    case ("generate", "--save-state"):
      return try tool.run(
        [model, "-n", "1", "--save-state", path, "--force"] + prompt + given("--load-state"))
    case ("chat", "--save-state"):
      return try tool.run(
        ["chat", model, "-n", "1", "--save-state", path, "--force"] + prompt + given("--load-state")
          + given("--template"))
    case ("logits", "--out"):
      let tokens = given("--tokens").isEmpty ? ["--tokens", "1,2,3"] : given("--tokens")
      return try tool.run(["logits", model, "--out", path] + tokens)
    case ("embed", "--out"): return try tool.run(["embed", model, "--out", path] + prompt)
    case ("embed", "--keep-states"):
      // The model that is asked for must be one that embeds.
      let reads = added?.input == "model.rwkv" ? model : try embedder
      return try tool.run(["embed", reads, "--keep-states", path, "--force"] + prompt)
    case (_, "output"):
      var more = ["--recipe", "--calibrate", "--tokenizer", "--lora", "--pissa", "--state"].flatMap(given)
      if added?.name == "--pissa" { more += ["--lora", folder.file("text.txt")] }
      return try tool.run([folder.file("model.safetensors"), path, "--force", "--no-measure"] + more)
    default:
      Issue.record("\(output.testDescription): how is it asked for?")
      return try tool.run(["--version"])
    }
  }

  @Test(arguments: outputs) func linksStay(_ output: ValueArgument) throws {
    let manager = FileManager.default
    try manager.createDirectory(atPath: folder.file("deep"), withIntermediateDirectories: true)
    for target in ["deep/there.npy", "deep/new.npy"] {
      let link = folder.file("link.npy")
      try? manager.removeItem(atPath: link)
      try manager.createSymbolicLink(atPath: link, withDestinationPath: target)
      if target.contains("there") { _ = manager.createFile(atPath: folder.file(target), contents: nil) }
      let result = try run(output, link)
      #expect(result.status == 0, "\(result.errors)")
      #expect(try manager.destinationOfSymbolicLink(atPath: link) == target)
      #expect(try Data(contentsOf: URL(fileURLWithPath: folder.file(target))).count > 32)
    }
  }

  /// Written through or refused, and still what they were.
  @Test(arguments: outputs) func devicesAreNotReplaced(_ output: ValueArgument) throws {
    let manager = FileManager.default
    let (link, pipe) = (folder.file("null.npy"), folder.file("pipe.npy"))
    try manager.createSymbolicLink(atPath: link, withDestinationPath: "/dev/null")
    mkfifo(pipe, 0o600)
    let reader = open(pipe, O_RDWR)  // so that what writes to it does not wait
    defer { close(reader) }
    for path in [link, pipe] {
      let isModel = output.name == "output"
      // A pipe holds 64 KiB, which is less than some of these write.
      if path == pipe, !isModel, output.command == ["logits"] || output.name.contains("-state") { continue }
      #expect(try run(output, path).status == (isModel ? 1 : 0))
    }
    #expect(try manager.destinationOfSymbolicLink(atPath: link) == "/dev/null")
    var status = stat()
    #expect(lstat(pipe, &status) == 0 && status.st_mode & S_IFMT == S_IFIFO)
  }

  /// Every file that the command can read, and standard input, by its own name, by a link and by a second name.
  @Test(arguments: outputs) func inputsAreNotReplaced(_ output: ValueArgument) throws {
    let manager = FileManager.default
    for name in ["template", "vocabulary.txt", "adapter.safetensors"] {
      _ = manager.createFile(atPath: folder.file(name), contents: Data("what the user wrote".utf8))
    }
    let inputs = ValueArgument.all.filter {
      $0.tool == output.tool && $0.command == output.command && $0.input != nil
    }
    #expect(!inputs.isEmpty)
    for argument in inputs {
      // The state that was loaded may give way to the one that follows it.
      guard let name = argument.input, argument.name != "--load-state" else { continue }
      let file = folder.file(name)
      let before = try Data(contentsOf: URL(fileURLWithPath: file))
      let (link, hard) = (folder.file("same.npy"), folder.file("hard.npy"))
      try manager.createSymbolicLink(atPath: link, withDestinationPath: name)
      try manager.linkItem(atPath: file, toPath: hard)
      for path in [link, hard] {
        let result = try run(output, path, added: argument)
        #expect(result.status == 1, "\(argument.testDescription)")
        #expect(
          result.errors.contains("is read by the same command"),
          "\(argument.testDescription): \(result.errors)")
        #expect(try Data(contentsOf: URL(fileURLWithPath: file)) == before)
        try manager.removeItem(atPath: path)
      }
    }
  }

  @Test(arguments: outputs) func namesThatAreLong(_ output: ValueArgument) throws {
    let longest = String(repeating: "n", count: 251) + ".npy"
    let result = try run(output, folder.file(longest))
    #expect(result.status == 0, "\(result.errors)")
    let tooLong = try run(output, folder.file("n" + longest))
    #expect(tooLong.status == 1)
    #expect(tooLong.errors.contains("too long"), "\(tooLong.errors)")
    #expect(tooLong.output.isEmpty, "it is refused before the work")
  }

  /// What comes through `<` is read, too; so are the other shards of a checkpoint, and what lies beside it.
  @Test func inputsWithoutAnArgumentAreNotReplaced() throws {
    let text = folder.file("prompt.txt")
    let before = try Data(contentsOf: URL(fileURLWithPath: text))
    for words in [["embed", model, "--out"], [model, "-n", "1", "--force", "--save-state"]] {
      let link = folder.file("text.npy")
      try? FileManager.default.removeItem(atPath: link)
      try FileManager.default.createSymbolicLink(atPath: link, withDestinationPath: text)
      let result = try Tool(name: "rwkv-run").run(words + [link], after: "exec < '\(text)'")
      #expect(result.status == 1 && result.errors.contains("is read by the same command"), "\(result.errors)")
      #expect(try Data(contentsOf: URL(fileURLWithPath: text)) == before)
    }

    let checkpoint = folder.file("v6")
    try FileManager.default.copyItem(atPath: golden("v6-hf"), toPath: checkpoint)
    let names = try FileManager.default.contentsOfDirectory(atPath: checkpoint)
    let shards = names.filter { $0.hasSuffix("0.safetensors") || $0.contains("-of-") }.sorted()
    for name in shards.dropFirst() + ["config.json"] {
      let link = folder.file("out.rwkv")
      try? FileManager.default.removeItem(atPath: link)
      try FileManager.default.createSymbolicLink(atPath: link, withDestinationPath: checkpoint + "/" + name)
      let before = try Data(contentsOf: URL(fileURLWithPath: checkpoint + "/" + name))
      let result = try Tool(name: "rwkv-quantize").run(checkpoint + "/" + shards[0], link, "--force")
      #expect(result.status == 1, "\(name): \(result.errors)")
      #expect(try Data(contentsOf: URL(fileURLWithPath: checkpoint + "/" + name)) == before)
    }
    #expect(shards.count > 1)
  }

  @Test func aStateReplacesStatesAlone() throws {
    let run = Tool(name: "rwkv-run")
    let path = folder.file("notes.txt")
    try "my notes, which are longer than a header of sixty-four bytes would be".write(
      toFile: path, atomically: true, encoding: .utf8)
    let refused = try run.run(model, "-p", "a", "-n", "1", "--save-state", path)
    #expect(refused.status == 1)
    #expect(refused.errors.contains("--force"))
    #expect(try String(contentsOfFile: path, encoding: .utf8).hasPrefix("my notes"))
    #expect(try run.run(model, "-p", "a", "-n", "1", "--save-state", path, "--force").status == 0)
    // The state that was loaded gives way to the one that follows it.
    let again = try run.run(model, "-p", "b", "-n", "1", "--load-state", path, "--save-state", path)
    #expect(again.status == 0, "\(again.errors)")
    // Nor do states of documents replace a state, or anything else.
    let keeping = ["embed", try embedder, "-p", "b", "--keep-states"]
    let other = try run.run(keeping + [path])
    #expect(other.status == 1 && other.errors.contains("--force"), "\(other.errors)")
    #expect(try run.run(keeping + [path, "--force"]).status == 0)
    #expect(try run.run(keeping + [path]).status == 0)
  }
}
