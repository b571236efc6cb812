// SPDX-License-Identifier: MIT
internal import RWKVFormat
import Synchronization

/// The tensors of a model file by the block that reads them.
struct TensorGroups {
  /// What is always in memory: vectors, which are small, and matrices outside of the blocks, first of all the head.
  private(set) var common: [TensorInfo] = []
  /// The matrices of each block in the order of evaluation.
  private(set) var blocks: [[TensorInfo]]

  /// All tensors that evaluation reads whole: neither tables with a row for each token nor the tokenizer.
  init(_ file: ModelFile, _ configuration: Configuration) {
    let order = configuration.blocks.map(\.prefix)
    let positions = Dictionary(uniqueKeysWithValues: order.enumerated().map { ($1, $0) })
    blocks = Array(repeating: [], count: order.count)
    for tensor in file.tensors where tensor.format != .bytes && !TensorInfo.isTable(tensor.name) {
      // Read into the model once: InitialState.
      if tensor.name.hasSuffix(".att.time_state") { continue }
      let prefix = tensor.name.split(separator: ".").prefix(2).reduce("") { $0 + $1 + "." }
      if tensor.rows > 1, let position = positions[prefix] {
        blocks[position].append(tensor)
      } else {
        common.append(tensor)
      }
    }
  }

  /// Memory that tensors take, each starting at a multiple of 64 [bytes].
  static func byteCount(_ tensors: [TensorInfo]) -> Int { tensors.reduce(0) { $0 + $1.paddedBytes } }
}

extension TensorInfo {
  var paddedBytes: Int { (rawBytes + 63) / 64 * 64 }
}

/// One chunk of a tensor and its place in a region of memory.
struct ChunkPlace: Sendable {
  let tensor: TensorInfo
  let chunk: Int
  let range: Range<Int>

  /// The chunks of a tensor that starts at `offset`.
  static func all(of tensor: TensorInfo, at offset: Int, in file: ModelFile) -> [ChunkPlace] {
    var start = offset
    return (0..<tensor.chunkCount).map { chunk in
      let length = file.rawLength(ofChunk: chunk, of: tensor)
      defer { start += length }
      return ChunkPlace(tensor: tensor, chunk: chunk, range: start..<start + length)
    }
  }

  /// Its place in the region at `base`.
  func bytes(in base: UnsafeMutableRawPointer) -> UnsafeMutableRawBufferPointer {
    UnsafeMutableRawBufferPointer(start: base + range.lowerBound, count: range.count)
  }
}

extension ModelFile {
  /// Brings chunks to their places in the region at `base`, one thread for each of the readers.
  ///
  /// `progress` is called with the share done, 0…1, from any thread; the load stops when it returns false.
  func load(
    _ chunks: [ChunkPlace], to base: UnsafeMutableRawPointer, using readers: [ChunkReader],
    verifying: Bool = true,
    progress: (@Sendable (Double) -> Bool)? = nil
  ) throws(ModelError) {
    nonisolated(unsafe) let (base, readers) = (base, readers)
    let next = Atomic<Int>(0)
    let failure = Mutex<ModelError?>(nil)
    onThreads(readers.count) { thread in
      while true {
        let number = next.add(1, ordering: .relaxed).oldValue
        guard number < chunks.count else { return }
        let place = chunks[number]
        do throws(ModelFileError) {
          try readChunk(
            place.chunk, of: place.tensor, into: place.bytes(in: base), using: readers[thread],
            verifying: verifying)
        } catch {
          failure.withLock { $0 = $0 ?? ModelError(error) }
          next.store(chunks.count, ordering: .relaxed)
          return
        }
        if let progress, !progress(Double(number + 1) / Double(chunks.count)) {
          failure.withLock { $0 = $0 ?? ModelError(.cancelled, path: path) }
          next.store(chunks.count, ordering: .relaxed)
        }
      }
    }
    if let error = failure.withLock({ $0 }) { throw error }
  }
}
