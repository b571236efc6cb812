internal import RWKVFormat
import Dispatch
import Synchronization

/// The weights of one model in memory, exactly as they stand in the file after decompression.
///
/// Hands out matrices and vectors by name and checks their shapes. Immutable once loaded.
final class WeightStore: @unchecked Sendable {
  let configuration: Configuration
  private let path: String
  private let arena = Arena()
  private var tensors: [String: (info: TensorInfo, bytes: UnsafeRawPointer)] = [:]

  /// Bytes of weights in memory.
  private(set) var byteCount = 0

  /// Inflates all tensors but the embedding table and the tokenizer into place, with `threads` threads.
  ///
  /// `progress` is called with the share done, 0…1, from any thread; the load stops when it returns false.
  init(
    _ file: ModelFile, _ configuration: Configuration, threads: Int, progress: (@Sendable (Double) -> Bool)?
  ) throws(ModelError) {
    self.configuration = configuration
    path = file.path
    let wanted = file.tensors.filter { $0.format != .bytes && $0.name != EmbeddingTable.tensorName }
    let sizes = wanted.map { ($0.rawBytes + 63) / 64 * 64 }
    byteCount = sizes.reduce(0, +)
    let memory = try arena.allocate(byteCount: byteCount, hugePages: true)
    var offset = 0
    var chunks: [Chunk] = []
    for (tensor, size) in zip(wanted, sizes) {
      let start = memory + offset
      tensors[tensor.name] = (tensor, UnsafeRawPointer(start))
      var place = 0
      for chunk in 0..<tensor.chunkCount {
        let length = file.rawLength(ofChunk: chunk, of: tensor)
        chunks.append(
          Chunk(
            tensor: tensor, index: chunk,
            place: UnsafeMutableRawBufferPointer(start: start + place, count: length)))
        place += length
      }
      offset += size
    }
    try Self.load(chunks, from: file, threads: threads, progress: progress)
  }

  private struct Chunk: @unchecked Sendable {
    let tensor: TensorInfo
    let index: Int
    let place: UnsafeMutableRawBufferPointer
  }

  private static func load(
    _ chunks: [Chunk], from file: ModelFile, threads: Int, progress: (@Sendable (Double) -> Bool)?
  ) throws(ModelError) {
    let next = Atomic<Int>(0)
    let failure = Mutex<ModelError?>(nil)
    DispatchQueue.concurrentPerform(iterations: max(1, min(threads, chunks.count))) { _ in
      let reader = ChunkReader()
      while true {
        let number = next.add(1, ordering: .relaxed).oldValue
        guard number < chunks.count else { return }
        let chunk = chunks[number]
        do {
          try file.readChunk(chunk.index, of: chunk.tensor, into: chunk.place, using: reader)
        } catch {
          failure.withLock { $0 = $0 ?? ModelError(.file("\(error)")) }
          next.store(chunks.count, ordering: .relaxed)
          return
        }
        if let progress, !progress(Double(number + 1) / Double(chunks.count)) {
          failure.withLock { $0 = $0 ?? ModelError(.cancelled, path: file.path) }
          next.store(chunks.count, ordering: .relaxed)
        }
      }
    }
    if let error = failure.withLock({ $0 }) { throw error }
  }

  // MARK: - By name

  /// Number of rows of a matrix in panels.
  func rows(_ name: String) throws(ModelError) -> Int { try tensor(name, rowsPerRecord: 16).info.rows }

  /// A matrix [rows, columns] in panels.
  func matrix(_ name: String, rows: Int, columns: Int) throws(ModelError) -> Matrix {
    let (info, bytes) = try tensor(name, rowsPerRecord: 16)
    guard info.rows == rows, info.columns == columns else { throw shapeError(info, [rows, columns]) }
    return Matrix(format: Int32(info.format.rawValue), panels: bytes, rows: rows, columns: columns)
  }

  /// A pair of low-rank matrices: first [rank, D], second [D, rank], the rank read off the file.
  func lowRank(_ first: String, _ second: String, _ D: Int) throws(ModelError) -> (Matrix, Matrix) {
    let rank = try rows(first)
    return (
      try matrix(first, rows: rank, columns: D), try matrix(second, rows: D, columns: rank)
    )
  }

  /// Low-rank matrices of several inputs, stacked: first [groups · rank, D], second [groups · D, rank].
  func lowRankGroup(
    _ first: String, _ second: String, _ D: Int, groups: Int
  ) throws(ModelError) -> (Matrix, Matrix) {
    let rank = try tensor(second, rowsPerRecord: 16).info.columns
    return (
      try matrix(first, rows: groups * rank, columns: D), try matrix(second, rows: groups * D, columns: rank)
    )
  }

  /// The channel-mix value matrix, one row per hidden unit.
  func hiddenRows(_ name: String, units: Int, columns: Int) throws(ModelError) -> HiddenRows {
    let (info, bytes) = try tensor(name, rowsPerRecord: 1)
    guard info.rows == units, info.columns == columns else { throw shapeError(info, [units, columns]) }
    return HiddenRows(format: Int32(info.format.rawValue), records: bytes, units: units, columns: columns)
  }

  /// `count` f32 values.
  func vector(_ name: String, _ count: Int) throws(ModelError) -> Vector {
    let (info, bytes) = try tensor(name, rowsPerRecord: 1)
    guard info.rows == 1, info.columns == count else { throw shapeError(info, [1, count]) }
    guard info.format == .f32 else {
      throw ModelError(.wrongFormat(tensor: name, found: info.format.name, expected: "F32"), path: path)
    }
    return bytes.assumingMemoryBound(to: Float.self)
  }

  /// `count` values computed once, as the models' authors do at load.
  func derived(
    _ count: Int, _ value: (Int) -> Double
  ) throws(ModelError) -> Vector {
    let values = try arena.allocate(Float.self, count: count)
    for index in 0..<count { values[index] = Float(value(index)) }
    return Vector(values)
  }

  /// Token-shift weights of versions 4 and 5, which weigh the current token, turned into the later versions' form,
  /// which weighs the previous one.
  func complement(_ name: String, _ count: Int) throws(ModelError) -> Vector {
    let mix = try vector(name, count)
    return try derived(count) { 1 - Double(mix[$0]) }
  }

  func layerNorm(_ name: String, _ count: Int) throws(ModelError) -> LayerNorm {
    LayerNorm(weight: try vector("\(name).weight", count), bias: try vector("\(name).bias", count))
  }

  func contains(_ name: String) -> Bool { tensors[name] != nil }

  private func tensor(
    _ name: String, rowsPerRecord: Int
  ) throws(ModelError) -> (info: TensorInfo, bytes: UnsafeRawPointer) {
    guard let found = tensors[name] else { throw ModelError(.missingTensor(name), path: path) }
    guard found.info.rowsPerRecord == rowsPerRecord else {
      throw ModelError(
        .wrongFormat(
          tensor: name, found: "\(found.info.rowsPerRecord) rows per record", expected: "\(rowsPerRecord)"),
        path: path)
    }
    return found
  }

  private func shapeError(_ info: TensorInfo, _ expected: [Int]) -> ModelError {
    ModelError(
      .wrongShape(tensor: info.name, found: [info.rows, info.columns], expected: expected), path: path)
  }
}
