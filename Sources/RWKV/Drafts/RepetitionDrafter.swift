// SPDX-License-Identifier: MIT

/// Proposes what followed the last three tokens where they stood before.
public final class RepetitionDrafter: Drafter {
  private var text: [Int] = []
  /// Where the text went on after three tokens, by these, the last time.
  private var continuations: [Key: Int] = [:]
  /// Where it went on after the last three tokens earlier.
  private var continuation: Int?

  private struct Key: Hashable {
    let first, second, third: Int
  }

  /// Tokens that are remembered: enough for what a reader would call a repetition, few megabytes.
  private static let capacity = 1 << 16

  public init() {}

  public func reset() {
    text.removeAll(keepingCapacity: true)
    continuations.removeAll(keepingCapacity: true)
    continuation = nil
  }

  public func read(_ tokens: [Int]) {
    for token in tokens {
      if text.count == Self.capacity { reset() }
      text.append(token)
      guard text.count >= 3 else { continue }
      let key = Key(first: text[text.count - 3], second: text[text.count - 2], third: token)
      continuation = continuations.updateValue(text.count, forKey: key)
    }
  }

  public func propose(_ count: Int) -> [Int] {
    guard let continuation else { return [] }
    return Array(text[continuation..<min(continuation + count, text.count)])
  }
}
