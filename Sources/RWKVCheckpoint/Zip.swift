// SPDX-License-Identifier: MIT
/// The directory of a ZIP archive whose entries are stored uncompressed, as torch writes it. Deliberately
/// narrow: one way to read each archive, so that nothing can mean one thing here and another thing elsewhere.
struct Zip {
  struct Entry {
    var name: String
    /// Where the data begins in the archive.
    var offset: Int
    var size: Int
    var crc: UInt32
    /// Local header to end of data.
    fileprivate var extent: Range<Int>
  }

  let file: InputFile
  private(set) var entries: [Entry] = []

  private static let maximumEntries = 65_536
  private static let endLength = 22
  private static let endLength64 = 56
  private static let locatorLength = 20
  private static let maximum32 = Int(UInt32.max)

  init(_ file: InputFile) throws(CheckpointError) {
    self.file = file
    let directory = try findDirectory()
    let bytes = try file.bytes(at: directory.offset, count: directory.size)
    var position = 0
    var names: Set<String> = []
    var records: [Record] = []
    for _ in 0..<directory.entries {
      let record = try record(bytes, &position, limit: directory.offset)
      guard names.insert(record.name).inserted else {
        throw file.malformed("ZIP: has two entries called \(quoted(record.name))")
      }
      records.append(record)
    }
    guard position == bytes.count else { throw file.malformed("ZIP: has bytes after the last entry") }
    file.willRead(records.map(\.header))
    for record in records { entries.append(try entry(record, limit: directory.offset)) }
    var end = 0
    for entry in entries.sorted(by: { $0.extent.lowerBound < $1.extent.lowerBound }) {
      guard entry.extent.lowerBound >= end else {
        throw file.malformed("ZIP: entry \(quoted(entry.name)) overlaps another")
      }
      end = entry.extent.upperBound
    }
  }

  /// The end record (the last 22 bytes: no comment), or the 64-bit one that its locator points to.
  private func findDirectory() throws(CheckpointError) -> (offset: Int, size: Int, entries: Int) {
    let tail = Zip.endLength + Zip.locatorLength
    guard file.size >= tail else { throw file.malformed("ZIP: is too short") }
    let bytes = try file.bytes(at: file.size - tail, count: tail)
    let fields = Fields(bytes, at: Zip.locatorLength)
    guard fields.u32(0) == 0x0605_4B50, fields.u16(4) == 0, fields.u16(6) == 0,
      fields.u16(8) == fields.u16(10),
      fields.u16(20) == 0
    else { throw file.malformed("ZIP: has no end record at its end, or is in several parts") }
    var (entries, size, offset) = (fields.u16(10), fields.u32(12), fields.u32(16))
    var end = file.size - Zip.endLength
    if Fields(bytes, at: 0).u32(0) == 0x0706_4B50 {
      end -= Zip.locatorLength + Zip.endLength64
      let locator = Fields(bytes, at: 0)
      guard end >= 0, locator.u32(4) == 0, locator.u64(8) == end, locator.u32(16) == 1 else {
        throw file.malformed("ZIP: has a 64-bit end record in an unexpected place")
      }
      let record = Fields(try file.bytes(at: end, count: Zip.endLength64), at: 0)
      guard record.u32(0) == 0x0606_4B50, record.u64(4) == 44, record.u32(16) == 0, record.u32(20) == 0,
        record.u64(24) == record.u64(32), entries == 0xFFFF || record.u64(32) == entries,
        size == Zip.maximum32 || record.u64(40) == size,
        offset == Zip.maximum32 || record.u64(48) == offset
      else { throw file.malformed("ZIP: has two end records that disagree") }
      (entries, size, offset) = (record.u64(32), record.u64(40), record.u64(48))
    }
    guard entries > 0, entries <= Zip.maximumEntries, size <= entries * 1024, size <= end,
      offset == end - size
    else { throw file.malformed("ZIP: has an impossible directory") }
    return (offset, size, entries)
  }

  /// What the directory says of an entry.
  private struct Record {
    var name: String
    var size: Int
    var crc: UInt32
    var flags: Int
    /// The local header in front of the data, which must agree.
    var header: Range<Int>
  }

  private func record(_ bytes: [UInt8], _ position: inout Int, limit: Int) throws(CheckpointError) -> Record {
    let fields = Fields(bytes, at: position)
    let (nameLength, extraLength) = (fields.u16(28), fields.u16(30))
    let end = position + 46 + nameLength + extraLength
    guard position + 46 <= bytes.count, fields.u32(0) == 0x0201_4B50, end <= bytes.count, fields.u16(32) == 0,
      fields.u16(34) == 0,
      let name = String(validating: bytes[position + 46..<position + 46 + nameLength], as: UTF8.self)
    else { throw file.malformed("ZIP: has a damaged directory") }
    let (flags, method) = (fields.u16(8), fields.u16(10))
    guard method == 0, flags & ~0x0808 == 0 else {
      throw CheckpointError(
        .unsupported, file: file.path, "ZIP: entry \(quoted(name)) is compressed or encrypted",
        found: "method \(method), flags \(flags)", expected: "stored, as torch.save writes",
        advice: "Load and save the checkpoint with torch")
    }
    var sizes = [fields.u32(24), fields.u32(20), fields.u32(42)]
    try widen(&sizes, extra: bytes[end - extraLength..<end])
    position = end
    let (size, local) = (sizes[0], sizes[2])
    guard size == sizes[1], local <= limit, limit - local >= 30 else {
      throw file.malformed("ZIP: entry \(quoted(name)) lies outside the archive")
    }
    return Record(
      name: name, size: size, crc: UInt32(fields.u32(16)), flags: flags,
      header: local..<min(limit, local + 30 + nameLength))
  }

  private func entry(_ record: Record, limit: Int) throws(CheckpointError) -> Entry {
    let (name, size, local) = (record.name, record.size, record.header.lowerBound)
    let header = try file.bytes(at: local, count: record.header.count)
    let front = Fields(header, at: 0)
    let descriptor = record.flags & 8 != 0
    func agrees(_ value: Int, _ expected: Int) -> Bool {
      value == expected || descriptor && value == 0 || value == Zip.maximum32
    }
    guard front.u32(0) == 0x0403_4B50, front.u16(6) == record.flags, front.u16(8) == 0,
      front.u16(26) == name.utf8.count, header.dropFirst(30).elementsEqual(name.utf8),
      agrees(front.u32(18), size), agrees(front.u32(22), size)
    else { throw file.malformed("ZIP: the two headers of entry \(quoted(name)) disagree") }
    let start = local + 30 + name.utf8.count + front.u16(28)
    guard start <= limit, size <= limit - start else {
      throw file.malformed("ZIP: entry \(quoted(name)) lies outside the archive")
    }
    return Entry(name: name, offset: start, size: size, crc: record.crc, extent: local..<start + size)
  }

  /// Replaces fields that say "too large for 32 bits" by those of the 64-bit extra field.
  private func widen(_ sizes: inout [Int], extra: ArraySlice<UInt8>) throws(CheckpointError) {
    guard sizes.contains(Zip.maximum32) else { return }
    let extra = Array(extra)
    var position = 0
    while position + 4 <= extra.count {
      let fields = Fields(extra, at: position)
      let length = fields.u16(2)
      if fields.u16(0) == 1, position + 4 + length <= extra.count {
        var at = 4
        for index in sizes.indices where sizes[index] == Zip.maximum32 && at + 8 <= 4 + length {
          sizes[index] = fields.u64(at)
          at += 8
        }
        return
      }
      position += 4 + length
    }
    throw file.malformed("ZIP: lacks a 64-bit size")
  }

  /// Bytes of one entry, at most `limit`, with its checksum verified.
  func contents(_ entry: Entry, limit: Int) throws(CheckpointError) -> [UInt8] {
    guard entry.size <= limit else {
      throw file.malformed(
        "ZIP: entry \(quoted(entry.name)) is too long", found: "\(entry.size)", expected: "\(limit)")
    }
    let bytes = try file.bytes(at: entry.offset, count: entry.size)
    guard crc32(bytes) == entry.crc else {
      throw file.malformed("ZIP: entry \(quoted(entry.name)) has a wrong checksum")
    }
    return bytes
  }
}

/// Little-endian fields of a record. Past the end they read as all ones, which no check accepts as an offset
/// or size; values that do not fit an Int read as Int.max.
private struct Fields {
  let bytes: [UInt8]
  let start: Int

  init(_ bytes: [UInt8], at start: Int) {
    self.bytes = bytes
    self.start = start
  }

  func u16(_ offset: Int) -> Int { Int(bytes.integer(UInt16.self, at: start + offset) ?? .max) }
  func u32(_ offset: Int) -> Int { Int(bytes.integer(UInt32.self, at: start + offset) ?? .max) }
  func u64(_ offset: Int) -> Int { Int(clamping: bytes.integer(UInt64.self, at: start + offset) ?? .max) }
}

/// CRC-32 (IEEE 802.3), as ZIP uses it.
func crc32(_ bytes: [UInt8]) -> UInt32 {
  let table = (0..<256 as Range<UInt32>).map { index in
    (0..<8).reduce(index) { value, _ in value & 1 == 1 ? value >> 1 ^ 0xEDB8_8320 : value >> 1 }
  }
  return ~bytes.reduce(~0) { value, byte in table[Int(UInt8(truncatingIfNeeded: value) ^ byte)] ^ value >> 8 }
}
