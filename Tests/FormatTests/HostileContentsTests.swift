// SPDX-License-Identifier: MIT
import CZstd
import Testing

@testable import RWKVFormat

@Suite("Hostile metadata")
struct HostileMetadataTests {
  /// A section with one entry of this type and value.
  private static func entry(_ type: UInt8, _ value: [UInt8], key: String = "a") -> [UInt8] {
    [1, 0, 0, 0, UInt8(key.utf8.count)] + Array(key.utf8) + [type] + value
  }

  private func refusal(_ section: [UInt8]) -> String? {
    do {
      _ = try section.withUnsafeBytes { try Metadata(decoding: $0, origin: 64) }
      return nil
    } catch { return "\(error)" }
  }

  @Test(
    arguments: [
      ("count beyond the cap", [1, 16, 0, 0], "number of metadata entries is 4097"),
      ("count 2^32 − 1", [255, 255, 255, 255], "number of metadata entries"),
      ("missing entry", [1, 0, 0, 0], "the metadata is 0 bytes"),
      ("shorter than a count", [1, 0], "the metadata is 2 bytes"),
      ("bytes left over", [0, 0, 0, 0, 0], "1 bytes longer"),
      ("empty key", [1, 0, 0, 0, 0, 0, 1], "a metadata key"),
      ("key past the end", [1, 0, 0, 0, 200, 97], "the metadata is 1 bytes"),
      ("long key", entry(0, [1], key: String(repeating: "a", count: 65)), "a metadata key"),
      ("key in capitals", entry(0, [1], key: "A"), "a metadata key"),
      ("key with NUL", entry(0, [1], key: "\0"), "a metadata key"),
      ("the same key twice", [2, 0, 0, 0, 1, 97, 0, 1, 1, 97, 0, 1], "ascending"),
      ("descending keys", [2, 0, 0, 0, 1, 98, 0, 1, 1, 97, 0, 1], "ascending"),
      ("unknown type", entry(5, [0]), "type 5"),
      ("bool 2", entry(0, [2]), "expected 0 or 1"),
      ("short integer", entry(1, [1, 2, 3]), "3 bytes"),
      ("NaN", entry(2, [0, 0, 0, 0, 0, 0, 0xF8, 0x7F]), "a finite number"),
      ("infinity", entry(2, [0, 0, 0, 0, 0, 0, 0xF0, 0x7F]), "a finite number"),
      ("string past the end", entry(3, [2, 0, 0, 0, 97]), "the metadata is 1 bytes"),
      ("string of 4 GiB", entry(3, [255, 255, 255, 255, 97]), "4294967295 bytes"),
      ("string with NUL", entry(3, [1, 0, 0, 0, 0]), "UTF-8 without NUL"),
      ("string that is not UTF-8", entry(3, [2, 0, 0, 0, 0xC3, 0x28]), "UTF-8 without NUL"),
      ("overlong UTF-8", entry(3, [2, 0, 0, 0, 0xC0, 0xAF]), "UTF-8 without NUL"),
      ("surrogate", entry(3, [3, 0, 0, 0, 0xED, 0xA0, 0x80]), "UTF-8 without NUL"),
      ("array past the end", entry(4, [1, 0, 0, 0, 1]), "the metadata is 1 bytes"),
      ("array whose length wraps", entry(4, [0, 0, 0, 0x20]), "536870912 integers"),
    ] as [(String, [UInt8], String)])
  func isRefused(name: String, section: [UInt8], expected: String) throws {
    let message = try #require(refusal(section), "accepted")
    #expect(message.contains(expected), "\(message)")
  }

  /// What is as large as it may be is read, one more is refused, before it is looked at.
  @Test func boundsOfEntries() {
    func text(_ count: UInt32) -> [UInt8] {
      withUnsafeBytes(of: count.littleEndian) { Array($0) } + [UInt8](repeating: 97, count: Int(count))
    }
    func integers(_ count: UInt32) -> [UInt8] {
      withUnsafeBytes(of: count.littleEndian) { Array($0) } + [UInt8](repeating: 0, count: 8 * Int(count))
    }
    let key = String(repeating: "a", count: 64)
    #expect(refusal(Self.entry(0, [1], key: key)) == nil)
    #expect(refusal(Self.entry(3, text(1 << 20))) == nil)
    #expect(refusal(Self.entry(3, text(1 << 20 + 1)))?.contains("1048577 bytes, expected at most") == true)
    #expect(refusal(Self.entry(4, integers(65_536))) == nil)
    #expect(refusal(Self.entry(4, integers(65_537)))?.contains("65537 integers, expected at most") == true)
    var most: [UInt8] = [0, 16, 0, 0]
    for number in 10_000..<14_096 { most += [5] + Array("\(number)".utf8) + [0, 1] }
    #expect(refusal(most) == nil)
  }

  @Test func everyTypeSurvives() throws {
    var metadata = sampleMetadata
    metadata["empty"] = .string("")
    metadata["none"] = .integers([])
    metadata["text"] = .string("Größe 🦉")
    metadata["least"] = .integer(.min)
    metadata["minus.zero"] = .number(-0.0)
    let section = try metadata.encoded()
    let decoded = try section.withUnsafeBytes { try Metadata(decoding: $0, origin: 64) }
    #expect(decoded == metadata)
    #expect(try decoded.encoded() == section)
    #expect(decoded.entries.map(\.key) == decoded.entries.map(\.key).sorted())
    #expect(decoded.string("text") == "Größe 🦉" && decoded.integer("text") == nil)
    #expect(decoded.bool("test.flag") == true && decoded.number("rwkv.group_norm_epsilon") == 64e-5)
    #expect(decoded.integers("test.list") == [1, -2, .max])
  }
}

@Suite("Hostile zstd frames")
struct HostileFrameTests {
  /// The last tensor: 4000 bytes, so that the frame can be of any length.
  static let samples = [smallSamples[0], Sample("tokenizer", .bytes, 4000, 1, by: 1)]
  static let raw = samples[1].raw

  private static func compress(_ bytes: [UInt8], _ set: (OpaquePointer) -> Void = { _ in }) -> [UInt8] {
    guard let context = ZSTD_createCCtx() else { return [] }
    defer { ZSTD_freeCCtx(context) }
    set(context)
    var frame = [UInt8](repeating: 0, count: ZSTD_compressBound(bytes.count))
    let size = ZSTD_compress2(context, &frame, frame.count, bytes, bytes.count)
    return Array(frame[..<size])
  }

  private func refusal(_ frame: [UInt8]) throws -> String? {
    var forgery = try Forgery(Self.samples)
    forgery.replaceLastChunk(with: frame)
    forgery.seal()
    return forgery.refusal()
  }

  @Test func anotherCompressorsFrameIsRead() throws {
    let frame = Self.compress(Self.raw) { ZSTD_CCtx_setParameter($0, ZSTD_c_compressionLevel, 19) }
    #expect(try refusal(frame) == nil)
  }

  static let attacks: [(String, [UInt8], String)] = {
    let frame = compress(raw)
    let skippable: [UInt8] = [0x50, 0x2A, 0x4D, 0x18, 4, 0, 0, 0, 1, 2, 3, 4]
    let half = Array(raw[..<2000])
    var patched: [(String, [UInt8], String)] = []
    for (name, bit) in [("dictionary", 0), ("reserved bit", 3), ("unused bit", 4)] {
      var changed = frame
      changed[4] |= 1 << UInt8(bit)
      patched.append((name, changed, "header of a zstd frame"))
    }
    // A frame of one raw block: 2^27 bytes of window, 2-byte content size 4000 − 256.
    let block: [UInt8] = [0x01 | UInt8((4000 << 3) & 0xFF), UInt8((4000 << 3) >> 8), 0]
    let window = [0x28, 0xB5, 0x2F, 0xFD, 0x40, 17 << 3, 0xA0, 0x0E] + block + raw
    return patched + [
      (
        "no content size", compress(raw) { ZSTD_CCtx_setParameter($0, ZSTD_c_contentSizeFlag, 0) },
        "header of"
      ),
      ("checksum", compress(raw) { ZSTD_CCtx_setParameter($0, ZSTD_c_checksumFlag, 1) }, "header of"),
      ("less content", compress(half), "header of a zstd frame"),
      ("more content", compress(raw + half), "header of a zstd frame"),
      ("a bomb", compress([UInt8](repeating: 0, count: 16 << 20)), "header of a zstd frame"),
      ("two frames", compress(half) + compress(half), "header of a zstd frame"),
      ("content and an empty frame", frame + compress([]), "length of a zstd frame"),
      ("skippable frame first", skippable + frame, "header of a zstd frame"),
      ("skippable frame last", frame + skippable, "length of a zstd frame"),
      ("trailing byte", frame + [0], "length of a zstd frame"),
      ("truncated", Array(frame.dropLast()), "length of a zstd frame"),
      ("only a header", Array(frame[..<7]), "length of a zstd frame"),
      ("only a magic", Array(frame[..<4]), "header of a zstd frame"),
      ("no frame", Array(raw[..<100]), "header of a zstd frame"),
      ("huge window", Array(window.prefix(3999)), "header of a zstd frame"),
      (
        "content size 2^64 − 1", [0x28, 0xB5, 0x2F, 0xFD, 0xE0] + [UInt8](repeating: 255, count: 8),
        "header of"
      ),
    ]
  }()

  @Test(arguments: attacks)
  func isRefused(name: String, frame: [UInt8], expected: String) throws {
    let message = try #require(try refusal(frame), "accepted")
    #expect(message.contains(expected), "\(message)")
    #expect(message.contains("tensor 'tokenizer' (byte "))
  }

  /// Checksums right, frame header right, blocks damaged: refused or other values, never a trap.
  @Test func damagedBlocksNeverTrap() throws {
    let frame = Self.compress(Self.raw)
    let layout = try #require(RecordLayout(format: .bytes, columns: 1, rowsPerRecord: 1))
    let reader = ChunkReader()
    var raw = [UInt8](repeating: 0, count: Self.raw.count)
    var refused = 0
    for offset in 7..<frame.count {
      for mask in [UInt8(1), 0x80, 0xFF] {
        var changed = frame
        changed[offset] ^= mask
        do {
          try changed.withUnsafeBytes { frame in
            try raw.withUnsafeMutableBytes { try reader.inflate(frame, layout, into: $0) }
          }
        } catch { refused += 1 }
      }
    }
    #expect(refused > 0)
  }

  @Test func frameHeadersAreUnderstood() throws {
    for size in [1, 255, 256, 65_791, 65_792, 1 << 20, 3 << 20] {
      let frame = Self.compress([UInt8](repeating: 7, count: size)) {
        ZSTD_CCtx_setParameter($0, ZSTD_c_compressionLevel, 1)
      }
      let header = try #require(frame.withUnsafeBytes { FrameHeader($0) })
      #expect(header.contentSize == size)
      #expect(header.windowSize <= max(size, 1 << 20) && header.windowSize > 0)
    }
  }
}
