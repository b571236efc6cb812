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

extension Session {
  /// Writes up to `count` tokens after what the session has read, and hands out their text piece by piece.
  ///
  /// Pieces are whole characters, stop strings never show, and every written token has been read by the state when its
  /// piece arrives, so that the session can go on from there.
  ///
  /// - Parameters:
  ///   - count: tokens at most; nil for no limit.
  ///   - stop: strings that end the text.
  ///   - receive: gets UTF-8 text; returns false to stop.
  /// - Returns: why it ended.
  public func generate(
    _ count: Int?, with sampler: inout Sampler, tokenizer: any Tokenizer, stop: [String] = [],
    receive: ([UInt8]) -> Bool
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
      try decode(token)
      let text = stream.push(matcher.push(tokenizer.bytes(of: token)))
      if !text.isEmpty, !receive(text) { return .cancelled }
      if matcher.isStopped { return finish(.stop) }
    }
    return finish(.length)
  }
}
