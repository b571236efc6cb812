// SPDX-License-Identifier: MIT
import Foundation
import RWKV
import RWKVFormat
import RWKVQuantization
import Testing

/// What RWKV-X's attention is for: a key that lies far back. The weights are constructed, not trained: they show that
/// the runtime finds one at any distance, not that a model learns to.
@Suite("Passkey")
struct PasskeyTests {
  /// A key of five digits, hidden in 65,536 tokens of filler, of which the attention remembers 4,000 at most.
  @Test(arguments: [(65_536, 8_000), (1_500, 700)])
  func aKeyIsFoundAgainWithFourBits(_ length: Int, _ place: Int) throws {
    let session = try Session(PasskeyModel.model(), threads: 2)
    let key = PasskeyModel.key([3, 1, 4, 1, 5])
    var text = (0..<length).map { 1 + ($0 * $0 / 7 + $0) % 11 }
    text.replaceSubrange(place..<place + 6, with: [PasskeyModel.marker] + key)
    try session.prefill(text + [PasskeyModel.marker])
    var answer: [Int] = []
    for _ in key {
      answer.append(argmax(session.logits))
      try session.decode(answer[answer.count - 1])
    }
    #expect(answer == key)
    // Nothing is found where nothing was hidden.
    let other = try Session(PasskeyModel.model(), threads: 2)
    try other.prefill(text.prefix(500).map { min($0, 11) } + [PasskeyModel.marker])
    #expect(argmax(other.logits) <= PasskeyModel.marker)
  }
}

/// One block of RWKV-7, which writes the code of the token before into the second half of the channels, and one of
/// attention: a marker or digit looks for a place behind its like, and the token there becomes the answer. Places
/// behind markers and digits are worth a little to every token, so that the cache keeps them when it is compressed.
private enum PasskeyModel {
  /// Tokens 1…11 are filler, 12 comes before the key, digit d of place i is 13 + 10 i + d.
  static let marker = 12
  private static let (D, half, V) = (128, 64, 63)

  static func key(_ digits: [Int]) -> [Int] { digits.enumerated().map { 13 + 10 * $0 + $1 } }

  /// Channel `j` of a token's code: rows of a Hadamard matrix, orthogonal to each other and to what is constant.
  private static func code(_ token: Int, _ j: Int) -> Float {
    ((token + 1) & j).nonzeroBitCount % 2 == 0 ? 1 : -1
  }

  static func model() throws -> Model {
    let path = try TemporaryFiles.shared.path(for: "passkey") { path in
      let source = FileManager.default.temporaryDirectory.appending(path: "\(UUID().uuidString).safetensors")
      defer { try? FileManager.default.removeItem(at: source) }
      try checkpoint().write(to: source)
      let sizes = [
        ("chunk_size", 256), ("top_k", 3), ("max_kv_cache", 4000), ("min_kv_cache", 3000), ("kv_window", 500),
      ]
      try convert(
        source.path, to: path, type: .int4,
        metadata: sizes.map { (key: "rwkv.x.\($0)", value: .integer(Int64($1))) })
    }
    return try Model(path: path, threads: 2)
  }

  private static func checkpoint() throws -> Data {
    var tensors: [(name: String, shape: [Int], values: [Float])] = []
    func add(_ name: String, _ shape: [Int], _ value: (Int, Int) -> Float = { _, _ in 0 }) {
      let columns = shape[shape.count - 1]
      let count = shape.reduce(1, *)
      tensors.append((name, shape, (0..<count).map { value($0 / columns, $0 % columns) }))
    }
    func norm(_ name: String, weight: Float = 1, bias: @escaping (Int) -> Float = { _ in 0 }) {
      add(name + ".weight", [D]) { _, _ in weight }
      add(name + ".bias", [D]) { _, channel in bias(channel) }
    }
    add("rwkv.emb.weight", [V, D]) { token, channel in channel < half ? code(token, channel) : 0 }
    for name in ["ln0", "ln1", "ln2"] { norm("rwkv.blocks.0.\(name)") }
    let att = "rwkv.blocks.0.att."
    for name in ["x_r", "x_w", "x_k", "x_v", "x_a", "x_g", "w0", "a0", "k_k", "k_a"] {
      add(att + name, [1, 1, D])
    }
    add(att + "r_k", [2, half])
    for name in ["w", "a", "g"] {
      add(att + name + "1", [D, 32])
      add(att + name + "2", [32, D])
    }
    for name in ["receptance", "key", "value", "output"] { add(att + name + ".weight", [D, D]) }
    norm(att + "ln_x", weight: 0)
    // The norm of a code in half of the channels is √2 as large; two units for each of its signs.
    let ffn = "rwkv.blocks.0.ffn."
    add(ffn + "x_k", [1, 1, D]) { _, _ in 1 }
    add(ffn + "key.weight", [D, D]) { unit, channel in
      unit / 2 == channel ? (unit % 2 == 0 ? 1 : -1) / Float(2).squareRoot() : 0
    }
    add(ffn + "value.weight", [D, D]) { channel, unit in
      channel == half + unit / 2 ? (unit % 2 == 0 ? 1 : -1) : 0
    }
    let moba = "moba.0."
    norm(moba + "ln1") { $0 < half ? 1 : 0 }
    norm(moba + "ln2")
    let wanted = marker..<V
    add(moba + "att.receptance.weight", [D, D]) { row, channel in
      guard channel < half else { return 0 }
      if row == half - 1 { return 80 / Float(half) }
      return row < wanted.count ? 320 * code(marker + row, channel) / Float(half) : 0
    }
    add(moba + "att.key.weight", [D, D]) { row, channel in
      guard channel >= half else { return 0 }
      if row == half - 1 { return wanted.reduce(0) { $0 + code($1, channel - half) } / Float(half) }
      return row < wanted.count ? code(marker + row, channel - half) / Float(half) : 0
    }
    add(moba + "att.value.weight", [D, D]) { row, channel in row == channel && row < half ? 1 : 0 }
    add(moba + "att.output.weight", [D, D]) { row, channel in row == channel && row < half ? 8 : 0 }
    add(moba + "ffn.x_k", [1, 1, D])
    add(moba + "ffn.key.weight", [D, D])
    add(moba + "ffn.value.weight", [D, D])
    norm("rwkv.ln_out")
    add("rwkv.head.weight", [V, D]) { token, channel in channel < half ? code(token, channel) / 16 : 0 }
    return try safetensors(tensors)
  }

  private static func safetensors(
    _ tensors: [(name: String, shape: [Int], values: [Float])]
  ) throws -> Data {
    var (header, body): ([String: [String: Any]], Data) = ([:], Data())
    for tensor in tensors {
      let start = body.count
      tensor.values.withUnsafeBytes { body += $0 }
      header[tensor.name] = ["dtype": "F32", "shape": tensor.shape, "data_offsets": [start, body.count]]
    }
    let text = try JSONSerialization.data(withJSONObject: header)
    return withUnsafeBytes(of: UInt64(text.count).littleEndian) { Data($0) } + text + body
  }
}
