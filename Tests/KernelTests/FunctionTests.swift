// SPDX-License-Identifier: MIT
import CRWKVKernels
import Glibc
import Testing

/// Exponential functions against libm in double precision.
@Suite struct FunctionTests {
  /// Every magnitude from 2^-149 to 2^7 in both signs, and the places where results change their kind.
  static let arguments: [Float] = {
    var numbers = Random(1)
    var x: [Float] = [
      0, -0.0, 0.5, 1, 20, 88.72283, 88.72284, 89, 100, 1e10, .infinity, .leastNonzeroMagnitude,
    ]
    x += [87.33654, 87.33655, 103.27892, 103.9720, 103.9721, 104, 150, .greatestFiniteMagnitude, 9.01, 9.02]
    for exponent in -149...6 {
      x += numbers.floats(40, in: 1...2).map { $0 * Float(sign: .plus, exponent: exponent, significand: 1) }
    }
    x += numbers.floats(20_000, in: 0...104)
    return x + x.map { -$0 } + [.nan]
  }()

  private func worstError(
    _ apply: (UnsafeMutablePointer<Float>, Int) -> Void, _ exact: (Double) -> Double
  ) -> (error: Double, argument: Float) {
    let x = Floats(Self.arguments)
    apply(x.pointer, x.count)
    #expect(x.guardsIntact)
    var worst = (error: 0.0, argument: Float(0))
    for (value, argument) in zip(x.values, Self.arguments) {
      let error = ulpError(value, exact(Double(argument)))
      if error > worst.error { worst = (error, argument) }
    }
    return worst
  }

  @Test(arguments: allTables) func exponentialIsWithinItsError(table: String) {
    let worst = worstError({ _ = kernels(table).exp_shifted($0, $1, 0) }, { exp($0) })
    #expect(worst.error <= 1.01, "at \(worst.argument)")
  }

  @Test(arguments: allTables) func sigmoidIsWithinItsError(table: String) {
    let worst = worstError(
      { kernels(table).sigmoid($0, $1) }, { $0 < 0 ? exp($0) / (1 + exp($0)) : 1 / (1 + exp(-$0)) })
    #expect(worst.error <= 2.41, "at \(worst.argument)")
  }

  @Test(arguments: allTables) func hyperbolicTangentIsWithinItsError(table: String) {
    let worst = worstError({ kernels(table).tanh($0, $1) }, { tanh($0) })
    #expect(worst.error <= 2.5, "at \(worst.argument)")
  }

  /// An inner error of one ulp times z = exp(x) becomes a relative error z times as large of exp(−z).
  @Test(arguments: allTables) func decayIsAsPreciseAsItsInnerExponentialAllows(table: String) {
    for x in Self.arguments where x < 50 {
      var input = x
      var y: Float = .nan
      kernels(table).decay(&input, nil, 1, &y)
      let z = exp(Double(x))
      let limit = max(Double(Float(exp(-z)).ulp) * (1 + 2 * z), Double(Float.leastNonzeroMagnitude))
      #expect(abs(Double(y) - exp(-z)) <= limit, "at \(x)")
    }
  }

  @Test(arguments: allTables) func limitsAreExact(table: String) {
    func results(_ apply: (UnsafeMutablePointer<Float>, Int) -> Void) -> [Float] {
      let x = Floats([-.infinity, -1000, -0.0, 1000, .infinity])
      apply(x.pointer, x.count)
      return x.values
    }
    #expect(results { _ = kernels(table).exp_shifted($0, $1, 0) } == [0, 0, 1, .infinity, .infinity])
    #expect(results { kernels(table).sigmoid($0, $1) } == [0, 0, 0.5, 1, 1])
    #expect(results { kernels(table).tanh($0, $1) } == [-1, -1, 0, 1, 1])
    #expect(results { kernels(table).decay($0, nil, $1, $0) } == [1, 1, exp(-1), 0, 0])
    let zero = Floats([-0.0])
    kernels(table).tanh(zero.pointer, 1)
    #expect(zero.bits == [0x8000_0000])
  }

  @Test func tablesAgreeBitForBit() {
    typealias Apply = @Sendable (rk_kernels, UnsafeMutablePointer<Float>, Int) -> Void
    let functions: [Apply] = [
      { _ = $0.exp_shifted($1, $2, 0) }, { $0.sigmoid($1, $2) }, { $0.tanh($1, $2) },
      { $0.decay($1, nil, $2, $1) },
    ]
    let finite = Self.arguments.filter { !$0.isNaN }
    for apply in functions {
      let results = tableNames.map { table in
        let x = Floats(finite)
        apply(kernels(table), x.pointer, x.count)
        return x.bits
      }
      for other in results { #expect(other == results[0]) }
    }
  }
}
