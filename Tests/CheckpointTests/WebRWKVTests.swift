// SPDX-License-Identifier: MIT
import RWKVFormat
import Testing

@testable import RWKVCheckpoint

@Suite("web-rwkv's .st")
struct WebRWKVTests {
  private let base = goldens + "/v7-std/model.safetensors"
  private let folder = TemporaryFolder()

  private func isLowRank(_ name: String) -> Bool {
    ["w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2"].contains { name.hasSuffix(".att." + $0) }
  }

  private func drafts(exchanged: Bool) throws -> [Draft] {
    try Container(path: base).tensors.map {
      let draft = try Draft($0)
      return exchanged && isLowRank($0.name) ? draft.transposed : draft
    }
  }

  /// The Python converter exchanges the axes of version 7's matrices, the Rust one does not; whatever the file is
  /// called.
  @Test(arguments: [true, false], ["model.st", "model.safetensors"])
  func bothConvertersAreRead(exchanged: Bool, name: String) throws {
    let path = folder.write(name, safetensors(try drafts(exchanged: exchanged)))
    let (original, read) = (try Checkpoint(path: base), try Checkpoint(path: path))
    #expect(read.tensors.map(\.name) == original.tensors.map(\.name))
    for (a, b) in zip(original.tensors, read.tensors) { #expect(try values(original, a) == values(read, b)) }
  }

  @Test func halfExchangedIsRefused() throws {
    var drafts = try drafts(exchanged: false)
    for index in drafts.indices where drafts[index].name.hasSuffix("att.w1") {
      drafts[index] = drafts[index].transposed
    }
    let path = folder.write("model.st", safetensors(drafts))
    #expect(throws: CheckpointError.self) { try Checkpoint(path: path) }
  }

  /// One value for each head: an exponent in the oldest checkpoints, the bonus itself where a converter renamed it.
  @Test(arguments: [("v50-std", "model.st"), ("v51-std", "model.st"), ("v51-std", "model.safetensors")])
  func bonusesThatMayBeExponentsAreRefused(model: String, name: String) throws {
    let drafts = try Container(path: #require(golden(model)) + "/model.safetensors").tensors.map {
      let draft = try Draft($0).renamed($0.name.replacing("time_faaaa", with: "time_first"))
      return draft.type == "F16" ? draft : draft.inF16
    }
    expectFailure(
      folder.write(name, safetensors(drafts)), .unsupported, "time_first", "exponent", "original checkpoint")
  }

  @Test func eightBitFloats() {
    let cases: [(UInt8, Float)] = [
      (0, 0), (0x01, 0x1p-9), (0x07, 0x7p-9), (0x08, 0x1p-6), (0x38, 1), (0xB8, -1), (0x7E, 448),
    ]
    for (bits, value) in cases { #expect(float(e4m3: bits) == value) }
    #expect(float(e4m3: 0x7F).isNaN)
  }

  // MARK: Files of other programs

  private static let cases = shared + "/field-cases/"
  private static let areThere = exists(cases)

  /// Every value is the golden's, rounded to F16.
  @Test(.enabled(if: areThere, "needs ../shared"), arguments: ["v52-std", "v6-std", "v7-std"])
  func valuesAreTheGoldens(name: String) throws {
    let original = try Checkpoint(path: #require(golden(name)) + "/model.safetensors")
    let read = try Checkpoint(path: Self.cases + "F01-\(name).st")
    #expect(read.version == original.version && read.tensors.map(\.name) == original.tensors.map(\.name))
    for (a, b) in zip(original.tensors, read.tensors) {
      #expect(a.rows == b.rows && a.columns == b.columns)
      #expect(try values(original, a).map { Float(Float16($0)) } == values(read, b), "\(a.name)")
    }
  }

  @Test(.enabled(if: areThere, "needs ../shared"))
  func tunedStatesAreTheSameFromBothForms() throws {
    let trained = try TimeStates.read(path: Self.cases + "F02-state-v7-std.pth")
    let converted = try TimeStates.read(path: Self.cases + "F02-state-v7-std.st")
    #expect(trained.map { $0.map { Float(Float16($0)) } } == converted)
    let (first, second) = try (
      Checkpoint(path: base, fineTuning: FineTuning(state: Self.cases + "F02-state-v7-std.pth")),
      Checkpoint(path: base, fineTuning: FineTuning(state: Self.cases + "F02-state-v7-std.st"))
    )
    for (a, b) in zip(first.tensors, second.tensors) where a.role == .state {
      #expect(try values(first, a).map { Float(Float16($0)) } == values(second, b))
    }
  }

  /// The nearest of the 254 numbers, for every value of the matrices that are F8.
  @Test(.enabled(if: areThere, "needs ../shared"))
  func eightBitFloatsAreTheGoldens() throws {
    let original = try Checkpoint(path: base)
    let read = try Checkpoint(path: Self.cases + "M02-fp8.safetensors")
    let numbers = (0..<256).map { float(e4m3: UInt8($0)) }.filter(\.isFinite)
    for (a, b) in zip(original.tensors, read.tensors) {
      let (x, y) = (try values(original, a), try values(read, b))
      guard b.sourceType == .f8e4m3 else {
        #expect(x == y, "\(a.name)")
        continue
      }
      for (x, y) in zip(x, y).prefix(2000) {
        #expect(numbers.allSatisfy { abs($0 - x) >= abs(y - x) }, "\(a.name): \(x)")
      }
    }
    #expect(read.tensors.contains { $0.sourceType == .f8e4m3 })
  }

  @Test(.enabled(if: areThere, "needs ../shared"))
  func aHeadThatIsMissingIsTheEmbedding() throws {
    let (original, read) = try (Checkpoint(path: base), Checkpoint(path: Self.cases + "M03-tied-no-head.pth"))
    let table = try #require(original.tensors.first { $0.role == .embedding })
    for (a, b) in zip(original.tensors, read.tensors) {
      #expect(try values(original, a.role == .head ? table : a) == values(read, b), "\(a.name)")
    }
    #expect(read.remarks == ["no head.weight: the head is the embedding"])
  }
}
