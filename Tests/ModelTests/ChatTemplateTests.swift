// SPDX-License-Identifier: MIT
import RWKV
import RWKVTokenizer
import Testing

@testable import RWKVChat

/// What is written around messages, to the letter.
@Suite("Chat templates")
struct ChatTemplateTests {
  private func template(_ name: String) throws -> ChatTemplate { try #require(ChatTemplate.builtIn(name)) }

  @Test func everyBuiltInTemplateIsReadAndHasItsSource() throws {
    #expect(ChatTemplate.builtInNames == ["g1", "bot", "tools", "world", "raven", "none"])
    for name in ChatTemplate.builtInNames {
      let source = try #require(ChatTemplate.source(name))
      #expect(try ChatTemplate(parsing: source, name: name).name == name)
    }
  }

  /// The examples of BlinkDL's RWKV7-G1x-templates.txt.
  @Test func g1WritesTheTrainedFormats() throws {
    let g1 = try template("g1")
    let ways = Dictionary(uniqueKeysWithValues: g1.thinking.map { ($0.name, $0) })
    #expect(g1.thinking.first?.name == "off")
    #expect(g1.question("xxx", ways["off"]) == "User: xxx\n\nAssistant:")
    #expect(g1.question("xxx", ways["on"]) == "User: xxx\n\nAssistant: <think")
    #expect(g1.question("xxx", ways["fake"]) == "User: xxx\n\nAssistant: <think>\n</think")
    #expect(g1.question("xxx", ways["short"]) == "User: xxx (think a bit)\n\nAssistant: <think")
    #expect(g1.question("xxx", ways["long"]) == "User: xxx (think a lot)\n\nAssistant: <think")
    #expect(g1.opening(system: "xxx") == "System: xxx\n\n")
    #expect(g1.opening(system: "") == "" && g1.opening(system: " \n ") == "")
    #expect(g1.end == "\n\n" && g1.stops.contains("\n\nUser:"))
    let values = g1.sampling.values
    #expect(values[.topP] == 0.5 && values[.presencePenalty] == 2 && values[.penaltyDecay] == 0.99)
  }

  /// As rwkv_chat_template.jinja of rwkv-rs/transformers-rwkv writes them.
  @Test func botAndToolsWriteTheirs() throws {
    let bot = try template("bot")
    let ways = Dictionary(uniqueKeysWithValues: bot.thinking.map { ($0.name, $0) })
    #expect(bot.opening(system: "s") == "System✿s✿\n")
    #expect(bot.question("A\r\n\r\nB \n", nil) == "User✿A\nB✿\nBot✿" && bot.thinking.first?.name == "on")
    #expect(bot.question("A", ways["on"]) == "User✿A✿\nBot✿<think")
    #expect(bot.question("A", ways["fake"]) == "User✿A✿\nBot✿<think></think")
    #expect(bot.end == "✿\n" && bot.stops == ["✿"])
    let tools = try template("tools")
    let fake = tools.thinking.first { $0.name == "fake" }
    #expect(tools.opening(system: "s") == "### System\ns\n")
    #expect(tools.question("A", fake) == "### User\nA\n### Assistant\n<think></think")
    #expect(tools.end == "\n" && tools.stops == ["\n### User"])
    #expect(tools.sampling.values == [.temperature: 0.96, .topP: 0.76, .topK: 32])
  }

  @Test func messagesOfToolsStandInTheirPlace() throws {
    let result = try ChatMessage(role: "tool", "B")
    let messages = [ChatMessage(.user, "A"), ChatMessage(.assistant, "call"), result]
    let tools = try template("g1").withTools
    #expect(tools.name == "tools")
    #expect(
      try tools.text(of: messages)
        == "### User\nA\n### Assistant\ncall\n### Tool Output\nB\n### Assistant\n<think")
    let world = try template("world").withTools
    #expect(try world.text(of: messages).hasSuffix("User: A\n\nAssistant: call\n\nUser: B\n\nAssistant:"))
  }

  /// What was written down with a template is found in it again, each turn where its first token is.
  @Test(arguments: ["g1", "bot", "tools", "world", "raven"])
  func conversationsAreFoundInTheirText(name: String) throws {
    let template = try template(name)
    let system = template.system == nil ? "" : "be brief"
    let first = template.opening(system: system) + template.question("one", nil) + " 1" + template.end
    let text = first + template.question("two", nil) + " 2"
    let reading = template.reading(of: text.utf8.map { [$0] })
    #expect(reading.system == system && reading.turns.map { $0.message } == ["one", "two"])
    #expect(reading.turns.map { $0.answer } == [Array(" 1".utf8), Array(" 2".utf8)])
    #expect(reading.turns.map { $0.start } == [0, first.utf8.count])
  }

  /// An answer that is still open keeps its white space, so that what is written next goes on from it.
  @Test func openAnswersStayAsTheyAre() throws {
    let g1 = try template("g1")
    func text(_ answer: String) throws -> String {
      try g1.text(of: [ChatMessage(.user, "A "), ChatMessage(.assistant, answer)])
    }
    #expect(try text("one, ") == "User: A\n\nAssistant: one, ")
    #expect(try text(" one\n\n") == "User: A\n\nAssistant: one\n\n")
    #expect(try text("") == "User: A\n\nAssistant:")
  }

  @Test func worldAndRavenWriteTheirs() throws {
    let world = try template("world")
    #expect(world.opening(system: "").hasPrefix("User: hi\n\nAssistant: Hi. I am your assistant"))
    #expect(world.question("a\n\n\nb", nil) == "User: a\nb\n\nAssistant:" && world.stops == ["\n\n"])
    let raven = try template("raven")
    #expect(raven.question("xxx", nil) == "Bob: xxx\n\nAlice:" && raven.system == nil)
    #expect(raven.opening(system: "ignored") == "")
  }

  @Test(arguments: [
    ("a\r\n\r\n\r\nb", "a\nb"), ("\n a b \n", "a b"), ("a\n \nb", "a\n \nb"), ("", ""), (" \u{3000}\n", ""),
    ("e\u{301}\n\n\u{301}x", "e\u{301}\n\u{301}x"), ("👩‍👩‍👧\r\n\r\n你好", "👩‍👩‍👧\n你好"),
  ])
  func messagesAreCleanedAsTheAuthorsSay(message: String, cleaned: String) throws {
    #expect(try Array(template("g1").cleaned(message).utf8) == Array(cleaned.utf8))
    #expect(try template("none").question(message, nil) == message)
  }

  @Test func aTemplateOfOnesOwn() throws {
    let text = """
      # comment
        system="[{text}]\\n"\r
      user = "<\\t{text}\\"\\\\>"
      assistant = "→ "
      think a = "" "x"
      stop = "<"
      stop = "END"
      min-p = 0.1
      """
    let own = try ChatTemplate(parsing: text, name: "own")
    #expect(own.opening(system: "s") == "[s]\n")
    #expect(own.question("q", own.thinking[0]) == "<\tq\"\\>→ x")
    #expect(own.stops == ["<", "END"] && own.sampling.values == [.minP: 0.1] && own.end == "")
  }

  /// Programs that know Jinja alone get the first way of thinking.
  @Test func jinjaThinksInTheFirstWay() throws {
    let text = "user = \"{text}\"\nassistant = \"A\"\nthink a = \"[m]\" \"[n]\"\nthink b = \"[o]\" \"[p]\""
    let jinja = try ChatTemplate(parsing: text, name: "own").jinja
    #expect(
      jinja.contains("[m]") && jinja.contains("A[n]") && !jinja.contains("[o]") && !jinja.contains("[p]"))
  }

  @Test(arguments: [
    ("user = \"{text}\"", nil, "'assistant' is missing"), ("hello", 1, "key = value"),
    ("\nuser = \"text\"", 2, "{text} occurs 0 times"), ("user = \"{text}{text}\"", 1, "occurs 2 times"),
    ("user = {text}", 1, "double quotes"), ("user = \"{text}", 1, "closing quote"),
    ("end = \"a\" \"b\"", 1, "2 texts"), ("end = \"\\x\"", 1, "\\x means nothing"),
    ("stop = \"\"", 1, "empty stop"),
    ("end = \"\"\nend = \"\"", 2, "second time"), ("colour = \"red\"", 1, "unknown key 'colour'"),
    ("think on = \"a\"", 1, "expected two"), ("clean = maybe", 1, "on or off"),
    ("top-k = 1.5", 1, "not a number"),
    ("user = \"{text}\"\nassistant = \"\"\ntop-p = 2", nil, "top-p is 2.0"),
  ])
  func mistakesAreNamedWithTheirLine(text: String, line: Int?, problem: String) throws {
    let error = try #require(throws: ChatTemplateError.self) { try ChatTemplate(parsing: text, name: "own") }
    #expect(error.line == line && error.problem.contains(problem), "\(error)")
    #expect("\(error)".hasPrefix("template own"))
  }

  @Test func hostileTextIsRefusedOrRead() throws {
    var state: UInt64 = 1
    func random(_ bound: Int) -> Int {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return Int(state >> 33) % bound
    }
    let words = [
      "user", "assistant", "think ", "stop", "=", " = ", "\"", "\\", "\\n", "{text}", "\n", "\r\n", "#",
      "\u{301}", "top-p",
      "0.5", "\"\"", "\0", "é", "\u{FEFF}",
    ]
    for _ in 0..<3000 {
      let text = (0..<random(12)).map { _ in words[random(words.count)] }.joined()
      _ = try? ChatTemplate(parsing: text, name: "x")
    }
    let long = String(repeating: "#", count: ChatTemplate.maximumBytes + 1)
    #expect(throws: ChatTemplateError.self) { try ChatTemplate(parsing: long, name: "x") }
  }
}
