// SPDX-License-Identifier: MIT
import Foundation
import RWKVFormat
import RWKVQuantization
import Testing

@testable import RWKV

/// Saved states: nothing is lost, nothing damaged is accepted.
@Suite("State files")
struct StateFileTests {
  /// Version 4, one with heads, the newest, and those with caches.
  static let cases = ["v4-hf", "v52-hf", "v6-hf", "v7-std", "x-one", "v7b-std"].flatMap { name in
    Golden.cases(name).filter { $0.name == name }
  }

  private func temporaryFile() -> String {
    FileManager.default.temporaryDirectory.appending(path: "state-\(UUID().uuidString)").path
  }

  /// Logits after every token, bit patterns.
  private func bits(_ session: Session, _ tokens: [Int]) throws -> [UInt32] {
    var result: [UInt32] = []
    try session.forEachLogits(tokens) { _, logits in result += logits.map(\.bitPattern) }
    return result
  }

  @Test func allKindsOfStateAreTested() { #expect(Self.cases.count == 6) }

  @Test(arguments: cases)
  func savingAndLoadingIsAsIfNeverStopped(_ golden: Golden) throws {
    let model = try golden.model(.int8)
    let tokens = try golden.tokens
    let session = try Session(model, threads: 1)
    try session.prefill(Array(tokens.prefix(23)))
    let file = temporaryFile()
    defer { try? FileManager.default.removeItem(atPath: file) }
    try session.state.save(to: file, tokens: Array(tokens.prefix(23)))
    let bytes = try session.state.encoded()
    let whole = try bits(session, Array(tokens.dropFirst(23)))

    let fromFile = try model.loadState(from: file)
    #expect(fromFile.tokens == Array(tokens.prefix(23)))
    #expect(try bits(Session(model, state: fromFile.state, threads: 1), Array(tokens.dropFirst(23))) == whole)
    let fromMemory = try model.loadState(bytes: bytes)
    #expect(fromMemory.tokens.isEmpty)
    #expect(
      try bits(Session(model, state: fromMemory.state, threads: 1), Array(tokens.dropFirst(23))) == whole)
    // The same state makes the same bytes, also after a round trip.
    #expect(try model.loadState(bytes: bytes).state.encoded() == bytes)
  }

  /// What predicts the next token travels along, and the header says so; without it nothing is different from before.
  @Test(arguments: cases)
  func logitsTravelAlong(_ golden: Golden) throws {
    let model = try golden.model(.int8)
    let session = try Session(model, threads: 1)
    try session.prefill(Array(try golden.tokens.prefix(7)))
    let logits = Array(session.logits)
    let bytes = try session.state.encoded(tokens: [1, 2], logits: logits)
    let saved = try model.loadState(bytes: bytes)
    #expect(saved.logits.map(\.bitPattern) == logits.map(\.bitPattern) && saved.tokens == [1, 2])
    let plain = try session.state.encoded()
    #expect(bytes[12] == 1 && plain[12] == 0)

    let next = try Session(model, state: saved.state, threads: 1)
    next.resume(saved.logits)
    #expect(next.hidden.isEmpty && Array(next.logits) == logits)
    let token = argmax(next.logits)
    try next.decode(token)
    try session.decode(token)
    #expect(next.logits.map(\.bitPattern) == session.logits.map(\.bitPattern))
    #expect(!next.hidden.isEmpty)
  }

  /// As many logits as no model has, and logits that are not numbers.
  @Test func logitsAreChecked() throws {
    let model = try Self.cases[3].model(.int8)
    let flat = [UInt32](repeating: 0, count: model.newState().layout.count)
    let vocabulary = model.configuration.vocabulary
    for count in [1, vocabulary - 1, vocabulary + 1] {
      let words = flat + [UInt32](repeating: 0, count: count)
      #expect { try model.loadState(bytes: forge(model, words, logits: count)) } throws: {
        "\($0)".contains("the number of logits is \(count), expected \(vocabulary)")
      }
    }
    let words = flat + [UInt32](repeating: Float.nan.bitPattern, count: vocabulary)
    #expect { try model.loadState(bytes: forge(model, words, logits: vocabulary)) } throws: {
      "\($0)".contains("logit 0 is nan")
    }
  }

  @Test(arguments: cases)
  func freshStatesRoundTrip(_ golden: Golden) throws {
    let model = try golden.model(.int8)
    let bytes = try model.newState().encoded()
    #expect(try model.loadState(bytes: bytes).state.encoded() == bytes)
  }

  @Test(arguments: cases.filter { $0.name == "v4-hf" || $0.name == "x-one" })
  func everyFlippedBitIsNoticed(_ golden: Golden) throws {
    let model = try golden.model(.int8)
    let session = try Session(model, threads: 1)
    try session.prefill(Array(try golden.tokens.prefix(5)))
    let bytes = try session.state.encoded(tokens: [1, 2, 3])
    // Every bit of the header and the name, then one bit of each byte.
    for place in bytes.indices {
      for bit in place < 128 ? Array(0..<8) : [place % 8] {
        var damaged = bytes
        damaged[place] ^= 1 << UInt8(bit)
        #expect(throws: StateFileError.self, "byte \(place), bit \(bit)") {
          try model.loadState(bytes: damaged)
        }
      }
    }
  }

  @Test(arguments: cases.filter { $0.name == "v7-std" })
  func everyTruncationIsRefused(_ golden: Golden) throws {
    let model = try golden.model(.int8)
    let bytes = try model.newState().encoded()
    for length in 0..<bytes.count {
      #expect(throws: StateFileError.self, "\(length) bytes") {
        try model.loadState(bytes: Array(bytes[..<length]))
      }
    }
    #expect(throws: StateFileError.self) { try model.loadState(bytes: bytes + [0]) }
    let file = temporaryFile()
    defer { try? FileManager.default.removeItem(atPath: file) }
    for length in [0, 7, 63, 64, 80, bytes.count - 1] {
      try Data(bytes[..<length]).write(to: URL(filePath: file))
      #expect(throws: StateFileError.self, "\(length) bytes") { try model.loadState(from: file) }
    }
  }

  @Test func lengthsAreCheckedBeforeAnythingElseIsRead() throws {
    let model = try Self.cases[3].model(.int8)
    let bytes = try model.newState().encoded()
    #expect { try model.loadState(bytes: bytes + [0]) } throws: { "\($0)".contains("incomplete copy") }
    // A length that no state of this model has, with the right checksum: refused before memory is asked for.
    var forged = bytes
    withUnsafeBytes(of: UInt64(1 << 40).littleEndian) { forged.replaceSubrange(24..<32, with: $0) }
    let name = Int(forged[10]) + Int(forged[11]) << 8
    let hash = XXH64.hash(Array(forged[..<56] + forged[64..<64 + name]))
    withUnsafeBytes(of: hash.littleEndian) { forged.replaceSubrange(56..<64, with: $0) }
    #expect { try model.loadState(bytes: forged) } throws: { "\($0)".contains("the length of the state is") }
  }

  @Test func aStateNeverReplacesItsModel() throws {
    let made = try Self.cases[3].model(.int8)
    let (path, link) = (temporaryFile(), temporaryFile())
    defer { for file in [path, link] { try? FileManager.default.removeItem(atPath: file) } }
    try FileManager.default.copyItem(atPath: made.path, toPath: path)
    try FileManager.default.createSymbolicLink(atPath: link, withDestinationPath: path)
    let state = try Model(path: path).newState()
    for file in [path, link] {
      #expect { try state.save(to: file) } throws: { "\($0)".contains("the model's own file") }
    }
    #expect(FileManager.default.contentsEqual(atPath: path, andPath: made.path))
  }

  @Test func asManyTokensAsTheBoundAllowsCanBeKept() throws {
    let model = try Self.cases[3].model(.int8)
    let flat = [UInt32](repeating: 0, count: model.newState().layout.count)
    let tokens = [UInt32](repeating: 3, count: State.maximumTokens)
    let saved = try model.loadState(bytes: forge(model, tokens + flat, tokens: tokens.count))
    #expect(saved.tokens.count == 4_194_304 && saved.tokens.last == 3)
    #expect {
      try model.loadState(bytes: forge(model, tokens + [3] + flat, tokens: tokens.count + 1))
    } throws: { "\($0)".contains("the number of tokens is 4194305, expected 0 to 4194304") }
  }

  /// Those that the model cannot have read, first, last and amid others, are neither saved nor loaded.
  @Test(arguments: StateFileTests.cases) func tokensAreOnesThatTheModelReads(_ golden: Golden) throws {
    let model = try golden.model(.int8)
    let V = model.configuration.vocabulary
    let state = model.newState()
    #expect(try model.loadState(bytes: state.encoded(tokens: [V - 1, 0])).tokens == [V - 1, 0])
    let rest = state.caches.map { _ in UInt32(0) } + [UInt32](repeating: 0, count: state.layout.count)
    for wrong in [UInt32(V), UInt32(Int32.max), UInt32(Int32.max) + 1, UInt32.max] {
      for tokens in [[wrong], [wrong, 0, 0], [0, wrong, 0], [0, 0, wrong]] {
        let message = "a token is \(wrong), expected an id from 0 to \(V - 1)"
        #expect {
          try model.loadState(bytes: forge(model, tokens + rest, tokens: tokens.count))
        } throws: { "\($0)".contains(message) }
        #expect { try state.encoded(tokens: tokens.map { Int($0) }) } throws: { "\($0)".contains(message) }
      }
    }
    #expect(throws: StateFileError.self) { try state.encoded(tokens: [-1]) }
  }

  /// A state file of these words, with everything around them right.
  private func forge(_ model: Model, _ words: [UInt32], tokens: Int = 0, logits: Int = 0) -> [UInt8] {
    let planes = (0..<4).flatMap { byte in words.map { UInt8(truncatingIfNeeded: $0 >> (8 * UInt32(byte))) } }
    let frame = planes.withUnsafeBytes { ZstdFrame.compress($0) }
    return StateHeader(model, tokens: tokens, logits: logits, words: words.count, frame: frame).encoded()
      + frame
  }

  @Test func hostileContentsBehindRightChecksumsAreRefused() throws {
    func refuse(_ model: Model, _ words: [UInt32], _ message: String) {
      #expect { try model.loadState(bytes: forge(model, words)) } throws: { "\($0)".contains(message) }
    }
    let model = try Self.cases[3].model(.int8)
    let words = [UInt32](repeating: 0, count: model.newState().layout.count)
    #expect(throws: Never.self) { try model.loadState(bytes: forge(model, words)) }
    refuse(model, words + [0], "the length of the state is")
    refuse(model, Array(words.dropLast()), "the length of the state is")
    for value in [Float.infinity, -.infinity, .nan] {
      var broken = words
      broken[broken.count - 1] = value.bitPattern
      refuse(model, broken, "expected a finite number")
    }
    let hybrid = try Self.cases[4].model(.int8)
    let fresh = hybrid.newState()
    let options = try #require(hybrid.configuration.sparseAttention)
    let flat = [UInt32](repeating: 0, count: fresh.layout.count)
    let most = max(options.maximumCache, options.minimumCache) + 1
    for count in [most + 1, Int(Int32.max), Int(UInt32.max)] {
      let lengths = [UInt32](repeating: UInt32(count), count: options.layers)
      refuse(hybrid, lengths + flat, "the length of attention cache 0 is")
    }
  }

  /// The one model with several attention blocks is not among the fixtures.
  static let several = Golden.cases("x-std").first

  @Test(.enabled("needs the goldens' folder") { several != nil })
  func attentionCachesOfUnequalLengthsAreRefused() throws {
    let model = try #require(Self.several).model(.int8)
    let layers = try #require(model.configuration.sparseAttention).layers
    try #require(layers > 1)
    var lengths = [UInt32](repeating: 0, count: layers)
    lengths[0] = 1
    let values = model.newState().layout.count + 2 * model.configuration.embedding
    let words = lengths + [UInt32](repeating: 0, count: values)
    #expect { try model.loadState(bytes: forge(model, words)) } throws: {
      "\($0)".contains("expected all the same")
    }
  }

  @Test func statesOfOtherModelsAreRefusedByBothNames() throws {
    let (first, second) = (Self.cases[3], Self.cases[2])
    let model = try second.model(.int8)
    let bytes = try first.model(.int8).newState().encoded()
    #expect {
      try model.loadState(bytes: bytes)
    } throws: { error in
      guard let error = error as? StateFileError, case .wrongModel(let found, let expected) = error.reason
      else {
        return false
      }
      return found.contains("'\(try first.model(.int8).name)'") && expected.contains("'\(model.name)'")
    }
    // The same sizes, but other weights.
    #expect(throws: StateFileError.self) { try first.model(.int4).loadState(bytes: bytes) }
  }

  /// Names of models are cut to 1024 bytes between characters, of which some have several bytes.
  @Test(arguments: ["é", "你", "🙂", "e\u{301}", "a"]) func longNamesAreCut(character: String) throws {
    let golden = Self.cases[3]
    let name = "x" + String(repeating: character, count: 1100)
    let path = try TemporaryFiles.shared.path(
      for: "long-name-\(character.unicodeScalars.count)-\(character.utf8.count)"
    ) {
      try convert(golden.checkpoint.path, to: $0, type: .int8, metadata: [("model.name", .string(name))])
    }
    let model = try Model(path: path, threads: 1)
    #expect(model.name == name)
    let bytes = try model.newState().encoded()
    let length = Int(bytes[10]) + Int(bytes[11]) << 8
    let kept = String(validating: bytes[64..<64 + length], as: UTF8.self)
    #expect(length > 1024 - character.utf8.count && length <= 1024 && kept.map { name.hasPrefix($0) } == true)
    #expect(try model.loadState(bytes: bytes).state.encoded() == bytes)
  }

  @Test func brokenStatesAreNeitherSavedNorLoaded() throws {
    let model = try Self.cases[3].model(.int8)
    let session = try Session(model, threads: 1)
    let D = model.configuration.embedding
    let vectors = [Float](repeating: .nan, count: D)
    try vectors.withUnsafeBufferPointer { try session.prefill(vectors: $0) }
    #expect {
      try session.state.encoded()
    } throws: { error in
      guard let error = error as? StateFileError, case .notFinite(_, let place) = error.reason else {
        return false
      }
      return place.contains("layer 0")
    }
  }

  @Test func unwritablePlacesAndMissingFilesAreErrors() throws {
    let model = try Self.cases[0].model(.int8)
    #expect(throws: StateFileError.self) { try model.newState().save(to: "/nonexistent/folder/state") }
    #expect(throws: StateFileError.self) { try model.loadState(from: "/nonexistent/state") }
    #expect(throws: StateFileError.self) { try model.loadState(from: "/dev/zero") }
  }
}

/// Several conversations in one pass.
@Suite("Batches")
struct BatchTests {
  @Test(arguments: StateFileTests.cases)
  func batchesEqualOneByOne(_ golden: Golden) throws {
    let model = try golden.model(.int4)
    let tokens = try golden.tokens
    let batch = try Batch(model, threads: 2)
    let states = (0..<5).map { _ in model.newState() }
    let sessions = try (0..<5).map { _ in try Session(model, threads: 1) }
    func sampler(_ seed: Int) throws -> Sampler {
      var options = SamplingOptions()
      options.seed = UInt64(seed)
      return try Sampler(options)
    }
    for step in 0..<12 {
      // States join one after another, so that they differ in age.
      let count = min(5, step + 1)
      let next = (0..<count).map { tokens[(7 * $0 + step) % tokens.count] }
      try batch.decode(next, Array(states[..<count]))
      var samplers = try (0..<count).map { try sampler(5 * step + $0) }
      let chosen = try batch.sample(with: &samplers)
      for index in 0..<count {
        try sessions[index].decode(next[index])
        #expect(batch.logits(index).map(\.bitPattern) == sessions[index].logits.map(\.bitPattern))
        var alone = try sampler(5 * step + index)
        let expected = try alone.sample(sessions[index].logits)
        #expect(chosen[index] == expected)
      }
    }
  }

  @Test func misuseIsAnError() throws {
    let model = try StateFileTests.cases[3].model(.int4)
    let other = try StateFileTests.cases[0].model(.int4)
    let batch = try Batch(model, threads: 1)
    let state = model.newState()
    #expect(throws: ModelError.self) { try batch.decode([], []) }
    #expect(throws: ModelError.self) { try batch.decode([1], [state, model.newState()]) }
    #expect(throws: ModelError.self) { try batch.decode([1, 1], [state, state]) }
    #expect(throws: ModelError.self) { try batch.decode([1], [other.newState()]) }
    #expect(throws: ModelError.self) { try batch.decode([1 << 30], [state]) }
    #expect(throws: ModelError.self) {
      try batch.decode(Array(repeating: 1, count: 65), (0..<65).map { _ in model.newState() })
    }
  }

  @Test func vectorsOfTheTableEqualItsTokens() throws {
    let golden = try #require(Golden.cases("v7-f32-small").first)
    let model = try golden.model()
    let tokens = Array(try golden.tokens.prefix(9))
    let D = model.configuration.embedding
    let table = try readSafetensors(golden.checkpoint, "emb.weight")
    let vectors = tokens.flatMap { table[$0 * D..<($0 + 1) * D] }
    let (read, seen) = (try Session(model, threads: 1), try Session(model, threads: 1))
    try read.prefill(tokens)
    try vectors.withUnsafeBufferPointer { try seen.prefill(vectors: $0) }
    #expect(read.logits.map(\.bitPattern) == seen.logits.map(\.bitPattern))
    #expect(read.hidden.count == D && read.hidden.map(\.bitPattern) == seen.hidden.map(\.bitPattern))
  }
}
