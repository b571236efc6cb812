// SPDX-License-Identifier: MIT

/// One tensor of a model file. Sizes are in bytes; a record is one row or a panel of 16 rows.
public struct TensorInfo: Sendable, Equatable {
  /// The name of the tensor.
  public let name: String
  /// How its numbers are stored.
  public let format: WeightFormat
  /// The number of rows.
  public let rows: Int
  /// The number of columns.
  public let columns: Int
  /// How many rows a record has: 1, or 16 for a panel.
  public let rowsPerRecord: Int
  /// Whether it is stored transposed with respect to the checkpoint's tensor of this name.
  public let transposed: Bool
  /// The bytes of one record.
  public let recordBytes: Int
  /// The number of records.
  public let recordCount: Int
  /// The bytes of all records, without gaps.
  public var rawBytes: Int { recordCount * recordBytes }
  /// How many records a chunk has; the last one may have fewer.
  public let recordsPerChunk: Int
  /// The number of the tensor's first chunk in the file.
  public internal(set) var firstChunk: Int
  /// The number of its chunks.
  public let chunkCount: Int
  /// The XXH64 of the raw bytes.
  public internal(set) var rawHash: UInt64

  package let layout: RecordLayout

  /// The records that a chunk holds; `chunk` is 0 ..< chunkCount.
  public func records(ofChunk chunk: Int) -> Range<Int> {
    precondition(chunk >= 0 && chunk < chunkCount)
    return chunk * recordsPerChunk..<min(recordCount, (chunk + 1) * recordsPerChunk)
  }
}

/// The two tables of a file and their bytes: formats/rwkv-v1.md sections 1 and 2.
enum Index {
  static let maxTensors = 65_536
  static let maxChunks = 4_194_304
  static let maxNames = 16 << 20
  static let maxChunkBytes = 16 << 20
  static let chunkBytes = 1 << 20
  /// Chunks of tables that are read by row have at most this many bytes, unless a group of records has more.
  static let tableChunkBytes = 16 << 10
  static let tensorRecordBytes = 48
  static let chunkRecordBytes = 24
  static let page = 4096
  /// Stored tensors from this size on start at a page.
  static let alignedTensorBytes = 64 << 10

  static func isName(_ bytes: some Collection<UInt8>) -> Bool {
    (1...255).contains(bytes.count)
      && bytes.allSatisfy { byte in
        (0x61...0x7A).contains(byte) || (0x41...0x5A).contains(byte) || (0x30...0x39).contains(byte)
          || byte == 0x2E || byte == 0x5F || byte == 0x2D
      }
  }

  /// Where a chunk must start if the one before (or the payload's padding) ends at `end`.
  static func chunkStart(after end: UInt64, codec: Codec, firstOf tensor: TensorInfo?) -> UInt64 {
    let aligned = codec == .stored && (tensor?.rawBytes ?? 0) >= alignedTensorBytes
    let step = UInt64(aligned ? page : 64)
    return (end + step - 1) / step * step
  }
}

/// How the bytes of a chunk are stored.
enum Codec: UInt8, Sendable { case stored = 0, zstd = 1 }

/// One chunk of the payload.
struct Chunk: Sendable {
  let offset: UInt64
  let hash: UInt64
  let length: Int
  let codec: Codec

  func append(to bytes: inout [UInt8]) {
    bytes.append(littleEndian: offset)
    bytes.append(littleEndian: hash)
    bytes.append(littleEndian: UInt32(length))
    bytes += [codec.rawValue, 0, 0, 0]
  }

  init(offset: UInt64, hash: UInt64, length: Int, codec: Codec) {
    self.offset = offset
    self.hash = hash
    self.length = length
    self.codec = codec
  }

  init(_ cursor: inout ByteCursor) throws(ModelFileError) {
    let at = cursor.offset
    offset = try cursor.integer(UInt64.self)
    hash = try cursor.integer(UInt64.self)
    length = try cursor.count(UInt32.self)
    let codec = try cursor.integer(UInt8.self)
    guard let codec = Codec(rawValue: codec) else {
      throw .invalid("codec of a chunk", found: codec, expected: "0 or 1", offset: at)
    }
    self.codec = codec
    try cursor.zeros(3, of: "a chunk record")
  }
}

extension TensorInfo {
  /// Whether a tensor of this name has a row for each token, which is read alone: the embedding, and tables of 7a and
  /// 7b.
  package static func isTable(_ name: String) -> Bool { name.hasSuffix("emb.weight") }

  /// What a writer is asked for, checked and laid out; `firstChunk` and `rawHash` follow later.
  init(_ plan: TensorPlan) throws(ModelFileError) {
    guard Index.isName(plan.name.utf8) else {
      throw .unwritable("tensor name", found: "'\(plan.name)'", expected: "1 to 255 of A-Z a-z 0-9 . _ -")
    }
    let limit = Int(Int32.max)
    guard (1...limit).contains(plan.rows), (1...limit).contains(plan.columns),
      let layout = RecordLayout(
        format: plan.format, columns: plan.columns, rowsPerRecord: plan.rowsPerRecord),
      layout.recordBytes * layout.recordsPerGroup <= Index.maxChunkBytes
    else {
      throw .unwritable(
        "shape", found: "\(plan.rows) × \(plan.columns) \(plan.format.name) by \(plan.rowsPerRecord)",
        expected: "records of 1 or 16 rows (bytes: 1 column) that fit into 16 MiB", tensor: plan.name)
    }
    let records = roundUp(plan.rows, plan.rowsPerRecord) / plan.rowsPerRecord
    let isTable = plan.rowsPerRecord == 1 && TensorInfo.isTable(plan.name)
    let perChunk = layout.recordsPerChunk(
      records: records, limit: isTable ? Index.tableChunkBytes : Index.chunkBytes)
    self.init(
      name: plan.name, format: plan.format, rows: plan.rows, columns: plan.columns,
      rowsPerRecord: plan.rowsPerRecord, transposed: plan.transposed, recordBytes: layout.recordBytes,
      recordCount: records, recordsPerChunk: perChunk, firstChunk: 0,
      chunkCount: roundUp(records, perChunk) / perChunk, rawHash: 0, layout: layout)
  }

  func append(to bytes: inout [UInt8], nameStart: Int) {
    bytes.append(littleEndian: UInt32(nameStart))
    bytes.append(littleEndian: UInt16(name.utf8.count))
    bytes += [format.rawValue, UInt8(rowsPerRecord)]
    for number in [rows, columns, recordsPerChunk, firstChunk, chunkCount, transposed ? 1 : 0] {
      bytes.append(littleEndian: UInt32(number))
    }
    bytes.append(littleEndian: rawHash)
    bytes.append(littleEndian: UInt64(rawBytes))
  }

  /// Reads a tensor record. `nameStart` and `firstChunk` are where its name and chunks must start.
  init(
    _ cursor: inout ByteCursor, names: UnsafeRawBufferPointer, nameStart: Int, firstChunk: Int
  ) throws(ModelFileError) {
    let at = cursor.offset
    func check(_ holds: Bool, _ what: String, _ found: some Any, _ expected: String) throws(ModelFileError) {
      guard holds else { throw .invalid(what, found: found, expected: expected, offset: at) }
    }
    let start = try cursor.count(UInt32.self)
    let length = try cursor.count(UInt16.self)
    try check(start == nameStart, "start of a tensor's name", start, "\(nameStart)")
    try check(
      length <= names.count - start, "length of a tensor's name", length, "the end of the names at most")
    let nameBytes = names[start..<start + length]
    try check(Index.isName(nameBytes), "a tensor's name", Array(nameBytes), "1 to 255 of A-Z a-z 0-9 . _ -")
    name = String(decoding: nameBytes, as: UTF8.self)

    let formatByte = try cursor.count(UInt8.self)
    guard let format = WeightFormat(rawValue: UInt8(formatByte)) else {
      throw ModelFileError(.unsupportedFormat(found: formatByte), offset: at, tensor: name)
    }
    self.format = format
    rowsPerRecord = try cursor.count(UInt8.self)
    rows = try cursor.count(UInt32.self)
    columns = try cursor.count(UInt32.self)
    try check((1...Int(Int32.max)).contains(rows), "number of rows", rows, "1 to 2^31 − 1")
    guard let layout = RecordLayout(format: format, columns: columns, rowsPerRecord: rowsPerRecord) else {
      throw .invalid(
        "a record", found: "\(rowsPerRecord) rows of \(columns) columns",
        expected: "1 or 16 rows of 1 to 2^31 − 1 columns (bytes: 1 × 1)", offset: at, tensor: name)
    }
    self.layout = layout
    recordBytes = layout.recordBytes
    recordCount = roundUp(rows, rowsPerRecord) / rowsPerRecord

    recordsPerChunk = try cursor.count(UInt32.self)
    let group = layout.recordsPerGroup
    try check(
      (1...recordCount).contains(recordsPerChunk)
        && (recordsPerChunk == recordCount || recordsPerChunk % group == 0),
      "records per chunk", recordsPerChunk, "1 to \(recordCount), a multiple of \(group) where there are more"
    )
    let chunkBytes = recordsPerChunk.multipliedReportingOverflow(by: recordBytes)
    try check(
      !chunkBytes.overflow && chunkBytes.partialValue <= Index.maxChunkBytes
        && (chunkBytes.partialValue <= Index.chunkBytes || recordsPerChunk <= group),
      "records per chunk", recordsPerChunk, "chunks of at most 1 MiB, or \(group) records of at most 16 MiB")
    self.firstChunk = try cursor.count(UInt32.self)
    try check(self.firstChunk == firstChunk, "first chunk of a tensor", self.firstChunk, "\(firstChunk)")
    chunkCount = try cursor.count(UInt32.self)
    let chunks = roundUp(recordCount, recordsPerChunk) / recordsPerChunk
    try check(chunkCount == chunks, "number of chunks of a tensor", chunkCount, "\(chunks)")
    let flags = try cursor.count(UInt8.self)
    try check(flags <= 1, "flags of a tensor", flags, "0 or 1")
    transposed = flags == 1
    try cursor.zeros(3, of: "a tensor record")
    rawHash = try cursor.integer(UInt64.self)
    // recordCount < 2^31 and recordBytes ≤ 2^24, so the product fits.
    let raw = try cursor.integer(UInt64.self)
    try check(raw == UInt64(recordCount * recordBytes), "raw length", raw, "\(recordCount * recordBytes)")
  }
}
