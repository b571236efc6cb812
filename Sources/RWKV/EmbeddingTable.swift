// SPDX-License-Identifier: MIT
internal import CRWKVKernels
internal import RWKVFormat

/// The embedding table, which stays in the file: a token needs one row of it.
///
/// Immutable; each session reads through a `Reader` of its own.
struct EmbeddingTable: Sendable {
  static let tensorName = "emb.weight"
  private let file: ModelFile
  private let tensor: TensorInfo

  init(_ file: ModelFile, _ configuration: Configuration) throws(ModelError) {
    guard let tensor = file[Self.tensorName] else {
      throw ModelError(.missingTensor(Self.tensorName), path: file.path)
    }
    let expected = [configuration.vocabulary, configuration.embedding]
    guard [tensor.rows, tensor.columns] == expected, tensor.rowsPerRecord == 1 else {
      throw ModelError(
        .wrongShape(tensor: tensor.name, found: [tensor.rows, tensor.columns], expected: expected),
        path: file.path)
    }
    self.file = file
    self.tensor = tensor
  }

  /// Reads rows, keeping the chunk that was read last. Not thread-safe.
  final class Reader {
    private let table: EmbeddingTable
    private let reader = ChunkReader()
    private let buffer: UnsafeMutableRawBufferPointer
    private var chunk: Int?

    init(_ table: EmbeddingTable) {
      self.table = table
      let largest = table.tensor.recordsPerChunk * table.tensor.recordBytes
      buffer = .allocate(byteCount: min(largest, table.tensor.rawBytes), alignment: 64)
    }

    deinit { buffer.deallocate() }

    /// Row `token` as f32 into `destination`, [D].
    func read(
      _ token: Int, into destination: UnsafeMutablePointer<Float>, _ kernels: Kernels
    ) throws(ModelError) {
      let tensor = table.tensor
      guard (0..<tensor.rows).contains(token) else {
        throw ModelError(.tokenOutOfRange(token, vocabulary: tensor.rows))
      }
      let wanted = token / tensor.recordsPerChunk
      if chunk != wanted {
        chunk = nil
        let length = table.file.rawLength(ofChunk: wanted, of: tensor)
        let place = UnsafeMutableRawBufferPointer(rebasing: buffer[..<length])
        do {
          try table.file.readChunk(wanted, of: tensor, into: place, using: reader)
        } catch {
          throw ModelError(.file("\(error)"))
        }
        chunk = wanted
      }
      guard let start = buffer.baseAddress else { return }
      kernels.decode_row(
        Int32(tensor.format.rawValue), start + token % tensor.recordsPerChunk * tensor.recordBytes,
        tensor.columns,
        destination)
    }
  }
}
