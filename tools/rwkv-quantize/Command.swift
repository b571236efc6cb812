// SPDX-License-Identifier: MIT
import ArgumentParser
import RWKVFormat
import Synchronization
import Terminal

@main
struct RWKVQuantize: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "rwkv-quantize",
    abstract: "Converts RWKV checkpoints to .rwkv files, quantized or exact.",
    discussion: """
      EXAMPLES
        rwkv-quantize RWKV-x070-World-0.4B.pth model.rwkv
        rwkv-quantize checkpoint/ exact.rwkv --type fp16
        rwkv-quantize model.pth better.rwkv --type int5 --calibrate text.txt
        rwkv-quantize model.rwkv mapped.rwkv --store
        rwkv-quantize show model.rwkv
        rwkv-quantize verify model.rwkv
        rwkv-quantize compare exact.rwkv model.rwkv --text text.txt
      """,
    version: version,
    subcommands: [Convert.self, Show.self, Verify.self, Compare.self],
    defaultSubcommand: Convert.self)
}

/// Threads to use; common to all commands.
struct ThreadOptions: ParsableArguments {
  @Option(name: [.customShort("t"), .long], help: "Threads (default: the processors this process may use).")
  var threads: Int?

  func validate() throws {
    if let threads, !(1...1024).contains(threads) {
      throw ValidationError("--threads must be from 1 to 1024.")
    }
  }

  var count: Int { threads ?? processorCount() }
}

/// Runs `body` with errors on stderr and Ctrl-C in order.
func reporting(_ body: () throws -> Void) throws {
  catchInterrupts()
  try reporting("rwkv-quantize", body)
}

extension ProgressLine {
  /// A progress callback: shows `label`, and says stop after Ctrl-C.
  func callback(_ label: String) -> @Sendable (Double) -> Bool {
    { share in
      self.update(label, share)
      return !isInterrupted
    }
  }
}
