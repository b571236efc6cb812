// SPDX-License-Identifier: MIT
import Glibc
import RWKVFormat
import Testing

@testable import RWKVCheckpoint

/// Damaged and hostile files give typed errors: no crash, no large allocation.
@Suite("Hostile checkpoints")
struct HostileTests {
  let folder = TemporaryFolder()

  private func refuse(header: String, data: Int = 0, _ word: String) {
    let bytes = safetensors(header: header, data: [UInt8](repeating: 0, count: data))
    expectFailure(folder.write("model", bytes), .malformed, word)
  }

  @Test func safetensorsHeadersOfImpossibleLengthAreRefused() {
    for length in [UInt64.max, 1 << 63, 100_000_001, 100_000_000, 17] {
      let bytes = littleEndian(length) + Array("{}              ".utf8)
      expectFailure(folder.write("model", bytes), .malformed, "header length")
    }
    expectFailure(folder.write("model", []), .unsupported, "no checkpoint")
    expectFailure(folder.write("model", [1, 0, 0, 0, 0, 0, 0, 0]), .unsupported, "no checkpoint")
  }

  /// All bytes of a kind's mark count, and each kind that is no checkpoint has its own advice.
  @Test func whatOnlyBeginsLikeAKindIsNotTakenForIt() {
    func refuse(_ start: [UInt8], _ advice: String) {
      expectFailure(folder.write("model", start + [UInt8](repeating: 0, count: 80)), .unsupported, advice)
    }
    let marks: [([UInt8], String)] = [
      ([0x89, 0x52, 0x57, 0x4B, 0x56], "a finished .rwkv file"), ([0x80, 0x02], "looks like a pickle"),
      (Array("{".utf8), "looks like JSON"), (Array("version https://".utf8), "a Git LFS pointer"),
      (Array("<".utf8), "a web page"),
    ]
    for (mark, advice) in marks {
      refuse(mark, advice)
      for index in mark.indices {
        var other = mark
        other[index] ^= 0x40
        refuse(other, "Give a .safetensors")
      }
    }
    expectFailure(folder.write("model", []), .unsupported, "It is empty")
    for mark in ["PK\u{3}\u{4}", "fmgg", "GGUF"] {
      for index in 0..<4 {
        var other = Array(mark.utf8)
        other[index] ^= 0x40
        refuse(other, "Give a .safetensors")
      }
    }
  }

  @Test func safetensorsOffsetsMustCoverTheDataExactly() {
    func entry(_ name: String, _ begin: String, _ end: String, shape: String = "[1]") -> String {
      "\"\(name)\":{\"dtype\":\"F32\",\"shape\":\(shape),\"data_offsets\":[\(begin),\(end)]}"
    }
    func header(_ entries: String...) -> String { "{" + entries.joined(separator: ",") + "}" }
    refuse(header: header(entry("a", "0", "4"), entry("b", "4", "8")), data: 12, "wrong length")
    refuse(header: header(entry("a", "0", "4"), entry("b", "0", "4")), data: 4, "overlaps")
    refuse(header: header(entry("a", "0", "4"), entry("b", "8", "12")), data: 12, "gap")
    refuse(header: header(entry("a", "4", "8")), data: 8, "gap")
    refuse(header: header(entry("a", "0", "8")), data: 8, "disagree")
    refuse(header: header(entry("a", "0", "4")), data: 3, "outside the file")
    refuse(header: header(entry("a", "4", "0")), data: 4, "data_offsets")
    refuse(header: header(entry("a", "-4", "0")), data: 4, "data_offsets")
    refuse(header: header(entry("a", "0", "4.0")), data: 4, "data_offsets")
    refuse(header: header(entry("a", "0", "4e0")), data: 4, "data_offsets")
    refuse(header: header(entry("a", "9007199254740993", "9007199254740997")), data: 4, "data_offsets")
    refuse(header: header(entry("a", "99999999999999999999", "4")), data: 4, "data_offsets")
    refuse(header: header(entry("a", "0", "4", shape: "[0]")), data: 4, "impossible shape")
    refuse(header: header(entry("a", "0", "8", shape: "[]")), data: 8, "disagree")
    refuse(header: header(entry("a", "0", "4", shape: "[-1]")), data: 4, "impossible shape")
    // 2³² · 2³² and 2⁶¹ · 4 · 2 wrap to 0.
    refuse(header: header(entry("a", "0", "0", shape: "[4294967296,4294967296]")), "impossible shape")
    refuse(header: header(entry("a", "0", "4", shape: "[2305843009213693952,2]")), data: 4, "shape")
    refuse(header: header(entry("a", "0", "4", shape: "[1,1,1,1,1,1,1,1,1]")), data: 4, "needs dtype")
    refuse(header: header(entry("a", "0", "4"), entry("a", "0", "4")), data: 4, "duplicate key 'a'")
    refuse(header: "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}", "duplicate key")
    refuse(header: "{\"a\":[]}", "needs dtype")
    refuse(
      header: "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", data: 4,
      "needs dtype")
    // Empty tensors are passed over.
    let empty = header(entry("a", "0", "0", shape: "[0]"), entry("b", "0", "4"))
    expectFailure(
      folder.write("model", safetensors(header: empty, data: [0, 0, 0, 0])), .unsupported, "'b'")
    for type in ["F4", "C64", "F8_E8M0"] {
      let text = "{\"a\":{\"dtype\":\"\(type)\",\"shape\":[1],\"data_offsets\":[0,4]}}"
      expectFailure(folder.write("model", safetensors(header: text, data: [0, 0, 0, 0])), .unsupported, type)
    }
  }

  @Test(arguments: [
    "{", "{\"a\"", "{\"a\":", "{\"a\":1,}", "{\"a\":1}}", "{\"a\":01}", "{\"a\":+1}", "{\"a\":.5}",
    "{\"a\":1.}",
    "{\"a\":1e}", "{\"a\":tru}", "{\"a\":nul", "{\"a\":\"\u{1}\"}", "{\"a\":\"\\x\"}", "{\"a\":\"\\u12\"}",
    "{\"a\":\"\\ud800\"}", "{\"a\":\"\\ud800\\u0041\"}", "{\"a\":\"\\udc00\"}", "{\"a\":'1'}", "{a:1}",
    "{\"a\" 1}",
    "{\"a\":[1 2]}", "{\"a\":[1,]}", "{\"a\":NaN}", "{\"a\":-}", "{} {}", "{\"a\":\"\\", "{\"a\":\"",
    "{/**/}",
  ])
  func badJSONIsRefused(text: String) {
    #expect(throws: JSON.SyntaxError.self) { try JSON(parsing: Array(text.utf8), depth: 4) }
    refuse(header: text, "JSON")
  }

  @Test func deepOrEndlessJSONIsRefused() {
    refuse(header: "{\"a\":" + String(repeating: "[", count: 1_000_000), "nested too deeply")
    refuse(header: "{\"a\":{\"b\":{\"c\":{\"d\":{}}}}}", "nested too deeply")
    refuse(header: "{\"a\":[" + String(repeating: "1,", count: 1 << 20) + "1]}", "more than a million values")
    #expect(throws: JSON.SyntaxError.self) { try JSON(parsing: [0x22, 0xFF, 0x22], depth: 1) }
    #expect(throws: JSON.SyntaxError.self) { try JSON(parsing: [0x22, 0xC0, 0x80, 0x22], depth: 1) }
  }

  @Test func goodJSONIsRead() throws {
    let text = " { \"a\\u00e9\\ud83d\\ude00\\n\" : [ 1 , -2.5e3 , true , null , { } , [ ] , \"\" ] } "
    let json = try JSON(parsing: Array(text.utf8), depth: 4)
    let values = try #require(json["aé😀\n"]?.array)
    #expect(values[0].unsigned == 1 && values[1].double == -2500 && values[1].unsigned == nil)
    #expect(values[2] == .bool(true) && values[3] == .null && values[6].string == "")
    #expect(try JSON(parsing: Array("9007199254740992".utf8), depth: 0).unsigned == 1 << 53)
    #expect(try JSON(parsing: Array("9007199254740993".utf8), depth: 0).unsigned == nil)
  }

  @Test func pathsThatAreNoCheckpointsAreRefused() {
    expectFailure(folder.path + "/none", .unreadable, "cannot be opened")
    #expect { try InputFile(path: folder.path + "/none") } throws: {
      "\($0)".contains("cannot be opened: No such file")
    }
    expectFailure(folder.path, .unreadable, "holds no checkpoints")
    expectFailure("/dev/zero", .unreadable, "regular file")
    mkfifo(folder.path + "/pipe", 0o600)
    expectFailure(folder.path + "/pipe", .unreadable, "regular file")
    folder.write("a.pth", [1])
    folder.write("b.safetensors", [1])
    expectFailure(folder.path, .unreadable, "several", "'a.pth', 'b.safetensors'")
    let lfs = "version https://git-lfs.github.com/spec/v1\n"
    expectFailure(folder.write("model", lfs.utf8), .unsupported, "LFS")
    expectFailure(folder.write("model", [0x89] + "RWKV\r\n".utf8 + [0x1A, 1, 0]), .unsupported, ".rwkv")
    expectFailure(folder.write("model", "{\"weight_map\":{}}".utf8), .unsupported, "directory")
  }

  @Test func aFileThatShrinksGivesAnError() throws {
    let path = folder.write("model", try contents(goldens + "/v7-f32-small/model.safetensors"))
    let checkpoint = try Checkpoint(path: path)
    let head = try #require(checkpoint.tensors.last)
    truncate(path, 20_000)
    #expect(throws: CheckpointError.self) { try values(checkpoint, head) }
  }

  /// Every header byte matters or is harmless: seeded damage never crashes, and what still opens can be read.
  @Test(arguments: ["v7-f32-small/model.safetensors", "v7-pth/model.pth", "v4-hf/model.safetensors"])
  func damagedBytesNeverCrash(name: String) throws {
    try fuzz(contents(goldens + "/" + name), in: folder, rounds: 1500)
  }
}

/// Changes one to four bytes (or cuts the file) where structure is: the first and last 12 KiB.
func fuzz(_ sound: [UInt8], in folder: TemporaryFolder, rounds: Int) throws {
  var random = SplitMix(state: 0x5EED + UInt64(sound.count))
  let path = folder.write("model", sound)
  let descriptor = open(path, O_RDWR)
  defer { close(descriptor) }
  for round in 0..<rounds {
    var places: [Int] = []
    for _ in 0...Int(random.next() % 4) {
      let distance = Int(random.next() % UInt64(min(12_288, sound.count)))
      let place = random.next() % 3 == 0 ? sound.count - 1 - distance : distance
      var byte =
        random.next() % 2 == 0
        ? UInt8(truncatingIfNeeded: random.next()) : [0, 1, 0x7F, 0x80, 0xFF][round % 5]
      pwrite(descriptor, &byte, 1, off_t(place))
      places.append(place)
    }
    if round % 50 == 49 { ftruncate(descriptor, off_t(random.next() % UInt64(sound.count))) }
    do throws(CheckpointError) {
      let checkpoint = try Checkpoint(path: path, allowQuantized: true)
      for tensor in checkpoint.tensors where round % 8 == 0 && tensor.rows * tensor.columns < 1 << 20 {
        var values = [Float](repeating: 0, count: tensor.columns)
        var failure: CheckpointError?
        values.withUnsafeMutableBufferPointer { buffer in
          do throws(CheckpointError) {
            try checkpoint.readRows(tensor, rows: tensor.rows - 1..<tensor.rows, into: buffer)
          } catch { failure = error }
        }
        if let failure { throw failure }
      }
    } catch {
      #expect(!error.description.isEmpty)
    }
    for place in places {
      var byte = sound[place]
      pwrite(descriptor, &byte, 1, off_t(place))
    }
    if round % 50 == 49 { _ = sound.withUnsafeBytes { pwrite(descriptor, $0.baseAddress, $0.count, 0) } }
  }
}

/// A small generator with a fixed sequence.
struct SplitMix: RandomNumberGenerator {
  var state: UInt64

  mutating func next() -> UInt64 {
    state &+= 0x9E37_79B9_7F4A_7C15
    var z = state
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    return z ^ z >> 31
  }
}
