// SPDX-License-Identifier: MIT
import CRWKVKernels
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

/// Makes the chunks of a model file on all threads.
///
/// A thread holds one chunk at a time: its weights in F32 (8 MB for 1 MiB of INT4) and its records. The same input
/// gives the same bytes for any number of threads and on any machine.
struct Quantizer: Sendable {
  let source: (any WeightSource)?
  let tensors: [PlannedTensor]
  let threads: Int
  /// A table of pure functions.
  nonisolated(unsafe) let kernels: rk_kernels

  /// Writes all chunks. `progress` gets the share done, 0…1, from any thread, one call at a time; false stops.
  func run(_ writer: ModelFileWriter, progress: @escaping @Sendable (Double) -> Bool)
    throws(QuantizationError)
  {
    let firsts = writer.tensors.map(\.firstChunk)
    let total = writer.tensors.reduce(0) { $0 + $1.chunkCount }
    let weights = max(1, writer.tensors.reduce(0) { $0 + $1.rows * $1.columns })
    let sequence = ChunkSequence(writer, window: 4 * threads)
    let done = Mutex(0)
    let cancelled = Atomic<Bool>(false)
    try parallel(total, threads: threads, cancelled: { cancelled.load(ordering: .relaxed) }) {
      Worker(self, writer)
    } task: { (index, worker) throws(QuantizationError) in
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
        guard !progress(min(1, Double(done) / Double(weights))) else { return }
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
    private let (values, records) = (Scratch(), Scratch())

    init(_ quantizer: Quantizer, _ writer: ModelFileWriter) {
      self.quantizer = quantizer
      self.writer = writer
      weightReader = quantizer.source?.makeReader()
    }

    func make(chunk: Int, of tensor: Int) throws(QuantizationError) -> EncodedChunk {
      let info = writer.tensors[tensor]
      let range = info.records(ofChunk: chunk)
      let bytes = records.bytes(range.count * info.recordBytes)
      switch quantizer.tensors[tensor].content {
      case .weights(let number):
        try quantize(number, range, of: info, into: bytes)
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

    /// Reads the rows of `range` and packs them.
    private func quantize(
      _ number: Int, _ range: Range<Int>, of info: TensorInfo, into bytes: UnsafeMutableRawBufferPointer
    ) throws(QuantizationError) {
      guard let weightReader, let source = quantizer.source else {
        preconditionFailure("weights need a source")
      }
      let perRecord = info.rowsPerRecord
      let rows = range.lowerBound * perRecord..<min(info.rows, range.upperBound * perRecord)
      let x = values.bytes(rows.count * info.columns * 4).bindMemory(to: Float.self)
      try weightReader.read(number, rows: rows, into: x)
      try checkFinite(UnsafeBufferPointer(x), source.tensors[number], rows, path: source.path)
      guard let x = x.baseAddress, let out = bytes.baseAddress else { return }
      let format = Int32(info.format.rawValue)
      for record in range {
        let place = out + (record - range.lowerBound) * info.recordBytes
        let start = x + (record - range.lowerBound) * perRecord * info.columns
        if perRecord == 1 {
          quantizer.kernels.encode_row(format, start, info.columns, place)
        } else {
          let count = min(16, info.rows - record * 16)
          quantizer.kernels.encode_panel(format, start, info.columns, count, info.columns, place)
        }
      }
    }
  }
}

/// Throws for the first NaN or infinity among consecutive rows of a tensor.
func checkFinite(
  _ values: UnsafeBufferPointer<Float>, _ tensor: SourceTensor, _ rows: Range<Int>, path: String
) throws(QuantizationError) {
  // The largest magnitude as an integer: NaN and infinity are the largest of all.
  let largest = values.reduce(0) { max($0, $1.bitPattern & 0x7FFF_FFFF) }
  guard largest >= Float.infinity.bitPattern, let index = values.firstIndex(where: { !$0.isFinite }) else {
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
    let found = Mutex([Exactness](repeating: Exactness(), count: tensors.count))
    let work = pieces
    try parallel(work.count, threads: threads, cancelled: cancelled) {
      (reader: makeReader(), scratch: Scratch())
    } task: { (index, context) throws(QuantizationError) in
      let (number, rows) = work[index]
      let tensor = tensors[number]
      let values = context.scratch.bytes(rows.count * tensor.columns * 4).bindMemory(to: Float.self)
      try context.reader.read(number, rows: rows, into: values)
      try checkFinite(UnsafeBufferPointer(values), tensor, rows, path: path)
      let exactness = Exactness(UnsafeBufferPointer(values))
      found.withLock { $0[number].formUnion(exactness) }
    }
    return found.withLock { $0 }
  }
}
