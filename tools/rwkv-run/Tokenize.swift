// SPDX-License-Identifier: MIT
import ArgumentParser
import RWKV
import RWKVFormat
import RWKVTokenizer
import Terminal

struct Tokenize: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Turns text into token ids, or ids into text.",
    discussion: """
      EXAMPLES
        rwkv-run tokenize model.rwkv -p "a text"
        rwkv-run tokenize model.rwkv -f text.txt
        cat text.txt | rwkv-run tokenize model.rwkv
        rwkv-run tokenize model.rwkv --ids 97,32,116
      """)

  @Argument(model: "A .rwkv file made by rwkv-quantize, or a name that rwkv-run list has.")
  var model: String

  @Option(name: [.customShort("p"), .long], parsing: .unconditional, help: "Text to turn into ids.")
  var prompt: String?

  @Option(
    name: [.customShort("f"), .long],
    help: "File with the text; - is stdin, which is also read without -p and --ids.",
    completion: .file())
  var file: String?

  @Option(help: "Ids to turn into text, as 1,2,3 or as a JSON list.")
  var ids: String?

  func validate() throws {
    if [prompt, file, ids].compactMap({ $0 }).count > 1 {
      throw ValidationError("Give one of -p TEXT, -f FILE and --ids 1,2,3.")
    }
  }

  func run() throws {
    try reporting("rwkv-run") {
      try checkModelPath(model)
      let tokenizer = try Model.requireTokenizer(path: model)
      guard let ids else {
        return show(try encode(try givenText(prompt, file), with: tokenizer))
      }
      for word in ids.split(whereSeparator: { "[],".contains($0) || $0.isWhitespace }) {
        guard let id = Int(word), (0..<tokenizer.vocabularySize).contains(id) else {
          throw CommandError(
            "--ids: '\(word)' is not a token id; there are 0…\(tokenizer.vocabularySize - 1)")
        }
        write(tokenizer.bytes(of: id))
      }
    }
  }

  private func encode(_ text: [UInt8], with tokenizer: any Tokenizer) throws -> [Int] {
    let (progress, begin) = (ProgressLine(), now())
    defer { progress.clear() }
    return try tokenizer.encode(text) {
      progress.update("tokenizing", $0 / 1000, of: text.count / 1000, unit: "kB", since: begin)
    }
  }

  /// Writes ids in parts, so that those of a long text are not in memory once more.
  private func show(_ ids: [Int]) {
    for (index, part) in ids.parts(of: 1 << 16).enumerated() {
      let text = (index > 0 ? "," : "") + part.map(String.init).joined(separator: ",")
      guard write(Array(text.utf8)) else { return }
    }
    output("")
  }
}
