// SPDX-License-Identifier: MIT

/// How the numbers of a tensor are stored. Raw values are those of the file: formats/rwkv-v1.md section 4.
public enum WeightFormat: UInt8, Sendable, CaseIterable {
  case bytes = 0, f32 = 1, f16 = 2, bf16 = 3, int4 = 4, int5 = 5, int8 = 8

  /// What there is to know of a format, one row each. The kernels have the same numbers in formats.h, and a test
  /// compares them.
  package struct Row {
    package let name: String
    /// Bytes of a value that is stored as it is; 0: codes, scale bytes and d.
    package var valueBytes = 0
    /// Columns that share a scale byte.
    package var block = 0
    /// Bits of a code in the code lines, and those that stand apart.
    package var codeBits = 0, lowBits = 0
    /// Bits of s in a scale byte, signed if less than 8.
    package var scaleBits = 0
  }

  package var row: Row {
    switch self {
    case .bytes: Row(name: "bytes", valueBytes: 1)
    case .f32: Row(name: "F32", valueBytes: 4)
    case .f16: Row(name: "F16", valueBytes: 2)
    case .bf16: Row(name: "BF16", valueBytes: 2)
    case .int4: Row(name: "INT4", block: 16, codeBits: 4, scaleBits: 6)
    case .int5: Row(name: "INT5", block: 16, codeBits: 4, lowBits: 1, scaleBits: 7)
    case .int8: Row(name: "INT8", block: 32, codeBits: 8, scaleBits: 8)
    }
  }

  /// "INT4", as people write it.
  public var name: String { row.name }

  /// Whether weights are codes, rounded from what they were: INT4, INT5 and INT8.
  package var isCoded: Bool { row.codeBits > 0 }

  /// Bytes of one record of `rowsPerRecord` (1 or 16) rows; nil if there is no such record or it overflows.
  public func recordBytes(columns: Int, rowsPerRecord: Int) -> Int? {
    RecordLayout(format: self, columns: columns, rowsPerRecord: rowsPerRecord)?.recordBytes
  }
}

/// What the bytes of a record are made of.
package struct RecordLayout: Equatable, Sendable {
  /// Classes of bytes in split order; F32, F16, BF16 and bytes have only `codes`, their values.
  static let classCount = 4
  package enum ByteClass: Int { case d, scales, lowBits, codes }

  /// Consecutive bytes of one class within a record.
  package struct Run: Equatable { package var offset: Int, length: Int }

  let format: WeightFormat
  let isPanel: Bool
  /// Columns, padded to a multiple of 32 (format bytes: 1).
  let columns: Int
  /// Bytes of each class in a record, indexed by `ByteClass`.
  let classBytes: [Int]
  let recordBytes: Int

  init?(format: WeightFormat, columns: Int, rowsPerRecord: Int) {
    // Every product below stays far under 2^63 since columns < 2^31.
    guard columns >= 1, columns <= Int(Int32.max), rowsPerRecord == 1 || rowsPerRecord == 16 else {
      return nil
    }
    if format == .bytes, columns != 1 || rowsPerRecord != 1 { return nil }
    let isPanel = rowsPerRecord == 16
    let padded = format == .bytes ? 1 : roundUp(columns, 32)
    let classBytes =
      isPanel ? Self.panelBytes(format, padded) : Self.rowBytes(format, padded)
    self.format = format
    self.isPanel = isPanel
    self.columns = padded
    self.classBytes = classBytes
    recordBytes = classBytes.reduce(0, +)
  }

  /// [d, scales, low bits, codes] of a panel: whole lines of 64 bytes.
  private static func panelBytes(_ format: WeightFormat, _ columns: Int) -> [Int] {
    let row = format.row
    guard format.isCoded else { return [0, 0, 0, 16 * columns * row.valueBytes] }
    let (d, scales) = (roundUp(columns, 512) / 512 * 64, roundUp(columns, 4 * row.block) / row.block * 16)
    return [d, scales, 2 * columns * row.lowBits, 2 * columns * row.codeBits]
  }

  /// [d, scales, low bits, codes] of a single row: each padded to a multiple of 16 bytes.
  private static func rowBytes(_ format: WeightFormat, _ columns: Int) -> [Int] {
    let row = format.row
    guard format.isCoded else { return [0, 0, 0, columns * row.valueBytes] }
    let (d, scales) = (roundUp(roundUp(columns, 256) / 128, 16), roundUp(columns / row.block, 16))
    return [d, scales, roundUp(columns / 8 * row.lowBits, 16), columns / 8 * row.codeBits]
  }

  /// Bytes of one element of a class: wider ones are split into byte planes.
  func elementBytes(_ byteClass: Int) -> Int {
    if byteClass == ByteClass.d.rawValue { return 2 }
    return byteClass == ByteClass.codes.rawValue ? max(1, format.row.valueBytes) : 1
  }

  /// Where the bytes of each class stand in a record, in stream order; indexed by `ByteClass`.
  package func runs() -> [[Run]] {
    var runs = [[Run]](repeating: [], count: Self.classCount)
    var offset = 0
    func add(_ byteClass: ByteClass, _ length: Int) {
      if length > 0 { runs[byteClass.rawValue].append(Run(offset: offset, length: length)) }
      offset += length
    }
    guard isPanel, classBytes[ByteClass.d.rawValue] > 0 else {
      add(.d, classBytes[0])
      add(.scales, classBytes[1])
      add(.lowBits, classBytes[2])
      add(.codes, classBytes[3])
      return runs
    }
    let row = format.row
    let span = 4 * row.block  // columns of a line of scales
    for column in stride(from: 0, to: columns, by: span) {
      let width = min(span, columns - column)
      if column % 512 == 0 { add(.d, 64) }
      add(.scales, 64)
      add(.lowBits, 2 * width * row.lowBits)
      add(.codes, 2 * width * row.codeBits)
    }
    return runs
  }

  // ---- chunks --------------------------------------------------------------------------------------------------

  /// The fewest records whose length is a multiple of 64 bytes.
  var recordsPerGroup: Int { 64 / min(64, recordBytes & -recordBytes) }

  /// Records of a chunk: whole groups, as many as fit into `limit` bytes, at least one group.
  func recordsPerChunk(records: Int, limit: Int) -> Int {
    let group = recordsPerGroup
    return min(records, max(group, limit / recordBytes / group * group))
  }
}

/// `value` rounded up to a multiple of `step`. The caller knows that it cannot overflow.
func roundUp(_ value: Int, _ step: Int) -> Int { (value + step - 1) / step * step }
