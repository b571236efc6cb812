// SPDX-License-Identifier: MIT
/// Turns a stream of token bytes into whole characters.
///
/// A token may end in the middle of a UTF-8 sequence; its first bytes (at most three) are held back until the
/// rest arrives. The pieces handed out, joined, do not depend on how the input was cut.
public struct UTF8Stream: Sendable {
  /// What becomes of bytes that cannot be part of any UTF-8 sequence.
  public enum InvalidBytes: Sendable {
    /// U+FFFD, as in `String(decoding:as:)`: the output is always valid UTF-8.
    case replace
    /// They pass through: the output is exactly the input.
    case keep
  }

  private let invalidBytes: InvalidBytes
  private var held: [UInt8] = []

  /// Makes a stream that has seen no bytes.
  public init(invalidBytes: InvalidBytes = .replace) {
    self.invalidBytes = invalidBytes
  }

  /// Adds bytes and returns those that are complete.
  public mutating func push(_ bytes: some Sequence<UInt8>) -> [UInt8] {
    held.append(contentsOf: bytes)
    let complete = held.count - Self.incompleteTail(of: held)
    defer { held.removeFirst(complete) }
    return output(held[..<complete])
  }

  /// Ends the stream: what is held back is invalid now.
  public mutating func flush() -> [UInt8] {
    defer { held.removeAll() }
    return output(held[...])
  }

  private func output(_ bytes: ArraySlice<UInt8>) -> [UInt8] {
    switch invalidBytes {
    case .replace: Array(String(decoding: bytes, as: UTF8.self).utf8)
    case .keep: Array(bytes)
    }
  }

  /// The number of bytes at the end that begin a UTF-8 sequence without finishing it.
  private static func incompleteTail(of bytes: [UInt8]) -> Int {
    for length in 1...3 where length <= bytes.count {
      let lead = bytes[bytes.count - length]
      if lead & 0xC0 == 0x80 { continue }  // a continuation byte: the lead is further left
      let needed = lead < 0xC2 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF5 ? 4 : 1
      if length >= needed { return 0 }
      // Unicode table 3-7: these leads restrict the second byte (overlong forms, surrogates, above U+10FFFF).
      if length > 1 {
        let second = bytes[bytes.count - length + 1]
        let valid: ClosedRange<UInt8> =
          switch lead {
          case 0xE0: 0xA0...0xBF
          case 0xED: 0x80...0x9F
          case 0xF0: 0x90...0xBF
          case 0xF4: 0x80...0x8F
          default: 0x80...0xBF
          }
        if !valid.contains(second) { return 0 }
      }
      return length
    }
    return 0
  }
}
