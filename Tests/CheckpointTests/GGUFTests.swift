// SPDX-License-Identifier: MIT
import Glibc
import Testing

@testable import RWKVCheckpoint

/// What llama.cpp's files have beside the tensors.
@Suite("GGUF: vocabulary, split files")
struct GGUFTests {
  private let folder = TemporaryFolder()

  /// Appends the vocabulary as llama.cpp's converter writes it: texts escaped as in Python's bytes, and a type for
  /// each.
  private func add(
    _ tokens: [(text: String, type: Int)], model: String = "rwkv", to file: inout ForeignFileTests.GGUFDraft
  ) {
    file.metadata.removeAll { $0.0 == "tokenizer.ggml.tokens" }
    file.add("tokenizer.ggml.model", model)
    let count = littleEndian(UInt64(tokens.count))
    file.metadata.append(
      (
        "tokenizer.ggml.tokens", 9,
        [8, 0, 0, 0] + count + tokens.flatMap { ForeignFileTests.GGUFDraft.text($0.text) }
      ))
    file.metadata.append(
      (
        "tokenizer.ggml.token_type", 9,
        [5, 0, 0, 0] + count + tokens.flatMap { littleEndian(UInt32($0.type)) }
      ))
  }

  @Test func theVocabularyIsRead() throws {
    var file = ForeignFileTests.gguf(try ForeignFileTests.Model("v7-f32-small"))
    add(
      [
        ("<s>", 3), ("\\x00", 1), ("\\xe4\\xbd", 1), ("\\t\\n\\r\\\\\\'\"", 1), ("<|tool|>", 4),
        ("[PAD5]", 5), ("12", 1),
      ], to: &file)
    let read = try #require(Checkpoint(path: folder.write("m.gguf", file.bytes)).tokenizer)
    #expect(read.rule == .longestMatch)
    #expect(
      read.tokens == [
        [], [0], [0xE4, 0xBD], Array("\t\n\r\\'\"".utf8), Array("<|tool|>".utf8), [], Array("12".utf8),
      ])
    #expect(read.added.map(\.id) == [4])
  }

  @Test func otherKindsAreLeftToFilesBeside() throws {
    var file = ForeignFileTests.gguf(try ForeignFileTests.Model("v7-f32-small"))
    add([("a", 1)], model: "gpt2", to: &file)
    #expect(try Checkpoint(path: folder.write("m.gguf", file.bytes)).tokenizer == nil)
  }

  @Test(arguments: ["\\x4", "\\x", "\\xzz"]) func damagedTokensAreRefused(text: String) throws {
    var file = ForeignFileTests.gguf(try ForeignFileTests.Model("v7-f32-small"))
    add([("<s>", 3), (text, 1)], to: &file)
    expectFailure(folder.write("m.gguf", file.bytes), .malformed, "token")
  }

  /// As llama.cpp splits a model: only the first part describes it.
  static func split(
    _ whole: ForeignFileTests.GGUFDraft, into count: Int, firstIsEmpty: Bool = false
  ) -> [ForeignFileTests.GGUFDraft] {
    let (skipped, share) = (firstIsEmpty ? 1 : 0, whole.tensors.count / (count - (firstIsEmpty ? 1 : 0)) + 1)
    return (0..<count).map { number in
      var part = whole
      if number > 0 { part.metadata = [] }
      part.metadata += [
        ("split.no", 2, littleEndian(UInt16(number))), ("split.count", 2, littleEndian(UInt16(count))),
        ("split.tensors.count", 5, littleEndian(Int32(whole.tensors.count))),
      ]
      part.tensors =
        number < skipped ? [] : Array(whole.tensors.dropFirst((number - skipped) * share).prefix(share))
      return part
    }
  }

  @Test(arguments: ["v6-hf", "v7-f32-small"], [false, true])
  func splitFilesReadAsTheWhole(name: String, firstIsEmpty: Bool) throws {
    let model = try ForeignFileTests.Model(name)
    let whole = ForeignFileTests.gguf(model)
    for (index, part) in Self.split(whole, into: 3, firstIsEmpty: firstIsEmpty).enumerated() {
      folder.write("m-0000\(index + 1)-of-00003.gguf", part.bytes)
    }
    for path in ["", "/m-00001-of-00003.gguf", "/m-00003-of-00003.gguf"] {
      let checkpoint = try Checkpoint(path: folder.path + path)
      #expect(checkpoint.source == "GGUF, llama.cpp names, F32")
      try expectSame(checkpoint, Checkpoint(path: model.path))
    }
  }

  @Test func incompleteSplitsNameWhatIsMissing() throws {
    let parts = Self.split(ForeignFileTests.gguf(try ForeignFileTests.Model("v7-f32-small")), into: 4)
    let second = folder.write("m-00002-of-00004.gguf", parts[1].bytes)
    folder.write("m-00004-of-00004.gguf", parts[3].bytes)
    for path in [second, folder.path] {
      expectFailure(path, .unreadable, "'m-00001-of-00004.gguf', 'm-00003-of-00004.gguf'", "2 are missing")
    }
    // A part under another name, and parts in another order.
    expectFailure(
      folder.write("renamed.gguf", parts[1].bytes), .unreadable, "part 2 of a model in 4", "-00001-of-00004")
    folder.write("m-00001-of-00004.gguf", parts[2].bytes)
    folder.write("m-00003-of-00004.gguf", parts[0].bytes)
    expectFailure(second, .malformed, "another part")
    // A part of another model.
    var other = parts[0]
    other.tensors.removeLast()
    folder.write("m-00001-of-00004.gguf", other.bytes)
    folder.write("m-00003-of-00004.gguf", parts[2].bytes)
    expectFailure(second, .malformed, "another number of tensors")
  }

  @Test(.enabled(if: exists(shared + "/field-cases"))) func aPublishedOne() throws {
    let read = try #require(Checkpoint(path: shared + "/field-cases/M05-own-tokenizer.gguf").tokenizer)
    #expect(read.tokens.count == 300 && read.tokens[0].isEmpty)
    #expect(read.tokens[1...256].elementsEqual((0...255).map { [UInt8($0)] }))
    #expect(read.tokens[257] == [0x10, 0x30])
  }
}
