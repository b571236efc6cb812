// SPDX-License-Identifier: MIT
internal import CRWKVKernels

/// Where the bytes of a matrix stand: in a region that moves between passes if the model is larger than memory.
struct Location: @unchecked Sendable {
  /// Where the region's first byte is at present. Constant while a block is evaluated.
  let region: UnsafePointer<UnsafeRawPointer>
  let offset: Int

  var address: UnsafeRawPointer { region.pointee + offset }
}

/// A weight matrix [rows, columns] in panels of 16 rows, as it stands in the file.
struct Matrix: @unchecked Sendable {
  let format: Int32
  let location: Location
  let rows: Int
  let columns: Int

  var panels: UnsafeRawPointer { location.address }

  var panelCount: Int { (rows + 15) / 16 }

  /// Part `index` of a matrix that stacks several of `rows` rows, a multiple of 16.
  func slice(_ index: Int, _ rows: Int) -> Matrix {
    precondition(rows % 16 == 0, "whole panels")
    let start = location.offset + index * rows / 16 * rk_record_bytes(format, columns, 16)
    let part = Location(region: location.region, offset: start)
    return Matrix(format: format, location: part, rows: rows, columns: columns)
  }
}

/// A matrix stored with one row per hidden unit, [units, columns]: y = Σ_j h_j · row_j.
struct HiddenRows: @unchecked Sendable {
  let format: Int32
  let location: Location
  /// Its place among the model's matrices of this kind.
  let ordinal: Int
  let units: Int
  let columns: Int

  var records: UnsafeRawPointer { location.address }

  /// Some of the columns, as kernels see them.
  func rows(_ columns: Range<Int>) -> rk_rows {
    rk_rows(
      format: format, records: records, columns: self.columns, from: columns.lowerBound,
      to: columns.upperBound)
  }

  /// Range `part` of the hidden units, cut into `parts` equal ones.
  func units(_ part: Int, of parts: Int) -> Range<Int> { units * part / parts..<units * (part + 1) / parts }
}

/// A function applied to a product in place, by the task that computed it.
enum Activation {
  case none, tanh, sigmoid, reluSquared
}

/// One matrix product of a phase: output[t] = activation(matrix · input[t]).
struct Product {
  let matrix: Matrix
  let input: Activations
  /// [rows of the piece, stride]
  let output: UnsafeMutablePointer<Float>
  let stride: Int
  let activation: Activation
  /// What the output is added to as soon as it is there, with the same stride.
  private let sum: UnsafeMutablePointer<Float>?

  init(_ matrix: Matrix, _ input: Activations, _ output: Rows, _ activation: Activation = .none) {
    self.init(matrix, input, output.values, stride: output.stride, activation)
  }

  /// Into the values of another matrix's input, which are still to be quantized.
  init(_ matrix: Matrix, _ input: Activations, _ output: Activations, _ activation: Activation = .none) {
    self.init(matrix, input, output.values, stride: output.stride, activation)
  }

  /// sum[t] += matrix · input[t], with room for the product.
  init(_ matrix: Matrix, _ input: Activations, addedTo sum: Rows, _ product: Rows) {
    precondition(sum.stride == product.stride)
    self.init(matrix, input, product.values, stride: product.stride, sum: sum.values)
  }

  init(
    _ matrix: Matrix, _ input: Activations, _ output: UnsafeMutablePointer<Float>, stride: Int,
    _ activation: Activation = .none, sum: UnsafeMutablePointer<Float>? = nil
  ) {
    self.matrix = matrix
    self.input = input
    self.output = output
    self.stride = stride
    self.activation = activation
    self.sum = sum
  }

  /// Panels [first, first + count) for some rows of the piece, with the activation, or added to the sum: the residual
  /// add of time mixing.
  func compute(first: Int, count: Int, rows: Range<Int>, _ kernels: Kernels) {
    var product = rk_matmul(
      format: matrix.format, panels: matrix.panels, columns: matrix.columns, first: first, count: count,
      x: input.input(from: rows.lowerBound), T: rows.count, y: output + rows.lowerBound * stride,
      y_stride: stride)
    kernels.matmul(&product)
    guard activation != .none || sum != nil else { return }
    let width = min(16 * count, matrix.rows - 16 * first)
    for row in rows {
      let place = row * stride + 16 * first
      let y = output + place
      switch activation {
      case .none: break
      case .tanh: kernels.tanh(y, width)
      case .sigmoid: kernels.sigmoid(y, width)
      case .reluSquared: kernels.relu_squared(y, width)
      }
      if let sum { kernels.add(y, width, sum + place) }
    }
  }
}

/// The rows that tasks take together: the halves of a prompt, so that each half of a team works on what it has in its
/// caches; otherwise all of them.
struct RowHalves {
  private let rows: Int
  private let split: Int

  init(_ rows: Int, teamSize: Int) {
    self.rows = rows
    split = teamSize > 1 && rows >= 32 ? (rows / 2 + 3) / 4 * 4 : rows
  }

  var count: Int { split < rows ? 2 : 1 }
  subscript(_ half: Int) -> Range<Int> { half == 0 ? 0..<split : split..<rows }
}

extension Team.Member {
  /// One phase: all products, their panels shared out evenly. `last`: one more product, where there is one.
  ///
  /// The rows of a prompt are halved first, so that a half of the team works on rows that it has in its caches.
  mutating func multiply<let count: Int>(
    _ products: InlineArray<count, Product>, and last: Product? = nil, rows: Int, _ kernels: Kernels
  ) {
    var panels = last?.matrix.panelCount ?? 0
    for index in products.indices { panels += products[index].matrix.panelCount }
    // A few tasks per member even out what the members get; more would only cost claims.
    let tasks = min(panels, teamSize == 1 ? 1 : 8 * teamSize)
    let halves = RowHalves(rows, teamSize: teamSize)
    parallel(tasks * halves.count) { task in
      let rows = halves[task / tasks]
      let task = task % tasks
      var from = panels * task / tasks
      var left = panels * (task + 1) / tasks - from
      func compute(_ product: Product) {
        let available = product.matrix.panelCount
        let count = min(left, max(0, available - from))
        if count > 0 { product.compute(first: from, count: count, rows: rows, kernels) }
        left -= count
        from = max(0, from - available)
      }
      for index in products.indices { compute(products[index]) }
      if let last { compute(last) }
    }
    guard moments != nil else { return }
    for index in products.indices { gather(products[index], rows: rows, kernels) }
    if let last { gather(last, rows: rows, kernels) }
  }

  private mutating func gather(_ product: Product, rows: Int, _ kernels: Kernels) {
    let input = product.input
    gather(product.matrix.location, input.values, stride: input.stride, rows: rows, kernels)
  }

  /// One phase: brings the 15-bit form of what the products read up to date, where other products wrote it.
  mutating func quantizeInputs<let count: Int>(
    of products: InlineArray<count, Product>, and last: Product? = nil, rows: Int, _ kernels: Kernels
  ) {
    func quantize(_ product: Product, _ row: Int) {
      product.input.quantize(row, width: product.matrix.columns, kernels)
    }
    parallel(rows) { row in
      for index in products.indices { quantize(products[index], row) }
      if let last { quantize(last, row) }
    }
  }
}
