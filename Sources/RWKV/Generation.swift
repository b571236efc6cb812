// SPDX-License-Identifier: MIT
public import RWKVTokenizer

/// Why a generation ended.
public enum FinishReason: String, Sendable {
  /// The wanted number of tokens was written.
  case length
  /// The model wrote token 0, the end of the document; with `SamplingOptions.onlyJSON` the last bracket.
  case end
  /// A stop string appeared.
  case stop
  /// The receiver asked for it.
  case cancelled
}

/// A token that was chosen, and that the state is about to read.
public struct ChosenToken {
  /// The id of the token.
  public let id: Int
  /// The logits [V] that the token was chosen from, before penalties; valid during the call.
  public let logits: UnsafeBufferPointer<Float>
  /// Whether a stop string may begin in this token that did not begin earlier. If one does, a copy of the state made
  /// now remembers nothing of it.
  public let mayBeginStop: Bool
  /// How many tokens chosen before this one the session's state has not read yet; 0 without drafts.
  public let unread: Int
}

extension Session {
  /// Writes up to `count` tokens after what the session has read, and hands out their text piece by piece.
  ///
  /// Pieces are whole characters, stop strings never show, and every written token has been read by the state when its
  /// piece arrives, so that the session can go on from there. With drafts, guessed tokens are read together in one
  /// pass. Text, state, logits and choices are the same to the bit, but the state may be behind until this returns.
  ///
  /// - Parameters:
  ///   - count: tokens at most; nil for no limit.
  ///   - stop: strings that end the text.
  ///   - drafts: guesses of what follows, once they `follow` what the session has read; nil: none.
  ///   - observe: called with each token that was chosen, before the state reads it.
  ///   - receive: gets UTF-8 text; returns false to stop. What was held back, an unfinished character or the beginning
  ///     of a stop string, then comes in one more call, so that all text together is what the state has read.
  /// - Returns: why it ended.
  public func generate(
    _ count: Int?, with sampler: inout Sampler, tokenizer: any Tokenizer, stop: [String] = [],
    drafts: Drafts? = nil, observe: ((ChosenToken) -> Void)? = nil, receive: ([UInt8]) -> Bool
  ) throws -> FinishReason {
    var writer = TextWriter(count, tokenizer: tokenizer, stop: stop)
    if let drafts {
      var text = DraftedText(state, drafts, writer)
      do {
        while try step(&text, with: &sampler, observe, receive) {}
      } catch {
        try? settle(text)
        throw error
      }
      try settle(text)
      return text.reason ?? text.cancel(receive)
    }
    while true {
      let text = try writer.step(self, with: &sampler, observe: observe)
      let goesOn = text.isEmpty || receive(text)
      if let reason = writer.reason { return reason }
      guard goesOn else { return writer.cancel(receive) }
    }
  }
}

/// A text that is being written, token by token.
struct TextWriter {
  private let limit: Int
  private let tokenizer: any Tokenizer
  private var matcher: StopMatcher
  private var stream = UTF8Stream()
  private var written = 0
  /// Tokens that may still be written.
  var left: Int { limit - written }
  /// Why the text has ended; nil while it goes on.
  private(set) var reason: FinishReason?

  init(_ count: Int?, tokenizer: any Tokenizer, stop: [String]) {
    limit = count ?? .max
    self.tokenizer = tokenizer
    matcher = StopMatcher(stop)
  }

  /// Chooses the next token and lets the session read it; returns the text that is certain now, perhaps none.
  mutating func step(
    _ session: Session, with sampler: inout Sampler, observe: ((ChosenToken) -> Void)? = nil
  ) throws -> [UInt8] {
    let (token, text) = try choose(session.logits, with: &sampler, observe: observe)
    if let token { try session.decode(token) }
    return text
  }

  /// Chooses the next token, which the state is to read before anything else, and says what text is certain now,
  /// perhaps none. There is no token where the text ends without one.
  mutating func choose(
    _ logits: UnsafeBufferPointer<Float>, unread: Int = 0, with sampler: inout Sampler,
    observe: ((ChosenToken) -> Void)? = nil
  ) throws(SamplingError) -> (token: Int?, text: [UInt8]) {
    guard written < limit else { return (nil, finish(.length)) }
    let token = try sampler.sample(logits)
    guard token != 0 else { return (nil, finish(.end)) }
    written += 1
    let bytes = tokenizer.bytes(of: token)
    let heldBefore = matcher.heldCount
    let passed = matcher.push(bytes)
    if let observe {
      let holds = matcher.heldCount > 0 || matcher.isStopped
      let begins = heldBefore == 0 || (!matcher.isStopped && matcher.heldCount <= bytes.count)
      observe(ChosenToken(id: token, logits: logits, mayBeginStop: holds && begins, unread: unread))
    }
    let text = stream.push(passed)
    if matcher.isStopped { return (token, text + finish(.stop)) }
    return (token, sampler.isFinished ? text + finish(.end) : text)
  }

  /// Ends the text where it is, as nobody wants more of it, and hands out what was held back.
  mutating func cancel(_ receive: ([UInt8]) -> Bool) -> FinishReason {
    let text = finish(.cancelled)
    if !text.isEmpty { _ = receive(text) }
    return .cancelled
  }

  /// The text that was held back.
  private mutating func finish(_ reason: FinishReason) -> [UInt8] {
    self.reason = reason
    return stream.push(matcher.flush()) + stream.flush()
  }
}
