internal import CRWKVKernels

/// Evaluates blocks of tokens: scratch memory and threads over a shared model. Not thread-safe.
final class Evaluator {
  let model: Model
  let frame: Frame
  private let team: Team
  private let blocks: any BlockStack
  private let embeddings: EmbeddingTable.Reader
  private let arena = Arena()
  private let headInput: Activations
  private let headRows: UnsafeMutablePointer<Int>
  private var headCount = 0
  /// [headCount, logitsStride]: one row for each requested row, in order.
  let logits: UnsafeMutablePointer<Float>
  let logitsStride: Int

  /// Rows of a block: enough to make unpacking weights cheap, few enough to keep activations in the cache.
  static let capacity = 64

  /// Which rows' logits are wanted.
  enum Output {
    case none, lastOfEachRun, all
  }

  init(_ model: Model, threads: Int) throws(ModelError) {
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

  /// Reads `tokens`, one per row of the runs, and advances the runs' states.
  ///
  /// When it throws, no state has changed.
  func evaluate(_ tokens: some Collection<Int>, _ runs: [Run], output: Output) throws(ModelError) {
    frame.begin(runs)
    precondition(tokens.count == frame.rows)
    let D = model.configuration.embedding
    var row = 0
    for token in tokens {
      let x = frame.x[row]
      try embeddings.read(token, into: x, frame.kernels)
      frame.kernels.layer_norm(x, model.inputNorm.weight, model.inputNorm.bias, D, 1e-5, x)
      row += 1
    }
    select(output)
    try blocks.prepare()
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
