// SPDX-License-Identifier: MIT
internal import CRWKVKernels

/// RWKV-X: RWKV-7 blocks with sparse attention blocks between them.   arXiv:2504.21463; howard-hou/RWKV-X
/// `package/src/rwkv_x/model.py`, `forward_one`.
///
/// Every token, of a prompt or written, is evaluated by the rule of decoding: it attends to all cached tokens while
/// they are at most chunk size · top-k, else to the best chunks, the tokens after the last complete chunk, and itself.
/// Letters: D embedding, H heads, N head size, T rows of the piece, n cached tokens.
final class RWKVX: BlockStack {
  /// One attention block's weights, named as in the checkpoint.
  struct AttentionBlock: @unchecked Sendable {
    let ln1: LayerNorm
    let receptance, key, value, output: Matrix
    /// `ln2` and `ffn`
    let channelMix: ChannelMix

    init(_ store: WeightStore, _ block: String) throws(ModelError) {
      let D = store.configuration.embedding
      let att = block + "att."
      ln1 = try store.layerNorm(block + "ln1", D)
      receptance = try store.matrix(att + "receptance.weight", rows: D, columns: D)
      key = try store.matrix(att + "key.weight", rows: D, columns: D)
      value = try store.matrix(att + "value.weight", rows: D, columns: D)
      output = try store.matrix(att + "output.weight", rows: D, columns: D)
      channelMix = try ChannelMix(store, prefix: block)
    }
  }

  /// All blocks' weights; immutable.
  struct Weights: Sendable {
    let recurrent: [RWKV7.Layer]
    let attention: [AttentionBlock]

    init(_ store: WeightStore) throws(ModelError) {
      recurrent = try RWKV7.Layer.all(store)
      var blocks: [AttentionBlock] = []
      for block in 0..<(store.configuration.sparseAttention?.layers ?? 0) {
        blocks.append(try AttentionBlock(store, BlockID.attention(block).prefix))
      }
      attention = blocks
    }
  }

  /// Rows of one run between two compressions of the cache.
  private struct Segment {
    let run: Int
    let first: Int
    let count: Int
    /// Cached tokens before the first row; before a compression where there is one.
    let cached: Int
    let compressed: Int?

    /// Cached tokens that row `row` sees.
    func visible(_ row: Int) -> Int { (compressed ?? cached) + row - first }
  }

  private let weights: Weights
  private let options: SparseAttention
  private let frame: Frame
  private let teamSize: Int
  private let recurrent: RWKV7
  private let order: [BlockID]
  private let input, mixed: Activations
  private let q, k, v: Rows
  private let channelMix: ChannelMix.Scratch
  private var segments: [Segment] = []
  /// Chosen chunks of each row in ascending order, [T, top-k].
  private let chosen: UnsafeMutablePointer<Int>
  /// Attention scores, [team size, scoreCount].
  private var scores: UnsafeMutablePointer<Float>
  private var scoreCount = 0

  init(_ weights: Weights, _ work: Workspace) throws(ModelError) {
    (frame, teamSize) = (work.frame, work.teamSize)
    guard let options = frame.configuration.sparseAttention else {
      throw ModelError(.missingMetadata(key: "rwkv.x.layers"))
    }
    self.weights = weights
    self.options = options
    recurrent = try RWKV7(weights.recurrent, work)
    order = frame.configuration.blocks
    let D = frame.configuration.embedding
    input = try work.activations(D)
    mixed = try work.activations(D)
    q = try work.rows(D)
    k = try work.rows(D)
    v = try work.rows(D)
    let F = weights.attention.map { $0.channelMix.key.rows }.max() ?? 1
    channelMix = try ChannelMix.Scratch(work, hiddenUnits: F, sharing: (input, mixed), isGated: false)
    chosen = try work.arena.allocate(Int.self, count: frame.capacity * options.topK)
    scores = .allocate(capacity: 0)
  }

  deinit { scores.deallocate() }

  // MARK: - Before and after

  /// Plans where caches are compressed, which depends on counts alone, and makes room for the new tokens.
  func prepare() {
    segments.removeAll(keepingCapacity: true)
    var mostVisible = 0
    for (number, run) in frame.runs.enumerated() {
      var cached = run.caches.first?.count ?? 0
      var (first, start, compressed) = (run.first, cached, Int?.none)
      var most = cached
      for row in run.first..<run.first + run.count {
        if let length = compressedLength(cached) {
          if row > first {
            segments.append(
              Segment(run: number, first: first, count: row - first, cached: start, compressed: compressed))
          }
          (first, start, compressed) = (row, cached, length)
          cached = length
        }
        cached += 1
        most = max(most, cached)
      }
      let end = run.first + run.count
      segments.append(
        Segment(run: number, first: first, count: end - first, cached: start, compressed: compressed))
      let limit = options.maximumCache > 0 ? options.maximumCache + 1 : Int.max
      for cache in run.caches { cache.reserve(most, chunkSize: options.chunkSize, limit: limit) }
      mostVisible = max(mostVisible, most)
    }
    if !options.isFull { mostVisible = min(mostVisible, options.window + options.chunkSize + 1) }
    guard mostVisible > scoreCount else { return }
    scores.deallocate()
    scoreCount = max(mostVisible, 2 * scoreCount)
    scores = .allocate(capacity: teamSize * scoreCount)
  }

  func finish() {
    for segment in segments {
      let count = (segment.compressed ?? segment.cached) + segment.count
      for cache in frame.runs[segment.run].caches { cache.count = count }
    }
  }

  /// Length of a cache of n tokens after its compression, or nil if it is not compressed now.
  private func compressedLength(_ n: Int) -> Int? {
    guard options.maximumCache > 0, n > options.maximumCache, n > options.minimumCache else { return nil }
    let kept = options.keptWindow
    return min(options.minimumCache - kept, n - kept) + kept
  }

  // MARK: - Blocks

  func evaluate(_ member: inout Team.Member, _ position: Int, ends: Frame?) {
    switch order[position] {
    case .recurrent(let layer): recurrent.evaluate(&member, layer, ends: ends)
    case .attention(let index): evaluate(&member, attention: index, ends: ends)
    }
  }

  /// One attention block:
  ///
  ///     x += O · attention(Q n, K n, V n)          of n = ln1(x)
  ///     x += V · relu²(K x_k)                      of n = ln2(x)      x_k = n + (n′ − n) · mu_k
  private func evaluate(_ member: inout Team.Member, attention index: Int, ends: Frame?) {
    let block = weights.attention[index]
    let (rows, kernels) = (frame.rows, frame.kernels)

    // Norm, queries, keys and values; the checkpoint calls the matrix of the queries receptance.
    frame.norm(&member, block.ln1, into: input)
    member.multiply(
      [Product(block.receptance, input, q), Product(block.key, input, k), Product(block.value, input, v)],
      rows: rows, kernels)

    for segment in segments { attend(&member, segment, frame.runs[segment.run].caches[index]) }

    // Output matrix and residual add of the attention: x += O y
    let output: InlineArray<1, Product> = [Product(block.output, mixed, addedTo: frame.x, frame.product)]
    member.quantizeInputs(of: output, rows: rows, kernels)
    member.multiply(output, rows: rows, kernels)

    // Channel mixing, from norm to residual add.
    block.channelMix.add(&member, to: frame, ends, keptAt: frame.layout.attentionShift(index), channelMix)
  }

  /// Attention of the rows of one segment; appends their keys and values to the cache.
  private func attend(_ member: inout Team.Member, _ segment: Segment, _ cache: AttentionCache) {
    let heads = frame.configuration.heads
    if let length = segment.compressed {
      member.parallel(heads) { head in compress(cache, head, segment, to: length) }
    }
    member.parallel(heads) { head in append(segment, to: cache, head) }
    if !options.isFull && segment.visible(segment.first + segment.count - 1) > options.window {
      member.parallel(segment.count) { row in choose(segment, segment.first + row, cache) }
    }
    let scratch = scores + member.index * scoreCount
    member.parallel(segment.count * heads) { task in
      attend(segment, segment.first + task / heads, task % heads, cache, scratch)
    }
  }

  /// Keys and values of one head go to the end of the cache; chunks that become complete get their mean key.
  private func append(_ segment: Segment, to cache: AttentionCache, _ head: Int) {
    let N = cache.keySize
    for row in segment.first..<segment.first + segment.count {
      let place = segment.visible(row)
      (cache.keys(head) + place * N).update(from: k[row] + head * N, count: N)
      (cache.values(head) + place * N).update(from: v[row] + head * N, count: N)
      guard (place + 1) % options.chunkSize == 0 else { continue }
      cache.average(head, chunk: place / options.chunkSize, chunkSize: options.chunkSize)
    }
  }

  /// The top-k chunks for one row, by the product of its query with the chunks' mean keys over all heads at once.
  private func choose(_ segment: Segment, _ row: Int, _ cache: AttentionCache) {
    let n = segment.visible(row)
    guard n > options.window else { return }
    let (D, K) = (frame.configuration.embedding, options.topK)
    var best: [(score: Float, chunk: Int)] = []
    best.reserveCapacity(K + 1)
    for chunk in 0..<n / options.chunkSize {
      let score = frame.kernels.dot(q[row], cache.means + chunk * D, D)
      let place = best.firstIndex { $0.score < score } ?? best.count
      guard place < K else { continue }
      best.insert((score, chunk), at: place)
      if best.count > K { best.removeLast() }
    }
    for (index, chunk) in best.map(\.chunk).sorted().enumerated() { chosen[row * K + index] = chunk }
  }

  /// Softmax attention of one head of one row: mixed = Σ softmax(q · k / √N) v over what the row sees.
  private func attend(
    _ segment: Segment, _ row: Int, _ head: Int, _ cache: AttentionCache,
    _ scores: UnsafeMutablePointer<Float>
  ) {
    let (N, kernels) = (cache.keySize, frame.kernels)
    let (query, keys, values) = (q[row] + head * N, cache.keys(head), cache.values(head))
    let scale = 1 / Float(N).squareRoot()
    var (count, maximum) = (0, -Float.infinity)
    forEachRange(segment.visible(row), row) { range in
      for token in range {
        let score = kernels.dot(query, keys + token * N, N) * scale
        scores[count] = score
        maximum = max(maximum, score)
        count += 1
      }
    }
    let sum = kernels.exp_shifted(scores, count, maximum)
    let y = mixed.row(row) + head * N
    y.update(repeating: 0, count: N)
    count = 0
    forEachRange(segment.visible(row), row) { range in
      for token in range {
        kernels.add_scaled(scores[count] / sum, values + token * N, N, y)
        count += 1
      }
    }
  }

  /// The cached tokens that a row attends to, itself included, in ascending order; n: tokens cached before it.
  private func forEachRange(_ n: Int, _ row: Int, _ body: (Range<Int>) -> Void) {
    guard !options.isFull && n > options.window else { return body(0..<n + 1) }
    let c = options.chunkSize
    for index in 0..<options.topK {
      let chunk = chosen[row * options.topK + index]
      body(chunk * c..<(chunk + 1) * c)
    }
    body(n / c * c..<n + 1)
  }

  /// Drops the older tokens of one head that the query of the segment's first row votes for least.
  ///
  /// What stays is ordered by descending vote, then the latest tokens as they were; every head chooses for itself.
  private func compress(_ cache: AttentionCache, _ head: Int, _ segment: Segment, to length: Int) {
    let N = cache.keySize
    let older = segment.cached - options.keptWindow
    let query = q[segment.first] + head * N
    let votes = (0..<older).map { frame.kernels.dot(query, cache.keys(head) + $0 * N, N) }
    let order = votes.indices.sorted { votes[$0] != votes[$1] ? votes[$0] > votes[$1] : $0 < $1 }
    let kept = order.prefix(length - options.keptWindow) + (older..<segment.cached)
    for rows in [cache.keys(head), cache.values(head)] {
      let copy = Array(UnsafeBufferPointer(start: rows, count: segment.cached * N))
      copy.withUnsafeBufferPointer { copy in
        for (place, token) in kept.enumerated() {
          for i in 0..<N { rows[place * N + i] = copy[token * N + i] }
        }
      }
    }
    for chunk in 0..<length / options.chunkSize {
      cache.average(head, chunk: chunk, chunkSize: options.chunkSize)
    }
  }
}
