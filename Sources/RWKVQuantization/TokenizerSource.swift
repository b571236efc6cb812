// SPDX-License-Identifier: MIT
import Glibc
import RWKVCheckpoint
import RWKVTokenizer

/// Which tokenizer the output gets.
public enum TokenizerChoice: Sendable, Equatable {
  /// The one in or beside the input, if there is one that fits.
  case automatic
  /// A World vocabulary (`rwkv_vocab_v20230424.txt`) or a Hugging Face `tokenizer.json` of the GPT-NeoX kind.
  case file(String)
  /// One token per byte.
  case bytes
}

/// A tokenizer as a model file holds it.
struct TokenizerBlob: Sendable {
  let kind: TokenizerKind
  /// Contents of the tensor `tokenizer`; nil for bytes.
  let blob: [UInt8]?
  let vocabularySize: Int
  /// For people: where it comes from.
  let origin: String

  static let bytes = TokenizerBlob(kind: .bytes, blob: nil, vocabularySize: 256, origin: "bytes")

  /// Names under which tokenizers are published, in the order in which they are looked for.
  private static let fileNames = ["rwkv_vocab_v20230424.txt", "tokenizer.json", "20B_tokenizer.json"]
  /// A model has few rows more than its tokenizer has tokens: 6 (World), 0 or 27 (Pile).
  private static let mostSpareRows = 512

  /// Reads a tokenizer file of any known kind. `rows`: the model's vocabulary.
  init(path: String, rows: Int) throws(QuantizationError) {
    let content = try readFile(path, limit: 64 << 20)
    if content.first(where: { ![0x20, 0x09, 0x0A, 0x0D].contains($0) }) == UInt8(ascii: "{") {
      let bpe = try Self.bpe(path)
      (kind, blob, vocabularySize) = (.bpe, bpe.blob, bpe.vocabularySize)
    } else {
      do {
        let world = try WorldTokenizer(vocabulary: content)
        (kind, blob, vocabularySize) = (.world, world.blob, world.vocabularySize)
      } catch {
        throw .tokenizer(path: path, error)
      }
    }
    origin = path
    guard vocabularySize <= rows else {
      throw .vocabularyTooLarge(tokenizer: path, tokens: vocabularySize, rows: rows)
    }
  }

  private static func bpe(_ path: String) throws(QuantizationError) -> BPETokenizer {
    let file: TokenizerJSON
    do { file = try TokenizerJSON(path: path) } catch { throw .checkpoint(error) }
    do {
      return try BPETokenizer(tokens: file.tokens, merges: file.merges, added: file.added)
    } catch {
      throw .tokenizer(path: path, error)
    }
  }

  private init(kind: TokenizerKind, blob: [UInt8]?, vocabularySize: Int, origin: String) {
    (self.kind, self.blob, self.vocabularySize, self.origin) = (kind, blob, vocabularySize, origin)
  }

  /// The tokenizer beside `input` (in it, if it is a directory) that fits a model with `rows` tokens.
  ///
  /// Files in the same directory may belong to other models: those that cannot be read or do not fill the
  /// model's rows are passed over.
  static func beside(_ input: String, rows: Int) -> TokenizerBlob? {
    var status = stat()
    let isDirectory = stat(input, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
    let folder =
      isDirectory ? input + "/" : String(input.dropLast(input.reversed().prefix { $0 != "/" }.count))
    for name in fileNames where access(folder + name, R_OK) == 0 {
      if let found = try? TokenizerBlob(path: folder + name, rows: rows),
        rows - found.vocabularySize <= mostSpareRows
      {
        return found
      }
    }
    return rows == 256 ? .bytes : nil
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
