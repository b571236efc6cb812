// SPDX-License-Identifier: MIT
import Glibc
import RWKV

/// Opens a model, reads a prompt, streams text:  swift run embed MODEL PROMPT [TOKENS]
@main
struct Embed {
  static func main() async {
    let arguments = CommandLine.arguments
    guard arguments.count >= 3 else {
      print("usage: embed MODEL PROMPT [TOKENS]")
      exit(64)
    }
    do {
      let model = try Model(path: arguments[1])
      let session = try Session(model)
      var options = SamplingOptions()
      options.temperature = 0.7
      options.seed = 1
      let count = arguments.count > 3 ? Int(arguments[3]) : 200
      for try await piece in try session.generate(arguments[2], count: count, options: options) {
        print(piece, terminator: "")
      }
      print()
    } catch {
      print("embed: \(error)")
      exit(1)
    }
  }
}
