// SPDX-License-Identifier: MIT
/// The bytes of every token id, in one buffer.
///
///     bytes   t o k e n 1 t o k e n 2 …
///     starts  0           6             (count + 1 entries: token i is bytes[starts[i] ..< starts[i + 1]])
struct TokenTable: Sendable {
  /// Larger vocabularies are refused: no RWKV model comes near, and damaged data must not make us allocate.
  static let maximumCount = 1 << 20
  /// The length field of the model file has 16 bits.
  static let maximumLength = Int(UInt16.max)

  private(set) var bytes: [UInt8] = []
  private(set) var starts: [UInt32] = [0]

  /// One more than the largest id.
  var count: Int { starts.count - 1 }

  func range(of id: Int) -> Range<Int> {
    Int(starts[id])..<Int(starts[id + 1])
  }

  /// The bytes of a token; empty for an id outside the table.
  func token(_ id: Int) -> ArraySlice<UInt8> {
    (0..<count).contains(id) ? bytes[range(of: id)] : []
  }

  mutating func append(_ token: some Sequence<UInt8>) {
    bytes.append(contentsOf: token)
    starts.append(UInt32(bytes.count))
  }

  init() {}

  /// From the bytes of each id; empty for ids without text.
  init(_ tokens: [[UInt8]]) throws(TokenizerError) {
    guard (1...Self.maximumCount).contains(tokens.count) else {
      throw TokenizerError(.vocabulary, "\(tokens.count) tokens; expected 1…\(Self.maximumCount)")
    }
    for (id, token) in tokens.enumerated() {
      guard token.count <= Self.maximumLength else {
        throw TokenizerError(.token(id), "has \(token.count) bytes; expected at most \(Self.maximumLength)")
      }
      append(token)
    }
  }

  /// The bytes of each id.
  var tokens: [[UInt8]] { (0..<count).map { Array(token($0)) } }

  /// Reads u32 count, then for each id u16 length and bytes.
  init(_ reader: inout BlobReader) throws(TokenizerError) {
    let count = try reader.u32("number of tokens")
    guard (1...Self.maximumCount).contains(count) else {
      throw reader.error("\(count) tokens; expected 1…\(Self.maximumCount)")
    }
    // Each token takes at least two bytes, so a wrong count cannot reserve more than the blob's own size.
    guard 2 * count <= reader.remaining else {
      throw reader.error("\(count) tokens do not fit into the remaining \(reader.remaining) bytes")
    }
    bytes.reserveCapacity(reader.remaining - 2 * count)
    starts.reserveCapacity(count + 1)
    for _ in 0..<count {
      let length = try reader.u16("length of a token")
      append(try reader.bytes(length, "bytes of a token"))
    }
  }

  /// The inverse of `init(_: inout BlobReader)`.
  func write(to blob: inout [UInt8]) {
    blob.appendU32(count)
    for id in 0..<count {
      let token = token(id)
      blob.append(UInt8(token.count & 0xFF))
      blob.append(UInt8(token.count >> 8))
      blob.append(contentsOf: token)
    }
  }
}

/// Reads little-endian fields from untrusted bytes.
struct BlobReader {
  private let blob: [UInt8]
  private(set) var offset = 0

  init(_ blob: [UInt8]) { self.blob = blob }

  var remaining: Int { blob.count - offset }

  func error(_ problem: String) -> TokenizerError {
    TokenizerError(.byte(offset), problem)
  }

  mutating func bytes(_ count: Int, _ what: String) throws(TokenizerError) -> ArraySlice<UInt8> {
    guard count <= remaining else {
      throw error("the data ends within: \(what) (\(count) bytes, \(remaining) left); the file is damaged")
    }
    defer { offset += count }
    return blob[offset..<offset + count]
  }

  mutating func u8(_ what: String) throws(TokenizerError) -> Int {
    try integer(1, what)
  }

  mutating func u16(_ what: String) throws(TokenizerError) -> Int {
    try integer(2, what)
  }

  mutating func u32(_ what: String) throws(TokenizerError) -> Int {
    try integer(4, what)
  }

  private mutating func integer(_ size: Int, _ what: String) throws(TokenizerError) -> Int {
    try bytes(size, what).reversed().reduce(0) { $0 << 8 | Int($1) }
  }

  /// Throws unless everything has been read.
  func end() throws(TokenizerError) {
    guard remaining == 0 else { throw error("\(remaining) bytes follow the end; the file is damaged") }
  }
}

extension [UInt8] {
  mutating func appendU32(_ value: Int) {
    for shift in stride(from: 0, to: 32, by: 8) { append(UInt8(truncatingIfNeeded: value >> shift)) }
  }
}
