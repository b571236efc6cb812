internal import RWKVFormat

/// Versions of the RWKV architecture.
public enum Version: String, Sendable, CaseIterable {
  case v4 = "4"
  case v50 = "5.0"
  case v51 = "5.1"
  case v52 = "5.2"
  case v6 = "6"
  case v7 = "7"
  case x = "x"
}

/// Sizes of a model, as its file states them. Letters as in ARCHITECTURE.md: L, D, V, F, N, H.
public struct Configuration: Sendable, Equatable {
  public let version: Version
  /// L
  public let layers: Int
  /// D
  public let embedding: Int
  /// V: rows of the embedding and of the head
  public let vocabulary: Int
  /// F: hidden units of channel mixing
  public let ffn: Int
  /// N: channels of a head; 1 in version 4, which has no heads
  public let headSize: Int
  /// Epsilon of the group norm after the recurrence; 0 in version 4
  public let groupNormEpsilon: Float
  /// H
  public var heads: Int { embedding / headSize }

  /// Largest head size that the recurrences accept.
  static let maximumHeadSize = 256

  init(_ metadata: Metadata) throws(ModelError) {
    func integer(_ key: String, _ range: ClosedRange<Int>) throws(ModelError) -> Int {
      guard let value = metadata[key] else { throw ModelError(.missingMetadata(key: key)) }
      guard case .integer(let integer) = value, let found = Int(exactly: integer), range.contains(found) else {
        throw ModelError(
          .invalidMetadata(key: key, found: "\(value)", expected: "an integer in \(range.lowerBound)…\(range.upperBound)"))
      }
      return found
    }
    guard case .string(let name)? = metadata["rwkv.version"] else {
      throw ModelError(.missingMetadata(key: "rwkv.version"))
    }
    guard let version = Version(rawValue: name) else { throw ModelError(.unsupportedVersion(name)) }
    self.version = version
    layers = try integer("rwkv.layers", 1...4096)
    embedding = try integer("rwkv.embedding", 1...65_536)
    vocabulary = try integer("rwkv.vocabulary", 1...1 << 24)
    ffn = try integer("rwkv.ffn", 1...1 << 20)
    guard version != .v4 else {
      headSize = 1
      groupNormEpsilon = 0
      return
    }
    headSize = try integer("rwkv.head_size", 1...Self.maximumHeadSize)
    guard embedding % headSize == 0 else {
      throw ModelError(
        .invalidMetadata(key: "rwkv.head_size", found: "\(headSize)", expected: "a divisor of \(embedding)"))
    }
    guard case .number(let epsilon)? = metadata["rwkv.group_norm_epsilon"], epsilon > 0, epsilon < 1 else {
      throw ModelError(.missingMetadata(key: "rwkv.group_norm_epsilon"))
    }
    groupNormEpsilon = Float(epsilon)
  }
}
