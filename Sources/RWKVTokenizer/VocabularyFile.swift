// SPDX-License-Identifier: MIT
/// The text forms of vocabularies. One line per token, in one of two forms:
///
///     id literal length        rwkv_vocab_v20230424.txt
///     literal                  vocab.txt; the id is the number of the line, counted from 0
///
/// The literal is what Python's repr() writes for a str or bytes object; a str stands for its UTF-8 bytes.
/// `length` counts the token's bytes. Ids must ascend; gaps become tokens without text, as id 0 always is in such
/// files: it separates documents, and line 0 of the second form only says how that is called.
public enum VocabularyText {
  /// The bytes of each id; empty for ids without text.
  public static func tokens(of text: [UInt8]) throws(TokenizerError) -> [[UInt8]] {
    try TokenTable(vocabulary: text).tokens
  }
}

// Everything is parsed as bytes: a quote followed by a combining mark is one Character in Swift but two elements of
// the literal.
extension TokenTable {
  /// Reads a vocabulary file: see `VocabularyText`.
  init(vocabulary text: [UInt8]) throws(TokenizerError) {
    self.init()
    var number = 0
    var end = text.starts(with: [0xEF, 0xBB, 0xBF]) ? 3 : 0  // a byte order mark
    while end < text.count {
      let start = end
      end = text[start...].firstIndex(of: UInt8(ascii: "\n")) ?? text.count
      var line = text[start..<end]
      end += 1
      number += 1
      if line.last == UInt8(ascii: "\r") { line.removeLast() }
      if line.isEmpty { continue }
      do {
        try add(VocabularyLine(line, number: number - 1))
      } catch {
        throw TokenizerError(.line(number), error.problem)
      }
    }
    guard count > 0 else { throw TokenizerError(.vocabulary, "the file is empty") }
  }

  private mutating func add(_ entry: VocabularyLine) throws(VocabularyLine.Malformed) {
    guard entry.id < Self.maximumCount else {
      throw .init("id \(entry.id) is too large; expected less than \(Self.maximumCount)")
    }
    guard entry.id >= count else {
      throw .init("id \(entry.id) does not ascend; expected at least \(count)")
    }
    guard (1...Self.maximumLength).contains(entry.token.count) || entry.id == 0 else {
      throw .init("the token has \(entry.token.count) bytes; expected 1…\(Self.maximumLength)")
    }
    guard entry.length == entry.token.count else {
      throw .init("the line says \(entry.length) bytes, but the token has \(entry.token.count)")
    }
    while count < entry.id { append([]) }
    append(entry.token)
  }
}

/// One parsed line of a vocabulary file.
private struct VocabularyLine {
  struct Malformed: Error {
    let problem: String
    init(_ problem: String) { self.problem = problem }
  }

  let id: Int
  let token: [UInt8]
  let length: Int

  /// `number`: of the line, counted from 0.
  init(_ line: ArraySlice<UInt8>, number: Int) throws(Malformed) {
    if let first = line.first, !(0x30...0x39).contains(first) {
      var literal = PythonLiteral(line)
      let bytes = try literal.parse()
      (id, token, length) = (number, number == 0 ? [] : bytes, number == 0 ? 0 : bytes.count)
      return
    }
    let space = UInt8(ascii: " ")
    guard let first = line.firstIndex(of: space), let last = line.lastIndex(of: space), first < last else {
      throw Malformed("expected: id literal length")
    }
    id = try Self.decimal(line[..<first], "id")
    length = try Self.decimal(line[(last + 1)...], "length")
    var literal = PythonLiteral(line[(first + 1)..<last])
    token = try literal.parse()
  }

  private static func decimal(_ digits: ArraySlice<UInt8>, _ what: String) throws(Malformed) -> Int {
    let isNumber = (1...9).contains(digits.count) && digits.allSatisfy { (0x30...0x39).contains($0) }
    guard isNumber else { throw Malformed("the \(what) is not a decimal number of at most nine digits") }
    return digits.reduce(0) { 10 * $0 + Int($1 - 0x30) }
  }
}

/// A str or bytes literal as Python's repr() writes it:
///
///     str    '…' or "…"     UTF-8 and escapes; \xNN, \uNNNN and \UNNNNNNNN are code points
///     bytes  b'…' or b"…"   ASCII and escapes; \xNN is a byte
///     both   \n \r \t \\ \' \"
private struct PythonLiteral {
  private let isBytes: Bool
  private var rest: ArraySlice<UInt8>
  private var token: [UInt8] = []

  init(_ literal: ArraySlice<UInt8>) {
    isBytes = literal.first == UInt8(ascii: "b")
    rest = isBytes ? literal.dropFirst() : literal
  }

  mutating func parse() throws(VocabularyLine.Malformed) -> [UInt8] {
    guard let quote = rest.popFirst(), quote == UInt8(ascii: "'") || quote == UInt8(ascii: "\"") else {
      throw .init("the literal does not begin with a quote")
    }
    while let byte = rest.popFirst() {
      if byte == quote {
        guard rest.isEmpty else { throw .init("text follows the closing quote of the literal") }
        // Escapes add whole characters, so any damage comes from the file's own bytes.
        guard isBytes || String(validating: token, as: UTF8.self) != nil else {
          throw .init("the literal is not valid UTF-8")
        }
        return token
      }
      if byte == UInt8(ascii: "\\") {
        try escape()
      } else if isBytes && byte >= 0x80 {
        throw .init("a bytes literal has a character outside ASCII")
      } else {
        token.append(byte)
      }
    }
    throw .init("the literal has no closing quote")
  }

  private mutating func escape() throws(VocabularyLine.Malformed) {
    switch rest.popFirst().map(Unicode.Scalar.init) {
    case "n": token.append(0x0A)
    case "r": token.append(0x0D)
    case "t": token.append(0x09)
    case "\\": token.append(UInt8(ascii: "\\"))
    case "'": token.append(UInt8(ascii: "'"))
    case "\"": token.append(UInt8(ascii: "\""))
    case "x" where isBytes: token.append(UInt8(try hexadecimal(2)))
    case "x": try appendScalar(digits: 2)
    case "u" where !isBytes: try appendScalar(digits: 4)
    case "U" where !isBytes: try appendScalar(digits: 8)
    case let other?: throw .init("unknown escape \\\(other)")
    case nil: throw .init("the literal has no closing quote")
    }
  }

  private mutating func appendScalar(digits: Int) throws(VocabularyLine.Malformed) {
    let value = try hexadecimal(digits)
    guard let scalar = Unicode.Scalar(value) else {
      throw .init("an escape names U+\(String(value, radix: 16)), which is not a Unicode scalar value")
    }
    token.append(contentsOf: String(scalar).utf8)
  }

  private mutating func hexadecimal(_ digits: Int) throws(VocabularyLine.Malformed) -> UInt32 {
    var value: UInt32 = 0
    for _ in 0..<digits {
      guard let byte = rest.popFirst(), let digit = Character(Unicode.Scalar(byte)).hexDigitValue else {
        throw .init("an escape needs \(digits) hexadecimal digits")
      }
      value = value << 4 | UInt32(digit)
    }
    return value
  }
}
