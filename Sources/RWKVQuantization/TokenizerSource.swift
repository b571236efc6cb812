// SPDX-License-Identifier: MIT
import Glibc
import RWKVCheckpoint
import RWKVTokenizer

/// Which tokenizer the output gets.
public enum TokenizerChoice: Sendable, Equatable {
  /// The one in or beside the input, if there is one that fits.
  case automatic
  /// The same, but a model that reads text is an error without one.
  case required
  /// A vocabulary in any of its published forms (docs/getting-a-model.md).
  case file(String)
  /// One token per byte.
  case bytes

  /// Makes the choice from what people type: the path of a file, `bytes`, or nothing.
  public init(named name: String?) {
    self = name.map { $0 == "bytes" ? .bytes : .file($0) } ?? .automatic
  }
}

/// A tokenizer as a model file holds it.
struct TokenizerBlob: Sendable {
  let kind: TokenizerKind
  /// Contents of the tensor `tokenizer`; nil for bytes.
  let blob: [UInt8]?
  let vocabularySize: Int
  /// Where it comes from, as people are told.
  let origin: String

  static let bytes = TokenizerBlob(kind: .bytes, blob: nil, vocabularySize: 256, origin: "bytes")

  /// Reads a tokenizer file of any known kind. `rows`: the model's vocabulary.
  init(path: String, rows: Int) throws(QuantizationError) {
    let content = try readFile(path, limit: 64 << 20)
    let vocabulary: Vocabulary
    // Behind white space and a byte order mark, in UTF-16 too.
    let before: [UInt8] = [0x20, 0x09, 0x0A, 0x0D, 0xEF, 0xBB, 0xBF, 0xFE, 0xFF, 0]
    if content.first(where: { !before.contains($0) }) == UInt8(ascii: "{") {
      do { vocabulary = try Vocabulary(json: path) } catch { throw .checkpoint(error) }
    } else {
      do {
        vocabulary = Vocabulary(tokens: try VocabularyText.tokens(of: content))
      } catch {
        throw .tokenizer(path: path, error)
      }
    }
    try self.init(vocabulary, origin: path, rows: rows)
  }

  /// The tokenizer with this vocabulary, of the simplest kind that has its ids.
  init(_ vocabulary: Vocabulary, origin: String, rows: Int) throws(QuantizationError) {
    self.origin = origin
    let (tokens, added) = (vocabulary.tokens, vocabulary.added.map(\.id))
    vocabularySize = tokens.count
    guard vocabularySize <= rows else {
      throw .vocabularyTooLarge(tokenizer: origin, tokens: vocabularySize, rows: rows)
    }
    do throws(TokenizerError) {
      switch vocabulary.rule {
      case .bytePairs:
        kind = .bpe
        blob = try BPETokenizer(tokens: tokens, merges: vocabulary.merges, added: vocabulary.added).blob
      case .longestMatch where added.isEmpty && Set(tokens.filter { $0.count == 1 }).count == 256:
        kind = .world
        blob = try WorldTokenizer(tokens: tokens).blob
      case .longestMatch:
        kind = .vocabulary
        blob = try VocabularyTokenizer(tokens: tokens, rule: .longestMatch, added: added).blob
      case .words(let lowercased):
        kind = .vocabulary
        blob = try VocabularyTokenizer(
          tokens: tokens, rule: lowercased ? .lowercasedWords : .words, added: added
        ).blob
      }
    } catch {
      throw .tokenizer(path: origin, error)
    }
  }

  private init(kind: TokenizerKind, blob: [UInt8]?, vocabularySize: Int, origin: String) {
    (self.kind, self.blob, self.vocabularySize, self.origin) = (kind, blob, vocabularySize, origin)
  }
}

// MARK: Finding it

extension TokenizerBlob {
  /// Names under which tokenizers are published, in the order in which they are looked for. Other names that say that
  /// they are a vocabulary or a tokenizer come after them.
  private static let fileNames = [
    "rwkv_vocab_v20230424.txt", "rwkv_vocab_v20230424.json", "tokenizer.json", "20B_tokenizer.json",
    "vocab.txt",
  ]
  /// A model has few rows more than its tokenizer has tokens: 6 (World), 0 or 27 (Pile).
  private static let mostSpareRows = 512

  /// Whether the rows of a model that have no token are too many for this to be its tokenizer.
  func leavesTooMuch(of rows: Int) -> Bool { rows - vocabularySize > Self.mostSpareRows }

  /// The tokenizer in a checkpoint, or beside `input` (in it, if it is a directory), that fits a model with `rows`
  /// tokens.
  ///
  /// Files in the same directory may belong to other models: those that cannot be read or do not fill the model's
  /// rows are passed over. `passedOver` gets what is wrong with those that bear a tokenizer's usual name.
  static func found(
    _ own: Vocabulary?, beside input: String, rows: Int, passedOver: inout [String]
  ) -> TokenizerBlob? {
    if let own {
      do { return try TokenizerBlob(own, origin: input, rows: rows) } catch { passedOver.append("\(error)") }
    }
    var status = stat()
    let isDirectory = stat(input, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
    let folder =
      isDirectory ? input + "/" : String(input.dropLast(input.reversed().prefix { $0 != "/" }.count))
    for name in candidates(in: folder) {
      do {
        let found = try TokenizerBlob(path: folder + name, rows: rows)
        if !found.leavesTooMuch(of: rows) { return found }
      } catch {
        if fileNames.contains(name) { passedOver.append("\(error)") }
      }
    }
    return rows == 256 ? .bytes : nil
  }

  private static func candidates(in folder: String) -> [String] {
    var others: [String] = []
    if let stream = opendir(folder.isEmpty ? "." : folder) {
      defer { closedir(stream) }
      while let entry = readdir(stream) {
        let name = withUnsafePointer(to: &entry.pointee.d_name) {
          $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
        }
        let isVocabulary = name.hasSuffix(".txt") && name.holds("vocab")
        let isJSON = name.hasSuffix(".json") && (name.holds("vocab") || name.holds("tokenizer"))
        if isVocabulary || isJSON, !fileNames.contains(name) { others.append(name) }
      }
    }
    return fileNames.filter { access(folder + $0, R_OK) == 0 } + others.sorted()
  }
}

/// A whole file of at most `limit` bytes.
private func readFile(_ path: String, limit: Int) throws(QuantizationError) -> [UInt8] {
  func failure(_ code: Int32) -> QuantizationError {
    .unreadable(path: path, reason: String(cString: strerror(code)))
  }
  let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
  guard descriptor >= 0 else { throw failure(errno) }
  defer { close(descriptor) }
  var content: [UInt8] = []
  var buffer = [UInt8](repeating: 0, count: 1 << 16)
  while true {
    let count = read(descriptor, &buffer, buffer.count)
    if count < 0 && errno == EINTR { continue }
    guard count >= 0 else { throw failure(errno) }
    guard count > 0 else { return content }
    content += buffer[..<count]
    guard content.count <= limit else {
      throw .unreadable(path: path, reason: "more than \(limit >> 20) MiB: not a tokenizer")
    }
  }
}
