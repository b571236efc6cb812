// SPDX-License-Identifier: MIT
import ArgumentParser
import RWKV
import RWKVFormat
import Terminal

@main
struct RWKVQuantize: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "rwkv-quantize",
    abstract: "Converts RWKV checkpoints to .rwkv files, quantized or exact.",
    discussion: """
      TYPES (--type)
        int4        the default: about 5 bits per weight
        int4-small  the same with a smaller embedding and head
        int5        about 6 bits, when four lose too much
        int8        8 bits, next to lossless
        fp16        lossless for checkpoints of 16 bits
        fp32        as they are, for checking
        Names of ggml's types mean ours of as many bits:
        Q4_K_M int4, Q5_0 int5, Q8_0 int8, F16 fp16.

      EXAMPLES
        rwkv-quantize RWKV-x070-World-0.4B.pth model.rwkv
        rwkv-quantize checkpoint/ exact.rwkv --type fp16
        rwkv-quantize model.pth better.rwkv --type int5 --calibrate text.txt
        rwkv-quantize model.rwkv mapped.rwkv --store
        rwkv-quantize show model.rwkv
        rwkv-quantize verify model.rwkv
        rwkv-quantize compare exact.rwkv model.rwkv --text text.txt
      """,
    version: "\(version), \(instructionSetOrProblem), \(processorCount()) processors",
    subcommands: [Convert.self, Show.self, Verify.self, Compare.self],
    defaultSubcommand: Convert.self)

  static func main() { main(with: foreign) }
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
