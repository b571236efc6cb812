// SPDX-License-Identifier: MIT
/// Reader of GGUF files (version 3, little-endian) as llama.cpp's converter writes them for RWKV-6 and
/// RWKV-7. Only the few numbers that describe the model and the vocabulary are kept of the metadata; nothing in it is
/// interpreted.
enum GGUF {
  static let maximumEntries = 4096
  /// Length of a key [bytes].
  static let maximumKey = 1024
  /// Length of any other text [bytes]; but for the architecture's name they are passed over.
  private static let maximumText = 16 << 20
  /// Elements of all arrays together.
  static let maximumElements = 1 << 22

  /// ggml's type numbers.
  private static let types: [UInt32: SourceType] = [
    0: .f32, 1: .f16, 2: .q4_0, 3: .q4_1, 6: .q5_0, 7: .q5_1, 8: .q8_0, 10: .q2_K, 11: .q3_K, 12: .q4_K,
    13: .q5_K, 14: .q6_K, 30: .bf16,
  ]

  /// A metadata value, as far as it is of use.
  private enum Value {
    case integer(Int)
    case number(Double)
    case text(String)
    case other

    var integer: Int? { if case .integer(let value) = self { value } else { nil } }
    var number: Double? { if case .number(let value) = self { value } else { nil } }
  }

  /// What a file holds.
  struct Content {
    var tensors: [StoredTensor]
    var claims: Claims
    var dialect: Names.Dialect
    var vocabulary: Vocabulary?
  }

  /// What one file holds: a model may be split into several, of which only the first describes it.
  private struct Part {
    let file: InputFile
    var metadata: [String: Value] = [:]
    var vocabulary = GGUFVocabulary()
    var tensors: [StoredTensor] = []
  }

  /// Reads a file, or all files of a split model in order.
  static func read(_ files: [InputFile]) throws(CheckpointError) -> Content {
    var parts: [Part] = []
    for file in files { parts.append(try part(file)) }
    let first = parts[0]
    try checkSplit(parts)
    guard case .text(let architecture)? = first.metadata["general.architecture"] else {
      throw first.file.malformed("does not name its architecture")
    }
    guard architecture == "rwkv6" || architecture == "rwkv7" else {
      throw CheckpointError(
        .unsupported, file: first.file.path, "holds a model of another architecture",
        found: quoted(architecture), expected: "rwkv6 or rwkv7")
    }
    var tensors = parts.flatMap(\.tensors)
    let rescale = first.metadata["rwkv6.rescale_every_n_layers"]?.integer ?? 0
    try restore(&tensors, rescaleEvery: rescale, file: first.file)
    var claims = Claims()
    claims.origin = "the GGUF metadata"
    claims.embedding = first.metadata[architecture + ".embedding_length"]?.integer
    claims.layers = first.metadata[architecture + ".block_count"]?.integer
    claims.ffn = first.metadata[architecture + ".feed_forward_length"]?.integer
    claims.headSize = first.metadata[architecture + ".wkv.head_size"]?.integer
    claims.layerNormEpsilon = first.metadata[architecture + ".attention.layer_norm_epsilon"]?.number
    return Content(
      tensors: tensors, claims: claims, dialect: architecture == "rwkv6" ? .gguf6 : .gguf7,
      vocabulary: try first.vocabulary.vocabulary(file: first.file))
  }

  /// Throws unless the files are those of one split model, in order.
  private static func checkSplit(_ parts: [Part]) throws(CheckpointError) {
    for (index, part) in parts.enumerated() {
      let (number, count) = (
        part.metadata["split.no"]?.integer ?? 0, part.metadata["split.count"]?.integer ?? 1
      )
      guard max(1, count) == parts.count else {
        throw CheckpointError(
          .unreadable, file: part.file.path, "is part \(number &+ 1) of a model in \(count) files",
          found: "\(parts.count)", expected: "names that end in -00001-of-0000\(count).gguf and so on",
          advice: "Get the others into the same folder, under the names that they were published with")
      }
      guard number == index else {
        throw part.file.malformed(
          "has the name of another part", found: "split.no \(number)", expected: "\(index)")
      }
    }
    if let total = parts[0].metadata["split.tensors.count"]?.integer, parts.count > 1,
      total != parts.reduce(0, { $0 + $1.tensors.count })
    {
      throw parts[0].file.malformed(
        "is of a model with another number of tensors", found: "\(parts.reduce(0) { $0 + $1.tensors.count })",
        expected: "\(total)")
    }
  }

  private static func part(_ file: InputFile) throws(CheckpointError) -> Part {
    var part = Part(file: file)
    var reader = ByteReader(file, at: 4)
    let version = try reader.integer(UInt32.self)
    guard version == 3 else {
      throw CheckpointError(
        .unsupported, file: file.path, "has an unsupported version of GGUF", found: "\(version)",
        expected: "3")
    }
    let count = try reader.count(UInt64.self, limit: StoredTensor.maximumTensors, of: "number of tensors")
    let entries = try reader.count(UInt64.self, limit: maximumEntries, of: "number of metadata entries")
    var elements = maximumElements
    for _ in 0..<entries {
      let key = try text(&reader, limit: maximumKey, of: "key")
      let value = try value(
        &reader, type: reader.integer(UInt32.self), key: key, elements: &elements, &part.vocabulary)
      guard part.metadata.updateValue(value, forKey: key) == nil else {
        throw file.malformed("has the metadata key \(quoted(key)) twice")
      }
    }
    let alignment = part.metadata["general.alignment"]?.integer ?? 32
    guard alignment > 0, alignment <= 65_536, alignment & (alignment - 1) == 0 else {
      throw file.malformed("has an impossible alignment", found: "\(alignment)")
    }
    if case .text(let model)? = part.metadata["tokenizer.ggml.model"] { part.vocabulary.model = model }
    part.tensors = try tensors(&reader, count: count, alignment: alignment)
    return part
  }

  // MARK: Metadata

  private static func text(_ reader: inout ByteReader, limit: Int, of what: String) throws(CheckpointError)
    -> String
  {
    try reader.text(reader.count(UInt64.self, limit: limit, of: "length of a \(what)"), of: what)
  }

  private static func value(
    _ reader: inout ByteReader, type: UInt32, key: String, elements: inout Int,
    _ vocabulary: inout GGUFVocabulary
  ) throws(CheckpointError) -> Value {
    switch type {
    case 0: return .integer(Int(try reader.integer(UInt8.self)))
    case 1: return .integer(Int(Int8(bitPattern: try reader.integer(UInt8.self))))
    case 2: return .integer(Int(try reader.integer(UInt16.self)))
    case 3: return .integer(Int(Int16(bitPattern: try reader.integer(UInt16.self))))
    case 4: return .integer(Int(try reader.integer(UInt32.self)))
    case 5: return .integer(Int(Int32(bitPattern: try reader.integer(UInt32.self))))
    case 6: return .number(Double(Float(bitPattern: try reader.integer(UInt32.self))))
    case 7:
      try reader.skip(1)
      return .other
    case 8:
      // Only names are read; templates and the like are passed over.
      if key == "general.architecture" || key == "tokenizer.ggml.model" {
        return .text(try text(&reader, limit: maximumKey, of: "text"))
      }
      try reader.skip(reader.count(UInt64.self, limit: maximumText, of: "length of a text"))
      return .other
    case 9:
      switch key {
      case "tokenizer.ggml.tokens": vocabulary.tokens = try texts(&reader)
      case "tokenizer.ggml.token_type": vocabulary.types = try integers(&reader)
      default: try skipArray(&reader, key: key, elements: &elements)
      }
      return .other
    case 10: return .integer(Int(clamping: try reader.integer(UInt64.self)))
    case 11: return .integer(Int(bitPattern: UInt(try reader.integer(UInt64.self))))
    case 12: return .number(Double(bitPattern: try reader.integer(UInt64.self)))
    default: throw reader.file.malformed("has a metadata value of unknown type \(type) at \(quoted(key))")
    }
  }

  /// An array of texts.
  private static func texts(_ reader: inout ByteReader) throws(CheckpointError) -> [String] {
    let type = try reader.integer(UInt32.self)
    let count = try reader.count(UInt64.self, limit: Vocabulary.maximumID, of: "number of tokens")
    guard type == 8 else { throw reader.file.malformed("has tokens that are no texts") }
    var texts: [String] = []
    for _ in 0..<count { texts.append(try text(&reader, limit: 65_535, of: "token")) }
    return texts
  }

  /// An array of 32-bit integers.
  private static func integers(_ reader: inout ByteReader) throws(CheckpointError) -> [Int] {
    let type = try reader.integer(UInt32.self)
    let count = try reader.count(UInt64.self, limit: Vocabulary.maximumID, of: "number of token types")
    guard type == 4 || type == 5 else { throw reader.file.malformed("has token types that are no integers") }
    var integers: [Int] = []
    for _ in 0..<count { integers.append(Int(Int32(bitPattern: try reader.integer(UInt32.self)))) }
    return integers
  }

  /// Merges and the like. Arrays of arrays are not allowed. `elements`: how many there may still be.
  private static func skipArray(
    _ reader: inout ByteReader, key: String, elements: inout Int
  ) throws(CheckpointError) {
    let type = try reader.integer(UInt32.self)
    let count = try reader.count(UInt64.self, limit: elements, of: "array length")
    elements -= count
    let widths: [UInt32: Int] = [0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8]
    if let width = widths[type] {
      try reader.skip(count * width)
    } else if type == 8 {
      for _ in 0..<count {
        try reader.skip(reader.count(UInt64.self, limit: maximumText, of: "length of a text"))
      }
    } else {
      throw reader.file.malformed("has an array of unknown type \(type) at \(quoted(key))")
    }
  }

  // MARK: Tensors

  /// The directory: names, shapes, types, offsets. Offsets must be the running sum of the padded sizes.
  private static func tensors(
    _ reader: inout ByteReader, count: Int, alignment: Int
  ) throws(CheckpointError) -> [StoredTensor] {
    let file = reader.file
    var tensors: [StoredTensor] = []
    var names: Set<String> = []
    var offsets: [Int] = []
    for _ in 0..<count {
      let name = try text(&reader, limit: 255, of: "tensor name")
      guard names.insert(name).inserted else { throw file.malformed("occurs twice", tensor: name) }
      let axes = try reader.count(UInt32.self, limit: 4, of: "number of axes")
      var shape: [Int] = []
      for _ in 0..<axes {  // innermost comes first
        shape.insert(try reader.count(UInt64.self, limit: StoredTensor.maximumCount, of: "size"), at: 0)
      }
      let code = try reader.integer(UInt32.self)
      guard let type = types[code] else {
        throw CheckpointError(
          .unsupported, file: file.path, tensor: name, "has an unsupported type", found: "ggml type \(code)",
          expected: "F32, F16, BF16 or Q8_0", advice: "Convert the original checkpoint")
      }
      offsets.append(try reader.count(UInt64.self, limit: file.size, of: "offset"))
      tensors.append(StoredTensor(name: name, shape: shape, type: type, file: file, offset: 0))
    }
    func padded(_ size: Int) -> Int { (size + alignment - 1) & ~(alignment - 1) }
    let start = padded(reader.position)
    var expected = 0
    for index in tensors.indices {
      guard offsets[index] == expected else {
        throw file.malformed(
          "overlaps another tensor or leaves a gap", tensor: tensors[index].name,
          found: "offset \(offsets[index])",
          expected: "\(expected)")
      }
      tensors[index].offset = start + expected
      tensors[index] = try tensors[index].validated()
      expected = padded(expected + (tensors[index].type.byteCount(tensors[index].count) ?? 0))
    }
    return tensors
  }

  /// Describes what the converter did: low-rank matrices transposed and, for version 6, two matrices of each
  /// block divided by a power of two that grows with the depth.
  private static func restore(
    _ tensors: inout [StoredTensor], rescaleEvery: Int, file: InputFile
  ) throws(CheckpointError) {
    let lowRank: Set<String> = [
      "time_mix_w1", "time_mix_w2", "time_mix_decay_w1", "time_mix_decay_w2", "time_mix_a1", "time_mix_a2",
      "time_mix_v1", "time_mix_v2", "time_mix_g1", "time_mix_g2",
    ]
    for index in tensors.indices {
      let parts = tensors[index].name.split(separator: ".").map(String.init)
      guard parts.count == 4, parts[0] == "blk", let layer = Int(parts[1]) else { continue }
      if lowRank.contains(parts[2]) { tensors[index].isOutputMajor = true }
      if rescaleEvery > 0, parts[2] == "time_mix_output" || parts[2] == "channel_mix_value" {
        let exponent = layer / rescaleEvery
        guard (0...64).contains(exponent) else {
          throw file.malformed("has an impossible rescaling", tensor: tensors[index].name)
        }
        if exponent > 0 {
          tensors[index].transform = .divided(by: Float(sign: .plus, exponent: exponent, significand: 1))
        }
      }
    }
  }
}
