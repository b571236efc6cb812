// SPDX-License-Identifier: MIT

/// A typed value of a model's metadata.
public enum MetadataValue: Sendable, Equatable, CustomStringConvertible {
  case bool(Bool), integer(Int64), number(Double), string(String), integers([Int64])

  /// The value as text; a text stands in quotes.
  public var description: String {
    switch self {
    case .bool(let value): "\(value)"
    case .integer(let value): "\(value)"
    case .number(let value): "\(value)"
    case .string(let value): "'\(value)'"
    case .integers(let values): "\(values)"
    }
  }
}

/// What a model file says about itself: keys (`a-z 0-9 . _`, at most 64) and typed values. formats/rwkv-v1.md 2.1.
public struct Metadata: Sendable, Equatable {
  private var values: [String: MetadataValue] = [:]

  public init() {}

  /// The value of `key`, of any type; nil if there is none.
  public subscript(key: String) -> MetadataValue? {
    get { values[key] }
    set { values[key] = newValue }
  }

  /// The value of `key`, or nil if there is none or it has another type.
  public func bool(_ key: String) -> Bool? {
    if case .bool(let value) = values[key] { value } else { nil }
  }
  /// The value of `key`, or nil if there is none or it has another type.
  public func integer(_ key: String) -> Int64? {
    if case .integer(let value) = values[key] { value } else { nil }
  }
  /// The value of `key`, or nil if there is none or it has another type.
  public func number(_ key: String) -> Double? {
    if case .number(let value) = values[key] { value } else { nil }
  }
  /// The value of `key`, or nil if there is none or it has another type.
  public func string(_ key: String) -> String? {
    if case .string(let value) = values[key] { value } else { nil }
  }
  /// The value of `key`, or nil if there is none or it has another type.
  public func integers(_ key: String) -> [Int64]? {
    if case .integers(let value) = values[key] { value } else { nil }
  }

  /// The bits of `required features` that a file with this metadata sets. formats/rwkv-v1.md section 1.
  var requiredFeatures: UInt32 {
    (string("tokenizer.kind") == "vocabulary" ? 1 : 0) | (values["rwkv.kind"] == nil ? 0 : 2)
  }

  /// All entries, ascending by the bytes of their keys.
  public var entries: [(key: String, value: MetadataValue)] {
    values.map { (key: $0.key, value: $0.value) }
      .sorted { $0.key.utf8.lexicographicallyPrecedes($1.key.utf8) }
  }

  // ---- bytes ---------------------------------------------------------------------------------------------------

  static let maxBytes = 16 << 20
  private static let maxEntries = 4096
  private static let maxKeyBytes = 64
  private static let maxStringBytes = 1 << 20
  private static let maxIntegers = 65_536

  private static func isKey(_ bytes: some Collection<UInt8>) -> Bool {
    (1...maxKeyBytes).contains(bytes.count)
      && bytes.allSatisfy { byte in
        (0x61...0x7A).contains(byte) || (0x30...0x39).contains(byte) || byte == 0x2E || byte == 0x5F
      }
  }

  /// The metadata section of a file.
  func encoded() throws(ModelFileError) -> [UInt8] {
    let entries = entries
    guard entries.count <= Self.maxEntries else {
      throw .unwritable(
        "number of metadata entries", found: entries.count, expected: "at most \(Self.maxEntries)")
    }
    var bytes: [UInt8] = []
    bytes.append(littleEndian: UInt32(entries.count))
    for (key, value) in entries { try Self.append(key, value, to: &bytes) }
    guard bytes.count <= Self.maxBytes else {
      throw .unwritable(
        "length of the metadata", found: bytes.count, expected: "at most \(Self.maxBytes) bytes")
    }
    return bytes
  }

  /// One entry as it stands in the file.
  static func append(_ key: String, _ value: MetadataValue, to bytes: inout [UInt8]) throws(ModelFileError) {
    guard isKey(key.utf8) else {
      throw .unwritable("metadata key", found: "'\(key)'", expected: "1 to \(maxKeyBytes) of a-z 0-9 . _")
    }
    bytes.append(UInt8(key.utf8.count))
    bytes += Array(key.utf8)
    switch value {
    case .bool(let flag):
      bytes += [0, flag ? 1 : 0]
    case .integer(let integer):
      bytes.append(1)
      bytes.append(littleEndian: integer)
    case .number(let number):
      guard number.isFinite else {
        throw .unwritable("metadata '\(key)'", found: number, expected: "a finite number")
      }
      bytes.append(2)
      bytes.append(littleEndian: number.bitPattern)
    case .string(let text):
      guard text.utf8.count <= maxStringBytes, !text.utf8.contains(0) else {
        throw .unwritable(
          "metadata '\(key)'", found: "\(text.utf8.count) bytes", expected: "1 MiB, without NUL")
      }
      bytes.append(3)
      bytes.append(littleEndian: UInt32(text.utf8.count))
      bytes += Array(text.utf8)
    case .integers(let integers):
      guard integers.count <= maxIntegers else {
        throw .unwritable(
          "metadata '\(key)'", found: integers.count, expected: "at most \(maxIntegers) integers")
      }
      bytes.append(4)
      bytes.append(littleEndian: UInt32(integers.count))
      for integer in integers { bytes.append(littleEndian: integer) }
    }
  }

  /// Reads the metadata section, which must end where the entries end.
  init(decoding section: UnsafeRawBufferPointer, origin: Int) throws(ModelFileError) {
    var cursor = ByteCursor(section, origin: origin, what: "the metadata")
    let count = try cursor.count(UInt32.self)
    guard count <= Self.maxEntries else {
      throw .invalid("number of metadata entries", found: count, expected: "at most \(Self.maxEntries)")
    }
    var previous: [UInt8] = []
    for _ in 0..<count {
      let at = cursor.offset
      let key = Array(try cursor.take(try cursor.count(UInt8.self)))
      guard Self.isKey(key), previous.lexicographicallyPrecedes(key) else {
        let found = String(decoding: key, as: UTF8.self)
        throw .invalid("a metadata key", found: "'\(found)'", expected: "a-z 0-9 . _, ascending", offset: at)
      }
      values[String(decoding: key, as: UTF8.self)] = try Self.value(&cursor)
      previous = key
    }
    guard cursor.remaining == 0 else {
      throw .invalid(
        "the metadata", found: "\(cursor.remaining) bytes longer", expected: "its entries",
        offset: cursor.offset)
    }
  }

  private static func value(_ cursor: inout ByteCursor) throws(ModelFileError) -> MetadataValue {
    let at = cursor.offset
    func invalid(_ found: some Any, _ expected: String) -> ModelFileError {
      .invalid("a metadata value", found: found, expected: expected, offset: at)
    }
    let type = try cursor.integer(UInt8.self)
    switch type {
    case 0:
      let flag = try cursor.integer(UInt8.self)
      guard flag <= 1 else { throw invalid(flag, "0 or 1") }
      return .bool(flag == 1)
    case 1:
      return .integer(try cursor.integer(Int64.self))
    case 2:
      let number = Double(bitPattern: try cursor.integer(UInt64.self))
      guard number.isFinite else { throw invalid(number, "a finite number") }
      return .number(number)
    case 3:
      let length = try cursor.count(UInt32.self)
      guard length <= maxStringBytes else { throw invalid("\(length) bytes", "at most \(maxStringBytes)") }
      let text = try cursor.take(length)
      guard let string = String(validating: text, as: UTF8.self), !text.contains(0) else {
        throw invalid("not text", "UTF-8 without NUL")
      }
      return .string(string)
    case 4:
      let count = try cursor.count(UInt32.self)
      guard count <= maxIntegers else { throw invalid("\(count) integers", "at most \(maxIntegers)") }
      let words = try cursor.take(count * 8)
      return .integers(
        (0..<count).map { Int64(littleEndian: words.loadUnaligned(fromByteOffset: $0 * 8, as: Int64.self)) })
    default:
      throw invalid("type \(type)", "type 0 to 4")
    }
  }
}
