// SPDX-License-Identifier: MIT
import RWKVFormat

/// Reader of the safetensors format: u64 length, a JSON header, then the values without gaps.
enum Safetensors {
  static let maximumHeader = 100_000_000

  /// Describes the tensors of one file. Rejects overlaps, gaps, sizes that disagree with shape and type, and
  /// types other than F32, F16 and BF16.
  static func read(_ file: InputFile) throws(CheckpointError) -> [StoredTensor] {
    guard let prefix = try file.bytes(at: 0, count: min(8, file.size)).integer(UInt64.self, at: 0),
      prefix <= maximumHeader, Int(prefix) <= file.size - 8
    else { throw file.malformed("has an impossible header length") }
    let start = 8 + Int(prefix)
    guard case .object(let members, _) = try file.json(file.bytes(at: 8, count: Int(prefix)), depth: 4) else {
      throw file.malformed("has a header that is no JSON object")
    }
    guard members.count <= StoredTensor.maximumTensors else { throw file.malformed("has too many tensors") }
    var tensors: [StoredTensor] = []
    var ends: [Int] = []
    for (name, value) in members where name != "__metadata__" {
      if isEmpty(value) { continue }
      let (tensor, end) = try self.tensor(name, value, file: file, start: start)
      tensors.append(tensor)
      ends.append(end)
    }
    // In the order of the file each tensor must begin where the one before ends.
    let order = tensors.indices.sorted { tensors[$0].offset < tensors[$1].offset }
    var position = start
    for index in order {
      guard tensors[index].offset == position else {
        throw file.malformed(
          "overlaps another tensor or leaves a gap", tensor: tensors[index].name,
          found: "data offset \(tensors[index].offset - start)", expected: "\(position - start)")
      }
      position = ends[index]
    }
    guard position == file.size else {
      throw file.malformed("has a wrong length", found: "\(file.size) bytes", expected: "\(position)")
    }
    return order.map { tensors[$0] }
  }

  /// Whether an entry describes a tensor without values, which nothing needs.
  private static func isEmpty(_ value: JSON) -> Bool {
    guard let axes = value["shape"]?.array, let offsets = value["data_offsets"]?.array, offsets.count == 2,
      let begin = offsets[0].unsigned
    else { return false }
    return axes.contains { $0.unsigned == 0 } && offsets[1].unsigned == begin
  }

  private static func tensor(
    _ name: String, _ value: JSON, file: InputFile, start: Int
  ) throws(CheckpointError) -> (StoredTensor, end: Int) {
    guard case .object(let fields, _) = value, fields.count == 3, let type = fields["dtype"]?.string,
      let axes = fields["shape"]?.array, axes.count <= 8, let offsets = fields["data_offsets"]?.array,
      offsets.count == 2, let begin = offsets[0].unsigned, let end = offsets[1].unsigned, begin <= end
    else {
      throw file.malformed("needs dtype, shape and data_offsets as safetensors defines them", tensor: name)
    }
    guard let sourceType = SourceType(rawValue: type) else {
      throw CheckpointError(
        .unsupported, file: file.path, tensor: name, "has an unsupported type", found: quoted(type),
        expected: "F32, F16 or BF16", advice: "Convert the original, not a quantized checkpoint")
    }
    var shape: [Int] = []
    for axis in axes {
      guard let size = axis.unsigned else { throw file.malformed("has an impossible shape", tensor: name) }
      shape.append(size)
    }
    let tensor = try StoredTensor(
      name: name, shape: shape, type: sourceType, file: file, offset: start + begin
    )
    .validated()
    guard sourceType.byteCount(tensor.count) == end - begin else {
      throw file.malformed(
        "has offsets that disagree with its shape", tensor: name, found: "\(end - begin) bytes",
        expected: "\(shapeText(shape)) \(type)")
    }
    return (tensor, start + end)
  }
}
