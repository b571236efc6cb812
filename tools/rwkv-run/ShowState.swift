// SPDX-License-Identifier: MIT
import ArgumentParser
import RWKV
import RWKVFormat
import RWKVTokenizer
import Terminal

struct StateCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "state", abstract: "Looks at saved states.", subcommands: [ShowState.self])
}

struct ShowState: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "show",
    abstract: "Tells what is in a saved state: its model, tokens and size; with --model the text.",
    discussion: """
      EXAMPLES
        rwkv-run state show monday.state
        rwkv-run state show monday.state --model model.rwkv
      """)

  @Argument(help: "A file made by --save-state or /save.", completion: .file())
  var file: String

  @Option(
    help: "The model that it was saved with: shows the text, too.", completion: .file(extensions: ["rwkv"]),
    transform: ModelDirectory.resolve)
  var model: String?

  @Flag(name: .customLong("json"), help: "One JSON object on stdout.")
  var asJSON = false

  func run() throws {
    try reporting("rwkv-run") {
      try requireFile(file, ending: ".state")
      let summary = try StateSummary(path: file)
      var text: String?
      if let model {
        try checkModelPath(model)
        let model = try Model(path: model)
        let saved = try model.loadState(from: file)
        text = String(decoding: try model.requireTokenizer().decode(saved.tokens), as: UTF8.self)
      }
      if asJSON {
        var members: [(String, JSON)] = [
          ("model", .string(summary.modelName)), ("identity", .string(summary.modelIdentity)),
          ("tokens", .integer(summary.tokenCount)), ("logits", .bool(summary.hasLogits)),
          ("state_bytes", .integer(summary.stateBytes)),
          ("file_bytes", .integer(summary.fileBytes)),
        ]
        if let text { members.append(("text", .string(text))) }
        output(JSON.object(members).description)
      } else {
        let tokens = summary.tokenCount > 0 ? "\(summary.tokenCount)" : "not known"
        output(
          """
          model    \(summary.modelName) (identity \(summary.modelIdentity))
          tokens   \(tokens)
          goes on  \(summary.hasLogits ? "with or without a new text" : "with a new text")
          size     \(size(summary.fileBytes)); in memory \(size(summary.stateBytes))
          checks   the checksums match
          """)
        if let text { output("\n" + text) }
      }
    }
  }
}
