// SPDX-License-Identifier: MIT
/// Reader of what torch.save writes since version 1.6: a ZIP archive `NAME/` with `data.pkl` (which tensors
/// there are) and one entry `data/KEY` for every storage.
enum TorchCheckpoint {
  private static let sideEntries: Set<String> = [
    "data.pkl", "byteorder", "version", ".format_version", ".storage_alignment", ".data/serialization_id",
  ]

  /// Length of `data.pkl` [bytes].
  static let maximumPickle = 16 << 20

  static func read(_ file: InputFile) throws(CheckpointError) -> [StoredTensor] {
    let zip = try Zip(file)
    let prefix = zip.entries[0].name.prefix { $0 != "/" } + "/"
    var entries: [String: Zip.Entry] = [:]
    for entry in zip.entries {
      let name = entry.name.hasPrefix(prefix) ? String(entry.name.dropFirst(prefix.count)) : ""
      guard sideEntries.contains(name) || storageKey(name) != nil else {
        throw CheckpointError(
          .unsupported, file: file.path, "ZIP: entry \(quoted(entry.name)) does not belong in a checkpoint",
          expected: "what torch.save writes",
          advice: "TorchScript archives are not supported; save a state dict")
      }
      entries[name] = entry
    }
    guard let description = entries["data.pkl"] else { throw file.malformed("ZIP: has no data.pkl") }
    if let entry = entries["byteorder"], try zip.contents(entry, limit: 16) != Array("little".utf8) {
      throw CheckpointError(.unsupported, file: file.path, "was written by a big-endian machine")
    }
    let bytes = try zip.contents(description, limit: maximumPickle)
    var described: [(name: String, tensor: Pickle.Tensor)] = []
    do throws(Pickle.Failure) {
      described = try Pickle.tensors(bytes)
    } catch {
      throw CheckpointError(
        error.unsupported ? .unsupported : .malformed, file: file.path, "data.pkl: " + error.problem,
        advice: "Nothing in it was executed. Save the plain weights (a dictionary of tensors) with torch.save"
      )
    }
    guard described.count <= StoredTensor.maximumTensors else { throw file.malformed("has too many tensors") }
    var names: Set<String> = []
    var tensors: [StoredTensor] = []
    for (name, tensor) in described where !tensor.shape.contains(0) {
      guard names.insert(name).inserted else { throw file.malformed("occurs twice", tensor: name) }
      tensors.append(try place(tensor, name, entries: entries, file: file))
    }
    return tensors
  }

  /// `data/12` → `12`
  private static func storageKey(_ name: String) -> Substring? {
    let key = name.dropFirst(5)
    let isKey = !key.isEmpty && key.utf8.count <= 20 && key.utf8.allSatisfy { (48...57).contains($0) }
    return name.hasPrefix("data/") && isKey ? key : nil
  }

  /// Where a tensor lies in the file. Admits row-major tensors and 2-D transposes, anywhere in their storage.
  private static func place(
    _ tensor: Pickle.Tensor, _ name: String, entries: [String: Zip.Entry], file: InputFile
  ) throws(CheckpointError) -> StoredTensor {
    let (storage, shape) = (tensor.storage, tensor.shape)
    guard storageKey("data/" + storage.key) != nil, let entry = entries["data/" + storage.key],
      storage.count >= 0, storage.type.byteCount(storage.count) == entry.size
    else { throw file.malformed("has a storage that is missing or of another size", tensor: name) }
    guard let count = product(shape), count > 0, tensor.offset >= 0, tensor.offset <= storage.count,
      count <= storage.count - tensor.offset
    else {
      throw file.malformed(
        "lies outside its storage", tensor: name, found: "\(shapeText(shape)) at \(tensor.offset)",
        expected: "within \(storage.count) values")
    }
    func isPacked(_ axes: [Int]) -> Bool {
      var expected = 1
      for axis in axes.reversed() where shape[axis] != 1 {
        guard tensor.strides[axis] == expected else { return false }
        expected *= shape[axis]
      }
      return true
    }
    let axes = Array(shape.indices)
    guard tensor.strides.count == shape.count, isPacked(axes) || axes.count == 2 && isPacked([1, 0]) else {
      throw CheckpointError(
        .unsupported, file: file.path, tensor: name, "is a view with gaps",
        found: "strides \(tensor.strides)",
        expected: "the strides of a contiguous \(shapeText(shape)) or its transpose",
        advice: "Save it with .contiguous()")
    }
    let offset = entry.offset + tensor.offset * storage.type.blockBytes
    return try StoredTensor(
      name: name, shape: shape, type: storage.type, file: file, offset: offset, isColumnMajor: !isPacked(axes)
    ).validated()
  }
}
