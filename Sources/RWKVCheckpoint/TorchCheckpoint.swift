// SPDX-License-Identifier: MIT
/// Reader of what torch.save writes since version 1.6: a ZIP archive `NAME/` with `data.pkl` (which tensors
/// there are) and one entry `data/KEY` for every storage. It only says where the tensors' values are; what becomes of
/// them is in ARCHITECTURE.md, "The path of one tensor".
enum TorchCheckpoint {
  private static let sideEntries: Set<String> = [
    "data.pkl", "byteorder", "version", ".format_version", ".storage_alignment", ".data/serialization_id",
  ]

  /// Length of `data.pkl` [bytes].
  static let maximumPickle = 16 << 20

  /// Tensors, and what is beside them.
  static func read(_ file: InputFile) throws(CheckpointError) -> Container {
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
    let contents: Pickle.Contents
    do throws(Pickle.Failure) { contents = try Pickle(bytes).contents() } catch { throw failure(error, file) }
    return try read(contents, "PyTorch", file: file) { storage in
      guard storageKey("data/" + storage.key) != nil, let entry = entries["data/" + storage.key],
        storage.type.byteCount(storage.count) == entry.size
      else { return nil }
      return entry.offset
    }
  }

  private static func failure(_ failure: Pickle.Failure, _ file: InputFile) -> CheckpointError {
    CheckpointError(
      failure.unsupported ? .unsupported : .malformed, file: file.path, "data.pkl: " + failure.problem,
      advice: "Nothing in it was executed. Save the plain weights (a dictionary of tensors) with torch.save")
  }

  /// `start`: where a storage's values begin; nil where they are missing or of another number.
  private static func read(
    _ contents: Pickle.Contents, _ kind: String, file: InputFile, start: (Pickle.Storage) -> Int?
  ) throws(CheckpointError) -> Container {
    guard contents.tensors.count <= StoredTensor.maximumTensors else {
      throw file.malformed("has too many tensors")
    }
    var names: Set<String> = []
    var tensors: [StoredTensor] = []
    for (name, tensor) in contents.tensors where !tensor.shape.contains(0) {
      guard names.insert(name).inserted else { throw file.malformed("occurs twice", tensor: name) }
      guard tensor.storage.count >= 0, let begin = start(tensor.storage) else {
        throw file.malformed("has a storage that is missing or of another size", tensor: name)
      }
      tensors.append(try place(tensor, name, start: begin, file: file))
    }
    if tensors.isEmpty, !contents.tensors.isEmpty {
      throw CheckpointError(
        .unsupported, file: file.path,
        "has only tensors without values, as DeepSpeed leaves them with ZeRO-3",
        advice: "Gather them with the script zero_to_fp32.py beside it")
    }
    var container = Container(kind: kind, tensors: tensors)
    (container.settings, container.lists) = (contents.settings, contents.lists)
    if let (taken, others) = contents.choice {
      let names = others.map(quoted).joined(separator: ", ")
      container.remarks.append(
        "converted is what the file has under \(quoted(taken)); it has other weights under \(names): save those "
          + "alone to convert them (torch.save(torch.load(FILE)[NAME], …))")
    }
    return container
  }

  // MARK: Before torch 1.6

  /// The number that such files begin with.
  private static let magic: [UInt8] = [0x6C, 0xFC, 0x9C, 0x46, 0xF9, 0x20, 0x6A, 0xA8, 0x50, 0x19]

  /// Where the pickle of the magic number ends, if `start` has it.
  private static func magicEnd(_ start: [UInt8]) -> Int? {
    guard start.first == 0x80 else { return nil }
    let place = (2...24).first { start.dropFirst($0).starts(with: magic + [UInt8(ascii: ".")]) }
    return place.map { $0 + magic.count + 1 }
  }

  static func isLegacy(_ start: [UInt8]) -> Bool { magicEnd(start) != nil }

  /// Five pickles (magic number, version, properties of the machine, tensors, keys of the storages), then each
  /// storage: its number of values as 64 bits, and the values.
  static func readLegacy(_ file: InputFile) throws(CheckpointError) -> Container {
    let bytes = try file.bytes(at: 0, count: min(file.size, maximumPickle))
    let (pickle, keys): (Pickle, Pickle)
    let contents: Pickle.Contents
    do throws(Pickle.Failure) {
      let version = try Pickle(bytes, at: magicEnd(bytes) ?? 0)
      let machine = try Pickle(bytes, at: version.position)
      pickle = try Pickle(bytes, at: machine.position)
      keys = try Pickle(bytes, at: pickle.position)
      contents = try pickle.contents()
    } catch { throw failure(error, file) }
    guard let list = keys.list else { throw file.malformed("has no list of storages") }
    var starts: [String: Int] = [:]
    var position = keys.position
    for key in list {
      guard let storage = pickle.storages[key], let length = storage.type.byteCount(storage.count),
        let count = try file.bytes(at: position, count: min(8, file.size - position)).integer(
          UInt64.self, at: 0),
        count == storage.count, length <= file.size - position - 8,
        starts.updateValue(position + 8, forKey: key) == nil
      else { throw file.malformed("has a storage of another size than its tensors'", found: quoted(key)) }
      position += 8 + length
    }
    guard position == file.size else {
      throw file.malformed("has a wrong length", found: "\(file.size) bytes", expected: "\(position)")
    }
    return try read(contents, "PyTorch before 1.6", file: file) { starts[$0.key] }
  }

  /// `data/12` → `12`
  private static func storageKey(_ name: String) -> Substring? {
    let key = name.dropFirst(5)
    let isKey = !key.isEmpty && key.utf8.count <= 20 && key.utf8.allSatisfy { (48...57).contains($0) }
    return name.hasPrefix("data/") && isKey ? key : nil
  }

  /// Where a tensor lies in the file: any view of its storage but one that repeats values.
  private static func place(
    _ tensor: Pickle.Tensor, _ name: String, start: Int, file: InputFile
  ) throws(CheckpointError) -> StoredTensor {
    let (storage, shape, strides) = (tensor.storage, tensor.shape, tensor.strides)
    func outside() -> CheckpointError {
      file.malformed(
        "lies outside its storage", tensor: name, found: "\(shapeText(shape)) at \(tensor.offset)",
        expected: "within \(storage.count) values")
    }
    guard strides.count == shape.count, zip(shape, strides).allSatisfy({ $0 == 1 || $1 > 0 }) else {
      throw CheckpointError(
        .unsupported, file: file.path, tensor: name, "is a view that repeats its values",
        found: "strides \(strides)", expected: "positive strides, one for each axis",
        advice: "Save it with .contiguous()")
    }
    guard let count = product(shape), count > 0, tensor.offset >= 0, tensor.offset <= storage.count,
      count <= storage.count - tensor.offset
    else { throw outside() }
    // The last value.
    var last = tensor.offset
    for (size, stride) in zip(shape, strides) where size > 1 {
      guard let distance = product([size - 1, stride]), distance < storage.count - last else {
        throw outside()
      }
      last += distance
    }
    func isPacked(_ axes: [Int]) -> Bool {
      var expected = 1
      for axis in axes.reversed() where shape[axis] != 1 {
        guard strides[axis] == expected else { return false }
        expected *= shape[axis]
      }
      return true
    }
    let axes = Array(shape.indices)
    let offset = start + tensor.offset * storage.type.blockBytes
    var stored = StoredTensor(name: name, shape: shape, type: storage.type, file: file, offset: offset)
    if !isPacked(axes) {
      if axes.count == 2, isPacked([1, 0]) { stored.isColumnMajor = true } else { stored.strides = strides }
    }
    return try stored.validated()
  }
}
