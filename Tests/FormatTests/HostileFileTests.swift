// SPDX-License-Identifier: MIT
import Glibc
import Testing

@testable import RWKVFormat

@Suite("Hostile model files")
struct HostileFileTests {
  private func expectRefusal(_ attack: Attack, seal: Bool) throws {
    var forgery = try Forgery()
    attack.change(&forgery)
    if seal { forgery.seal() }
    let refusal = try #require(forgery.refusal(), "accepted")
    #expect(refusal.contains(attack.message), "\(refusal)")
  }

  // ---- before the checksums ------------------------------------------------------------------------------------

  @Test(arguments: [
    Attack("empty", "not a .rwkv") { $0.bytes = [] },
    Attack("shorter than the magic", "not a .rwkv") { $0.bytes.removeSubrange(7...) },
    Attack("shorter than the header", "63 bytes, expected 64") { $0.bytes.removeSubrange(63...) },
    Attack("other magic", "not a .rwkv") { $0.bytes[0] = 0x88 },
    Attack("text-mode copy", "not a .rwkv") { $0.bytes.remove(at: 5) },
    Attack("version 2", "version 2") { $0.bytes[8] = 2 },
    Attack("header damaged", "header is damaged") { $0.bytes[24] ^= 1 },
    Attack("index damaged", "index is damaged") { $0.bytes[$0.tensor(1) + 8] ^= 1 },
    Attack("chunk damaged", "chunk 0 is damaged") { $0.bytes[$0.bytes.count - 1] ^= 1 },
    Attack("truncated", "incomplete copy") { $0.bytes.removeLast() },
    Attack("appended", "incomplete copy") { $0.bytes.append(0) },
  ])
  func unsealed(attack: Attack) throws { try expectRefusal(attack, seal: false) }

  // ---- header --------------------------------------------------------------------------------------------------

  @Test(arguments: [
    Attack("required feature", "features 0x4") { $0.bytes[12] = 4 },
    Attack("feature that the metadata does not have", "required features is 1") { $0.bytes[12] = 1 },
    Attack("reserved u16", "reserved byte of the header") { $0.bytes[10] = 1 },
    Attack("reserved u32", "reserved byte of the header") { $0.bytes[39] = 1 },
    Attack("no tensors", "number of tensors is 0") { $0.put(UInt32(0), at: 20) },
    Attack("too many tensors", "number of tensors is 65537") { $0.put(UInt32(65_537), at: 20) },
    Attack("more tensors than chunks", "number of chunks is 7") { $0.put(UInt32(65_536), at: 20) },
    Attack("no chunks", "number of chunks is 0") { $0.put(UInt32(0), at: 24) },
    Attack("too many chunks", "number of chunks is 4294967295") { $0.put(UInt32.max, at: 24) },
    Attack("more chunks than the file holds", "size of the file") { $0.put(UInt32(4_194_304), at: 24) },
    Attack("no metadata", "length of the metadata is 0") { $0.put(UInt32(0), at: 28) },
    Attack("too much metadata", "length of the metadata is 16777217") { $0.put(UInt32(16_777_217), at: 28) },
    Attack("metadata past the end", "size of the file") { $0.put(UInt32(16_777_216), at: 28) },
    Attack("too long names", "length of the names is 16777217") { $0.put(UInt32(16_777_217), at: 32) },
    Attack("one name byte more", "length of the names") { $0.put($0.number(32, UInt32.self) + 1, at: 32) },
    Attack("one name byte less", "padding after the index") {
      $0.put($0.number(32, UInt32.self) - 1, at: 32)
    },
    Attack("one metadata byte more", "the metadata") { $0.put($0.number(28, UInt32.self) + 1, at: 28) },
    Attack("other file size", "incomplete copy") { $0.put(UInt64.max, at: 40) },
    Attack("padding of the index", "padding after the index") { $0.bytes[$0.indexEnd] = 1 },
  ])
  func header(attack: Attack) throws { try expectRefusal(attack, seal: true) }

  @Test func asManyTensorsAsTheBoundAllowsAreRead() throws {
    let folder = TemporaryFolder()
    func write(_ count: Int) throws -> ModelFile {
      try writeModel((0..<count).map { Sample("\($0)", .bytes, 1, 1, by: 1) }, to: folder.file("m\(count)"))
    }
    #expect(try write(65_536).tensors.count == 65_536)
    #expect(throws: ModelFileError.self) { try write(65_537) }
  }

  @Test func unknownOptionalFeaturesAreAccepted() throws {
    var forgery = try Forgery()
    forgery.bytes[16] = 0xFF
    forgery.seal()
    #expect(forgery.refusal() == nil)
  }

  // ---- tensors: number 2 is INT4, 17 × 64, 2 panels -----------------------------------------------------------------

  @Test(arguments: [
    Attack("no rows", "number of rows is 0") { $0.put(UInt32(0), at: $0.tensor(2) + 8) },
    Attack("2^31 rows", "number of rows") { $0.put(UInt32(1) << 31, at: $0.tensor(2) + 8) },
    Attack("2^31 − 1 rows", "number of chunks of a tensor") {
      $0.put(UInt32(Int32.max), at: $0.tensor(2) + 8)
    },
    Attack("no columns", "a record is") { $0.put(UInt32(0), at: $0.tensor(2) + 12) },
    Attack("2^32 − 1 columns", "a record is") { $0.put(UInt32.max, at: $0.tensor(2) + 12) },
    Attack("2^31 − 1 columns", "records per chunk") { $0.put(UInt32(Int32.max), at: $0.tensor(2) + 12) },
    Attack("one group of columns more", "raw length") { $0.put(UInt32(65), at: $0.tensor(2) + 12) },
    Attack("format 6", "format 6") { $0.bytes[$0.tensor(2) + 6] = 6 },
    Attack("format 255", "format 255") { $0.bytes[$0.tensor(2) + 6] = 255 },
    Attack("another format", "raw length") { $0.bytes[$0.tensor(2) + 6] = 5 },
    Attack("panels of bytes", "a record is") { $0.bytes[$0.tensor(6) + 7] = 16 },
    Attack("bytes in columns", "a record is") { $0.bytes[$0.tensor(6) + 12] = 2 },
    Attack("no rows in a record", "a record is") { $0.bytes[$0.tensor(2) + 7] = 0 },
    Attack("15 rows in a record", "a record is") { $0.bytes[$0.tensor(2) + 7] = 15 },
    Attack("no records in a chunk", "records per chunk is 0") { $0.put(UInt32(0), at: $0.tensor(2) + 16) },
    Attack("too many records in a chunk", "records per chunk is 3") {
      $0.put(UInt32(3), at: $0.tensor(2) + 16)
    },
    Attack("incomplete groups", "records per chunk is 3") { $0.put(UInt32(3), at: $0.tensor(4) + 16) },
    Attack("half the records in a chunk", "number of chunks") { $0.put(UInt32(1), at: $0.tensor(2) + 16) },
    Attack("shared chunk", "first chunk of a tensor is 1") { $0.put(UInt32(1), at: $0.tensor(2) + 20) },
    Attack("no chunk", "number of chunks of a tensor is 0") { $0.put(UInt32(0), at: $0.tensor(2) + 24) },
    Attack("two chunks", "number of chunks of a tensor is 2") { $0.put(UInt32(2), at: $0.tensor(2) + 24) },
    Attack("unknown flag", "flags of a tensor is 2") { $0.bytes[$0.tensor(2) + 28] = 2 },
    Attack("reserved byte", "reserved byte of a tensor") { $0.bytes[$0.tensor(2) + 31] = 1 },
    Attack("raw length", "raw length") { $0.put(UInt64.max, at: $0.tensor(2) + 40) },
    Attack("wrong tensor checksum", "the tensor is damaged") { $0.bytes[$0.tensor(2) + 32] ^= 1 },
    Attack("name elsewhere", "start of a tensor's name") { $0.put(UInt32.max, at: $0.tensor(2)) },
    Attack("empty name", "a tensor's name is []") { $0.put(UInt16(0), at: $0.tensor(2) + 4) },
    Attack("long name", "length of a tensor's name") { $0.put(UInt16.max, at: $0.tensor(2) + 4) },
    Attack("name with NUL", "a tensor's name") { $0.bytes[$0.names] = 0 },
    Attack("name with /", "a tensor's name") { $0.bytes[$0.names] = 0x2F },
    Attack("name beyond ASCII", "a tensor's name") { $0.bytes[$0.names] = 0xFF },
    Attack("name twice", "twice") {
      // "blocks.0.att.key.weight" and "blocks.0.att.value.weight": one name of 23 and 2 bytes more for the first.
      let (first, second) = ($0.tensor(2), $0.tensor(3))
      let start = Int($0.number(first, UInt32.self))
      let name = Array("blocks.0.att.abc.weight".utf8)
      $0.bytes.replaceSubrange($0.names + start..<$0.names + start + 48, with: name + name + [0x61, 0x61])
      $0.put(UInt32(start + 23), at: second)
      $0.put(UInt16(23), at: second + 4)
      $0.put(UInt32(start + 46), at: $0.tensor(4))
    },
  ])
  func tensorRecord(attack: Attack) throws { try expectRefusal(attack, seal: true) }

  // ---- chunks: number 2 is compressed, number 1 stored --------------------------------------------------------------

  @Test(arguments: [
    Attack("in the index", "offset of a chunk is 64") { $0.put(UInt64(64), at: $0.chunk(0)) },
    Attack("unaligned", "offset of a chunk") {
      $0.put($0.number($0.chunk(2), UInt64.self) + 1, at: $0.chunk(2))
    },
    Attack("a gap", "offset of a chunk") {
      $0.put($0.number($0.chunk(2), UInt64.self) + 64, at: $0.chunk(2))
    },
    Attack("descending", "offset of a chunk") { $0.put(UInt64(4096), at: $0.chunk(2)) },
    Attack("past the end", "offset of a chunk") {
      $0.put(UInt64($0.bytes.count + 63) / 64 * 64, at: $0.chunk(2))
    },
    Attack("near 2^64", "offset of a chunk") { $0.put(UInt64.max - 63, at: $0.chunk(2)) },
    Attack("empty", "length of a chunk is 0") { $0.put(UInt32(0), at: $0.chunk(2) + 16) },
    Attack("compressed to more", "length of a chunk") { $0.put(UInt32.max, at: $0.chunk(2) + 16) },
    Attack("stored with another length", "length of a chunk") { $0.put(UInt32(255), at: $0.chunk(1) + 16) },
    Attack("unknown codec", "codec of a chunk is 2") { $0.bytes[$0.chunk(2) + 20] = 2 },
    Attack("compressed called stored", "length of a chunk") { $0.bytes[$0.chunk(2) + 20] = 0 },
    Attack("reserved byte", "reserved byte of a chunk") { $0.bytes[$0.chunk(2) + 23] = 1 },
    Attack("wrong checksum", "chunk 0 is damaged") { $0.bytes[$0.chunk(2) + 8] ^= 1 },
    Attack("end before the file's", "end of the last chunk") {
      $0.put($0.number($0.chunk(6) + 16, UInt32.self) - 1, at: $0.chunk(6) + 16)
    },
    Attack("end after the file's", "end of a chunk") {
      $0.put($0.number($0.chunk(6) + 16, UInt32.self) + 1, at: $0.chunk(6) + 16)
    },
  ])
  func chunkRecord(attack: Attack) throws { try expectRefusal(attack, seal: true) }

  // ---- every byte --------------------------------------------------------------------------------------------------

  static let tiny = [
    Sample("a", .int4, 1, 96, by: 1), Sample("b", .f16, 2, 32, by: 1, noise: true),
    Sample("c", .bytes, 9, 1, by: 1),
  ]

  @Test func everyChangedByteIsRefusedOrHarmless() throws {
    let folder = TemporaryFolder()
    let path = folder.file("m")
    let values = Self.tiny.map(\.raw)
    let file = try writeModel(Self.tiny, to: path)
    let descriptor = open(path, O_RDWR)
    defer { close(descriptor) }
    var harmless: [Int] = []
    for (offset, byte) in readBytes(path).enumerated() {
      for flipped in [byte ^ 0xFF, byte ^ (1 << UInt8(offset % 8))] {
        withUnsafeBytes(of: flipped) { _ = pwrite(descriptor, $0.baseAddress, 1, off_t(offset)) }
        guard let changed = try? ModelFile(path: path) else { continue }
        let read = try? changed.tensors.map { try contents(of: $0, in: changed) }
        #expect(read == nil || read == values, "byte \(offset)")
        if read != nil { harmless.append(offset) }
      }
      withUnsafeBytes(of: byte) { _ = pwrite(descriptor, $0.baseAddress, 1, off_t(offset)) }
    }
    // Only the zeros between chunks do not matter, and they are found by a full verification.
    let gaps = zip(file.chunks, file.chunks.dropFirst()).flatMap {
      Int($0.offset) + $0.length..<Int($1.offset)
    }
    #expect(harmless == gaps.flatMap { [$0, $0] })
    let gap = try #require(gaps.first)
    withUnsafeBytes(of: UInt8(1)) { _ = pwrite(descriptor, $0.baseAddress, 1, off_t(gap)) }
    let changed = try ModelFile(path: path)
    #expect(throws: ModelFileError.self) { try changed.checkPadding() }
  }

  @Test func everyTruncationIsRefused() throws {
    let folder = TemporaryFolder()
    let path = folder.file("m")
    let size = try writeModel(Self.tiny, to: path).size
    for length in stride(from: Int(size) - 1, through: 0, by: -1) {
      truncate(path, off_t(length))
      #expect(throws: ModelFileError.self) { try ModelFile(path: path) }
    }
  }

  @Test func everyAppendedLengthIsRefused() throws {
    let folder = TemporaryFolder()
    let path = folder.file("m")
    let size = Int(try writeModel(Self.tiny, to: path).size)
    // As holes, and with the bytes of another model behind it.
    for length in 1...4200 {
      truncate(path, off_t(size + length))
      #expect(throws: ModelFileError.self) { try ModelFile(path: path) }
    }
    truncate(path, off_t(size))
    let model = readBytes(path)
    writeBytes(model + model, path)
    #expect(throws: ModelFileError.self) { try ModelFile(path: path) }
    writeBytes(model, path)
    #expect(throws: Never.self) { try ModelFile(path: path) }
  }

  @Test func aFileThatShrinksWhileItIsReadIsAnError() throws {
    let folder = TemporaryFolder()
    let file = try writeModel(smallSamples, to: folder.file("m"))
    truncate(file.path, 4096)
    #expect(throws: ModelFileError.self) { try contents(of: file.tensors[0], in: file) }
  }

  /// 4000 sealed files with one to four changed bytes or words: any answer, but no trap and no huge allocation.
  @Test func sealedNoiseNeverTraps() throws {
    let original = try Forgery(Self.tiny)
    let interesting: [UInt32] = [0, 1, 2, 16, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x0001_0000]
    var random = Generator(state: 42)
    var accepted = 0
    for _ in 0..<4000 {
      var forgery = original
      for _ in 0..<Int.random(in: 1...4, using: &random) {
        let offset = Int.random(in: 8..<forgery.indexEnd - 4, using: &random)
        if (48..<64).contains(offset) { continue }
        if Bool.random(using: &random) {
          forgery.bytes[offset] = UInt8.random(in: 0...255, using: &random)
        } else {
          forgery.put(
            interesting.randomElement(using: &random) ?? 0, at: min(offset, forgery.bytes.count - 4))
        }
        if forgery.indexEnd > 4096 { break }
      }
      forgery.seal()
      if forgery.refusal() == nil { accepted += 1 }
    }
    #expect(accepted > 0 && accepted < 2000)
  }

  // ---- what is not a file ------------------------------------------------------------------------------------------

  @Test func onlyRegularFilesAreOpened() throws {
    let folder = TemporaryFolder()
    #expect(throws: ModelFileError(.notRegularFile, path: folder.path)) { try ModelFile(path: folder.path) }
    #expect(throws: ModelFileError(.notRegularFile, path: "/dev/zero")) { try ModelFile(path: "/dev/zero") }
    mkfifo(folder.file("pipe"), 0o600)
    #expect(throws: ModelFileError(.notRegularFile, path: folder.file("pipe"))) {
      try ModelFile(path: folder.file("pipe"))
    }
    let missing = ModelFileError(.system(call: "open", errno: ENOENT), path: folder.file("missing"))
    #expect(throws: missing) { try ModelFile(path: folder.file("missing")) }
    #expect("\(missing)" == folder.file("missing") + ": open: No such file or directory")
  }
}
