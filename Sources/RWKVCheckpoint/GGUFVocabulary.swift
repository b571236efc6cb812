// SPDX-License-Identifier: MIT
/// What a GGUF file says of its tokenizer, while its metadata is read.
struct GGUFVocabulary {
  /// `tokenizer.ggml.model`; "rwkv" is greedy longest match.
  var model: String?
  var tokens: [String] = []
  var types: [Int] = []

  /// llama.cpp's numbers of what a token is for.
  private enum TokenType { static let (normal, control, userDefined, byte) = (1, 3, 4, 6) }

  /// nil: the file has none that could be read.
  ///
  /// Special tokens are found in a text as they stand, but for id 0, which separates documents.
  func vocabulary(file: InputFile) throws(CheckpointError) -> Vocabulary? {
    guard model == "rwkv", !tokens.isEmpty else { return nil }
    var vocabulary = Vocabulary()
    for (id, text) in tokens.enumerated() {
      let type = id < types.count ? types[id] : id == 0 ? TokenType.control : TokenType.normal
      guard let bytes = Self.unescaped(text) else {
        throw file.malformed("has a damaged token", found: "number \(id), \(quoted(text))")
      }
      let isSpecial = type == TokenType.control || type == TokenType.userDefined
      let hasText = isSpecial ? id > 0 : type == TokenType.normal || type == TokenType.byte
      guard vocabulary.set(id, hasText ? bytes : []) else { throw file.malformed("has too many tokens") }
      if isSpecial, hasText { vocabulary.added.append((id, false)) }
    }
    return vocabulary
  }

  /// What Python's repr() of a bytes object has between its quotes.
  private static func unescaped(_ text: String) -> [UInt8]? {
    var bytes: [UInt8] = []
    var rest = Array(text.utf8)[...]
    while let byte = rest.popFirst() {
      guard byte == UInt8(ascii: "\\") else {
        bytes.append(byte)
        continue
      }
      switch rest.popFirst() {
      case UInt8(ascii: "t"): bytes.append(9)
      case UInt8(ascii: "n"): bytes.append(10)
      case UInt8(ascii: "r"): bytes.append(13)
      case UInt8(ascii: "x"):
        guard let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16), rest.count >= 2
        else {
          return nil
        }
        bytes.append(value)
        rest = rest.dropFirst(2)
      case let other?: bytes.append(other)
      case nil: bytes.append(byte)  // some writers leave the token of the backslash itself as it is
      }
    }
    return bytes
  }
}
