// SPDX-License-Identifier: MIT
import Foundation
import RWKV
import RWKVFormat
import RWKVCheckpoint
import RWKVQuantization
import Testing

@Suite("State-tuned models")
struct InitialStateTests {
  /// [layers][H, N, N] of small distinct values.
  private func timeStates(_ model: Model) -> [[Float]] {
    let (D, N) = (model.configuration.embedding, model.configuration.headSize)
    return (0..<model.configuration.layers).map { layer in
      (0..<D * N).map { (index: Int) -> Float in Float((index * 31 + layer * 7) % 41 - 20) / 128 }
    }
  }

  /// Writes them as training does, in safetensors.
  private func write(_ states: [[Float]], N: Int, to file: URL) throws {
    var header: [String: Any] = [:]
    var data = Data()
    for (layer, values) in states.enumerated() {
      let start = data.count
      for value in values {
        withUnsafeBytes(of: value.bitPattern.littleEndian) { data.append(contentsOf: $0) }
      }
      header["blocks.\(layer).att.time_state"] = [
        "dtype": "F32", "shape": [values.count / (N * N), N, N], "data_offsets": [start, data.count],
      ]
    }
    let json = try JSONSerialization.data(withJSONObject: header, options: .sortedKeys)
    var bytes = withUnsafeBytes(of: UInt64(json.count).littleEndian) { Data($0) }
    bytes.append(json)
    bytes.append(data)
    try bytes.write(to: file)
  }

  /// Training stores [H, value, key]: the reference's own order in version 7, its transpose in versions 5 and 6,
  /// where `rwkv` 0.8.32 exchanges the axes when it loads them.
  @Test(arguments: Golden.cases("v5") + Golden.cases("v6") + Golden.cases("v7"))
  func axesAreExchangedAsInTheReference(golden: Golden) throws {
    let model = try golden.model()
    let stored = timeStates(model)
    let state = try model.newState(timeStates: stored)
    let N = model.configuration.headSize
    for layer in 0..<model.configuration.layers {
      let wkv = state.wkv(layer)
      let values = stored[layer]
      let exchanged = values.indices.map { values[$0 / (N * N) * N * N + $0 % N * N + $0 / N % N] }
      let isTransposed = [.v7, .v7a, .v7b].contains(model.configuration.version)
      let expected = isTransposed ? values : exchanged
      #expect(wkv == expected)
      #expect(state.timeShift(layer).allSatisfy { $0 == 0 })
    }
  }

  /// A state merged at conversion is where every new state of the model starts, also after a reset.
  @Test(arguments: Golden.cases("v6-std") + Golden.cases("v7-std") + Golden.cases("v52-std"))
  func conversionEqualsRunTime(golden: Golden) throws {
    let plain = try golden.model()
    let stored = timeStates(plain)
    let folder = FileManager.default.temporaryDirectory.appending(path: "rwkv-state-\(UUID())")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    let file = folder.appending(path: "state.safetensors")
    try write(stored, N: plain.configuration.headSize, to: file)

    var options = ConversionOptions()
    options.type = .fp32
    options.fineTuning.state = file.path
    let path = folder.appending(path: "tuned.rwkv").path
    _ = try Conversion.convert(golden.checkpoint.path, to: path, options)
    let tuned = try Model(path: path, threads: 1)
    #expect(tuned.weightBytes == plain.weightBytes)

    let tokens = try golden.tokens
    let atRunTime = try Session(plain, state: plain.newState(timeStates: stored), threads: 1)
    let expected = try logits(atRunTime, tokens)
    let session = try Session(tuned, threads: 1)
    #expect(try logits(session, tokens) == expected)
    session.state.reset()
    #expect(try logits(session, tokens) == expected)
    // It does make a difference.
    #expect(distance(try logits(Session(plain, threads: 1), tokens), expected) > 1e-3)
  }

  private func logits(_ session: Session, _ tokens: [Int]) throws -> [Float] {
    try session.prefill(tokens)
    return Array(session.logits)
  }

  @Test func statesOfOtherSizesAreRefused() throws {
    let golden = try #require(Golden.cases("v7-std").first)
    let model = try golden.model()
    let stored = timeStates(model)
    #expect(throws: ModelError.self) { try model.newState(timeStates: Array(stored.dropLast())) }
    #expect(throws: ModelError.self) { try model.newState(timeStates: stored.map { Array($0.dropLast()) }) }
    #expect(throws: ModelError.self) {
      try model.newState(timeStates: stored.map { $0.map { _ in Float.nan } })
    }
    let old = try #require(Golden.cases("v4").first)
    let version4 = try old.model()
    #expect(throws: ModelError.self) { try version4.newState(timeStates: []) }
  }
}
