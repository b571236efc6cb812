// SPDX-License-Identifier: MIT
internal import CRWKVKernels
internal import RWKVFormat

/// Rows of a block that continue one state: a stretch of a prompt, or one token of one of several conversations.
struct Run {
  let first: Int
  let count: Int
  let state: UnsafeMutablePointer<Float>
  /// Rows that the state reads; those after them are read by a copy of it, `ahead`.
  let kept: Int
  let ahead: UnsafeMutablePointer<Float>?
  /// Whose values these are.
  unowned(unsafe) let owner: State
  /// RWKV-X: what the attention blocks remember.
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

  /// `state` reads the first `kept` of the rows, and `ahead`, which takes over what `state` remembers then, the others.
  /// For states without caches.
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

  /// Calls `body` for the rows that the state reads and then, once `copy(state, ahead)` has taken over a part of it, for those
  /// that are ahead.
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
  /// Rows of a pass over all blocks at most; a pass of several blocks of rows goes through the model block by block.
  let span: Int
  /// First row of the current block of rows within its pass.
  private(set) var origin = 0
  private let residual: Rows
  /// Residual stream, [T, D].
  var x: Rows { Rows(residual, from: origin) }
  /// Output of the last layer norm, [T, D].
  let normed: Rows
  /// The state's shift vector of each run, as it was before the block, [T, D].
  private let before: Rows
  /// Output of a mixer that is still to be added to `x`, [T, D].
  let delta: Rows
  /// Parts of the channel-mix output, [parts, T, D] for T ≤ `fewRows`; of longer blocks one part, [T, D].
  let partial: Rows
  private let index: UnsafeMutablePointer<Int32>
  private let value: UnsafeMutablePointer<Float>
  private let rowScratch: UnsafeMutablePointer<Float>
  /// Limits of each value matrix's rows (`rk_row_limits`), by its ordinal, and which parts of them are known: decoding notes
  /// them when it first comes to a part.
  private let limits: UnsafeMutablePointer<UInt8>
  private let limitsKnown: UnsafeMutablePointer<Bool>
  private let hiddenUnits: Int
  /// Hidden rows that decoding has read so far, by part, and how many there were to read.
  private let rowsRead: UnsafeMutablePointer<Int>
  private let rowsSeen: UnsafeMutablePointer<Int>
  /// Rows of the current block.
  var rows = 0
  /// They belong to these runs.
  var runs: [Run] = []
  /// Run of each row.
  private let runOfRow: UnsafeMutablePointer<Int>
  /// Where each row stood among the tokens that were read: other than here in a frame of ends.
  private let sourceOfRow: UnsafeMutablePointer<Int>
  /// Whether some run has several rows, so that rows depend on each other.
  private var hasSequences = false
  /// Members of the team.
  let teamSize: Int

  /// What the next norm has to add to the residual stream first: `delta`, or the sum of the parts of a short block,
  /// gated by σ(gate) if there is a gate.
  enum Pending {
    case nothing, delta
    case partial(gate: Rows?)
  }

  /// Hidden units are summed in this many ranges, whatever the number of threads.
  static let parts = 8
  /// Rows up to which a block's hidden units are shared out by part: each member then reads memory in one ascending stream.
  private static let fewRows = 16

  init(
    _ configuration: Configuration, hiddenUnits: Int, hiddenMatrices: Int, capacity: Int, span: Int,
    teamSize: Int, arena: Arena
  ) throws(ModelError) {
    self.configuration = configuration
    self.hiddenUnits = hiddenUnits
    self.capacity = capacity
    self.span = span
    self.teamSize = teamSize
    layout = State.Layout(configuration)
    kernels = bestKernels
    let D = configuration.embedding
    residual = try Rows(rows: span, width: D, in: arena)
    before = try Rows(rows: capacity, width: D, in: arena)
    normed = try Rows(rows: capacity, width: D, in: arena)
    delta = try Rows(rows: capacity, width: D, in: arena)
    partial = try Rows(rows: max(capacity, Self.parts * Self.fewRows), width: D, in: arena)
    index = try arena.allocate(Int32.self, count: hiddenUnits)
    value = try arena.allocate(Float.self, count: hiddenUnits)
    rowScratch = try arena.allocate(Float.self, count: teamSize * Int(RK_ADD_ROWS_SCRATCH))
    limits = try arena.allocate(
      UInt8.self, count: hiddenMatrices * Self.limitsBytes(units: hiddenUnits, columns: D))
    limitsKnown = try arena.allocate(Bool.self, count: hiddenMatrices * Self.parts)
    rowsRead = try arena.allocate(Int.self, count: Self.parts)
    rowsSeen = try arena.allocate(Int.self, count: Self.parts)
    runOfRow = try arena.allocate(Int.self, count: capacity)
    sourceOfRow = try arena.allocate(Int.self, count: capacity)
  }

  /// A frame for the ends of another one's runs, whose scratch it shares.
  init(endsOf frame: Frame, arena: Arena) throws(ModelError) {
    configuration = frame.configuration
    hiddenUnits = frame.hiddenUnits
    capacity = frame.capacity
    span = frame.span
    teamSize = frame.teamSize
    layout = frame.layout
    kernels = frame.kernels
    residual = frame.residual
    before = frame.before
    normed = frame.normed
    delta = frame.delta
    partial = frame.partial
    index = frame.index
    value = frame.value
    rowScratch = frame.rowScratch
    limits = frame.limits
    limitsKnown = frame.limitsKnown
    rowsRead = frame.rowsRead
    rowsSeen = frame.rowsSeen
    runOfRow = try arena.allocate(Int.self, count: capacity)
    sourceOfRow = try arena.allocate(Int.self, count: capacity)
  }

  /// Of a value matrix with INT4 or INT5; the other formats need none.
  static func limitsBytes(units: Int, columns: Int) -> Int {
    Int(rk_row_limits_bytes(Int32(WeightFormat.int4.rawValue), columns, units))
  }

  /// Prepares for a block; rows of the runs are consecutive and cover it. `origin`: its first row in its pass.
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

  /// Prepares `ends` for the last two rows of each run, or the only one. That is all that channel mixing after the last time
  /// mixing needs where logits of last rows are wanted: the last row, and the one before it for the token shift. What comes out
  /// for the latter is of no use.
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

  /// Adds what is pending to the rows at the ends of the runs and leaves the residual stream to `ends`.
  func settle(_ member: inout Team.Member, _ pending: Pending, into ends: Frame) {
    let D = configuration.embedding
    // In ascending order, because a row's new place may be that of another run's row.
    member.parallel(1) { _ in
      for (run, end) in zip(runs, ends.runs) {
        for row in 0..<end.count {
          let source = run.first + run.count - end.count + row
          settle(pending, source)
          if source != end.first + row { x[end.first + row].update(from: x[source], count: D) }
        }
      }
    }
  }

  /// Share of the hidden units' rows that decoding single tokens has read, 0…1; 1 before the first token.
  var hiddenShare: Double {
    let parts = 0..<Self.parts
    let seen = parts.reduce(0) { $0 + rowsSeen[$1] }
    return seen == 0 ? 1 : Double(parts.reduce(0) { $0 + rowsRead[$1] }) / Double(seen)
  }

  /// Adds what is pending to row `row` of the residual stream.
  @inline(__always)
  func settle(_ pending: Pending, _ row: Int) {
    switch pending {
    case .nothing: break
    case .delta: kernels.add(delta[row], configuration.embedding, x[row])
    case .partial(let gate):
      let D = configuration.embedding
      for part in 1..<Self.parts { kernels.add(partial[part * rows + row], D, partial[row]) }
      if let gate { kernels.multiply_sigmoid(gate[row], D, partial[row]) }
      kernels.add(partial[row], D, x[row])
    }
  }

  /// Adds what is pending to all rows, so that the next block of rows may use the same scratch.
  func settle(_ member: inout Team.Member, _ pending: Pending) {
    member.parallel(rows) { row in settle(pending, row) }
  }

  /// Layer norm and token shift, the start of every mixer:
  ///
  ///     outputs[i] = n + (n' − n) · mu[i]        n = layerNorm(x), n' = the same of the token before
  ///
  /// Two phases where rows follow each other, or where one row's outputs are shared out; otherwise one.
  /// - Parameters:
  ///   - shift: where the state keeps n', as an offset into it.
  ///   - previous: where to keep each row's n', for those who need it again.
  func normAndShift<let count: Int>(
    _ member: inout Team.Member, adding pending: Pending, _ norm: LayerNorm, shift: Int,
    mu: InlineArray<count, Vector>, into outputs: InlineArray<count, Activations>,
    keeping previous: Rows? = nil
  ) {
    let D = configuration.embedding
    let shares = rows == 1 && teamSize > 1 ? count : 1
    let together = shares == 1 && !hasSequences
    member.parallel(rows) { row in
      settle(pending, row)
      kernels.layer_norm(x[row], norm.weight, norm.bias, D, 1e-5, normed[row])
      let number = runOfRow[row]
      if row == runs[number].first { before[number].update(from: runs[number].state + shift, count: D) }
      if together { mix(row, shift, mu, outputs, 0..<count, previous) }
    }
    guard !together else { return }
    member.parallel(rows * shares) { task in
      let (row, share) = (task / shares, task % shares)
      mix(row, shift, mu, outputs, count * share / shares..<count * (share + 1) / shares, previous)
    }
  }

  /// Layer norm alone: output = layerNorm(x).
  func norm(
    _ member: inout Team.Member, adding pending: Pending, _ norm: LayerNorm, into output: Activations
  ) {
    let D = configuration.embedding
    member.parallel(rows) { row in
      settle(pending, row)
      kernels.layer_norm(x[row], norm.weight, norm.bias, D, 1e-5, output.row(row))
      output.quantize(row, width: D, kernels)
    }
  }

  /// Mixes one row with the row before it, for some of the outputs. The task that has the first output of a run's first row
  /// also replaces the state's shift vector, of which `before` holds a copy.
  @inline(__always)
  private func mix<let count: Int>(
    _ row: Int, _ shift: Int, _ mu: InlineArray<count, Vector>, _ outputs: InlineArray<count, Activations>,
    _ share: Range<Int>, _ kept: Rows?
  ) {
    let D = configuration.embedding
    let run = runs[runOfRow[row]]
    let previous = row == run.first ? before[runOfRow[row]] : normed[row - 1]
    for output in share {
      kernels.token_shift(normed[row], previous, mu[output], D, outputs[output].row(row))
      outputs[output].quantize(row, width: D, kernels)
    }
    guard share.lowerBound == 0 else { return }
    kept?[row].update(from: previous, count: D)
    if row == run.first {
      (run.state + shift).update(from: normed[run.first + run.kept - 1], count: D)
      if let ahead = run.ahead { (ahead + shift).update(from: normed[run.first + run.count - 1], count: D) }
    }
  }

  /// The recurrence of time mixing: `wkv` for each run and head, whose matrices are at `state` in the states, and the 15-bit
  /// form of what they leave in `mixed`.
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

  /// Limits of a value matrix's rows, of which those of `part` are known.
  private func limits(_ matrix: HiddenRows, _ part: Int) -> UnsafePointer<UInt8> {
    let D = matrix.columns
    let limits = limits + matrix.ordinal * Self.limitsBytes(units: hiddenUnits, columns: D)
    let isKnown = limitsKnown + matrix.ordinal * Self.parts + part
    if !isKnown.pointee {
      let units = matrix.units(part, of: Self.parts)
      rk_row_limits(matrix.format, matrix.records, D, units.lowerBound, units.count, limits)
      isKnown.pointee = true
    }
    return UnsafePointer(limits)
  }

  /// Lists a token's hidden units of `part` that are not zero; returns their number.
  private func list(_ hidden: UnsafeMutablePointer<Float>, _ matrix: HiddenRows, _ part: Int) -> Int {
    let units = matrix.units(part, of: Self.parts)
    return kernels.nonzero(
      hidden, units.lowerBound, units.upperBound, index + units.lowerBound, value + units.lowerBound)
  }

  /// Adds the `count` rows of the units that were listed last.
  private func add(_ matrix: HiddenRows, _ part: Int, _ count: Int, to sums: UnsafeMutablePointer<Float>) {
    let (D, from) = (matrix.columns, matrix.units(part, of: Self.parts).lowerBound)
    kernels.add_rows(
      matrix.format, matrix.records, limits(matrix, part), D, index + from, value + from, count, 0, D, sums)
  }

  /// The value matrix of channel mixing: Σ_j hidden[t][j] · row_j, reading only rows with hidden[t][j] ≠ 0; times
  /// σ(gate[t]) if there is a gate. Returns what the next norm has to add.
  ///
  /// Each sum is made of `parts` ranges of hidden units, added up in order: the result depends neither on the number
  /// of threads nor on the number of rows in the block.
  func sumHiddenRows(
    _ member: inout Team.Member, _ matrix: HiddenRows, _ hidden: Rows, gate: Rows? = nil
  ) -> Pending {
    let D = configuration.embedding
    member.gather(matrix.location, hidden.values, stride: hidden.stride, rows: rows, kernels)
    if rows == 1 {
      member.parallel(Self.parts) { part in
        let count = list(hidden[0], matrix, part)
        rowsRead[part] += count
        rowsSeen[part] += matrix.units(part, of: Self.parts).count
        partial[part].update(repeating: 0, count: D)
        add(matrix, part, count, to: partial[part])
      }
      return .partial(gate: gate)
    }
    let scratch = rowScratch + member.index * Int(RK_ADD_ROWS_SCRATCH)
    if rows <= Self.fewRows && teamSize <= Self.parts {
      member.parallel(Self.parts) { part in
        let units = matrix.units(part, of: Self.parts)
        let sums = partial[part * rows]
        sums.update(repeating: 0, count: rows * partial.stride)
        // Where few tokens need the same hidden unit, it is faster if each reads its own (docs/performance-notebook.md).
        let needed = (0..<rows).reduce(0) { $0 + list(hidden[$1], matrix, part) }
        if Double(needed) < Double(units.count) * (rows <= 4 ? 0.6 : 2.2) {
          for row in 0..<rows {
            add(matrix, part, list(hidden[row], matrix, part), to: sums + row * partial.stride)
          }
          return
        }
        kernels.add_rows_block(
          matrix.format, matrix.records, D, units.lowerBound, units.count, hidden.values, hidden.stride, rows,
          0, D, sums, partial.stride, scratch)
      }
      return .partial(gate: gate)
    }
    // Tasks of 256 columns, which share activations as integers, for one half of a prompt's rows.
    let width = teamSize == 1 ? D : 256
    let tiles = (D + width - 1) / width
    let halves = RowHalves(rows, teamSize: teamSize)
    member.parallel(tiles * halves.count) { task in
      let rows = halves[task / tiles]
      let (from, to) = (task % tiles * width, min(D, (task % tiles + 1) * width))
      for part in 0..<Self.parts {
        let sums = part == 0 ? delta : partial
        let units = matrix.units(part, of: Self.parts)
        for row in rows { (sums[row] + from).update(repeating: 0, count: to - from) }
        kernels.add_rows_block(
          matrix.format, matrix.records, D, units.lowerBound, units.count, hidden[rows.lowerBound],
          hidden.stride, rows.count, from, to, sums[rows.lowerBound], sums.stride, scratch)
        guard part > 0 else { continue }
        for row in rows { kernels.add(partial[row] + from, to - from, delta[row] + from) }
      }
      guard let gate else { return }
      for row in rows { kernels.multiply_sigmoid(gate[row] + from, to - from, delta[row] + from) }
    }
    return .delta
  }
}
