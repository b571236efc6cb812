// SPDX-License-Identifier: MIT
import Glibc

@testable import RWKVFormat

/// A folder that disappears with the object.
final class TemporaryFolder {
  let path: String

  init() {
    var template = Array("/tmp/rwkv-format-XXXXXX".utf8CString)
    guard let made = mkdtemp(&template) else { fatalError("mkdtemp") }
    path = String(cString: made)
  }

  deinit {
    for name in names { unlink(path + "/" + name) }
    rmdir(path)
  }

  func file(_ name: String) -> String { path + "/" + name }

  var names: [String] {
    guard let folder = opendir(path) else { return [] }
    defer { closedir(folder) }
    var names: [String] = []
    while let entry = readdir(folder) {
      let name = withUnsafePointer(to: &entry.pointee.d_name) {
        $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
      }
      if name != ".", name != ".." { names.append(name) }
    }
    return names.sorted()
  }
}

func readBytes(_ path: String) -> [UInt8] {
  guard let file = fopen(path, "rb") else { return [] }
  defer { fclose(file) }
  var bytes: [UInt8] = []
  var piece = [UInt8](repeating: 0, count: 1 << 16)
  while case let count = fread(&piece, 1, piece.count, file), count > 0 { bytes += piece[..<count] }
  return bytes
}

func writeBytes(_ bytes: [UInt8], _ path: String) {
  guard let file = fopen(path, "wb") else { fatalError("cannot write \(path)") }
  defer { fclose(file) }
  guard fwrite(bytes, 1, bytes.count, file) == bytes.count else { fatalError("cannot write \(path)") }
}

/// splitmix64.
struct Generator: RandomNumberGenerator {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }
}

/// A tensor and its raw bytes.
struct Sample {
  let plan: TensorPlan
  let raw: [UInt8]

  init(raw: [UInt8], plan: TensorPlan) {
    self.raw = raw
    self.plan = plan
  }

  /// `noise`: random bytes, else compressible ones.
  init(_ plan: TensorPlan, noise: Bool, seed: UInt64) {
    let record = plan.format.recordBytes(columns: plan.columns, rowsPerRecord: plan.rowsPerRecord) ?? 0
    let records = (plan.rows + plan.rowsPerRecord - 1) / plan.rowsPerRecord
    var random = Generator(state: seed)
    self.plan = plan
    raw = [UInt8](unsafeUninitializedCapacity: roundUp(record * records, 8)) { bytes, count in
      let words = UnsafeMutableRawBufferPointer(bytes).bindMemory(to: UInt64.self)
      for index in words.indices { words[index] = random.next() & (noise ? .max : 0x0307_0301_0F01_0003) }
      count = record * records
    }
  }

  init(
    _ name: String, _ format: WeightFormat, _ rows: Int, _ columns: Int, by rowsPerRecord: Int,
    transposed: Bool = false, noise: Bool = false
  ) {
    let plan = TensorPlan(
      name: name, format: format, rows: rows, columns: columns, rowsPerRecord: rowsPerRecord,
      transposed: transposed)
    self.init(plan, noise: noise, seed: UInt64(rows * 7919 + columns))
  }
}

var sampleMetadata: Metadata {
  var metadata = Metadata()
  metadata["rwkv.version"] = .string("7")
  metadata["rwkv.layers"] = .integer(1)
  metadata["rwkv.group_norm_epsilon"] = .number(64e-5)
  metadata["test.flag"] = .bool(true)
  metadata["test.list"] = .integers([1, -2, .max])
  return metadata
}

/// A few KiB: every format, compressed and stored chunks, transposed or not.
let smallSamples = [
  Sample("emb.weight", .f16, 3, 32, by: 1),
  Sample("blocks.0.ln0.weight", .f32, 1, 40, by: 1, noise: true),
  Sample("blocks.0.att.key.weight", .int4, 17, 64, by: 16),
  Sample("blocks.0.att.value.weight", .int8, 2, 32, by: 16),
  Sample("blocks.0.ffn.value.weight", .int5, 5, 96, by: 1, transposed: true),
  Sample("head.weight", .bf16, 16, 32, by: 16, noise: true),
  Sample("tokenizer", .bytes, 77, 1, by: 1),
]

@discardableResult
func writeModel(
  _ samples: [Sample], to path: String, metadata: Metadata = sampleMetadata, store: Bool = false,
  overwrite: Bool = false
) throws -> ModelFile {
  let writer = try ModelFileWriter(
    path: path, overwrite: overwrite, metadata: metadata, tensors: samples.map(\.plan), store: store)
  let encoder = ChunkWriter()
  for (index, sample) in samples.enumerated() {
    try sample.raw.withUnsafeBytes { try writer.write($0, tensor: index, using: encoder) }
  }
  try writer.finish()
  return try ModelFile(path: path)
}

func contents(of tensor: TensorInfo, in file: ModelFile) throws -> [UInt8] {
  var bytes = [UInt8](repeating: 0xAA, count: tensor.rawBytes)
  try bytes.withUnsafeMutableBytes { try file.read(tensor, into: $0) }
  return bytes
}

/// What == says, at the speed of memcmp in a debug build too.
func same(_ a: UnsafeRawBufferPointer, _ b: [UInt8]) -> Bool {
  guard let base = a.baseAddress, a.count == b.count else { return a.count == b.count }
  return b.withUnsafeBytes { memcmp(base, $0.baseAddress ?? base, a.count) == 0 }
}

func same(_ a: [UInt8], _ b: [UInt8]) -> Bool { a.withUnsafeBytes { same($0, b) } }
