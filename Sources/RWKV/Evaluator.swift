// SPDX-License-Identifier: MIT
internal import CRWKVKernels
internal import RWKVFormat

/// Evaluates tokens in pieces of up to 64 rows: scratch memory and threads over a shared model. Not thread-safe.
package final class Evaluator {
  package let model: Model
  let frame: Frame
  /// The ends of the frame's runs.
  let ends: Frame
  let team: Team
  let blocks: any BlockStack
  let sums: HiddenSums
  private let embeddings = RowTable.Reader()
  /// Rows of the tables by token; nil but in 7a and 7b.
  let tokenRows: TokenRows?
  /// A reader of chunks for each member of the team, if weights are streamed.
  let readers: [ChunkReader]
  private let arena = Arena()
  private let headInput: Activations
  private let headRows: UnsafeMutablePointer<Int>
  /// Scratch of the heads of embedding models and rerankers; nil for models of language.
  let headScratch: HeadScratch?
  let blockCount: Int
  /// Reads long prompts on several threads; made for the first of them.
  var wave: Wave?
  /// Rows whose logits were wanted last.
  package internal(set) var headCount = 0
  /// Whether there are logits of them, not the hidden vectors alone.
  private(set) var hasLogits = false
  /// Whether the last logits were not made here, so that there is no hidden vector to them.
  private(set) var isRestored = false
  /// [headCount, logitsStride]: one row for each requested row, in order.
  private let logits: UnsafeMutablePointer<Float>
  private let logitsStride: Int

  /// Rows of a piece: enough to make unpacking weights cheap, few enough to keep activations in the cache.
  static let capacity = 64

  /// Which rows' logits are wanted.
  package enum Output: Equatable {
    case none, lastOfEachRun, all
    /// An output for each run, none of which is `eachRun`.
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
      configuration, capacity: Self.capacity,
      span: max(Self.capacity, span ?? (model.store.isStreamed ? Streaming.tokensPerPass : Self.capacity)),
      arena: arena)
    ends = try Frame(endsOf: frame, arena: arena)
    sums = try HiddenSums(
      frame, teamSize: team.size, hiddenUnits: model.weights.hiddenUnits(configuration),
      matrices: model.store.hiddenRowsCount, arena: arena)
    let tables = model.store.tables
    tokenRows = tables.isEmpty ? nil : try TokenRows(tables, frame, teamSize: team.size, arena: arena)
    blocks = try Self.blocks(
      model, Workspace(frame: frame, teamSize: team.size, sums: sums, tokens: tokenRows, arena: arena))
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

  /// A model's blocks with scratch of their own.
  static func blocks(_ model: Model, _ work: Workspace) throws(ModelError) -> any BlockStack {
    switch model.weights {
    case .v4(let layers): try RWKV4(layers, work)
    case .v5(let layers): try RWKV5(layers, work)
    case .v6(let layers): try RWKV6(layers, work)
    case .v7(let layers): try RWKV7(layers, work, maximumContext: model.maximumContext)
    case .x(let weights): try RWKVX(weights, work)
    }
  }

  /// Memory reserved for activations and logits [bytes].
  var scratchBytes: Int { arena.byteCount }

  /// Share of the hidden units' rows that decoding single tokens has read, 0…1; 1 before the first token.
  var hiddenShare: Double { sums.shareRead }

  /// Reads a sequence of any length and advances `state`, a piece at a time; where the weights are streamed, as many
  /// pieces as one pass over them takes.
  ///
  /// An error leaves the state after the last complete pass; but see `evaluate`.
  /// - Parameters:
  ///   - logits: whether logits of the wanted rows are made, or their hidden vectors alone.
  ///   - each: called after each piece, or for those of a pass whose logits were wanted, with the rows read so far and
  ///     the rows of the piece; reading stops when it returns false.
  package func read(
    _ input: Input, _ state: State, output: Output, logits: Bool = true,
    _ each: (_ end: Int, _ count: Int) -> Bool
  ) throws(ModelError) {
    let D = model.configuration.embedding
    let total = input.rows(D)
    var start = 0
    while start < total {
      if !output.hasAll, let wave = wave(rows: total - start, state) {
        let end = start + min(wave.span, total - start)
        let wanted = end < total ? .none : output
        try ride(wave, input.slice(start..<end, D), state, output: wanted, logits: logits) {
          each(start + $0, $1)
        }
        start = end
        continue
      }
      let end = start + min(frame.span, total - start)
      let wanted = output == .lastOfEachRun && end < total ? .none : output
      var goesOn = true
      let pieces = pieces(input.slice(start..<end, D), state)
      try pass(
        pieces, output: wanted, logits: logits, byStage: pieces.count > 1,
        each: { first, count in goesOn = each(start + first + count, count) && goesOn })
      guard goesOn else { throw ModelError(.cancelled) }
      start = end
    }
  }

  /// Reads a piece, one input per row of the runs, and advances the runs' states.
  ///
  /// When it throws, no state has changed; except that weights which turn out to be unreadable in the middle leave
  /// states that remember nothing.
  func evaluate(
    _ input: Input, _ runs: [Run], output: Output, logits: Bool = true
  ) throws(ModelError) {
    try pass(
      [Piece(input: input, runs: runs, origin: 0)], output: output, logits: logits, byStage: false)
  }

  /// Rows that go through a block together.
  private struct Piece {
    let input: Input
    let runs: [Run]
    /// Its first row in its pass.
    let origin: Int
  }

  /// A text in pieces.
  private func pieces(_ input: Input, _ state: State) -> [Piece] {
    let D = model.configuration.embedding
    let total = input.rows(D)
    return stride(from: 0, to: total, by: Self.capacity).map { start in
      let count = min(Self.capacity, total - start)
      return Piece(
        input: input.slice(start..<start + count, D), runs: [Run(first: 0, count: count, state)],
        origin: start)
    }
  }

  /// One pass over the weights. Its stages are the blocks, then the head.
  ///
  /// - Parameters:
  ///   - pieces: one, or several that continue one state.
  ///   - byStage: whether all pieces go through a stage before the next, so that its weights are needed once.
  ///   - entering: called before the piece, or before each stage, with the stage; the reading ends when it returns
  ///     false.
  ///   - each: called after the head, with the first row of a piece and the number of its rows.
  private func pass(
    _ pieces: [Piece], output: Output, logits: Bool, byStage: Bool,
    entering: (_ stage: Int) -> Bool = { _ in true },
    each: (_ first: Int, _ count: Int) -> Void = { _, _ in }
  ) throws(ModelError) {
    try checkHead(output, logits: logits)
    try checkContext(pieces)
    for piece in pieces {
      frame.begin(piece.runs, origin: piece.origin)
      try embed(piece.input, frame)
    }
    let caches = pieces[0].runs.flatMap(\.caches)
    let cached = caches.map(\.count)
    precondition(byStage || pieces.count == 1)
    let steps = byStage ? (0...blockCount).map { $0...$0 } : [0...blockCount]
    var hasStarted = false
    do throws(ModelError) {
      try model.store.evaluate { access throws(ModelError) in
        for stages in steps {
          guard entering(stages.lowerBound) else { throw ModelError(.cancelled) }
          let isHead = stages.lowerBound == blockCount
          if !isHead { for (cache, count) in zip(caches, cached) { cache.count = count } }
          for (index, piece) in (isHead && !output.hasAll ? pieces.suffix(1) : pieces[...]).enumerated() {
            frame.begin(piece.runs, origin: piece.origin)
            if !isHead {
              try loadRows(piece.input, stages)
              blocks.prepare()
            }
            hasStarted = true
            run(stages, output, index == 0 ? access : .nothing)
            if !isHead { blocks.finish() }
            if stages.upperBound == blockCount { each(piece.origin, frame.rows) }
          }
        }
      }
    } catch {
      if hasStarted { forget(pieces[0].runs.map(\.owner)) }
      throw error
    }
  }

  /// Resets what a pass has left half done when weights turned out to be unreadable, such as a chunk with a wrong
  /// checksum, or when the reading was stopped: there are no logits, and the states that it was changing remember
  /// nothing.
  func forget(_ states: [State]) {
    headCount = 0
    for state in states { state.reset() }
  }

  /// Takes the frame's rows through some stages.
  private func run(_ stages: ClosedRange<Int>, _ output: Output, _ access: WeightStore.Access) {
    // After the last time mixing only the ends of runs matter, unless all rows are wanted.
    let shortens = stages.count > 1 && !output.hasAll && frame.runs.contains { $0.count > 2 }
    if shortens { frame.begin(ends: ends) }
    let last = shortens ? ends : frame
    select(output, last)
    team.run { member in
      for stage in stages {
        model.store.acquire(stage, access, &member, readers)
        if stage < blockCount {
          blocks.evaluate(&member, stage, ends: shortens && stage == blockCount - 1 ? ends : nil)
        } else {
          head(&member, last)
        }
      }
    }
  }

  /// Reads a text from an empty state, all of it through one block before the next, then the head.
  ///
  /// - Parameter entering: called before each block with its position, and before the head with that of no block; the
  ///   reading stops when it returns false.
  package func walk(_ tokens: [Int], entering: (_ position: Int) -> Bool) throws(ModelError) {
    precondition(tokens.count <= frame.span)
    let state = model.newState()
    // Runs do not keep their state alive.
    try withExtendedLifetime(state) { () throws(ModelError) in
      try pass(
        pieces(.tokens(tokens[...]), state), output: .all, logits: model.languageHead != nil, byStage: true,
        entering: entering)
    }
  }

  /// x = layerNorm(embedding) of the frame's rows.
  func embed(_ input: Input, _ frame: Frame) throws(ModelError) {
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
    for row in 0..<frame.rows { model.inputNorm.apply(frame.x[row], into: frame.x[row], frame.kernels) }
    tokenRows?.keep(frame)
  }

  /// Throws where logits are wanted of a model that has none.
  func checkHead(_ output: Output, logits: Bool) throws(ModelError) {
    if logits, output != .none, model.languageHead == nil {
      throw ModelError(.wrongKind(model.configuration.kind, expected: .language), path: model.path)
    }
    hasLogits = logits
  }

  /// Throws where a state of 7b has no room for the tokens of its run.
  private func checkContext(_ pieces: [Piece]) throws(ModelError) {
    guard let limit = model.maximumContext else { return }
    for piece in pieces {
      for run in piece.runs where (run.caches.first?.count ?? 0) + piece.origin + run.count > limit {
        throw ModelError(.contextFull(limit: limit))
      }
    }
  }

  /// Reads the table rows of the frame's tokens that some blocks of 7a and 7b need.
  private func loadRows(_ input: Input, _ stages: ClosedRange<Int>) throws(ModelError) {
    guard let tokenRows, case .tokens(let tokens) = input else { return }
    try tokenRows.load(tokens, frame, positions: stages.clamped(to: 0...blockCount - 1), team)
  }

  /// Puts logits [V] in the place of the last ones.
  func restore(_ last: [Float]) {
    logits.update(from: last, count: last.count)
    (headCount, isRestored, hasLogits) = (1, true, true)
  }

  func select(_ output: Output, _ frame: Frame) {
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
      team.each(wanted.count) { index in
        scores[index] = TokenScore(logits(wanted[index].row), target: wanted[index].target)
      }
    }
    return result
  }

  /// Chooses a token after each row of logits, with a sampler of its own.
  func sample(with samplers: inout [Sampler], into choices: inout [Result<Int, SamplingError>]) {
    samplers.withUnsafeMutableBufferPointer { samplers in
      choices.withUnsafeMutableBufferPointer { choices in
        nonisolated(unsafe) let (samplers, choices) = (samplers, choices)
        team.each(samplers.count) { index in
          do throws(SamplingError) {
            choices[index] = .success(try samplers[index].sample(logits(index)))
          } catch { choices[index] = .failure(error) }
        }
      }
    }
  }

  /// What the head made logits `index` of: the normed output of the last block, [D].
  package func hidden(_ index: Int) -> UnsafeBufferPointer<Float> {
    UnsafeBufferPointer(start: headInput.row(index), count: model.configuration.embedding)
  }

  /// hidden = layerNorm(x) of the selected rows, logits = head · hidden.
  func head(_ member: inout Team.Member, _ frame: Frame) {
    let kernels = frame.kernels
    guard headCount > 0 else { return }
    member.parallel(headCount) { index in
      model.outputNorm.apply(frame.x[headRows[index]], into: headInput.row(index), kernels)
      headInput.quantize(index, width: model.outputNorm.count, kernels)
    }
    guard hasLogits, let matrix = model.languageHead else { return }
    member.multiply(
      [Product(matrix, headInput, logits, stride: logitsStride)], rows: headCount, kernels)
  }
}
