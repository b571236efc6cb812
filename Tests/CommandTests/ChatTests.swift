import Foundation
import Testing

/// `rwkv-run chat` at a terminal, as a person would use it.
@Suite("rwkv-run chat")
struct ChatTests {
  let tool = Tool(name: "rwkv-run")
  let folder = TemporaryFolder()
  private var model: String { folder.file("m.rwkv") }

  init() throws {
    let quantize = Tool(name: "rwkv-quantize")
    #expect(try quantize.run(golden("v7-std/model.safetensors"), model).status == 0)
  }

  /// Answers never end by themselves: token 0 is banned.
  private func chat(_ arguments: String...) throws -> PseudoTerminal {
    try PseudoTerminal(
      tool, ["chat", model, "--seed", "5", "-n", "40", "-t", "2", "--logit-bias", "0=-inf"] + arguments)
  }

  private func contents(_ name: String) throws -> Data {
    try Data(contentsOf: URL(filePath: folder.file(name)))
  }

  @Test func savedAndContinuedEqualsUninterruptedBitForBit() throws {
    let whole = try chat()
    whole.expect("/help")
    for line in ["hello", "more", "/save \(folder.file("whole.state"))", "/exit"] { whole.type(line + "\n") }
    #expect(whole.wait() == 0)
    let answers = whole.output

    // The same with an answer that is stopped and taken back, and with a day in between.
    let monday = try chat()
    monday.expect("/help")
    monday.type("hello\n/params tokens -1\n")
    monday.expect(", tokens -1")  // not its echo
    let first = monday.output
    #expect(!first.isEmpty && answers.hasPrefix(first))
    monday.type("something that is answered without end\n")
    while monday.output.utf8.count < first.utf8.count + 50 { usleep(1000) }
    monday.type("\u{3}")
    monday.expect("(stopped)")
    monday.type("/undo\n")
    monday.expect("taken back: something")
    monday.type("/save \(folder.file("monday.state"))\n/exit\n")
    #expect(monday.wait() == 0)

    let tuesday = try chat("--load-state", folder.file("monday.state"))
    tuesday.expect("hello")  // how it ended
    for line in ["more", "/save \(folder.file("tuesday.state"))", "/exit"] { tuesday.type(line + "\n") }
    #expect(tuesday.wait() == 0)
    #expect(first + tuesday.output == answers)
    #expect(try contents("tuesday.state") == contents("whole.state"))
  }

  @Test func theSecondInterruptLeavesWith130() throws {
    let atPrompt = try chat()
    atPrompt.expect("/help")
    atPrompt.expect("> ")
    atPrompt.type("\u{3}")
    atPrompt.expect("Ctrl-C again")
    atPrompt.type("\u{3}")
    #expect(atPrompt.wait() == 130)

    let writing = try chat("-n", "-1")
    writing.expect("/help")
    writing.type("hello\n")
    writing.waitForOutput()
    writing.type("\u{3}")
    writing.expect("(stopped)")
    writing.expect("> ")
    writing.type("\u{3}")
    writing.expect("Ctrl-C again")
    writing.type("\u{3}")
    #expect(writing.wait() == 130)
    #expect(!writing.output.isEmpty)
  }

  @Test func commandsAnswerAndMistakesAreForgiven() throws {
    let chat = try chat()
    let session = [
      ("/help\n", "/regenerate"), ("/params top-p 0.9\n", "top-p 0.9"),
      ("/params top-p 7\n", "expected 0.0…1.0"),
      ("/params colour red\n", "the names are"), ("/system Be brief.\n", "with these instructions"),
      ("/think fake\n", "fake (there are: off, on"), ("/think hard\n", "not 'hard'"),
      ("/undo\n", "no message"),
      ("/nonsense\n", "is no command"), ("/load \(folder.file("none"))\n", "No such file"),
      ("\"\"\"two\nlines\"\"\"\n", ""), ("/speed\n", "wrote 40 at"), ("/regenerate\n", "(stopped after 40"),
      ("/undo\n", "taken back: two"), ("/reset\n", "a new conversation"), ("/save\n", "name of a file"),
    ]
    for (line, answer) in session {
      chat.type(line)
      if !answer.isEmpty { chat.expect(answer) }
    }
    chat.type("\u{4}")  // Ctrl-D
    #expect(chat.wait() == 0)
    #expect(chat.output.split(separator: "\n", omittingEmptySubsequences: false).count >= 3)
  }

  @Test func linesOfAPipeAreMessages() throws {
    let messages = folder.file("messages")
    try "hello\n/save \(folder.file("a.state"))\n".write(toFile: messages, atomically: true, encoding: .utf8)
    let result = try tool.run(
      ["chat", model, "--seed", "5", "-n", "10", "--save-state", folder.file("b.state")],
      after: "exec < '\(messages)'")
    #expect(result.status == 0 && !result.output.isEmpty && !result.errors.contains("> "))
    #expect(try contents("a.state") == contents("b.state"))
  }

  @Test func wrongTemplatesAreExplained() throws {
    let own = folder.file("own.template")
    try "user = \"{text}\"\nassistant = 5\n".write(toFile: own, atomically: true, encoding: .utf8)
    for (arguments, message) in [
      (["--template", own], "line 2"), (["--template", folder.file("none")], "No such file"),
      (["--template", "raven", "--system", "x"], "no place for instructions"),
      (["--think", "hard"], "not 'hard'"),
    ] {
      let result = try tool.run(["chat", model] + arguments)
      #expect(result.status == 1 && result.errors.contains(message), "\(result.errors)")
    }
    let source = try tool.run("chat", model, "--print-template", "--template", "g1")
    try source.output.write(toFile: own, atomically: true, encoding: .utf8)
    #expect(try tool.run("chat", model, "--template", own).status == 0)
  }
}
