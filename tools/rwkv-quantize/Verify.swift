// SPDX-License-Identifier: MIT
import ArgumentParser
import RWKVFormat
import RWKVQuantization
import Terminal

struct Verify: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Checks every checksum, every shape and every value of a .rwkv file.",
    discussion: """
      EXAMPLES
        rwkv-quantize verify model.rwkv
      """)

  @Argument(model: "A .rwkv file made by rwkv-quantize, or a name that rwkv-run list has.")
  var model: String

  @OptionGroup var threads: ThreadOptions

  func run() throws {
    try reporting {
      try requireFile(model, ending: ".rwkv")
      let progress = ProgressLine()
      defer { progress.clear() }
      let problems = try Verification.problems(
        of: model, threads: threads.count, progress: progress.callback("verifying"))
      progress.clear()
      for problem in problems { note(problem) }
      guard problems.isEmpty else {
        note("\(model): \(problems.count) problem\(problems.count == 1 ? "" : "s") found")
        throw ExitCode(1)
      }
      note("\(model): sound")
    }
  }
}
