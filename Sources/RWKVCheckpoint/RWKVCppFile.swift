// SPDX-License-Identifier: MIT
/// Reader of rwkv.cpp's `.bin` files: a header of six u32, then tensors one behind the other. Its converter
/// had changed some tensors; each gets the description that undoes it.
enum RWKVCppFile {
  static let magic = Array("fmgg".utf8)

  /// Type codes of the file; the others are retired or never held weights.
  private static let types: [Int: SourceType] = [
    0: .f32, 1: .f16, 2: .q4_0, 3: .q4_1, 7: .q5_0, 8: .q5_1, 9: .q8_0, 11: .q2_K, 12: .q3_K, 13: .q4_K,
    14: .q5_K, 15: .q6_K,
  ]

  static func read(_ file: InputFile) throws(CheckpointError) -> (tensors: [StoredTensor], claims: Claims) {
    var reader = ByteReader(file, at: 4)
    let version = try reader.integer(UInt32.self)
    guard version == 100 || version == 101 else {
      throw CheckpointError(
        .unsupported, file: file.path, "has an unknown version of rwkv.cpp's format", found: "\(version)",
        expected: "100 or 101")
    }
    var claims = Claims()
    claims.origin = "the header"
    claims.vocabulary = try reader.count(UInt32.self, limit: 1 << 30, of: "vocabulary size")
    claims.embedding = try reader.count(UInt32.self, limit: 1 << 30, of: "embedding size")
    claims.layers = try reader.count(UInt32.self, limit: 1 << 16, of: "number of layers")
    _ = try type(&reader, nil, version: version)
    var tensors: [StoredTensor] = []
    var names: Set<String> = []
    while !reader.isAtEnd {
      let tensor = try tensor(&reader, version: version)
      guard names.insert(tensor.name).inserted else {
        throw file.malformed("occurs twice", tensor: tensor.name)
      }
      tensors.append(tensor)
      guard tensors.count <= StoredTensor.maximumTensors else { throw file.malformed("has too many tensors") }
    }
    let isVersion5 = restore(&tensors)
    // rwkv.cpp evaluates version 5 with this epsilon, and its own models were trained for it.
    if isVersion5 { claims.groupNormEpsilon = 1e-5 }
    return (tensors, claims)
  }

  private static func type(
    _ reader: inout ByteReader, _ name: String?, version: UInt32
  ) throws(CheckpointError) -> SourceType {
    let code = Int(try reader.integer(UInt32.self))
    guard let type = types[code] else {
      throw CheckpointError(
        .unsupported, file: reader.file.path, tensor: name, "has an unsupported type", found: "code \(code)",
        expected: "F32 or F16", advice: "Convert the original checkpoint")
    }
    guard version == 101 || type.blockLength == 1 else {
      throw CheckpointError(
        .unsupported, file: reader.file.path, tensor: name, "is quantized in a form that ggml has given up",
        found: "version 100", expected: "version 101", advice: "Convert the original checkpoint")
    }
    return type
  }

  private static func tensor(
    _ reader: inout ByteReader, version: UInt32
  ) throws(CheckpointError) -> StoredTensor {
    let axes = try reader.count(UInt32.self, limit: 3, of: "number of axes")
    let length = try reader.count(UInt32.self, limit: 255, of: "name length")
    let type = try type(&reader, nil, version: version)
    var shape: [Int] = []
    for _ in 0..<axes { shape.insert(Int(try reader.integer(UInt32.self)), at: 0) }  // innermost comes first
    let name = try reader.text(length, of: "name")
    let tensor = try StoredTensor(
      name: name, shape: shape, type: type, file: reader.file, offset: reader.position
    ).validated()
    try reader.skip(type.byteCount(tensor.count) ?? 0)
    return tensor
  }

  /// Describes what the converter did, by version; true for version 5.
  private static func restore(_ tensors: inout [StoredTensor]) -> Bool {
    func has(_ leaf: String) -> Bool { tensors.contains { $0.name == "blocks.0.att." + leaf } }
    let isVersion7 = has("r_k")
    let isVersion6 = has("time_maa_x")
    let isVersion5 = has("ln_x.weight") && !isVersion6 && !isVersion7
    let lowRank: Set<Substring> =
      isVersion7
      ? ["w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2"]
      : ["time_maa_w1", "time_maa_w2", "time_decay_w1", "time_decay_w2"]
    for index in tensors.indices {
      let leaf = tensors[index].name.split(separator: ".").last ?? ""
      tensors[index].isOutputMajor = lowRank.contains(leaf)
      switch leaf {
      case "time_decay" where isVersion5: tensors[index].transform = .decay
      case "time_first" where isVersion5: tensors[index].transform = .exponential
      case "time_decay" where !isVersion6: tensors[index].transform = .negativeExponential
      default: break
      }
    }
    return isVersion5
  }
}
