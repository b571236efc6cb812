// SPDX-License-Identifier: MIT
// A conversation that was saved is known by its text alone: here the turns are found in it again.

extension ChatTemplate {
  /// What a text says of the conversation that it holds.
  struct Reading {
    var system = ""
    /// The oldest first; `start` counts the tokens before a turn.
    var turns: [(message: String, answer: [UInt8], start: Int)] = []
  }

  /// Finds instructions and turns in the text of a conversation that was written down with this template.
  ///
  /// A turn begins only where a token does, so that the tokens before it can be read again without it.
  /// - Parameter tokens: the bytes of each token.
  func reading(of tokens: [[UInt8]]) -> Reading {
    var reading = Reading()
    var tokenAt: [Int: Int] = [:]
    var text: [UInt8] = []
    for (index, bytes) in tokens.enumerated() {
      tokenAt[text.count] = index
      text += bytes
    }
    var position = 0
    if let system, let found = text.between(system.before, system.after, at: 0) {
      reading.system = String(decoding: text[found.text], as: UTF8.self)
      position = found.end
    }
    if text.has(Array(greeting.utf8), at: position) { position += greeting.utf8.count }
    let (user, ending) = (Array(self.user.before.utf8), Array(end.utf8))
    guard !user.isEmpty else { return reading }
    while let start = tokenAt[position],
      let question = text.between(self.user.before, self.user.after + assistant, at: position)
    {
      var next = question.end
      while next < text.count, !(text.has(ending + user, at: next) && tokenAt[next + ending.count] != nil) {
        next += 1
      }
      let message = String(decoding: text[question.text], as: UTF8.self)
      // The first turn is taken back with what stands before it, which is read anew.
      reading.turns.append(
        (withoutThinking(message), Array(text[question.end..<next]), reading.turns.isEmpty ? 0 : start))
      position = next + ending.count
    }
    return reading
  }

  /// A message without what a way of thinking adds to it.
  private func withoutThinking(_ message: String) -> String {
    let additions = thinking.map(\.message).filter { !$0.isEmpty && message.hasSuffix($0) }
    return String(message.dropLast(additions.map(\.count).max() ?? 0))
  }
}

extension [UInt8] {
  fileprivate func has(_ other: [UInt8], at position: Int) -> Bool {
    position <= count && self[position...].starts(with: other)
  }

  /// What stands between `before`, which stands at `position`, and the first `after` that follows, and where that ends.
  fileprivate func between(
    _ before: String, _ after: String, at position: Int
  ) -> (text: Range<Int>, end: Int)? {
    let (before, after) = (Array(before.utf8), Array(after.utf8))
    guard has(before, at: position) else { return nil }
    let start = position + before.count
    var end = start
    while end + after.count <= count {
      if has(after, at: end) { return (start..<end, end + after.count) }
      end += 1
    }
    return nil
  }
}
