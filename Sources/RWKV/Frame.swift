internal import CRWKVKernels

/// Rows of a block that continue one state: a stretch of a prompt, or one token of one of several conversations.
struct Run {
  let first: Int
  let count: Int
  let state: UnsafeMutablePointer<Float>
}

/// A vector of weights.
typealias Vector = UnsafePointer<Float>

/// Weights of a layer norm, [D] each.
struct LayerNorm: @unchecked Sendable {
  let weight: Vector
  let bias: Vector
}

/// What all versions share while a block of T rows passes through the model: the residual stream and its norms.
///
/// A row is one token. Scratch of one session; written by all members of its team, each its own part of a phase.
final class Frame {
  let configuration: Configuration
  let layout: State.Layout
  let kernels: Kernels
  /// Rows of a block at most.
  let capacity: Int
  /// Residual stream, [T, D].
  let x: Rows
  /// Output of the last layer norm, [T, D].
  let normed: Rows
  /// Output of a mixer that is still to be added to `x`, [T, D].
  let delta: Rows
  /// Parts of the channel-mix output, [max(T, parts), D].
  let partial: Rows
  private let index: UnsafeMutablePointer<Int32>
  private let value: UnsafeMutablePointer<Float>
  private let rowScratch: UnsafeMutablePointer<Float>
  /// Rows of the current block.
  var rows = 0
  /// They belong to these runs.
  var runs: [Run] = []
  /// Run of each row.
  private let runOfRow: UnsafeMutablePointer<Int>
  /// Whether some run has several rows, so that rows depend on each other.
  private var hasSequences = false
  /// Members of the team.
  let teamSize: Int

  /// What the next norm has to add to the residual stream first.
  enum Pending {
    case nothing, delta, partial
  }

  /// Hidden units are summed in this many ranges, whatever the number of threads.
  static let parts = 8

  init(_ configuration: Configuration, capacity: Int, teamSize: Int, arena: Arena) throws(ModelError) {
    self.configuration = configuration
    self.capacity = capacity
    self.teamSize = teamSize
    layout = State.Layout(configuration)
    kernels = bestKernels
    let D = configuration.embedding
    x = try Rows(rows: capacity, width: D, in: arena)
    normed = try Rows(rows: capacity, width: D, in: arena)
    delta = try Rows(rows: capacity, width: D, in: arena)
    partial = try Rows(rows: max(capacity, Self.parts), width: D, in: arena)
    index = try arena.allocate(Int32.self, count: configuration.ffn)
    value = try arena.allocate(Float.self, count: configuration.ffn)
    rowScratch = try arena.allocate(Float.self, count: teamSize * Int(RK_ADD_ROWS_SCRATCH))
    runOfRow = try arena.allocate(Int.self, count: capacity)
  }

  /// Prepares for a block; rows of the runs are consecutive and cover it.
  func begin(_ runs: [Run]) {
    self.runs = runs
    rows = 0
    hasSequences = false
    for (number, run) in runs.enumerated() {
      precondition(run.first == rows && run.count > 0)
      for row in run.first..<run.first + run.count { runOfRow[row] = number }
      rows += run.count
      hasSequences = hasSequences || run.count > 1
    }
    precondition(rows <= capacity)
  }

  /// Adds what is pending to row `row` of the residual stream.
  @inline(__always)
  func settle(_ pending: Pending, _ row: Int) {
    switch pending {
    case .nothing: break
    case .delta: kernels.add(delta[row], configuration.embedding, x[row])
    case .partial:
      for part in 0..<Self.parts { kernels.add(partial[part], configuration.embedding, x[row]) }
    }
  }

  /// Layer norm and token shift, the start of every mixer (one phase; two where rows follow each other):
  ///
  ///     outputs[i] = n + (n' − n) · mu[i]        n = layerNorm(x), n' = the same of the token before
  ///
  /// `shift`: where the state keeps n', as an offset into it.
  func normAndShift<let count: Int>(
    _ member: inout Team.Member, adding pending: Pending, _ norm: LayerNorm, shift: Int,
    mu: InlineArray<count, Vector>, into outputs: InlineArray<count, Activations>
  ) {
    let D = configuration.embedding
    member.parallel(rows) { row in
      settle(pending, row)
      kernels.layer_norm(x[row], norm.weight, norm.bias, D, 1e-5, normed[row])
      let run = runs[runOfRow[row]]
      if run.count == 1 { mix(row, run, shift, mu, outputs) }
    }
    guard hasSequences else { return }
    member.parallel(rows) { row in
      let run = runs[runOfRow[row]]
      if run.count > 1 { mix(row, run, shift, mu, outputs) }
    }
  }

  /// Mixes one row with the row before it. The task of a run's first row, the only one that reads the state's shift
  /// vector, also replaces it.
  @inline(__always)
  private func mix<let count: Int>(
    _ row: Int, _ run: Run, _ shift: Int, _ mu: InlineArray<count, Vector>,
    _ outputs: InlineArray<count, Activations>
  ) {
    let D = configuration.embedding
    let previous = row == run.first ? run.state + shift : normed[row - 1]
    for output in outputs.indices {
      kernels.token_shift(normed[row], previous, mu[output], D, outputs[output].row(row))
      outputs[output].quantize(row, width: D, kernels)
    }
    if row == run.first {
      (run.state + shift).update(from: normed[run.first + run.count - 1], count: D)
    }
  }

  /// The value matrix of channel mixing: adds Σ_j hidden[t][j] · row_j, reading only rows with hidden[t][j] ≠ 0.
  ///
  /// Each sum is made of `parts` ranges of hidden units, added up in order: the result depends neither on the number
  /// of threads nor on the number of rows in the block. Returns what the next norm has to add.
  func addHiddenRows(_ member: inout Team.Member, _ matrix: HiddenRows, _ hidden: Rows) -> Pending {
    let D = configuration.embedding
    let units = { (part: Int) in matrix.units * part / Self.parts }
    if rows == 1 {
      member.parallel(Self.parts) { part in
        let from = units(part)
        let count = kernels.nonzero(hidden[0], from, units(part + 1), index + from, value + from)
        partial[part].update(repeating: 0, count: D)
        kernels.add_rows(
          matrix.format, matrix.records, D, index + from, value + from, count, 0, D, partial[part])
      }
      return .partial
    }
    let tile = 128
    let scratch = rowScratch + member.index * Int(RK_ADD_ROWS_SCRATCH)
    member.parallel((D + tile - 1) / tile) { task in
      let from = task * tile
      let to = min(D, from + tile)
      for part in 0..<Self.parts {
        for row in 0..<rows { (partial[row] + from).update(repeating: 0, count: to - from) }
        kernels.add_rows_block(
          matrix.format, matrix.records, D, units(part), units(part + 1) - units(part), hidden.values, hidden.stride,
          rows, from, to, partial.values, partial.stride, scratch)
        for row in 0..<rows { kernels.add(partial[row] + from, to - from, x[row] + from) }
      }
    }
    return .nothing
  }
}
