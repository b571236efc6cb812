// SPDX-License-Identifier: MIT
import Synchronization

/// A long prompt read by several threads, each of which takes whole pieces through the model alone.
///
/// A piece needs of the one before it only what that left in the state, a layer at a time: it follows a layer behind.
/// Threads share no phase, and none reads activations that another one has just written. The order of operations is
/// that of one thread; the weights are read once for each piece.
///
/// It serves models whose layers change nothing but the values of a state: not 7a and 7b, whose rows come from the
/// file, and not models whose caches grow.
final class Wave {
  /// What one thread works with.
  private struct Lane {
    let frame, ends: Frame
    let blocks: any BlockStack
    let team = Team(size: 1)
  }

  /// How far a piece has come, in steps of all pieces. One that takes the place of another has come further.
  private final class Progress: Sendable {
    let steps = Atomic<Int>(0)
  }

  /// A piece's way through the model: the embedding, the layers, the end.
  private struct Way {
    let wave: Wave
    let team: Team
    let piece: Int
    let last: Int

    init(_ wave: Wave, _ evaluator: Evaluator, _ piece: Int) {
      (self.wave, team, self.piece, last) = (wave, evaluator.team, piece, evaluator.blockCount + 1)
    }

    /// Waits until the piece before has done the same step.
    func begin(_ step: Int) {
      guard piece > 0 else { return }
      let before = wave.progress[(piece - 1) % wave.progress.count]
      team.wait { before.steps.load(ordering: .acquiring) > (piece - 1) * (last + 1) + step }
    }

    /// Lets the next piece do the same step.
    func end(_ step: Int) {
      wave.progress[piece % wave.progress.count].steps.store(
        piece * (last + 1) + step + 1, ordering: .releasing)
    }
  }

  private let lanes: [Lane]
  private let progress: [Progress]
  private let arena = Arena()

  /// Rows that are read at most before the number of threads is thought over.
  var span: Int { 8 * lanes.count * Evaluator.capacity }

  /// Memory of the scratch of all threads but one [bytes].
  static func bytes(_ configuration: Configuration, threads: Int) -> Int {
    (threads - 1) * MemoryPlan.activationBytes(configuration, hiddenUnits: configuration.ffn)
  }

  /// - Parameter evaluator: whose scratch is that of the first lane.
  init(_ evaluator: Evaluator) throws(ModelError) {
    var lanes = [Lane(frame: evaluator.frame, ends: evaluator.ends, blocks: evaluator.blocks)]
    while lanes.count < evaluator.team.size {
      let frame = try Frame(beside: evaluator.frame, arena: arena)
      let ends = try Frame(endsOf: frame, arena: arena)
      let sums = try HiddenSums(
        frame, teamSize: 1, hiddenUnits: evaluator.sums.hiddenUnits, matrices: 0, beside: evaluator.sums,
        arena: arena)
      let work = Workspace(frame: frame, teamSize: 1, sums: sums, tokens: nil, arena: arena)
      lanes.append(Lane(frame: frame, ends: ends, blocks: try Evaluator.blocks(evaluator.model, work)))
    }
    self.lanes = lanes
    progress = lanes.map { _ in Progress() }
  }

  /// Advances `state` by `input`. Returns where its last rows are, or nil where `each` stopped it; pieces that have
  /// begun end first.
  ///
  /// - Parameter each: called after each piece, in their order, with the rows read so far and those of the piece.
  func read(
    _ input: Evaluator.Input, _ state: State, _ evaluator: Evaluator,
    _ each: (_ end: Int, _ count: Int) -> Bool
  ) throws(ModelError) -> Frame? {
    let D = evaluator.model.configuration.embedding
    let total = input.rows(D)
    let rows = Self.rowsOfPiece(total, lanes: lanes.count)
    let count = (total + rows - 1) / rows
    for place in progress { place.steps.store(0, ordering: .relaxed) }
    let next = Atomic<Int>(0)
    let isStopped = Atomic<Bool>(false)
    var failure: ModelError?
    var end: Frame?
    evaluator.team.run(leavesTogether: false) { member in
      let lane = lanes[member.index]
      while true {
        let piece = next.add(1, ordering: .relaxed).oldValue
        guard piece < count else { return }
        let part = piece * rows..<min((piece + 1) * rows, total)
        let way = Way(self, evaluator, piece)
        way.begin(0)
        if !isStopped.load(ordering: .relaxed) {
          lane.frame.begin([Run(first: 0, count: part.count, state)])
          do throws(ModelError) { try evaluator.embed(input.slice(part, D), lane.frame) } catch {
            failure = error
            isStopped.store(true, ordering: .relaxed)
          }
        }
        // Whoever comes later sees that this piece was left out, because it waits for this step.
        guard !isStopped.load(ordering: .relaxed) else { return way.end(way.last) }
        way.end(0)
        lane.frame.begin(ends: lane.ends)
        lane.team.run { single in
          for layer in 1..<way.last {
            way.begin(layer)
            lane.blocks.evaluate(&single, layer - 1, ends: layer + 1 == way.last ? lane.ends : nil)
            way.end(layer)
          }
        }
        way.begin(way.last)
        if !each(part.upperBound, part.count) { isStopped.store(true, ordering: .relaxed) }
        if piece == count - 1 { end = lane.ends }
        way.end(way.last)
      }
    }
    if let failure { throw failure }
    return isStopped.load(ordering: .relaxed) ? nil : end
  }

  /// Rows of each piece, so that all lanes have as many.
  private static func rowsOfPiece(_ rows: Int, lanes: Int) -> Int {
    let rounds = (rows + lanes * Evaluator.capacity - 1) / (lanes * Evaluator.capacity)
    let least = (rows + rounds * lanes - 1) / (rounds * lanes)
    return (least + 7) / 8 * 8
  }
}

extension Evaluator {
  /// What reads `rows` rows into `state` faster than piece after piece, if there is room for it.
  func wave(rows: Int, _ state: State) -> Wave? {
    guard
      team.size > 1, team.moments == nil, rows >= team.size * Self.capacity, tokenRows == nil,
      state.caches.isEmpty, !model.store.isStreamed
    else { return nil }
    if wave == nil, Wave.bytes(model.configuration, threads: team.size) <= model.spareMemory {
      wave = try? Wave(self)
    }
    return wave
  }

  /// Reads up to `Wave.span` inputs that continue `state`. An error leaves the state after the last complete piece; but
  /// see `evaluate`.
  func ride(
    _ wave: Wave, _ input: Input, _ state: State, output: Output, logits: Bool,
    _ each: (_ end: Int, _ count: Int) -> Bool
  ) throws(ModelError) {
    try checkHead(output, logits: logits)
    headCount = 0
    var failure: ModelError?
    do throws(ModelError) {
      try model.store.evaluate { access throws(ModelError) in
        if access == .verify {
          team.run { member in
            for stage in 0...blockCount { model.store.acquire(stage, access, &member, readers) }
          }
        }
        do throws(ModelError) {
          guard let end = try wave.read(input, state, self, each) else { throw ModelError(.cancelled) }
          select(output, end)
          team.run { member in head(&member, end) }
        } catch { failure = error }
      }
    } catch {
      forget([state])
      throw error
    }
    if let failure { throw failure }
  }
}
