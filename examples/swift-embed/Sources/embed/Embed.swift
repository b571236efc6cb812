import Glibc
import RWKV

/// Opens a model, reads a prompt, streams text:  swift run embed MODEL PROMPT [TOKENS]
@main
struct Embed {
  static func main() {
    let arguments = CommandLine.arguments
    guard arguments.count >= 3 else {
      print("usage: embed MODEL PROMPT [TOKENS]")
      exit(64)
    }
    do {
      let model = try Model(path: arguments[1])
      guard let tokenizer = model.tokenizer else {
        print("embed: the model has no tokenizer")
        exit(1)
      }
      let session = try Session(model)
      try session.prefill(tokenizer.encode(arguments[2]))

      var options = SamplingOptions()
      options.temperature = 0.7
      options.seed = 1
      var sampler = try Sampler(options, tokenizer: tokenizer)
      let count = arguments.count > 3 ? Int(arguments[3]) : 200
      _ = try session.generate(count, with: &sampler, tokenizer: tokenizer) { text in
        print(String(decoding: text, as: UTF8.self), terminator: "")
        return true
      }
      print()
    } catch {
      print("embed: \(error)")
      exit(1)
    }
  }
}
