// SPDX-License-Identifier: MIT
public import RWKV
public import RWKVTokenizer

/// A conversation with a model: turns that can be taken back, saved, and gone on with on another day.
///
/// Every answer depends only on what the state has read, the options and the seed, so that a conversation that was
/// saved and loaded goes on bit for bit as if it had never stopped. When a call throws, the conversation is what it
/// was before. Not thread-safe.
public final class Conversation {
  /// A message and what the model made of it.
  public struct Turn {
    /// What the user said.
    public let message: String
    /// What the model answered. The bytes may be invalid UTF-8, where an answer was interrupted.
    public fileprivate(set) var answer: [UInt8] = []
    /// Tokens that had been read before it.
    fileprivate var start: Int
    /// The state before it; nil: given up to save memory.
    fileprivate var before: State?
    /// How the answer before it was cut, if it was: what the template has after it is read with this message.
    fileprivate var cut: Cut?
  }

  /// What an answer that was cut needs to go on.
  fileprivate struct Cut {
    let sampler: Sampler
    let logits: [Float]
    /// What the template has after an answer, which has not been read.
    let ending: [Int]
  }

  /// What came of a message.
  public struct Answer {
    /// Why the answer ended.
    public let reason: FinishReason
    /// How many tokens were read before the answer began.
    public let promptTokens: Int
    /// How many tokens the answer has.
    public let answerTokens: Int
  }

  /// The session whose state reads the conversation.
  public let session: Session
  /// How the conversation is written down.
  public let template: ChatTemplate
  /// Guesses of what follows, which make answers no different; nil makes none.
  public var drafts: Drafts?
  private let tokenizer: any Tokenizer
  /// What ends an answer when the model writes it: the template's strings, and those that the model's file has.
  private let stops: [String]
  /// The messages and answers so far, the oldest first.
  public private(set) var turns: [Turn] = []
  /// All that the state has read, oldest token first.
  public private(set) var tokens: [Int] = []
  /// The instructions at the start of the conversation.
  public private(set) var system = ""
  /// What the conversation started from: nothing, or what was loaded.
  private var base: (state: State, tokens: [Int], isLoaded: Bool)
  /// Where the last answer was cut.
  private var cut: Cut?
  /// Whether the tokens since the start are all known; not after a state that was saved without them.
  private var knowsTokens = true

  private let snapshotLimit: Int

  /// - Parameters:
  ///   - session: with a fresh state.
  ///   - snapshotLimit: memory that states of earlier turns may take [bytes]; turns beyond are taken back by reading
  ///     again what came before them.
  public init(
    _ session: Session, template: ChatTemplate, tokenizer: any Tokenizer, snapshotLimit: Int = 128 << 20
  ) {
    self.snapshotLimit = snapshotLimit
    self.session = session
    self.template = template
    stops = template.choice(for: session.model).stops
    self.tokenizer = tokenizer
    base = (session.state.copy(), [], false)
  }

  /// Reads a message and lets the model answer.
  ///
  /// - Parameters:
  ///   - thinking: how to answer; nil for the template's first way.
  ///   - options: the seed is mixed with the number of tokens read so far and with `attempt`.
  ///   - attempt: counts answers to the same message, so that they differ.
  ///   - limit: tokens of the answer at most; nil for no limit.
  ///   - reading: called with the number of tokens of the prompt read so far, and all; false stops.
  ///   - receive: gets the answer's UTF-8 text in pieces; false stops.
  public func send(
    _ message: String, thinking: ChatTemplate.Thinking? = nil, options: SamplingOptions, attempt: Int = 0,
    limit: Int? = nil, reading: @escaping (Int, Int) -> Bool = { _, _ in true }, receive: ([UInt8]) -> Bool
  ) throws -> Answer {
    let (before, start, answerBefore) = (session.state.copy(), tokens.count, cut)
    do {
      try finishAnswer()
      let question = template.question(message, thinking ?? template.thinking.first)
      let prompt = try unreadOpening() + tokenizer.encode(question)
      // "none" and an empty message: token 0 starts a document.
      try read(prompt.isEmpty ? [0] : prompt, reading)
      var turn = Turn(message: message, start: start, before: before, cut: answerBefore)
      let answer = try write(options, attempt, limit, &turn.answer, receive)
      turns.append(turn)
      thinSnapshots()
      return Answer(reason: answer.0, promptTokens: max(1, prompt.count), answerTokens: answer.1)
    } catch {
      session.state.assign(before)
      tokens.removeLast(tokens.count - start)
      cut = answerBefore
      throw error
    }
  }

  /// Lets the last answer go on where `limit` or the receiver cut it, as if it had never been. Nil: it was not cut, or
  /// it is older than a message that was not taken back.
  public func continueAnswer(limit: Int? = nil, receive: ([UInt8]) -> Bool) throws -> Answer? {
    guard let before = cut, var turn = turns.last else { return nil }
    var sampler = before.sampler
    let (state, count) = (session.state.copy(), tokens.count)
    cut = nil
    do {
      session.resume(before.logits)
      let answer = try write(&sampler, limit, &turn.answer, receive)
      turns[turns.count - 1] = turn
      return Answer(reason: answer.0, promptTokens: 0, answerTokens: answer.1)
    } catch {
      session.state.assign(state)
      tokens.removeLast(tokens.count - count)
      cut = before
      throw error
    }
  }

  /// Takes the last turn back. Returns it; nil if there is none, or what was loaded has no text.
  /// - Parameter reading: where text has to be read again for it, as in `send`.
  public func undo(reading: @escaping (Int, Int) -> Bool = { _, _ in true }) throws -> Turn? {
    guard let turn = turns.last else { return nil }
    if let before = turn.before {
      session.state.assign(before)
    } else {
      let (now, start) = (session.state.copy(), base)
      if turn.start < base.tokens.count {
        // A turn of what was loaded: its text travels with the state.
        session.state.reset()
        base = (session.state.copy(), [], false)
      }
      // The same bits as a copy would have, only later.
      let known = Array(tokens[base.tokens.count..<turn.start])
      session.state.assign(base.state)
      do {
        try session.prefill(known) { reading($0, known.count) }
      } catch {
        session.state.assign(now)
        base = start
        throw error
      }
    }
    turns.removeLast()
    tokens.removeLast(tokens.count - turn.start)
    cut = turn.cut
    return turn
  }

  /// Forgets everything, also what was loaded.
  public func reset(system: String? = nil) {
    session.state.reset()
    begin(with: [], isLoaded: false)
    if let system { self.system = system }
  }

  /// Writes the state and the tokens that led to it to a file. An answer that was cut is complete there; here it can go
  /// on.
  public func save(to path: String) throws {
    if let answer = cut {
      let (state, count) = (session.state.copy(), tokens.count)
      defer {
        session.state.assign(state)
        tokens.removeLast(tokens.count - count)
        cut = answer
      }
      try finishAnswer()
      return try session.state.save(to: path, tokens: knowsTokens ? tokens : [])
    }
    // Also before the first message, instructions are part of the conversation.
    try read(unreadOpening())
    try session.state.save(to: path, tokens: knowsTokens ? tokens : [])
  }

  /// Goes on from a saved state of the same model in place of the current conversation.
  public func load(_ saved: SavedState) {
    session.state.assign(saved.state)
    begin(with: saved.tokens, isLoaded: true)
    knowsTokens = !saved.tokens.isEmpty
    let reading = template.reading(of: tokens.map(tokenizer.bytes(of:)))
    system = reading.system
    turns = reading.turns.map { Turn(message: $0.message, answer: $0.answer, start: $0.start, before: nil) }
  }

  /// The text of the whole conversation as the model reads it, if its tokens are known; what stands before the first
  /// message is part of it from the beginning.
  public var transcript: [UInt8] {
    hasUnreadOpening
      ? Array(template.opening(system: system).utf8) : tokenizer.decode(tokens + (cut?.ending ?? []))
  }

  /// Reads what the template has after an answer that was cut, and that will not go on.
  private func finishAnswer() throws {
    guard let ending = cut?.ending else { return }
    cut = nil
    try read(ending)
  }

  private func begin(with tokens: [Int], isLoaded: Bool) {
    self.tokens = tokens
    turns = []
    cut = nil
    knowsTokens = true
    base = (session.state.copy(), tokens, isLoaded)
  }

  /// Whether what stands before the first message has not been read yet.
  private var hasUnreadOpening: Bool { tokens.isEmpty && !base.isLoaded }

  /// Tokens of what stands before the first message, as long as they have not been read.
  private func unreadOpening() throws(TokenizerError) -> [Int] {
    hasUnreadOpening ? try tokenizer.encode(template.opening(system: system)) : []
  }

  private func read(_ new: [Int], _ progress: @escaping (Int, Int) -> Bool = { _, _ in true }) throws {
    guard !new.isEmpty else { return }
    try session.prefill(new) { progress($0, new.count) }
    tokens += new
  }

  /// Writes an answer, and reads what the template has after it.
  private func write(
    _ options: SamplingOptions, _ attempt: Int, _ limit: Int?, _ text: inout [UInt8],
    _ receive: ([UInt8]) -> Bool
  ) throws -> (FinishReason, Int) {
    var options = options
    options.seed ^= UInt64(tokens.count) &* 0xD1B5_4A32_D192_ED03 ^ UInt64(attempt) &* 0xABC9_8388_FB8F_AC03
    var sampler = try Sampler(options, tokenizer: tokenizer)
    return try write(&sampler, limit, &text, receive)
  }

  /// Goes on with an answer that begins with `text`.
  private func write(
    _ sampler: inout Sampler, _ limit: Int?, _ text: inout [UInt8], _ receive: ([UInt8]) -> Bool
  ) throws -> (FinishReason, Int) {
    var written: [Int] = []
    // Where a stop string may have begun: the state before it, and the tokens up to there.
    let (state, anchor) = (session.state, session.state.copy())
    var (anchored, anchorRead) = (0, 0)
    try drafts?.follow(tokens)
    let reason = try session.generate(
      limit, with: &sampler, tokenizer: tokenizer, stop: stops, drafts: drafts,
      observe: { token in
        if token.mayBeginStop {
          anchor.assign(state)
          anchored = written.count
          anchorRead = anchored - token.unread
        }
        written.append(token.id)
      }, receive: receive)

    var unread: [UInt8] = []
    let count = written.count
    if reason == .stop {
      // The model's own ending may be cut anywhere. The state shall know the answer and the template's ending, no more.
      var matcher = StopMatcher(stops)
      unread = matcher.push(tokenizer.decode(Array(written[anchored...])))
      state.assign(anchor)
      try session.prefill(Array(written[anchorRead..<anchored]))
      written.removeLast(count - anchored)
    }
    tokens += written
    text += tokenizer.decode(written) + unread
    let ending = try tokenizer.encode(unread + missing(Array(template.end.utf8), after: text))
    if reason == .length || reason == .cancelled {
      cut = Cut(sampler: sampler, logits: Array(session.logits), ending: ending)
    } else {
      try read(ending)
    }
    return (reason, count)
  }

  /// `end` without what already stands at the end of `text`.
  private func missing(_ end: [UInt8], after text: [UInt8]) -> [UInt8] {
    let present = (0...end.count).last { text.suffix($0).elementsEqual(end.prefix($0)) } ?? 0
    return Array(end.dropFirst(present))
  }

  /// Gives up the states of the oldest turns where all together take too much memory; the latest stays.
  private func thinSnapshots() {
    var total = 0
    for index in turns.indices.reversed() {
      guard let state = turns[index].before else { return }
      total += state.byteCount
      guard total > snapshotLimit, index + 1 < turns.count else { continue }
      turns[index].before = nil
      // What is read again ends with the answer before.
      turns[index].start += turns[index].cut?.ending.count ?? 0
      turns[index].cut = nil
    }
  }
}
