// SPDX-License-Identifier: MIT
import ArgumentParser
import Glibc
import RWKV
import RWKVChat
import Terminal

struct Chat: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Talks with a model.",
    discussion: """
      Answers go to stdout, everything else to stderr. Ctrl-C stops an answer, a second one leaves; /help lists the \
      commands. What comes through a pipe is one message, in which nothing is a command; with --lines every line is \
      one, or a command.

      EXAMPLES
        rwkv-run chat model.rwkv
        rwkv-run chat model.rwkv -p "Why is the sky blue?"
        rwkv-run chat model.rwkv --think fake --system "Answer in French."
        rwkv-run chat model.rwkv --load-state monday.state --save-state tuesday.state
        cat prompt.txt | rwkv-run chat model.rwkv --temp 0
        printf 'Why is the sky blue?\\n/regenerate\\n' | rwkv-run chat model.rwkv --lines
      """)

  @OptionGroup var options: ModelOptions

  @Option(
    name: [.customShort("p"), .long], parsing: .unconditional,
    help: "One message: answer it and end. Nothing in it is a command.")
  var prompt: String?

  @Option(
    name: [.customShort("f"), .long], help: "File with the one message; - is stdin.", completion: .file())
  var file: String?

  @Flag(help: "Every line of standard input is a message, or a command.")
  var lines = false

  @Option(
    help: ArgumentHelp(
      "How conversations are written for this model: \(ChatTemplate.builtInNames.joined(separator: ", ")), or a file "
        + "with a template (default: by the model's version and vocabulary).", valueName: "name|file"),
    completion: .file())
  var template: String?

  @Flag(help: "Print the template and end: a start for one of your own.")
  var printTemplate = false

  @Option(parsing: .unconditional, help: "Instructions that the conversation starts with.")
  var system: String?

  @Option(help: "How to think before answering: of template g1 off (the default), on, short, long or fake.")
  var think: String?

  @Option(
    name: [.customShort("n"), .long], parsing: .unconditional,
    help: "Tokens of an answer at most; -1: until the model ends it.")
  var predict = 2048

  @OptionGroup var sampling: SamplingArguments

  @OptionGroup var drafting: DraftArguments

  @Option(help: "Go on with the conversation that was saved here.", completion: .file())
  var loadState: String?

  @Option(help: "Save the conversation here when it ends.", completion: .file())
  var saveState: String?

  @Flag(help: "Save the conversation over a file that is no saved state, too.")
  var force = false

  func validate() throws {
    if system != nil && loadState != nil {
      throw ValidationError(
        "--system starts a conversation, --load-state goes on with one: give one of them.")
    }
    if prompt != nil && file != nil { throw ValidationError("Give -p or -f, not both.") }
    if lines && (prompt != nil || file != nil) {
      throw ValidationError("--lines is for standard input: give no -p or -f.")
    }
    if predict < -1 { throw ValidationError("-n must be -1 or more.") }
  }

  func run() throws {
    catchInterrupts()
    try reporting("rwkv-run") {
      if let saveState { try requireStateFile(saveState, force: force, besides: inputs) }
      let model = try options.open(requiresTokenizer: !printTemplate)
      if printTemplate { return try printSource(for: model) }
      let tokenizer = try model.requireTokenizer()
      let template = try chosenTemplate(for: model)
      let conversation = Conversation(
        try Session(model, threads: options.threadCount), template: template, tokenizer: tokenizer)
      conversation.drafts = try drafting.drafts(for: model, threads: options.threadCount)
      let choice = try sampling.choice(for: model, template: template)
      sampling.sayRandomSeed(choice)
      let loop = ChatLoop(conversation, choice: choice)
      loop.limit = predict < 0 ? nil : predict
      if let think { loop.thinking = try template.thinking(named: think) }
      if let system {
        guard template.system != nil else {
          throw CommandError("--system: template \(template.name) has no place for instructions")
        }
        conversation.reset(system: system)
      }
      if let loadState { try loop.load(loadState) }
      loop.inputs = inputs
      let isComplete = try message().map(loop.run(message:)) ?? loop.run()
      if let saveState { try conversation.save(to: saveState) }
      if !isComplete || isTerminated { throw interruptedExit }
    }
  }

  /// The template's text, and as comments what would be in force in a conversation.
  private func printSource(for model: Model) throws {
    let name = template ?? ChatTemplate.name(for: model)
    guard let source = ChatTemplate.source(name) else {
      throw CommandError(
        "--print-template: there is no '\(name)'; there are \(ChatTemplate.builtInNames.joined(separator: ", "))"
      )
    }
    output(source)
    output("\n# In force for \(model.name), and where it comes from:")
    let choice = try sampling.choice(for: model, template: chosenTemplate(for: model))
    for row in choice.rows where row[0] != SamplingSetting.seed.rawValue {
      output("#   \(row[0]) = \(row[1])   (\(row[2]))")
    }
  }

  /// What this call reads, and must not write over.
  private var inputs: [String?] { [options.model, file, template] }

  /// The one message, if it does not come from a person at a terminal, or line by line.
  private func message() throws -> String? {
    if let prompt { return prompt }
    if let file { return String(decoding: try readFile(file), as: UTF8.self) }
    if lines || isatty(STDIN_FILENO) == 1 { return nil }
    let text = String(decoding: try readFile("-"), as: UTF8.self)
    // As a shell takes the output of a program. Nothing: there is only a state to load and to save.
    let message = text.hasSuffix("\n") ? String(text.dropLast()) : text
    return message.contains { !$0.isWhitespace } ? message : nil
  }

  private func chosenTemplate(for model: Model) throws -> ChatTemplate {
    let name = template ?? ChatTemplate.name(for: model)
    if let template = ChatTemplate.builtIn(name) { return template }
    do { try requireFile(name) } catch {
      throw CommandError(
        "\(error); templates without a file are \(ChatTemplate.builtInNames.joined(separator: ", "))")
    }
    return try ChatTemplate(parsing: String(decoding: try readFile(name), as: UTF8.self), name: name)
  }
}

extension ChatTemplate {
  func thinking(named name: String) throws -> Thinking {
    if let found = thinking.first(where: { $0.name == name }) { return found }
    let names = thinking.map(\.name).joined(separator: ", ")
    throw CommandError(
      "template \(self.name) "
        + (names.isEmpty ? "has no ways of thinking" : "thinks \(names), not '\(name)'"))
  }
}
