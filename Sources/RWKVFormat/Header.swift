// SPDX-License-Identifier: MIT

/// The first 64 bytes of a model file. formats/rwkv-v1.md section 1.
struct Header {
  static let size = 64
  static let magic: [UInt8] = [0x89, 0x52, 0x57, 0x4B, 0x56, 0x0D, 0x0A, 0x1A]
  static let version = 1
  /// Bits of `required features` that are known: 0, a tokenizer of the kind "vocabulary"; 1, a `rwkv.kind`.
  static let knownFeatures: UInt32 = 3

  var features: UInt32
  var tensorCount: Int
  var chunkCount: Int
  var metadataBytes: Int
  var nameBytes: Int
  var fileSize: UInt64
  var indexHash: UInt64

  var indexBytes: Int {
    metadataBytes + tensorCount * Index.tensorRecordBytes + chunkCount * Index.chunkRecordBytes + nameBytes
  }
  /// Where the payload starts: the caps keep this far under 2^31.
  var payloadStart: Int { roundUp(Header.size + indexBytes, Index.page) }

  func encoded() -> [UInt8] {
    var bytes = Header.magic
    bytes.append(littleEndian: UInt16(Header.version))
    bytes.append(littleEndian: UInt16(0))
    bytes.append(littleEndian: features)
    for number in [0, tensorCount, chunkCount, metadataBytes, nameBytes, 0] {
      bytes.append(littleEndian: UInt32(number))
    }
    bytes.append(littleEndian: fileSize)
    bytes.append(littleEndian: indexHash)
    bytes.append(littleEndian: XXH64.hash(bytes))
    return bytes
  }

  init(features: UInt32, tensorCount: Int, chunkCount: Int, metadataBytes: Int, nameBytes: Int) {
    self.features = features
    self.tensorCount = tensorCount
    self.chunkCount = chunkCount
    self.metadataBytes = metadataBytes
    self.nameBytes = nameBytes
    fileSize = 0
    indexHash = 0
  }

  /// Reads and checks the header of a file of `size` bytes.
  init(_ bytes: UnsafeRawBufferPointer, size: UInt64) throws(ModelFileError) {
    guard bytes.count >= Header.magic.count, bytes.starts(with: Header.magic) else {
      throw ModelFileError(.notModelFile, offset: 0)
    }
    guard bytes.count == Header.size else {
      throw ModelFileError(.wrongSize(expected: UInt64(Header.size), found: size))
    }
    var cursor = ByteCursor(bytes, origin: 0, what: "the header")
    _ = try cursor.take(Header.magic.count)
    let version = try cursor.count(UInt16.self)
    guard version == Header.version else {
      throw ModelFileError(.unsupportedVersion(found: version), offset: 8)
    }
    let sealed = UnsafeRawBufferPointer(rebasing: bytes[..<(Header.size - 8)])
    guard XXH64.hash(sealed) == UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: 56, as: UInt64.self))
    else { throw ModelFileError(.damaged(what: "the header"), offset: 0) }
    try cursor.zeros(2, of: "the header")
    features = try cursor.integer(UInt32.self)
    guard features & ~Header.knownFeatures == 0 else {
      throw ModelFileError(.unsupportedFeatures(found: features), offset: 12)
    }
    _ = try cursor.integer(UInt32.self)  // optional features

    func number(_ what: String, _ range: ClosedRange<Int>) throws(ModelFileError) -> Int {
      let at = cursor.offset
      let number = try cursor.count(UInt32.self)
      guard range.contains(number) else {
        let expected = "\(range.lowerBound) to \(range.upperBound)"
        throw .invalid(what, found: number, expected: expected, offset: at)
      }
      return number
    }
    tensorCount = try number("number of tensors", 1...Index.maxTensors)
    chunkCount = try number("number of chunks", tensorCount...Index.maxChunks)
    metadataBytes = try number("length of the metadata", 4...Metadata.maxBytes)
    nameBytes = try number("length of the names", tensorCount...Index.maxNames)
    try cursor.zeros(4, of: "the header")
    fileSize = try cursor.integer(UInt64.self)
    indexHash = try cursor.integer(UInt64.self)
    guard fileSize == size else {
      throw ModelFileError(.wrongSize(expected: fileSize, found: size), offset: 40)
    }
    // Every chunk has at least a byte, so a file this short cannot hold what its header announces.
    let least = UInt64(payloadStart + chunkCount)
    guard size >= least else {
      throw .invalid("size of the file", found: size, expected: "\(least) or more for its index")
    }
  }
}
