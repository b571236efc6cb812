// SPDX-License-Identifier: MIT
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
  private func chat(environment: [String: String] = [:], _ arguments: String...) throws -> PseudoTerminal {
    try PseudoTerminal(
      tool, ["chat", model, "--seed", "5", "-n", "40", "-t", "2", "--logit-bias", "0=-inf"] + arguments,
      environment: environment)
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
    monday.expect("tokens             -1")
    let first = monday.output
    #expect(!first.isEmpty && answers.hasPrefix(first))
    monday.type("something that is answered without end\n")
    monday.waitForOutput(beyond: first.utf8.count + 50)
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

  @Test func anInterruptedLineIsForgottenAndTheConversationSaved() throws {
    let file = folder.file("c.state")
    let chat = try chat("--save-state", file, "-n", "5")
    chat.expect("/help")
    chat.type("forgotten")
    chat.expect("forgotten")
    chat.type("\u{3}")
    chat.expect("Ctrl-C again")
    chat.expect("> ")
    for line in ["\"\"\"one\n", "two\n"] {
      chat.type(line)
      chat.expect("… ")
    }
    chat.type("\u{3}")
    chat.expect("Ctrl-C again")
    chat.type("kept\n")
    chat.expect("stopped after 5")
    chat.type("/undo\n")
    chat.expect("taken back: kept")
    chat.type("again\n")
    chat.expect("stopped after 5")
    chat.expect("> ")
    chat.type("\u{3}")
    chat.expect("Ctrl-C again")
    chat.type("\u{3}")
    #expect(chat.wait() == 130)
    let shown = try tool.run("state", "show", file, "--model", model).output
    #expect(shown.contains("User: again\n") && !shown.contains("forgotten") && !shown.contains("two"))
  }

  /// A terminal marks what is pasted; only Enter sends it.
  @Test func pastedLinesAreOneMessage() throws {
    let chat = try chat(environment: ["TERM": "xterm"], "-n", "5")
    chat.expect("/help")
    chat.expect("> ")
    guard chat.screen.contains("\u{1B}[?2004h") else { return }  // no libedit here
    chat.type("\u{1B}[200~eins\rzwei\r\n\tdrei 你好\u{1B}[20")
    chat.type("1~!")
    chat.expect("!")
    chat.type("\n")
    chat.expect("stopped after 5")
    chat.type("/save \(folder.file("p.state"))\n/exit\n")
    #expect(chat.wait() == 0)
    let shown = try tool.run("state", "show", folder.file("p.state"), "--model", model).output
    #expect(shown.contains("User: eins\nzwei\n\tdrei 你好!\n\nAssistant:"), "\(shown)")
  }

  @Test func aClosedTerminalLosesNothing() throws {
    let file = folder.file("h.state")
    let chat = try chat("--save-state", file, "-n", "-1")
    chat.expect("/help")
    chat.type("hello\n")
    chat.waitForOutput()
    chat.hangUp()
    #expect(chat.wait() == 0)
    #expect(try tool.run("state", "show", file, "--model", model).output.contains("User: hello\n"))
  }

  @Test func commandsAnswerAndMistakesAreForgiven() throws {
    let chat = try chat()
    let session = [
      ("/help\n", "/regenerate"), ("/params top-p 0.9\n", "top-p              0.9"),
      ("/params top-p 7\n", "expected 0.0…1.0"),
      ("/params colour red\n", "the names are"), ("/system Be brief.\n", "with these instructions"),
      ("/think fake\n", "fake (there are: off, on"), ("/think hard\n", "not 'hard'"),
      ("/undo\n", "no message"),
      ("/nonsense\n", "is no command"), ("/load \(folder.file("none"))\n", "no such file"),
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

    // A message of several lines whose end is missing is one all the same.
    try "\"\"\"one\ntwo".write(toFile: messages, atomically: true, encoding: .utf8)
    let unclosed = try tool.run(
      ["chat", model, "-n", "1", "--save-state", folder.file("c.state")], after: "exec < '\(messages)'")
    #expect(unclosed.status == 0)
    let shown = try tool.run("state", "show", folder.file("c.state"), "--model", model).output
    #expect(shown.contains("User: one\ntwo\n\nAssistant:"), "\(shown)")
  }

  @Test func oneMessageIsAnsweredAndNothingInItIsACommand() throws {
    let message = folder.file("message")
    try "/exit\nnow".write(toFile: message, atomically: true, encoding: .utf8)
    for (index, source) in [["-p", "/exit\nnow"], ["-f", message]].enumerated() {
      let state = folder.file("\(index).state")
      let result = try tool.run(["chat", model, "-n", "3", "--seed", "5", "--save-state", state] + source)
      #expect(result.status == 0, "\(result.errors)")
      let shown = try tool.run("state", "show", state, "--model", model).output
      #expect(shown.contains("User: /exit\nnow\n\nAssistant:"), "\(shown)")
    }
    #expect(try contents("0.state") == contents("1.state"))
    #expect(try tool.run("chat", model, "-p", "a", "-f", message).status == 64)
  }

  @Test func instructionsStayAndAreShown() throws {
    let chat = try chat("--system", "Be brief.", "-n", "3")
    chat.expect("/help")
    for (line, answer) in [
      ("/system\n", "Be brief."), ("hello\n", "stopped after 3"), ("/show\n", "User: hello"),
      ("/clear\n", "with the same instructions"), ("/?\n", "/regenerate"), ("again\n", "stopped after 3"),
      ("/save \(folder.file("s.state"))\n", "tokens"),
    ] {
      chat.type(line)
      chat.expect(answer)
    }
    chat.type("/bye\n")
    #expect(chat.wait() == 0)
    let shown = try tool.run("state", "show", folder.file("s.state"), "--model", model).output
    #expect(shown.contains("Be brief.") && shown.contains("User: again") && !shown.contains("hello"))
  }

  @Test func wrongTemplatesAreExplained() throws {
    let own = folder.file("own.template")
    try "user = \"{text}\"\nassistant = 5\n".write(toFile: own, atomically: true, encoding: .utf8)
    for (arguments, message) in [
      (["--template", own], "line 2"), (["--template", folder.file("none")], "no such file"),
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
