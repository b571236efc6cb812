// SPDX-License-Identifier: MIT

/// Floats between NaNs: a kernel that reads past either end spoils its result, one that writes there is seen.
final class Floats {
  private static let guardLength = 32
  private static let guardBits: UInt32 = 0x7fc0_1234
  private let base: UnsafeMutablePointer<Float>
  let count: Int
  var pointer: UnsafeMutablePointer<Float> { base + Self.guardLength }

  init(_ values: [Float]) {
    count = values.count
    base = .allocate(capacity: count + 2 * Self.guardLength)
    base.initialize(repeating: Float(bitPattern: Self.guardBits), count: count + 2 * Self.guardLength)
    pointer.update(from: values, count: count)
  }

  convenience init(zeros count: Int) { self.init([Float](repeating: 0, count: count)) }

  deinit { base.deallocate() }

  var values: [Float] { Array(UnsafeBufferPointer(start: pointer, count: count)) }
  var doubles: [Double] { values.map(Double.init) }
  var bits: [UInt32] { values.map(\.bitPattern) }

  var guardsIntact: Bool {
    (0..<Self.guardLength).allSatisfy {
      base[$0].bitPattern == Self.guardBits && pointer[count + $0].bitPattern == Self.guardBits
    }
  }
}

extension Random {
  mutating func floats(_ count: Int, in range: ClosedRange<Float> = -1...1) -> [Float] {
    (0..<count).map { _ in range.lowerBound + (range.upperBound - range.lowerBound) * uniform() }
  }
}

/// |value − exact| in units of the last place of the exact number rounded to Float; infinite where one of both is NaN.
func ulpError(_ value: Float, _ exact: Double) -> Double {
  if value.isNaN || exact.isNaN { return value.isNaN && exact.isNaN ? 0 : .infinity }
  let rounded = Float(exact)
  if value == rounded { return 0 }
  return abs(Double(value) - exact) / Double(rounded.magnitude.ulp)
}

/// Lengths around one and several vectors of 16.
let testLengths = [1, 7, 15, 16, 17, 63, 64, 100, 768]

/// Bit patterns, so that NaN and the sign of zero count.
func bits(_ x: [Float]) -> [UInt32] { x.map(\.bitPattern) }
