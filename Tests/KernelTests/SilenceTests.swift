// SPDX-License-Identifier: MIT
import CRWKVKernels
import Glibc
import Testing

/// The same token 100,000 times, with decays at their limits: nothing overflows, vanishes wrongly or drifts away from
/// the recurrence in double precision.
///
/// Keys, values and receptances are constants, so the references are their formulas in the simplest form. Group norms
/// have weight 1 and bias 0.
@Suite struct SilenceTests {
  static let tokens = 100_000
  static let block = 1000
  static let N = 8
  /// Each token rounds a value once or a few times, by 2^-24 of it at most each: where nothing decays, that adds up.
  static let drift = Double(tokens) * 0x1p-24

  /// Largest difference, in units of the largest exact value.
  private func distance(_ found: [Float], _ exact: [Double]) -> Double {
    let magnitude = exact.reduce(1e-30) { max($0, abs($1)) }
    return zip(found, exact).reduce(0) { largest, pair in
      pair.0.isFinite ? max(largest, abs(Double(pair.0) - pair.1) / magnitude) : .infinity
    }
  }

  private func normalized(_ y: [Double], epsilon: Double) -> [Double] {
    let mean = y.reduce(0, +) / Double(y.count)
    let variance = y.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(y.count)
    return y.map { ($0 - mean) / (variance + epsilon).squareRoot() }
  }

  private func repeated(_ row: [Float]) -> Floats {
    Floats((0..<Self.block).flatMap { _ in row })
  }

  // MARK: - RWKV-7

  struct Seven: CustomTestStringConvertible, Sendable {
    let testDescription: String
    /// What is in the exponent of the decay, and before the activation of the rate.
    let decay, rate: Float
    var keyScale: Float = 1
  }

  static let sevens = [
    Seven(testDescription: "no decay, no removal", decay: -110, rate: -110),
    Seven(testDescription: "no decay, full removal", decay: -110, rate: 110),
    Seven(testDescription: "slow decay", decay: -12, rate: 0),
    Seven(testDescription: "usual", decay: -2, rate: 1),
    Seven(testDescription: "fastest decay", decay: 110, rate: 0),
    Seven(testDescription: "keys of length zero", decay: -3, rate: 0, keyScale: 0),
    Seven(testDescription: "keys that underflow", decay: -3, rate: 0, keyScale: 1e-30),
  ]

  @Test(arguments: sevens) func wkv7(_ test: Seven) {
    let N = Self.N
    var numbers = Random(40)
    let (r, v) = (numbers.floats(N), numbers.floats(N))
    let k = numbers.floats(N).map { $0 * test.keyScale }
    let start = numbers.floats(N * N)
    let exact = reference(test, r, k, v, start)
    let rows = [
      r, k, v, [Float](repeating: 1, count: N), [Float](repeating: test.decay, count: N),
      [Float](repeating: test.rate, count: N),
    ].map(repeated)
    for table in allTables {
      let found = run(kernels(table), rows, start)
      #expect(distance(found.state, exact.state) <= Self.drift, "\(table)")
      #expect(distance(found.y, exact.y) <= Self.drift, "\(table)")
    }
  }

  /// State and last output. `rows`: r, k, v, g, decay, rate.
  private func run(
    _ kernels: rk_kernels, _ rows: [Floats], _ start: [Float]
  ) -> (state: [Float], y: [Float]) {
    let N = Self.N
    let (zero, one) = (Floats(zeros: N), Floats([Float](repeating: 1, count: N)))
    let (state, first, y) = (
      Floats(start), Floats(zeros: Self.block * N), Floats(zeros: Self.block * N)
    )
    for _ in 0..<Self.tokens / Self.block {
      var head = rk_wkv7(
        T: Self.block, N: N, stride: N, r: rows[0].pointer, k: rows[1].pointer, v: rows[2].pointer,
        g: rows[3].pointer, decay: rows[4].pointer, rate: rows[5].pointer, v_mix: nil, v_first: first.pointer,
        w0: zero.pointer, a0: zero.pointer, v0: nil, k_k: one.pointer, k_a: zero.pointer, r_k: zero.pointer,
        ln_weight: one.pointer, ln_bias: zero.pointer, epsilon: 64e-5, state: state.pointer, y: y.pointer)
      kernels.wkv7(&head)
    }
    return (state.values, Array(y.values.suffix(N)))
  }

  /// S ← S diag(w) − (S kk)(kk · a)ᵀ + v kᵀ, the state as [key, value].
  private func reference(
    _ test: Seven, _ r: [Float], _ k: [Float], _ v: [Float], _ start: [Float]
  ) -> (state: [Double], y: [Double]) {
    let N = Self.N
    func logistic(_ x: Float) -> Double { 1 / (1 + exp(-Double(x))) }
    let (w, a) = (exp(-exp(-0.5) * logistic(test.decay)), logistic(test.rate))
    let length = k.reduce(0) { $0 + Double($1) * Double($1) }.squareRoot()
    let unit = k.map { Double($0) / max(length, 1e-12) }
    var S = start.map { Double($0) }
    var found = [Double](repeating: 0, count: N)
    S.withUnsafeMutableBufferPointer { S in
      for _ in 0..<Self.tokens {
        for i in 0..<N {
          var sum = 0.0
          for j in 0..<N { sum += S[j * N + i] * unit[j] }
          found[i] = sum
        }
        for j in 0..<N {
          for i in 0..<N {
            S[j * N + i] = S[j * N + i] * w - found[i] * unit[j] * a + Double(v[i]) * Double(k[j])
          }
        }
      }
    }
    let y = (0..<N).map { i in (0..<N).reduce(0.0) { $0 + S[$1 * N + i] * Double(r[$1]) } }
    return (S, normalized(y, epsilon: 64e-5))
  }

  // MARK: - RWKV-5 and 6

  /// Decays exp(−exp(x)) from exactly 1 to exactly 0.
  @Test(arguments: [Float(-110), -12, -1, 1, 5, 110], allTables) func wkv6(exponent: Float, table: String) {
    let N = Self.N
    var numbers = Random(41)
    let (r, k, v, u) = (numbers.floats(N), numbers.floats(N), numbers.floats(N), numbers.floats(N))
    let decays = Floats([Float](repeating: exponent, count: N))
    kernels(table).decay(decays.pointer, nil, N, decays.pointer)
    let w = Double(decays.values[0])
    #expect(abs(w - exp(-exp(Double(exponent)))) <= 1e-7)
    let rows = [r, k, v].map(repeated)
    let (zero, one, bonus) = (Floats(zeros: N), Floats([Float](repeating: 1, count: N)), Floats(u))
    let (state, y) = (Floats(zeros: N * N), Floats(zeros: Self.block * N))
    for _ in 0..<Self.tokens / Self.block {
      var head = rk_wkv6(
        T: Self.block, N: N, stride: N, r: rows[0].pointer, k: rows[1].pointer, v: rows[2].pointer, g: nil,
        w: decays.pointer, w_stride: 0, u: bonus.pointer, ln_weight: one.pointer, ln_bias: zero.pointer,
        epsilon: 64e-5, state: state.pointer, y: y.pointer)
      kernels(table).wkv6(&head)
    }
    // Σ wⁿ: the state is that times k v, one token less when y is formed.
    var (before, sum) = (0.0, 0.0)
    for _ in 0..<Self.tokens { (before, sum) = (sum, sum * w + 1) }
    let exact = (0..<N * N).map { Double(k[$0 / N]) * Double(v[$0 % N]) * sum }
    #expect(distance(state.values, exact) <= Self.drift)
    let seen = (0..<N).reduce(0.0) { $0 + Double(r[$1]) * Double(k[$1]) * (before + Double(u[$1])) }
    let out = v.map { seen * Double($0) }
    #expect(distance(Array(y.values.suffix(N)), normalized(out, epsilon: 64e-5)) <= Self.drift)
  }

  // MARK: - RWKV-4

  /// −exp(decay) from nearly 0 to far below, and keys far out on both sides. The average of equal values is that value.
  @Test(arguments: [Float(-1e-30), -1e-3, -1, -1e4, -3e38], allTables) func wkv4(decay: Float, table: String)
  {
    let n = 16
    let keys: [Float] = [
      -9e29, -1e20, -1e4, -100, -1, -1e-30, 0, 1e-30, 1, 87, 89, 100, 1e4, 1e30, 1e38, 3e38,
    ]
    var numbers = Random(42)
    let v = numbers.floats(n)
    let rows = [[Float](repeating: 200, count: n), keys, v].map(repeated)
    let w = Floats([Float](repeating: decay, count: n)), u = Floats(zeros: n)
    let state = [Floats(zeros: n), Floats(zeros: n), Floats([Float](repeating: -1e30, count: n))]
    let y = Floats(zeros: Self.block * n)
    for _ in 0..<Self.tokens / Self.block {
      var channels = rk_wkv4(
        T: Self.block, n: n, stride: n, r: rows[0].pointer, k: rows[1].pointer, v: rows[2].pointer,
        w: w.pointer, u: u.pointer, aa: state[0].pointer, bb: state[1].pointer, pp: state[2].pointer,
        y: y.pointer)
      kernels(table).wkv4(&channels)
    }
    let last = Array(y.values.suffix(n))
    #expect(last.allSatisfy { $0.isFinite } && state.flatMap(\.values).allSatisfy { $0.isFinite })
    // Below −1e30, where the running maximum starts, the original divides zero by zero.
    for channel in 0..<n {
      #expect(abs(last[channel] - v[channel]) <= Float(Self.drift) * abs(v[channel]), "\(keys[channel])")
    }
  }
}
