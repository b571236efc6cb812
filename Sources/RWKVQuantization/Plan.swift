// SPDX-License-Identifier: MIT
import RWKVCheckpoint
import RWKVFormat

/// What `--type` names: the formats that the weights of a model get.
///
/// | type | big matrices, tables of 7a and 7b | embedding, head, low rank | vectors | bits per weight of a 1.5B |
/// |---|---|---|---|---|
/// | int4-small | INT4 | INT5, low rank INT8 | F32 | 4.9 |
/// | int4 | INT4, the last ffn.value INT8 | INT8; a head that is not small INT5 | F32 | 5.1 |
/// | int5 | INT5, the last ffn.value INT8 | INT8 | F32 | 6.0 |
/// | int8 | INT8 | INT8; where they are small, embedding and head as in fp16 | F32 | 8.0 |
/// | fp16 | F16, or BF16 where F16 would lose something | the same | F32 | 10.7 |
/// | fp32 | F32 | F32 | F32 | 32 |
///
/// Embedding and head are the most sensitive tensors of all and low-rank matrices are small: INT4 does not pay
/// (docs/quality.md has the measurements).
///
/// Small is what has at most 1/32 of the weights. Of what int8 loses, more than a quarter is lost in embedding and
/// head: small ones stay in 16 bits, for which the file grows by less than 4 % and a token reads 3 % more. With int4
/// a token of a 0.1B would read as many bytes of an INT8 head as of all else: one that is not small is INT5, which
/// adds a quarter to the loss, and a byte there gains less than in any other matrix that a token reads.
///
/// What the last layer's ffn.value adds goes to the head with nothing after it that could make up for an error. One of
/// its hidden units can decide what follows, and its error grows with its size: in a model of written steps this matrix
/// made most of what int4 lost. In INT8 it is 1 to 2 % of a file of 24 to 12 layers.
public enum QuantizationType: String, Sendable, CaseIterable {
  case int4Small = "int4-small"
  case int4, int5, int8, fp16, fp32

  /// Other programs' types by the beginning of their names, "_" and anything after it: ours of as many bits.
  private static let foreignNames: [String: QuantizationType] = [
    "q4": .int4, "iq4": .int4, "nf4": .int4, "sf4": .int4, "q5": .int5, "q6": .int8, "q8": .int8,
    "fp16i8": .int8,
    "f16": .fp16, "bf16": .fp16, "f32": .fp32,
  ]

  /// A type by its name, in capitals or not, or by that of another program's type with as many bits, like ggml's
  /// Q4_K_M.
  public init?(anyName name: String) {
    let name = name.lowercased()
    if let type = Self(rawValue: name) ?? Self.foreignNames[String(name.prefix { $0 != "_" })] {
      self = type
    } else {
      return nil
    }
  }

  /// The formats of all of a model's tensors, in their order.
  func formats(of tensors: [SourceTensor]) -> [FormatChoice] {
    let weights = tensors.reduce(0) { $1.role == .table ? $0 : $0 + $1.weights }
    let places = tensors.map(\.name).placesInFile
    let lastRows = tensors.indices.filter { tensors[$0].role == .rows }.max { places[$0] < places[$1] }
    return tensors.indices.map {
      format(of: tensors[$0], isSmall: 32 * tensors[$0].weights <= weights, isLastRows: $0 == lastRows)
    }
  }

  private func format(of tensor: SourceTensor, isSmall: Bool, isLastRows: Bool) -> FormatChoice {
    if tensor.role == .vector || tensor.role == .state { return .f32 }
    let isBig = tensor.role == .matrix || tensor.role == .rows || tensor.role == .table
    return switch self {
    case .int4Small: isBig ? .int4 : tensor.role == .lowRank ? .int8 : .int5
    case .int4: isBig && !isLastRows ? .int4 : tensor.role == .head && !isSmall ? .int5 : .int8
    case .int5: isBig && !isLastRows ? .int5 : .int8
    case .int8: (tensor.role == .embedding || tensor.role == .head) && isSmall ? .half : .int8
    case .fp16: .half
    case .fp32: .f32
    }
  }
}

extension TensorRole {
  /// Rows that stand alone are read alone: tokens of the embedding, hidden units of channel mixing.
  var rowsPerRecord: Int {
    switch self {
    case .embedding, .table, .rows, .vector, .state: 1
    case .matrix, .lowRank, .head: 16
    }
  }

  /// The role of a tensor in a `.rwkv` file, as `rowsPerRecord` and the quantizer put it there.
  init(_ tensor: TensorInfo) {
    switch (tensor.name, tensor.rowsPerRecord) {
    case ("emb.weight", _) where tensor.rows > 1: self = .embedding
    case (let name, 16) where name.hasPrefix("head."): self = .head
    case (let name, _) where TensorInfo.isTable(name) && tensor.rows > 1: self = .table
    case (let name, _) where name.hasSuffix(".time_state"): self = .state
    case (_, 1): self = tensor.rows == 1 ? .vector : .rows
    default: self = tensor.transposed ? .lowRank : .matrix
    }
  }
}

/// Which 16-bit formats hold all values of a tensor exactly.
struct Exactness: Equatable {
  var f16 = true
  var bf16 = true
  /// Whether all values round to finite numbers in F16.
  var f16Range = true
  /// The sums of the squared errors.
  var f16Error = 0.0
  var bf16Error = 0.0

  /// The 16-bit format that loses least.
  var halfFormat: WeightFormat {
    if f16 { return .f16 }
    if bf16 { return .bf16 }
    return f16Range && f16Error <= bf16Error ? .f16 : .bf16
  }

  mutating func formUnion(_ other: Exactness) {
    f16 = f16 && other.f16
    bf16 = bf16 && other.bf16
    f16Range = f16Range && other.f16Range
    f16Error += other.f16Error
    bf16Error += other.bf16Error
  }

  init() {}

  /// What is true of all `values`, which are finite.
  init(_ values: UnsafeBufferPointer<Float>) {
    var (inexactF16, lowBits, largest): (UInt32, UInt32, UInt32) = (0, 0, 0)
    for value in values {
      let bits = value.bitPattern & 0x7FFF_FFFF
      inexactF16 |= bits & Self.bitsBelowF16(bits)
      lowBits |= bits & 0xFFFF
      largest = max(largest, bits)
    }
    // 65504 is the largest F16; from 65520 on rounding gives infinity.
    f16 = inexactF16 == 0 && largest <= Float(65504).bitPattern
    bf16 = lowBits == 0
    f16Range = largest < Float(65520).bitPattern
    guard !f16, !bf16, f16Range else { return }
    for value in values {
      let magnitude = Double(abs(value).binade)
      let f16Step = max(magnitude * 0x1p-10, 0x1p-24)
      let inF16 = Double(value) - (Double(value) / f16Step).rounded(.toNearestOrEven) * f16Step
      let inBF16 =
        Double(value) - (Double(value) / magnitude * 0x1p7).rounded(.toNearestOrEven) * magnitude * 0x1p-7
      f16Error += inF16 * inF16
      if magnitude > 0 { bf16Error += inBF16 * inBF16 }
    }
  }

  /// The bits of a non-negative F32 that have no place in an F16 of its magnitude: 13 bits of the significand,
  /// and one more for each power of two below 2^-14; below 2^-24 all, so that anything but zero is inexact.
  @inline(__always)
  private static func bitsBelowF16(_ bits: UInt32) -> UInt32 {
    let shortfall = max(0, 113 - Int32(bits >> 23))
    return shortfall > 10 ? UInt32.max : (1 << UInt32(13 + shortfall)) - 1
  }
}
