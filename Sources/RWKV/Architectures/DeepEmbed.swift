// SPDX-License-Identifier: MIT
internal import CRWKVKernels
internal import RWKVFormat

/// A table by token of RWKV-7a and 7b: the row of a token is what the table has for it, and the product of a matrix
/// with the token's embedding x0.
struct DeepTable {
  /// Its number among the model's tables.
  let ordinal: Int
  /// [width, D]
  let projection: Matrix

  /// - Parameter name: what the table's name has before `.weight`, and its matrix before `_x.weight`.
  init(_ store: WeightStore, _ name: String, columns: Int, position: Int) throws(ModelError) {
    ordinal = try store.table(name + ".weight", columns: columns, position: position)
    projection = try store.matrix(
      name + "_x.weight", rows: columns, columns: store.configuration.embedding)
  }

  /// The product of the matrix with the embeddings of all rows.
  func product(_ tokens: TokenRows, _ output: Rows) -> Product {
    Product(projection, tokens.embeddings, output)
  }
}

/// DeepEmbed, of RWKV-7a and 7b: channel mixing whose hidden vector is multiplied by a factor that depends on the
/// token. BlinkDL's `rwkv_v7a_demo.py`.
///
///     E = s_emb[token] + s_emb_x x0                     read as 32 × 32, row by row
///     h = Eᵀ (s1ᵀ n)                                    n: the output of ln2, not shifted
///     factor = s0 + s2ᵀ h
struct DeepEmbed {
  let table: DeepTable
  /// [32, D], [F, 32]
  let s1, s2: Matrix
  let s0: Vector

  init(_ store: WeightStore, prefix: String, position: Int) throws(ModelError) {
    let (D, F) = (store.configuration.embedding, store.configuration.ffn)
    table = try DeepTable(store, prefix + "s_emb", columns: DeepEmbedSizes.width, position: position)
    s1 = try store.matrix(prefix + "s1", rows: DeepEmbedSizes.rank, columns: D)
    s2 = try store.matrix(prefix + "s2", rows: F, columns: DeepEmbedSizes.rank)
    s0 = try store.vector(prefix + "s0", F)
  }

  /// Scratch of a session.
  struct Scratch {
    let tokens: TokenRows
    /// The frame of all tokens that were read.
    let frame: Frame
    /// s_emb_x x0, [T, 1024]
    let projected: Rows
    /// n, and h
    let input, mixed: Activations
    /// s1ᵀ n, [T, 32]
    let reduced: Rows
    /// s2ᵀ h, [T, F]
    let factor: Rows

    init(_ tokens: TokenRows, _ work: Workspace) throws(ModelError) {
      let configuration = work.frame.configuration
      self.tokens = tokens
      frame = work.frame
      projected = try work.rows(DeepEmbedSizes.width)
      input = try work.activations(configuration.embedding)
      mixed = try work.activations(DeepEmbedSizes.rank)
      reduced = try work.rows(DeepEmbedSizes.rank)
      factor = try work.rows(configuration.ffn)
    }
  }

  /// hidden ·= factor, for all rows of `frame`, whose last norm was ln2.
  func scale(_ member: inout Team.Member, _ hidden: Rows, of frame: Frame, _ scratch: Scratch) {
    let (rows, kernels) = (frame.rows, frame.kernels)
    member.parallel(rows) { row in
      scratch.input.row(row).update(from: frame.normed[row], count: s1.columns)
      scratch.input.quantize(row, width: s1.columns, kernels)
    }
    member.multiply([Product(s1, scratch.input, scratch.reduced)], rows: rows, kernels)
    // Rows of `frame` may be the ends of what was read, whose embeddings stand further on.
    member.multiply([table.product(scratch.tokens, scratch.projected)], rows: scratch.frame.rows, kernels)
    member.parallel(rows) { row in
      multiplyByTokenMatrix(row, from: frame.sourceRow(row), scratch)
      scratch.mixed.quantize(row, width: DeepEmbedSizes.rank, kernels)
    }
    member.multiply([Product(s2, scratch.mixed, scratch.factor)], rows: rows, kernels)
    member.parallel(rows) { row in
      let (values, factor) = (hidden[row], scratch.factor[row])
      for unit in 0..<s2.rows { values[unit] *= s0[unit] + factor[unit] }
    }
  }

  /// h = Eᵀ u, u = s1ᵀ n: row `row` of the frame, row `source` of the tokens.
  private func multiplyByTokenMatrix(_ row: Int, from source: Int, _ scratch: Scratch) {
    let n = DeepEmbedSizes.rank
    let (stored, projected) = (scratch.tokens.rows[table.ordinal][source], scratch.projected[source])
    let u = scratch.reduced[row]
    let h = UnsafeMutableBufferPointer(start: scratch.mixed.row(row), count: n)
    h.update(repeating: 0)
    for i in 0..<n {
      for j in 0..<n { h[j] += u[i] * (stored[n * i + j] + projected[n * i + j]) }
    }
  }
}
