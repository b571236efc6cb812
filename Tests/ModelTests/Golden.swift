// SPDX-License-Identifier: MIT
import Foundation
import RWKV
import RWKVFormat
import RWKVQuantization
import Testing

/// A golden case: a small random checkpoint with what the original implementation computes from it.
struct Golden: CustomTestStringConvertible, Sendable {
  let name: String
  let folder: URL

  var testDescription: String { name }

  /// Tests/Fixtures/goldens, and all cases of ../shared where it is present.
  static func cases(_ prefix: String) -> [Golden] {
    let package = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../..").standardized
    var found: [String: Golden] = [:]
    for folder in ["../shared/goldens", "../shared/goldens-2", "Tests/Fixtures/goldens"] {
      let root = package.appending(path: folder).standardized
      for name in (try? FileManager.default.contentsOfDirectory(atPath: root.path)) ?? []
      where name.hasPrefix(prefix) {
        let place = root.appending(path: name)
        guard FileManager.default.fileExists(atPath: place.appending(path: "case.json").path) else {
          continue
        }
        found[name] = Golden(name: name, folder: place)
      }
    }
    return found.values.sorted { $0.name < $1.name }
  }

  /// The checkpoint: a file or a directory.
  var checkpoint: URL {
    for name in ["model.safetensors", "model.pth"]
    where !FileManager.default.fileExists(
      atPath: folder.appending(path: "config.json").path)
    {
      let file = folder.appending(path: name)
      if FileManager.default.fileExists(atPath: file.path) { return file }
    }
    return folder
  }

  func json(_ name: String) throws -> Any {
    try JSONSerialization.jsonObject(
      with: Data(contentsOf: folder.appending(path: name)), options: .fragmentsAllowed)
  }

  var tolerance: Float {
    get throws {
      let object = try #require(try json("case.json") as? [String: Any])
      return Float(try #require(object["abs_tolerance_fp32"] as? Double))
    }
  }

  var tokens: [Int] { get throws { try #require(try json("tokens.json") as? [Int]) } }
  var greedy: [Int] { get throws { try #require(try json("greedy.json") as? [Int]) } }

  /// A tensor of expected.safetensors (or another file of the case).
  func expected(_ tensor: String, in file: String = "expected.safetensors") throws -> [Float] {
    try readSafetensors(folder.appending(path: file), tensor)
  }

  /// Converts the checkpoint into a temporary file and opens it.
  func model(_ type: QuantizationType = .fp32, threads: Int = 1) throws -> Model {
    let path = try TemporaryFiles.shared.path(for: "\(name)-\(type)") { path in
      try convert(checkpoint.path, to: path, type: type)
    }
    return try Model(path: path, threads: threads)
  }
}

/// A copy of a golden F32 checkpoint with some tensors' values changed, in a new folder.
func changedCheckpoint(
  _ golden: Golden, _ change: (String, inout [Float], _ shape: [Int]) -> Void
) throws -> URL {
  var data = try Data(contentsOf: golden.checkpoint)
  let length = Int(data.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) })
  let header = try #require(try JSONSerialization.jsonObject(with: data[8..<8 + length]) as? [String: Any])
  for (name, entry) in header {
    guard let entry = entry as? [String: Any], let shape = entry["shape"] as? [Int] else { continue }
    var values = try readSafetensors(golden.checkpoint, name)
    change(name, &values, shape)
    let offsets = try #require(entry["data_offsets"] as? [Int])
    values.withUnsafeBytes {
      data.replaceSubrange(8 + length + offsets[0]..<8 + length + offsets[1], with: $0)
    }
  }
  let file = FileManager.default.temporaryDirectory.appending(
    path: "changed-\(UUID().uuidString).safetensors")
  try data.write(to: file)
  return file
}

/// Converts a checkpoint as rwkv-quantize does.
func convert(
  _ source: String, to path: String, type: QuantizationType,
  metadata: [(key: String, value: MetadataValue)] = []
) throws {
  var options = ConversionOptions()
  options.type = type
  options.overwrite = true
  options.overrides = metadata
  _ = try Conversion.convert(source, to: path, options)
}

/// Converted models, made once for all tests and removed at exit.
final class TemporaryFiles: @unchecked Sendable {
  static let shared = TemporaryFiles()
  private let lock = NSLock()
  private var paths: [String: String] = [:]
  private let folder = FileManager.default.temporaryDirectory.appending(path: "rwkv-tests-\(getpid())")

  private init() {
    try? FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    atexit { try? FileManager.default.removeItem(at: TemporaryFiles.shared.folder) }
  }

  func path(for key: String, _ make: (String) throws -> Void) throws -> String {
    lock.lock()
    defer { lock.unlock() }
    if let path = paths[key] { return path }
    let path = folder.appending(path: key + ".rwkv").path
    try make(path)
    paths[key] = path
    return path
  }
}

/// One F32 tensor of a small safetensors file, read independently of the library.
func readSafetensors(_ file: URL, _ name: String) throws -> [Float] {
  let data = try Data(contentsOf: file)
  let length = Int(data.withUnsafeBytes { $0.loadUnaligned(as: UInt64.self) })
  let header = try #require(
    try JSONSerialization.jsonObject(with: data[8..<8 + length]) as? [String: [String: Any]])
  let entry = try #require(header[name], "no tensor \(name) in \(file.lastPathComponent)")
  let offsets = try #require(entry["data_offsets"] as? [Int])
  return data[(8 + length + offsets[0])..<(8 + length + offsets[1])].withUnsafeBytes { bytes in
    (0..<bytes.count / 4).map { bytes.loadUnaligned(fromByteOffset: 4 * $0, as: Float.self) }
  }
}

/// Largest absolute difference.
func distance(_ a: some Sequence<Float>, _ b: some Sequence<Float>) -> Float {
  zip(a, b).reduce(0) { largest, pair in
    let difference = abs(pair.0 - pair.1)
    return difference.isNaN ? .infinity : max(largest, difference)
  }
}

func argmax(_ values: UnsafeBufferPointer<Float>) -> Int {
  values.indices.max { values[$0] < values[$1] } ?? 0
}
