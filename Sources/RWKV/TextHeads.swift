// SPDX-License-Identifier: MIT
internal import CRWKVKernels
internal import RWKVFormat

/// A head of EmbeddingRWKV: makes a text's vector of what the model has after its end.   pip `rwkv-emb` 0.2.6.
///
///     vector = layerNorm(fc2 relu(fc1 x) + x)
struct EmbeddingHead {
  /// [D, D] each
  let fc1, fc2: Matrix
  let norm: LayerNorm

  init(_ store: WeightStore, _ task: EmbeddingTask) throws(ModelError) {
    let D = store.configuration.embedding
    fc1 = try store.matrix(task.head + "fc1.weight", rows: D, columns: D)
    fc2 = try store.matrix(task.head + "fc2.weight", rows: D, columns: D)
    norm = try store.layerNorm(task.head + "norm", D)
  }
}

/// The head of RWKVReRanker.   pip `rwkv-emb` 0.2.6.
///
///     score = w₂ · tanh(W₀ x + b₀)
struct ScoreHead: @unchecked Sendable {
  /// [D, D]
  let first: Matrix
  /// [D] each
  let bias, second: Vector

  init(_ store: WeightStore) throws(ModelError) {
    let D = store.configuration.embedding
    first = try store.matrix("head.0.weight", rows: D, columns: D)
    bias = try store.vector("head.0.bias", D)
    second = try store.vector("head.2.weight", D)
  }
}

/// Scratch of a session whose model has one of these heads.
struct HeadScratch {
  /// x and what the first matrix makes of it, [rows, D]
  let input, hidden: Activations
  /// [rows, D]
  let output: Rows

  init(rows: Int, width: Int, in arena: Arena) throws(ModelError) {
    input = try Activations(rows: rows, width: width, in: arena)
    hidden = try Activations(rows: rows, width: width, in: arena)
    output = try Rows(rows: rows, width: width, in: arena)
  }
}

extension Evaluator {
  /// What a head of an embedding model makes of vectors [D].
  func vectors(of pooled: [[Float]], _ head: EmbeddingHead) throws(ModelError) -> [[Float]] {
    try throughHead(pooled) { member, rows, scratch in
      let (D, kernels) = (head.fc1.rows, frame.kernels)
      member.multiply([Product(head.fc1, scratch.input, scratch.hidden)], rows: rows, kernels)
      member.parallel(rows) { row in
        let values = scratch.hidden.row(row)
        for unit in 0..<D { values[unit] = max(0, values[unit]) }
        scratch.hidden.quantize(row, width: D, kernels)
      }
      member.multiply([Product(head.fc2, scratch.hidden, scratch.output)], rows: rows, kernels)
      member.parallel(rows) { row in
        let output = scratch.output[row]
        kernels.add(scratch.input.row(row), D, output)
        head.norm.apply(output, into: output, kernels)
      }
    }
  }

  /// What the head of a reranker makes of vectors [D]: a score of each.
  func scores(of hidden: [[Float]], _ head: ScoreHead) throws(ModelError) -> [Float] {
    try throughHead(hidden) { member, rows, scratch in
      let (D, kernels) = (head.first.rows, frame.kernels)
      member.multiply([Product(head.first, scratch.input, scratch.output)], rows: rows, kernels)
      member.parallel(rows) { row in
        let output = scratch.output[row]
        kernels.add(head.bias, D, output)
        kernels.tanh(output, D)
        output[0] = Float((0..<D).reduce(0.0) { $0 + Double(output[$1]) * Double(head.second[$1]) })
      }
    }.map { $0[0] }
  }

  /// `compute` is called by all members for as many rows as a block has; what it leaves in `output` is returned.
  private func throughHead(
    _ vectors: [[Float]], _ compute: (inout Team.Member, _ rows: Int, HeadScratch) -> Void
  ) throws(ModelError) -> [[Float]] {
    let D = model.configuration.embedding
    guard let scratch = headScratch else { return [] }
    var results: [[Float]] = []
    for start in stride(from: 0, to: vectors.count, by: Self.capacity) {
      let block = vectors[start..<min(start + Self.capacity, vectors.count)]
      for (row, vector) in block.enumerated() {
        for channel in 0..<D { scratch.input.row(row)[channel] = vector[channel] }
        scratch.input.quantize(row, width: D, frame.kernels)
      }
      try model.store.check()
      team.run { member in compute(&member, block.count, scratch) }
      for row in 0..<block.count {
        results.append(Array(UnsafeBufferPointer(start: scratch.output[row], count: D)))
      }
    }
    return results
  }
}
