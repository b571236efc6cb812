// SPDX-License-Identifier: MIT
internal import CRWKVKernels
import Synchronization

/// What the blocks of RWKV-7a and 7b need to know of the tokens themselves: each token's rows of all tables, and its
/// embedding. Scratch of one session.
final class TokenRows {
  /// A table of the model.
  struct Table: Sendable {
    let table: RowTable
    /// Position of the block that needs its rows.
    let position: Int
  }

  private let tables: [Table]
  /// Rows of each table, [T, width].
  let rows: [Rows]
  /// The vectors that entered the first block: the embeddings after their layer norm, [span, D].
  private let entered: Rows
  /// The vectors of `entered` that belong to the current piece.
  let embeddings: Activations
  /// A reader for each member of the team.
  private let readers: [RowTable.Reader]

  init(_ tables: [Table], _ frame: Frame, teamSize: Int, arena: Arena) throws(ModelError) {
    self.tables = tables
    var rows: [Rows] = []
    for table in tables {
      rows.append(try Rows(rows: frame.capacity, width: table.table.width, in: arena))
    }
    self.rows = rows
    let D = frame.configuration.embedding
    entered = try Rows(rows: frame.span, width: D, in: arena)
    embeddings = try Activations(rows: frame.capacity, width: D, in: arena)
    readers = (0..<teamSize).map { _ in RowTable.Reader() }
  }

  /// Keeps the embeddings of the frame's rows, which have just been read.
  func keep(_ frame: Frame) {
    for row in 0..<frame.rows {
      entered[frame.origin + row].update(from: frame.x[row], count: frame.configuration.embedding)
    }
  }

  /// Reads the rows of the frame's tokens that the blocks at `positions` need.
  func load(
    _ tokens: ArraySlice<Int>, _ frame: Frame, positions: ClosedRange<Int>, _ team: Team
  ) throws(ModelError) {
    let wanted = tables.indices.filter { positions.contains(tables[$0].position) }
    let D = frame.configuration.embedding
    let failure = Mutex<ModelError?>(nil)
    team.run { member in
      let reader = readers[member.index]
      member.parallel(wanted.count) { index in
        let number = wanted[index]
        for (row, token) in tokens.enumerated() {
          do throws(ModelError) {
            try reader.read(token, of: tables[number].table, into: rows[number][row], frame.kernels)
          } catch {
            failure.withLock { $0 = $0 ?? error }
            return
          }
        }
      }
      member.parallel(tokens.count) { row in
        embeddings.row(row).update(from: entered[frame.origin + row], count: D)
        embeddings.quantize(row, width: D, frame.kernels)
      }
    }
    if let failure = failure.withLock({ $0 }) { throw failure }
  }
}
