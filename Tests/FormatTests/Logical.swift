// SPDX-License-Identifier: MIT
@testable import RWKVFormat

/// A quantized tensor as numbers, and its records packed byte by byte after formats/rwkv-v1.md section 4: slow, with
/// one line of code for each sentence there, independent of `RecordLayout`.
struct LogicalTensor {
  static let t4: [Float] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
  static let t5: [Float] = [
    -116, -99, -83, -71, -62, -54, -47, -40, -34, -28, -23, -17, -12, -7, -2, 3, 8, 12, 17, 23, 28, 34, 40,
    46,
    53, 61, 71, 82, 97, 112, 121, 127,
  ]

  let plan: TensorPlan
  let codes: [[Int]]  // [rows][columns]; F32: bits, F16, BF16: bits
  let scales: [[UInt8]]  // [rows][blocks]
  let d: [[Float16]]  // [rows][⌈columns / 256⌉]

  var block: Int { plan.format == .int8 ? 32 : 16 }
  private var padded: Int { (plan.columns + 31) / 32 * 32 }

  init(_ plan: TensorPlan, seed: UInt64) {
    var random = Generator(state: seed)
    let blocks = (plan.columns + 15) / 16
    self.plan = plan
    d = (0..<plan.rows).map { _ in
      (0..<(plan.columns + 255) / 256).map { _ in Float16(Float.random(in: -0.01...0.01, using: &random)) }
    }
    scales = (0..<plan.rows).map { _ in
      (0..<blocks).map { _ in
        let byte = UInt8.random(in: 0...255, using: &random)
        // −32 and −64 are no scales.
        return plan.format == .int4 && byte & 63 == 32 || plan.format == .int5 && byte & 127 == 64 ? 7 : byte
      }
    }
    let values: ClosedRange<Int> =
      switch plan.format {
      case .int4: 0...15
      case .int5: 0...31
      case .int8: 1...255
      case .f16, .bf16: 0...0x3BFF
      default: 0...0x7F00_0000
      }
    codes = (0..<plan.rows).map { _ in
      (0..<plan.columns).map { _ in Int.random(in: values, using: &random) }
    }
  }

  /// The dequantized value.
  func value(_ row: Int, _ column: Int) -> Float {
    let code = codes[row][column]
    switch plan.format {
    case .f32: return Float(bitPattern: UInt32(code))
    case .f16: return Float(Float16(bitPattern: UInt16(code)))
    case .bf16: return Float(bitPattern: UInt32(code) << 16)
    default: break
    }
    let b = Int(scales[row][column / block])
    let d = Float(d[row][column / 256]) / 4096
    switch plan.format {
    case .int4:
      let s = (b & 63) >= 32 ? (b & 63) - 64 : b & 63
      return d * Float(s) * (Self.t4[code] + [-4, 0, 4, 8][b >> 6])
    case .int5:
      let s = (b & 127) >= 64 ? (b & 127) - 128 : b & 127
      return d * Float(s) * (Self.t5[code] + [0, 4][b >> 7])
    default:
      return d * Float(b) * Float(code - 128)
    }
  }

  var raw: [UInt8] {
    plan.rowsPerRecord == 1
      ? (0..<plan.rows).flatMap { packRow($0) }
      : stride(from: 0, to: plan.rows, by: 16).flatMap { packPanel($0) }
  }

  // Padding counts as zero bits.
  private func code(_ row: Int, _ column: Int) -> Int {
    row < plan.rows && column < plan.columns ? codes[row][column] : 0
  }
  private func scale(_ row: Int, _ index: Int) -> UInt8 {
    row < plan.rows && index * block < plan.columns ? scales[row][index] : 0
  }
  private func dBits(_ row: Int, _ index: Int) -> UInt16 {
    row < plan.rows && index * 256 < plan.columns ? d[row][index].bitPattern : 0
  }
  private func append(_ row: Int, _ column: Int, to bytes: inout [UInt8]) {
    let bits = code(row, column)
    if plan.format == .f32 {
      bytes.append(littleEndian: UInt32(bits))
    } else {
      bytes.append(littleEndian: UInt16(bits))
    }
  }

  private func packPanel(_ first: Int) -> [UInt8] {
    var bytes: [UInt8] = []
    let rows = first..<first + 16
    if plan.format.rawValue <= 3 {
      for column in 0..<padded { for row in rows { append(row, column, to: &bytes) } }
      return bytes
    }
    let high = plan.format == .int5 ? 1 : 0
    for group in stride(from: 0, to: padded, by: 512) {
      for i in 0..<2 { for row in rows { bytes.append(littleEndian: dBits(row, group / 256 + i)) } }
      let span = plan.format == .int8 ? 128 : 64
      for start in stride(from: group, to: min(group + 512, padded), by: span) {
        for i in 0..<4 { for row in rows { bytes.append(scale(row, start / block + i)) } }
        let end = min(start + span, padded)
        if plan.format == .int5 {
          for line in stride(from: start, to: end, by: 8) {
            for half in [0, 4] {
              var word: UInt64 = 0
              for r in 0..<16 {
                for i in 0..<4 { word |= UInt64(code(first + r, line + half + i) & 1) << UInt64(4 * r + i) }
              }
              bytes.append(littleEndian: word)
            }
          }
        }
        for line in stride(from: start, to: end, by: plan.format == .int8 ? 4 : 8) {
          for row in rows {
            for i in 0..<4 {
              let low = code(row, line + i) >> high
              bytes.append(UInt8(plan.format == .int8 ? low : low | (code(row, line + 4 + i) >> high) << 4))
            }
          }
        }
      }
    }
    return bytes
  }

  private func packRow(_ row: Int) -> [UInt8] {
    var bytes: [UInt8] = []
    func pad() { while bytes.count % 16 != 0 { bytes.append(0) } }
    if plan.format.rawValue <= 3 {
      for column in 0..<padded { append(row, column, to: &bytes) }
      return bytes
    }
    for index in 0..<(padded + 255) / 256 { bytes.append(littleEndian: dBits(row, index)) }
    pad()
    for index in 0..<padded / block { bytes.append(scale(row, index)) }
    pad()
    let high = plan.format == .int5 ? 1 : 0
    if plan.format == .int5 {
      for start in stride(from: 0, to: padded, by: 32) {
        bytes.append(
          littleEndian: (0..<32).reduce(UInt32(0)) { $0 | UInt32(code(row, start + $1) & 1) << UInt32($1) })
      }
      pad()
    }
    for start in stride(from: 0, to: padded, by: 32) {
      if plan.format == .int8 {
        for column in start..<start + 32 { bytes.append(UInt8(code(row, column))) }
      } else {
        for j in start..<start + 16 {
          bytes.append(UInt8(code(row, j) >> high | (code(row, j + 16) >> high) << 4))
        }
      }
    }
    return bytes
  }
}
