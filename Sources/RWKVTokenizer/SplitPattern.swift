// SPDX-License-Identifier: MIT
/// GPT-2's splitting of text into words, inside which pairs are merged:
///
///     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
///
/// Every scalar belongs to exactly one word.
enum SplitPattern {
  private enum Kind {
    case letter, number, space, other
  }

  private static let contractions = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"].map { Array($0.utf8) }

  /// The end of the word that begins at `text.startIndex`, for valid UTF-8 that is not empty.
  static func wordEnd(_ text: ArraySlice<UInt8>) -> Int {
    if text.first == UInt8(ascii: "'"), let match = contractions.first(where: { text.starts(with: $0) }) {
      return text.startIndex + match.count
    }
    // One space may lead a word of any kind.
    let body = text.first == UInt8(ascii: " ") ? text.dropFirst() : text
    if let kind = body.isEmpty ? nil : scalar(body).kind, kind != .space {
      return runEnd(body, of: kind).end
    }
    // Of spaces before a word, the last is left to it, unless it is the only one.
    let run = runEnd(text, of: .space)
    return run.end == text.endIndex || run.last == text.startIndex ? run.end : run.last
  }

  /// The end of the run of scalars of one kind at the start of `text`, and where its last scalar begins.
  private static func runEnd(_ text: ArraySlice<UInt8>, of kind: Kind) -> (last: Int, end: Int) {
    var last = text.startIndex
    var end = text.startIndex
    while end < text.endIndex {
      let next = scalar(text[end...])
      guard next.kind == kind else { break }
      last = end
      end += next.length
    }
    return (last, end)
  }

  /// The kind and the length in bytes of the first scalar.
  private static func scalar(_ text: ArraySlice<UInt8>) -> (kind: Kind, length: Int) {
    let lead = text[text.startIndex]
    switch lead {
    case 0x41...0x5A, 0x61...0x7A: return (.letter, 1)
    case 0x30...0x39: return (.number, 1)
    case 0x09...0x0D, 0x20: return (.space, 1)
    case ..<0x80: return (.other, 1)
    default: break
    }
    let length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4
    let value = text.prefix(length).dropFirst().reduce(UInt32(lead) & (0xFF >> (UInt32(length) + 1))) {
      $0 << 6 | UInt32($1 & 0x3F)
    }
    return (Unicode.Scalar(value).map(kind) ?? .other, length)
  }

  private static func kind(_ scalar: Unicode.Scalar) -> Kind {
    switch scalar.properties.generalCategory {
    case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: .letter
    case .decimalNumber, .letterNumber, .otherNumber: .number
    default: scalar.properties.isWhitespace ? .space : .other
    }
  }
}
