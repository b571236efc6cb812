// SPDX-License-Identifier: MIT
/// One tensor as a container describes it: where it lies, its own name and shape.
struct StoredTensor: Sendable {
  var name: String
  /// Outermost axis first, row-major.
  var shape: [Int]
  var type: SourceType
  var file: InputFile
  /// Where the first value stands in the file [bytes].
  var offset: Int
  /// True for a 2-D tensor whose values lie column by column (a transposed view in a torch file).
  var isColumnMajor = false
  /// Values from one to the next along each axis, where they lie neither row by row nor column by column (a view in a
  /// torch file); the container has checked them.
  var strides: [Int]?
  /// True where a low-rank matrix is stored as [out, in]; BlinkDL has [in, out]. Of a state: its last two axes are
  /// exchanged.
  var isOutputMajor = false
  /// What the file's writer did to the values.
  var transform = ValueTransform.none
  /// What fine-tuning adds to a matrix.
  var update: LowRankUpdate?

  /// The most values a tensor may have; keeps every later product far from overflow.
  static let maximumCount = 1 << 40
  /// The most tensors a checkpoint may have.
  static let maximumTensors = 65_536
  /// The longest name [bytes]; our files have no room for a longer one.
  static let maximumName = 255

  /// Number of values. Containers call `validated` before they hand out a tensor, so this cannot overflow.
  var count: Int { shape.reduce(1, *) }

  /// Checks what every container must guarantee: a short name, 1–8 axes, none empty, and the values inside the file. A
  /// single number without axes becomes a vector.
  func validated() throws(CheckpointError) -> StoredTensor {
    guard !shape.isEmpty else {
      var vector = self
      (vector.shape, vector.strides) = ([1], nil)
      return try vector.validated()
    }
    guard (1...StoredTensor.maximumName).contains(name.utf8.count) else {
      throw file.malformed(
        "has a name of an impossible length", tensor: name, found: "\(name.utf8.count) bytes",
        expected: "1 to \(StoredTensor.maximumName)")
    }
    guard (1...8).contains(shape.count), shape.allSatisfy({ $0 > 0 }), let count = product(shape),
      count <= StoredTensor.maximumCount, (shape.last ?? 0) % type.blockLength == 0,
      let bytes = type.byteCount(count)
    else { throw file.malformed("has an impossible shape", tensor: name, found: shapeText(shape)) }
    guard offset >= 0, offset <= file.size, bytes <= file.size - offset else {
      throw file.malformed(
        "lies outside the file", tensor: name, found: "\(bytes) bytes at \(offset)",
        expected: "an end at \(file.size) or before")
    }
    return self
  }
}

extension StoredTensor {
  /// Values from one to the next along each axis, where they do not lie row by row.
  var viewStrides: [Int]? { strides ?? (isColumnMajor ? [1, shape[0]] : nil) }

  /// A matrix with its axes exchanged.
  var transposed: StoredTensor {
    var tensor = self
    tensor.shape.reverse()
    if strides == nil { tensor.isColumnMajor.toggle() } else { tensor.strides?.reverse() }
    return tensor
  }

  /// All values of a small tensor of integers, in order.
  func integers() throws(CheckpointError) -> [Int] {
    guard [.i64, .i32, .i16].contains(type), count <= 4096, strides == nil else {
      throw file.malformed(
        "is no list of integers", tensor: name, found: "\(type.rawValue) \(shapeText(shape))")
    }
    let bytes = try file.bytes(at: offset, count: type.bytes(count))
    return (0..<count).map { index in
      switch type {
      case .i64: bytes.integer(UInt64.self, at: 8 * index).map { Int(Int64(bitPattern: $0)) } ?? 0
      case .i32: bytes.integer(UInt32.self, at: 4 * index).map { Int(Int32(bitPattern: $0)) } ?? 0
      default: bytes.integer(UInt16.self, at: 2 * index).map { Int(Int16(bitPattern: $0)) } ?? 0
      }
    }
  }

  /// All values, for tensors that are small. In logical order: the transpose of what a column-major tensor holds.
  func values() throws(CheckpointError) -> [Float] {
    var failure: CheckpointError?
    let stored = [Float](unsafeUninitializedCapacity: count) { buffer, initialized in
      guard let base = buffer.baseAddress else { return }
      do throws(CheckpointError) {
        try Checkpoint.read(self, from: 0, count: count, into: base)
        initialized = count
      } catch {
        failure = error
      }
    }
    if let failure { throw failure }
    if shape.count == 3, isOutputMajor {
      let n = shape[2]
      return stored.indices.map { stored[$0 / (n * n) * n * n + $0 % n * n + $0 / n % n] }
    }
    guard isColumnMajor else { return stored }
    let (rows, columns) = (shape[0], shape[1])
    return stored.indices.map { stored[$0 % columns * rows + $0 / columns] }
  }
}
