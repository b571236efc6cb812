// SPDX-License-Identifier: MIT
import Glibc
import Testing

@testable import RWKVCheckpoint

/// What llama.cpp's files have beside the tensors.
@Suite("GGUF: vocabulary")
struct GGUFTests {
  private let folder = TemporaryFolder()

  /// Appends the vocabulary as llama.cpp's converter writes it: texts escaped as in Python's bytes, and a type for each.
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

  @Test(.enabled(if: exists(shared + "/field-cases"))) func aPublishedOne() throws {
    let read = try #require(Checkpoint(path: shared + "/field-cases/M05-own-tokenizer.gguf").tokenizer)
    #expect(read.tokens.count == 300 && read.tokens[0].isEmpty)
    #expect(read.tokens[1...256].elementsEqual((0...255).map { [UInt8($0)] }))
    #expect(read.tokens[257] == [0x10, 0x30])
  }
}
