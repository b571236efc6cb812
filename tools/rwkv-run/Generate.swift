import ArgumentParser
import Glibc
import RWKV
import RWKVTokenizer
import Terminal

struct Generate: ParsableCommand {
  static let configuration = CommandConfiguration(abstract: "Continues a text (the default command).")

  @OptionGroup var options: ModelOptions

  @Option(name: [.customShort("p"), .long], help: "Text to continue.")
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

  @Option(name: .customLong("stop"), help: "Stop at this text (may be repeated).")
  var stops: [String] = []

  @Option(help: "Go on from this saved state.", completion: .file())
  var loadState: String?

  @Option(help: "Save the state at the end to this file.", completion: .file())
  var saveState: String?

  @Flag(
    name: .customLong("json"), help: "One JSON object per piece of text, and a last one with the figures.")
  var asJSON = false

  func validate() throws {
    if prompt != nil && file != nil { throw ValidationError("Give -p or -f, not both.") }
    if predict < -1 { throw ValidationError("-n must be -1 or more.") }
  }

  func run() throws {
    catchInterrupts()
    try reporting("rwkv-run") {
      let model = try options.open()
      let tokenizer = try model.requireTokenizer()
      let saved = try loadState.map { try model.loadState(from: $0) }
      let session = try Session(model, state: saved?.state, threads: options.threadCount)
      var tokens = tokenizer.encode(try promptBytes())
      if tokens.isEmpty {
        guard saved == nil else {
          throw CommandError("--load-state: give a text to read next, with -p or -f")
        }
        tokens = [0]  // token 0 separates documents: start a new one
      }

      let start = now()
      try read(tokens, session)
      let afterPrompt = now()

      var sampler = try Sampler(try sampling.options(.plain), tokenizer: tokenizer)
      var written = 0
      let reason = try session.generate(
        predict < 0 ? nil : predict, with: &sampler, tokenizer: tokenizer, stop: stops
      ) { text in
        written += 1
        let line = JSON.object([("text", .string(String(decoding: text, as: UTF8.self)))]).description + "\n"
        return write(asJSON ? Array(line.utf8) : text) && !isInterrupted
      }
      if let saveState { try session.state.save(to: saveState) }
      try finish(reason, prompt: tokens.count, written: written, afterPrompt - start, now() - afterPrompt)
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
    try session.prefill(tokens) { done in
      if tokens.count > 256 { progress.update("reading", Double(done) / Double(tokens.count)) }
      return !isInterrupted
    }
  }

  private func finish(
    _ reason: FinishReason, prompt: Int, written: Int, _ promptSeconds: Double, _ seconds: Double
  ) throws {
    let wasInterrupted = isInterrupted
    if asJSON {
      let finish = wasInterrupted ? "interrupted" : reason.rawValue
      output(
        JSON.object([
          ("finish", .string(finish)), ("prompt_tokens", .integer(prompt)), ("pieces", .integer(written)),
          ("prompt_tokens_per_second", .number(Double(prompt) / promptSeconds, decimals: 1)),
          ("pieces_per_second", .number(Double(written) / seconds, decimals: 1)),
        ]).description)
    } else {
      write([UInt8(ascii: "\n")])
    }
    if wasInterrupted { throw interruptedExit }
  }
}
