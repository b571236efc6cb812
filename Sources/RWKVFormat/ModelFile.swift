// SPDX-License-Identifier: MIT

/// An open model file (`.rwkv`, formats/rwkv-v1.md): metadata, the table of tensors and their bytes.
///
/// Immutable; every method may be called from any thread. The file is untrusted: everything but the chunks themselves
/// is checked when it is opened, a chunk when it is read. Memory: the index alone, 24 bytes for each chunk.
public final class ModelFile: Sendable {
  /// The path of the file.
  public let path: String
  /// The length of the file [bytes].
  public let size: UInt64
  /// What the file says about the model, by key.
  public let metadata: Metadata
  /// The tensors in file order, which is the order in which a runtime needs them.
  public let tensors: [TensorInfo]
  /// A hash of sizes and weights, to which state files are bound. A compressed and a stored file have the same one.
  public let identity: UInt64
  /// Memory that all tensors take when they are loaded [bytes].
  public let rawBytes: Int

  let file: File
  let chunks: [Chunk]
  private let tensorIndex: [String: Int]

  /// Opens a regular file and checks its header and index.
  public init(path: String) throws(ModelFileError) {
    do throws(ModelFileError) {
      file = try File(reading: path)
      size = file.size
      let scratch = Scratch()
      let head = scratch.bytes(Int(min(size, UInt64(Header.size))))
      try file.read(into: head, at: 0)
      let header = try Header(UnsafeRawBufferPointer(head), size: size)

      // The header has been compared with the size of the file: no more than that is allocated.
      let bytes = scratch.bytes(header.payloadStart - Header.size)
      try file.read(into: bytes, at: UInt64(Header.size))
      let contents = try IndexContents(UnsafeRawBufferPointer(bytes), header)
      let features = contents.metadata.requiredFeatures
      guard header.features == features else {
        throw .invalid(
          "required features", found: header.features, expected: "\(features), by the metadata", offset: 12)
      }
      self.path = path
      (metadata, tensors, chunks) = (contents.metadata, contents.tensors, contents.chunks)
      tensorIndex = contents.tensorIndex
      identity = Self.identity(metadata, tensors)
      rawBytes = contents.rawBytes
    } catch {
      throw error.inFile(path)
    }
  }

  /// The tensor of this name; nil if there is none.
  public subscript(name: String) -> TensorInfo? { tensorIndex[name].map { tensors[$0] } }

  /// How many bytes a chunk of a tensor has when it is read.
  public func rawLength(ofChunk chunk: Int, of tensor: TensorInfo) -> Int {
    tensor.records(ofChunk: chunk).count * tensor.recordBytes
  }

  /// Bytes that a tensor takes in the file.
  public func storedBytes(of tensor: TensorInfo) -> Int {
    chunks[tensor.firstChunk..<tensor.firstChunk + tensor.chunkCount].reduce(0) { $0 + $1.length }
  }

  /// Offset in the file of a tensor whose chunks are all stored, or nil. Its raw bytes stand there without gaps, at a
  /// multiple of 4096 if there are 64 KiB of them or more, else of 64.
  public func storedOffset(of tensor: TensorInfo) -> UInt64? {
    let range = tensor.firstChunk..<tensor.firstChunk + tensor.chunkCount
    return chunks[range].allSatisfy { $0.codec == .stored } ? chunks[tensor.firstChunk].offset : nil
  }

  /// Reads one chunk of a tensor: its records, of `rawLength(ofChunk:of:)` bytes. Checks its checksum, unless the
  /// caller has had it checked before and makes sure that the file is what it was (`checkUnchanged`). A wrong checksum
  /// is `ModelFileError.Reason.damaged`; ARCHITECTURE.md, "The path of one tensor", says what then becomes of states.
  public func readChunk(
    _ chunk: Int, of tensor: TensorInfo, into destination: UnsafeMutableRawBufferPointer,
    using reader: ChunkReader, verifying: Bool = true
  ) throws(ModelFileError) {
    let record = chunks[tensor.firstChunk + chunk]
    precondition(destination.count == rawLength(ofChunk: chunk, of: tensor))
    do throws(ModelFileError) {
      let stored = record.codec == .stored ? destination : reader.stored(record.length)
      try file.read(into: stored, at: record.offset)
      guard !verifying || XXH64.hash(UnsafeRawBufferPointer(stored)) == record.hash else {
        throw ModelFileError(.damaged(what: "chunk \(chunk)"))
      }
      if record.codec == .zstd {
        try reader.inflate(UnsafeRawBufferPointer(stored), tensor.layout, into: destination)
      }
    } catch {
      throw ModelFileError(error.reason, path: path, offset: record.offset, tensor: tensor.name)
    }
  }

  /// Throws if the file is not what it was when it was opened: what was read since may be wrong. Costs one system call.
  public func checkUnchanged() throws(ModelFileError) {
    guard file.isUnchanged else { throw ModelFileError(.changed, path: path) }
  }

  /// Checks the checksum of a stored chunk that the caller has in a mapping.
  public func verifyChunk(
    _ chunk: Int, of tensor: TensorInfo, bytes: UnsafeRawBufferPointer
  ) throws(ModelFileError) {
    let record = chunks[tensor.firstChunk + chunk]
    guard XXH64.hash(bytes) == record.hash else {
      throw ModelFileError(
        .damaged(what: "chunk \(chunk)"), path: path, offset: record.offset, tensor: tensor.name)
    }
  }

  /// Reads all chunks of a tensor, `rawBytes` bytes, on this thread, and checks the tensor's checksum as well.
  public func read(
    _ tensor: TensorInfo, into destination: UnsafeMutableRawBufferPointer,
    using reader: ChunkReader = ChunkReader()
  ) throws(ModelFileError) {
    precondition(destination.count == tensor.rawBytes)
    for chunk in 0..<tensor.chunkCount {
      let start = chunk * tensor.recordsPerChunk * tensor.recordBytes
      let piece = destination[start..<start + rawLength(ofChunk: chunk, of: tensor)]
      try readChunk(chunk, of: tensor, into: UnsafeMutableRawBufferPointer(rebasing: piece), using: reader)
    }
    try checkHash(XXH64.hash(UnsafeRawBufferPointer(destination)), of: tensor)
  }

  /// Compares the XXH64 of a tensor's raw bytes, taken by the caller on the way, with that in the file.
  package func checkHash(_ hash: UInt64, of tensor: TensorInfo) throws(ModelFileError) {
    if hash != tensor.rawHash {
      throw ModelFileError(.damaged(what: "the tensor"), path: path, tensor: tensor.name)
    }
  }

  /// Checks that the bytes between chunks are zero: part of a full verification, of no matter for use.
  public func checkPadding() throws(ModelFileError) {
    let scratch = Scratch()
    for (chunk, next) in zip(chunks, chunks.dropFirst()) {
      let end = chunk.offset + UInt64(chunk.length)
      let gap = scratch.bytes(Int(next.offset - end))
      do throws(ModelFileError) { try file.read(into: gap, at: end) } catch { throw error.inFile(path) }
      guard isZero(UnsafeRawBufferPointer(gap)) else {
        throw .invalid("padding after a chunk", found: "not zero", expected: "zero", offset: end).inFile(path)
      }
    }
  }

  /// Section 7: over the `rwkv.` metadata and the tensors that are not raw bytes.
  private static func identity(_ metadata: Metadata, _ tensors: [TensorInfo]) -> UInt64 {
    var hash = XXH64()
    for (key, value) in metadata.entries where key.hasPrefix("rwkv.") {
      var bytes: [UInt8] = []
      // Metadata that came from a file can be written to one.
      guard (try? Metadata.append(key, value, to: &bytes)) != nil else { preconditionFailure() }
      hash.update(bytes)
    }
    for tensor in tensors where tensor.format != .bytes {
      var bytes = Array(tensor.name.utf8) + [0, tensor.format.rawValue, UInt8(tensor.rowsPerRecord)]
      bytes.append(littleEndian: UInt32(tensor.rows))
      bytes.append(littleEndian: UInt32(tensor.columns))
      bytes.append(littleEndian: tensor.rawHash)
      hash.update(bytes)
    }
    return hash.value
  }
}

/// The checked contents of an index.
private struct IndexContents {
  let metadata: Metadata
  private(set) var tensors: [TensorInfo] = []
  private(set) var chunks: [Chunk] = []
  private(set) var tensorIndex: [String: Int] = [:]
  private(set) var rawBytes = 0

  /// `bytes`: from the end of the header to the payload.
  init(_ bytes: UnsafeRawBufferPointer, _ header: Header) throws(ModelFileError) {
    let index = UnsafeRawBufferPointer(rebasing: bytes[..<header.indexBytes])
    guard XXH64.hash(index) == header.indexHash else {
      throw ModelFileError(.damaged(what: "the index"), offset: UInt64(Header.size))
    }
    guard isZero(UnsafeRawBufferPointer(rebasing: bytes[header.indexBytes...])) else {
      let end = UInt64(Header.size + header.indexBytes)
      throw .invalid("padding after the index", found: "not zero", expected: "zero", offset: end)
    }
    let section = UnsafeRawBufferPointer(rebasing: index[..<header.metadataBytes])
    metadata = try Metadata(decoding: section, origin: Header.size)
    let tables = UnsafeRawBufferPointer(
      rebasing: index[header.metadataBytes..<index.count - header.nameBytes])
    let names = UnsafeRawBufferPointer(rebasing: index[(index.count - header.nameBytes)...])
    var cursor = ByteCursor(tables, origin: Header.size + header.metadataBytes, what: "the index")
    try readTensors(&cursor, header, names)
    try readChunks(&cursor, header)
  }

  private mutating func readTensors(
    _ cursor: inout ByteCursor, _ header: Header, _ names: UnsafeRawBufferPointer
  ) throws(ModelFileError) {
    var (nextName, nextChunk) = (0, 0)
    tensors.reserveCapacity(header.tensorCount)
    for position in 0..<header.tensorCount {
      let at = cursor.offset
      let tensor = try TensorInfo(&cursor, names: names, nameStart: nextName, firstChunk: nextChunk)
      guard tensorIndex.updateValue(position, forKey: tensor.name) == nil else {
        throw .invalid("a tensor's name", found: "'\(tensor.name)' twice", expected: "once", offset: at)
      }
      nextName += tensor.name.utf8.count
      nextChunk += tensor.chunkCount
      guard nextChunk <= header.chunkCount else {
        throw .invalid(
          "number of chunks", found: header.chunkCount, expected: "\(nextChunk) or more", offset: at)
      }
      let sum = rawBytes.addingReportingOverflow(tensor.rawBytes)
      guard !sum.overflow else {
        throw .invalid("sum of raw lengths", found: "over 2^63", expected: "less", offset: at)
      }
      rawBytes = sum.partialValue
      tensors.append(tensor)
    }
    guard nextName == names.count else {
      throw .invalid("length of the names", found: names.count, expected: "\(nextName)", offset: 32)
    }
    guard nextChunk == header.chunkCount else {
      throw .invalid("number of chunks", found: header.chunkCount, expected: "\(nextChunk)", offset: 24)
    }
  }

  private mutating func readChunks(_ cursor: inout ByteCursor, _ header: Header) throws(ModelFileError) {
    chunks.reserveCapacity(header.chunkCount)
    var end = UInt64(header.payloadStart)
    for tensor in tensors {
      for position in 0..<tensor.chunkCount {
        let at = cursor.offset
        let chunk = try Chunk(&cursor)
        let start = Index.chunkStart(after: end, codec: chunk.codec, firstOf: position == 0 ? tensor : nil)
        guard chunk.offset == start else {
          throw .invalid(
            "offset of a chunk", found: chunk.offset, expected: "\(start)", offset: at, tensor: tensor.name)
        }
        let raw = tensor.records(ofChunk: position).count * tensor.recordBytes
        let fits = chunk.codec == .stored ? chunk.length == raw : (1..<raw).contains(chunk.length)
        guard fits else {
          throw .invalid(
            "length of a chunk", found: chunk.length, expected: "\(raw) stored, or compressed to less",
            offset: at, tensor: tensor.name)
        }
        // Start and end stay below the size of the file plus 16 MiB: no overflow before this check.
        end = start + UInt64(chunk.length)
        guard end <= header.fileSize else {
          throw .invalid(
            "end of a chunk", found: end, expected: "\(header.fileSize) at most", offset: at,
            tensor: tensor.name)
        }
        chunks.append(chunk)
      }
    }
    guard end == header.fileSize else {
      throw .invalid("end of the last chunk", found: end, expected: "\(header.fileSize), the end of the file")
    }
  }
}
