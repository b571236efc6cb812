// SPDX-License-Identifier: MIT
import Glibc
import RWKVFormat
import Testing

@testable import RWKVCheckpoint

/// The folder of this package, and the optional folder of larger data beside it.
let packageRoot = #filePath.split(separator: "/").dropLast(3).reduce("") { $0 + "/" + $1 }
let goldens = packageRoot + "/Tests/Fixtures/goldens"
let shared = packageRoot + "/../shared"

func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }

/// A golden case from the fixtures or, if it is only there, from the larger data folder.
func golden(_ name: String) -> String? {
  [goldens, shared + "/goldens", shared + "/goldens-2"].map { $0 + "/" + name }.first(where: exists)
}

/// A new empty folder, removed when the test lets go of it.
final class TemporaryFolder {
  let path: String

  init() {
    var template = Array("/tmp/rwkv-checkpoint-XXXXXX".utf8CString)
    path = template.withUnsafeMutableBufferPointer { buffer in
      guard let base = buffer.baseAddress, let made = mkdtemp(base) else { preconditionFailure("no folder") }
      return String(cString: made)
    }
  }

  deinit {
    guard let stream = opendir(path) else { return }
    while let entry = readdir(stream) {
      let name = withUnsafeBytes(of: &entry.pointee.d_name) {
        String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
      }
      unlink(path + "/" + name)
    }
    closedir(stream)
    rmdir(path)
  }

  func remove(_ name: String) { unlink(path + "/" + name) }

  @discardableResult
  func write(_ name: String, _ bytes: some Sequence<UInt8>) -> String {
    let file = path + "/" + name
    let bytes = Array(bytes)
    let descriptor = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
    precondition(Glibc.write(descriptor, bytes, bytes.count) == bytes.count)
    close(descriptor)
    return file
  }
}

func contents(_ path: String) throws -> [UInt8] {
  let file = try InputFile(path: path)
  return try file.bytes(at: 0, count: file.size)
}

func littleEndian<T: FixedWidthInteger>(_ value: T) -> [UInt8] {
  withUnsafeBytes(of: value.littleEndian, Array.init)
}

/// One tensor to be written.
struct Draft {
  var name: String
  var type = "F32"
  var shape: [Int]
  var bytes: [UInt8]

  init(_ name: String, _ shape: [Int], _ values: [Float]) {
    self.name = name
    self.shape = shape
    bytes = values.withUnsafeBytes { Array($0) }
  }

  init(_ tensor: StoredTensor) throws {
    name = tensor.name
    type = tensor.type.rawValue
    shape = tensor.shape
    bytes = try tensor.file.bytes(at: tensor.offset, count: #require(tensor.type.byteCount(tensor.count)))
  }

  var valueBytes: Int { bytes.count / shape.reduce(1, *) }

  /// A matrix with its axes exchanged.
  var transposed: Draft {
    var copy = self
    let (rows, columns, size) = (shape[0], shape[1], valueBytes)
    copy.shape = [columns, rows]
    bytes.withUnsafeBytes { source in
      copy.bytes.withUnsafeMutableBytes { target in
        for column in 0..<columns {
          for row in 0..<rows {
            for byte in 0..<size {
              target[(column * rows + row) * size + byte] = source[(row * columns + column) * size + byte]
            }
          }
        }
      }
    }
    return copy
  }

  func renamed(_ name: String) -> Draft {
    var copy = self
    copy.name = name
    return copy
  }
}

func safetensors(header: String, data: [UInt8] = []) -> [UInt8] {
  littleEndian(UInt64(header.utf8.count)) + header.utf8 + data
}

func safetensors(_ drafts: [Draft]) -> [UInt8] {
  var header = "{\"__metadata__\":{\"format\":\"pt\"}"
  var data: [UInt8] = []
  for draft in drafts {
    let end = data.count + draft.bytes.count
    header += ",\"\(draft.name)\":{\"dtype\":\"\(draft.type)\",\"shape\":\(draft.shape),"
    header += "\"data_offsets\":[\(data.count),\(end)]}"
    data += draft.bytes
  }
  return safetensors(header: header + "}", data: data)
}

/// All values of a tensor, read in one request.
func values(_ checkpoint: Checkpoint, _ tensor: CheckpointTensor) throws -> [Float] {
  try values(checkpoint, tensor, step: tensor.rows)
}

/// All values of a tensor, read `step` rows at a time.
func values(_ checkpoint: Checkpoint, _ tensor: CheckpointTensor, step: Int) throws -> [Float] {
  var result = [Float](repeating: .nan, count: tensor.rows * tensor.columns)
  try result.withUnsafeMutableBufferPointer { buffer in
    for row in stride(from: 0, to: tensor.rows, by: step) {
      let rows = row..<min(row + step, tensor.rows)
      let part = UnsafeMutableBufferPointer(
        rebasing: buffer[rows.lowerBound * tensor.columns..<rows.upperBound * tensor.columns])
      try checkpoint.readRows(tensor, rows: rows, into: part)
    }
  }
  return result
}

/// Two checkpoints hold the same model: the same tensors in the same order with the same values.
func expectSame(_ first: Checkpoint, _ second: Checkpoint, within tolerance: Float = 0) throws {
  #expect(first.version == second.version)
  #expect(first.headSize == second.headSize)
  #expect(first.tensors.map(\.name) == second.tensors.map(\.name))
  for (a, b) in zip(first.tensors, second.tensors) {
    #expect(a.rows == b.rows && a.columns == b.columns && a.transposed == b.transposed, "\(a.name)")
    let (x, y) = (try values(first, a), try values(second, b))
    #expect(zip(x, y).allSatisfy { abs($0 - $1) <= tolerance * max(1, abs($1)) }, "\(a.name)")
  }
}

/// Opening fails with an error of this kind whose text contains all of `words`.
func expectFailure(
  _ path: String, _ kind: CheckpointError.Kind, _ words: String...,
  location: SourceLocation = #_sourceLocation
) {
  do throws(CheckpointError) {
    _ = try Checkpoint(path: path)
    Issue.record("opened", sourceLocation: location)
  } catch {
    #expect(error.kind == kind, "\(error)", sourceLocation: location)
    for word in words { #expect(error.description.contains(word), "\(error)", sourceLocation: location) }
  }
}

extension String {
  /// The text with every `old` replaced.
  func replacing(_ old: String, with new: String) -> String {
    var (result, rest) = ("", self[...])
    while let range = rest.firstRange(of: old) {
      result += rest[..<range.lowerBound] + new
      rest = rest[range.upperBound...]
    }
    return result + rest
  }
}
