// SPDX-License-Identifier: MIT
import Foundation
import RWKV
import RWKVQuantization
import Testing

/// State tracking as a test of bits: a tiny RWKV-7 that keeps eight registers, each holding one of eight values,
/// through any number of writes and reads (examples/automaton, tools/train/automaton.py). One wrong bit of state is a
/// wrong answer.
@Suite("Automaton")
struct AutomatonTests {
  static let checkpoint = URL(filePath: #filePath).deletingLastPathComponent()
    .appending(path: "../../examples/automaton/automaton.safetensors").standardized
  static let steps = 100_000

  /// Token 8 i + x writes x into register i; token 64 + i asks for it. The right answer, or nil after a write.
  private struct Sequence {
    var registers = [Int](repeating: 0, count: 8)
    var step = 0
    var random = SystemRandom(seed: 3)

    mutating func next() -> (token: Int, answer: Int?) {
      defer { step += 1 }
      if step < 8 { return (8 * step, nil) }
      let (index, value) = (random.next(8), random.next(8))
      guard random.next(2) == 0 else { return (64 + index, registers[index]) }
      registers[index] = value
      return (8 * index + value, nil)
    }
  }

  private struct SystemRandom {
    var state: UInt64
    init(seed: UInt64) { state = seed }

    mutating func next(_ bound: UInt64) -> Int {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return Int((state >> 33) % bound)
    }
  }

  private func model(_ type: QuantizationType, calibrated: Bool = false) throws -> Model {
    let path = try TemporaryFiles.shared.path(for: "automaton-\(type)-\(calibrated)") { path in
      var options = ConversionOptions()
      options.type = type
      var sequence = Sequence()
      if calibrated { options.calibration = .tokens((0..<4096).map { _ in sequence.next().token }) }
      _ = try Conversion.convert(Self.checkpoint.path, to: path, options)
    }
    return try Model(path: path, threads: 1)
  }

  /// Steps until the first wrong answer, at most `steps`, and the smallest lead of a right answer over the others.
  private func track(_ model: Model) throws -> (steps: Int, margin: Float) {
    let session = try Session(model, threads: 1)
    var (sequence, margin) = (Sequence(), Float.infinity)
    for start in stride(from: 0, to: Self.steps, by: 4096) {
      let part = (start..<min(start + 4096, Self.steps)).map { _ in sequence.next() }
      var wrong: Int?
      try session.forEachLogits(part.map(\.token)) { index, logits in
        guard wrong == nil, let answer = part[index].answer else { return }
        let other = (0..<8).filter { $0 != answer }.map { logits[$0] }.max() ?? 0
        margin = min(margin, logits[answer] - other)
        if logits[answer] <= other { wrong = start + index }
      }
      if let wrong { return (wrong, margin) }
    }
    return (Self.steps, margin)
  }

  @Test(arguments: [QuantizationType.fp16, .int8, .int5, .int4]) func everyTypeKeepsTheState(
    type: QuantizationType
  ) throws {
    let (steps, margin) = try track(model(type))
    // Four bits move the smallest lead by 2 %: a state that drifted would lose all of it.
    #expect(steps == Self.steps && margin > 16)
  }

  @Test func calibratedFourBitsKeepTheState() throws {
    let (steps, margin) = try track(model(.int4, calibrated: true))
    // Four bits move the smallest lead by 2 %: a state that drifted would lose all of it.
    #expect(steps == Self.steps && margin > 16)
  }
}
