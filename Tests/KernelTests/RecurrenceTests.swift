// SPDX-License-Identifier: MIT
import CRWKVKernels
import Testing

/// The recurrences against their formulas in double precision. Rounding errors pass through a state and a norm, so the
/// tolerance is measured: a kernel may be off by 4 times what the same formulas in plain single precision are off by.
@Suite struct RecurrenceTests {
  static let tokens = [1, 5, 40]
  static let headSizes = [8, 16, 63, 64]
  static let shapes = headSizes.flatMap { N in tokens.map { Shape(N: N, T: $0) } }

  struct Shape: Sendable { let N: Int, T: Int }

  /// The gaps between tokens are zero on both sides.
  private func expect(_ values: [Float], _ single: [Float], _ exact: [Double], _ what: String) {
    func error(_ x: [Float]) -> Double { zip(x, exact).reduce(0) { max($0, abs(Double($1.0) - $1.1)) } }
    let magnitude = exact.reduce(0) { max($0, abs($1)) }
    #expect(values.allSatisfy { $0.isFinite } && magnitude > 0)
    #expect(error(single) < 1e-3 * magnitude, "the tolerance for \(what) would prove nothing")
    #expect(error(values) <= 4 * error(single) + 0x1p-22 * magnitude, "\(what)")
  }

  @Test(arguments: shapes, [false, true]) func wkv7FollowsItsFormula(shape: Shape, later: Bool) {
    let head = Wkv7Case(T: shape.T, N: shape.N, later: later, seed: 20)
    let single = head.plain(Float.self), exact = head.plain(Double.self)
    for table in allTables {
      let run = head.run(table)
      expect(run.result.y, single.y, exact.y, "y, \(table)")
      expect(run.result.state, single.state, exact.state, "state, \(table)")
      #expect(run.guards)
      // Layer 0 hands its values on; later layers leave them alone.
      let kept = later ? head.vFirst : head.v
      for t in 0..<shape.T {
        let row = t * head.stride..<t * head.stride + shape.N
        #expect(run.vFirst[row] == kept[row])
      }
    }
  }

  @Test(arguments: shapes, [(false, false), (false, true), (true, true)])
  func wkv6FollowsItsFormula(shape: Shape, form: (perToken: Bool, gated: Bool)) {
    let head = Wkv6Case(T: shape.T, N: shape.N, perToken: form.perToken, gated: form.gated, seed: 21)
    let single = head.plain(Float.self), exact = head.plain(Double.self)
    for table in allTables {
      let run = head.run(table)
      expect(run.result.y, single.y, exact.y, "y, \(table)")
      expect(run.result.state, single.state, exact.state, "state, \(table)")
      #expect(run.guards)
    }
  }

  @Test(arguments: shapes) func wkv4FollowsItsFormula(shape: Shape) {
    let head = Wkv4Case(T: shape.T, n: shape.N, seed: 22)
    let single = head.plain(Float.self), exact = head.plain(Double.self)
    for table in allTables {
      let run = head.run(table)
      expect(run.result.y, single.y, exact.y, "y, \(table)")
      #expect(run.guards)
    }
  }

  @Test(arguments: shapes) func tokensTogetherEqualTokensOneByOne(shape: Shape) {
    let seven = Wkv7Case(T: shape.T, N: shape.N, later: true, seed: 23)
    let six = Wkv6Case(T: shape.T, N: shape.N, perToken: true, gated: true, seed: 24)
    let four = Wkv4Case(T: shape.T, n: shape.N, seed: 25)
    for table in allTables {
      #expect(bits(seven.run(table).result) == bits(seven.run(table, block: 1).result), "\(table)")
      #expect(bits(six.run(table).result) == bits(six.run(table, block: 1).result), "\(table)")
      #expect(bits(four.run(table).result) == bits(four.run(table, block: 1).result), "\(table)")
    }
  }

  @Test(arguments: headSizes + [1, 100, 128, 256]) func tablesAgreeBitForBit(N: Int) {
    let seven = Wkv7Case(T: 3, N: N, later: true, seed: 26)
    let six = Wkv6Case(T: 3, N: N, perToken: true, gated: true, seed: 27)
    let four = Wkv4Case(T: 3, n: N, seed: 28)
    let results = tableNames.map {
      bits(seven.run($0).result) + bits(six.run($0).result) + bits(four.run($0).result)
    }
    for (table, result) in zip(tableNames, results) { #expect(result == results[0], "\(table)") }
  }

  @Test(arguments: allTables) func extremeLogitsStayFinite(table: String) {
    let head = Wkv7Case(T: 40, N: 64, later: true, seed: 29, logitScale: 50)
    let run = head.run(table).result, exact = head.plain(Double.self), single = head.plain(Float.self)
    expect(run.y, single.y, exact.y, "y")
    expect(run.state, single.state, exact.state, "state")
  }

  @Test(arguments: allTables) func zeroKeysOnlyDecayTheState(table: String) {
    var head = Wkv7Case(T: 1, N: 64, later: false, seed: 30)
    for i in 0..<64 { head.k[i] = 0 }
    let run = head.run(table).result, exact = head.plain(Double.self)
    expect(run.y, head.plain(Float.self).y, exact.y, "y")
    #expect(zip(run.state, head.state).allSatisfy { abs($0) <= abs($1) && $0.isFinite })
  }

  /// Shifting all keys by a constant leaves a weighted average as it is, however large the exponents become.
  @Test(arguments: allTables) func wkv4StaysFiniteForLargeExponents(table: String) {
    let plain = Wkv4Case(T: 40, n: 64, seed: 31)
    for shift in [Float(-65536), 65536] {
      var shifted = plain
      // Multiples of 1/64 survive the addition unrounded.
      shifted.k = plain.k.map { ($0 * 64).rounded() / 64 + shift }
      var rounded = plain
      rounded.k = plain.k.map { ($0 * 64).rounded() / 64 }
      rounded.w = plain.w.map { ($0 * 64).rounded() / 64 }
      rounded.u = plain.u.map { ($0 * 64).rounded() / 64 }
      (shifted.w, shifted.u) = (rounded.w, rounded.u)
      expect(shifted.run(table).result.y, rounded.plain(Float.self).y, rounded.plain(Double.self).y, "y")
    }
    let wild = Wkv4Case(T: 40, n: 64, seed: 32, exponentScale: 1e6).run(table).result
    #expect((wild.y + wild.state).allSatisfy { $0.isFinite })
    for t in 0..<40 { #expect(wild.y[t * 67..<t * 67 + 64].allSatisfy { abs($0) <= 1.000001 }) }
  }

  private func bits(_ result: HeadResult<Float>) -> [UInt32] { (result.y + result.state).map(\.bitPattern) }
}
