// SPDX-License-Identifier: MIT
import RWKV
import RWKVFormat
import RWKVQuantization

/// Sound files whose parts are made to disagree: metadata, names, shapes, formats and values, behind right checksums.
///
/// An input is a list of changes, three bytes each, to one of the small models.
struct ForgedModel {
  private var metadata: Metadata
  private var plans: [TensorPlan]
  private var contents: [[UInt8]]

  /// The small models of every version, quantized and not.
  static let originals: [ForgedModel] = ["4", "52", "6", "7", "x", "50", "51", "7a", "7b"].flatMap { name in
    [QuantizationType.int4, .int8, .fp32].map { type in
      do {
        let path = Workplace.shared.folder + "/fixed"
        try FuzzModels.convert(name, to: path, type)
        defer { Workplace.shared.remove("fixed") }
        return try ForgedModel(ModelFile(path: path))
      } catch { fatalError("\(error)") }
    }
  }

  private init(_ file: ModelFile) throws {
    metadata = file.metadata
    plans = file.tensors.map(TensorPlan.init)
    contents = try file.tensors.map { tensor in
      var bytes = [UInt8](repeating: 0, count: tensor.rawBytes)
      try bytes.withUnsafeMutableBytes { try file.read(tensor, into: $0) }
      return bytes
    }
  }

  init?(_ input: [UInt8]) {
    let originals = Self.originals  // made before the first input, whose time would else be theirs
    guard let first = input.first else { return nil }
    self = originals[Int(first) % originals.count]
    for start in stride(from: 1, to: min(input.count - 2, 61), by: 3) {
      change(input[start], Int(input[start + 1]), Int(input[start + 2]))
    }
  }

  /// Numbers at which something begins or ends.
  private static func number(_ choice: Int, near value: Int) -> Int {
    let fixed = [
      0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 4096, 4097, 65_536,
      1 << 24, Int(Int32.max), 1 << 31, 1 << 62, -1,
    ]
    let near = [
      value &- 1, value &+ 1, value / 2, 2 &* value, value &+ 16, value &- 16, value &+ 32, 4 &* value,
    ]
    let all = fixed + near + near
    return all[choice % all.count]
  }

  private mutating func change(_ kind: UInt8, _ place: Int, _ choice: Int) {
    let index = place % plans.count
    switch kind % 11 {
    case 0:
      let keys = metadata.entries.map(\.key).filter { $0.hasPrefix("rwkv.") }
      let key = keys[place % keys.count]
      if let value = metadata.integer(key) {
        metadata[key] = .integer(Int64(Self.number(choice, near: Int(value))))
      } else if metadata.string(key) != nil {
        let texts = [
          "4", "5.0", "5.1", "5.2", "6", "7", "7a", "7b", "x", "8", "", "sparse", "full", "embedding",
          "reranker",
        ]
        metadata[key] = .string(texts[choice % texts.count])
      } else {
        metadata[key] = .number([0, -1, 1e-5, 1, 1e300][choice % 5])
      }
    case 1: plans[index].rows = Self.number(choice, near: plans[index].rows)
    case 2: plans[index].columns = Self.number(choice, near: plans[index].columns)
    case 3: plans[index].format = WeightFormat(rawValue: UInt8(choice % 8)) ?? plans[index].format
    case 4: plans[index].rowsPerRecord = 17 - plans[index].rowsPerRecord
    case 5: plans[index].transposed.toggle()
    case 6: plans.swapAt(index, choice % plans.count)
    case 7:
      let other = choice % plans.count
      (plans[index].name, plans[other].name) = (plans[other].name, plans[index].name)
    case 8:
      guard plans.count > 1 else { return }
      plans.remove(at: index)
      contents.remove(at: index)
    case 10:
      // Once more: by a name that nobody knows, or as a part of another layer.
      var plan = plans[index]
      plan.name =
        choice % 2 == 0 ? plan.name + "2" : plan.name.replacing("s.0.", with: "s.\(choice / 2 % 4).")
      plans.append(plan)
      contents.append(contents[index])
    default:
      guard !contents[index].isEmpty else { return }
      contents[index][choice * 31 % contents[index].count] = UInt8(choice)
    }
  }

  /// The most bytes that the values of a file may have, so that an input's time is the runtime's and not that of
  /// writing: two tables and two matrices of 65,536 rows fit.
  private static let maximumBytes = 16 << 20

  /// Writes the file, if a writer can; values that a shape lacks are those there are, from the start again.
  func write(to path: String, store: Bool) -> Bool {
    guard
      let writer = try? ModelFileWriter(
        path: path, overwrite: true, metadata: metadata, tensors: plans, store: store)
    else { return false }
    let sizes = writer.tensors.map(\.rawBytes)
    guard sizes.allSatisfy({ $0 <= Self.maximumBytes }), sizes.reduce(0, +) <= Self.maximumBytes else {
      return false
    }
    for (index, size) in sizes.enumerated() {
      var bytes = contents[index].isEmpty ? [0] : contents[index]
      while bytes.count < size { bytes += bytes }
      bytes.removeSubrange(size...)
      guard (try? bytes.withUnsafeBytes { try writer.write($0, tensor: index, using: ChunkWriter()) }) != nil
      else { return false }
    }
    return (try? writer.finish()) != nil
  }

  /// What verification says of the structure.
  var isSound: Bool { Blueprint.problems(metadata, plans).isEmpty }
}

/// Opens a forged file, reads a prompt longer than a block, decodes, saves the state, loads it and goes on.
func useForgedModel(_ input: [UInt8]) {
  guard let forged = ForgedModel(input) else { return }
  let path = Workplace.shared.folder + "/model"
  guard forged.write(to: path, store: input.count % 2 == 0) else { return }
  let model: Model
  do throws(ModelError) { model = try Model(path: path, threads: 1) } catch {
    switch error.reason {
    case .outOfMemory, .memoryLimit, .notFinite: return
    default: precondition(!forged.isSound, "a file was refused that verification calls sound: \(error)")
    }
    return
  }
  precondition(forged.isSound, "a file was opened that verification refuses")
  guard let session = try? Session(model, threads: 1) else { return }
  let V = model.configuration.vocabulary
  try? session.prefill((0..<70).map { $0 % V })
  try? session.decode(V - 1)
  guard let saved = try? session.state.encoded(tokens: [1, 2]) else { return }
  guard let state = try? model.loadState(bytes: saved).state else { return }
  try? Session(model, state: state, threads: 1).decode(0)
}
