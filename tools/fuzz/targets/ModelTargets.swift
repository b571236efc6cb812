// SPDX-License-Identifier: MIT
import Glibc
import RWKV
import RWKVCheckpoint
import RWKVFormat
import RWKVQuantization

/// The small models in Tests/Fixtures/fuzz/models, as checkpoints and converted.
enum FuzzModels {
  static let fixtures =
    #filePath.split(separator: "/").dropLast(4).reduce("") { $0 + "/" + $1 } + "/Tests/Fixtures/fuzz"

  /// A checkpoint's bytes.
  static func file(_ name: String) -> [UInt8] { contents(path(name)) }

  static func path(_ name: String) -> String { "\(fixtures)/models/\(name).safetensors" }

  /// Version 4, one with heads, and the hybrid: the kinds of state there are.
  static let models: [Model] = ["4", "7", "x"].map { name in
    do {
      let path = Workplace.shared.folder + "/fixed"
      try convert(name, to: path, .int8)
      defer { Workplace.shared.remove("fixed") }
      return try Model(path: path, threads: 1)
    } catch { fatalError("\(error)") }
  }

  static func convert(_ name: String, to output: String, _ type: QuantizationType, store: Bool = false) throws
  {
    var options = ConversionOptions()
    options.type = type
    options.store = store
    options.threads = 1
    options.overwrite = true
    _ = try Conversion.convert(path(name), to: output, options)
  }

  static func contents(_ path: String) -> [UInt8] {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    precondition(descriptor >= 0, "\(path) cannot be opened")
    defer { close(descriptor) }
    var bytes = [UInt8](repeating: 0, count: Int(lseek(descriptor, 0, SEEK_END)))
    let count = bytes.withUnsafeMutableBytes { pread(descriptor, $0.baseAddress, $0.count, 0) }
    precondition(count == bytes.count, path)
    return bytes
  }
}

/// Opens the file, reads every chunk, verifies it, and where it is a model lets it read two tokens.
func readModelFile(_ input: [UInt8]) {
  let path = Workplace.shared.write("model", sealedModelFile(input))
  guard let file = try? ModelFile(path: path) else { return }
  let reader = ChunkReader()
  // A small file may claim gigabytes; whoever opens it decides by `rawBytes` what he can afford.
  guard file.rawBytes <= 32 << 20 else { return }
  for tensor in file.tensors {
    for chunk in 0..<tensor.chunkCount {
      let bytes = UnsafeMutableRawBufferPointer.allocate(
        byteCount: file.rawLength(ofChunk: chunk, of: tensor), alignment: 64)
      defer { bytes.deallocate() }
      try? file.readChunk(chunk, of: tensor, into: bytes, using: reader)
    }
  }
  try? file.checkPadding()
  _ = try? Verification.problems(of: path, threads: 1)
  guard let model = try? Model(path: path, threads: 1), let session = try? Session(model, threads: 1) else {
    return
  }
  try? session.prefill([0, 1, 1])
  try? session.decode(1)
}

/// The first byte chooses model and treatment: bits 0–1 the model, bit 2 the frame is made here from what follows the
/// name, bit 3 so is its count of words.
func readState(_ input: [UInt8]) {
  guard let choice = input.first else { return }
  let model = FuzzModels.models[Int(choice & 3) % FuzzModels.models.count]
  let bytes = sealedState(
    Array(input.dropFirst()), identity: model.identity, compressing: choice & 4 != 0,
    counting: choice & 8 != 0)
  guard let saved = try? model.loadState(bytes: bytes) else { return }
  guard let session = try? Session(model, state: saved.state, threads: 1) else { return }
  try? session.decode(1)
  _ = try? session.state.encoded(tokens: saved.tokens)
}

/// A state-tuned checkpoint where a saved state is expected.
func readTunedState(_ input: [UInt8]) {
  let path = Workplace.shared.write("model", input.starts(with: [0x50, 0x4B]) ? sealedArchive(input) : input)
  guard let tuned = try? TimeStates.read(path: path) else { return }
  for model in FuzzModels.models {
    guard let state = try? model.newState(timeStates: tuned) else { continue }
    try? Session(model, state: state, threads: 1).decode(1)
  }
}
