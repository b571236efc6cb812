// SPDX-License-Identifier: MIT
import Foundation
import Terminal
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
      ("/params colour red\n", "the names are"), ("/params temp 0.5\n", "temperature        0.5"),
      ("/params --top_p\n", "top-p              0.9"), ("/params N 40\n", "tokens             40"),
      ("/params stop\n", "stop"), ("/params stop a\n", "the names are"), ("/show\n", "nothing has been said"),
      ("/system Be brief.\n", "with these instructions"),
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

  @Test func theEndTypedDuringAnAnswerIsNotLost() throws {
    let chat = try chat("-n", "400")
    chat.expect("/help")
    chat.type("hello\n")
    chat.waitForOutput()
    chat.type("\u{4}")  // Ctrl-D, while the system edits lines
    #expect(chat.wait() == 0)
  }

  @Test func linesOfAPipeAreMessagesWhereThatIsAskedFor() throws {
    let messages = folder.file("messages")
    try "hello\n/save \(folder.file("a.state"))\n".write(toFile: messages, atomically: true, encoding: .utf8)
    let result = try tool.run(
      ["chat", model, "--lines", "--seed", "5", "-n", "10", "--save-state", folder.file("b.state")],
      after: "exec < '\(messages)'")
    #expect(result.status == 0 && !result.output.isEmpty && !result.errors.contains("> "))
    #expect(try contents("a.state") == contents("b.state"))

    // A message of several lines whose end is missing is one all the same.
    try "\"\"\"one\ntwo".write(toFile: messages, atomically: true, encoding: .utf8)
    let unclosed = try tool.run(
      ["chat", model, "--lines", "-n", "1", "--save-state", folder.file("c.state")],
      after: "exec < '\(messages)'")
    #expect(unclosed.status == 0)
    let shown = try tool.run("state", "show", folder.file("c.state"), "--model", model).output
    #expect(shown.contains("User: one\ntwo\n\nAssistant:"), "\(shown)")
  }

  @Test func oneMessageIsAnsweredAndNothingInItIsACommand() throws {
    let message = folder.file("message")
    try "/exit\nnow".write(toFile: message, atomically: true, encoding: .utf8)
    for (index, source) in [["-p", "/exit\nnow"], ["-f", message], []].enumerated() {
      let state = folder.file("\(index).state")
      let result = try tool.run(
        ["chat", model, "-n", "3", "--seed", "5", "--save-state", state] + source,
        after: "exec < '\(source.isEmpty ? message : "/dev/null")'")
      #expect(result.status == 0 && !result.errors.contains("/continue"), "\(result.errors)")
      let shown = try tool.run("state", "show", state, "--model", model).output
      #expect(shown.contains("User: /exit\nnow\n\nAssistant:"), "\(shown)")
    }
    #expect(try contents("0.state") == contents("1.state") && contents("0.state") == contents("2.state"))
    #expect(try tool.run("chat", model, "-p", "a", "-f", message).status == 64)
  }

  @Test func instructionsStayAndAreShown() throws {
    let chat = try chat("--system", "Be brief.", "-n", "3")
    chat.expect("/help")
    for (line, answer) in [
      ("/system\n", "Be brief."), ("hello\n", "stopped after 3"), ("/show\n", "User: hello"),
      ("/clear\n", "with the same instructions"), ("/show\n", "Be brief."), ("/?\n", "/regenerate"),
      ("again\n", "stopped after 3"),
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

  @Test func aCutAnswerGoesOnAsIfItHadNotBeenCut() throws {
    for (name, arguments, lines) in [
      ("whole", [], ["hello"]), ("parts", ["-n", "15"], ["hello", "/params tokens 25", "/continue"]),
    ] {
      let chat = try PseudoTerminal(
        tool,
        ["chat", model, "--seed", "5", "-t", "2", "--logit-bias", "0=-inf", "-n", "40"] + arguments)
      chat.expect("/help")
      for line in lines { chat.type(line + "\n") }
      chat.type("/save \(folder.file(name))\n")
      chat.expect("\(folder.file(name)): ")
      // What was saved is complete; here it can go on.
      chat.type("/continue\n")
      chat.expect("stopped after")
      chat.type("/exit\n")
      #expect(chat.wait() == 0)
    }
    #expect(try contents("whole") == contents("parts"))
  }

  @Test func whatWasLoadedIsTakenBackToo() throws {
    let state = folder.file("loaded.state")
    func talk(_ arguments: [String], _ lines: [(String, String)]) throws {
      let chat = try PseudoTerminal(
        tool, ["chat", model, "--seed", "5", "-n", "10", "-t", "2", "--logit-bias", "0=-inf"] + arguments)
      chat.expect("/help")
      for (line, answer) in lines {
        chat.type(line + "\n")
        chat.expect(answer)
      }
      chat.type("/exit\n")
      #expect(chat.wait() == 0)
    }
    let hello = ("hello", "stopped after 10")
    try talk(
      ["--system", "Be brief."],
      [
        hello, ("/save \(folder.file("one"))", "tokens"), ("more", "stopped after 10"),
        ("/save \(state)", "tokens"),
      ])
    try talk(
      ["--load-state", state],
      [
        ("/system", "Be brief."), ("/undo", "taken back: more"), ("/save \(folder.file("two"))", "tokens"),
        ("/undo", "taken back: hello"), ("/undo", "no message to take back"), hello,
        ("/save \(folder.file("three"))", "tokens"),
      ])
    #expect(try contents("one") == contents("two") && contents("one") == contents("three"))
    try talk(["--load-state", state], [("/regenerate", "stopped after 10"), ("/undo", "taken back: more")])
  }

  @Test func aFileThatIsNoConversationStays() throws {
    let notes = folder.file("notes.txt")
    try String(repeating: "my notes ", count: 20).write(toFile: notes, atomically: true, encoding: .utf8)
    let chat = try chat("-n", "3")
    chat.expect("/help")
    for (line, answer) in [
      ("hello\n", "stopped after 3"), ("/save \(notes)\n", "/save! FILE"),
      ("/save \(model)\n", "read by the same command"), ("/save! \(model)\n", "read by the same command"),
    ] {
      chat.type(line)
      chat.expect(answer)
    }
    #expect(try String(contentsOfFile: notes, encoding: .utf8).hasPrefix("my notes"))
    chat.type("/save! \(notes)\n")
    chat.expect("notes.txt: ")
    chat.type("/exit\n")
    #expect(chat.wait() == 0)
    #expect(try tool.run("state", "show", notes).status == 0)
  }
}

/// What a terminal shows while a person types, with libedit and without it.
@Suite("A terminal", .serialized)
struct TerminalTests {
  let tool = Tool(name: "rwkv-run")
  let folder = TemporaryFolder()
  private var model: String { folder.file("m.rwkv") }

  init() throws {
    #expect(
      try Tool(name: "rwkv-quantize").run(golden("v7-std/model.safetensors"), model, "--no-measure").status
        == 0)
  }

  /// Preloaded, it lets no libedit be found. Nil where it cannot be compiled.
  private func hidingLibedit() throws -> [String: String]? {
    let (source, library) = (folder.file("hide.c"), folder.file("hide.so"))
    try """
    #define _GNU_SOURCE
    #include <dlfcn.h>
    #include <string.h>
    void *dlopen(const char *name, int flags) {
      if (name && strstr(name, "libedit")) return 0;
      return ((void *(*)(const char *, int))dlsym(RTLD_NEXT, "dlopen"))(name, flags);
    }
    """.write(toFile: source, atomically: true, encoding: .utf8)
    let compiled = try Running("/bin/sh", ["-c", "cc -shared -fPIC '\(source)' -o '\(library)' -ldl"]).wait()
    return compiled.status == 0 ? ["LD_PRELOAD": library] : nil
  }

  private func chat(_ environment: [String: String], size: (Int, Int), _ arguments: [String]) throws
    -> PseudoTerminal
  {
    try PseudoTerminal(
      tool, ["chat", model, "--seed", "5", "-n", "5", "-t", "1", "--logit-bias", "0=-inf"] + arguments,
      environment: environment.merging(["TERM": "xterm"]) { $1 }, size: size)
  }

  @Test(arguments: [(80, 24), (120, 40)])
  func pastedLinesAreOneMessageWithoutLibedit(size: (Int, Int)) throws {
    guard let environment = try hidingLibedit() else { return }
    let state = folder.file("p.state")
    let chat = try chat(environment, size: size, ["--save-state", state])
    chat.expect("libedit")
    chat.expect("> ")
    chat.type("say \u{1B}[200~eins\nzwei\n/exit\u{1B}[201~!\n")
    chat.expect("stopped after 5")
    chat.expect("> ")
    chat.type("/exit\n")
    #expect(chat.wait() == 0)
    let shown = try tool.run("state", "show", state, "--model", model).output
    #expect(shown.contains("User: say eins\nzwei\n/exit!\n\nAssistant:"), "\(shown)")
  }

  /// The system's own editing loses the end of a long line, also the mark behind what was pasted.
  @Test func aLineThatTheTerminalCutIsTold() throws {
    guard let environment = try hidingLibedit() else { return }
    let chat = try chat(environment, size: (80, 24), [])
    chat.expect("> ")
    chat.type("\u{1B}[200~" + String(repeating: "x", count: 5000) + "\u{1B}[201~\n")
    chat.expect("cut a line after 4095 bytes")
    chat.expect("stopped after 5")
    chat.type("short\n/exit\n")
    #expect(chat.wait() == 0)
    #expect(chat.screen.ranges(of: "cut a line").count == 1)
  }

  /// A line that is typed without libedit is neither lost nor shown twice when the window changes.
  @Test func theSizeMayChangeWithoutLibedit() throws {
    guard let environment = try hidingLibedit() else { return }
    let chat = try chat(environment, size: (80, 24), [])
    chat.expect("> ")
    chat.type("half a mess")
    chat.expect("half a mess")
    chat.resize((40, 24))
    chat.type("age\n")
    chat.expect("stopped after 5")
    let before = chat.screen.components(separatedBy: "(stopped")[0]
    #expect(before.ranges(of: "> ").count == 1, "\(chat.screen)")
    chat.expect("> ")
    chat.type("/show\n")
    chat.expect("User: half a message")
    chat.type("/exit\n")
    #expect(chat.wait() == 0)
  }

  @Test(arguments: [(80, 24), (120, 40)])
  func whatWasTypedIsShownAgain(size: (Int, Int)) throws {
    let chat = try chat([:], size: size, [])
    chat.expect("/help")
    chat.expect("> ")
    guard !chat.screen.contains("libedit") else { return }  // not here
    chat.type("half a mess")
    chat.expect("half a mess")
    // Stopped and continued, as by Ctrl-Z and fg.
    chat.send(SIGSTOP)
    chat.send(SIGCONT)
    chat.expect("half a mess")
    chat.resize((size.0 / 2, size.1))
    chat.expect("half a mess")
    chat.type("age\n")
    chat.expect("stopped after 5")
    chat.type("/show\n")
    chat.expect("User: half a message")
    chat.type("/exit\n")
    #expect(chat.wait() == 0)
  }

  @Test func messagesAreWrappedToo() throws {
    let chat = try chat(["NO_COLOR": "1"], size: (40, 24), [])
    for (line, end) in [
      ("/help", "/exit"), (String(repeating: "words ", count: 20), "stopped after 5"),
      ("/show", "Assistant:"),
    ] {
      chat.expect("> ")
      chat.type(line + "\n")
      chat.expect(end)
    }
    chat.type("/exit\n")
    #expect(chat.wait() == 0)
    #expect(chat.screen.contains("another answer to \r\nthe last message"), "\(chat.screen)")
    #expect(chat.screen.contains("User: words words words words words \r\nwords"), "\(chat.screen)")
  }

  @Test func wordsAreWrappedAtTheEdge() {
    /// The lines that a terminal of `columns` shows.
    func lines(_ text: String, columns: Int, pieces: Int) -> [String] {
      var (wrap, shown) = (WordWrap(columns: columns), [""])
      let characters = Array(text)
      for start in stride(from: 0, to: characters.count, by: pieces) {
        let piece = String(characters[start..<min(start + pieces, characters.count)])
        var rest = String(decoding: wrap.push(Array(piece.utf8)), as: UTF8.self)[...]
        while let character = rest.popFirst() {
          if character == "\n" {
            shown.append("")
          } else if character == "\u{1B}" {
            // Back by some columns, and wiped out to the end of the line.
            let digits = rest.dropFirst().prefix { $0.isNumber }
            shown[shown.count - 1].removeLast(Int(digits) ?? 0)
            rest = rest.dropFirst(1 + digits.count + 1 + 3)
          } else {
            shown[shown.count - 1].append(character)
          }
        }
      }
      return shown
    }
    for pieces in [1, 3, 100] {
      #expect(
        lines("The quick brown fox jumps", columns: 10, pieces: pieces).map {
          $0.trimmingCharacters(in: .whitespaces)
        }
          == ["The quick", "brown fox", "jumps"])
      #expect(lines("abcdefghijkl", columns: 5, pieces: pieces) == ["abcde", "fghij", "kl"])
      #expect(lines("a\nb 你好吗你好吗", columns: 6, pieces: pieces) == ["a", "b 你好", "吗你好", "吗"])
    }
  }
}
