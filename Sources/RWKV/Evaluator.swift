internal import CRWKVKernels

/// Evaluates blocks of tokens: scratch memory and threads over a shared model. Not thread-safe.
package final class Evaluator {
  package let model: Model
  let frame: Frame
  private let team: Team
  private let blocks: any BlockStack
  private let embeddings: EmbeddingTable.Reader
  private let arena = Arena()
  private let headInput: Activations
  private let headRows: UnsafeMutablePointer<Int>
  /// Rows whose logits were wanted last.
  package private(set) var headCount = 0
  /// [headCount, logitsStride]: one row for each requested row, in order.
  private let logits: UnsafeMutablePointer<Float>
  private let logitsStride: Int

  /// Rows of a block: enough to make unpacking weights cheap, few enough to keep activations in the cache.
  static let capacity = 64

  /// Which rows' logits are wanted.
  package enum Output {
    case none, lastOfEachRun, all
  }

  /// What is read, one row each: token ids, or vectors [rows, D] that stand in for rows of the embedding table.
  package enum Input {
    case tokens(ArraySlice<Int>)
    case vectors(UnsafeBufferPointer<Float>)
  }

  package init(_ model: Model, threads: Int) throws(ModelError) {
    self.model = model
    let configuration = model.configuration
    team = Team(size: max(1, threads))
    frame = try Frame(
      configuration, hiddenUnits: model.weights.hiddenUnits(configuration), capacity: Self.capacity,
      teamSize: team.size, arena: arena)
    blocks =
      switch model.weights {
      case .v4(let weights): try RWKV4(weights, frame, arena: arena)
      case .v5(let weights): try RWKV5(weights, frame, arena: arena)
      case .v6(let weights): try RWKV6(weights, frame, arena: arena)
      case .v7(let weights): try RWKV7(weights, frame, arena: arena)
      case .x(let weights): try RWKVX(weights, frame, arena: arena)
      }
    embeddings = EmbeddingTable.Reader(model.embeddings)
    headInput = try Activations(rows: Self.capacity, width: configuration.embedding, in: arena)
    headRows = try arena.allocate(Int.self, count: Self.capacity)
    logitsStride = paddedWidth(configuration.vocabulary)
    logits = try arena.allocate(Float.self, count: Self.capacity * logitsStride)
  }

  /// Reads a sequence of any length and advances `state`, a block at a time.
  ///
  /// An error leaves the state after the last complete block.
  /// - Parameter each: called after each block with the rows read so far and the rows of the block; reading stops when
  ///   it returns false.
  package func read(
    _ input: Input, _ state: State, output: Output, _ each: (_ end: Int, _ count: Int) -> Bool
  ) throws(ModelError) {
    let D = model.configuration.embedding
    let total =
      switch input {
      case .tokens(let tokens): tokens.count
      case .vectors(let values): values.count / D
      }
    var start = 0
    while start < total {
      let end = start + min(Self.capacity, total - start)
      let block: Input =
        switch input {
        case .tokens(let tokens): .tokens(tokens[tokens.startIndex + start..<tokens.startIndex + end])
        case .vectors(let values): .vectors(UnsafeBufferPointer(rebasing: values[start * D..<end * D]))
        }
      let run = Run(first: 0, count: end - start, state)
      try evaluate(block, [run], output: output == .lastOfEachRun && end < total ? .none : output)
      guard each(end, end - start) else { throw ModelError(.cancelled) }
      start = end
    }
  }

  /// Reads a block, one input per row of the runs, and advances the runs' states.
  ///
  /// When it throws, no state has changed.
  func evaluate(_ input: Input, _ runs: [Run], output: Output) throws(ModelError) {
    frame.begin(runs)
    let D = model.configuration.embedding
    switch input {
    case .tokens(let tokens):
      precondition(tokens.count == frame.rows)
      for (row, token) in tokens.enumerated() {
        try embeddings.read(token, into: frame.x[row], frame.kernels)
      }
    case .vectors(let values):
      precondition(values.count == frame.rows * D)
      for row in 0..<frame.rows {
        guard let base = values.baseAddress else { break }
        frame.x[row].update(from: base + row * D, count: D)
      }
    }
    for row in 0..<frame.rows {
      let x = frame.x[row]
      frame.kernels.layer_norm(x, model.inputNorm.weight, model.inputNorm.bias, D, 1e-5, x)
    }
    try blocks.prepare()
    select(output)
    team.run { member in
      let pending = blocks.run(&member)
      head(&member, adding: pending)
    }
    blocks.finish()
  }

  private func select(_ output: Output) {
    headCount = 0
    switch output {
    case .none: break
    case .all:
      for row in 0..<frame.rows { headRows[row] = row }
      headCount = frame.rows
    case .lastOfEachRun:
      for run in frame.runs {
        headRows[headCount] = run.first + run.count - 1
        headCount += 1
      }
    }
  }

  /// Logits of a row that was wanted, counted from 0, [V]; valid until the next evaluation.
  package func logits(_ index: Int) -> UnsafeBufferPointer<Float> {
    UnsafeBufferPointer(start: logits + index * logitsStride, count: model.configuration.vocabulary)
  }

  /// What the head made them of: the normed output of the last block, [D].
  package func hidden(_ index: Int) -> UnsafeBufferPointer<Float> {
    UnsafeBufferPointer(start: headInput.row(index), count: model.configuration.embedding)
  }

  /// logits = head · layerNorm(x) of the selected rows.
  private func head(_ member: inout Team.Member, adding pending: Frame.Pending) {
    let D = model.configuration.embedding
    let kernels = frame.kernels
    member.parallel(headCount) { index in
      let row = headRows[index]
      frame.settle(pending, row)
      kernels.layer_norm(
        frame.x[row], model.outputNorm.weight, model.outputNorm.bias, D, 1e-5, headInput.row(index))
      headInput.quantize(index, width: D, kernels)
    }
    guard headCount > 0 else { return }
    member.multiply(
      [Product(model.head, headInput.input(), logits, stride: logitsStride)], rows: headCount, kernels)
  }
}
