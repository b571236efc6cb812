// SPDX-License-Identifier: MIT
import ArgumentParser
import RWKV
import RWKVFormat
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
      try requireWritable(output, besides: [options.model, isList ? nil : tokens])
      let model = try options.open()
      let session = try Session(model, threads: options.threadCount)
      let file = try LogitsFile(output, rows: ids.count, vocabulary: model.configuration.vocabulary)
      let progress = ProgressLine()
      defer { progress.clear() }
      let begin = now()
      let step = mode == .decode ? 1 : chunk ?? max(1, ids.count)
      for start in stride(from: 0, to: ids.count, by: step) {
        if isInterrupted { throw interruptedExit }
        let part = Array(ids[start..<min(start + step, ids.count)])
        if mode == .decode {
          try session.decode(part[0])
          file.append(session.logits)
        } else {
          try session.forEachLogits(
            part,
            progress: { done in
              progress.update("reading", start + done, of: ids.count, since: begin)
              return !isInterrupted
            }, { _, logits in file.append(logits) })
        }
        if let error = file.error { throw error }
      }
      try file.finish()
    }
  }

  private var isList: Bool { tokens.allSatisfy { $0.isNumber || $0 == "," || $0 == " " } }

  /// "1,2,3" or a file with [1, 2, 3].
  private func parseTokens() throws -> [Int] {
    let text = isList ? tokens : String(decoding: try readFile(tokens), as: UTF8.self)
    let inner = text.filter { !$0.isWhitespace && $0 != "[" && $0 != "]" }
    return try inner.split(separator: ",").map { word in
      guard let id = Int(word) else {
        throw CommandError("--tokens: '\(word)' is not a token id; give 1,2,3 or a file with a JSON list")
      }
      return id
    }
  }
}

/// A .safetensors file with one F32 tensor 'logits' [rows, vocabulary], written row by row.
private final class LogitsFile {
  private let path: String
  private let file: OutputFile
  private var end: UInt64 = 0
  /// The first that a row met.
  private(set) var error: ModelFileError?

  init(_ path: String, rows: Int, vocabulary: Int) throws(ModelFileError) {
    self.path = path
    var header = "{\"logits\":{\"dtype\":\"F32\",\"shape\":[\(rows),\(vocabulary)],"
    header += "\"data_offsets\":[0,\(rows * vocabulary * 4)]}}"
    header += String(repeating: " ", count: (8 - header.utf8.count % 8) % 8)
    do {
      file = try OutputFile(path: path, overwrite: true, acceptsStreams: true)
    } catch {
      throw error.inFile(path)
    }
    append(withUnsafeBytes(of: UInt64(header.utf8.count).littleEndian) { Array($0) } + header.utf8)
    if let error { throw error }
  }

  func append(_ logits: UnsafeBufferPointer<Float>) { append(Array(UnsafeRawBufferPointer(logits))) }

  private func append(_ bytes: [UInt8]) {
    guard error == nil else { return }
    do {
      try file.write(bytes, at: end)
      end += UInt64(bytes.count)
    } catch {
      self.error = error.inFile(path)
    }
  }

  func finish() throws(ModelFileError) {
    do { try file.finish() } catch { throw error.inFile(path) }
  }
}
