// SPDX-License-Identifier: MIT
import RWKV
public import RWKVFormat
import RWKVTokenizer
import Synchronization

/// A complete check of a model file.
public enum Verification {
  /// Checks every checksum, every shape against the architecture, every value and the tokenizer.
  ///
  /// It reads the whole file once, chunk by chunk, with a few MiB of memory per thread.
  /// - Parameter progress: as in `Conversion.convert`.
  /// - Returns: the problems found, one sentence each; none if the file is sound.
  public static func problems(
    of path: String, threads: Int = processorCount(),
    progress: @escaping @Sendable (Double) -> Bool = { _ in true }
  ) throws(QuantizationError) -> [String] {
    let file: ModelFile
    do { file = try ModelFile(path: path) } catch {
      if case .system = error.reason { throw .file(error) }
      return ["\(error)"]
    }
    let structure = Blueprint.problems(file.metadata, file.tensors.map(TensorPlan.init)).map(\.description)
    var problems = structure
    do throws(ModelFileError) { try file.checkPadding() } catch { problems.append("\(error)") }

    let found = Mutex([[String]](repeating: [], count: file.tensors.count))
    let done = Atomic<Int>(0)
    let cancelled = Atomic<Bool>(false)
    try parallel(file.tensors.count, threads: threads, cancelled: { cancelled.load(ordering: .relaxed) }) {
      (reader: ChunkReader(), scratch: Scratch())
    } task: { (index, context) throws(QuantizationError) in
      let tensor = file.tensors[index]
      let problems = check(tensor, file, context.reader, context.scratch) { bytes in
        let sum = done.add(bytes, ordering: .relaxed).newValue
        if !progress(Double(sum) / Double(max(1, file.rawBytes))) {
          cancelled.store(true, ordering: .relaxed)
        }
        return !cancelled.load(ordering: .relaxed)
      }
      found.withLock { $0[index] = problems }
    }
    if cancelled.load(ordering: .relaxed) { throw .cancelled }
    problems += found.withLock { $0.flatMap(\.self) }
    return structure.isEmpty ? problems + tokenizerProblems(file) : problems
  }

  /// Checksums and values of one tensor. `advance` gets the bytes of each chunk; false stops.
  private static func check(
    _ tensor: TensorInfo, _ file: ModelFile, _ reader: ChunkReader, _ scratch: Scratch, advance: (Int) -> Bool
  ) -> [String] {
    var problems: [String] = []
    var hash = XXH64()
    var isComplete = true
    var values = ValueCheck(tensor)
    for chunk in 0..<tensor.chunkCount {
      let bytes = scratch.bytes(file.rawLength(ofChunk: chunk, of: tensor))
      do throws(ModelFileError) {
        try file.readChunk(chunk, of: tensor, into: bytes, using: reader)
        let records = tensor.records(ofChunk: chunk)
        hash.update(UnsafeRawBufferPointer(bytes))
        values.check(UnsafeRawBufferPointer(bytes), records)
      } catch {
        problems.append("\(error)")
        isComplete = false
      }
      guard advance(bytes.count) else { return problems }
    }
    if isComplete {
      do throws(ModelFileError) { try file.checkHash(hash.value, of: tensor) } catch {
        problems.append("\(error)")
      }
    }
    if let problem = values.problem { problems.append("\(file.path): tensor '\(tensor.name)': \(problem)") }
    return problems
  }

  /// Whether the tokenizer can be used with the model; where it lies in the file has been looked at before.
  private static func tokenizerProblems(_ file: ModelFile) -> [String] {
    do throws(ModelError) {
      guard let size = try Model.tokenizer(in: file)?.vocabularySize else { return [] }
      let rows = Int(file.metadata.integer("rwkv.vocabulary") ?? 0)
      return size <= rows ? [] : ["\(ModelError(.largeTokenizer(tokens: size, vocabulary: rows)))"]
    } catch {
      return ["\(error)"]
    }
  }
}

/// Looks for values that no writer makes: NaN and infinities, and codes and scales that are marked invalid.
private struct ValueCheck {
  private let tensor: TensorInfo
  private let runs: [[RecordLayout.Run]]
  /// The first problem.
  private(set) var problem: String?

  init(_ tensor: TensorInfo) {
    self.tensor = tensor
    runs = tensor.layout.runs()
  }

  /// `bytes`: the records of `range`.
  mutating func check(_ bytes: UnsafeRawBufferPointer, _ range: Range<Int>) {
    guard problem == nil, tensor.format != .bytes, let base = bytes.baseAddress else { return }
    for record in range {
      let start = base + (record - range.lowerBound) * tensor.recordBytes
      for (byteClass, runs) in runs.enumerated() {
        for run in runs {
          let run = UnsafeRawBufferPointer(start: start + run.offset, count: run.length)
          if let found = Self.invalid(run, tensor.format, RecordLayout.ByteClass(rawValue: byteClass)) {
            problem = "\(found) in record \(record)"
            return
          }
        }
      }
      if tensor.format == .int8, let column = zeroCode(start, record) {
        problem = "the invalid code 0 in record \(record), column \(column)"
        return
      }
    }
  }

  private static func invalid(
    _ run: UnsafeRawBufferPointer, _ format: WeightFormat, _ byteClass: RecordLayout.ByteClass?
  ) -> String? {
    func any<Word: FixedWidthInteger>(_: Word.Type, _ mask: Word, equals value: Word) -> Bool {
      run.bindMemory(to: Word.self).contains { $0 & mask == value }
    }
    switch byteClass {
    case .d: return any(UInt16.self, 0x7C00, equals: 0x7C00) ? "a scale d that is not finite" : nil
    case .scales:
      // A signed scale is not the number that has no opposite.
      let lowest = 1 << (format.row.scaleBits - 1)
      guard 1..<8 ~= format.row.scaleBits, any(UInt8.self, UInt8(2 * lowest - 1), equals: UInt8(lowest))
      else {
        return nil
      }
      return "the invalid block scale -\(lowest)"
    case .codes:
      let isInfinite =
        switch format {
        case .f32: any(UInt32.self, 0x7F80_0000, equals: 0x7F80_0000)
        case .f16: any(UInt16.self, 0x7C00, equals: 0x7C00)
        case .bf16: any(UInt16.self, 0x7F80, equals: 0x7F80)
        case .bytes, .int4, .int5, .int8: false
        }
      return isInfinite ? "a NaN or infinity" : nil
    case .lowBits, nil: return nil
    }
  }

  /// Column of the first INT8 code 0 that is not padding.
  private func zeroCode(_ start: UnsafeRawPointer, _ record: Int) -> Int? {
    let isPanel = tensor.rowsPerRecord == 16
    var first = 0  // column of the run
    for run in runs[RecordLayout.ByteClass.codes.rawValue] {
      for index in 0..<run.length where start.load(fromByteOffset: run.offset + index, as: UInt8.self) == 0 {
        // Panels: byte 4·r + i of each line of 64 is row r, column i of 4.
        let row = isPanel ? record * 16 + index % 64 / 4 : record
        let column = first + (isPanel ? index / 64 * 4 + index % 4 : index)
        if row < tensor.rows && column < tensor.columns { return column }
      }
      first += isPanel ? run.length / 16 : run.length
    }
    return nil
  }
}
