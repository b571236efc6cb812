// SPDX-License-Identifier: MIT
import CRWKVKernels
import RWKV
import RWKVFormat
import Synchronization

/// A tensor of the output and what it is made from.
struct PlannedTensor: Sendable {
  enum Content: Sendable {
    /// Weights: tensor number of the source.
    case weights(Int)
    /// The records of a `.rwkv` file as they are.
    case records(ModelFile, TensorInfo)
    /// Raw bytes: the tokenizer.
    case bytes([UInt8])
  }
  let plan: TensorPlan
  let content: Content
}

/// Makes the chunks of a model file on all threads: here a checkpoint's tensors become records (`Worker.quantize`).
///
/// A thread holds the records of one chunk at a time and some rows of its weights in F32 (2 MiB), or all of them where
/// errors are made up for (8 MB for 1 MiB of INT4). The same input gives the same bytes for any number of threads and on
/// any machine.
struct Quantizer: Sendable {
  let source: (any WeightSource)?
  let tensors: [PlannedTensor]
  let threads: Int
  /// A table of pure functions.
  nonisolated(unsafe) let kernels: rk_kernels

  /// Writes all chunks of the tensors in `range`, which are the next in the file.
  ///
  /// - Parameters:
  ///   - factors: of tensors whose rounding errors are made up for, by name (Calibration.swift).
  ///   - progress: gets the share of the whole file done, 0…1, from any thread, one call at a time; false stops.
  func run(
    _ writer: ModelFileWriter, tensors range: Range<Int>, factors: [String: InputMoments.Tensor] = [:],
    progress: @escaping @Sendable (Double) -> Bool
  ) throws(QuantizationError) {
    func weights(_ tensors: some Sequence<TensorInfo>) -> Int {
      tensors.reduce(0) { $0 + $1.rows * $1.columns }
    }
    let firsts = writer.tensors.map(\.firstChunk)
    let first = writer.tensors[..<range.lowerBound].reduce(0) { $0 + $1.chunkCount }
    let count = writer.tensors[range].reduce(0) { $0 + $1.chunkCount }
    let all = max(1, weights(writer.tensors))
    let sequence = ChunkSequence(writer, first: first, window: 4 * threads)
    let done = Mutex(weights(writer.tensors[..<range.lowerBound]))
    let cancelled = Atomic<Bool>(false)
    try parallel(count, threads: threads, cancelled: { cancelled.load(ordering: .relaxed) }) {
      Worker(self, writer, factors)
    } task: { (number, worker) throws(QuantizationError) in
      let index = first + number
      let tensor = Self.lastIndex(in: firsts, atMost: index)
      let chunk = index - firsts[tensor]
      sequence.wait(for: index)
      do throws(QuantizationError) {
        try sequence.put(worker.make(chunk: chunk, of: tensor), at: index)
      } catch {
        sequence.stop()
        throw error
      }
      let info = writer.tensors[tensor]
      done.withLock { done in
        done += min(info.records(ofChunk: chunk).count * info.rowsPerRecord, info.rows) * info.columns
        guard !progress(min(1, Double(done) / Double(all))) else { return }
        cancelled.store(true, ordering: .relaxed)
        sequence.stop()
      }
    }
    // Cancelled at the very end: the file is complete, but nobody wants it.
    if cancelled.load(ordering: .relaxed) { throw .cancelled }
  }

  /// Index of the last of the ascending `numbers` that is not above `limit`; the first number is 0.
  private static func lastIndex(in numbers: [Int], atMost limit: Int) -> Int {
    var (low, high) = (0, numbers.count)
    while high - low > 1 {
      let middle = (low + high) / 2
      if numbers[middle] <= limit { low = middle } else { high = middle }
    }
    return low
  }

  /// What one thread needs to make chunks.
  private final class Worker {
    private let quantizer: Quantizer
    private let writer: ModelFileWriter
    private let chunkWriter = ChunkWriter()
    private let weightReader: (any WeightReader)?
    private var recordReader: RecordReader?
    private let (values, records, rounded) = (Scratch(), Scratch(), Scratch())
    private let factors: [String: InputMoments.Tensor]

    init(_ quantizer: Quantizer, _ writer: ModelFileWriter, _ factors: [String: InputMoments.Tensor]) {
      self.quantizer = quantizer
      self.writer = writer
      self.factors = factors
      weightReader = quantizer.source?.makeReader()
    }

    func make(chunk: Int, of tensor: Int) throws(QuantizationError) -> EncodedChunk {
      let info = writer.tensors[tensor]
      let range = info.records(ofChunk: chunk)
      let bytes = records.bytes(range.count * info.recordBytes)
      switch quantizer.tensors[tensor].content {
      case .weights(let number):
        try quantize(number, chunk: chunk, of: info, into: bytes)
      case .records(let file, let original):
        let reader = recordReader ?? RecordReader(file)
        recordReader = reader
        try reader.read(range, of: original, into: bytes)
      case .bytes(let blob):
        blob.withUnsafeBytes { bytes.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[range])) }
      }
      do {
        return try writer.encode(
          UnsafeRawBufferPointer(bytes), chunk: chunk, ofTensor: tensor, using: chunkWriter)
      } catch {
        throw .file(error)
      }
    }

    /// Weights that are read at a time, but no fewer rows than that: stored columns are read in long runs, and once.
    private static let (partWeights, partRows) = (1 << 19, 256)

    /// Reads the rows of a chunk as F32 and makes records of them: the place where weights are rounded.
    private func quantize(
      _ number: Int, chunk: Int, of info: TensorInfo, into bytes: UnsafeMutableRawBufferPointer
    ) throws(QuantizationError) {
      let records = info.records(ofChunk: chunk)
      guard let out = bytes.baseAddress, !records.isEmpty else { return }
      var magnitude: Float = 0
      if info.rowsPerRecord == 1, let factor = factors[info.name] {
        let x = try rows(of: info, records: records, from: number, &magnitude)
        encodeInTurn(chunk, of: info, x, factor, into: out)
      } else {
        let rows = records.count * info.rowsPerRecord
        let wanted = (rows * info.columns + Self.partWeights - 1) / Self.partWeights
        let parts = max(1, min(wanted, rows / Self.partRows))
        let step = (records.count + parts - 1) / parts
        for first in stride(from: records.lowerBound, to: records.upperBound, by: step) {
          let part = first..<min(first + step, records.upperBound)
          let x = try self.rows(of: info, records: part, from: number, &magnitude)
          encode(part, of: info, x, into: out + (first - records.lowerBound) * info.recordBytes)
        }
      }
      // That all are so small can be said at the end alone.
      try require(magnitude, for: info)
    }

    /// The rows of some records as F32, valid until the next call.
    /// - Parameter magnitude: the largest so far.
    private func rows(
      of info: TensorInfo, records: Range<Int>, from number: Int, _ magnitude: inout Float
    ) throws(QuantizationError) -> UnsafeMutablePointer<Float> {
      guard let weightReader, let source = quantizer.source else {
        preconditionFailure("weights need a source")
      }
      let perRecord = info.rowsPerRecord
      let rows = records.lowerBound * perRecord..<min(info.rows, records.upperBound * perRecord)
      let x = values.bytes(rows.count * info.columns * 4).bindMemory(to: Float.self)
      try weightReader.read(number, rows: rows, into: x)
      try checkFinite(UnsafeBufferPointer(x), source.tensors[number], rows, path: source.path)
      magnitude = max(magnitude, largestMagnitude(UnsafeBufferPointer(x)))
      if let most = info.format.range?.upperBound, magnitude > most { try require(magnitude, for: info) }
      guard let start = x.baseAddress else { preconditionFailure("records have rows") }
      return start
    }

    private func require(_ magnitude: Float, for info: TensorInfo) throws(QuantizationError) {
      guard let range = info.format.range, magnitude != 0, !range.contains(magnitude) else { return }
      throw .outsideRange(tensor: info.name, format: info.format, magnitude: magnitude)
    }

    private func encode(
      _ records: Range<Int>, of info: TensorInfo, _ x: UnsafeMutablePointer<Float>,
      into out: UnsafeMutableRawPointer
    ) {
      let (format, perRecord) = (Int32(info.format.rawValue), info.rowsPerRecord)
      for record in records {
        let place = out + (record - records.lowerBound) * info.recordBytes
        let start = x + (record - records.lowerBound) * perRecord * info.columns
        if perRecord == 1 {
          quantizer.kernels.encode_row(format, start, info.columns, place)
        } else {
          var panel = rk_encode_panel(
            format: format, x: start, rows: min(16, info.rows - record * 16), columns: info.columns,
            stride: info.columns, factor: factors[info.name]?.sums, panel: place)
          quantizer.kernels.encode_panel(&panel)
        }
      }
    }

    /// Packs rows of hidden units one by one; those that follow in the same block make up for the error of each.
    private func encodeInTurn(
      _ chunk: Int, of info: TensorInfo, _ x: UnsafeMutablePointer<Float>, _ factor: InputMoments.Tensor,
      into out: UnsafeMutableRawPointer
    ) {
      let format = Int32(info.format.rawValue)
      let first = info.records(ofChunk: chunk).lowerBound
      let error = rounded.bytes(info.columns * 4).bindMemory(to: Float.self)
      guard let errors = error.baseAddress else { return }
      for rows in info.compensatedRows(ofChunk: chunk) {
        guard let block = factor.blocks.firstIndex(of: rows) else { preconditionFailure("blocks of chunks") }
        let shares = factor.sums + block * InputMoments.Tensor.blockCount
        for row in rows {
          let values = x + (row - first) * info.columns
          let record = out + (row - first) * info.recordBytes
          quantizer.kernels.encode_row(format, values, info.columns, record)
          // What the row lost, to be taken over by the rows after it.
          quantizer.kernels.decode_row(format, record, info.columns, errors)
          for column in error.indices { error[column] = values[column] - error[column] }
          let share = shares + 256 * (row - rows.lowerBound) - rows.lowerBound
          for other in row + 1..<max(rows.upperBound, row + 1) {
            let target = x + (other - first) * info.columns
            quantizer.kernels.add_scaled(-share[other], errors, info.columns, target)
          }
        }
      }
    }
  }
}

extension WeightFormat {
  /// The largest magnitude that blocks of codes reach, and the least with which all of their scales can be used
  /// (formats/rwkv-v1.md: the table's reach times the largest scale times d, which is an F16 in units of 2^-12): what is
  /// larger would be cut off, and where all is smaller it would lose its precision. Nil if there are no codes.
  fileprivate var range: ClosedRange<Float>? {
    guard isCoded, let numbers = rk_format_numbers(Int32(rawValue))?.pointee else { return nil }
    let reach = numbers.reach * Float(numbers.largest_scale)
    return reach * 0x1p-12 * 0x1p-24...reach * 0x1p-12 * 65504
  }
}

/// The largest magnitude; as integers, NaN and infinity are the largest of all.
private func largestMagnitude(_ values: UnsafeBufferPointer<Float>) -> Float {
  Float(bitPattern: values.reduce(0) { max($0, $1.bitPattern & 0x7FFF_FFFF) })
}

/// Throws for the first NaN or infinity among consecutive rows of a tensor.
func checkFinite(
  _ values: UnsafeBufferPointer<Float>, _ tensor: SourceTensor, _ rows: Range<Int>, path: String
) throws(QuantizationError) {
  guard !largestMagnitude(values).isFinite, let index = values.firstIndex(where: { !$0.isFinite }) else {
    return
  }
  throw .notFinite(
    path: path, tensor: tensor.name, row: rows.lowerBound + index / tensor.columns,
    column: index % tensor.columns,
    value: values[index])
}

extension WeightSource {
  /// Looks at all values of the tensors for which `isNeeded`: which 16-bit formats are exact?
  func exactness(
    threads: Int, cancelled: @escaping @Sendable () -> Bool, isNeeded: (SourceTensor) -> Bool
  ) throws(QuantizationError) -> [Exactness] {
    // About a million values at a time.
    var pieces: [(tensor: Int, rows: Range<Int>)] = []
    for (number, tensor) in tensors.enumerated() where isNeeded(tensor) {
      let step = max(1, (1 << 20) / tensor.columns)
      for first in stride(from: 0, to: tensor.rows, by: step) {
        pieces.append((number, first..<min(tensor.rows, first + step)))
      }
    }
    let work = pieces
    let found = Mutex([Exactness](repeating: Exactness(), count: work.count))
    try parallel(work.count, threads: threads, cancelled: cancelled) {
      (reader: makeReader(), scratch: Scratch())
    } task: { (index, context) throws(QuantizationError) in
      let (number, rows) = work[index]
      let tensor = tensors[number]
      let values = context.scratch.bytes(rows.count * tensor.columns * 4).bindMemory(to: Float.self)
      try context.reader.read(number, rows: rows, into: values)
      try checkFinite(UnsafeBufferPointer(values), tensor, rows, path: path)
      let exactness = Exactness(UnsafeBufferPointer(values))
      found.withLock { $0[index] = exactness }
    }
    // In order, so that sums of errors are the same for any number of threads.
    return found.withLock { found in
      zip(work, found).reduce(into: [Exactness](repeating: Exactness(), count: tensors.count)) {
        $0[$1.0.tensor].formUnion($1.1)
      }
    }
  }
}
