// SPDX-License-Identifier: MIT
public import ArgumentParser
import Glibc
public import RWKV
import RWKVFormat
import RWKVTokenizer
import Terminal

struct Embed: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Turns texts into vectors, to compare them by.",
    discussion: """
      Each text is read from an empty state, and ends with token 0. The vector is made of what the model has in place of \
      words after each token: the output of its last block after the final norm, from which it makes its predictions. \
      mean is the average over all tokens of the text; last is the one after token 0, which has seen the whole text; \
      state is the recurrent state of the last block. Vectors have length 1: their dot product is the cosine \
      of their angle. \
      Models of language predict words; how well their vectors tell meanings apart has to be tried.

      EXAMPLES
        rwkv-run embed model.rwkv -p "a text"
        rwkv-run embed model.rwkv -f sentences.txt --lines --out vectors.npy
      """)

  @OptionGroup var options: ModelOptions

  @Option(name: [.customShort("p"), .long], parsing: .unconditional, help: "The text.")
  var prompt: String?

  @Option(
    name: [.customShort("f"), .long], help: "File with the text; - is stdin, which is also read without -p.",
    completion: .file())
  var file: String?

  @Flag(help: "Every line that is not empty is a text of its own.")
  var lines = false

  @Option(help: "What a vector is made of.")
  var pooling = Pooling.mean

  @Option(
    name: .customLong("out"),
    help: "A .npy file for NumPy, F32 [texts, dimensions] (default: JSON on stdout, a line per text).",
    completion: .file(extensions: ["npy"]))
  var outputPath: String?

  func validate() throws {
    if prompt != nil && file != nil { throw ValidationError("Give -p or -f, not both.") }
    if let outputPath, !outputPath.hasSuffix(".npy") { throw ValidationError("--out must end in .npy.") }
  }

  func run() throws {
    catchInterrupts()
    try reporting("rwkv-run") {
      if let outputPath { try requireWritable(outputPath, besides: [options.model, file]) }
      let bytes = try givenText(prompt, file)
      let isLineEnd: (UInt8) -> Bool = { $0 == UInt8(ascii: "\n") || $0 == UInt8(ascii: "\r") }
      let texts =
        lines ? bytes.split(whereSeparator: isLineEnd).map(Array.init) : bytes.isEmpty ? [] : [bytes]
      guard !texts.isEmpty else { throw CommandError("there is no text to embed") }
      let model = try options.open(requiresTokenizer: true)
      let tokenizer = try model.requireTokenizer()
      let session = try Session(model, threads: options.threadCount)
      let progress = ProgressLine()
      defer { progress.clear() }
      var vectors: [Float] = []
      for (index, text) in texts.enumerated() {
        if isInterrupted { throw interruptedExit }
        let tokens = try endingAtOnce { try tokenizer.encode(text) }
        let begin = now()
        let vector = try session.embedding(tokens, pooling: pooling) { done in
          if texts.count == 1 { progress.update("reading", done, of: max(1, tokens.count), since: begin) }
          return !isInterrupted
        }
        if outputPath == nil {
          output(
            JSON.object([
              ("tokens", .integer(tokens.count)),
              ("embedding", .array(vector.map { .exactNumber(Double($0)) })),
            ]).description)
        } else {
          vectors += vector
        }
        if texts.count > 1 { progress.update("reading", Double(index + 1) / Double(texts.count)) }
      }
      if let outputPath { try write(npy(vectors, rows: texts.count), to: outputPath) }
    }
  }

  /// NumPy's format 1.0: magic, version, length of the header, header, values.
  private func npy(_ values: [Float], rows: Int) -> [UInt8] {
    var header = "{'descr': '<f4', 'fortran_order': False, 'shape': (\(rows), \(values.count / rows)), }"
    header += String(repeating: " ", count: (64 - (10 + header.utf8.count + 1) % 64) % 64) + "\n"
    var bytes: [UInt8] = [0x93] + Array("NUMPY".utf8) + [1, 0]
    withUnsafeBytes(of: UInt16(header.utf8.count).littleEndian) { bytes += $0 }
    bytes += header.utf8
    values.withUnsafeBytes { bytes += $0 }
    return bytes
  }
}

extension Pooling: ExpressibleByArgument {}
