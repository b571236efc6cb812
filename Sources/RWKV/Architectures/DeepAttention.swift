// SPDX-License-Identifier: MIT
internal import CRWKVKernels
internal import RWKVFormat

/// The attention of RWKV-7b, beside the time mixing of each block: one head over all tokens so far. BlinkDL's
/// `rwkv_v7b_demo.py`.
///
///     q = qq z   k = k2ᵀ k1ᵀ z · (k_emb[token] + k_emb_x x0)   v = tanh(v2ᵀ v1ᵀ z) · (v_emb[token] + v_emb_x x0)
///     each of them mixed with that of the token before, then normed
///     y = Σ_s v_s exp(a_s) / Σ_s exp(a_s)        a_s = 64 tanh(q · k_s / 1024)
///
/// z: the residual stream that enters the block; x0: the vector that entered the first one. Since |a| ≤ 64, exp needs
/// no maximum to be subtracted. Normed keys and values stay in an `AttentionCache`, so that nothing is computed twice.
struct DeepAttention {
  /// [256, D]
  let qq: Matrix
  /// [32, D], [256, 32]; [32, D], [D, 32]
  let k1, k2, v1, v2: Matrix
  let keyTable, valueTable: DeepTable
  /// [256], [256], [D]: weights of the token before
  let x_q, x_k, x_v: Vector
  let lnq, lnk, lnv: LayerNorm

  init(_ store: WeightStore, prefix: String, position: Int) throws(ModelError) {
    let D = store.configuration.embedding
    let (rank, keys) = (DeepEmbedSizes.attentionRank, DeepEmbedSizes.keys)
    qq = try store.matrix(prefix + "qq.weight", rows: keys, columns: D)
    k1 = try store.matrix(prefix + "k1", rows: rank, columns: D)
    k2 = try store.matrix(prefix + "k2", rows: keys, columns: rank)
    v1 = try store.matrix(prefix + "v1", rows: rank, columns: D)
    v2 = try store.matrix(prefix + "v2", rows: D, columns: rank)
    keyTable = try DeepTable(store, prefix + "k_emb", columns: keys, position: position)
    valueTable = try DeepTable(store, prefix + "v_emb", columns: D, position: position)
    x_q = try store.vector(prefix + "x_q", keys)
    x_k = try store.vector(prefix + "x_k", keys)
    x_v = try store.vector(prefix + "x_v", D)
    lnq = try store.layerNorm(prefix + "lnq", keys)
    lnk = try store.layerNorm(prefix + "lnk", keys)
    lnv = try store.layerNorm(prefix + "lnv", D)
  }

  /// Scratch of a session.
  final class Scratch {
    fileprivate let tokens: TokenRows
    /// z, k1ᵀ z, v1ᵀ z
    fileprivate let input, keyRank, valueRank: Activations
    /// q, k, v before they are mixed with those of the token before, [T, 256], [T, 256], [T, D]
    fileprivate let q, k, v: Rows
    /// k_emb_x x0, v_emb_x x0
    fileprivate let keyProjected, valueProjected: Rows
    /// Mixed and normed queries; a vector between mixing and norm, one for each row.
    fileprivate let query, unnormed: Rows
    /// exp(a), [T, scoreStride], and their sums over 256 tokens each.
    fileprivate private(set) var scores: UnsafeMutablePointer<Float>
    fileprivate private(set) var scoreStride = 0
    fileprivate private(set) var sums: UnsafeMutablePointer<Float>
    /// y, [T, D]
    fileprivate let output: Rows
    /// Tokens that each run's caches held before the piece.
    fileprivate var cached: [Int] = []

    init(_ tokens: TokenRows, _ work: Workspace) throws(ModelError) {
      let (D, keys) = (work.frame.configuration.embedding, DeepEmbedSizes.keys)
      self.tokens = tokens
      input = try work.activations(D)
      keyRank = try work.activations(DeepEmbedSizes.attentionRank)
      valueRank = try work.activations(DeepEmbedSizes.attentionRank)
      q = try work.rows(keys)
      k = try work.rows(keys)
      v = try work.rows(D)
      keyProjected = try work.rows(keys)
      valueProjected = try work.rows(D)
      query = try work.rows(keys)
      unnormed = try work.rows(max(D, keys))
      output = try work.rows(D)
      scores = .allocate(capacity: 0)
      sums = .allocate(capacity: 0)
    }

    deinit {
      scores.deallocate()
      sums.deallocate()
    }

    /// Makes room for the tokens of the frame's rows, of which there are never more than `limit`.
    func prepare(_ frame: Frame, limit: Int) {
      cached = frame.runs.map { $0.caches.first?.count ?? 0 }
      let most = zip(frame.runs, cached).reduce(0) { max($0, $1.0.count + $1.1) }
      for (run, count) in zip(frame.runs, cached) {
        for cache in run.caches { cache.reserve(count + run.count, chunkSize: Int.max, limit: limit) }
      }
      let chunks = DeepAttention.chunks(most)
      guard chunks * DeepAttention.chunk > scoreStride else { return }
      scores.deallocate()
      sums.deallocate()
      scoreStride = 2 * chunks * DeepAttention.chunk
      scores = .allocate(capacity: frame.capacity * scoreStride)
      sums = .allocate(capacity: frame.capacity * scoreStride / DeepAttention.chunk)
    }

    /// The caches of all blocks have the frame's rows.
    func finish(_ frame: Frame) {
      for (run, count) in zip(frame.runs, cached) {
        for cache in run.caches { cache.count = count + run.count }
      }
    }
  }

  /// Scores are summed over so many tokens at a time, counted from the first one.
  private static let chunk = 256
  private static func chunks(_ tokens: Int) -> Int { (tokens + chunk - 1) / chunk }

  /// The attention of all rows of the frame; leaves y in `scratch`.
  ///
  /// - Parameters:
  ///   - index: the number of the block's cache in each run.
  ///   - place: where each state keeps its last token's q, k and v.
  func attend(
    _ member: inout Team.Member, _ frame: Frame, _ scratch: Scratch, index: Int, keptAt place: Int
  ) {
    let (rows, kernels, D) = (frame.rows, frame.kernels, frame.configuration.embedding)
    member.parallel(rows) { row in
      scratch.input.row(row).update(from: frame.x[row], count: D)
      scratch.input.quantize(row, width: D, kernels)
    }
    member.multiply(
      [
        Product(qq, scratch.input, scratch.q), Product(k1, scratch.input, scratch.keyRank),
        Product(v1, scratch.input, scratch.valueRank), keyTable.product(scratch.tokens, scratch.keyProjected),
        valueTable.product(scratch.tokens, scratch.valueProjected),
      ], rows: rows, kernels)
    let second: InlineArray<2, Product> = [
      Product(k2, scratch.keyRank, scratch.k), Product(v2, scratch.valueRank, scratch.v, .tanh),
    ]
    member.quantizeInputs(of: second, rows: rows, kernels)
    member.multiply(second, rows: rows, kernels)
    member.parallel(rows) { row in
      Self.multiply(scratch.k[row], keyTable, row, scratch.keyProjected, scratch.tokens, DeepEmbedSizes.keys)
      Self.multiply(scratch.v[row], valueTable, row, scratch.valueProjected, scratch.tokens, D)
    }
    member.parallel(rows) { row in mix(row, frame, scratch, index, place) }
    weigh(&member, frame, scratch, index)
    member.parallel(frame.runs.count) { number in keepLast(frame.runs[number], scratch, place, D) }
  }

  /// x += product + y, where `product` is the output of time mixing.
  func add(_ member: inout Team.Member, _ scratch: Scratch, _ product: Rows, to frame: Frame) {
    let (kernels, D) = (frame.kernels, frame.configuration.embedding)
    member.parallel(frame.rows) { row in
      kernels.add(scratch.output[row], D, product[row])
      kernels.add(product[row], D, frame.x[row])
    }
  }

  /// values ·= row of the table + its projection
  private static func multiply(
    _ values: UnsafeMutablePointer<Float>, _ table: DeepTable, _ row: Int, _ projected: Rows,
    _ tokens: TokenRows, _ count: Int
  ) {
    let (stored, projected) = (tokens.rows[table.ordinal][row], projected[row])
    for index in 0..<count { values[index] *= stored[index] + projected[index] }
  }

  /// Mixes q, k and v of a row with those of the row before and norms them: the query for the row's own use, key and
  /// value into the cache.
  private func mix(_ row: Int, _ frame: Frame, _ scratch: Scratch, _ index: Int, _ state: Int) {
    let (kernels, D, keys) = (frame.kernels, frame.configuration.embedding, DeepEmbedSizes.keys)
    let number = frame.run(of: row)
    let run = frame.runs[number]
    let cache = run.caches[index]
    let place = scratch.cached[number] + row - run.first
    let last = run.state + state
    func mix(
      _ rows: Rows, _ kept: Int, _ mu: Vector, _ norm: LayerNorm, _ count: Int,
      _ output: UnsafeMutablePointer<Float>
    ) {
      let previous = row == run.first ? last + kept : rows[row - 1]
      kernels.token_shift(rows[row], previous, mu, count, scratch.unnormed[row])
      norm.apply(scratch.unnormed[row], into: output, kernels)
    }
    mix(scratch.q, 0, x_q, lnq, keys, scratch.query[row])
    mix(scratch.k, keys, x_k, lnk, keys, cache.keys(0) + place * keys)
    mix(scratch.v, 2 * keys, x_v, lnv, D, cache.values(0) + place * D)
  }

  /// y = Σ_s v_s exp(a_s) / Σ_s exp(a_s) of all rows.
  private func weigh(_ member: inout Team.Member, _ frame: Frame, _ scratch: Scratch, _ index: Int) {
    let (rows, kernels, D, keys) = (
      frame.rows, frame.kernels, frame.configuration.embedding, DeepEmbedSizes.keys
    )
    /// The cache of a row's run, and how many tokens of it the row sees.
    func visible(_ row: Int) -> (cache: AttentionCache, tokens: Int) {
      let number = frame.run(of: row)
      let run = frame.runs[number]
      return (run.caches[index], scratch.cached[number] + row - run.first + 1)
    }
    let chunks = Self.chunks(
      zip(frame.runs, scratch.cached).reduce(0) { max($0, $1.0.count + $1.1) })
    let stride = scratch.scoreStride / Self.chunk
    member.parallel(rows * chunks) { task in
      let (row, chunk) = (task / chunks, task % chunks)
      let (cache, tokens) = visible(row)
      guard chunk * Self.chunk < tokens else { return }
      let range = chunk * Self.chunk..<min(tokens, (chunk + 1) * Self.chunk)
      let scores = scratch.scores + row * scratch.scoreStride + range.lowerBound
      for (place, token) in range.enumerated() {
        scores[place] = kernels.dot(scratch.query[row], cache.keys(0) + token * keys, keys) / 1024
      }
      kernels.tanh(scores, range.count)
      for place in 0..<range.count { scores[place] *= 64 }
      scratch.sums[row * stride + chunk] = kernels.exp_shifted(scores, range.count, 0)
    }
    // Columns are shared out as well, since a single token has but one row.
    let parts = (D + 127) / 128
    member.parallel(rows * parts) { task in
      let (row, part) = (task / parts, task % parts)
      let (cache, tokens) = visible(row)
      let (from, count) = (128 * part, min(128, D - 128 * part))
      let y = scratch.output[row] + from
      y.update(repeating: 0, count: count)
      var sum: Float = 0
      for chunk in 0..<Self.chunks(tokens) { sum += scratch.sums[row * stride + chunk] }
      let scores = scratch.scores + row * scratch.scoreStride
      for token in 0..<tokens {
        kernels.add_scaled(scores[token] / sum, cache.values(0) + token * D + from, count, y)
      }
    }
  }

  /// The state keeps q, k and v of a run's last row, as they were before they were mixed.
  private func keepLast(_ run: Run, _ scratch: Scratch, _ state: Int, _ D: Int) {
    let (last, row, keys) = (run.state + state, run.first + run.count - 1, DeepEmbedSizes.keys)
    last.update(from: scratch.q[row], count: keys)
    (last + keys).update(from: scratch.k[row], count: keys)
    (last + 2 * keys).update(from: scratch.v[row], count: D)
  }
}
