// SPDX-License-Identifier: MIT
/// ggml's quantized blocks: 32 values (Q*_0, Q*_1) or 256 values (Q*_K) behind one or two halves. The layouts
/// are those of ggml's ggml-common.h; d and m are the scale and the minimum.
extension SourceType {
  func decodeBlock(_ source: UnsafeRawPointer, into target: UnsafeMutablePointer<Float>) {
    let bytes = source.assumingMemoryBound(to: UInt8.self)
    switch self {
    // d | 32 × int8
    case .q8_0:
      let d = half(source, 0)
      for i in 0..<32 { target[i] = d * Float(Int8(bitPattern: bytes[2 + i])) }
    // d [m] [32 high bits] | 16 bytes: low nibbles are values 0…15, high nibbles 16…31
    case .q4_0: decodeNibbles(bytes, scale: half(source, 0), minimum: 0, zero: 8, high: nil, low: 2, target)
    case .q4_1:
      decodeNibbles(
        bytes, scale: half(source, 0), minimum: half(source, 2), zero: 0, high: nil, low: 4, target)
    case .q5_0: decodeNibbles(bytes, scale: half(source, 0), minimum: 0, zero: 16, high: 2, low: 6, target)
    case .q5_1:
      decodeNibbles(bytes, scale: half(source, 0), minimum: half(source, 2), zero: 0, high: 4, low: 8, target)
    case .q2_K: decodeQ2K(bytes, target)
    case .q3_K: decodeQ3K(bytes, target)
    case .q4_K: decodeQ4K(bytes, high: nil, low: 16, target)
    case .q5_K: decodeQ4K(bytes, high: 16, low: 48, target)
    case .q6_K: decodeQ6K(bytes, target)
    default: decode(source, count: 1, into: target)
    }
  }

  /// `high`, `low`: where the high bits (one per value) and the nibbles begin.
  private func decodeNibbles(
    _ bytes: UnsafePointer<UInt8>, scale: Float, minimum: Float, zero: Int, high: Int?, low: Int,
    _ target: UnsafeMutablePointer<Float>
  ) {
    for i in 0..<32 {
      var code = Int(bytes[low + i % 16] >> (i < 16 ? 0 : 4) & 15)
      if let high { code |= Int(bytes[high + i / 8] >> (i % 8) & 1) << 4 }
      target[i] = scale * Float(code - zero) + minimum
    }
  }

  /// 16 × (4-bit scale, 4-bit minimum) | 64 bytes of 2-bit codes | d m
  private func decodeQ2K(_ bytes: UnsafePointer<UInt8>, _ target: UnsafeMutablePointer<Float>) {
    let (d, m) = (half(bytes, 80), half(bytes, 82))
    for i in 0..<256 {
      let scales = bytes[i / 16]
      target[i] = d * Float(scales & 15) * Float(twoBits(bytes + 16, i)) - m * Float(scales >> 4)
    }
  }

  /// 32 bytes of high bits | 64 bytes of 2-bit codes | 16 scales of 6 bits | d
  private func decodeQ3K(_ bytes: UnsafePointer<UInt8>, _ target: UnsafeMutablePointer<Float>) {
    let d = half(bytes, 108)
    for i in 0..<256 {
      let part = i / 16
      let low = bytes[96 + part % 8] >> (part < 8 ? 0 : 4) & 15
      let high = bytes[104 + part % 4] >> UInt8(2 * (part / 4)) & 3
      let high4 = bytes[i % 32] >> UInt8(i / 32) & 1 == 1 ? 0 : 4
      target[i] = d * Float(Int(low | high << 4) - 32) * Float(twoBits(bytes + 32, i) - high4)
    }
  }

  /// Code i of Q2_K and Q3_K: 32 bytes hold values i, i + 32, i + 64, i + 96 of each 128.
  private func twoBits(_ codes: UnsafePointer<UInt8>, _ i: Int) -> Int {
    Int(codes[i / 128 * 32 + i % 32] >> UInt8(i % 128 / 32 * 2) & 3)
  }

  /// d m | 8 × (6-bit scale, 6-bit minimum) | [32 bytes of high bits] | 128 bytes of nibbles
  private func decodeQ4K(
    _ bytes: UnsafePointer<UInt8>, high: Int?, low: Int, _ target: UnsafeMutablePointer<Float>
  ) {
    let (d, m) = (half(bytes, 0), half(bytes, 2))
    let packed = bytes + 4
    for group in 0..<8 {
      let scale: UInt8
      let minimum: UInt8
      if group < 4 {
        (scale, minimum) = (packed[group] & 63, packed[4 + group] & 63)
      } else {
        scale = packed[4 + group] & 15 | (packed[group - 4] >> 6) << 4
        minimum = packed[4 + group] >> 4 | (packed[group] >> 6) << 4
      }
      for i in 0..<32 {
        var code = bytes[low + group / 2 * 32 + i] >> (group % 2 == 0 ? 0 : 4) & 15
        if let high { code |= (bytes[high + i] >> UInt8(group) & 1) << 4 }
        target[32 * group + i] = d * Float(scale) * Float(code) - m * Float(minimum)
      }
    }
  }

  /// 128 bytes of nibbles | 64 bytes of 2 high bits | 16 × int8 scale | d
  private func decodeQ6K(_ bytes: UnsafePointer<UInt8>, _ target: UnsafeMutablePointer<Float>) {
    let d = half(bytes, 208)
    for i in 0..<256 {
      let (part, quarter, place) = (i / 128, i % 128 / 32, i % 32)
      let low = bytes[64 * part + quarter % 2 * 32 + place] >> (quarter < 2 ? 0 : 4) & 15
      let high = bytes[128 + 32 * part + place] >> UInt8(2 * quarter) & 3
      let scale = Int8(bitPattern: bytes[192 + i / 16])
      target[i] = d * Float(scale) * Float(Int(low | high << 4) - 32)
    }
  }
}
