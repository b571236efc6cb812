/// How the values of a tensor are stored in a checkpoint.
public enum SourceType: String, Sendable, CaseIterable {
  case f32 = "F32"
  case f16 = "F16"
  case bf16 = "BF16"
}

extension SourceType {
  /// Values per block; 1 for plain numbers.
  var blockLength: Int { 1 }
  var blockBytes: Int { self == .f32 ? 4 : 2 }

  /// Bytes of `count` values; nil where that is no whole number of blocks or does not fit an Int.
  func byteCount(_ count: Int) -> Int? {
    count % blockLength == 0 ? product([count / blockLength, blockBytes]) : nil
  }

  /// Values of `source` (whole blocks, little-endian) as Float. Exact for F32, F16 and BF16.
  func decode(_ source: UnsafeRawPointer, count: Int, into target: UnsafeMutablePointer<Float>) {
    switch self {
    case .f32:
      for i in 0..<count {
        let bits = source.loadUnaligned(fromByteOffset: 4 * i, as: UInt32.self)
        target[i] = Float(bitPattern: UInt32(littleEndian: bits))
      }
    case .f16:
      for i in 0..<count {
        target[i] = float(
          half: UInt16(littleEndian: source.loadUnaligned(fromByteOffset: 2 * i, as: UInt16.self)))
      }
    case .bf16:
      for i in 0..<count {
        let bits = UInt16(littleEndian: source.loadUnaligned(fromByteOffset: 2 * i, as: UInt16.self))
        target[i] = Float(bitPattern: UInt32(bits) << 16)
      }
    }
  }
}

/// IEEE half → single, exactly, without branches so that loops of it vectorise: the 15 magnitude bits are
/// placed as a float 2¹¹² too small (subnormals included) and scaled; infinities and NaN get the full
/// exponent.
@inline(__always)
func float(half: UInt16) -> Float {
  let magnitude = UInt32(half & 0x7FFF) << 13
  let scaled = (Float(bitPattern: magnitude) * 0x1p112).bitPattern
  let bits = magnitude >= 0x7C00 << 13 ? magnitude | 0x7F80_0000 : scaled
  return Float(bitPattern: bits | UInt32(half & 0x8000) << 16)
}

/// One tensor as a container describes it: where it lies, its own name and shape.
struct StoredTensor: Sendable {
  var name: String
  /// Outermost axis first, row-major.
  var shape: [Int]
  var type: SourceType
  var file: InputFile
  /// Of the first value, in bytes.
  var offset: Int
  /// True for a 2-D tensor whose values lie column by column (a transposed view in a torch file).
  var isColumnMajor = false

  /// The most values a tensor may have; keeps every later product far from overflow.
  static let maximumCount = 1 << 40
  /// The most tensors a checkpoint may have.
  static let maximumTensors = 65_536

  /// Number of values. Containers call `validated` before they hand out a tensor, so this cannot overflow.
  var count: Int { shape.reduce(1, *) }

  /// Checks what every container must guarantee: 1–8 axes, none empty, and the values inside the file.
  func validated() throws(CheckpointError) -> StoredTensor {
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
