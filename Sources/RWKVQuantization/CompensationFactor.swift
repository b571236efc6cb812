// SPDX-License-Identifier: MIT
import Glibc

/// Makes what error-compensating rounding needs (rk_kernels.h, `factor`) of the second moments of a block of inputs.
///
/// Let H be the moments and H⁻¹ = UᵀU with U upper triangular. An error e of input j costs least if each later input k
/// takes over −e·U_jk/U_jj of it; it still costs e²/U_jj² then (GPTQ, arXiv:2210.17323). U is the inverse of R in
/// H = R Rᵀ, R upper triangular. All is computed in double precision and in one order of operations, so that every
/// machine gets the same numbers.
struct CompensationFactor {
  /// Share of the mean second moment that is added to each, so that inputs which always go together, or are always
  /// zero, do no harm.
  static let damping = 0.01
  private static let rowLength = 256

  private let count: Int
  /// [count, count]. Rows are buffers: debug builds check each index.
  private let matrix: UnsafeMutableBufferPointer<Double>

  /// Replaces the upper triangle of `count` rows of 256 by U_jk / U_jj and, on the diagonal, 1 / U_jj².
  static func replace(_ moments: UnsafeMutablePointer<Float>, count: Int) {
    let factor = CompensationFactor(count: count)
    defer { factor.matrix.deallocate() }
    factor.load(moments)
    factor.decompose()
    factor.invert()
    factor.store(moments)
  }

  private init(count: Int) {
    self.count = count
    matrix = .allocate(capacity: count * count)
  }

  private func row(_ i: Int) -> UnsafeMutableBufferPointer<Double> {
    UnsafeMutableBufferPointer(rebasing: matrix[i * count..<(i + 1) * count])
  }

  /// The damped moments, scaled to a mean of 1 on the diagonal; both triangles.
  private func load(_ moments: UnsafePointer<Float>) {
    var sum = 0.0
    for i in 0..<count { sum += Double(moments[Self.rowLength * i + i]) }
    let scale = sum > 0 ? Double(count) / sum : 0
    for i in 0..<count {
      for k in i..<count {
        let value = Double(moments[Self.rowLength * i + k]) * scale
        row(i)[k] = value
        row(k)[i] = value
      }
    }
    for i in 0..<count { row(i)[i] += sum > 0 ? Self.damping : 1 }
  }

  /// H → R in the upper triangle. Column by column from the last: row i of the rest loses R_ij · R_kj.
  private func decompose() {
    let column = UnsafeMutableBufferPointer<Double>.allocate(capacity: count)
    defer { column.deallocate() }
    for j in stride(from: count - 1, through: 0, by: -1) {
      let diagonal = row(j)[j].squareRoot()
      for i in 0..<j {
        column[i] = row(j)[i] / diagonal  // row j still equals column j
      }
      for i in 0..<j {
        let (target, factor) = (row(i), column[i])
        for k in 0..<j { target[k] -= factor * column[k] }
      }
      for i in 0..<j { row(i)[j] = column[i] }
      row(j)[j] = diagonal
    }
  }

  /// R → U = R⁻¹, row by row from the last: U_i = (e_i − Σ_{k>i} R_ik U_k) / R_ii.
  private func invert() {
    let sum = UnsafeMutableBufferPointer<Double>.allocate(capacity: count)
    defer { sum.deallocate() }
    for i in stride(from: count - 1, through: 0, by: -1) {
      let target = row(i)
      for m in i..<count { sum[m] = 0 }
      for k in i + 1..<max(count, i + 1) {
        let (factor, other) = (target[k], row(k))
        for m in k..<count { sum[m] -= factor * other[m] }
      }
      let inverse = 1 / target[i]
      for m in i + 1..<max(count, i + 1) { target[m] = sum[m] * inverse }
      target[i] = inverse
    }
  }

  private func store(_ factors: UnsafeMutablePointer<Float>) {
    for j in 0..<count {
      let diagonal = row(j)[j]
      factors[Self.rowLength * j + j] = Float(1 / (diagonal * diagonal))
      for k in j + 1..<max(count, j + 1) { factors[Self.rowLength * j + k] = Float(row(j)[k] / diagonal) }
    }
  }
}
