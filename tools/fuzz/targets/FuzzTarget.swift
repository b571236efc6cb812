// SPDX-License-Identifier: MIT
import Glibc
import RWKVChat
import RWKVCheckpoint
import RWKVTokenizer

/// A parser of hostile bytes. Each takes any input and returns; what it throws is swallowed, what traps is a finding.
public enum FuzzTarget: String, CaseIterable, Sendable {
  case rwkv, forged, state, safetensors, index, config, pth, rwkvcpp, gguf, tuned
  case http, vocabulary, tokenizerJSON = "tokenizer-json", tokenizerBlob = "tokenizer-blob", template

  /// Feeds the target with one input.
  public func run(_ bytes: [UInt8]) {
    let workplace = Workplace.shared
    switch self {
    case .rwkv: readModelFile(bytes)
    case .forged: useForgedModel(bytes)
    case .state: readState(bytes)
    case .tuned: readTunedState(bytes)
    case .safetensors, .rwkvcpp, .gguf: readCheckpoint(workplace.write("model", bytes))
    case .pth: readCheckpoint(workplace.write("model", sealedArchive(bytes)))
    case .index:
      for name in ["a", "b"] { workplace.write(name + ".safetensors", shard(name)) }
      workplace.write("model.safetensors.index.json", bytes)
      readCheckpoint(workplace.folder)
      workplace.remove("model.safetensors.index.json")
    case .config:
      workplace.write("model.safetensors", FuzzModels.file("7-hf"))
      workplace.write("config.json", bytes)
      readCheckpoint(workplace.folder)
      workplace.remove("config.json")
      workplace.remove("model.safetensors")
    case .http: askServer(bytes)
    case .vocabulary: use(try? WorldTokenizer(vocabulary: bytes))
    case .tokenizerJSON:
      guard let file = try? Vocabulary(json: workplace.write("tokenizer.json", bytes)) else { return }
      use(try? BPETokenizer(tokens: file.tokens, merges: file.merges, added: file.added))
      use(try? VocabularyTokenizer(tokens: file.tokens, rule: .longestMatch, added: file.added.map(\.id)))
    case .tokenizerBlob:
      use(try? WorldTokenizer(blob: bytes))
      use(try? BPETokenizer(blob: bytes))
      use(try? VocabularyTokenizer(blob: bytes))
    case .template: _ = try? ChatTemplate(parsing: String(decoding: bytes, as: UTF8.self), name: "fuzz")
    }
  }

  /// Text in several scripts, controls, combining marks, and bytes that are no UTF-8.
  private static let sample =
    Array("abc ab  a\n\n\u{65}\u{301} 你好 'é <|endoftext|>\u{1}".utf8) + [0xFF, 0xC3, 0xE4]

  private func use(_ tokenizer: (any Tokenizer)?) {
    guard let tokenizer else { return }
    if let ids = try? tokenizer.encode(Self.sample) { _ = tokenizer.decode(ids) }
    _ = tokenizer.bytes(of: tokenizer.vocabularySize - 1)
  }

  private func readCheckpoint(_ path: String) {
    guard let checkpoint = try? Checkpoint(path: path, allowQuantized: true) else { return }
    var values: [Float] = []
    for tensor in checkpoint.tensors where tensor.rows * tensor.columns <= 1 << 20 {
      values = [Float](repeating: 0, count: tensor.rows * tensor.columns)
      values.withUnsafeMutableBufferPointer { buffer in
        try? checkpoint.readRows(tensor, rows: 0..<tensor.rows, into: buffer)
      }
    }
  }

  /// A file of one tensor, `NAME`.weight of two halves.
  private func shard(_ name: String) -> [UInt8] {
    let names = ["a": "emb", "b": "head"]
    let header = "{\"\(names[name] ?? "").weight\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]}}"
    return [UInt8(header.utf8.count), 0, 0, 0, 0, 0, 0, 0] + header.utf8 + [0, 0, 0, 0]
  }
}

/// A folder in memory for the files that parsers want to open by name.
final class Workplace: Sendable {
  static let shared = Workplace()
  let folder = "/dev/shm/rwkv-fuzz-\(getpid())"

  private init() {
    mkdir(folder, 0o700)
    atexit {
      for name in ["model", "a.safetensors", "b.safetensors", "tokenizer.json", "fixed"] {
        Workplace.shared.remove(name)
      }
      rmdir(Workplace.shared.folder)
    }
  }

  /// Writes a file and returns its path.
  @discardableResult
  func write(_ name: String, _ bytes: [UInt8]) -> String {
    let path = folder + "/" + name
    let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    precondition(descriptor >= 0 && Glibc.write(descriptor, bytes, bytes.count) == bytes.count, path)
    close(descriptor)
    return path
  }

  func remove(_ name: String) { unlink(folder + "/" + name) }
}
