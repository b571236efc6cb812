// SPDX-License-Identifier: MIT
import RWKVFormat
import Testing

@testable import RWKVCheckpoint

/// The bounds of SECURITY.md for other people's files: what is as large as it may be is read, one more is refused.
@Suite("Bounds of checkpoints")
struct BoundTests {
  let folder = TemporaryFolder()

  /// A sound file whose tensors no model has, and what is said about it.
  private func refusal(_ bytes: [UInt8]) throws -> String {
    do {
      _ = try Checkpoint(path: folder.write("model", bytes))
      return ""
    } catch { return "\(error)" }
  }

  private func safetensorsFile(_ names: [String]) -> [UInt8] {
    var header = "{"
    for (index, name) in names.enumerated() {
      header += "\(index == 0 ? "" : ",")\"\(name)\":{\"dtype\":\"F16\",\"shape\":[1],"
      header += "\"data_offsets\":[\(2 * index),\(2 * index + 2)]}"
    }
    return safetensors(header: header + "}", data: [UInt8](repeating: 0, count: 2 * names.count))
  }

  private func text(_ count: Int) -> String { String(repeating: "x", count: count) }

  @Test func namesOfEveryContainer() throws {
    #expect(try refusal(safetensorsFile([text(255)])).contains("no RWKV model"))
    #expect(
      try refusal(safetensorsFile([text(256)])).contains("name of an impossible length, found 256 bytes"))
    #expect(try refusal(safetensorsFile([""])).contains("name of an impossible length"))
    #expect(try refusal(torchFile([Draft(text(255), [1], [0])]).bytes).contains("no RWKV model"))
    #expect(try refusal(torchFile([Draft(text(256), [1], [0])]).bytes).contains("impossible length"))
  }

  @Test func tensorsOfSafetensors() throws {
    let names = (0...StoredTensor.maximumTensors).map { "\($0)" }
    #expect(try refusal(safetensorsFile(names.dropLast())).contains("no RWKV model"))
    #expect(try refusal(safetensorsFile(names)).contains("too many tensors"))
  }

  @Test func textsAndNumbersOfJSON() throws {
    func parse(_ text: String) throws { _ = try JSON(parsing: Array(text.utf8), depth: 1) }
    let most = JSON.maximumText
    try parse("\"\(text(most))\"")
    try parse("{\"\(text(most))\":1}")
    try parse(String(repeating: "1", count: 1024))
    for long in [
      "\"\(text(most + 1))\"", "{\"\(text(most + 1))\":1}", "\"\(text(most))\\n\"",
      "\"\(text(most - 1))\\nx\"",
      String(repeating: "1", count: 1025),
    ] {
      #expect(throws: JSON.SyntaxError.self) { try parse(long) }
    }
    let list = String(repeating: "0,", count: (1 << 20) - 2)
    try parse("[\(list)0]")
    #expect(throws: JSON.SyntaxError.self) { try parse("[\(list)0,0]") }
  }

  /// A torch file with this pickle.
  private func torch(_ pickle: [UInt8], crc: UInt32? = nil) throws -> String {
    var zip = ZipDraft()
    zip.entries = [.init(name: "m/data.pkl", data: pickle, crc: crc)]
    return try refusal(zip.bytes)
  }

  @Test func picklesAreNoLongerThanTheirBound() throws {
    var pickle = [UInt8](repeating: UInt8(ascii: "N"), count: TorchCheckpoint.maximumPickle)
    // Long enough for its checksum to be compared.
    #expect(try torch(pickle, crc: 0).contains("wrong checksum"))
    pickle.append(UInt8(ascii: "."))
    #expect(try torch(pickle, crc: 0).contains("is too long, found 16777217, expected 16777216"))
  }

  @Test func objectsMembersAndStackOfPickles() throws {
    func pickle(_ body: [UInt8]) -> [UInt8] { [0x80, 2] + body + [UInt8(ascii: ".")] }
    func bytes(_ text: String, _ count: Int = 1) -> [UInt8] {
      Array(repeatElement(Array(text.utf8), count: count).joined())
    }
    let (sound, large) = ("no dictionary", "too large")
    #expect(try torch(pickle(bytes("N", 100_000))).contains(sound))
    #expect(try torch(pickle(bytes("N", 100_001))).contains(large))
    // 2^20 objects: 16 tuples and what is in them.
    let tuple = bytes("(") + bytes("N", 65_535) + bytes("t")
    let objects = Array(repeatElement(tuple, count: 16).joined())
    #expect(try torch(pickle(objects)).contains(sound))
    #expect(try torch(pickle(objects + bytes("N"))).contains(large))
    // 2^20 members: 16 tuples of one object.
    let recall =
      bytes("(") + Array(repeatElement([UInt8(ascii: "h"), 0], count: 65_536).joined()) + bytes("t")
    let members = bytes("N") + [UInt8(ascii: "q"), 0] + Array(repeatElement(recall, count: 16).joined())
    #expect(try torch(pickle(members)).contains(sound))
    #expect(try torch(pickle(members + [UInt8(ascii: "h"), 0, 0x85])).contains(large))
  }

  @Test func keysEntriesAndElementsOfGGUF() throws {
    var sound = ForeignFileTests.GGUFDraft()
    sound.add("general.architecture", "rwkv7")
    sound.tensors = [Draft("x", [1], [0])]
    func refusal(_ change: (inout ForeignFileTests.GGUFDraft) -> Void) throws -> String {
      var file = sound
      change(&file)
      return try self.refusal(file.bytes)
    }
    let known = "no RWKV model"
    #expect(try refusal { $0.add(text(GGUF.maximumKey), 1) }.contains(known))
    #expect(try refusal { $0.add(text(GGUF.maximumKey + 1), 1) }.contains("length of a key"))
    let keys = (1...GGUF.maximumEntries).map { "k\($0)" }
    #expect(try refusal { file in keys.dropLast().forEach { file.add($0, 1) } }.contains(known))
    #expect(try refusal { file in keys.forEach { file.add($0, 1) } }.contains("number of metadata entries"))
    func array(_ count: Int) -> (UInt32, [UInt8]) {
      (9, littleEndian(UInt32(0)) + littleEndian(UInt64(count)) + [UInt8](repeating: 0, count: count))
    }
    let (half, more) = (array(GGUF.maximumElements / 2), array(GGUF.maximumElements / 2 + 1))
    #expect(try refusal { $0.metadata += [("a", half.0, half.1), ("b", half.0, half.1)] }.contains(known))
    #expect(
      try refusal { $0.metadata += [("a", half.0, half.1), ("b", more.0, more.1)] }.contains("array length"))
  }
}
