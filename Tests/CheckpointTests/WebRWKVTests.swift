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

  /// The Python converter exchanges the axes of version 7's matrices, the Rust one does not; whatever the file is called.
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

  @Test func eightBitFloats() {
    let cases: [(UInt8, Float)] = [
      (0, 0), (0x01, 0x1p-9), (0x07, 0x7p-9), (0x08, 0x1p-6), (0x38, 1), (0xB8, -1), (0x7E, 448),
    ]
    for (bits, value) in cases { #expect(float(e4m3: bits) == value) }
    #expect(float(e4m3: 0x7F).isNaN)
  }
}
