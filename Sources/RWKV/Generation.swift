public import RWKVTokenizer

/// Why a generation ended.
public enum FinishReason: String, Sendable {
  /// The wanted number of tokens was written.
  case length
  /// The model wrote token 0: the end of the document.
  case end
  /// A stop string appeared.
  case stop
  /// The receiver asked for it.
  case cancelled
}

/// A token that was chosen, and that the state is about to read.
public struct ChosenToken {
  public let id: Int
  /// What it was chosen from, [V], before penalties; valid during the call.
  public let logits: UnsafeBufferPointer<Float>
  /// Whether a stop string may begin in it that did not begin earlier. If one does, a copy of the state made now
  /// remembers nothing of it.
  public let mayBeginStop: Bool
}

extension Session {
  /// Writes up to `count` tokens after what the session has read, and hands out their text piece by piece.
  ///
  /// Pieces are whole characters, stop strings never show, and every written token has been read by the state when its
  /// piece arrives, so that the session can go on from there.
  ///
  /// - Parameters:
  ///   - count: tokens at most; nil for no limit.
  ///   - stop: strings that end the text.
  ///   - observe: called with each token that was chosen, before the state reads it.
  ///   - receive: gets UTF-8 text; returns false to stop.
  /// - Returns: why it ended.
  public func generate(
    _ count: Int?, with sampler: inout Sampler, tokenizer: any Tokenizer, stop: [String] = [],
    observe: ((ChosenToken) -> Void)? = nil, receive: ([UInt8]) -> Bool
  ) throws -> FinishReason {
    var matcher = StopMatcher(stop)
    var stream = UTF8Stream()
    func finish(_ reason: FinishReason) -> FinishReason {
      let rest = stream.push(matcher.flush()) + stream.flush()
      if !rest.isEmpty { _ = receive(rest) }
      return reason
    }
    var written = 0
    while written < count ?? .max {
      let token = try sampler.sample(logits)
      guard token != 0 else { return finish(.end) }
      written += 1
      let bytes = tokenizer.bytes(of: token)
      let heldBefore = matcher.heldCount
      let passed = matcher.push(bytes)
      if let observe {
        let holds = matcher.heldCount > 0 || matcher.isStopped
        let begins = heldBefore == 0 || (!matcher.isStopped && matcher.heldCount <= bytes.count)
        observe(ChosenToken(id: token, logits: logits, mayBeginStop: holds && begins))
      }
      try decode(token)
      let text = stream.push(passed)
      if !text.isEmpty, !receive(text) { return .cancelled }
      if matcher.isStopped { return finish(.stop) }
    }
    return finish(.length)
  }
}
