// SPDX-License-Identifier: MIT
internal import RWKVFormat
import Dispatch
import Synchronization

/// The weights of one model, exactly as they stand in the file after decompression: in memory, in the mapped file, or
/// passing through memory block by block.
///
/// Hands out matrices and vectors by name and checks their shapes. Immutable once loaded.
final class WeightStore: @unchecked Sendable {
  let configuration: Configuration
  private let file: ModelFile
  private let arena = Arena()
  private var locations: [String: Location] = [:]
  /// Matrices by hidden unit that were handed out.
  private(set) var hiddenRowsCount = 0

  /// Tables by token of 7a and 7b that were handed out.
  private(set) var tables: [TokenRows.Table] = []

  /// Bytes of weights that a token needs.
  let byteCount: Int
  /// The file in memory, whose stored matrices are used in place; nil if the file is not mapped.
  private let mapping: FileMapping?
  /// Chunks of the mapping, by the position of the block that uses them; last: those outside of blocks.
  private var mapped: [[ChunkPlace]]
  /// Whether their checksums have been compared, which the first evaluation does.
  private let isVerified = Atomic<Bool>(false)
  private let failure = Mutex<ModelError?>(nil)
  /// Brings blocks that are not kept in memory there; nil if all are.
  private var stream: WeightStream?
  private(set) var streaming: Streaming?

  /// Inflates what stays in memory into place, with `threads` threads.
  ///
  /// `progress` is called with the share done, 0…1, from any thread; the load stops when it returns false.
  init(
    _ file: ModelFile, _ configuration: Configuration, _ plan: MemoryPlan, threads: Int,
    progress: (@Sendable (Double) -> Bool)?
  ) throws(ModelError) {
    (self.configuration, self.file) = (configuration, file)
    let groups = plan.groups
    byteCount = groups.blocks.reduce(TensorGroups.byteCount(groups.common)) {
      $0 + TensorGroups.byteCount($1)
    }
    // A file that cannot be mapped is loaded.
    mapping = plan.mapsFile ? try? FileMapping(file) : nil
    mapped = Array(repeating: [], count: groups.blocks.count + 1)
    // What matrices' locations refer to: a region for each block, the mapping, and memory.
    let regions = try arena.allocate(UnsafeRawPointer.self, count: groups.blocks.count + 2)
    let (mappedRegion, memory) = (regions + groups.blocks.count, regions + groups.blocks.count + 1)
    if let base = mapping?.bytes.baseAddress { mappedRegion.pointee = base }

    var streams = plan.isStreamed.map { $0 ? WeightStream.Group() : nil }
    var (loaded, loadedBytes): ([(TensorInfo, Int)], Int) = ([], 0)
    for (position, tensors) in (groups.blocks + [groups.common]).enumerated() {
      for tensor in tensors {
        if tensor.rows > 1, mapping != nil, let offset = file.storedOffset(of: tensor) {
          locations[tensor.name] = Location(region: mappedRegion, offset: Int(offset))
          mapped[position] += ChunkPlace.all(of: tensor, at: Int(offset), in: file)
        } else if position < streams.count, let start = streams[position]?.byteCount {
          locations[tensor.name] = Location(region: regions + position, offset: start)
          streams[position]?.chunks += ChunkPlace.all(of: tensor, at: start, in: file)
          streams[position]?.byteCount += tensor.paddedBytes
        } else {
          locations[tensor.name] = Location(region: memory, offset: loadedBytes)
          loaded.append((tensor, loadedBytes))
          loadedBytes += tensor.paddedBytes
        }
      }
    }
    let base = try arena.allocate(byteCount: loadedBytes, hugePages: true)
    memory.pointee = UnsafeRawPointer(base)
    let chunks = loaded.flatMap { ChunkPlace.all(of: $0.0, at: $0.1, in: file) }
    let readers = (0..<availableThreads(min(threads, chunks.count))).map { _ in ChunkReader() }
    try file.load(chunks, to: base, using: readers, progress: progress)
    guard var streaming = plan.streaming else { return }
    let stream = try WeightStream(file, streams, regions: regions, arena: arena)
    (streaming.firstTokensPerSecond, streaming.cachedTokensPerSecond) = try stream.expectedRates(readers)
    (self.stream, self.streaming) = (stream, streaming)
  }

  // MARK: - Evaluation

  /// What an evaluation has to do before it uses a block.
  enum Access {
    case nothing, verify, stream
  }

  /// Whether stored matrices are used in the file.
  var isMapped: Bool { mapping != nil }

  /// Whether blocks pass through memory, so that a pass over all of them is expensive.
  var isStreamed: Bool { stream != nil }

  /// Runs one evaluation, which acquires every block before it uses it.
  ///
  /// Throws before `body` is run if the file has been changed, and after it if something could not be read, so that
  /// what `body` computed is wrong.
  func evaluate(_ body: (Access) throws(ModelError) -> Void) throws(ModelError) {
    guard stream != nil || mapping != nil else { return try body(.nothing) }
    try check()
    if let stream {
      return try stream.evaluate { () throws(ModelError) in
        try body(.stream)
        try check()
      }
    }
    let access = isVerified.load(ordering: .acquiring) ? Access.nothing : .verify
    try body(access)
    try check()
    guard access == .verify else { return }
    let error = failure.withLock { failure in
      defer { failure = nil }
      return failure
    }
    if let error { throw error }
    isVerified.store(true, ordering: .releasing)
  }

  /// Throws if the file is not what it was when it was opened. Bytes whose checksums have been compared once are
  /// trusted as long as it is.
  func check() throws(ModelError) {
    do {
      if let mapping { try mapping.check() } else { try file.checkUnchanged() }
    } catch {
      throw ModelError(error)
    }
  }

  /// How long a pass over the streamed blocks takes: see `Model.secondsPerPass`.
  func secondsPerPass(threads: Int) throws(ModelError) -> Double? {
    try stream?.secondsPerPass((0..<availableThreads(threads)).map { _ in ChunkReader() })
  }

  /// Makes the matrices of the block at `position` usable; position L: those outside of blocks. Called by all members.
  @inline(__always)
  func acquire(
    _ position: Int, _ access: Access, _ member: inout Team.Member, _ readers: [ChunkReader]
  ) {
    switch access {
    case .nothing: return
    case .verify: member.parallel(mapped[position].count) { verify(mapped[position][$0]) }
    case .stream: stream?.acquire(position, &member, readers)
    }
  }

  private func verify(_ place: ChunkPlace) {
    guard let mapping else { return }
    let bytes = UnsafeRawBufferPointer(rebasing: mapping.bytes[place.range])
    do throws(ModelFileError) { try file.verifyChunk(place.chunk, of: place.tensor, bytes: bytes) } catch {
      failure.withLock { $0 = $0 ?? ModelError(error) }
    }
  }

  // MARK: - By name

  /// Number of rows of a matrix in panels.
  func rows(_ name: String) throws(ModelError) -> Int { try tensor(name, rowsPerRecord: 16).info.rows }

  /// A matrix [rows, columns] in panels.
  func matrix(_ name: String, rows: Int, columns: Int) throws(ModelError) -> Matrix {
    let (info, location) = try tensor(name, rowsPerRecord: 16)
    guard info.rows == rows, info.columns == columns else { throw shapeError(info, [rows, columns]) }
    return Matrix(format: Int32(info.format.rawValue), location: location, rows: rows, columns: columns)
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
    let (info, location) = try tensor(name, rowsPerRecord: 1)
    guard info.rows == units, info.columns == columns else { throw shapeError(info, [units, columns]) }
    defer { hiddenRowsCount += 1 }
    return HiddenRows(
      format: Int32(info.format.rawValue), location: location, ordinal: hiddenRowsCount, units: units,
      columns: columns)
  }

  /// A table with a row for each token, which the block at `position` reads; returns its number among all of them.
  func table(_ name: String, columns: Int, position: Int) throws(ModelError) -> Int {
    let table = try RowTable(file, name, rows: configuration.vocabulary, columns: columns)
    defer { tables.append(TokenRows.Table(table: table, position: position)) }
    return tables.count
  }

  /// `count` f32 values, which are always in memory.
  func vector(_ name: String, _ count: Int) throws(ModelError) -> Vector {
    let (info, location) = try tensor(name, rowsPerRecord: 1)
    guard info.rows == 1, info.columns == count else { throw shapeError(info, [1, count]) }
    guard info.format == .f32 else {
      throw ModelError(.wrongFormat(tensor: name, found: info.format.name, expected: "F32"), path: file.path)
    }
    return location.address.assumingMemoryBound(to: Float.self)
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
    LayerNorm(
      weight: try vector("\(name).weight", count), bias: try vector("\(name).bias", count), count: count)
  }

  func contains(_ name: String) -> Bool { locations[name] != nil }

  var embeddingTasks: [EmbeddingTask] { EmbeddingTask.heads(among: locations.keys) }

  func location(of name: String) -> Location? { locations[name] }

  private func tensor(
    _ name: String, rowsPerRecord: Int
  ) throws(ModelError) -> (info: TensorInfo, location: Location) {
    guard let location = locations[name], let info = file[name] else {
      throw ModelError(.missingTensor(name), path: file.path)
    }
    guard info.rowsPerRecord == rowsPerRecord else {
      throw ModelError(
        .wrongFormat(
          tensor: name, found: "\(info.rowsPerRecord) rows per record", expected: "\(rowsPerRecord)"),
        path: file.path)
    }
    return (info, location)
  }

  private func shapeError(_ info: TensorInfo, _ expected: [Int]) -> ModelError {
    ModelError(
      .wrongShape(tensor: info.name, found: [info.rows, info.columns], expected: expected), path: file.path)
  }
}
