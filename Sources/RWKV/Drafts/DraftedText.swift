// SPDX-License-Identifier: MIT
internal import Dispatch
import RWKVTokenizer

/// A text that is being written, perhaps with drafts: what the next pass reads of it, and what is chosen after that.
///
/// In a pass with drafts the state reads what was chosen, and a copy of it, made on the way, goes on with the drafts.
/// The copy takes the state's place if all of them were right; else those that were right are read again with the
/// next pass. A state with caches (RWKV-7b, RWKV-X) stays where it was meanwhile.
struct DraftedText {
  let state: State
  /// Makes the drafts; nil: there are none.
  var drafts: Drafts?
  private(set) var writer: TextWriter
  /// Chosen tokens that the state has not read.
  private(set) var unread: [Int] = []
  /// Guesses of what follows the chosen tokens.
  private(set) var draft: [Int] = []
  /// Chosen tokens that the drafter has not read.
  private var news: [Int] = []
  /// The copy of the state that goes on with the drafts.
  private var ahead: State?
  /// Why the text has ended.
  var reason: FinishReason? { writer.reason }

  init(_ state: State, _ drafts: Drafts?, _ writer: TextWriter) {
    self.state = state
    self.drafts = drafts
    self.writer = writer
  }

  /// What the next pass reads.
  var tokens: [Int] { unread + draft }

  /// How many tokens may be drafted for the next pass: those that may still be written and that the model can read.
  var mostDrafts: Int {
    // What was not read is read again with each pass: not for ever.
    guard let drafts, reason == nil, unread.count <= drafts.limit else { return 0 }
    let room = state.model.maximumContext.map { $0 - unread.count - (state.caches.first?.count ?? 0) }
    return max(0, min(drafts.limit, writer.left, room ?? .max))
  }

  /// Drafts for the next pass, `count` or fewer; that is at most `mostDrafts`.
  mutating func propose(_ count: Int) throws {
    guard let drafts, count > 0 else { return }
    let vocabulary = 0..<state.model.configuration.vocabulary
    draft = Array(try drafts.propose(count).prefix(count).prefix { vocabulary.contains($0) })
  }

  /// Nothing follows what was chosen.
  mutating func dropDrafts() { draft = [] }

  /// The rows of a pass that read `tokens`, from row `first` on.
  mutating func run(first: Int) -> Run {
    guard !draft.isEmpty else { return Run(first: first, count: unread.count, state) }
    let ahead = self.ahead ?? state.model.newState()
    self.ahead = ahead
    if state.caches.isEmpty {
      return Run(first: first, count: unread.count + draft.count, state, kept: unread.count, ahead: ahead)
    }
    ahead.assign(state)
    return Run(first: first, count: unread.count + draft.count, ahead)
  }

  /// That pass is done.
  mutating func wasRead() {
    if draft.isEmpty || state.caches.isEmpty { unread = [] }
  }

  /// Chooses what follows all that was read, and what follows each draft that was chosen. False at the end of the text.
  /// - Parameter logits: after all that was chosen before the pass and so many drafts.
  mutating func choose(
    _ logits: (_ drafts: Int) -> UnsafeBufferPointer<Float>, with sampler: inout Sampler,
    _ observe: ((ChosenToken) -> Void)?, _ receive: ([UInt8]) -> Bool
  ) throws -> Bool {
    let behind = unread.count
    var accepted = 0
    var goesOn: Bool
    repeat {
      let (token, text) = try writer.choose(
        logits(accepted), unread: unread.count, with: &sampler, observe: observe)
      goesOn = (text.isEmpty || receive(text)) && writer.reason == nil
      guard let token else { break }
      unread.append(token)
      news.append(token)
      guard accepted < draft.count, token == draft[accepted] else { break }
      accepted += 1
    } while goesOn
    if let ahead, !draft.isEmpty, accepted == draft.count {
      state.take(ahead)
      unread.removeFirst(behind + accepted)
    }
    drafts?.count(drafted: draft.count, accepted: accepted)
    draft = []
    return goesOn
  }

  /// Ends the text where it is (`TextWriter.cancel`).
  mutating func cancel(_ receive: ([UInt8]) -> Bool) -> FinishReason { writer.cancel(receive) }

  /// Tells the drafter what was chosen; returns how many tokens that are.
  mutating func follow() throws -> Int {
    defer { news = [] }
    try drafts?.read(news)
    return news.count
  }
}

extension Session {
  /// One pass over the weights, unless nothing is to be read, and the tokens that are chosen after it. False at the end
  /// of the text.
  func step(
    _ text: inout DraftedText, with sampler: inout Sampler, _ observe: ((ChosenToken) -> Void)?,
    _ receive: ([UInt8]) -> Bool
  ) throws -> Bool {
    let read = text.unread.count
    let (start, known) = (DispatchTime.now().uptimeNanoseconds, text.drafts?.accepted ?? 0)
    if read > 0, let drafts = text.drafts {
      let bounds = DraftPace.Text(unread: read, most: text.mostDrafts, acceptance: drafts.acceptance)
      try text.propose(drafts.pace?.counts([bounds])[0] ?? text.mostDrafts)
    }
    let (proposed, drafted) = (DispatchTime.now().uptimeNanoseconds, text.draft.count)
    if read > 0 {
      try decode(text.tokens, text.run(first: 0))
      text.wasRead()
    }
    let end = DispatchTime.now().uptimeNanoseconds
    let goesOn = try text.choose(
      { read > 0 ? logits(afterRow: read + $0 - 1) : logits }, with: &sampler, observe, receive)
    _ = try text.follow()
    guard read > 0, let drafts = text.drafts else { return goesOn }
    drafts.passes += 1
    drafts.pace?.learn(
      rows: read + drafted, texts: 1, drafted: drafted, accepted: drafts.accepted - known,
      drafting: Double(proposed - start) * 1e-9, pass: Double(end - proposed) * 1e-9)
    return goesOn
  }

  /// Lets the state read what was chosen, so that it and its logits are where the text is.
  func settle(_ text: DraftedText) throws {
    guard !text.unread.isEmpty else { return }
    text.drafts?.passes += 1
    try prefill(text.unread)
  }
}
