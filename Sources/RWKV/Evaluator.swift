// SPDX-License-Identifier: MIT
internal import CRWKVKernels
internal import RWKVFormat

/// Evaluates blocks of tokens: scratch memory and threads over a shared model. Not thread-safe.
package final class Evaluator {
  package let model: Model
  let frame: Frame
  /// The ends of the frame's runs.
  private let ends: Frame
  let team: Team
  private let blocks: any BlockStack
  private let embeddings = RowTable.Reader()
  /// Of 7a and 7b.
  private let tokenRows: TokenRows?
  /// Of a streamed model, one for each member of the team.
  private let readers: [ChunkReader]
  private let arena = Arena()
  private let headInput: Activations
  private let headRows: UnsafeMutablePointer<Int>
  /// Of embedding models and rerankers.
  let headScratch: HeadScratch?
  private let blockCount: Int
  /// Rows whose logits were wanted last.
  package private(set) var headCount = 0
  /// Whether the last logits were not made here, so that there is no hidden vector to them.
  private(set) var isRestored = false
  /// Whether there are logits of them, not the hidden vectors alone.
  private(set) var hasLogits = false
  /// [headCount, logitsStride]: one row for each requested row, in order.
  private let logits: UnsafeMutablePointer<Float>
  private let logitsStride: Int

  /// Rows of a block: enough to make unpacking weights cheap, few enough to keep activations in the cache.
  static let capacity = 64

  /// Which rows' logits are wanted.
  package enum Output: Equatable {
    case none, lastOfEachRun, all
    /// Of each run its own, none of which is `eachRun`.
    case eachRun([Output])

    /// What is wanted of run `index`.
    func ofRun(_ index: Int) -> Output {
      if case .eachRun(let outputs) = self { outputs[index] } else { self }
    }

    /// Whether all rows of some run are wanted.
    var hasAll: Bool {
      if case .eachRun(let outputs) = self { outputs.contains(.all) } else { self == .all }
    }
  }

  /// What is read, one row each: token ids, or vectors [rows, D] that stand in for rows of the embedding table.
  package enum Input {
    case tokens(ArraySlice<Int>)
    case vectors(UnsafeBufferPointer<Float>)

    func rows(_ D: Int) -> Int {
      switch self {
      case .tokens(let tokens): tokens.count
      case .vectors(let values): values.count / D
      }
    }

    func slice(_ rows: Range<Int>, _ D: Int) -> Input {
      switch self {
      case .tokens(let tokens):
        .tokens(tokens[tokens.startIndex + rows.lowerBound..<tokens.startIndex + rows.upperBound])
      case .vectors(let values):
        .vectors(UnsafeBufferPointer(rebasing: values[rows.lowerBound * D..<rows.upperBound * D]))
      }
    }
  }

  /// - Parameters:
  ///   - span: tokens that `walk` reads at most; nil: what the model needs.
  ///   - moments: gathers the inputs of the tensors that it watches.
  package init(
    _ model: Model, threads: Int, span: Int? = nil, moments: InputMoments? = nil
  ) throws(ModelError) {
    self.model = model
    let configuration = model.configuration
    blockCount = configuration.blocks.count
    team = Team(size: availableThreads(threads), moments: moments)
    frame = try Frame(
      configuration, hiddenUnits: model.weights.hiddenUnits(configuration),
      hiddenMatrices: model.store.hiddenRowsCount, capacity: Self.capacity,
      span: max(Self.capacity, span ?? (model.store.isStreamed ? Streaming.tokensPerPass : Self.capacity)),
      teamSize: team.size, arena: arena)
    ends = try Frame(endsOf: frame, arena: arena)
    let tables = model.store.tables
    tokenRows = tables.isEmpty ? nil : try TokenRows(tables, frame, arena: arena)
    blocks =
      switch model.weights {
      case .v4(let weights): try RWKV4(weights, frame, arena: arena)
      case .v5(let weights): try RWKV5(weights, frame, arena: arena)
      case .v6(let weights): try RWKV6(weights, frame, arena: arena)
      case .v7(let weights):
        try RWKV7(weights, frame, tokenRows, maximumContext: model.maximumContext, arena: arena)
      case .x(let weights): try RWKVX(weights, frame, arena: arena)
      }
    readers = model.store.isStreamed ? (0..<team.size).map { _ in ChunkReader() } : []
    headInput = try Activations(rows: Self.capacity, width: configuration.embedding, in: arena)
    headRows = try arena.allocate(Int.self, count: Self.capacity)
    headScratch =
      configuration.kind == .language
      ? nil : try HeadScratch(rows: Self.capacity, width: configuration.embedding, in: arena)
    logitsStride = paddedWidth(configuration.vocabulary)
    logits = try arena.allocate(
      Float.self, count: model.languageHead == nil ? 0 : Self.capacity * logitsStride)
  }

  /// Memory reserved for activations and logits [bytes].
  var scratchBytes: Int { arena.byteCount }

  /// Reads a sequence of any length and advances `state`, a block at a time; where the weights are streamed, as many
  /// blocks as one pass over them takes.
  ///
  /// An error leaves the state after the last complete block or pass; but see `evaluate`.
  /// - Parameters:
  ///   - logits: whether logits of the wanted rows are made, or their hidden vectors alone.
  ///   - each: called after each block with the rows read so far and the rows of the block; reading stops when it
  ///     returns false.
  package func read(
    _ input: Input, _ state: State, output: Output, logits: Bool = true,
    _ each: (_ end: Int, _ count: Int) -> Bool
  ) throws(ModelError) {
    let D = model.configuration.embedding
    let total = input.rows(D)
    var start = 0
    while start < total {
      let end = start + min(frame.span, total - start)
      let part = input.slice(start..<end, D)
      let wanted = output == .lastOfEachRun && end < total ? .none : output
      var goesOn = true
      if end - start <= Self.capacity {
        try evaluate(part, [Run(first: 0, count: end - start, state)], output: wanted, logits: logits)
        goesOn = each(end, end - start)
      } else {
        try evaluate(part, state, output: wanted, logits: logits, entering: { _ in true }) { first, count in
          goesOn = each(start + first + count, count) && goesOn
        }
      }
      guard goesOn else { throw ModelError(.cancelled) }
      start = end
    }
  }

  /// Reads a block, one input per row of the runs, and advances the runs' states.
  ///
  /// When it throws, no state has changed; except that weights which turn out to be unreadable in the middle leave
  /// states that remember nothing.
  func evaluate(
    _ input: Input, _ runs: [Run], output: Output, logits: Bool = true
  ) throws(ModelError) {
    try checkHead(output, logits: logits)
    try checkContext(runs)
    frame.begin(runs)
    try embed(input)
    try loadRows(input, 0..<blockCount)
    try pass(over: runs) { access throws(ModelError) in
      try blocks.prepare()
      // After the last time mixing only the ends of runs matter, unless all rows are wanted.
      let shortens = !output.hasAll && runs.contains { $0.count > 2 }
      if shortens { frame.begin(ends: ends) }
      let last = shortens ? ends : frame
      select(output, last)
      team.run { member in
        var pending = Frame.Pending.nothing
        for position in 0..<blockCount {
          model.store.acquire(position, access, &member, readers)
          blocks.timeMix(&member, position, adding: pending)
          let ending = shortens && position == blockCount - 1
          if ending { frame.settle(&member, .delta, into: ends) }
          pending = blocks.channelMix(
            &member, position, ending ? ends : frame, adding: ending ? .nothing : .delta)
        }
        model.store.acquire(blockCount, access, &member, readers)
        head(&member, last, adding: pending)
      }
      blocks.finish()
    }
  }

  /// Reads up to `frame.span` inputs that continue `state`, all of them through one block of the model before the next,
  /// so that each block's weights are needed once.
  ///
  /// - Parameters:
  ///   - entering: called before each block with its position, and before the head with that of no block; the reading
  ///     stops when it returns false.
  ///   - each: called where logits were asked for, with the first row that they belong to and their number.
  private func evaluate(
    _ input: Input, _ state: State, output: Output, logits: Bool, entering: (_ position: Int) -> Bool,
    _ each: (_ first: Int, _ count: Int) -> Void
  ) throws(ModelError) {
    let D = model.configuration.embedding
    let total = input.rows(D)
    try checkHead(output, logits: logits)
    try checkContext([Run(first: 0, count: total, state)])
    let starts = Array(stride(from: 0, to: total, by: Self.capacity))
    func begin(_ start: Int) -> Run {
      let run = Run(first: 0, count: min(Self.capacity, total - start), state)
      frame.begin([run], origin: start)
      return run
    }
    for start in starts {
      let run = begin(start)
      try embed(input.slice(start..<start + run.count, D))
    }
    try pass(over: [begin(0)]) { access throws(ModelError) in
      let cached = state.caches.map(\.count)
      for position in 0..<blockCount {
        guard entering(position) else { throw ModelError(.cancelled) }
        team.run { member in model.store.acquire(position, access, &member, readers) }
        for (cache, count) in zip(state.caches, cached) { cache.count = count }
        for start in starts {
          let run = begin(start)
          try blocks.prepare()
          try loadRows(input.slice(start..<start + run.count, D), position..<position + 1)
          team.run { member in
            blocks.timeMix(&member, position, adding: .nothing)
            frame.settle(&member, blocks.channelMix(&member, position, frame, adding: .delta))
          }
          blocks.finish()
        }
      }
      guard entering(blockCount) else { throw ModelError(.cancelled) }
      for start in output == .all ? starts : starts.suffix(1) {
        let run = begin(start)
        select(output, frame)
        team.run { member in
          model.store.acquire(blockCount, access, &member, readers)
          head(&member, frame, adding: .nothing)
        }
        each(start, run.count)
      }
    }
  }

  /// Reads a text from an empty state, all of it through one block of the model before the next, then the head.
  ///
  /// - Parameter entering: called before each block with its position, and before the head with that of no block; the
  ///   reading stops when it returns false.
  package func walk(_ tokens: [Int], entering: (_ position: Int) -> Bool) throws(ModelError) {
    precondition(tokens.count <= frame.span)
    try evaluate(
      .tokens(tokens[...]), model.newState(), output: .all, logits: model.languageHead != nil,
      entering: entering
    ) { _, _ in }
  }

  /// x = layerNorm(embedding) of the frame's rows.
  private func embed(_ input: Input) throws(ModelError) {
    let D = model.configuration.embedding
    precondition(input.rows(D) == frame.rows)
    switch input {
    case .tokens(let tokens):
      for (row, token) in tokens.enumerated() {
        try embeddings.read(token, of: model.embeddings, into: frame.x[row], frame.kernels)
      }
    case .vectors(let values):
      guard tokenRows == nil else { throw ModelError(.needsTokens) }
      for row in 0..<frame.rows {
        guard let base = values.baseAddress else { break }
        frame.x[row].update(from: base + row * D, count: D)
      }
    }
    for row in 0..<frame.rows {
      let x = frame.x[row]
      frame.kernels.layer_norm(x, model.inputNorm.weight, model.inputNorm.bias, D, 1e-5, x)
    }
    tokenRows?.keep(frame)
  }

  /// Throws where logits are wanted of a model that has none.
  private func checkHead(_ output: Output, logits: Bool) throws(ModelError) {
    if logits, output != .none, model.languageHead == nil {
      throw ModelError(.wrongKind(model.configuration.kind, expected: .language), path: model.path)
    }
    hasLogits = logits
  }

  /// Of 7b: throws where a state has no room for the tokens of its run.
  private func checkContext(_ runs: [Run]) throws(ModelError) {
    guard let limit = model.maximumContext else { return }
    for run in runs where (run.caches.first?.count ?? 0) + run.count > limit {
      throw ModelError(.contextFull(limit: limit))
    }
  }

  /// Of 7a and 7b: reads the rows of the frame's tokens that the blocks at `positions` need.
  private func loadRows(_ input: Input, _ positions: Range<Int>) throws(ModelError) {
    guard let tokenRows, case .tokens(let tokens) = input else { return }
    try tokenRows.load(tokens, frame, positions: positions, team)
  }

  /// One pass over the weights, which advances the states of `runs`.
  private func pass(
    over runs: [Run], _ body: (WeightStore.Access) throws(ModelError) -> Void
  ) throws(ModelError) {
    var hasStarted = false
    do throws(ModelError) {
      try model.store.evaluate { access throws(ModelError) in
        hasStarted = true
        try body(access)
      }
    } catch {
      if hasStarted {
        headCount = 0
        for run in runs { run.owner.reset() }
      }
      throw error
    }
  }

  /// Puts logits [V] in the place of the last ones.
  func restore(_ last: [Float]) {
    logits.update(from: last, count: last.count)
    (headCount, isRestored, hasLogits) = (1, true, true)
  }

  private func select(_ output: Output, _ frame: Frame) {
    (headCount, isRestored) = (0, false)
    for (index, run) in frame.runs.enumerated() {
      let rows =
        switch output.ofRun(index) {
        case .none, .eachRun: run.first..<run.first
        case .lastOfEachRun: run.first + run.count - 1..<run.first + run.count
        case .all: run.first..<run.first + run.count
        }
      for row in rows {
        headRows[headCount] = row
        headCount += 1
      }
    }
  }

  /// Logits of a row that was wanted, counted from 0, [V]; valid until the next evaluation. Empty where none were made.
  package func logits(_ index: Int) -> UnsafeBufferPointer<Float> {
    guard hasLogits, model.languageHead != nil else { return UnsafeBufferPointer(start: nil, count: 0) }
    return UnsafeBufferPointer(start: logits + index * logitsStride, count: model.configuration.vocabulary)
  }

  /// How well rows of logits predict tokens; the same numbers for any number of threads.
  func scores(_ wanted: [(row: Int, target: Int)]) -> [TokenScore] {
    var result = [TokenScore](repeating: TokenScore(), count: wanted.count)
    result.withUnsafeMutableBufferPointer { buffer in
      nonisolated(unsafe) let scores = buffer
      team.run { member in
        member.parallel(wanted.count) { index in
          scores[index] = TokenScore(logits(wanted[index].row), target: wanted[index].target)
        }
      }
    }
    return result
  }

  /// Chooses a token after each row of logits, with a sampler of its own.
  func sample(with samplers: inout [Sampler], into choices: inout [Result<Int, SamplingError>]) {
    samplers.withUnsafeMutableBufferPointer { samplers in
      choices.withUnsafeMutableBufferPointer { choices in
        nonisolated(unsafe) let (samplers, choices) = (samplers, choices)
        team.run { member in
          member.parallel(samplers.count) { index in
            do throws(SamplingError) {
              choices[index] = .success(try samplers[index].sample(logits(index)))
            } catch { choices[index] = .failure(error) }
          }
        }
      }
    }
  }

  /// What the head made them of: the normed output of the last block, [D].
  package func hidden(_ index: Int) -> UnsafeBufferPointer<Float> {
    UnsafeBufferPointer(start: headInput.row(index), count: model.configuration.embedding)
  }

  /// hidden = layerNorm(x) of the selected rows, logits = head · hidden.
  private func head(_ member: inout Team.Member, _ frame: Frame, adding pending: Frame.Pending) {
    let D = model.configuration.embedding
    let kernels = frame.kernels
    member.parallel(headCount) { index in
      let row = headRows[index]
      frame.settle(pending, row)
      kernels.layer_norm(
        frame.x[row], model.outputNorm.weight, model.outputNorm.bias, D, 1e-5, headInput.row(index))
      headInput.quantize(index, width: D, kernels)
    }
    guard headCount > 0, hasLogits, let matrix = model.languageHead else { return }
    member.multiply(
      [Product(matrix, headInput.input(), logits, stride: logitsStride)], rows: headCount, kernels)
  }
}
