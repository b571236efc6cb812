// SPDX-License-Identifier: MIT
import Synchronization

/// A tensor that is to be written. The name decides the size of chunks: `…emb.weight` is a table that is read by row.
public struct TensorPlan: Sendable, Equatable {
  /// The name of the tensor.
  public var name: String
  /// How its numbers are stored.
  public var format: WeightFormat
  /// The number of rows.
  public var rows: Int
  /// The number of columns.
  public var columns: Int
  /// How many rows a record has: 1, or 16 for a panel.
  public var rowsPerRecord: Int
  /// Whether it is stored transposed with respect to the checkpoint's tensor of this name.
  public var transposed: Bool

  public init(
    name: String, format: WeightFormat, rows: Int, columns: Int, rowsPerRecord: Int, transposed: Bool = false
  ) {
    self.name = name
    self.format = format
    self.rows = rows
    self.columns = columns
    self.rowsPerRecord = rowsPerRecord
    self.transposed = transposed
  }
}

extension TensorPlan {
  package init(_ info: TensorInfo) {
    self.init(
      name: info.name, format: info.format, rows: info.rows, columns: info.columns,
      rowsPerRecord: info.rowsPerRecord, transposed: info.transposed)
  }
}

/// A chunk as it will stand in the file, made by `ModelFileWriter.encode`.
public struct EncodedChunk: Sendable {
  /// The number of the tensor in the file.
  public let tensor: Int
  /// The number of the chunk in the tensor.
  public let chunk: Int
  /// The records, for the checksum of the whole tensor.
  let raw: [UInt8]
  /// One zstd frame; nil: the raw bytes are stored.
  let frame: [UInt8]?
  let hash: UInt64

  /// The bytes that the chunk takes in the file.
  public var storedLength: Int { frame?.count ?? raw.count }
}

/// Writes a model file: encode chunks on any number of threads, append them in file order, finish.
///
/// Nothing is left behind without `finish` (OutputFile.swift). The same input gives the same file whatever the number
/// of threads. `tensors` and `encode` may be used from any thread; memory is that of the chunks in flight.
public final class ModelFileWriter: Sendable {
  /// The tensors in file order; their checksums are not known yet.
  public let tensors: [TensorInfo]

  private let path: String
  private let store: Bool
  private let file: OutputFile
  private let header: Header
  private let metadata: [UInt8]

  private struct State {
    var tensor = 0
    var chunk = 0
    var end: UInt64
    var tensorHash = XXH64()
    var chunks: [Chunk] = []
    var rawHashes: [UInt64] = []
    var completed = false
    var finished = false
  }
  private let state: Mutex<State>

  /// Checks the plan and creates the file. `store`: nothing is compressed, so that the file can be mapped.
  public init(
    path: String, overwrite: Bool, metadata: Metadata, tensors plans: [TensorPlan], store: Bool
  ) throws(ModelFileError) {
    do throws(ModelFileError) {
      let metadataBytes = try metadata.encoded()
      let tensors = try Self.layOut(plans)
      header = Header(
        features: metadata.requiredFeatures, tensorCount: tensors.count,
        chunkCount: tensors.reduce(0) { $0 + $1.chunkCount },
        metadataBytes: metadataBytes.count, nameBytes: tensors.reduce(0) { $0 + $1.name.utf8.count })
      file = try OutputFile(path: path, overwrite: overwrite)
      self.tensors = tensors
      self.metadata = metadataBytes
      (self.path, self.store) = (path, store)
      state = Mutex(State(end: UInt64(header.payloadStart)))
    } catch {
      throw error.inFile(path)
    }
  }

  private static func layOut(_ plans: [TensorPlan]) throws(ModelFileError) -> [TensorInfo] {
    guard (1...Index.maxTensors).contains(plans.count) else {
      throw .unwritable("number of tensors", found: plans.count, expected: "1 to \(Index.maxTensors)")
    }
    var tensors: [TensorInfo] = []
    var names: Set<String> = []
    var chunks = 0
    for plan in plans {
      var tensor = try TensorInfo(plan)
      guard names.insert(plan.name).inserted else {
        throw .unwritable("tensor name", found: "'\(plan.name)' twice", expected: "unique names")
      }
      tensor.firstChunk = chunks
      chunks += tensor.chunkCount
      guard chunks <= Index.maxChunks else {
        throw .unwritable("number of chunks", found: chunks, expected: "at most \(Index.maxChunks)")
      }
      tensors.append(tensor)
    }
    return tensors
  }

  // ---- chunks --------------------------------------------------------------------------------------------------

  /// The number of chunks of a tensor.
  public func chunkCount(ofTensor tensor: Int) -> Int { tensors[tensor].chunkCount }

  /// Records of a chunk; a record is one row or a panel of 16.
  public func recordRange(ofTensor tensor: Int, chunk: Int) -> Range<Int> {
    tensors[tensor].records(ofChunk: chunk)
  }

  /// Compresses the records of one chunk. Pure: any thread, each with its own `ChunkWriter`.
  public func encode(
    _ raw: UnsafeRawBufferPointer, chunk: Int, ofTensor tensor: Int, using writer: ChunkWriter
  ) throws(ModelFileError) -> EncodedChunk {
    let info = tensors[tensor]
    precondition(raw.count == info.records(ofChunk: chunk).count * info.recordBytes)
    do throws(ModelFileError) {
      let frame = store ? nil : try writer.deflate(raw, info.layout)
      let hash = frame.map { XXH64.hash($0) } ?? XXH64.hash(raw)
      return EncodedChunk(tensor: tensor, chunk: chunk, raw: Array(raw), frame: frame, hash: hash)
    } catch {
      throw ModelFileError(error.reason, path: path, tensor: info.name)
    }
  }

  /// Writes the next chunk. Chunks must come in file order: tensor by tensor, each from chunk 0 on.
  public func append(_ encoded: EncodedChunk) throws(ModelFileError) {
    try state.withLock { state throws(ModelFileError) in
      precondition(encoded.tensor == state.tensor && encoded.chunk == state.chunk, "chunks in file order")
      let tensor = tensors[encoded.tensor]
      let codec = encoded.frame == nil ? Codec.stored : .zstd
      let start = Index.chunkStart(after: state.end, codec: codec, firstOf: encoded.chunk == 0 ? tensor : nil)
      // The gap before it becomes a hole, which reads as zeros.
      do throws(ModelFileError) {
        try file.write(encoded.frame ?? encoded.raw, at: start)
      } catch {
        throw error.inFile(path)
      }
      state.chunks.append(
        Chunk(offset: start, hash: encoded.hash, length: encoded.storedLength, codec: codec))
      state.end = start + UInt64(encoded.storedLength)
      state.tensorHash.update(encoded.raw)
      state.chunk += 1
      if state.chunk == tensor.chunkCount {
        state.rawHashes.append(state.tensorHash.value)
        state.tensorHash = XXH64()
        state.chunk = 0
        state.tensor += 1
      }
    }
  }

  /// Encodes and appends all chunks of a tensor that is in memory.
  public func write(
    _ raw: UnsafeRawBufferPointer, tensor: Int, using writer: ChunkWriter
  ) throws(ModelFileError) {
    precondition(raw.count == tensors[tensor].rawBytes)
    for chunk in 0..<chunkCount(ofTensor: tensor) {
      let records = recordRange(ofTensor: tensor, chunk: chunk)
      let bytes = tensors[tensor].recordBytes
      let piece = raw[records.lowerBound * bytes..<records.upperBound * bytes]
      try append(
        try encode(UnsafeRawBufferPointer(rebasing: piece), chunk: chunk, ofTensor: tensor, using: writer))
    }
  }

  // ---- the end -------------------------------------------------------------------------------------------------

  /// A name under which the file can be read after `complete`, as long as this object lives.
  package var readablePath: String { file.readablePath }

  /// Writes index and header: the file can be read, but has no name yet.
  package func complete() throws(ModelFileError) {
    try state.withLock { state throws(ModelFileError) in
      precondition(state.tensor == tensors.count && !state.completed, "complete once, after all chunks")
      do throws(ModelFileError) {
        let index = index(state)
        var header = header
        header.fileSize = state.end
        header.indexHash = XXH64.hash(index)
        try file.write(index, at: UInt64(Header.size))
        try file.write(header.encoded(), at: 0)
        state.completed = true
      } catch {
        throw error.inFile(path)
      }
    }
  }

  /// Completes the file if need be, waits until all is on the disk and gives the file its name.
  public func finish() throws(ModelFileError) {
    if !state.withLock({ $0.completed }) { try complete() }
    try state.withLock { state throws(ModelFileError) in
      precondition(!state.finished, "finish once")
      do throws(ModelFileError) {
        state.finished = true
        try file.finish()
      } catch {
        throw error.inFile(path)
      }
    }
  }

  private func index(_ state: borrowing State) -> [UInt8] {
    var bytes = metadata
    var nameStart = 0
    for (tensor, hash) in zip(tensors, state.rawHashes) {
      var tensor = tensor
      tensor.rawHash = hash
      tensor.append(to: &bytes, nameStart: nameStart)
      nameStart += tensor.name.utf8.count
    }
    for chunk in state.chunks { chunk.append(to: &bytes) }
    for tensor in tensors { bytes += Array(tensor.name.utf8) }
    return bytes
  }
}
