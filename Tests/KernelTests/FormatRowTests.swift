// SPDX-License-Identifier: MIT
import CRWKVKernels
import RWKVFormat
import Testing

@Suite("Sizes of records")
struct RecordSizes {
  /// Counted by hand from section 4 of the format.
  @Test("equal those of the format")
  func sizes() {
    // 2048 columns: 4 lines of d, 32 of scales, 256 of codes; INT5 also 64 of low bits; INT8: 16 and 512 lines.
    #expect(recordBytes(.int4, 2048, 16) == 64 * (4 + 32 + 256))
    #expect(recordBytes(.int5, 2048, 16) == 64 * (4 + 32 + 256 + 64))
    #expect(recordBytes(.int8, 2048, 16) == 64 * (4 + 16 + 512))
    // 33 columns are 64: a line of d, one of scales, 8 (INT8: 16) of codes, 2 of low bits.
    #expect(recordBytes(.int4, 33, 16) == 64 * 10)
    #expect(recordBytes(.int5, 33, 16) == 64 * 12)
    #expect(recordBytes(.int8, 33, 16) == 64 * 18)
    #expect(recordBytes(.f32, 33, 16) == 64 * 16 * 4)
    #expect(recordBytes(.bf16, 1, 16) == 32 * 16 * 2)
    // Rows: d · scales · low bits · codes, each a multiple of 16 bytes.
    #expect(recordBytes(.int4, 768, 1) == 16 + 48 + 384)
    #expect(recordBytes(.int5, 768, 1) == 16 + 48 + 96 + 384)
    #expect(recordBytes(.int8, 768, 1) == 16 + 32 + 768)
    #expect(recordBytes(.int5, 33, 1) == 16 + 16 + 16 + 32)
    #expect(recordBytes(.f16, 33, 1) == 128)
  }
}

@Suite("Rows of formats")
struct FormatRows {
  /// Kernels and file format have each a row for a format.
  @Test("are the same in C and Swift, for every number", arguments: UInt8.min...UInt8.max)
  func rows(_ number: UInt8) throws {
    let format = WeightFormat(rawValue: number)
    guard let format, format != .bytes else {
      #expect(rk_format_numbers(Int32(number)) == nil)
      return
    }
    let row = format.row
    let numbers = try #require(rk_format_numbers(Int32(number))).pointee
    #expect(Int(numbers.value_bytes) == row.valueBytes, "\(format)")
    #expect(Int(numbers.block) == row.block, "\(format)")
    #expect(Int(numbers.code_bits) == row.codeBits && Int(numbers.low_bits) == row.lowBits, "\(format)")
    #expect(Int(numbers.scale_bits) == row.scaleBits, "\(format)")
    #expect(Format(rawValue: Int32(number)) != nil, "\(format) has no tests of its kernels")
    for columns in 1...1100 {
      for rows in [1, 16] {
        let bytes = rk_record_bytes(Int32(number), columns, Int32(rows))
        #expect(format.recordBytes(columns: columns, rowsPerRecord: rows) == bytes, "\(format) \(columns)")
      }
    }
  }
}
