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

/// The records of a matrix, 16 rows or one row each, after 64-byte alignment.
func encode(_ x: [Float], _ format: Format, columns: Int, panels: Bool, with kernels: rk_kernels) -> [UInt8] {
  let rows = x.count / columns
  let size = recordBytes(format, columns, panels ? 16 : 1)
  let count = panels ? (rows + 15) / 16 : rows
  var records = [UInt8](repeating: 0xAA, count: count * size)
  for i in 0..<count {
    records.withUnsafeMutableBytes { out in
      x.withUnsafeBufferPointer { x in
        let record = out.baseAddress! + i * size
        if panels {
          let start = x.baseAddress! + 16 * i * columns
          kernels.encode_panel(format.rawValue, start, columns, min(16, rows - 16 * i), columns, record)
        } else {
          kernels.encode_row(format.rawValue, x.baseAddress! + i * columns, columns, record)
        }
      }
    }
  }
  return records
}

/// All rows of the records, `rows` of them.
func decode(
  _ records: [UInt8], _ format: Format, rows: Int, columns: Int, panels: Bool, with kernels: rk_kernels
) -> [Float] {
  let size = recordBytes(format, columns, panels ? 16 : 1)
  var out = [Float](repeating: .nan, count: rows * columns)
  out.withUnsafeMutableBufferPointer { out in
    records.withUnsafeBytes { bytes in
      for r in 0..<rows {
        let row = out.baseAddress! + r * columns
        if panels {
          kernels.decode_panel_row(format.rawValue, bytes.baseAddress! + r / 16 * size, columns, r % 16, row)
        } else {
          kernels.decode_row(format.rawValue, bytes.baseAddress! + r * size, columns, row)
        }
      }
    }
  }
  return out
}

/// The activations of T tokens, as quantize_input fills them.
struct Input {
  let columns: Int
  let stride: Int
  let tokens: Int
  var values: [Float]
  var high: [Int8]
  var low: [Int8]
  var scale: [Float]
  var sum: [Int32]
  var sum15: [Int32]

  init(_ x: [Float], columns: Int, with kernels: rk_kernels) {
    self.columns = columns
    stride = (columns + 63) / 64 * 64
    tokens = x.count / columns
    let n = stride * tokens
    values = [Float](repeating: 0, count: n)
    high = [Int8](repeating: 77, count: n)
    low = [Int8](repeating: 77, count: n)
    scale = [Float](repeating: .nan, count: n / 32)
    sum = [Int32](repeating: 77, count: n / 16)
    sum15 = [Int32](repeating: 77, count: n / 32)
    for t in 0..<tokens {
      for c in 0..<columns { values[t * stride + c] = x[t * columns + c] }
      let i = t * stride
      x.withUnsafeBufferPointer { x in
        high.withUnsafeMutableBufferPointer { high in
          low.withUnsafeMutableBufferPointer { low in
            scale.withUnsafeMutableBufferPointer { scale in
              sum.withUnsafeMutableBufferPointer { sum in
                sum15.withUnsafeMutableBufferPointer { sum15 in
                  kernels.quantize_input(
                    x.baseAddress! + t * columns, columns, high.baseAddress! + i, low.baseAddress! + i,
                    scale.baseAddress! + i / 32, sum.baseAddress! + i / 16, sum15.baseAddress! + i / 32)
                }
              }
            }
          }
        }
      }
    }
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
    let T = count ?? tokens
    let ldy = 16 * panelCount
    var y = [Float](repeating: .nan, count: T * ldy)
    let offset = first * stride
    values.withUnsafeBufferPointer { values in
      high.withUnsafeBufferPointer { high in
        low.withUnsafeBufferPointer { low in
          scale.withUnsafeBufferPointer { scale in
            sum.withUnsafeBufferPointer { sum in
              sum15.withUnsafeBufferPointer { sum15 in
                var x = rk_input(
                  values: values.baseAddress! + offset, high: high.baseAddress! + offset,
                  low: low.baseAddress! + offset, scale: scale.baseAddress! + offset / 32,
                  sum: sum.baseAddress! + offset / 16, sum15: sum15.baseAddress! + offset / 32, stride: stride)
                panels.withUnsafeBytes { panels in
                  y.withUnsafeMutableBufferPointer { y in
                    kernels.matmul(
                      format.rawValue, panels.baseAddress!, columns, 0, panelCount, &x, T, y.baseAddress!, ldy)
                  }
                }
              }
            }
          }
        }
      }
    }
    return y
  }
}
