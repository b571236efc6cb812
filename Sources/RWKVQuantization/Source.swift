// SPDX-License-Identifier: MIT
import CRWKVKernels
import Glibc
import RWKVCheckpoint
import RWKVFormat

/// A tensor of the input as the output will have it: rows = outputs (or hidden units, or tokens).
struct SourceTensor: Sendable {
  let name: String
  let role: TensorRole
  let rows: Int
  let columns: Int
  let transposed: Bool
  /// Whether its values are F16 already, so that nothing needs to be looked at.
  let isF16: Bool

  var weights: Int { rows * columns }
}

/// Where weights come from. Readers belong to one thread each.
protocol WeightSource: Sendable {
  var path: String { get }
  var tensors: [SourceTensor] { get }
  func makeReader() -> any WeightReader
}

protocol WeightReader: AnyObject {
  /// Fills `values` with consecutive rows of a tensor.
  func read(
    _ tensor: Int, rows: Range<Int>, into values: UnsafeMutableBufferPointer<Float>
  ) throws(QuantizationError)
}

/// A checkpoint of any container.
struct CheckpointSource: WeightSource {
  let checkpoint: Checkpoint
  let path: String
  let tensors: [SourceTensor]

  init(_ checkpoint: Checkpoint, path: String) {
    self.checkpoint = checkpoint
    self.path = path
    tensors = checkpoint.tensors.map {
      SourceTensor(
        name: $0.name, role: $0.role, rows: $0.rows, columns: $0.columns, transposed: $0.transposed,
        isF16: $0.sourceType == .f16 && !$0.isUpdated)
    }
  }

  func makeReader() -> any WeightReader { Reader(checkpoint) }

  private final class Reader: WeightReader {
    let checkpoint: Checkpoint
    init(_ checkpoint: Checkpoint) { self.checkpoint = checkpoint }

    func read(
      _ tensor: Int, rows: Range<Int>, into values: UnsafeMutableBufferPointer<Float>
    ) throws(QuantizationError) {
      do {
        try checkpoint.readRows(checkpoint.tensors[tensor], rows: rows, into: values)
      } catch {
        throw .checkpoint(error)
      }
    }
  }
}

/// A `.rwkv` file whose weights are F32, F16 or BF16.
struct ModelFileSource: WeightSource {
  let file: ModelFile
  let tensors: [SourceTensor]
  private let infos: [TensorInfo]
  var path: String { file.path }

  init(_ file: ModelFile) throws(QuantizationError) {
    self.file = file
    infos = file.tensors.filter { $0.format != .bytes }
    for info in infos where info.format.isCoded {
      throw .alreadyQuantized(path: file.path, tensor: info.name, format: info.format)
    }
    tensors = infos.map {
      SourceTensor(
        name: $0.name, role: TensorRole($0), rows: $0.rows, columns: $0.columns, transposed: $0.transposed,
        isF16: $0.format == .f16)
    }
  }

  func makeReader() -> any WeightReader { Reader(file, infos) }

  private final class Reader: WeightReader {
    private let records: RecordReader
    private let infos: [TensorInfo]
    private let kernels = rk_kernels_best().pointee
    private let scratch = Scratch()

    init(_ file: ModelFile, _ infos: [TensorInfo]) {
      records = RecordReader(file)
      self.infos = infos
    }

    func read(
      _ tensor: Int, rows: Range<Int>, into values: UnsafeMutableBufferPointer<Float>
    ) throws(QuantizationError) {
      let info = infos[tensor]
      let perRecord = info.rowsPerRecord
      let first = rows.lowerBound / perRecord
      let range = first..<(rows.upperBound - 1) / perRecord + 1
      let bytes = scratch.bytes(range.count * info.recordBytes)
      try records.read(range, of: info, into: bytes)
      guard let base = bytes.baseAddress, let out = values.baseAddress else { return }
      let format = Int32(info.format.rawValue)
      for row in rows {
        let record = base + (row / perRecord - first) * info.recordBytes
        let target = out + (row - rows.lowerBound) * info.columns
        if perRecord == 1 {
          kernels.decode_row(format, record, info.columns, target)
        } else {
          kernels.decode_panel_row(format, record, info.columns, row % perRecord, target)
        }
      }
    }
  }
}

/// Reads any range of a tensor's records, whatever chunks they stand in. Belongs to one thread.
final class RecordReader {
  private let file: ModelFile
  private let reader = ChunkReader()
  private let scratch = Scratch()
  /// The chunk in `scratch`: neighbouring ranges share one.
  private var held: (tensor: Int, chunk: Int)?

  init(_ file: ModelFile) { self.file = file }

  func read(
    _ records: Range<Int>, of tensor: TensorInfo, into bytes: UnsafeMutableRawBufferPointer
  ) throws(QuantizationError) {
    let size = tensor.recordBytes
    precondition(bytes.count == records.count * size)
    let chunks =
      records.lowerBound / tensor.recordsPerChunk...(records.upperBound - 1) / tensor.recordsPerChunk
    do throws(ModelFileError) {
      for chunk in chunks {
        let inChunk = tensor.records(ofChunk: chunk)
        let wanted = inChunk.clamped(to: records)
        let target = UnsafeMutableRawBufferPointer(
          rebasing: bytes[
            (wanted.lowerBound - records.lowerBound) * size..<(wanted.upperBound - records.lowerBound) * size]
        )
        if wanted == inChunk {
          try file.readChunk(chunk, of: tensor, into: target, using: reader)
          continue
        }
        let whole = scratch.bytes(inChunk.count * size)
        if held?.tensor != tensor.firstChunk || held?.chunk != chunk {
          held = nil
          try file.readChunk(chunk, of: tensor, into: whole, using: reader)
          held = (tensor.firstChunk, chunk)
        }
        let start = (wanted.lowerBound - inChunk.lowerBound) * size
        target.copyMemory(from: UnsafeRawBufferPointer(rebasing: whole[start..<start + target.count]))
      }
    } catch {
      throw .file(error)
    }
  }
}
