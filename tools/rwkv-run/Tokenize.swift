import ArgumentParser
import RWKV
import RWKVTokenizer
import Terminal

struct Tokenize: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Turns text into token ids, or ids into text.",
    discussion: """
      EXAMPLES
        rwkv-run tokenize model.rwkv -p "a text"
        rwkv-run tokenize model.rwkv --ids 97,32,116
      """)

  @Argument(help: "A .rwkv file made by rwkv-quantize.", completion: .file(extensions: ["rwkv"]))
  var model: String

  @Option(name: [.customShort("p"), .long], parsing: .unconditional, help: "Text to turn into ids.")
  var prompt: String?

  @Option(help: "Ids to turn into text, as 1,2,3.")
  var ids: String?

  func validate() throws {
    if (prompt == nil) == (ids == nil) { throw ValidationError("Give -p TEXT or --ids 1,2,3.") }
  }

  func run() throws {
    try reporting("rwkv-run") {
      try checkModelPath(model)
      guard let tokenizer = try Model.tokenizer(path: model) else {
        throw ModelError(.noTokenizer, path: model)
      }
      if let prompt {
        output(try tokenizer.encode(Array(prompt.utf8)).map(String.init).joined(separator: ","))
      } else {
        for word in (ids ?? "").split(separator: ",") {
          guard let id = Int(word), (0..<tokenizer.vocabularySize).contains(id) else {
            throw CommandError(
              "--ids: '\(word)' is not a token id; there are 0…\(tokenizer.vocabularySize - 1)")
          }
          write(tokenizer.bytes(of: id))
        }
      }
    }
  }
}
