// SPDX-License-Identifier: MIT
internal import CRWKVKernels

/// RWKV-X: RWKV-7 blocks with sparse attention blocks between them.   arXiv:2504.21463; howard-hou/RWKV-X
/// `package/src/rwkv_x/model.py`, `forward_one`.
///
/// Every token, of a prompt or written, is evaluated by the rule of decoding: it attends to all cached tokens while
/// they are at most chunk size · top-k, else to the best chunks, the tokens after the last complete chunk, and itself.
/// Letters: D embedding, H heads, N head size, T rows of the block, n cached tokens.
final class RWKVX: BlockStack {
  /// One attention block's weights, named as in the checkpoint.
  struct AttentionBlock {
    let ln1, ln2: LayerNorm
    let receptance, key, value, output: Matrix
    let channelMix: RWKV7.ChannelMix

    init(_ store: WeightStore, prefix: String) throws(ModelError) {
      let D = store.configuration.embedding
      let att = "\(prefix).att."
      ln1 = try store.layerNorm("\(prefix).ln1", D)
      ln2 = try store.layerNorm("\(prefix).ln2", D)
      receptance = try store.matrix(att + "receptance.weight", rows: D, columns: D)
      key = try store.matrix(att + "key.weight", rows: D, columns: D)
      value = try store.matrix(att + "value.weight", rows: D, columns: D)
      output = try store.matrix(att + "output.weight", rows: D, columns: D)
      channelMix = try RWKV7.ChannelMix(store, prefix: "\(prefix).ffn.")
    }
  }

  /// All blocks' weights; immutable.
  struct Weights: @unchecked Sendable {
    let recurrent: RWKV7.Weights
    let attention: [AttentionBlock]

    init(_ store: WeightStore) throws(ModelError) {
      recurrent = try RWKV7.Weights(store)
      var blocks: [AttentionBlock] = []
      for block in 0..<(store.configuration.sparseAttention?.layers ?? 0) {
        blocks.append(try AttentionBlock(store, prefix: "moba.\(block)"))
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
  private let recurrent: RWKV7
  private let order: [BlockID]
  private let input, mixed: Activations
  private let q, k, v: Rows
  private let channelMix: RWKV7.ChannelMix.Scratch
  private var segments: [Segment] = []
  /// Chosen chunks of each row in ascending order, [T, top-k].
  private let chosen: UnsafeMutablePointer<Int>
  /// Attention scores, [team size, scoreCount].
  private var scores: UnsafeMutablePointer<Float>
  private var scoreCount = 0

  init(_ weights: Weights, _ frame: Frame, arena: Arena) throws(ModelError) {
    guard let options = frame.configuration.sparseAttention else {
      throw ModelError(.missingMetadata(key: "rwkv.x.layers"))
    }
    self.weights = weights
    self.options = options
    self.frame = frame
    recurrent = try RWKV7(weights.recurrent, frame, arena: arena)
    order = frame.configuration.blocks
    let (D, T) = (frame.configuration.embedding, frame.capacity)
    input = try Activations(rows: T, width: D, in: arena)
    mixed = try Activations(rows: T, width: D, in: arena)
    q = try Rows(rows: T, width: D, in: arena)
    k = try Rows(rows: T, width: D, in: arena)
    v = try Rows(rows: T, width: D, in: arena)
    let F = weights.attention.map { $0.channelMix.key.rows }.max() ?? 1
    channelMix = RWKV7.ChannelMix.Scratch(shifted: input, hidden: try Rows(rows: T, width: F, in: arena))
    chosen = try arena.allocate(Int.self, count: T * options.topK)
    scores = .allocate(capacity: 0)
  }

  deinit { scores.deallocate() }

  // MARK: - Before and after

  /// Plans where caches are compressed, which depends on counts alone, and makes room for the new tokens.
  func prepare() throws(ModelError) {
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
    scores = .allocate(capacity: frame.teamSize * scoreCount)
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

  func timeMix(_ member: inout Team.Member, _ position: Int, adding pending: Frame.Pending) {
    switch order[position] {
    case .recurrent(let layer): recurrent.timeMix(&member, layer, adding: pending)
    case .attention(let index): attend(&member, index, adding: pending)
    }
  }

  func channelMix(
    _ member: inout Team.Member, _ position: Int, _ frame: Frame, adding pending: Frame.Pending
  ) -> Frame.Pending {
    switch order[position] {
    case .recurrent(let layer): return recurrent.channelMix(&member, layer, frame, adding: pending)
    case .attention(let index):
      let block = weights.attention[index]
      let state = frame.layout.attentionShift(index)
      return block.channelMix.run(&member, frame, channelMix, block.ln2, state: state, adding: pending)
    }
  }

  /// Attention of one block.
  private func attend(_ member: inout Team.Member, _ index: Int, adding pending: Frame.Pending) {
    let block = weights.attention[index]
    let (rows, kernels, D) = (frame.rows, frame.kernels, frame.configuration.embedding)
    frame.norm(&member, adding: pending, block.ln1, into: input)
    member.multiply(
      [Product(block.receptance, input, q), Product(block.key, input, k), Product(block.value, input, v)],
      rows: rows, kernels)
    for segment in segments { attend(&member, segment, frame.runs[segment.run].caches[index]) }
    member.parallel(rows) { row in mixed.quantize(row, width: D, kernels) }
    member.multiply([Product(block.output, mixed, frame.delta)], rows: rows, kernels)
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
