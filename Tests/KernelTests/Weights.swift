// SPDX-License-Identifier: MIT
import CRWKVKernels

enum Format: Int32, CaseIterable, CustomStringConvertible {
  case f32 = 1
  case f16 = 2
  case bf16 = 3
  case int4 = 4
  case int5 = 5
  case int8 = 8

  var description: String {
    switch self {
    case .f32: "f32"
    case .f16: "f16"
    case .bf16: "bf16"
    case .int4: "int4"
    case .int5: "int5"
    case .int8: "int8"
    }
  }
}

func recordBytes(_ format: Format, _ columns: Int, _ rowsPerRecord: Int32) -> Int {
  rk_record_bytes(format.rawValue, columns, rowsPerRecord)
}

/// The records of a matrix, 16 rows or one row each.
func encode(
  _ x: [Float], _ format: Format, columns: Int, panels: Bool, factor: [Float]? = nil, with kernels: rk_kernels
) -> [UInt8] {
  let rows = x.count / columns
  let step = panels ? 16 : 1
  let factor = factor.map(Guarded.init)
  var records: [UInt8] = []
  for first in stride(from: 0, to: rows, by: step) {
    // What a record held before must not matter.
    let record = Guarded<UInt8>(repeating: 0xAA, count: recordBytes(format, columns, Int32(step)))
    let count = min(step, rows - first)
    let part = Guarded(Array(x[(first * columns)..<((first + count) * columns)]))
    if panels {
      var panel = rk_encode_panel(
        format: format.rawValue, x: part.pointer, rows: count, columns: columns, stride: columns,
        factor: factor.map { UnsafePointer($0.pointer) }, panel: record.pointer)
      kernels.encode_panel(&panel)
    } else {
      kernels.encode_row(format.rawValue, part.pointer, columns, record.pointer)
    }
    records += record.values
  }
  return records
}

/// All rows of the records, `rows` of them.
func decode(
  _ records: [UInt8], _ format: Format, rows: Int, columns: Int, panels: Bool, with kernels: rk_kernels
) -> [Float] {
  let step = panels ? 16 : 1
  let size = recordBytes(format, columns, Int32(step))
  var out: [Float] = []
  for r in 0..<rows {
    let record = Guarded(Array(records[(r / step * size)..<(r / step * size + size)]))
    let row = Floats(repeating: .nan, count: columns)
    if panels {
      kernels.decode_panel_row(format.rawValue, record.pointer, columns, r % 16, row.pointer)
    } else {
      kernels.decode_row(format.rawValue, record.pointer, columns, row.pointer)
    }
    out += row.values
  }
  return out
}

/// The activations of T tokens, as quantize_input fills them.
final class Input {
  let columns: Int
  let stride: Int
  let tokens: Int
  let values: Floats
  let high: Guarded<Int8>
  let low: Guarded<Int8>
  let scale: Floats
  let sum: Guarded<Int32>
  let sum15: Guarded<Int32>

  /// Fills everything with some value first: what the kernel leaves out shows.
  init(_ x: [Float], columns: Int, with kernels: rk_kernels) {
    self.columns = columns
    stride = (columns + 63) / 64 * 64
    tokens = x.count / columns
    let n = stride * tokens
    values = Floats(zeros: n)
    high = Guarded(repeating: 77, count: n)
    low = Guarded(repeating: 77, count: n)
    scale = Floats(repeating: .nan, count: n / 32)
    sum = Guarded(repeating: 77, count: n / 16)
    sum15 = Guarded(repeating: 77, count: n / 32)
    for t in 0..<tokens {
      let row = Guarded(Array(x[(t * columns)..<((t + 1) * columns)]))
      (values.pointer + t * stride).update(from: row.pointer, count: columns)
      var token = view(from: t)
      token.values = UnsafePointer(row.pointer)
      kernels.quantize_input(&token, columns)
    }
  }

  /// The tokens from t on.
  func view(from t: Int) -> rk_input {
    let i = t * stride
    return rk_input(
      values: values.pointer + i, high: high.pointer + i, low: low.pointer + i, scale: scale.pointer + i / 32,
      sum: sum.pointer + i / 16, sum15: sum15.pointer + i / 32, stride: stride)
  }

  /// What a kernel of this format multiplies with.
  func seen(by format: Format, _ t: Int, _ c: Int) -> Double {
    let i = t * stride + c
    switch format {
    case .int4, .int5: return 128 * Double(scale[i / 32]) * Double(high[i])
    case .int8: return Double(scale[i / 32]) * Double(128 * Int(high[i]) + Int(low[i]))
    case .f32, .f16, .bf16: return Double(values[i])
    }
  }

  /// The product with all panels, for tokens [first, first + count).
  func multiplied(
    by panels: [UInt8], _ format: Format, first: Int = 0, count: Int? = nil, with kernels: rk_kernels
  ) -> [Float] {
    let panelCount = panels.count / recordBytes(format, columns, 16)
    return multiplied(
      by: panels, format, 0..<panelCount, of: panelCount, first: first, count: count ?? tokens, with: kernels)
  }

  /// The same for some of the panels; the other rows are NaN.
  func multiplied(
    by panels: [UInt8], _ format: Format, _ range: Range<Int>, of panelCount: Int, first: Int = 0, count: Int,
    with kernels: rk_kernels
  ) -> [Float] {
    let y = Floats(repeating: .nan, count: count * 16 * panelCount), panels = Guarded(panels)
    var product = rk_matmul(
      format: format.rawValue, panels: panels.pointer, columns: columns, first: range.lowerBound,
      count: range.count, x: view(from: first), T: count, y: y.pointer, y_stride: 16 * panelCount)
    kernels.matmul(&product)
    return y.values
  }
}
