// SPDX-License-Identifier: MIT
import CRWKVKernels
import RWKV
import RWKVFormat
import RWKVTokenizer
import Testing

@testable import RWKVQuantization

@Suite("Calibration")
struct CalibrationTests {
  let folder = TemporaryFolder()
  static let model = packageRoot + "/examples/model/rwkv7-docs-5m.safetensors"
  static let text = readBytes(packageRoot + "/examples/model/heldout.txt")
  /// One of each version, with 256 tokens or more.
  static let versions = ["v4-hf", "v50-std", "v51-std", "v52-hf", "v6-hf", "v7-std", "x-one"]

  /// An embedding model's blocks are calibrated on a text that is given; its heads, which read no tokens, are not.
  @Test func modelsThatPredictNoTextAreCalibratedOnAGivenOneOrRefused() throws {
    var options = ConversionOptions()
    (options.type, options.threads) = (.int4, 2)
    _ = try Conversion.convert(golden("emb-std"), to: folder.file("plain.rwkv"), options)
    options.calibration = .tokens((0..<600).map { 1 + ($0 * $0 + $0 / 7) % 1100 })
    _ = try Conversion.convert(golden("emb-std"), to: folder.file("calibrated.rwkv"), options)
    #expect(try Verification.problems(of: folder.file("calibrated.rwkv")).isEmpty)
    let files = try ["plain", "calibrated"].map { try ModelFile(path: folder.file($0 + ".rwkv")) }
    for name in files[0].tensors.map(\.name) {
      let tensors = files.compactMap { $0[name] }
      let bytes = try zip(files, tensors).map { file, tensor in
        try (0..<tensor.chunkCount).map { chunk in
          var bytes = [UInt8](repeating: 0, count: file.rawLength(ofChunk: chunk, of: tensor))
          try bytes.withUnsafeMutableBytes {
            try file.readChunk(chunk, of: tensor, into: $0, using: ChunkReader())
          }
          return bytes
        }
      }
      let isCalibrated = name.hasPrefix("blocks.") && [.int4, .int5, .int8].contains(tensors[0].format)
      #expect((bytes[0] != bytes[1]) == isCalibrated, "\(name)")
    }
    func refuses(_ name: String, _ word: String, _ change: (inout ConversionOptions) -> Void) {
      var changed = options
      change(&changed)
      #expect {
        _ = try Conversion.convert(golden(name), to: folder.file("refused.rwkv"), changed)
      } throws: {
        guard case .option(let text)? = $0 as? QuantizationError else { return false }
        return text.contains(word)
      }
      #expect(!folder.contents.contains("refused.rwkv"))
    }
    refuses("emb-std", "embedding model") { $0.calibration = .generated }
    refuses("rerank-std", "reranker") { _ in }
    refuses("emb-std", "predicts no text") { $0.maximumKL = 1 }
    refuses("rerank-std", "predicts no text") { $0.minimumAgreeingTokens = 1 }
  }

  /// The definition: with H⁻¹ = UᵀU, row j holds 1 / U_jj² and U_jk / U_jj.
  @Test(arguments: [1, 2, 17, 256]) func factorsInvertTheMoments(n: Int) {
    var seed: UInt64 = 1
    func random() -> Double {
      seed = seed &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return Double(seed >> 40) / 0x1p24 - 0.5
    }
    let rows = (0..<3 * n).map { _ in (0..<n).map { _ in random() } }
    var moments = [Float](repeating: 0, count: 256 * 256)
    var exact = [[Double]](repeating: [Double](repeating: 0, count: n), count: n)
    for i in 0..<n {
      for k in 0..<n { exact[i][k] = rows.reduce(0) { $0 + $1[i] * $1[k] } }
      for k in i..<n { moments[256 * i + k] = Float(exact[i][k]) }
    }
    let mean = (0..<n).reduce(0) { $0 + exact[$1][$1] } / Double(n)
    for i in 0..<n {
      for k in 0..<n { exact[i][k] = exact[i][k] / mean + (i == k ? CompensationFactor.damping : 0) }
    }
    moments.withUnsafeMutableBufferPointer {
      if let base = $0.baseAddress { CompensationFactor.replace(base, count: n) }
    }
    // U H Uᵀ = 1
    var largest = 0.0
    let U = (0..<n).map { j in
      let diagonal = (1 / Double(moments[257 * j])).squareRoot()
      return (0..<n).map { k in
        k < j ? 0 : k == j ? diagonal : Double(moments[256 * j + k]) * diagonal
      }
    }
    for i in 0..<min(n, 8) {
      let left = (0..<n).map { k in (0..<n).reduce(0) { $0 + U[i][$1] * exact[$1][k] } }
      for j in 0..<n {
        let product = (0..<n).reduce(0) { $0 + left[$1] * U[j][$1] }
        largest = max(largest, abs(product - (i == j ? 1 : 0)))
      }
    }
    #expect(largest < 1e-4)
  }

  private func comparison(_ reference: String, _ model: String, _ text: [UInt8]) throws -> Comparison {
    try Comparison(
      Model(path: reference, threads: 2), Model(path: model, threads: 2), tokens: [0] + text.map(Int.init),
      threads: 2
    ) { _ in true }
  }

  /// KL on text that the calibration has not seen.
  @Test func halvesWhatFourBitsLose() throws {
    let exact = folder.file("exact.rwkv"), nearest = folder.file("nearest.rwkv")
    let calibrated = folder.file("calibrated.rwkv")
    try convert(Self.model, to: exact, .fp16)
    try convert(Self.model, to: nearest, .int4)
    try convert(Self.model, to: calibrated, .int4) {
      $0.calibration = .bytes(Array(Self.text.prefix(Calibration.leastTokens)))
    }
    let held = Array(Self.text.suffix(8000))
    let before = try comparison(exact, nearest, held), after = try comparison(exact, calibrated, held)
    #expect(after.whole.kl < 0.55 * before.whole.kl)
    #expect(after.whole.top10 > before.whole.top10 && after.whole.stateDrift < before.whole.stateDrift)
    #expect(try Verification.problems(of: calibrated) == [])
  }

  /// On the text that it was calibrated on, each version loses less, whatever its matrices are called and wherever
  /// their inputs come from.
  @Test(arguments: versions, [QuantizationType.int4, .int5, .int8]) func helpsEveryVersion(
    name: String, type: QuantizationType
  ) throws {
    let text = Array(Self.text.prefix(600))
    let exact = folder.file("exact.rwkv"), nearest = folder.file("nearest.rwkv")
    let calibrated = folder.file("calibrated.rwkv")
    func bytes(_ options: inout ConversionOptions) { options.tokenizer = .bytes }
    try convert(golden(name), to: exact, .fp32, bytes)
    try convert(golden(name), to: nearest, type, bytes)
    try convert(golden(name), to: calibrated, type) {
      bytes(&$0)
      $0.calibration = .bytes(text)
    }
    let before = try comparison(exact, nearest, text), after = try comparison(exact, calibrated, text)
    #expect(after.whole.kl < 0.8 * before.whole.kl)
    #expect(try Verification.problems(of: calibrated) == [])
  }

  @Test func givesTheSameBytesForAnyNumberOfThreads() throws {
    let bytes = try [1, 2, 3].map { threads in
      try convert(golden("v7-std"), to: folder.file("m.rwkv"), .int4) {
        $0.threads = threads
        $0.overwrite = true
        $0.calibration = .bytes(Array(Self.text.prefix(400)))
      }
      return readBytes(folder.file("m.rwkv"))
    }
    let isSame = bytes[0] == bytes[1] && bytes[0] == bytes[2]
    #expect(isSame)
  }

  /// The loss is measured on what the rounding has not seen: the last eighth, no more than is of use.
  @Test(arguments: [7, 8, 100, 16_384, 18_725, 18_733, 40_000])
  func theTextIsDividedWithoutOverlap(count: Int) throws {
    try convert(golden("v4-hf"), to: folder.file("m.rwkv"), .int8)
    let model = try Model(path: folder.file("m.rwkv"), threads: 1)
    let text = Array(0..<count)
    let (calibration, heldOut) = try CalibrationText.tokens(text).tokens(model, threads: 1) { false }
    let held = min(2048, count / 8)
    #expect(heldOut == [0] + text.suffix(held))
    #expect(calibration == Array(text.prefix(min(16_384, count - held))))
  }

  @Test func saysHowMuchTextIsNeeded() throws {
    var options = ConversionOptions()
    options.calibration = .bytes(Array(Self.text.prefix(100)))
    let report = try Conversion.convert(golden("v7-std"), to: folder.file("m.rwkv"), options)
    #expect(report.notes.contains { $0.contains("\(Calibration.leastTokens)") })
    options.overwrite = true
    options.calibration = .bytes([])
    #expect(throws: QuantizationError.self) {
      try Conversion.convert(golden("v7-std"), to: folder.file("m.rwkv"), options)
    }
  }

  @Test func theModelCanWriteTheText() throws {
    let exact = folder.file("exact.rwkv"), nearest = folder.file("nearest.rwkv"),
      own = folder.file("own.rwkv")
    try convert(golden("v7-std"), to: exact, .fp32)
    try convert(golden("v7-std"), to: nearest, .int4)
    try convert(golden("v7-std"), to: own, .int4) { $0.calibration = .generated }
    let text = Array(Self.text.prefix(1000))
    #expect(try comparison(exact, own, text).whole.kl < comparison(exact, nearest, text).whole.kl)
  }

  /// Sixteen texts of as many tokens, each after the token that starts a document, and no two alike.
  @Test func whatTheModelWritesIsSixteenTexts() throws {
    try convert(golden("v4-hf"), to: folder.file("m.rwkv"), .int8)
    let model = try Model(path: folder.file("m.rwkv"), threads: 1)
    let (text, heldOut) = try CalibrationText.generated.tokens(model, threads: 2) { false }
    let length = 2 * Calibration.leastTokens / 16
    let starts = Array(stride(from: 0, to: text.count, by: length))
    #expect(starts.count == 16 && text.count == 16 * length && heldOut.isEmpty)
    #expect(starts.allSatisfy { text[$0] == 0 })
    #expect(Set(starts.map { Array(text[$0..<$0 + length]) }).count == 16)
    let error = #expect(throws: QuantizationError.self) {
      try CalibrationText.generated.tokens(model, threads: 1) { true }
    }
    #expect(error?.description == QuantizationError.cancelled.description)
  }

  @Test func tooMuchLossLeavesNoOutput() throws {
    var options = ConversionOptions()
    options.type = .int4
    options.maximumKL = 1e-9
    let error = #expect(throws: QuantizationError.self) {
      try Conversion.convert(golden("v7-std"), to: folder.file("m.rwkv"), options)
    }
    #expect(error?.description.contains("not written") == true)
    #expect(folder.contents == [])
    options.maximumKL = 10
    let loss = try #require(try Conversion.convert(golden("v7-std"), to: folder.file("m.rwkv"), options).loss)
    #expect(loss.whole.kl > 0 && loss.whole.kl < 10 && loss.whole.tokens > 1000)
    #expect(folder.contents == ["m.rwkv"])
  }

  @Test func aComparisonTellsPositionsApart() throws {
    let exact = folder.file("exact.rwkv")
    try convert(golden("v7-std"), to: exact, .fp32)
    let same = try comparison(exact, exact, Array(Self.text.prefix(700)))
    #expect(same.stretches.map(\.start) == [0, 64, 256])
    #expect(same.stretches.map(\.tokens) == [64, 192, 444] && same.whole.tokens == 700)
    #expect(same.whole.kl == 0 && same.whole.top1 == 1 && same.whole.top10 == 1 && same.whole.stateDrift == 0)
    #expect(same.whole.referenceNats == same.whole.modelNats)
    let model = try Model(path: exact, threads: 1)
    let stopped = #expect(throws: QuantizationError.self) {
      try Comparison(model, model, tokens: Array(0..<100), threads: 1) { _ in false }
    }
    #expect(stopped?.description == QuantizationError.cancelled.description)
  }

  /// |S − S'| / |S| with S the reference's, after the last token of each stretch.
  @Test func stateDriftIsRelativeToTheReference() throws {
    let exact = folder.file("exact.rwkv"), rough = folder.file("rough.rwkv")
    try convert(golden("v7-std"), to: exact, .fp32)
    try convert(golden("v7-std"), to: rough, .int4)
    let tokens = [0] + Self.text.prefix(300).map(Int.init)
    let found = try Comparison(
      Model(path: exact, threads: 1), Model(path: rough, threads: 1), tokens: tokens, threads: 1
    ) { _ in true }
    for stretch in found.stretches {
      let states = try [exact, rough].map { path in
        let session = try Session(Model(path: path, threads: 1), threads: 1)
        try session.prefill(Array(tokens.prefix(stretch.start + stretch.tokens)))
        return (0..<3).flatMap { session.state.wkv($0) }.map(Double.init)
      }
      let difference = zip(states[0], states[1]).reduce(0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) }
      let expected = (difference / states[0].reduce(0) { $0 + $1 * $1 }).squareRoot()
      let other = (difference / states[1].reduce(0) { $0 + $1 * $1 }).squareRoot()
      #expect(abs(stretch.stateDrift / expected - 1) < 1e-5 && abs(other / expected - 1) > 1e-4)
    }
    #expect(found.whole.stateDrift == found.stretches.last?.stateDrift)
  }

  @Test func aRecipeDecidesBeforeTheType() throws {
    let file = try convert(golden("v7-std"), to: folder.file("m.rwkv"), .int4) {
      $0.recipe = try? Recipe("blocks.0.* fp16\nhead.weight int5\n*.att.key.weight fp32", path: "recipe")
    }
    #expect(file["blocks.0.ffn.key.weight"].map { [.f16, .bf16].contains($0.format) } == true)
    #expect(file["head.weight"]?.format == .int5 && file["blocks.1.att.key.weight"]?.format == .f32)
    #expect(file["blocks.1.ffn.key.weight"]?.format == .int4 && file["emb.weight"]?.format == .int8)
    #expect(try Verification.problems(of: file.path) == [])
  }
}
