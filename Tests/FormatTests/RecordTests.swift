// SPDX-License-Identifier: MIT
import Testing

@testable import RWKVFormat

@Suite("Records and split order")
struct RecordTests {
  /// Bytes of records, counted by hand from formats/rwkv-v1.md section 4.
  @Test(arguments: [
    (WeightFormat.f32, 1, 1, 128), (.f32, 33, 1, 256), (.f32, 33, 16, 4096), (.f16, 2048, 1, 4096),
    (.bf16, 2048, 16, 65_536), (.bytes, 1, 1, 1),
    (.int4, 32, 16, 64 + 64 + 256), (.int4, 2048, 16, 4 * 64 + 32 * 64 + 256 * 64),
    (.int4, 2048, 1, 16 + 128 + 1024), (.int4, 768, 1, 16 + 48 + 384), (.int4, 2304, 1, 32 + 144 + 1152),
    (.int5, 32, 16, 64 + 64 + 64 + 256), (.int5, 576, 16, 2 * 64 + 9 * 64 + 9 * 128 + 72 * 64),
    (.int5, 96, 1, 16 + 16 + 16 + 48), (.int8, 32, 16, 64 + 64 + 512),
    (.int8, 640, 16, 128 + 5 * 64 + 160 * 64),
    (.int8, 100, 1, 16 + 16 + 128),
  ])
  func recordBytes(format: WeightFormat, columns: Int, rows: Int, bytes: Int) {
    #expect(format.recordBytes(columns: columns, rowsPerRecord: rows) == bytes)
  }

  @Test func impossibleRecordsHaveNoSize() {
    #expect(WeightFormat.f32.recordBytes(columns: 0, rowsPerRecord: 1) == nil)
    #expect(WeightFormat.f32.recordBytes(columns: -1, rowsPerRecord: 1) == nil)
    #expect(WeightFormat.f32.recordBytes(columns: .max, rowsPerRecord: 16) == nil)
    #expect(WeightFormat.f32.recordBytes(columns: 1, rowsPerRecord: 2) == nil)
    #expect(WeightFormat.bytes.recordBytes(columns: 2, rowsPerRecord: 1) == nil)
    #expect(WeightFormat.bytes.recordBytes(columns: 1, rowsPerRecord: 16) == nil)
  }

  static let shapes: [(WeightFormat, Int, Int)] = [WeightFormat.f32, .f16, .bf16, .int4, .int5, .int8].flatMap
  { format in
    [(1, 32), (1, 550), (1, 1), (16, 32), (16, 96), (16, 512), (16, 550), (16, 1100)].map { (format, $0, $1) }
  }

  @Test(arguments: shapes)
  func layoutCoversThePackedRecord(format: WeightFormat, rowsPerRecord: Int, columns: Int) throws {
    let plan = TensorPlan(name: "t", format: format, rows: 17, columns: columns, rowsPerRecord: rowsPerRecord)
    let layout = try #require(RecordLayout(format: format, columns: columns, rowsPerRecord: rowsPerRecord))
    let records = rowsPerRecord == 1 ? 17 : 2
    #expect(LogicalTensor(plan, seed: 5).raw.count == records * layout.recordBytes)
    let runs = layout.runs()
    #expect(runs.map { $0.reduce(0) { $0 + $1.length } } == layout.classBytes)
    var covered = [Int](repeating: 0, count: layout.recordBytes)
    for run in runs.joined() { for offset in run.offset..<run.offset + run.length { covered[offset] += 1 } }
    #expect(covered.allSatisfy { $0 == 1 })
  }

  @Test(arguments: shapes)
  func mergeUndoesSplit(format: WeightFormat, rowsPerRecord: Int, columns: Int) throws {
    let layout = try #require(RecordLayout(format: format, columns: columns, rowsPerRecord: rowsPerRecord))
    var random = Generator(state: UInt64(columns))
    let raw = (0..<layout.recordBytes * 3).map { _ in UInt8.random(in: 0...255, using: &random) }
    let order = SplitOrder(layout)
    // Against pages that nobody may touch, so that an access beyond the records is seen.
    for place in [GuardedMemory.Place.beforeAPage, .behindAPage] {
      let buffers = try (0..<3).map { _ in try #require(GuardedMemory(byteCount: raw.count, place)) }
      let pointers = try buffers.map {
        try #require($0.bytes.bindMemory(to: UInt8.self).baseAddress)
      }
      pointers[0].update(from: raw, count: raw.count)
      order.split(pointers[0], records: 3, into: pointers[1])
      order.merge(pointers[1], records: 3, into: pointers[2])
      #expect(buffers[2].bytes.elementsEqual(raw) && buffers[0].bytes.elementsEqual(raw))
    }
    #expect(order.pieces(records: 3).reduce(0, +) == raw.count)
  }

  @Test func splitOrderByHand() throws {
    // Two INT5 rows of 32 columns: d 16 bytes, scales 16, low bits 16, codes 16; byte i of record r is 64 r + i.
    let layout = try #require(RecordLayout(format: .int5, columns: 32, rowsPerRecord: 1))
    let raw = (0..<128).map { UInt8($0) }
    var split = [UInt8](repeating: 0, count: 128)
    SplitOrder(layout).split(raw, records: 2, into: &split)
    let even = Array(stride(from: UInt8(0), to: 16, by: 2))
    var expected = even + even.map { $0 + 64 } + even.map { $0 + 1 } + even.map { $0 + 65 }
    for part in [UInt8(16), 32, 48] { expected += Array(part..<part + 16) + Array(part + 64..<part + 80) }
    #expect(split == expected)
  }

  @Test func splitOrderOfAPanelByHand() throws {
    // INT8, 160 columns: d line, scales, 32 code lines, scales, 8 code lines.
    let layout = try #require(RecordLayout(format: .int8, columns: 160, rowsPerRecord: 16))
    let runs = layout.runs()
    #expect(runs[0] == [.init(offset: 0, length: 64)])
    #expect(runs[1] == [.init(offset: 64, length: 64), .init(offset: 128 + 2048, length: 64)])
    #expect(runs[2] == [])
    #expect(runs[3] == [.init(offset: 128, length: 2048), .init(offset: 192 + 2048, length: 512)])
  }

  @Test func aReusedCompressorMakesTheSameBytes() throws {
    let layout = try #require(RecordLayout(format: .int4, columns: 64, rowsPerRecord: 16))
    let sample = Sample("a", .int4, 1600, 64, by: 16)
    let used = ChunkWriter()
    let pieces = [100, 3, 57].map { Array(sample.raw[..<($0 * layout.recordBytes)]) }
    for piece in pieces + pieces {
      let reused = try piece.withUnsafeBytes { try used.deflate($0, layout) }
      let fresh = try piece.withUnsafeBytes { try ChunkWriter().deflate($0, layout) }
      #expect(reused == fresh && fresh != nil)
    }
  }
}
