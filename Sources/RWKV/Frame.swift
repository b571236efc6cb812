// SPDX-License-Identifier: MIT
internal import CRWKVKernels

/// Rows of a piece that continue one state: a stretch of a prompt, or one token of one of several conversations.
struct Run {
  let first: Int
  let count: Int
  let state: UnsafeMutablePointer<Float>
  /// Rows that the state reads; those after them are read by a copy of it, `ahead`.
  let kept: Int
  let ahead: UnsafeMutablePointer<Float>?
  /// The state that `state` belongs to.
  unowned(unsafe) let owner: State
  /// What the attention blocks of RWKV-7b and RWKV-X remember.
  let caches: [AttentionCache]

  init(first: Int, count: Int, _ state: State) {
    self.first = first
    self.count = count
    self.state = state.values
    kept = count
    ahead = nil
    owner = state
    caches = state.caches
  }

  /// A run with drafts: `state` reads the first `kept` rows. `ahead` takes over what `state` remembers then, and reads
  /// the others. The states must have no caches.
  init(first: Int, count: Int, _ state: State, kept: Int, ahead: State) {
    precondition(state.caches.isEmpty && (1..<count).contains(kept))
    self.init(first: first, count: count, state.values, kept: kept, ahead: ahead.values, state)
  }

  private init(
    first: Int, count: Int, _ state: UnsafeMutablePointer<Float>, kept: Int,
    ahead: UnsafeMutablePointer<Float>?, _ owner: State
  ) {
    self.first = first
    self.count = count
    self.state = state
    self.kept = kept
    self.ahead = ahead
    self.owner = owner
    caches = owner.caches
  }

  /// Calls `body` for the rows that the state reads and then, once `copy(state, ahead)` has taken over a part of it,
  /// for those that are ahead.
  @inline(__always)
  func advance(
    copying copy: (_ state: UnsafeMutablePointer<Float>, _ ahead: UnsafeMutablePointer<Float>) -> Void,
    _ body: (Run) -> Void
  ) {
    guard let ahead else { return body(self) }
    body(Run(first: first, count: kept, state, kept: kept, ahead: nil, owner))
    copy(state, ahead)
    let left = count - kept
    body(Run(first: first + kept, count: left, ahead, kept: left, ahead: nil, owner))
  }
}

/// A vector of weights.
typealias Vector = UnsafePointer<Float>

/// Weights of a layer norm, [D] each.
struct LayerNorm: @unchecked Sendable {
  let weight: Vector
  let bias: Vector
  /// D
  let count: Int

  /// y = (x − mean) / √(variance + 1e-5) · weight + bias; y may be x.
  @inline(__always)
  func apply(_ x: UnsafePointer<Float>, into y: UnsafeMutablePointer<Float>, _ kernels: Kernels) {
    kernels.layer_norm(x, weight, bias, count, 1e-5, y)
  }
}

/// A piece of T rows on its way through the model: which state each row continues, the residual stream, and what all
/// versions do with it.
///
/// A row is one token. Scratch of one session; written by all members of its team, each its own part of a phase.
final class Frame {
  /// What the frame of a whole piece and that of its ends have in common.
  private struct Buffers {
    let configuration: Configuration
    let layout: State.Layout
    let kernels: Kernels
    let capacity: Int
    let span: Int
    let residual, normed, before, product: Rows
  }
  private let buffers: Buffers

  var configuration: Configuration { buffers.configuration }
  var layout: State.Layout { buffers.layout }
  var kernels: Kernels { buffers.kernels }
  /// Rows of a piece at most.
  var capacity: Int { buffers.capacity }
  /// Rows of a pass over all blocks at most; a pass of several pieces goes through the model block by block.
  var span: Int { buffers.span }
  /// Residual stream, [T, D].
  var x: Rows { Rows(buffers.residual, from: origin) }
  /// Output of the last layer norm, [T, D].
  var normed: Rows { buffers.normed }
  /// Room for what is added to the residual stream, [T, D].
  var product: Rows { buffers.product }

  /// First row of the current piece within its pass.
  private(set) var origin = 0
  /// Rows of the current piece.
  private(set) var rows = 0
  /// The runs that the rows of the current piece belong to.
  private(set) var runs: [Run] = []
  /// The number of each row's run.
  private let runOfRow: UnsafeMutablePointer<Int>
  /// Where each row stood among the tokens that were read: other than here in a frame of ends.
  private let sourceOfRow: UnsafeMutablePointer<Int>
  /// Whether some run has several rows, so that rows depend on each other.
  private var hasSequences = false

  init(_ configuration: Configuration, capacity: Int, span: Int, arena: Arena) throws(ModelError) {
    let D = configuration.embedding
    buffers = Buffers(
      configuration: configuration, layout: State.Layout(configuration), kernels: bestKernels,
      capacity: capacity, span: span,
      residual: try Rows(rows: span, width: D, in: arena),
      normed: try Rows(rows: capacity, width: D, in: arena),
      before: try Rows(rows: capacity, width: D, in: arena),
      product: try Rows(rows: capacity, width: D, in: arena))
    runOfRow = try arena.allocate(Int.self, count: capacity)
    sourceOfRow = try arena.allocate(Int.self, count: capacity)
  }

  /// A frame for another piece of the same prompt, which goes through the model at the same time.
  convenience init(beside frame: Frame, arena: Arena) throws(ModelError) {
    try self.init(frame.configuration, capacity: frame.capacity, span: frame.capacity, arena: arena)
  }

  /// A frame for the ends of another one's runs, with the same buffers.
  init(endsOf frame: Frame, arena: Arena) throws(ModelError) {
    buffers = frame.buffers
    runOfRow = try arena.allocate(Int.self, count: frame.capacity)
    sourceOfRow = try arena.allocate(Int.self, count: frame.capacity)
  }

  // MARK: - Rows

  /// Prepares for a piece; rows of the runs are consecutive and cover it. `origin`: its first row in its pass.
  func begin(_ runs: [Run], origin: Int = 0) {
    self.runs = runs
    self.origin = origin
    rows = 0
    hasSequences = false
    for (number, run) in runs.enumerated() {
      precondition(run.first == rows && run.count > 0)
      for row in run.first..<run.first + run.count { (runOfRow[row], sourceOfRow[row]) = (number, row) }
      rows += run.count
      hasSequences = hasSequences || run.count > 1
    }
    precondition(rows <= capacity && origin + rows <= span)
  }

  /// Prepares `ends` for the last two rows of each run, or the only one. That is all that channel mixing after the last
  /// time mixing needs where logits of last rows are wanted: the last row, and the one before it for the token shift.
  /// What comes out for the latter is of no use.
  func begin(ends: Frame) {
    var first = 0
    var shortened: [Run] = []
    for run in runs {
      shortened.append(Run(first: first, count: min(2, run.count), run.owner))
      first += min(2, run.count)
    }
    ends.begin(shortened, origin: origin)
    for (run, end) in zip(runs, shortened) {
      for row in 0..<end.count { ends.sourceOfRow[end.first + row] = run.first + run.count - end.count + row }
    }
  }

  /// The run that a row belongs to.
  func run(of row: Int) -> Int { runOfRow[row] }

  /// The row of the tokens that were read from which a row comes.
  func sourceRow(_ row: Int) -> Int { sourceOfRow[row] }

  /// Leaves the residual stream of the runs' last rows to `ends`, for which `begin(ends:)` has prepared.
  func keepEnds(_ member: inout Team.Member, in ends: Frame) {
    // In ascending order, because a row's new place may be that of another run's row.
    member.parallel(1) { _ in
      for row in 0..<ends.rows where ends.sourceOfRow[row] != row {
        x[row].update(from: x[ends.sourceOfRow[row]], count: configuration.embedding)
      }
    }
  }

  // MARK: - What all versions do with them

  /// Layer norm and token shift, the start of every mixer:
  ///
  ///     outputs[i] = n + (n′ − n) · mu[i]        n = layerNorm(x), n′ = the same of the token before
  ///
  /// Two phases where rows follow each other, or where one row's outputs are shared out; otherwise one.
  /// - Parameters:
  ///   - place: where each state keeps n′ of its last token, [D].
  ///   - previous: where to keep each row's n′, for those who need it again.
  func normAndShift<let count: Int>(
    _ member: inout Team.Member, _ norm: LayerNorm, keptAt place: Int, mu: InlineArray<count, Vector>,
    into outputs: InlineArray<count, Activations>, keeping previous: Rows? = nil
  ) {
    let D = configuration.embedding
    let shares = rows == 1 && member.teamSize > 1 ? count : 1
    let together = shares == 1 && !hasSequences
    let before = buffers.before
    member.parallel(rows) { row in
      norm.apply(x[row], into: normed[row], kernels)
      let number = runOfRow[row]
      if row == runs[number].first { before[number].update(from: runs[number].state + place, count: D) }
      if together { mix(row, place, mu, outputs, 0..<count, previous) }
    }
    guard !together else { return }
    member.parallel(rows * shares) { task in
      let (row, share) = (task / shares, task % shares)
      mix(row, place, mu, outputs, count * share / shares..<count * (share + 1) / shares, previous)
    }
  }

  /// Layer norm alone: output = layerNorm(x).
  func norm(_ member: inout Team.Member, _ norm: LayerNorm, into output: Activations) {
    member.parallel(rows) { row in
      norm.apply(x[row], into: output.row(row), kernels)
      output.quantize(row, width: norm.count, kernels)
    }
  }

  /// Mixes one row with the row before it, for some of the outputs. The task that has the first output of a run's first
  /// row also replaces the state's shift vector, of which `before` holds a copy.
  @inline(__always)
  private func mix<let count: Int>(
    _ row: Int, _ place: Int, _ mu: InlineArray<count, Vector>, _ outputs: InlineArray<count, Activations>,
    _ share: Range<Int>, _ kept: Rows?
  ) {
    let D = configuration.embedding
    let run = runs[runOfRow[row]]
    let previous = row == run.first ? buffers.before[runOfRow[row]] : normed[row - 1]
    for output in share {
      kernels.token_shift(normed[row], previous, mu[output], D, outputs[output].row(row))
      outputs[output].quantize(row, width: D, kernels)
    }
    guard share.lowerBound == 0 else { return }
    kept?[row].update(from: previous, count: D)
    if row == run.first {
      (run.state + place).update(from: normed[run.first + run.kept - 1], count: D)
      if let ahead = run.ahead { (ahead + place).update(from: normed[run.first + run.count - 1], count: D) }
    }
  }

  /// The recurrence of time mixing: `wkv` for each run and head, whose matrices are at `state` in the states, and the
  /// 15-bit form of what they leave in `mixed`. One head of one run is a task, which any member may take; in a `Wave`
  /// the member that has the piece takes them all.
  func recur(
    _ member: inout Team.Member, state: Int, into mixed: Activations, _ wkv: (_ run: Run, _ head: Int) -> Void
  ) {
    let (heads, N) = (configuration.heads, configuration.headSize)
    // Heads that are whole blocks are quantized by the task that computed them.
    let isWhole = N % 64 == 0
    member.parallel(heads * runs.count) { task in
      let (run, head) = (runs[task / heads], task % heads)
      let matrix = state + head * N * N
      run.advance {
        ($1 + matrix).update(from: $0 + matrix, count: N * N)
      } _: {
        wkv($0, head)
      }
      guard isWhole else { return }
      for row in run.first..<run.first + run.count {
        mixed.quantize(row, from: head * N, width: N, kernels)
      }
    }
    guard !isWhole else { return }
    member.parallel(rows) { row in mixed.quantize(row, width: configuration.embedding, kernels) }
  }
}
