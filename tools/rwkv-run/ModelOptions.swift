import ArgumentParser
import RWKV
import RWKVFormat
import RWKVTokenizer
import Terminal

/// Arguments that all commands with a model share.
struct ModelOptions: ParsableArguments {
  @Argument(help: "A .rwkv file made by rwkv-quantize.", completion: .file(extensions: ["rwkv"]))
  var model: String

  @Option(name: [.short, .long], help: "Threads (default: the processors this process may use).")
  var threads: Int?

  func validate() throws {
    if let threads, threads < 1 { throw ValidationError("--threads must be at least 1.") }
  }

  var threadCount: Int { threads ?? processorCount() }

  @OptionGroup var memory: MemoryOptions

  /// Opens the model with a line of progress.
  func open(requiresTokenizer: Bool = false) throws -> Model {
    try memory.open(model, threads: threadCount, requiresTokenizer: requiresTokenizer)
  }
}

extension Model {
  /// The tokenizer, or an error that says how to get one.
  func requireTokenizer() throws -> any Tokenizer {
    guard let tokenizer else { throw ModelError(.noTokenizer, path: path) }
    return tokenizer
  }
}
