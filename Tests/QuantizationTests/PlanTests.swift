import RWKVCheckpoint
import RWKVFormat
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

  @Test func onlyBigMatricesGetFewBits() {
    let exact = Exactness()
    for type in [QuantizationType.int4, .int5] {
      #expect(type.format(for: .matrix, exactness: exact) == (type == .int4 ? .int4 : .int5))
      #expect(type.format(for: .rows, exactness: exact) == (type == .int4 ? .int4 : .int5))
      for role in [TensorRole.embedding, .head, .lowRank] {
        #expect(type.format(for: role, exactness: exact) == .int8)
      }
    }
    for type in QuantizationType.allCases {
      #expect(type.format(for: .vector, exactness: exact) == .f32)
      #expect(type.format(for: .state, exactness: exact) == .f32)
    }
  }
}
