// SPDX-License-Identifier: MIT
/// Why a checkpoint could not be read: which file and tensor, what was found, what was expected, what to do.
public struct CheckpointError: Error, Sendable, Equatable, CustomStringConvertible {
  /// What kind of problem it is.
  public enum Kind: Sendable {
    /// The file system refused: missing, not readable, not a regular file, read error.
    case unreadable
    /// The bytes contradict the container's own rules (damaged, truncated or hostile file).
    case malformed
    /// A sound file of a kind, type or model that is not supported.
    case unsupported
    /// The tensors do not make up the model that was recognised.
    case mismatch
  }
  /// The kind of problem.
  public var kind: Kind
  /// The path of the file.
  public var file: String
  /// The name of the tensor, where it is about one.
  public var tensor: String?
  /// What is wrong, as the rest of a sentence that begins with the file or the tensor.
  public var problem: String
  /// What was found.
  public var found: String?
  /// What was expected.
  public var expected: String?
  /// What to do.
  public var advice: String?

  init(
    _ kind: Kind, file: String, tensor: String? = nil, _ problem: String,
    found: String? = nil, expected: String? = nil, advice: String? = nil
  ) {
    self.kind = kind
    self.file = file
    self.tensor = tensor
    self.problem = problem
    self.found = found
    self.expected = expected
    self.advice = advice
  }

  public var description: String {
    var text = file + ": "
    if let tensor { text += "tensor \(quoted(tensor)): " }
    text += problem
    if let found { text += ", found \(found)" }
    if let expected { text += ", expected \(expected)" }
    if let advice { text += ". " + advice }
    return text
  }
}

/// Text taken from a file, made fit for an error message: at most 80 printable ASCII characters.
func quoted(_ text: String) -> String {
  let shown = text.unicodeScalars.prefix(80).map { $0.isASCII && $0.value >= 32 ? Character($0) : "?" }
  return "'" + String(shown) + (text.unicodeScalars.count > 80 ? "…'" : "'")
}

/// `2560×64`: a shape as people write it.
func shapeText(_ shape: [Int]) -> String {
  shape.isEmpty ? "scalar" : shape.map(String.init).joined(separator: "×")
}

extension String {
  /// Whether `part` occurs in it, byte for byte. The standard library's `contains` would link the engine of regular
  /// expressions, a megabyte and a half.
  package func holds(_ part: String) -> Bool {
    let (bytes, part) = (utf8, part.utf8)
    var start = bytes.startIndex
    while start < bytes.endIndex {
      if bytes[start...].starts(with: part) { return true }
      start = bytes.index(after: start)
    }
    return part.isEmpty
  }

  /// The text without the occurrences of `part`.
  func removing(_ part: some StringProtocol) -> String {
    guard holds(String(part)) else { return self }
    let (bytes, part) = (Array(utf8), Array(part.utf8))
    var (kept, index) = ([UInt8](), 0)
    while index < bytes.count {
      if bytes[index...].starts(with: part) {
        index += part.count
      } else {
        kept.append(bytes[index])
        index += 1
      }
    }
    return String(decoding: kept, as: UTF8.self)
  }
}
