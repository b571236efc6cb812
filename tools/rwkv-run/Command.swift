// SPDX-License-Identifier: MIT
import ArgumentParser
import RWKV
import RWKVFormat
import Terminal

@main
struct RWKVRun: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "rwkv-run",
    abstract: "Runs RWKV language models on the CPU.",
    discussion: """
      Without the name of a command a text is continued; its options, of which rwkv-run help generate has all:

        -p TEXT, -f FILE    the text to continue (or through a pipe)
        -n N                tokens to write at most (256)
        --temp T, --top-p P, --top-k K, --min-p P, --seed S
                            how tokens are chosen; --temp 0 is greedy
        --stop TEXT         ends the text, may be repeated
        -t N                threads
        --memory-limit 2G   memory to use at most
        --save-state FILE, --load-state FILE
                            what was read, kept for another day
        --json              one object per piece of text

      A model is a .rwkv file, or the name of one that 'rwkv-run pull' has got.

      EXAMPLES
        rwkv-run pull rwkv7-0.4b
        rwkv-run chat rwkv7-0.4b
        rwkv-run model.rwkv -p "The kernel" -n 100
        rwkv-run model.rwkv -f prompt.txt --temp 0
      """,
    version: "\(version), \(instructionSetOrProblem), \(processorCount()) processors",
    subcommands: [
      Generate.self, Chat.self, Bench.self, Perplexity.self, Logits.self, Tokenize.self, Embed.self,
      Rerank.self, StateCommand.self, Pull.self, List.self, Remove.self,
    ],
    defaultSubcommand: Generate.self)

  static func main() { main(with: foreign) }
}
