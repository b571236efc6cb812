// SPDX-License-Identifier: MIT
import RWKVFormat

/// A request that is being served. Not thread-safe.
final class Job: @unchecked Sendable {
  var id = 0
  /// What the request reads on in, from when it has a place: those that wait take no memory.
  private var own: State?
  private let model: Model
  private var request: Request
  private var sampler: Sampler
  /// Tokens of the prompt that the state has read.
  private var read = 0
  private var checkpoints: ArraySlice<Int>
  /// The logits from which tokens are chosen, [V] each: after all that was read before the drafts, and after each
  /// draft; none before the prompt is read. They stay in the evaluator's memory until its next pass, in which every
  /// text that is being written takes part.
  private var logits: [UnsafeBufferPointer<Float>] = []
  /// What writes the text, if one is wanted.
  private let writer: TextWriter?
  /// The text that is being written, once the request has a place.
  private var text: DraftedText?
  /// Why the text ends when the state has read all of it.
  private var ending: FinishReason?
  private(set) var isFinished = false
  /// Tokens that were drafted for the last pass, and those of them that were right.
  private(set) var drafted = 0
  private(set) var accepted = 0
  /// The scores of the request's targets so far.
  var scores: [TokenScore] = []
  private var pooling: TextPooling?
  private var vector: [Float] = []

  init(_ request: Request, _ model: Model) throws {
    let vocabulary = model.configuration.vocabulary
    for token in request.prompt + request.targets where !(0..<vocabulary).contains(token) {
      throw ModelError(.tokenOutOfRange(token, vocabulary: vocabulary), path: model.path)
    }
    guard !request.prompt.isEmpty || request.limit == 0 else {
      throw ModelError(.invalidBatch("a request without a prompt; token 0 begins a document"))
    }
    guard request.targets.count <= request.prompt.count else {
      throw ModelError(.invalidBatch("more targets than tokens of the prompt"))
    }
    if let state = request.state, state.model.identity != model.identity {
      throw ModelError(.invalidBatch("a state of another model"))
    }
    self.model = model
    self.request = request
    sampler = try Sampler(request.options, tokenizer: model.tokenizer)
    if request.limit == 0 {
      writer = nil
    } else {
      guard model.languageHead != nil else {
        throw ModelError(.wrongKind(model.configuration.kind, expected: .language), path: model.path)
      }
      writer = TextWriter(request.limit, tokenizer: try model.requireTokenizer(), stop: request.stop)
    }
    checkpoints = request.checkpoints.filter { (1...max(1, request.prompt.count)).contains($0) }[...]
    if request.receiveEmbedding != nil { pooling = try TextPooling(model, request.embeddingOptions) }
  }

  /// The request has a place among those that are read and written.
  func begin(_ drafts: @autoclosure () -> Drafts?) {
    let state = beginning()
    own = state
    text = writer.map { DraftedText(state, drafts(), $0) }
    prepare(request.history)
  }

  /// The state to go on from; a state that others hold, too, stays as it is.
  private func beginning() -> State {
    guard var state = request.state else { return model.newState() }
    request.state = nil
    return isKnownUniquelyReferenced(&state) ? state : state.copy()
  }

  private var state: State {
    guard let own else { preconditionFailure("a request has a state when it has a place") }
    return own
  }

  /// Whether the prompt is still to be read, or a part of it.
  var isReading: Bool { logits.isEmpty }

  /// Whether the prompt is read and the text is not at its end.
  var isWriting: Bool { !isReading && !isFinished && ending == nil }

  /// What the next pass reads of the text that is being written: chosen tokens, and drafts.
  var tokens: [Int] { text?.tokens ?? [] }

  /// Chooses what the next pass is to read, and hands out the text that is certain by then.
  func choose() {
    do {
      let before = text?.drafts?.accepted ?? 0
      drafted = text?.draft.count ?? 0
      let goesOn = try text?.choose({ logits[$0] }, with: &sampler, request.observe, request.receive)
      accepted = (text?.drafts?.accepted ?? 0) - before
      if goesOn == false { end(text?.reason ?? .cancelled) }
    } catch {
      end(.failure(error))
    }
  }

  /// Ends the text as soon as the state has read all of it.
  private func end(_ reason: FinishReason) {
    ending = reason
    text?.dropDrafts()
    if tokens.isEmpty { end(.success(reason)) }
  }

  /// The same for a request that was cancelled; whether that takes another pass.
  func endsAfterAPass() -> Bool {
    text?.dropDrafts()
    guard !tokens.isEmpty else { return false }
    ending = .cancelled
    return true
  }

  // MARK: Drafts

  private func prepare(_ tokens: [Int]) {
    do {
      try text?.drafts?.read(tokens)
      try text?.drafts?.prepare()
    } catch {
      end(.failure(error))
    }
  }

  /// Tells the drafter what was chosen; returns how many tokens that are.
  func follow() -> Int {
    do { return try text?.follow() ?? 0 } catch {
      end(.failure(error))
      return 0
    }
  }

  var draftBounds: DraftPace.Text {
    DraftPace.Text(
      unread: tokens.count, most: isWriting ? text?.mostDrafts ?? 0 : 0,
      acceptance: text?.drafts?.acceptance ?? 0)
  }

  func propose(_ count: Int) {
    do { try text?.propose(count) } catch { end(.failure(error)) }
  }

  // MARK: Passes

  /// Whether the state can read so many tokens more; if it cannot, that is the end of this request alone.
  func hasRoom(_ count: Int) -> Bool {
    guard let limit = state.model.maximumContext, (state.caches.first?.count ?? 0) + count > limit else {
      return true
    }
    end(.failure(ModelError(.contextFull(limit: limit))))
    return false
  }

  /// Tokens of the prompt to read next, no further than the next checkpoint or the first token with a target.
  func nextPiece(_ room: Int) -> ArraySlice<Int> {
    if request.prompt.isEmpty { end(.success(.length)) }
    let end = min(
      read + room, checkpoints.first ?? .max, read < firstWithTarget ? firstWithTarget : .max,
      request.prompt.count)
    return request.prompt[read..<end]
  }

  /// Index of the first token of the prompt that has a target.
  private var firstWithTarget: Int { request.prompt.count - request.targets.count }

  /// The targets of a piece of the prompt.
  func targets(of tokens: ArraySlice<Int>) -> ArraySlice<Int> {
    guard isReading, read >= firstWithTarget else { return [] }
    return request.targets[read - firstWithTarget..<read - firstWithTarget + tokens.count]
  }

  /// The rows of a pass over the next piece of the prompt, or over what was chosen.
  func run(first: Int, count: Int) -> Run {
    if !isReading, let run = text?.run(first: first) { return run }
    return Run(first: first, count: count, state)
  }

  /// Rows whose logits the request needs of a pass over `tokens`.
  func output(_ tokens: ArraySlice<Int>) -> Evaluator.Output {
    guard isReading else {
      return ending != nil ? .none : text?.draft.isEmpty == false ? .all : .lastOfEachRun
    }
    let wantsAll = request.observePrompt != nil || request.receiveEmbedding != nil
    if wantsAll || !targets(of: tokens).isEmpty { return .all }
    return read + tokens.count == request.prompt.count && request.limit != 0 ? .lastOfEachRun : .none
  }

  /// Their number.
  func rows(of tokens: ArraySlice<Int>) -> Int {
    switch output(tokens) {
    case .all: tokens.count
    case .none: 0
    default: 1
    }
  }

  /// The state has read `tokens`; the rows of logits that `output` asked for begin at `row`.
  func advance(_ tokens: ArraySlice<Int>, _ evaluator: Evaluator, _ row: inout Int) {
    let count = rows(of: tokens)
    defer { row += count }
    let drafts = text?.draft.count ?? 0
    if !isReading {
      text?.wasRead()
      if let ending { return end(.success(ending)) }
    } else {
      if let observe = request.observePrompt {
        for index in 0..<count {
          observe(read + index, evaluator.logits(row + index), evaluator.hidden(row + index))
        }
      }
      for index in pooling == nil ? 0..<0 : 0..<count {
        pooling?.add(
          evaluator.hidden(row + index), after: tokens[tokens.startIndex + index],
          isLast: read + index == request.prompt.count - 1)
      }
      read += tokens.count
      prepare(Array(tokens))
      if checkpoints.first == read {
        checkpoints.removeFirst()
        request.checkpoint(read, state.copy())
      }
      request.progress(read)
      guard read == request.prompt.count else { return }
      if let pooling {
        do throws(ModelError) {
          vector = try evaluator.vectors(of: [pooling.pooled(state)], request.embeddingOptions)[0]
        } catch {
          return end(.failure(error))
        }
      }
      if request.limit == 0 { return end(.success(.length)) }
    }
    logits = (count - 1 - drafts..<count).map { evaluator.logits(row + $0) }
  }

  func end(_ result: Result<FinishReason, any Error>) {
    guard !isFinished else { return }
    isFinished = true
    if case .success(.cancelled) = result { _ = text?.cancel(request.receive) }
    if case .success(.length) = result {
      if !request.targets.isEmpty { request.receiveScores(scores) }
      request.receiveEmbedding?(vector)
    }
    request.finish(result.map { ($0, own ?? beginning()) })
  }
}
