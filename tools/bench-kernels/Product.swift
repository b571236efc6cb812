// SPDX-License-Identifier: MIT
import CRWKVKernels
import RWKVFormat
import Terminal

/// A matrix of a given size, filled with some weights, and the activations that it multiplies.
final class Product: @unchecked Sendable {
  private let kernels: rk_kernels
  private let format: WeightFormat
  private let columns: Int
  private let tokens: Int
  private let panels: Int
  private let weights: UnsafeMutableRawBufferPointer
  private let output: UnsafeMutableBufferPointer<Float>
  private let input: rk_input
  private let stride: Int

  init(_ table: String, _ format: WeightFormat, columns: Int, bytes: Int, tokens: Int) {
    guard let table = rk_kernels_named(table) else { preconditionFailure("no such table") }
    kernels = table.pointee
    self.format = format
    self.columns = columns
    self.tokens = tokens
    let record = rk_record_bytes(Int32(format.rawValue), columns, 16)
    panels = max(1, bytes / record)
    weights = .allocate(byteCount: panels * record, alignment: 1 << 21)
    output = .allocate(capacity: 16 * panels * tokens)
    output.initialize(repeating: 0)
    // An odd number of blocks, as in the runtime.
    stride = ((columns + 63) / 64 | 1) * 64
    input = Self.activations(tokens, columns, stride, kernels)
    fill(record)
  }

  deinit {
    weights.deallocate()
    output.deallocate()
    input.values.deallocate()
    input.high.deallocate()
    input.low.deallocate()
    input.scale.deallocate()
    input.sum.deallocate()
    input.sum15.deallocate()
  }

  /// A few panels of noise, over and over.
  private func fill(_ record: Int) {
    var state: UInt32 = 1
    let row = (0..<16 * columns).map { _ in
      state = state &* 1_664_525 &+ 1_013_904_223
      return Float(Int32(bitPattern: state) >> 16) / 655_360
    }
    guard let start = weights.baseAddress else { return }
    row.withUnsafeBufferPointer { row in
      guard let x = row.baseAddress else { return }
      var panel = rk_encode_panel(
        format: Int32(format.rawValue), x: x, rows: 16, columns: columns, stride: columns, factor: nil,
        panel: start)
      kernels.encode_panel(&panel)
    }
    for panel in 1..<max(panels, 2) where panel < panels {
      (start + panel * record).copyMemory(from: start, byteCount: record)
    }
  }

  private static func activations(_ tokens: Int, _ columns: Int, _ stride: Int, _ kernels: rk_kernels)
    -> rk_input
  {
    func zeros<Element: Numeric>(_ type: Element.Type, _ count: Int) -> UnsafeMutablePointer<Element> {
      let pointer = UnsafeMutablePointer<Element>.allocate(capacity: count)
      pointer.initialize(repeating: 0, count: count)
      return pointer
    }
    let values = zeros(Float.self, tokens * stride)
    let (high, low) = (zeros(Int8.self, tokens * stride), zeros(Int8.self, tokens * stride))
    let scale = zeros(Float.self, tokens * stride / 32)
    let (sum, sum15) = (zeros(Int32.self, tokens * stride / 16), zeros(Int32.self, tokens * stride / 32))
    for token in 0..<tokens {
      let row = values + token * stride
      for column in 0..<columns { row[column] = Float((column * 37 + token * 11) % 201 - 100) / 100 }
      var input = rk_input(
        values: row, high: high + token * stride, low: low + token * stride,
        scale: scale + token * stride / 32, sum: sum + token * stride / 16,
        sum15: sum15 + token * stride / 32,
        stride: stride)
      kernels.quantize_input(&input, columns)
    }
    return rk_input(
      values: values, high: high, low: low, scale: scale, sum: sum, sum15: sum15, stride: stride)
  }

  var weightBytes: Double { Double(weights.count) }

  /// Multiplications and additions of one product.
  var operations: Double { Double(2 * 16 * panels * columns * tokens) }

  /// Median time of a product, the panels shared out in pieces as the runtime does.
  func seconds(threads: Int, _ repetitions: Int) -> Double {
    let pieces = min(panels, 8 * threads)
    func multiply() {
      onThreads(threads) { thread in
        for piece in Swift.stride(from: thread, to: pieces, by: threads) { compute(piece, of: pieces) }
      }
    }
    // Long enough to be timed: about 20 ms.
    var start = now()
    multiply()
    let turns = max(1, Int(0.02 / (now() - start)))
    var times: [Double] = []
    for _ in 0..<repetitions {
      start = now()
      for _ in 0..<turns { multiply() }
      times.append((now() - start) / Double(turns))
    }
    return times.sorted()[repetitions / 2]
  }

  private func compute(_ piece: Int, of pieces: Int) {
    let (first, end) = (panels * piece / pieces, panels * (piece + 1) / pieces)
    guard let start = weights.baseAddress, let y = output.baseAddress else { return }
    var product = rk_matmul(
      format: Int32(format.rawValue), panels: start, columns: columns, first: first, count: end - first,
      x: input, T: tokens, y: y, y_stride: 16 * panels)
    kernels.matmul(&product)
  }
}
