// SPDX-License-Identifier: MIT
import CRWKVKernels
import Testing

/// Weights on tables without fused multiply-add: the same records and codes, sums within rounding.
@Suite struct UnfusedTests {
  private let columns = 320  // more than one superblock of 256

  @Test(arguments: Format.allCases, unfusedTables)
  func recordsAreTheSameBytes(format: Format, table: String) {
    let x = MatrixProducts.matrix(rows: 16, columns: columns)
    for panels in [false, true] {
      let expected = encode(x, format, columns: columns, panels: panels, with: scalarKernels)
      #expect(encode(x, format, columns: columns, panels: panels, with: kernels(table)) == expected)
      let decoded = decode(expected, format, rows: 16, columns: columns, panels: panels, with: scalarKernels)
      let found = decode(expected, format, rows: 16, columns: columns, panels: panels, with: kernels(table))
      #expect(zip(found, decoded).allSatisfy { abs($0 - $1) <= $1.magnitude.ulp })
    }
  }

  /// A code is off by one where x · inverse lies halfway between two.
  @Test(arguments: unfusedTables) func activationsDifferByOneStepAtMost(table: String) {
    var random = Random(40)
    let x = random.gaussians(20 * columns)
    let expected = Input(x, columns: columns, with: scalarKernels)
    let found = Input(x, columns: columns, with: kernels(table))
    #expect(found.scale.values == expected.scale.values)
    for i in 0..<expected.high.count {
      let high = Int(found.high[i]) - Int(expected.high[i]), low = Int(found.low[i]) - Int(expected.low[i])
      #expect(abs(128 * high + low) <= 1)
    }
  }

  @Test(arguments: Format.allCases, unfusedTables)
  func productsAgreeWithinRounding(format: Format, table: String) {
    let w = MatrixProducts.matrix(rows: 16, columns: columns)
    let panel = encode(w, format, columns: columns, panels: true, with: scalarKernels)
    let decoded = decode(panel, format, rows: 16, columns: columns, panels: true, with: scalarKernels)
    var random = Random(41)
    let x = Input(random.gaussians(5 * columns), columns: columns, with: scalarKernels)
    let expected = x.multiplied(by: panel, format, with: scalarKernels)
    let found = x.multiplied(by: panel, format, with: kernels(table))
    #expect(expected.count == 80)
    for i in expected.indices {
      let (t, r) = (i / 16, i % 16)
      let magnitude = (0..<columns).reduce(0.0) {
        $0 + abs(Double(decoded[r * columns + $1]) * x.seen(by: format, t, $1))
      }
      // Both round on every column pair at most, once or twice.
      #expect(abs(Double(found[i]) - Double(expected[i])) <= Double(3 * columns / 2) * 0x1p-24 * magnitude)
    }
  }
}
