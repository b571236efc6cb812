// SPDX-License-Identifier: MIT
import Foundation
import Testing

/// Ctrl-C and `kill` end every command in order: with exit code 130 and 143 of its own, not by the signal; what was
/// written stays, and no file is half there.
@Suite("Signals", .serialized)
struct SignalTests {
  /// Models and inputs, made once.
  struct Place: Sendable {
    let folder = TemporaryFolder()
    let run = Tool(name: "rwkv-run")
    let quantize = Tool(name: "rwkv-quantize")
    var model: String { folder.file("m.rwkv") }
    var large: String { folder.file("large.rwkv") }
    var embedder: String { folder.file("embedder.rwkv") }
    var reranker: String { folder.file("reranker.rwkv") }
    var text: String { folder.file("text") }
    var ids: String { folder.file("ids.json") }
    /// Outputs, and nothing else.
    var outputs: String { folder.file("out") }
    var state: String { folder.file("s.state") }

    init() throws {
      let trained = "\(packageRoot)/examples/model/rwkv7-docs-5m.safetensors"
      #expect(try quantize.run(golden("v7-std/model.safetensors"), model).status == 0)
      #expect(try quantize.run(trained, large, "--type", "fp32", "--no-measure").status == 0)
      let bytes = ["--type", "fp32", "--tokenizer", "bytes"]
      #expect(try quantize.run([golden("emb-std/model.pth"), embedder] + bytes).status == 0)
      #expect(try quantize.run(golden("rerank-std/model.pth"), reranker, "--type", "fp32").status == 0)
      let words = String(repeating: "one long text ", count: 400_000)
      try words.write(toFile: text, atomically: true, encoding: .utf8)
      let list = "[" + String(repeating: "5,7,", count: 400_000) + "1]"
      try list.write(toFile: ids, atomically: true, encoding: .utf8)
      try FileManager.default.createDirectory(atPath: outputs, withIntermediateDirectories: true)
    }
  }
  static let place: Result<Place, any Error> = Result {
    atexit { try? SignalTests.place.get().folder.remove() }
    return try Place()
  }

  /// Work that would take minutes, of every command that can take so long; `verify` takes a second.
  enum Work: String, CaseIterable {
    case prompt, promptFromPipe, drafts, bench, perplexity, logits, embed, rerank
    case convert, calibrate, repack, verify, compare

    func start(_ place: Place) throws -> Running {
      let (run, quantize) = (place.run, place.quantize)
      let (model, text, large) = (place.model, place.text, place.large)
      switch self {
      case .prompt: return try run.start([model, "-f", text, "-t", "1"])
      case .promptFromPipe: return try endlessInput(run, [model, "-f", "-"], place)
      case .drafts:
        return try run.start([model, "-f", text, "--draft", model, "-t", "1"])
      case .bench: return try run.start(["bench", model, "-p", "9000000", "-n", "0", "-r", "1", "-t", "1"])
      case .perplexity: return try run.start(["perplexity", model, "-f", text, "-t", "1"])
      case .logits:
        return try run.start(["logits", model, "--tokens", place.ids, "--out", place.outputs + "/l"])
      case .embed: return try run.start(["embed", model, "-f", text, "--out", place.outputs + "/v.npy"])
      case .rerank:
        return try run.start(["rerank", place.embedder, place.reranker, "-q", "a", "-f", text, "-t", "1"])
      case .convert:
        return try quantize.start([large, place.outputs + "/q.rwkv", "--type", "int4", "-t", "1"])
      case .calibrate:
        let out = place.outputs + "/q.rwkv"
        return try quantize.start([large, out, "--type", "int4", "--calibrate", text, "-t", "1"])
      case .repack: return try quantize.start([large, place.outputs + "/q.rwkv", "-t", "1"])
      case .verify: return try quantize.start(["verify", large, "-t", "1"])
      case .compare: return try quantize.start(["compare", large, large, "--text", text])
      }
    }
  }

  /// A program whose input is a pipe that says nothing and does not end.
  private static func endlessInput(_ tool: Tool, _ arguments: [String], _ place: Place) throws -> Running {
    let pipe = place.folder.file("pipe")
    mkfifo(pipe, 0o600)
    return try Running("/bin/sh", ["-c", "exec <> '\(pipe)'; exec \"$0\" \"$@\"", tool.path] + arguments)
  }

  static let signals: [(Int32, Int)] = [(SIGINT, 130), (SIGTERM, 143)]

  @Test(arguments: Work.allCases, signals)
  func endCommandsInOrder(_ work: Work, _ signal: (number: Int32, status: Int)) throws {
    let place = try Self.place.get()
    let running = try work.start(place)
    #expect(running.catchesSignals())
    kill(running.process, signal.number)
    let result = try running.wait()
    #expect(result.status == signal.status, "\(result.errors)")
    #expect(result.output.isEmpty || work == .bench)
    #expect(try FileManager.default.contentsOfDirectory(atPath: place.outputs) == [])
  }

  /// Text that is being written, by itself and as an answer: what was written stays, and the state is saved.
  @Test(arguments: [[], ["chat"]], signals)
  func endTextsAndSaveTheirStates(_ command: [String], _ signal: (number: Int32, status: Int)) throws {
    let place = try Self.place.get()
    defer { unlink(place.state) }
    let endless = ["-n", "-1", "--logit-bias", "0=-inf", "-t", "1", "--save-state", place.state]
    let running = try place.run.start(command + [place.model, "-p", "hello"] + endless)
    running.waitForOutput(beyond: 20)
    kill(running.process, signal.number)
    let result = try running.wait()
    #expect(result.status == signal.status && result.output.utf8.count > 20, "\(result.errors)")
    let shown = try place.run.run("state", "show", place.state, "--model", place.model, "--json")
    let object = try JSONSerialization.jsonObject(with: Data(shown.output.utf8)) as? [String: Any]
    let text = try #require(object?["text"] as? String)
    let written = result.output.trimmingCharacters(in: .whitespacesAndNewlines)
    #expect(text.contains("hello") && text.contains(written.prefix(20)))
    // A reader of the text alone gets as much as the state knows.
    if command.isEmpty { #expect(text == "hello" + result.output.dropLast()) }
  }

  /// A conversation through a pipe, in the middle of an answer and while there is nothing to read.
  @Test(arguments: signals)
  func endPipedConversationsAndSaveThem(_ signal: (number: Int32, status: Int)) throws {
    let place = try Self.place.get()
    defer { unlink(place.state) }
    let options = ["--logit-bias", "0=-inf", "-t", "1", "--save-state", place.state]
    let messages = place.folder.file("messages")
    try "hello\nagain\n".write(toFile: messages, atomically: true, encoding: .utf8)
    let answering = try Running(
      "/bin/sh",
      [
        "-c", "exec < '\(messages)'; exec \"$0\" \"$@\"", place.run.path, "chat", place.model, "--lines",
        "-n", "-1",
      ]
        + options)
    answering.waitForOutput(beyond: 20)
    kill(answering.process, signal.number)
    #expect(try answering.wait().status == signal.status)
    let shown = try place.run.run("state", "show", place.state, "--model", place.model).output
    #expect(shown.contains("hello") && !shown.contains("again"), "the rest of the script is not read")

    unlink(place.state)
    let waiting = try Self.endlessInput(
      place.run, ["chat", place.model, "--lines", "-n", "3"] + options, place)
    #expect(waiting.catchesSignals())
    usleep(300_000)  // for the model; earlier, the signal ends the loading in the same way
    kill(waiting.process, signal.number)
    #expect(try waiting.wait().status == signal.status)
  }

  /// In a script no answer is missing unnoticed; a person goes on.
  @Test func aFailingAnswerEndsAScript() throws {
    let place = try Self.place.get()
    let messages = place.folder.file("messages")
    try "hello\nagain\n".write(toFile: messages, atomically: true, encoding: .utf8)
    // No token may be chosen.
    let bans = (0..<256).flatMap { ["--logit-bias", "\($0)=-inf"] }
    let result = try place.run.run(["chat", place.model, "--lines"] + bans, after: "exec < '\(messages)'")
    #expect(result.status == 1 && result.errors.contains("rwkv-run: "), "\(result.errors)")
    #expect(result.errors.split(separator: "\n").filter { $0.contains("no token") }.count == 1, "once")
    let person = try PseudoTerminal(place.run, ["chat", place.model, "-t", "1"] + bans)
    person.expect("/help")
    for _ in 0..<2 {
      person.type("hello\n")
      person.expect("no token")
    }
    person.type("/exit\n")
    #expect(person.wait() == 0)
  }
}
