// SPDX-License-Identifier: MIT
/// How the values of a tensor are stored in a checkpoint.
public enum SourceType: String, Sendable, CaseIterable {
  case f32 = "F32"
  case f16 = "F16"
  case bf16 = "BF16"
  case f64 = "F64"
  case f8e4m3 = "F8_E4M3"
  case f8e5m2 = "F8_E5M2"
  // Buffers that no model needs.
  case i64 = "I64"
  case i32 = "I32"
  case i16 = "I16"
  case i8 = "I8"
  case u64 = "U64"
  case u32 = "U32"
  case u16 = "U16"
  case u8 = "U8"
  case bool = "BOOL"
  // ggml's blocks, see GGMLBlocks.swift.
  case q8_0 = "Q8_0"
  case q4_0 = "Q4_0"
  case q4_1 = "Q4_1"
  case q5_0 = "Q5_0"
  case q5_1 = "Q5_1"
  case q2_K = "Q2_K"
  case q3_K = "Q3_K"
  case q4_K = "Q4_K"
  case q5_K = "Q5_K"
  case q6_K = "Q6_K"

  /// Types whose values are too far from the trained ones to be quantized again. Q8_0 is close enough.
  public var isCoarse: Bool {
    switch self {
    case .q4_0, .q4_1, .q5_0, .q5_1, .q2_K, .q3_K, .q4_K, .q5_K, .q6_K: true
    default: false
    }
  }

  /// Types that no weight has.
  var isInteger: Bool {
    switch self {
    case .i64, .i32, .i16, .i8, .u64, .u32, .u16, .u8, .bool: true
    default: false
    }
  }
}

extension SourceType {
  /// Values per block; 1 for plain numbers.
  var blockLength: Int {
    switch self {
    case .f32, .f16, .bf16, .f64, .f8e4m3, .f8e5m2, .i64, .i32, .i16, .i8, .u64, .u32, .u16, .u8, .bool: 1
    case .q8_0, .q4_0, .q4_1, .q5_0, .q5_1: 32
    case .q2_K, .q3_K, .q4_K, .q5_K, .q6_K: 256
    }
  }

  var blockBytes: Int {
    switch self {
    case .f64, .i64, .u64: 8
    case .f32, .i32, .u32: 4
    case .f16, .bf16, .i16, .u16: 2
    case .f8e4m3, .f8e5m2, .i8, .u8, .bool: 1
    case .q8_0: 34
    case .q4_0: 18
    case .q4_1: 20
    case .q5_0: 22
    case .q5_1: 24
    case .q2_K: 84
    case .q3_K: 110
    case .q4_K: 144
    case .q5_K: 176
    case .q6_K: 210
    }
  }

  /// Bytes of `count` values; nil where that is no whole number of blocks or does not fit an Int.
  func byteCount(_ count: Int) -> Int? {
    count % blockLength == 0 ? product([count / blockLength, blockBytes]) : nil
  }

  /// Bytes of `count` values of a validated tensor.
  func bytes(_ count: Int) -> Int { count / blockLength * blockBytes }

  /// Values of `source` (whole blocks, little-endian) as Float. Exact but for F64 and ggml's blocks.
  func decode(_ source: UnsafeRawPointer, count: Int, into target: UnsafeMutablePointer<Float>) {
    switch self {
    case .f32:
      for i in 0..<count {
        let bits = source.loadUnaligned(fromByteOffset: 4 * i, as: UInt32.self)
        target[i] = Float(bitPattern: UInt32(littleEndian: bits))
      }
    case .f16:
      for i in 0..<count { target[i] = half(source, 2 * i) }
    case .bf16:
      for i in 0..<count {
        let bits = UInt16(littleEndian: source.loadUnaligned(fromByteOffset: 2 * i, as: UInt16.self))
        target[i] = Float(bitPattern: UInt32(bits) << 16)
      }
    case .f64:
      for i in 0..<count {
        let bits = source.loadUnaligned(fromByteOffset: 8 * i, as: UInt64.self)
        target[i] = Float(Double(bitPattern: UInt64(littleEndian: bits)))
      }
    case .f8e4m3:
      for i in 0..<count { target[i] = float(e4m3: source.load(fromByteOffset: i, as: UInt8.self)) }
    case .f8e5m2:
      // The upper half of an F16.
      for i in 0..<count {
        target[i] = float(half: UInt16(source.load(fromByteOffset: i, as: UInt8.self)) << 8)
      }
    case .i64, .i32, .i16, .i8, .u64, .u32, .u16, .u8, .bool:
      preconditionFailure("integers are left out when a checkpoint is opened")
    default:
      for block in 0..<count / blockLength {
        decodeBlock(source + block * blockBytes, into: target + block * blockLength)
      }
    }
  }
}

/// A sign, 4 bits of exponent with bias 7, 3 of significand; no infinities, all ones are not a number.
func float(e4m3 bits: UInt8) -> Float {
  let magnitude = bits & 0x7F
  let sign: Float = bits & 0x80 != 0 ? -1 : 1
  guard magnitude != 0x7F else { return .nan }
  // As a float 2^120 too small, subnormals included.
  return sign * (Float(bitPattern: UInt32(magnitude) << 20) * 0x1p120)
}

/// The half at a byte offset.
@inline(__always)
func half(_ source: UnsafeRawPointer, _ offset: Int) -> Float {
  float(half: UInt16(littleEndian: source.loadUnaligned(fromByteOffset: offset, as: UInt16.self)))
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
