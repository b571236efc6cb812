import ArgumentParser
import RWKV
import Terminal

struct Logits: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Writes the logits after each token of a list: one F32 tensor 'logits' [tokens, vocabulary].",
    discussion: """
      EXAMPLES
        rwkv-run logits model.rwkv --tokens 5,17,200 --out logits.safetensors
      """)

  enum Mode: String, ExpressibleByArgument, CaseIterable {
    case decode, prefill
  }

  @OptionGroup var options: ModelOptions

  @Option(help: "Token ids, as 1,2,3 or as a file with a JSON list.", completion: .file(extensions: ["json"]))
  var tokens: String

  @Option(name: .customLong("out"), help: "The .safetensors file to write.", completion: .file())
  var output: String

  @Option(help: "One token at a time, or many (the results are the same).")
  var mode = Mode.prefill

  @Option(help: "In prefill mode: tokens per call.")
  var chunk: Int?

  func validate() throws {
    if let chunk, chunk < 1 { throw ValidationError("--chunk must be at least 1.") }
  }

  func run() throws {
    catchInterrupts()
    try reporting("rwkv-run") {
      let ids = try parseTokens()
      let model = try options.open()
      let session = try Session(model, threads: options.threadCount)
      let V = model.configuration.vocabulary
      var values: [Float] = []
      values.reserveCapacity(ids.count * V)
      let step = mode == .decode ? 1 : chunk ?? max(1, ids.count)
      for start in stride(from: 0, to: ids.count, by: step) {
        if isInterrupted { throw interruptedExit }
        let part = Array(ids[start..<min(start + step, ids.count)])
        if mode == .decode {
          try session.decode(part[0])
          values += session.logits
        } else {
          try session.forEachLogits(part) { _, logits in values += logits }
        }
      }
      try writeSafetensors(values, [ids.count, V])
    }
  }

  /// "1,2,3" or a file with [1, 2, 3].
  private func parseTokens() throws -> [Int] {
    let isList = tokens.allSatisfy { $0.isNumber || $0 == "," || $0 == " " }
    let text = isList ? tokens : String(decoding: try readFile(tokens), as: UTF8.self)
    let inner = text.filter { !$0.isWhitespace && $0 != "[" && $0 != "]" }
    return try inner.split(separator: ",").map { word in
      guard let id = Int(word) else {
        throw CommandError("--tokens: '\(word)' is not a token id; give 1,2,3 or a file with a JSON list")
      }
      return id
    }
  }

  private func writeSafetensors(_ values: [Float], _ shape: [Int]) throws {
    var header =
      "{\"logits\":{\"dtype\":\"F32\",\"shape\":[\(shape[0]),\(shape[1])],\"data_offsets\":[0,\(values.count * 4)]}}"
    header += String(repeating: " ", count: (8 - header.utf8.count % 8) % 8)
    var bytes = withUnsafeBytes(of: UInt64(header.utf8.count).littleEndian) { Array($0) }
    bytes += header.utf8
    values.withUnsafeBytes { bytes += $0 }
    try write(bytes, to: output)
  }
}
