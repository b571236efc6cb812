// SPDX-License-Identifier: MIT
internal import CRWKVKernels

/// Inputs of matrices for the rows of a piece: the values and their 15-bit form, which integer kernels read.
struct Activations {
  /// [rows, stride] f32
  let values: UnsafeMutablePointer<Float>
  private let high: UnsafeMutablePointer<Int8>
  private let low: UnsafeMutablePointer<Int8>
  private let scale: UnsafeMutablePointer<Float>
  private let sum: UnsafeMutablePointer<Int32>
  private let sum15: UnsafeMutablePointer<Int32>
  let stride: Int

  init(rows: Int, width: Int, in arena: Arena) throws(ModelError) {
    stride = paddedWidth(width)
    values = try arena.allocate(Float.self, count: rows * stride)
    high = try arena.allocate(Int8.self, count: rows * stride)
    low = try arena.allocate(Int8.self, count: rows * stride)
    scale = try arena.allocate(Float.self, count: rows * stride / 32)
    sum = try arena.allocate(Int32.self, count: rows * stride / 16)
    sum15 = try arena.allocate(Int32.self, count: rows * stride / 32)
  }

  /// Values of one row.
  @inline(__always)
  func row(_ row: Int) -> UnsafeMutablePointer<Float> { values + row * stride }

  /// Brings the 15-bit form of `width` values of one row up to date, from a multiple of 64 on.
  @inline(__always)
  func quantize(_ row: Int, from first: Int = 0, width: Int, _ kernels: Kernels) {
    var part = input(from: row, column: first)
    kernels.quantize_input(&part, width)
  }

  /// What kernels read, from `row` and `column` on, a multiple of 64.
  @inline(__always)
  func input(from row: Int, column: Int = 0) -> rk_input {
    let at = row * stride + column
    return rk_input(
      values: values + at, high: high + at, low: low + at, scale: scale + at / 32, sum: sum + at / 16,
      sum15: sum15 + at / 32, stride: stride)
  }
}

/// Row widths are padded to whole blocks of 64, an odd number of them: rows that are a power of two apart would
/// compete for the same few sets of the cache.
func paddedWidth(_ width: Int) -> Int { ((width + 63) / 64 | 1) * 64 }

/// Plain f32 rows.
struct Rows {
  /// [rows, stride]
  let values: UnsafeMutablePointer<Float>
  let stride: Int

  init(rows: Int, width: Int, in arena: Arena) throws(ModelError) {
    stride = paddedWidth(width)
    values = try arena.allocate(Float.self, count: rows * stride)
  }

  /// The same rows from `first` on.
  @inline(__always)
  init(_ rows: Rows, from first: Int) {
    stride = rows.stride
    values = rows.values + first * rows.stride
  }

  @inline(__always)
  subscript(row: Int) -> UnsafeMutablePointer<Float> { values + row * stride }
}
