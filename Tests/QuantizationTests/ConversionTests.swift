// SPDX-License-Identifier: MIT
import CRWKVKernels
import Glibc
import RWKV
import RWKVCheckpoint
import RWKVFormat
import RWKVTokenizer
import Synchronization
import Testing

@testable import RWKVQuantization

@Suite("Conversion")
struct ConversionTests {
  let folder = TemporaryFolder()

  @Test(arguments: goldenCases) func fp32KeepsEveryValue(name: String) throws {
    let checkpoint = try Checkpoint(path: golden(name))
    let file = try convert(golden(name), to: folder.file("m.rwkv"), .fp32)
    #expect(Set(file.tensors.map(\.name)).subtracting(["tokenizer"]) == Set(checkpoint.tensors.map(\.name)))
    for tensor in checkpoint.tensors {
      let written = try #require(file[tensor.name])
      #expect(written.format == .f32 && written.transposed == tensor.transposed)
      #expect(try values(file, written) == values(checkpoint, tensor), "\(tensor.name)")
    }
    #expect(try Verification.problems(of: file.path) == [])
  }

  /// The released checkpoints are BF16 or F16: 16 bits lose nothing.
  @Test(arguments: ["v7-std", "v6-hf", "v52-hf"]) func fp16KeepsEveryValueOf16Bits(name: String) throws {
    let checkpoint = try Checkpoint(path: golden(name))
    let file = try convert(golden(name), to: folder.file("m.rwkv"), .fp16)
    for tensor in checkpoint.tensors where tensor.sourceType != .f32 {
      let written = try #require(file[tensor.name])
      #expect((tensor.role == .vector ? [.f32] : [.f16, .bf16]).contains(written.format))
      #expect(try values(file, written) == values(checkpoint, tensor), "\(tensor.name)")
    }
  }

  @Test func fp16TakesBF16WhereF16WouldLoseSomething() throws {
    let input = folder.write(
      "m.safetensors",
      smallModel { name, values in
        // Values that BF16 holds: one tensor with a span that F16 does not have.
        for index in values.indices {
          values[index] = Float(bitPattern: values[index].bitPattern & 0xFFFF_0000)
        }
        if name == "blocks.0.att.key.weight" { values[77] = 0x1p100 }
        if name == "blocks.0.att.value.weight" { values[77] = 0x1p-40 }
        if name != "head.weight" { return }
        for index in values.indices { values[index] = Float(Float16(values[index])) }
      })
    let file = try convert(input, to: folder.file("m.rwkv"), .fp16)
    #expect(file["blocks.0.att.key.weight"]?.format == .bf16)
    #expect(file["blocks.0.att.value.weight"]?.format == .bf16)
    #expect(file["head.weight"]?.format == .f16)
    let checkpoint = try Checkpoint(path: input)
    for tensor in checkpoint.tensors {
      #expect(try values(file, #require(file[tensor.name])) == values(checkpoint, tensor), "\(tensor.name)")
    }
  }

  /// Bounds of the relative root mean square error of a tensor: the formats' 0.059, 0.031 and 0.0046 for
  /// normally distributed weights, and a third more for tensors that are not.
  @Test(
    arguments: [(QuantizationType.int4, Float(0.08)), (.int5, 0.042), (.int8, 0.0061)],
    ["v7-std", "v4-hf", "v6-hf"])
  func errorsStayWithinTheFormat(type: (QuantizationType, Float), name: String) throws {
    let checkpoint = try Checkpoint(path: golden(name))
    let file = try convert(golden(name), to: folder.file("m.rwkv"), type.0)
    for tensor in checkpoint.tensors {
      let written = try #require(file[tensor.name])
      let (found, expected) = (try values(file, written), try values(checkpoint, tensor))
      guard ![WeightFormat.f32].contains(written.format) else {
        #expect(found == expected)
        continue
      }
      let error = zip(found, expected).reduce(0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) }
      let power = expected.reduce(0) { $0 + $1 * $1 }
      let bound = written.format == .int8 ? 0.0061 : type.1
      #expect((error / power).squareRoot() < bound, "\(tensor.name) \(written.format.name)")
    }
    #expect(try Verification.problems(of: file.path) == [])
  }

  @Test(arguments: [QuantizationType.int4, .int5, .int8, .fp16])
  func theSameBytesForAnyThreadsAndInstructionSet(type: QuantizationType) throws {
    let input = golden("v7-std")
    try convert(input, to: folder.file("1"), type) { $0.threads = 1 }
    for threads in [2, 3] { try convert(input, to: folder.file("\(threads)"), type) { $0.threads = threads } }
    let sets = ["scalar", "sse41", "avx2", "avxvnni", "avx512", "neon"].filter { (name: String) in
      rk_kernels_named(name) != nil
    }
    #expect(sets.contains("scalar"))
    for set in sets { try convert(input, to: folder.file(set), type) { $0.instructionSet = set } }
    let first = readBytes(folder.file("1"))
    for name in ["2", "3"] + sets { #expect(readBytes(folder.file(name)) == first, "\(name)") }
  }

  @Test func repackingTouchesNoWeight() throws {
    let input = golden("v7-std")
    let packed = try convert(input, to: folder.file("packed.rwkv"), .int4)
    let stored = try convert(packed.path, to: folder.file("stored.rwkv")) { $0.store = true }
    let again = try convert(stored.path, to: folder.file("again.rwkv"))
    #expect(stored.identity == packed.identity && again.identity == packed.identity)
    #expect(stored.size > packed.size)
    for tensor in packed.tensors {
      let other = try #require(stored[tensor.name])
      #expect(other.format == tensor.format)
      #expect(stored.storedOffset(of: other) != nil)
      #expect(try raw(stored, other) == raw(packed, tensor), "\(tensor.name)")
    }
    #expect(readBytes(again.path) == readBytes(packed.path))
  }

  /// A detour over an exact file changes nothing.
  @Test(arguments: [QuantizationType.fp32, .fp16]) func quantizingAnExactFileIsQuantizingItsCheckpoint(
    exact: QuantizationType
  ) throws {
    let direct = try convert(golden("v7-std"), to: folder.file("direct.rwkv"), .int4)
    let between = try convert(golden("v7-std"), to: folder.file("exact.rwkv"), exact)
    let detour = try convert(between.path, to: folder.file("detour.rwkv"), .int4)
    #expect(detour.identity == direct.identity)
    #expect(readBytes(detour.path) == readBytes(direct.path))
  }

  @Test func quantizedFilesAreNotQuantizedAgain() throws {
    let file = try convert(golden("v7-std"), to: folder.file("m.rwkv"), .int8)
    let error = #expect(throws: QuantizationError.self) {
      try convert(file.path, to: folder.file("n.rwkv"), .int4)
    }
    guard case .alreadyQuantized(_, "emb.weight", .int8)? = error else {
      Issue.record("\(String(describing: error))")
      return
    }
    #expect(folder.contents == ["m.rwkv"])
  }

  @Test(arguments: [Float.nan, .infinity, -.infinity], [QuantizationType.int4, .fp16, .fp32])
  func valuesThatAreNotFiniteAreNamed(value: Float, type: QuantizationType) throws {
    let input = folder.write(
      "m.safetensors",
      smallModel { name, values in
        // [D, F] in the checkpoint: output 3, hidden unit 5.
        if name == "blocks.0.ffn.value.weight" { values[96 * 3 + 5] = value }
      })
    let error = #expect(throws: QuantizationError.self) {
      try convert(input, to: folder.file("m.rwkv"), type)
    }
    guard case .notFinite(_, "blocks.0.ffn.value.weight", 5, 3, let found)? = error else {
      Issue.record("\(String(describing: error))")
      return
    }
    #expect(found == value || found.isNaN && value.isNaN)
    #expect(folder.contents == ["m.safetensors"])
  }

  @Test func cancellingLeavesNothing() throws {
    let calls = Mutex(0)
    var options = ConversionOptions()
    options.threads = 3
    var error: QuantizationError?
    do throws(QuantizationError) {
      _ = try Conversion.convert(golden("v7-std"), to: folder.file("m.rwkv"), options) { _ in
        calls.withLock { calls in
          calls += 1
          return calls < 5
        }
      }
    } catch let caught { error = caught }
    guard case .cancelled? = error else {
      Issue.record("\(String(describing: error))")
      return
    }
    #expect(folder.contents == [])
  }

  @Test func progressEndsAtOne() throws {
    let last = Mutex(0.0)
    _ = try Conversion.convert(golden("v7-std"), to: folder.file("m.rwkv"), ConversionOptions()) { share in
      last.withLock { last in
        #expect(share >= last && share <= 1)
        last = share
      }
      return true
    }
    #expect(last.withLock { $0 } == 1)
  }

  @Test func checkpointsAreNeverOverwritten() throws {
    let bytes = smallModel()
    let input = folder.write("m.safetensors", bytes)
    for path in [input, folder.path + "/./m.safetensors"] {
      #expect(throws: QuantizationError.self) { try convert(input, to: path, .int4) { $0.overwrite = true } }
    }
    #expect(readBytes(input) == bytes)
  }

  /// Not even with `overwrite`: the file is read while its successor is written.
  @Test func aFileIsNotRepackedOntoItself() throws {
    let path = folder.file("m.rwkv")
    try convert(golden("v7-std"), to: path, .int4)
    let bytes = readBytes(path)
    #expect(throws: QuantizationError.self) { try convert(path, to: path) }
    #expect(throws: QuantizationError.self) {
      try convert(path, to: path) { ($0.store, $0.overwrite) = (true, true) }
    }
    #expect(readBytes(path) == bytes && folder.contents == ["m.rwkv"])
  }

  /// L = 5, M = 2: the attention blocks come after blocks 1 and 3.
  @Test func tensorsStandInTheOrderOfEvaluation() {
    let names = [
      "emb.weight", "blocks.0.a", "blocks.0.b", "blocks.1.a", "blocks.2.a", "blocks.3.a", "blocks.4.a",
    ]
    let places = (names + ["moba.0.a", "moba.1.a", "ln_out.weight", "head.weight"]).placesInFile
    #expect(places == [-1, 0, 0, 2, 4, 6, 8, 3, 7, 10, 10])
    // M = 1: after all blocks.
    #expect(["blocks.0.a", "blocks.1.a", "moba.0.a", "ln_out.bias"].placesInFile == [0, 2, 3, 4])
  }

  @Test func attentionSettingsBelongToVersionX() throws {
    let x = try convert(golden("x-one"), to: folder.file("x.rwkv"), .int4) {
      $0.overrides = [("rwkv.x.top_k", .integer(5)), ("rwkv.x.mode", .string("full"))]
    }
    #expect(x.metadata.integer("rwkv.x.top_k") == 5)
    #expect(x.metadata.integer("rwkv.x.chunk_size") == 2048)
    #expect(x.metadata.string("rwkv.x.mode") == "full")
    #expect(throws: QuantizationError.self) {
      try convert(golden("v7-std"), to: folder.file("n.rwkv")) {
        $0.overrides = [("rwkv.x.top_k", .integer(5))]
      }
    }
  }
}

@Suite("Tokenizer of a conversion")
struct TokenizerSourceTests {
  let folder = TemporaryFolder()

  /// A World vocabulary of the 256 bytes (ids 1…256) and `more` longer tokens.
  private func vocabulary(more: Int) -> [UInt8] {
    var lines = (0..<256).map { "\($0 + 1) b'\\x" + (($0 < 16 ? "0" : "") + String($0, radix: 16)) + "' 1" }
    lines += (0..<more).map { "\(257 + $0) 'word\(1000 + $0)' 8" }
    return Array((lines.joined(separator: "\n") + "\n").utf8)
  }

  @Test func aVocabularyBesideTheCheckpointIsFound() throws {
    let input = folder.write("m.safetensors", smallModel(vocabulary: 320))
    folder.write("rwkv_vocab_v20230424.txt", vocabulary(more: 60))
    let file = try convert(input, to: folder.file("m.rwkv"))
    #expect(file.metadata.string("tokenizer.kind") == "world")
    #expect(file["tokenizer"]?.format == .bytes)
    #expect(file.tensors.last?.name == "tokenizer")
    #expect(try Verification.problems(of: file.path) == [])
    // Re-packing keeps it.
    let again = try convert(file.path, to: folder.file("n.rwkv")) { $0.store = true }
    #expect(try raw(again, #require(again["tokenizer"])) == raw(file, #require(file["tokenizer"])))
  }

  @Test func aVocabularyThatDoesNotFitIsPassedOver() throws {
    let input = folder.write("m.safetensors", smallModel(vocabulary: 300))
    folder.write("rwkv_vocab_v20230424.txt", vocabulary(more: 60))
    #expect(try convert(input, to: folder.file("m.rwkv")).metadata.string("tokenizer.kind") == nil)
    let error = #expect(throws: QuantizationError.self) {
      try convert(input, to: folder.file("n.rwkv")) {
        $0.tokenizer = .file(folder.file("rwkv_vocab_v20230424.txt"))
      }
    }
    guard case .vocabularyTooLarge(_, 317, 300)? = error else {
      Issue.record("\(String(describing: error))")
      return
    }
  }

  @Test(
    "any usual name of a vocabulary is looked for",
    arguments: ["vocab.txt", "my_vocab.txt", "rwkv_vocab_v20230424.json", "tokenizer-midi.json"])
  func otherNames(name: String) throws {
    let input = folder.write("m.safetensors", smallModel(vocabulary: 320))
    folder.write("tokenizer_config.json", Array(#"{"model_max_length": 1}"#.utf8))
    let words =
      #"{"pre_tokenizer": {"type": "WhitespaceSplit"}, "model": {"type": "WordLevel", "vocab": {"a": 3}}}"#
    let forms = [
      "vocab.txt": Array("b'<s>'\nb'a'\nb'ab'\n".utf8), "my_vocab.txt": Array("1 'a' 1\n3 'ab' 2\n".utf8),
      "rwkv_vocab_v20230424.json": Array(#"{"1": "a", "2": [97, 255]}"#.utf8),
      "tokenizer-midi.json": Array(words.utf8),
    ]
    folder.write(name, try #require(forms[name]))
    let file = try convert(input, to: folder.file("m.rwkv"))
    #expect(file.metadata.string("tokenizer.kind") == "vocabulary")
    #expect(readBytes(file.path)[12] == 1)  // required features
    #expect(try Verification.problems(of: file.path) == [])
    let tokenizer = try #require(try Model.tokenizer(path: file.path))
    #expect(try tokenizer.encode("a") == [name.hasPrefix("tokenizer") ? 3 : 1])
    let world = folder.write("words.txt", vocabulary(more: 10))
    let other = try convert(file.path, to: folder.file("n.rwkv")) { $0.tokenizer = .file(world) }
    #expect(readBytes(other.path)[12] == 0)
  }

  @Test func whatCannotBeUsedIsSaid() throws {
    let input = folder.write("m.safetensors", smallModel(vocabulary: 1024))
    folder.write("tokenizer.json", Array(#"{"model": {"type": "Unigram"}}"#.utf8))
    let words = folder.write("words.txt", vocabulary(more: 10))
    var options = ConversionOptions()
    var notes = try Conversion.convert(input, to: folder.file("m.rwkv"), options).notes
    #expect(notes.contains { $0.contains("not used as its tokenizer") && $0.contains("Unigram") })
    options.tokenizer = .file(words)
    notes = try Conversion.convert(input, to: folder.file("n.rwkv"), options).notes
    #expect(notes.contains { $0.contains("267 of the model's 1024") })
  }

  @Test func modelsOf256TokensReadBytes() throws {
    let input = folder.write("m.safetensors", smallModel())
    let file = try convert(input, to: folder.file("m.rwkv"))
    #expect(file.metadata.string("tokenizer.kind") == "bytes")
    #expect(file["tokenizer"] == nil)
  }

  @Test func aTokenizerCanBeReplaced() throws {
    let input = folder.write("m.safetensors", smallModel(vocabulary: 320))
    let words = folder.write("words.txt", vocabulary(more: 10))
    let first = try convert(input, to: folder.file("m.rwkv")) { $0.tokenizer = .bytes }
    let second = try convert(first.path, to: folder.file("n.rwkv")) { $0.tokenizer = .file(words) }
    #expect(second.metadata.string("tokenizer.kind") == "world")
    #expect(second.identity == first.identity)
    let third = try convert(second.path, to: folder.file("o.rwkv")) { $0.tokenizer = .bytes }
    #expect(third["tokenizer"] == nil)
  }
}
