// SPDX-License-Identifier: MIT
internal import Dispatch
import RWKVTokenizer

/// A text that is being written with drafts.
///
/// In a pass with drafts the state reads what was chosen, and a copy of it, made on the way, goes on with the drafts. The
/// copy takes the state's place if all of them were right; else those that were right are read again with the next pass.
/// A state with caches (RWKV-7b, RWKV-X) stays where it was meanwhile.
struct DraftedText {
  private let session: Session
  private let drafts: Drafts
  private var writer: TextWriter
  /// Chosen tokens that the session's state has not read.
  private var unread: [Int] = []
  private let ahead: State
  /// Why the text has ended.
  var reason: FinishReason? { writer.reason }

  init(_ session: Session, _ drafts: Drafts, _ writer: TextWriter) {
    self.session = session
    self.drafts = drafts
    self.writer = writer
    ahead = session.model.newState()
  }

  /// One pass over the weights, unless nothing is to be read, and the tokens that are chosen after it. False at the end
  /// of the text.
  mutating func step(
    with sampler: inout Sampler, _ observe: ((ChosenToken) -> Void)?, _ receive: ([UInt8]) -> Bool
  ) throws -> Bool {
    guard !unread.isEmpty else { return try choose(session.logits, with: &sampler, observe, receive).goesOn }
    let start = DispatchTime.now().uptimeNanoseconds
    let draft = try propose()
    let drafted = DispatchTime.now().uptimeNanoseconds
    let read = unread.count
    if draft.isEmpty {
      try session.decode(unread, into: session.state)
      unread = []
    } else if session.state.caches.isEmpty {
      try session.decode(unread, ahead: ahead, draft)
      unread = []
    } else {
      ahead.assign(session.state)
      try session.decode(unread + draft, into: ahead)
    }
    let behind = unread.count
    let end = DispatchTime.now().uptimeNanoseconds
    var accepted = 0
    var goesOn: Bool
    // After what had not been read, and after each draft that was chosen.
    repeat {
      let logits = session.logits(afterRow: read + accepted - 1)
      let choice = try choose(logits, with: &sampler, observe, receive)
      goesOn = choice.goesOn
      guard accepted < draft.count, choice.token == draft[accepted] else { break }
      accepted += 1
    } while goesOn
    if !draft.isEmpty && accepted == draft.count {
      session.state.take(ahead)
      unread.removeFirst(behind + accepted)
    }
    drafts.passes += 1
    drafts.drafted += draft.count
    drafts.accepted += accepted
    drafts.pace?.learn(
      rows: read + draft.count, drafted: draft.count, accepted: accepted,
      drafting: Double(drafted - start) * 1e-9, pass: Double(end - drafted) * 1e-9)
    return goesOn
  }

  /// Lets the state read what was chosen, so that it and its logits are where the text is.
  mutating func settle() throws {
    guard !unread.isEmpty else { return }
    drafts.passes += 1
    try session.prefill(unread)
    unread = []
  }

  /// As many drafts as pay, as may be written, and as the model can read.
  private func propose() throws -> [Int] {
    // What was not read is read again with each pass: not for ever.
    guard unread.count <= drafts.limit else { return [] }
    var wanted = min(drafts.pace?.count(unread: unread.count) ?? drafts.limit, writer.left)
    if let limit = session.model.maximumContext {
      wanted = min(wanted, limit - unread.count - (session.state.caches.first?.count ?? 0))
    }
    guard wanted > 0 else { return [] }
    let vocabulary = 0..<session.model.configuration.vocabulary
    return Array(try drafts.propose(wanted).prefix(wanted).prefix { vocabulary.contains($0) })
  }

  /// Chooses a token; nil where the text ends without one.
  private mutating func choose(
    _ logits: UnsafeBufferPointer<Float>, with sampler: inout Sampler,
    _ observe: ((ChosenToken) -> Void)?, _ receive: ([UInt8]) -> Bool
  ) throws -> (token: Int?, goesOn: Bool) {
    let (token, text) = try writer.choose(logits, unread: unread.count, with: &sampler, observe: observe)
    if let token {
      unread.append(token)
      try drafts.read([token])
    }
    return (token, (text.isEmpty || receive(text)) && writer.reason == nil)
  }
}
