import ArgumentParser
import Terminal

@main
struct RWKVRun: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "rwkv-run",
    abstract: "Runs RWKV language models on the CPU.",
    discussion: """
      rwkv-run help generate has the options of a call without the name of a command.

      EXAMPLES
        rwkv-run chat model.rwkv
        rwkv-run model.rwkv -p "The kernel" -n 100
        rwkv-run model.rwkv -f prompt.txt --temp 0
      """,
    version: version,
    subcommands: [
      Generate.self, Chat.self, Bench.self, Perplexity.self, Logits.self, Tokenize.self, Embed.self,
      StateCommand.self,
    ],
    defaultSubcommand: Generate.self)
}
