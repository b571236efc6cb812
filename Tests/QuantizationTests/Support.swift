// SPDX-License-Identifier: MIT
import CRWKVKernels
import Glibc
import RWKVCheckpoint
import RWKVFormat
import Testing

@testable import RWKVQuantization

/// The folder of this package, and the optional folder of larger data beside it.
let packageRoot = #filePath.split(separator: "/").dropLast(3).reduce("") { $0 + "/" + $1 }
let goldenFolders = [packageRoot + "/Tests/Fixtures/goldens", packageRoot + "/../shared/goldens"]

func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }

func names(in folder: String) -> [String] {
  guard let stream = opendir(folder) else { return [] }
  defer { closedir(stream) }
  var names: [String] = []
  while let entry = readdir(stream) {
    let name = withUnsafeBytes(of: &entry.pointee.d_name) {
      String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
    }
    if name != ".", name != ".." { names.append(name) }
  }
  return names.sorted()
}

/// What to give the quantizer for a golden case: its file, or its folder where there are shards.
func golden(_ name: String) -> String {
  let folder = goldenFolders.map { $0 + "/" + name }.first(where: exists) ?? name
  let files = ["model.safetensors", "model.pth"].map { folder + "/" + $0 }
  return files.first(where: exists) ?? folder
}

/// Every golden case that is there.
let goldenCases = Set(goldenFolders.flatMap(names)).filter { !$0.hasSuffix(".md") }.sorted()

/// A new empty folder, removed with its files when the test lets go of it.
final class TemporaryFolder {
  let path: String

  init() {
    var template = Array("/tmp/rwkv-quantization-XXXXXX".utf8CString)
    path = template.withUnsafeMutableBufferPointer { buffer in
      guard let base = buffer.baseAddress, let made = mkdtemp(base) else { preconditionFailure("no folder") }
      return String(cString: made)
    }
  }

  deinit {
    for name in contents { unlink(path + "/" + name) }
    rmdir(path)
  }

  var contents: [String] { names(in: path) }
  func file(_ name: String) -> String { path + "/" + name }

  @discardableResult
  func write(_ name: String, _ bytes: [UInt8]) -> String {
    writeBytes(bytes, file(name))
    return file(name)
  }
}

func writeBytes(_ bytes: [UInt8], _ path: String) {
  let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
  precondition(write(descriptor, bytes, bytes.count) == bytes.count)
  close(descriptor)
}

func readBytes(_ path: String) -> [UInt8] {
  guard let file = fopen(path, "rb") else { return [] }
  defer { fclose(file) }
  var bytes: [UInt8] = []
  var piece = [UInt8](repeating: 0, count: 1 << 16)
  while case let count = fread(&piece, 1, piece.count, file), count > 0 { bytes += piece[..<count] }
  return bytes
}

/// Converts and opens the result.
@discardableResult
func convert(
  _ input: String, to output: String, _ type: QuantizationType? = nil,
  _ adjust: (inout ConversionOptions) -> Void = { _ in }
) throws -> ModelFile {
  var options = ConversionOptions()
  options.type = type
  options.threads = 2
  adjust(&options)
  _ = try Conversion.convert(input, to: output, options)
  return try ModelFile(path: output)
}

/// The raw bytes of a tensor.
func raw(_ file: ModelFile, _ tensor: TensorInfo) throws -> [UInt8] {
  let scratch = Scratch()
  let bytes = scratch.bytes(tensor.rawBytes)
  try file.read(tensor, into: bytes)
  return Array(bytes)
}

/// The dequantized values of a tensor, row after row.
func values(_ file: ModelFile, _ tensor: TensorInfo) throws -> [Float] {
  let kernels = rk_kernels_best().pointee
  let bytes = try raw(file, tensor)
  var result = [Float](repeating: .nan, count: tensor.rows * tensor.columns)
  bytes.withUnsafeBytes { bytes in
    result.withUnsafeMutableBufferPointer { result in
      guard let base = bytes.baseAddress, let out = result.baseAddress else { return }
      for row in 0..<tensor.rows {
        let record = base + row / tensor.rowsPerRecord * tensor.recordBytes
        let target = out + row * tensor.columns
        if tensor.rowsPerRecord == 1 {
          kernels.decode_row(Int32(tensor.format.rawValue), record, tensor.columns, target)
        } else {
          kernels.decode_panel_row(Int32(tensor.format.rawValue), record, tensor.columns, row % 16, target)
        }
      }
    }
  }
  return result
}

/// The values of a checkpoint's tensor, row after row.
func values(_ checkpoint: Checkpoint, _ tensor: CheckpointTensor) throws -> [Float] {
  var result = [Float](repeating: .nan, count: tensor.rows * tensor.columns)
  try result.withUnsafeMutableBufferPointer {
    try checkpoint.readRows(tensor, rows: 0..<tensor.rows, into: $0)
  }
  return result
}

/// A safetensors file of F32 tensors.
func safetensors(_ tensors: [(name: String, shape: [Int], values: [Float])]) -> [UInt8] {
  func littleEndian<T: FixedWidthInteger>(_ value: T) -> [UInt8] {
    withUnsafeBytes(of: value.littleEndian, Array.init)
  }
  var (header, data) = ("{", [UInt8]())
  for (name, shape, values) in tensors {
    header += (header == "{" ? "" : ",") + "\"\(name)\":{\"dtype\":\"F32\",\"shape\":\(shape),"
    header += "\"data_offsets\":[\(data.count),\(data.count + 4 * values.count)]}"
    data += values.flatMap { littleEndian($0.bitPattern) }
  }
  return littleEndian(UInt64(header.utf8.count + 1)) + (header + "}").utf8 + data
}

/// A small RWKV-4 whose values are of no matter: F = 96, one layer.
func smallModel(
  embedding D: Int = 64, vocabulary: Int = 256, changing change: (String, inout [Float]) -> Void = { _, _ in }
) -> [UInt8] {
  let F = 96
  var shapes: [(String, [Int])] = [("emb.weight", [vocabulary, D]), ("head.weight", [vocabulary, D])]
  for norm in ["blocks.0.ln0", "blocks.0.ln1", "blocks.0.ln2", "ln_out"] {
    shapes += [("\(norm).weight", [D]), ("\(norm).bias", [D])]
  }
  shapes += ["time_decay", "time_first", "time_mix_k", "time_mix_v", "time_mix_r"].map {
    ("blocks.0.att.\($0)", [D])
  }
  shapes += ["receptance", "key", "value", "output"].map { ("blocks.0.att.\($0).weight", [D, D]) }
  shapes += ["time_mix_k", "time_mix_r"].map { ("blocks.0.ffn.\($0)", [D]) }
  shapes += [
    ("blocks.0.ffn.key.weight", [F, D]), ("blocks.0.ffn.receptance.weight", [D, D]),
    ("blocks.0.ffn.value.weight", [D, F]),
  ]
  return safetensors(
    shapes.enumerated().map { (number, tensor) in
      let count = tensor.1.reduce(1, *)
      var values = (0..<count).map { sinf(Float(($0 * 7919 + number * 104_729) % 10_007)) * 0.1 }
      change(tensor.0, &values)
      return (tensor.0, tensor.1, values)
    })
}
