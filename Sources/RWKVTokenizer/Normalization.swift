// SPDX-License-Identifier: MIT
/// Unicode normalization form C (UAX 15), which the standard library has, but does not offer.
enum Normalization {
  /// The form C of valid UTF-8.
  static func composed(_ utf8: ArraySlice<UInt8>) -> [UInt8] {
    // Scalars below U+0300 (first byte 0xCC) neither decompose beyond themselves nor compose with each other.
    if utf8.allSatisfy({ $0 < 0xCC }) { return Array(utf8) }
    var scalars: [Unicode.Scalar] = []
    for scalar in String(decoding: utf8, as: UTF8.self).unicodeScalars { decompose(scalar, into: &scalars) }
    reorder(&scalars)
    compose(&scalars)
    var result = String.UnicodeScalarView()
    result.append(contentsOf: scalars)
    return Array(String(result).utf8)
  }

  private struct Pair: Hashable {
    let first: UInt32
    let second: UInt32
  }

  private struct Tables {
    /// `second` is 0 for a decomposition into one scalar.
    var decompositions: [UInt32: Pair] = [:]
    var compositions: [Pair: Unicode.Scalar] = [:]

    init() {
      let pairs = CanonicalDecompositions.pairs
      for index in stride(from: 0, to: pairs.count, by: 3) {
        let pair = Pair(first: pairs[index + 1], second: pairs[index + 2])
        decompositions[pairs[index]] = pair
        if let scalar = Unicode.Scalar(pairs[index]), !scalar.properties.isFullCompositionExclusion {
          compositions[pair] = scalar
        }
      }
      let singles = CanonicalDecompositions.singles
      for index in stride(from: 0, to: singles.count, by: 2) {
        decompositions[singles[index]] = Pair(first: singles[index + 1], second: 0)
      }
    }
  }

  private static let tables = Tables()

  /// Hangul syllables are numbered: S = base + (lead · 21 + vowel) · 28 + trail, where trail 0 is none.
  private enum Hangul {
    static let lead: UInt32 = 0x1100
    static let vowel: UInt32 = 0x1161
    static let trail: UInt32 = 0x11A7
    static let syllables: Range<UInt32> = 0xAC00..<0xAC00 + 19 * 21 * 28

    static func decompose(_ syllable: UInt32) -> Pair {
      let index = syllable - syllables.lowerBound
      if index % 28 != 0 { return Pair(first: syllable - index % 28, second: trail + index % 28) }
      return Pair(first: lead + index / (21 * 28), second: vowel + index / 28 % 21)
    }

    static func compose(_ pair: Pair) -> UInt32? {
      if (lead..<lead + 19).contains(pair.first), (vowel..<vowel + 21).contains(pair.second) {
        return syllables.lowerBound + ((pair.first - lead) * 21 + pair.second - vowel) * 28
      }
      if syllables.contains(pair.first), (pair.first - syllables.lowerBound) % 28 == 0,
        (trail + 1..<trail + 28).contains(pair.second)
      {
        return pair.first + pair.second - trail
      }
      return nil
    }
  }

  private static func decompose(_ scalar: Unicode.Scalar, into result: inout [Unicode.Scalar]) {
    let pair =
      Hangul.syllables.contains(scalar.value)
      ? Hangul.decompose(scalar.value) : tables.decompositions[scalar.value]
    guard let pair, let first = Unicode.Scalar(pair.first) else {
      result.append(scalar)
      return
    }
    decompose(first, into: &result)
    if pair.second != 0, let second = Unicode.Scalar(pair.second) { decompose(second, into: &result) }
  }

  /// Sorts each run of scalars with a combining class by that class, keeping the order of equals.
  private static func reorder(_ scalars: inout [Unicode.Scalar]) {
    var start = 0
    while start < scalars.count {
      guard combiningClass(scalars[start]) != 0 else {
        start += 1
        continue
      }
      let end = scalars[start...].firstIndex { combiningClass($0) == 0 } ?? scalars.count
      if end - start > 1 { scalars[start..<end].sort { combiningClass($0) < combiningClass($1) } }  // stable
      start = end
    }
  }

  /// Joins each scalar with the last starter before it, where a composition exists and nothing blocks the
  /// way.
  private static func compose(_ scalars: inout [Unicode.Scalar]) {
    var result: [Unicode.Scalar] = []
    result.reserveCapacity(scalars.count)
    var starter: Int?
    var lastClass: UInt8 = 0
    for scalar in scalars {
      let ownClass = combiningClass(scalar)
      // Blocked: something between has no lower class. Directly after the starter nothing is between.
      if let starter, starter == result.count - 1 || lastClass < ownClass,
        let composite = composition(result[starter], scalar)
      {
        result[starter] = composite
        continue
      }
      if ownClass == 0 { starter = result.count }
      lastClass = ownClass
      result.append(scalar)
    }
    scalars = result
  }

  private static func composition(_ first: Unicode.Scalar, _ second: Unicode.Scalar) -> Unicode.Scalar? {
    let pair = Pair(first: first.value, second: second.value)
    return Hangul.compose(pair).flatMap(Unicode.Scalar.init) ?? tables.compositions[pair]
  }

  private static func combiningClass(_ scalar: Unicode.Scalar) -> UInt8 {
    scalar.value < 0x300 ? 0 : scalar.properties.canonicalCombiningClass.rawValue
  }
}
