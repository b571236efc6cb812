// SPDX-License-Identifier: MIT
import CRWKVKernels
import Glibc
import Testing

/// Element-wise functions, sums and norms. `epsilon` is half an ulp of 1: the error of one rounding.
@Suite struct ElementwiseTests {
  static let epsilon = 0x1p-24
  static let cases = allTables.flatMap { table in testLengths.map { (table, $0) } }

  private func expect(_ values: [Float], _ exact: [Double], within limit: (Int) -> Double) {
    for i in values.indices {
      #expect(abs(Double(values[i]) - exact[i]) <= limit(i), "element \(i) of \(values.count)")
    }
  }

  @Test(arguments: cases) func tokenShiftInterpolates(table: String, n: Int) {
    var numbers = Random(2)
    let x = Floats(numbers.floats(n)), previous = Floats(numbers.floats(n)), mu = Floats(numbers.floats(n))
    let y = Floats(zeros: n)
    kernels(table).token_shift(x.pointer, previous.pointer, mu.pointer, n, y.pointer)
    let now = x.doubles, before = previous.doubles, weight = mu.doubles
    let exact = (0..<n).map { now[$0] + (before[$0] - now[$0]) * weight[$0] }
    // The difference is at most 2 and the result at most 3: two roundings.
    expect(y.values, exact) { _ in 4 * Self.epsilon }
    #expect(y.guardsIntact)
  }

  @Test(arguments: cases) func sumsAndProductsRoundOnce(table: String, n: Int) {
    var numbers = Random(3)
    let x = Floats(numbers.floats(n)), start = numbers.floats(n)
    let sum = Floats(start), scaled = Floats(start)
    kernels(table).add(x.pointer, n, sum.pointer)
    kernels(table).add_scaled(0.3, x.pointer, n, scaled.pointer)
    #expect(sum.values == zip(start, x.values).map { $0 + $1 })
    let factor = Double(Float(0.3))
    let exact = zip(start, x.doubles).map { Double($0) + factor * $1 }
    expect(scaled.values, exact) { _ in 2 * Self.epsilon }
    #expect(sum.guardsIntact && scaled.guardsIntact)
  }

  @Test(arguments: allTables, [1, 15, 64, 65, 256]) func momentsDoNotDependOnTheBlocks(table: String, n: Int)
  {
    var numbers = Random(6)
    let (T, ldx) = (7, 272)
    let x = Floats(numbers.floats(T * ldx)), sums = Floats(zeros: 256 * n), parts = Floats(zeros: 256 * n)
    kernels(table).add_moments(x.pointer, ldx, T, n, sums.pointer)
    kernels(table).add_moments(x.pointer, ldx, 3, n, parts.pointer)
    kernels(table).add_moments(x.pointer + 3 * ldx, ldx, T - 3, n, parts.pointer)
    let (values, found, foundBits, partBits) = (x.doubles, sums.doubles, sums.bits, parts.bits)
    var (largest, differences) = (0.0, 0)
    for i in 0..<n {
      for k in i..<n {
        let exact = (0..<T).reduce(0) { $0 + values[$1 * ldx + i] * values[$1 * ldx + k] }
        largest = max(largest, abs(found[256 * i + k] - exact))
        differences += foundBits[256 * i + k] == partBits[256 * i + k] ? 0 : 1
      }
    }
    #expect(largest <= 14 * Self.epsilon * Double(T) && differences == 0)
    #expect(sums.guardsIntact && parts.guardsIntact)
  }

  @Test(arguments: cases) func multiplySigmoidGates(table: String, n: Int) {
    var numbers = Random(4)
    let r = Floats(numbers.floats(n, in: -8...8)), start = numbers.floats(n)
    let y = Floats(start)
    kernels(table).multiply_sigmoid(r.pointer, n, y.pointer)
    let exact = zip(start, r.doubles).map { Double($0) / (1 + exp(-$1)) }
    // Sigmoid 2.5 ulp = 5 epsilon, the product one more.
    expect(y.values, exact) { abs(exact[$0]) * 7 * Self.epsilon }
    #expect(y.guardsIntact)
  }

  @Test(arguments: cases) func reluSquaredKeepsOnlyPositiveValues(table: String, n: Int) {
    var numbers = Random(5)
    let start = numbers.floats(n)
    let x = Floats(start)
    kernels(table).relu_squared(x.pointer, n)
    #expect(x.values == start.map { $0 > 0 ? $0 * $0 : 0 })
    #expect(x.guardsIntact)
  }

  @Test(arguments: allTables) func reluSquaredLetsNaNThrough(table: String) {
    let x = Floats([.nan, -.infinity, .infinity, -0.0])
    kernels(table).relu_squared(x.pointer, 4)
    #expect(x.values[0].isNaN)
    #expect(Array(x.bits[1...]) == [0, Float.infinity.bitPattern, 0])
  }

  @Test(arguments: cases) func decayAddsItsBias(table: String, n: Int) {
    var numbers = Random(6)
    let x = Floats(numbers.floats(n)), bias = Floats(numbers.floats(n, in: -6...1)), y = Floats(zeros: n)
    kernels(table).decay(x.pointer, bias.pointer, n, y.pointer)
    let z = zip(x.doubles, bias.doubles).map { exp($0 + $1) }
    // z ≤ e²; x + bias is at most 7 and off by 4 epsilon, exp adds 2, and both enter as z · error.
    expect(y.values, z.map { exp(-$0) }) { exp(-z[$0]) * (2 + 6 * z[$0]) * Self.epsilon }
    #expect(y.guardsIntact)
  }

  @Test(arguments: cases) func nonzeroListsWhatIsNotZero(table: String, n: Int) {
    var numbers = Random(7)
    var h = numbers.floats(n).map { $0 < 0.4 ? Float(0) : $0 }
    for i in stride(from: 0, to: n, by: 5) { h[i] = -0.0 }
    if n > 8 { h[8] = .nan }
    for (from, to) in [(0, n), (n / 3, n), (n / 4, n / 2)] {
      let expected = (from..<to).filter { h[$0] != 0 }
      var index = [Int32](repeating: -1, count: n)
      let value = Floats(zeros: n), input = Floats(h)
      let count = kernels(table).nonzero(input.pointer, from, to, &index, value.pointer)
      #expect(index.prefix(count).map(Int.init) == expected)
      #expect(Array(value.bits.prefix(count)) == expected.map { h[$0].bitPattern })
      #expect(value.guardsIntact && !index.dropFirst(count).contains { $0 != -1 })
    }
  }

  @Test(arguments: cases) func dotProductIsASumOfProducts(table: String, n: Int) {
    var numbers = Random(8)
    let x = Floats(numbers.floats(n)), y = Floats(numbers.floats(n))
    let products = zip(x.doubles, y.doubles).map { $0 * $1 }
    let exact = products.reduce(0, +), magnitude = products.reduce(0) { $0 + abs($1) }
    // A lane adds n / 16 terms, the tree four times.
    let limit = Double(n / 16 + 6) * Self.epsilon * magnitude
    #expect(abs(Double(kernels(table).dot(x.pointer, y.pointer, n)) - exact) <= limit)
  }

  @Test(arguments: cases) func shiftedExponentialsAndTheirSum(table: String, n: Int) {
    var numbers = Random(9)
    let start = numbers.floats(n, in: -30...30)
    let max = start.max()!
    let x = Floats(start)
    let sum = kernels(table).exp_shifted(x.pointer, n, max)
    let exact = start.map { exp(Double($0) - Double(max)) }
    // The difference, at most 60, is off by 32 epsilon.
    expect(x.values, exact) { exact[$0] * 35 * Self.epsilon }
    let added = x.values.reduce(0) { $0 + Double($1) }
    #expect(abs(Double(sum) - added) <= Double(n / 16 + 6) * Self.epsilon * added)
    #expect(x.guardsIntact)
  }

  @Test(arguments: cases) func softmaxTermsOfAllLogits(table: String, n: Int) {
    var numbers = Random(12)
    var start = numbers.floats(n, in: -30...30)
    let max = start.max()!
    if n > 4 { (start[1], start[2], start[3]) = (-.infinity, max - 700, max - 720) }
    let x = Floats(start)
    let groups = (n + Int(RK_LOGIT_GROUP) - 1) / Int(RK_LOGIT_GROUP)
    let total = start.reduce(0) { $0 + exp(Double($1) - Double(max)) }
    #expect(abs(kernels(table).sum_exp(x.pointer, n, max) - total) < 0x1p-16 * total)
    var terms = [Double](repeating: -1, count: n + 1), sums = [Double](repeating: -1, count: groups + 1)
    for scale in [1, 0.7, 1e300] {
      kernels(table).softmax_terms(x.pointer, n, max, scale, &terms, &sums)
      for (term, logit) in zip(terms, start) {
        let power = (Double(logit) - Double(max)) * scale
        let exact = power > -708 ? exp(power) : 0
        #expect(abs(term - exact) <= 8 * Double.ulpOfOne * exact)
      }
      for group in 0..<groups {
        let exact = terms[(64 * group)..<min(64 * group + 64, n)].reduce(0, +)
        #expect(abs(sums[group] - exact) <= 64 * Double.ulpOfOne * exact)
      }
      #expect(terms[n] == -1 && sums[groups] == -1)
      var (definition, others) = ([Double](repeating: 0, count: n), [Double](repeating: 0, count: groups))
      scalarKernels.softmax_terms(x.pointer, n, max, scale, &definition, &others)
      #expect(Array(terms[..<n]) == definition && Array(sums[..<groups]) == others)
      kernels(table).softmax_terms(x.pointer, n, max, scale, nil, &others)
      #expect(Array(sums[..<groups]) == others)
    }
  }

  @Test(arguments: cases) func maximaOfGroupsAndWhatIsNotFinite(table: String, n: Int) {
    var numbers = Random(13)
    var start = numbers.floats(n, in: -30...30)
    if n > 2 { start[n / 2] = -.infinity }
    let groups = stride(from: 0, to: n, by: Int(RK_LOGIT_GROUP)).map { start[$0..<min($0 + 64, n)].max()! }
    let x = Floats(start), maxima = Floats(zeros: groups.count)
    var least: Float = 0
    #expect(kernels(table).maxima(x.pointer, n, maxima.pointer, &least) != 0)
    #expect(maxima.values == groups && maxima.guardsIntact)
    #expect(least == start.filter { $0 > -.infinity }.min())
    for wrong in [Float.nan, .infinity] {
      for place in [0, n / 3, n - 1] {
        x.pointer.update(from: start, count: n)
        x.pointer[place] = wrong
        #expect(kernels(table).maxima(x.pointer, n, maxima.pointer, &least) == 0)
      }
    }
  }

  @Test(arguments: cases) func whatLiesWithinTwoBounds(table: String, n: Int) {
    var numbers = Random(14)
    let start = numbers.floats(n, in: -30...30)
    for (low, high): (Float, Float) in [(-31, 31), (-10, 5), (start[0], start[0]), (3, 2)] {
      let expected = start.indices.filter { start[$0] >= low && start[$0] <= high }
      var index = [Int32](repeating: -1, count: n)
      let x = Floats(start), value = Floats(zeros: n)
      let count = kernels(table).within(x.pointer, n, low, high, &index, value.pointer)
      #expect(index.prefix(count).map(Int.init) == expected)
      #expect(value.values.prefix(count) == expected.map { start[$0] }[...] && value.guardsIntact)
    }
  }

  @Test(arguments: cases) func layerNormHasMeanZeroAndVarianceOne(table: String, n: Int) {
    var numbers = Random(10)
    let weight = Floats(numbers.floats(n)), bias = Floats(numbers.floats(n)), y = Floats(zeros: n)
    for offset in [Float(0), 100] {
      let x = Floats(numbers.floats(n).map { $0 + offset })
      kernels(table).layer_norm(x.pointer, weight.pointer, bias.pointer, n, 1e-5, y.pointer)
      let values = x.doubles, weights = weight.doubles, biases = bias.doubles
      let mean = values.reduce(0, +) / Double(n)
      let variance = values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(n)
      let scale = 1 / (variance + Double(Float(1e-5))).squareRoot()
      let exact = (0..<n).map { (values[$0] - mean) * scale * weights[$0] + biases[$0] }
      // The mean is off by (n / 64 + 9) epsilon of the largest value, and `scale` carries that into the result.
      let shift = Double(n / 64 + 9) * Self.epsilon * Double(abs(offset) + 1)
      expect(y.values, exact) { _ in (2 * shift + 16 * Self.epsilon) * scale + 4 * Self.epsilon }
      #expect(y.guardsIntact)
    }
  }

  @Test func layerNormOfAConstantIsItsBias() {
    for table in allTables {
      let x = Floats([Float](repeating: 3, count: 100)), bias = Floats((0..<100).map(Float.init)),
        y = Floats(zeros: 100)
      kernels(table).layer_norm(x.pointer, x.pointer, bias.pointer, 100, 1e-5, y.pointer)
      #expect(y.values == bias.values)
    }
  }

  /// All functions on one set of inputs; bits of all results.
  private func bits(_ k: rk_kernels, _ n: Int) -> [UInt32] {
    var numbers = Random(11)
    let a = Floats(numbers.floats(n)), b = Floats(numbers.floats(n)),
      c = Floats(numbers.floats(n, in: -9...9))
    var all: [UInt32] = []
    func run(_ body: (UnsafeMutablePointer<Float>) -> Void) {
      let y = Floats(c.values)
      body(y.pointer)
      all += y.bits
    }
    run { k.layer_norm(c.pointer, a.pointer, b.pointer, n, 1e-5, $0) }
    run { k.token_shift(a.pointer, b.pointer, c.pointer, n, $0) }
    run { k.add(a.pointer, n, $0) }
    run { k.multiply_sigmoid(a.pointer, n, $0) }
    run { k.relu_squared($0, n) }
    run { k.decay(a.pointer, b.pointer, n, $0) }
    run { k.add_scaled(0.7, a.pointer, n, $0) }
    run { all.append(k.exp_shifted($0, n, 9).bitPattern) }
    all.append(k.dot(a.pointer, c.pointer, n).bitPattern)
    return all
  }

  @Test(arguments: testLengths) func tablesAgreeBitForBit(n: Int) {
    let scalar = bits(scalarKernels, n)
    for table in tableNames { #expect(bits(kernels(table), n) == scalar, "\(table)") }
  }
}
