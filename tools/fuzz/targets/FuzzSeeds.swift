// SPDX-License-Identifier: MIT
import Glibc
import RWKV
import RWKVChat
import RWKVQuantization
import RWKVTokenizer

/// Seeds in our own formats, made by our own writers; seeds.py makes those in the formats of others.
public enum FuzzSeeds {
  /// Writes FOLDER/rwkv, FOLDER/state, FOLDER/template and FOLDER/tokenizer-blob.
  public static func write(to folder: String) throws {
    func place(_ target: FuzzTarget, _ name: String) -> String {
      mkdir(folder, 0o755)
      mkdir("\(folder)/\(target.rawValue)", 0o755)
      return "\(folder)/\(target.rawValue)/\(name)"
    }
    for name in ["4", "52", "6", "7", "x"] {
      try FuzzModels.convert(name, to: place(.rwkv, name + "-int4"), .int4, store: name == "6")
      try FuzzModels.convert(name, to: place(.rwkv, name + "-fp16"), .fp16)
    }
    try FuzzModels.convert("7", to: place(.rwkv, "7-int5"), .int5, store: true)
    try FuzzModels.convert("4", to: place(.rwkv, "4-int8"), .int8)
    for model in ForgedModel.originals.indices {
      try write([UInt8(model), 9, 0, 0], to: place(.forged, "\(model)"))
    }
    for (index, model) in FuzzModels.models.enumerated() {
      let session = try Session(model, threads: 1)
      try session.prefill([1, 2, 3])
      let state = try session.state.encoded(tokens: [1, 2, 3])
      try write([UInt8(index)] + state, to: place(.state, "\(index)"))
      // The same with its payload laid open.
      let words = Int(state[24]) | Int(state[25]) << 8
      let name = Int(state[10])
      var payload = [UInt8](repeating: 0, count: 4 * words)
      payload.withUnsafeMutableBytes { target in
        state[(64 + name)...].withUnsafeBytes { precondition(inflate($0, target)) }
      }
      try write([UInt8(index) | 12] + state[..<(64 + name)] + payload, to: place(.state, "\(index)-open"))
    }
    for name in ChatTemplate.builtInNames {
      try write(Array((ChatTemplate.source(name) ?? "").utf8), to: place(.template, name))
    }
    let lines = (0..<256).map { "\($0 + 1) b'\\x\(hexadecimal($0))' 1\n" } + ["257 'ab' 2\n", "258 '你' 3\n"]
    let world = try WorldTokenizer(vocabulary: lines.flatMap { Array($0.utf8) })
    try write(world.blob, to: place(.tokenizerBlob, "world"))
    let tokens = (0..<256).map { [UInt8($0)] } + [[97, 98], [97, 98, 99], [32, 32]]
    let bpe = try BPETokenizer(tokens: tokens, merges: [(97, 98), (256, 99)], added: [(258, true)])
    try write(bpe.blob, to: place(.tokenizerBlob, "bpe"))
  }

  private static func hexadecimal(_ byte: Int) -> String {
    (byte < 16 ? "0" : "") + String(byte, radix: 16)
  }

  private static func write(_ bytes: [UInt8], to path: String) throws {
    let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0o644)
    precondition(descriptor >= 0 && Glibc.write(descriptor, bytes, bytes.count) == bytes.count, path)
    close(descriptor)
  }
}
