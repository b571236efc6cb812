// SPDX-License-Identifier: MIT
import CRWKVKernels
import Glibc
import RWKVCheckpoint
import RWKVFormat
import Synchronization
import Testing

@testable import RWKVQuantization

@Suite("Plan")
struct PlanTests {
  private func exactness(_ values: [Float]) -> Exactness { values.withUnsafeBufferPointer { Exactness($0) } }

  @Test func everyFiniteF16IsFoundExact() {
    for bits in UInt16.min...UInt16.max {
      let half = Float16(bitPattern: bits)
      if half.isFinite { #expect(exactness([Float(half)]).f16, "\(half)") }
    }
  }

  /// Around every power of two: the value, its neighbours, and the neighbours in coarser steps.
  @Test func exactnessAgreesWithConversion() {
    for exponent in 0..<255 {
      for shift in 0..<23 {
        for offset: Int32 in -2...2 {
          let pattern = Int32(exponent << 23) + offset << Int32(shift)
          guard pattern >= 0, case let value = Float(bitPattern: UInt32(pattern)), value.isFinite else {
            continue
          }
          let found = exactness([value, -value])
          let half = Float16(value)
          #expect(found.f16 == (Float(half) == value), "\(value)")
          #expect(found.f16Range == half.isFinite, "\(value)")
          #expect(found.bf16 == (value.bitPattern & 0xFFFF == 0), "\(value)")
        }
      }
    }
  }

  @Test func oneInexactValueDecides() {
    let halves = [Float](repeating: 0.5, count: 100)
    #expect(exactness(halves).halfFormat == .f16)
    #expect(exactness(halves + [0x1p-30]).halfFormat == .bf16)
    #expect(exactness(halves + [0.1]).halfFormat == .f16)
    #expect(exactness(halves + [0.1, 1e6]).halfFormat == .bf16)
    #expect(exactness([0, -0.0]).halfFormat == .f16)
  }

  /// Pieces whose sums of errors are of many sizes, so that another order of adding gives other bits; the first ones
  /// take longest, so that several threads finish them last.
  private struct UnevenSource: WeightSource {
    let path = "uneven"
    let tensors = [
      SourceTensor(name: "a", role: .matrix, rows: 24, columns: 1 << 20, transposed: false, isF16: false)
    ]
    func makeReader() -> any WeightReader { Reader() }

    private final class Reader: WeightReader {
      func read(_ tensor: Int, rows: Range<Int>, into values: UnsafeMutableBufferPointer<Float>) {
        values.update(repeating: 0)
        for index in 0..<100 {
          values[index] = (1.1 + Float(index * 7 % 13) / 29) / Float(1 + rows.lowerBound * 37 % 11)
        }
        usleep(UInt32(4000 * (24 - rows.lowerBound) / 24))
      }
    }
  }

  @Test func errorsAreTheSameForAnyNumberOfThreads() throws {
    func found(_ threads: Int) throws -> [UInt64] {
      let all = try UnevenSource().exactness(threads: threads, cancelled: { false }) { _ in true }
      return all.flatMap { [$0.f16Error.bitPattern, $0.bf16Error.bitPattern] }
    }
    let one = try found(1)
    #expect(one.allSatisfy { $0 != 0 })
    for threads in [2, 3, 4] { #expect(try found(threads) == one) }
  }

  /// Rows of more than a million columns: a piece is a row at least.
  private struct WideSource: WeightSource {
    let path = "wide"
    let tensors = [
      SourceTensor(
        name: "a", role: .matrix, rows: 2, columns: (1 << 20) + 1, transposed: false, isF16: false)
    ]
    func makeReader() -> any WeightReader { Reader() }

    private final class Reader: WeightReader {
      func read(_ tensor: Int, rows: Range<Int>, into values: UnsafeMutableBufferPointer<Float>) {
        values.update(repeating: 0)
        if rows.upperBound == 2 { values[values.count - 1] = 0.1 }
      }
    }
  }

  @Test func rowsOfMoreThanAMillionColumnsAreLookedAt() throws {
    let found = try WideSource().exactness(threads: 1, cancelled: { false }) { _ in true }
    #expect(found.map(\.f16) == [false] && found[0].f16Error > 0)
  }

  /// The first chunk takes as long as the test wants.
  private final class SlowStart: WeightSource, @unchecked Sendable {
    let path = "slow"
    let tensors = [
      SourceTensor(name: "a", role: .rows, rows: 24, columns: 1 << 18, transposed: false, isF16: false)
    ]
    let read = Atomic<Int>(0)
    func makeReader() -> any WeightReader { Reader(source: self) }

    private final class Reader: WeightReader {
      let source: SlowStart
      init(source: SlowStart) { self.source = source }

      func read(_ tensor: Int, rows: Range<Int>, into values: UnsafeMutableBufferPointer<Float>) {
        values.update(repeating: 0)
        let number = source.read.add(1, ordering: .relaxed).oldValue
        // Until nothing has moved for long, compared with the time that a chunk takes here.
        let clock = ContinuousClock()
        var (last, since, longest) = (0, clock.now, Duration.milliseconds(50))
        while number == 0, since.duration(to: clock.now) < longest * 8 {
          let now = source.read.load(ordering: .relaxed)
          if now != last {
            longest = max(longest, since.duration(to: clock.now))
            (last, since) = (now, clock.now)
          }
          usleep(1000)
        }
        if number == 0 { source.atRest.store(last, ordering: .relaxed) }
      }
    }
    let atRest = Atomic<Int>(0)
  }

  /// Chunks that wait for one before them cost memory: four for each thread.
  @Test func aSlowChunkHoldsTheOthersBack() throws {
    let folder = TemporaryFolder()
    let source = SlowStart()
    let plan = TensorPlan(name: "a", format: .f32, rows: 24, columns: 1 << 18, rowsPerRecord: 1)
    let writer = try ModelFileWriter(
      path: folder.file("m.rwkv"), overwrite: true, metadata: Metadata(), tensors: [plan], store: true)
    let quantizer = Quantizer(
      source: source, tensors: [PlannedTensor(plan: plan, content: .weights(0))], threads: 2,
      kernels: rk_kernels_best().pointee)
    try quantizer.run(writer, tensors: 0..<1) { _ in true }
    let ahead = source.atRest.load(ordering: .relaxed)
    #expect(writer.tensors[0].chunkCount > 16 && ahead > 1 && ahead <= 8, "\(ahead)")
  }

  /// Large tensors are looked at piece by piece, whose order is that of the threads.
  @Test func everyPieceOfATensorCounts() {
    let pieces: [[Float]] = [[0.5], [0.1], [0x1p-30], [0.1, 1e6], [Float(bitPattern: 0x3F81_0000)], [65520]]
    for first in pieces {
      for second in pieces {
        var union = exactness(first)
        union.formUnion(exactness(second))
        let whole = exactness(first + second)
        #expect((union.f16, union.bf16, union.f16Range) == (whole.f16, whole.bf16, whole.f16Range))
        #expect(union.halfFormat == whole.halfFormat, "\(first), \(second)")
      }
    }
  }

  private func tensor(_ role: TensorRole, _ name: String = "", rows: Int = 64) -> SourceTensor {
    SourceTensor(name: name, role: role, rows: rows, columns: 64, transposed: false, isF16: false)
  }

  /// The format of a tensor of 64 times 64 in a model of this many times 64 weights.
  private func format(_ type: QuantizationType, _ role: TensorRole, among rows: Int = 64 * 64) -> FormatChoice
  {
    type.formats(of: [tensor(role, "blocks.0"), tensor(.matrix, "blocks.1", rows: rows - 64)])[0]
  }

  @Test func onlyBigMatricesGetFewBits() {
    for type in [QuantizationType.int4, .int5] {
      #expect(format(type, .matrix) == (type == .int4 ? .int4 : .int5))
      for role in [TensorRole.embedding, .head, .lowRank] {
        #expect(format(type, role) == .int8)
      }
    }
    #expect(format(.int4Small, .matrix) == .int4 && format(.int4Small, .lowRank) == .int8)
    #expect(format(.int4Small, .embedding) == .int5 && format(.int4Small, .head) == .int5)
    for type in QuantizationType.allCases {
      #expect(format(type, .vector) == .f32)
      #expect(format(type, .state) == .f32)
    }
  }

  /// In the order in which they are executed, not that of the checkpoint.
  @Test(arguments: QuantizationType.allCases) func theLastLayersValueGetsEightBits(type: QuantizationType) {
    let values = [2, 10, 0].map { tensor(.rows, "blocks.\($0).ffn.value.weight") }
    let formats = type.formats(
      of: values + [tensor(.head, "head.weight"), tensor(.matrix, "blocks.10.att.key.weight")])
    let big = formats[4]
    let expected: FormatChoice = type == .int4 || type == .int5 ? .int8 : big
    #expect(Array(formats[..<3]) == [big, expected, big])
  }

  /// Small is what has at most 1/32 of the weights; tables do not count.
  @Test func smallEmbeddingsAndHeadsGetMoreBits() {
    for (role, large) in [(TensorRole.embedding, FormatChoice.int8), (.head, .int5)] {
      #expect(format(.int4, role, among: 32 * 64) == .int8)
      #expect(format(.int4, role, among: 32 * 64 - 1) == large)
      #expect(QuantizationType.int4.formats(of: [tensor(role), tensor(.table, rows: 1 << 20)])[0] == large)
    }
    for (role, small) in [(TensorRole.embedding, FormatChoice.half), (.head, .half), (.matrix, .int8)] {
      #expect(format(.int8, role, among: 32 * 64) == small)
      #expect(format(.int8, role, among: 32 * 64 - 1) == .int8)
    }
  }

  @Test func theFirstRuleThatFitsDecides() throws {
    func tensor(_ name: String, _ role: TensorRole = .matrix) -> SourceTensor {
      SourceTensor(name: name, role: role, rows: 64, columns: 64, transposed: false, isF16: false)
    }
    let recipe = try Recipe(
      """
      # first block
      blocks.0.*  int8   # all of it
      *.ffn.*.weight fp16

      h*d.w*t int5
      """, path: "recipe")
    #expect(recipe.format(of: tensor("blocks.0.ffn.key.weight")) == .int8)
    #expect(recipe.format(of: tensor("blocks.10.ffn.key.weight")) == .half)
    #expect(recipe.format(of: tensor("blocks.1.att.key.weight")) == nil)
    #expect(recipe.format(of: tensor("head.weight")) == .int5)
    #expect(recipe.format(of: tensor("head.weights")) == nil)
    #expect(recipe.format(of: tensor("blocks.0.att.x_k", .vector)) == nil)
    for text in ["blocks.0.*", "a\n* int3", "* int4 int5"] {
      #expect(throws: QuantizationError.self) { try Recipe(text, path: "recipe") }
    }
  }
}
