// SPDX-License-Identifier: MIT
import Foundation
import RWKV
import RWKVFormat
import RWKVQuantization
import Testing

/// What RWKV-X's attention is for: a key that lies far back.
@Suite("Passkey")
struct PasskeyTests {
  /// A model that was trained on texts of up to 2,048 bytes (examples/passkey) finds sixteen records behind 65,536
  /// bytes of filler, with four bits and a cache of 4,000 tokens.
  @Test func aTrainedModelFindsKeysAgainWithFourBits() throws {
    let path = try TemporaryFiles.shared.path(for: "passkey-trained") { path in
      let source = URL(filePath: #filePath).appending(path: "../../../examples/passkey/passkey-x.safetensors")
      try convert(
        source.standardized.path, to: path, type: .int4,
        metadata: sizes(chunk: 32, topK: 4, cache: 4000, keeping: 3000, window: 500))
    }
    let symbols = Array("abcdefghijklmnopqrstuvwxyz234567".utf8).map(Int.init)
    var random = UInt64(1)
    func symbol() -> Int {
      random = random &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return symbols[Int(random >> 59)]
    }
    let records = symbols.prefix(16).map { (name: $0, value: [symbol(), symbol()]) }
    var text: [Int] = []
    for record in records {
      text += (0..<28).map { _ in symbol() } + [Int(UInt8(ascii: "#")), record.name] + record.value
    }
    let session = try Session(Model(path: path, threads: 2), threads: 2)
    try session.prefill(text + (0..<65_536).map { _ in symbol() })
    // Keys and values of 4,001 tokens, and little more.
    #expect(session.state.byteCount < 2_200_000)
    let before = session.state.copy()
    let right = try records.filter { record in
      session.state.assign(before)
      try session.prefill([Int(UInt8(ascii: "?")), record.name])
      let first = argmax(session.logits)
      try session.decode(first)
      return [first, argmax(session.logits)] == record.value
    }.count
    #expect(right >= 15)
  }

  /// The same with constructed weights: a key of five digits, of which the runtime must lose none.
  @Test(arguments: [(20_000, 3_000), (1_500, 700)])
  func aKeyIsFoundAgainByConstructedWeights(_ length: Int, _ place: Int) throws {
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

/// What no checkpoint of RWKV-X says.
private func sizes(
  chunk: Int64, topK: Int64, cache: Int64, keeping: Int64, window: Int64
) -> [(key: String, value: MetadataValue)] {
  [
    ("rwkv.x.chunk_size", .integer(chunk)), ("rwkv.x.top_k", .integer(topK)),
    ("rwkv.x.max_kv_cache", .integer(cache)),
    ("rwkv.x.min_kv_cache", .integer(keeping)), ("rwkv.x.kv_window", .integer(window)),
  ]
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
      try convert(
        source.path, to: path, type: .int4,
        metadata: sizes(chunk: 256, topK: 3, cache: 4000, keeping: 3000, window: 500))
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
