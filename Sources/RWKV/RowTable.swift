// SPDX-License-Identifier: MIT
internal import CRWKVKernels
internal import RWKVFormat

/// A table with a row for each token, which stays in the file: the embedding, and the tables of RWKV-7a and 7b.
///
/// Immutable; every thread reads through a `Reader` of its own.
struct RowTable: Sendable {
  /// The file, and the tensor, which has V rows.
  private let file: ModelFile
  private let tensor: TensorInfo

  init(_ file: ModelFile, _ name: String, rows: Int, columns: Int) throws(ModelError) {
    guard let tensor = file[name] else { throw ModelError(.missingTensor(name), path: file.path) }
    guard [tensor.rows, tensor.columns] == [rows, columns], tensor.rowsPerRecord == 1 else {
      throw ModelError(
        .wrongShape(tensor: name, found: [tensor.rows, tensor.columns], expected: [rows, columns]),
        path: file.path)
    }
    self.file = file
    self.tensor = tensor
  }

  /// Numbers of a row.
  var width: Int { tensor.columns }

  /// Throws if a token has no row.
  func check(_ token: Int) throws(ModelError) {
    guard (0..<tensor.rows).contains(token) else {
      throw ModelError(.tokenOutOfRange(token, vocabulary: tensor.rows))
    }
  }

  /// Reads rows of tables, keeping the chunk that was read last. Not thread-safe.
  final class Reader {
    private let reader = ChunkReader()
    private let scratch = Scratch()
    /// First chunk of the table, and the chunk of it, that is in `scratch`.
    private var held: (table: Int, chunk: Int)?

    /// Row `token` of `table` as f32 into `destination`, [table.width].
    func read(
      _ token: Int, of table: RowTable, into destination: UnsafeMutablePointer<Float>, _ kernels: Kernels
    ) throws(ModelError) {
      try table.check(token)
      let tensor = table.tensor
      let chunk = token / tensor.recordsPerChunk
      let place = scratch.bytes(table.file.rawLength(ofChunk: chunk, of: tensor))
      if held?.table != tensor.firstChunk || held?.chunk != chunk {
        held = nil
        do throws(ModelFileError) {
          try table.file.readChunk(chunk, of: tensor, into: place, using: reader)
        } catch {
          throw ModelError(error)
        }
        held = (tensor.firstChunk, chunk)
      }
      guard let start = place.baseAddress else { return }
      kernels.decode_row(
        Int32(tensor.format.rawValue), start + token % tensor.recordsPerChunk * tensor.recordBytes,
        tensor.columns, destination)
    }
  }
}
