// SPDX-License-Identifier: MIT
import CRWKVKernels

/// A small reproducible generator (SplitMix64).
struct Random {
  var state: UInt64

  init(_ seed: Int) { state = UInt64(truncatingIfNeeded: seed) }

  mutating func next() -> UInt64 {
    state &+= 0x9e37_79b9_7f4a_7c15
    var z = state
    z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
    z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
    return z ^ (z >> 31)
  }

  /// [0, 1)
  mutating func uniform() -> Float { Float(next() >> 40) / 16_777_216 }

  /// Sum of 12 uniform numbers: mean 0, variance 1, close to Gaussian.
  mutating func gaussian() -> Float {
    var sum: Float = -6
    for _ in 0..<12 { sum += uniform() }
    return sum
  }

  mutating func gaussians(_ count: Int) -> [Float] { (0..<count).map { _ in gaussian() } }
}

/// The tables that this machine can run and that promise the same bits; the scalar one is the definition.
var scalarKernels: rk_kernels { kernels("scalar") }
/// For what every table gives the same bytes of, as records of weights.
var fastKernels: rk_kernels { kernels(tableNames.last ?? "scalar") }
let tableNames: [String] = allTables.filter { !unfusedTables.contains($0) }
let otherTables: [String] = tableNames.filter { $0 != "scalar" }

/// The tables without fused multiply-add, which agree with them to a tolerance.
let unfusedTables: [String] = allTables.filter { $0 == "sse41" }

/// Those of this build that this machine can run.
let allTables = tablesOfTheLibrary()

private func tablesOfTheLibrary() -> [String] {
  var names: [String] = []
  while let name = rk_kernels_name(Int32(names.count)) { names.append(String(cString: name)) }
  return names.filter { rk_kernels_named($0) != nil }
}

func kernels(_ name: String) -> rk_kernels {
  guard let table = rk_kernels_named(name) else { preconditionFailure("no table \(name)") }
  return table.pointee
}
