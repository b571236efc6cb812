// SPDX-License-Identifier: MIT
import Glibc
import RWKV
import RWKVChat
import RWKVFormat
import Terminal

/// Reads messages and commands line by line, and shows answers.
final class ChatLoop {
  private let conversation: Conversation
  private let editor = LineEditor()
  private var choice: SamplingChoice
  /// Tokens of an answer at most; nil: no limit.
  var limit: Int?
  /// How the model answers; nil: in the template's first way.
  var thinking: ChatTemplate.Thinking?
  /// Files that /save does not write over.
  var inputs: [String?] = []
  /// Answers to the last message.
  private var attempts = 0
  /// How fast the last answer was written, as `/speed` says it.
  private var speed = "no answer yet"
  private var isOver = false
  /// Whether there is one message, in which nothing is a command.
  private var isSingle = false
  /// Ctrl-C was pressed where nothing was to stop; once more leaves.
  private var isLeaving = false

  init(_ conversation: Conversation, choice: SamplingChoice) {
    self.conversation = conversation
    self.choice = choice
  }

  /// Until the end of input, /exit, or Ctrl-C twice: false then.
  func run() throws -> Bool {
    if editor.isInteractive {
      let model = conversation.session.model
      say(
        "\(model.name), RWKV-\(model.configuration.version.rawValue), template \(conversation.template.name); "
          + "/help lists the commands")
      if !editor.edits {
        say("libedit (libedit2) is missing: it edits lines and brings earlier ones back")
      }
    }
    while !isOver {
      switch nextMessage() {
      case .end:
        if editor.isInteractive { note("") }
        isOver = true
      case .interrupted:
        note("")
        if isLeaving || isTerminated || !editor.isInteractive { return false }
        isLeaving = true
        say("(Ctrl-C again, or /exit, leaves)")
      case .text(let message):
        isLeaving = false
        try react(to: message)
        if isInterrupted && !editor.isInteractive || isTerminated { return false }
        forgetInterrupt()
      }
    }
    return true
  }

  /// One message and its answer: false when Ctrl-C stopped it.
  func run(message: String) throws -> Bool {
    isSingle = true
    try answer(message)
    return !isInterrupted
  }

  private func react(to message: String) throws {
    do {
      if message.hasPrefix("/") {
        try command(message)
      } else if message.contains(where: { !$0.isWhitespace }) {
        attempts = 0
        try answer(message)
      }
    } catch {
      // A mistake in a command, a missing file: the conversation goes on. In a script, no answer is missing unnoticed.
      guard editor.isInteractive || message.hasPrefix("/") else { throw error }
      if !isInterrupted { say("\(error)") }
    }
  }

  /// Goes on with a saved conversation, and shows how it ended.
  func load(_ path: String) throws {
    let saved = try conversation.session.model.loadAnyState(path)
    conversation.load(saved)
    guard editor.isInteractive else { return }
    say(
      saved.tokens.isEmpty
        ? "\(path): saved without its text" : "\(path): \(saved.tokens.count) tokens, the end:")
    let text = String(decoding: conversation.transcript, as: UTF8.self)
    if !text.isEmpty { say((text.count > 600 ? "…" : "") + text.suffix(600)) }
  }

  private func say(_ text: String) {
    var wrap = WordWrap(STDERR_FILENO)
    note(String(decoding: wrap.push(Array(printable(text).utf8)), as: UTF8.self), faint: true)
  }

  /// A line, or the lines between two """.
  private func nextMessage() -> Line {
    let first = editor.readLine("> ")
    guard case .text(let text) = first, text.hasPrefix("\"\"\"") else { return first }
    var lines = [String(text.dropFirst(3))]
    while !lines[lines.count - 1].hasSuffix("\"\"\"") {
      switch editor.readLine("… ") {
      case .text(let line): lines.append(line)
      case .interrupted:
        isLeaving = false  // the first one since something was typed
        return .interrupted
      case .end: return .text(lines.joined(separator: "\n"))
      }
    }
    lines[lines.count - 1].removeLast(3)
    return .text(lines.joined(separator: "\n"))
  }

  /// Sends a message and shows the answer as it is written.
  private func answer(_ message: String) throws {
    let progress = ProgressLine()
    let start = now()
    var afterPrompt = start
    var printer = AnswerPrinter(thinking ?? conversation.template.thinking.first)
    let drafts = conversation.drafts
    let before = (drafts?.passes ?? 0, drafts?.drafted ?? 0, drafts?.accepted ?? 0)
    do {
      let answer = try conversation.send(
        message, thinking: thinking, options: choice.options, attempt: attempts, limit: limit,
        reading: { done, total in
          if total > 256 { progress.update("reading", done, of: total, since: start) }
          afterPrompt = now()
          return !isInterrupted
        },
        receive: { text in
          progress.clear()
          return printer.show(text) && !isInterrupted
        })
      progress.clear()
      printer.finish()
      attempts += 1
      let (reading, writing) = (afterPrompt - start, now() - afterPrompt)
      speed =
        "read \(answer.promptTokens) tokens at \(decimal(Double(answer.promptTokens) / reading, 1)) tokens/s, "
        + "wrote \(answer.answerTokens) at \(decimal(Double(answer.answerTokens) / writing, 1))"
      if let drafts {
        speed +=
          " in \(drafts.passes - before.0) passes, "
          + "\(drafts.drafted - before.1) drafted, \(drafts.accepted - before.2) accepted"
      }
      sayWhy(answer)
    } catch  where isInterrupted {
      progress.clear()
      say("(stopped; the message was not read)")
    }
  }

  private func sayWhy(_ answer: Conversation.Answer) {
    switch answer.reason {
    case .cancelled where isInterrupted: say("(stopped)")
    case .length:
      let advice = isSingle ? "-n allows more" : "/continue goes on, /params tokens N sets the limit"
      say("(stopped after \(answer.answerTokens) tokens; \(advice))")
    case .cancelled, .end, .stop: break
    }
  }

  private func goOn() throws {
    var printer = AnswerPrinter(continuing: true)
    guard
      let answer = try conversation.continueAnswer(
        limit: limit, receive: { printer.show($0) && !isInterrupted })
    else { throw CommandError("there is no answer that was cut") }
    printer.finish()
    sayWhy(answer)
  }

  // MARK: - Commands

  static let help = """
    /help               this list; also /?
    /regenerate         another answer to the last message
    /continue           go on with an answer that was cut
    /undo [N]           take back the last message and its answer, or the last N
    /reset              start anew, with the same instructions; also /clear
    /system [TEXT]      the instructions; with a text: start anew with it
    /show               the whole conversation, as the model has read it
    /save FILE          save the conversation; /load goes on with it, on any machine with this model
    /save! FILE         the same over a file that is no saved conversation
    /load FILE          go on with a saved conversation
    /think [NAME]       how to think before answering
    /params [NAME [X]]  how tokens are chosen; with a name: that alone; with a number: change it
    /speed              tokens per second of the last answer, and what became of drafts
    /exit               leave; /bye, /quit and Ctrl-D do, too
    A message of several lines is pasted, or typed between two \"\"\". Ctrl-C stops an answer.
    """

  private func command(_ line: String) throws {
    let words = line.split(maxSplits: 1, whereSeparator: \.isWhitespace)
    let argument = words.count > 1 ? String(words[1]) : ""
    switch words[0] {
    case "/help", "/?": say(Self.help)
    case "/regenerate": try regenerate()
    case "/continue": try goOn()
    case "/undo": try undo(argument)
    case "/reset", "/clear":
      conversation.reset()
      say(
        conversation.system.isEmpty
          ? "a new conversation" : "a new conversation with the same instructions")
    case "/system": try system(argument)
    case "/show":
      let text = String(decoding: conversation.transcript, as: UTF8.self)
      say(text.isEmpty ? "nothing has been said yet" : text)
    case "/save", "/save!":
      let path = try path(argument, String(words[0]))
      try requireStateFile(path, force: words[0] == "/save!", besides: inputs, forcing: "/save! FILE")
      try conversation.save(to: path)
      say("\(path): \(conversation.tokens.count) tokens")
    case "/load": try load(try path(argument, "/load"))
    case "/think": try think(argument)
    case "/params": try change(argument)
    case "/speed": say(speed)
    case "/exit", "/bye", "/quit": isOver = true
    default:
      throw CommandError(
        "\(words[0]) is no command; /help lists them. A message may begin with / after a space")
    }
  }

  private func system(_ text: String) throws {
    guard conversation.template.system != nil else {
      throw CommandError("template \(conversation.template.name) has no place for instructions")
    }
    guard !text.isEmpty else {
      return say(conversation.system.isEmpty ? "no instructions" : conversation.system)
    }
    conversation.reset(system: text)
    say("a new conversation with these instructions")
  }

  private func path(_ argument: String, _ command: String) throws -> String {
    guard !argument.isEmpty else { throw CommandError("\(command) needs the name of a file") }
    // As a shell would read it.
    let home = variable("HOME")
    return argument.hasPrefix("~/") && !home.isEmpty ? home + argument.dropFirst() : argument
  }

  private func regenerate() throws {
    try answer(takeBack().message)
  }

  private func undo(_ argument: String) throws {
    guard let count = argument.isEmpty ? 1 : Int(argument), count > 0 else {
      throw CommandError("/undo takes a number of messages, not '\(argument)'")
    }
    for _ in 0..<count {
      say("taken back: \(try takeBack().message)")
    }
    attempts = 0
  }

  private func takeBack() throws -> Conversation.Turn {
    let (progress, start) = (ProgressLine(), now())
    defer { progress.clear() }
    let turn = try conversation.undo { done, total in
      if total > 256 { progress.update("reading", done, of: total, since: start) }
      return !isInterrupted
    }
    guard let turn else { throw CommandError("there is no message to take back") }
    return turn
  }

  private func think(_ name: String) throws {
    if !name.isEmpty { thinking = try conversation.template.thinking(named: name) }
    let current =
      (thinking ?? conversation.template.thinking.first)?.name ?? "this template has no ways of thinking"
    say("\(current) (there are: \(conversation.template.thinking.map(\.name).joined(separator: ", ")))")
  }

  /// `/params`: shows how tokens are chosen, or one of it, or changes that.
  private func change(_ argument: String) throws {
    let words = argument.split(whereSeparator: \.isWhitespace).map(String.init)
    let names = SamplingSetting.allCases.map(\.rawValue) + ["tokens"]
    var shown: String?
    if let typed = words.first {
      guard words.count < 3, let name = parameter(typed), names.contains(name) || words.count == 1 else {
        throw CommandError(
          "/params takes a name and a number; the names are \(names.joined(separator: ", "))")
      }
      if words.count == 2 { try set(name, words[1]) } else { shown = name }
    }
    let rows = choice.rows + [["tokens", "\(limit ?? -1)", ""]]
    let found = shown.map { name in rows.filter { $0[0] == name } } ?? rows
    say(found.isEmpty ? "no \(shown ?? "")" : table(found, leftAligned: 3).joined(separator: "\n"))
  }

  /// The name of a setting as people type it: also as an option, with `_`, or as other programs call it.
  private func parameter(_ typed: String) -> String? {
    let name = typed.lowercased().replacing("_", with: "-").drop { $0 == "-" }
    switch name {
    case "temp": return SamplingSetting.temperature.rawValue
    case "n", "predict", "n-predict", "num-predict", "max-tokens", "tokens": return "tokens"
    case "stop": return "stop"
    default: return SamplingSetting(rawValue: String(name))?.rawValue
    }
  }

  private func set(_ name: String, _ value: String) throws {
    let wrong = CommandError("'\(value)' is not a number for \(name)")
    guard let setting = SamplingSetting(rawValue: name) else {
      guard let count = Int(value), count >= -1 else { throw wrong }
      limit = count < 0 ? nil : count
      return
    }
    var changed = choice
    guard changed.set(setting, value) else { throw wrong }
    try changed.options.check()
    choice = changed
  }
}

/// Shows an answer: without white space before it, after what it was made to start with.
private struct AnswerPrinter {
  private var hasBegun = false
  /// Whether the answer begins within a tag that the model has to close, and that is not worth showing.
  private var skipsTag: Bool
  private var wrap = WordWrap()

  /// Shows the rest of an answer, of which something has been shown already if it is `continuing`.
  init(continuing: Bool) { (hasBegun, skipsTag) = (continuing, false) }

  init(_ thinking: ChatTemplate.Thinking?) {
    let opening = thinking?.answer ?? ""
    skipsTag = opening.hasSuffix("</think")
    if !skipsTag && !opening.isEmpty {
      _ = show(Array(opening.utf8))
    }
  }

  /// Shows a piece of the answer; false when nobody reads any more.
  mutating func show(_ text: [UInt8]) -> Bool {
    var rest = text[...]
    while !hasBegun, let byte = rest.first {
      let isSpace = byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09
      if !isSpace && !(skipsTag && byte == UInt8(ascii: ">")) {
        hasBegun = true
      } else {
        if !isSpace { skipsTag = false }
        rest = rest.dropFirst()
      }
    }
    return rest.isEmpty || write(wrap.push(Array(rest)))
  }

  /// Ends the last line.
  func finish() { write([UInt8(ascii: "\n")]) }
}
