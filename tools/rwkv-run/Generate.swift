// SPDX-License-Identifier: MIT
import ArgumentParser
import Glibc
import RWKV
import RWKVTokenizer
import Terminal

struct Generate: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Continues a text (the default command).",
    discussion: """
      The text is what -p or -f gives, or what comes through a pipe; without any, the model starts a document, or goes \
      on with the state that was loaded. Its continuation goes to stdout as it stands, everything else to stderr.

      EXAMPLES
        rwkv-run model.rwkv -p "The kernel" -n 100
        rwkv-run model.rwkv -f prompt.txt --temp 0 --stop $'\\n\\n'
        cat prompt.txt | rwkv-run model.rwkv --top-p 0.6 --seed 7
        rwkv-run model.rwkv -p "Once" --save-state tale.state
        rwkv-run model.rwkv --load-state tale.state -n 100
        rwkv-run model.rwkv -p " upon" --load-state tale.state --json --logprobs 3
      """)

  @OptionGroup var options: ModelOptions

  @Option(name: [.customShort("p"), .long], parsing: .unconditional, help: "Text to continue.")
  var prompt: String?

  @Option(
    name: [.customShort("f"), .long], help: "File with the text to continue; - is stdin.", completion: .file()
  )
  var file: String?

  @Option(
    name: [.customShort("n"), .long], parsing: .unconditional,
    help: "Tokens to write at most; -1: until the model ends the text.")
  var predict = 256

  @OptionGroup var sampling: SamplingArguments

  @OptionGroup var drafting: DraftArguments

  @Option(
    name: .customLong("stop"), parsing: .unconditionalSingleValue,
    help: "Stop at this text (may be repeated; default: what the model's file has; '' for none).")
  var stops: [String] = []

  @Option(help: "Go on from this saved state, or start from this state-tuned .pth.", completion: .file())
  var loadState: String?

  @Option(help: "Save the state at the end to this file.", completion: .file())
  var saveState: String?

  @Flag(help: "Save the state over a file that is no saved state, too.")
  var force = false

  @Flag(
    name: .customLong("json"), help: "One JSON object per piece of text, and a last one with the figures.")
  var asJSON = false

  @Option(
    parsing: .unconditional,
    help: "With --json: log-probabilities of each token, and of this many of the likeliest in its place.")
  var logprobs: Int?

  /// Nothing belongs here; it is taken to say what does.
  @Argument(help: .hidden) var rest: [String] = []

  func validate() throws {
    if let logprobs, !asJSON || logprobs < 0 { throw ValidationError("--logprobs N goes with --json.") }
    if prompt != nil && file != nil { throw ValidationError("Give -p or -f, not both.") }
    if predict < -1 { throw ValidationError("-n must be -1 or more.") }
  }

  /// Throws for arguments that are left over. This is not done in `validate`, so that the parser names unknown options
  /// first.
  private func requireNoOtherArguments() throws {
    try requireNoCommand(options.model, of: RWKVRun.configuration.subcommands)
    if let word = rest.first {
      throw ValidationError(
        "'\(word)' is one argument too many; the text to continue goes after -p, in quotes.")
    }
  }

  func run() throws {
    try requireNoOtherArguments()
    catchInterrupts()
    try reporting("rwkv-run") {
      if let saveState { try requireStateFile(saveState, force: force, besides: [options.model, file]) }
      let model = try options.open(requiresTokenizer: true)
      let tokenizer = try model.requireTokenizer()
      let choice = try sampling.choice(for: model, stops: stops.isEmpty ? nil : stops)
      let saved = try loadState.map { try model.loadAnyState($0) }
      let session = try Session(model, state: saved?.state, threads: options.threadCount)
      let drafts = try drafting.drafts(for: model, threads: options.threadCount)
      var tokens = try tokenizer.encode(promptBytes())
      if tokens.isEmpty {
        if let saved {
          guard !saved.logits.isEmpty else {
            throw CommandError(
              "--load-state: this state was saved without what predicts the next token; give a text to read, with -p "
                + "or -f")
          }
          session.resume(saved.logits)
        } else {
          tokens = [0]  // token 0 separates documents: start a new one
        }
      }

      let start = now()
      try read(tokens, session)
      try drafts?.follow((saved?.tokens ?? []) + tokens)
      let afterPrompt = now()
      sampling.sayRandomSeed(choice)

      var sampler = try Sampler(choice.options, tokenizer: tokenizer)
      let printer = PiecePrinter(
        asJSON: asJSON, logprobs: logprobs, keepsTokens: saveState != nil, tokenizer: tokenizer)
      let reason = try session.generate(
        predict < 0 ? nil : predict, with: &sampler, tokenizer: tokenizer, stop: choice.stops, drafts: drafts,
        observe: printer.observe,
        receive: { printer.show($0) && !isInterrupted })
      if !asJSON { write([UInt8(ascii: "\n")]) }
      if let saveState {
        // The text travels along, unless its beginning is not known.
        let before = saved.map { $0.tokens.isEmpty ? nil : $0.tokens } ?? []
        try session.state.save(
          to: saveState, tokens: before.map { $0 + tokens + printer.tokens } ?? [],
          logits: Array(session.logits))
      }
      try finish(reason, prompt: tokens.count, printer, drafts, afterPrompt - start, now() - afterPrompt)
    }
  }

  private func promptBytes() throws -> [UInt8] {
    if let prompt { return Array(prompt.utf8) }
    if let file { return try readFile(file) }
    return isatty(STDIN_FILENO) == 1 ? [] : try readFile("-")
  }

  private func read(_ tokens: [Int], _ session: Session) throws {
    let progress = ProgressLine()
    defer { progress.clear() }
    let start = now()
    try session.prefill(tokens) { done in
      if tokens.count > 256 { progress.update("reading", done, of: tokens.count, since: start) }
      return !isInterrupted
    }
  }

  private func finish(
    _ reason: FinishReason, prompt: Int, _ printer: PiecePrinter, _ drafts: Drafts?,
    _ promptSeconds: Double, _ seconds: Double
  ) throws {
    let wasInterrupted = isInterrupted
    if asJSON {
      let finish = wasInterrupted ? "interrupted" : reason.rawValue
      output(
        JSON.object([
          ("finish", .string(finish)), ("prompt_tokens", .integer(prompt)),
          ("pieces", .integer(printer.pieces)),
          ("tokens", .integer(printer.tokenCount)),
          ("passes", .integer(drafts?.passes ?? printer.tokenCount)),
          ("drafted", .integer(drafts?.drafted ?? 0)), ("accepted", .integer(drafts?.accepted ?? 0)),
          ("prompt_tokens_per_second", .number(Double(prompt) / promptSeconds, decimals: 1)),
          ("tokens_per_second", .number(Double(printer.tokenCount) / seconds, decimals: 1)),
          ("pieces_per_second", .number(Double(printer.pieces) / seconds, decimals: 1)),
        ]).description)
    }
    if wasInterrupted { throw interruptedExit }
    if sampling.onlyJson, reason != .end {
      throw CommandError(
        "--only-json: the text was cut after \(printer.tokenCount) tokens and is no whole JSON; -n allows more"
      )
    }
  }
}
