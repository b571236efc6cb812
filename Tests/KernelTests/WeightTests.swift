// SPDX-License-Identifier: MIT
import CRWKVKernels
import RWKVFormat
import Testing

private let widths = [1, 16, 31, 32, 33, 64, 96, 255, 256, 257, 512, 768, 2048]

@Suite("Layout of records, built by hand")
struct Layouts {
  static let t4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
  static let t5 = [
    -116, -99, -83, -71, -62, -54, -47, -40, -34, -28, -23, -17, -12, -7, -2, 3, 8, 12, 17, 23, 28, 34, 40,
    46, 53,
    61, 71, 82, 97, 112, 121, 127,
  ]

  /// F16 bits of d for (row, 256 columns): powers of two.
  static func d(_ r: Int, _ i: Int) -> (bits: UInt16, value: Float) {
    let exponent = 10 + (3 * r + 5 * i) % 7
    return (
      UInt16(exponent << 10), exponent >= 15 ? Float(1 << (exponent - 15)) : 1 / Float(1 << (15 - exponent))
    )
  }

  static func scale(_ format: Format, _ r: Int, _ block: Int) -> (byte: UInt8, s: Int, o: Int) {
    let k = 17 * r + 29 * block
    switch format {
    case .int4:
      let s = k % 63 - 31
      return (UInt8(s & 63 | (k / 3 % 4) << 6), s, [-4, 0, 4, 8][k / 3 % 4])
    case .int5:
      let s = k % 127 - 63
      return (UInt8(s & 127 | (k / 3 % 2) << 7), s, [0, 4][k / 3 % 2])
    default: return (UInt8(k % 256), k % 256, 0)
    }
  }

  static func code(_ format: Format, _ r: Int, _ c: Int) -> (code: Int, value: Int) {
    let k = 7 * r + 11 * c + c / 16
    switch format {
    case .int4: return (k % 16, t4[k % 16])
    case .int5: return (k % 32, t5[k % 32])
    default: return (1 + k % 255, 1 + k % 255 - 128)
    }
  }

  static func expected(_ format: Format, _ r: Int, _ c: Int) -> Float {
    let block = scale(format, r, c / (format == .int8 ? 32 : 16))
    return d(r, c / 256).value / 4096 * Float(block.s) * Float(code(format, r, c).value + block.o)
  }

  /// A panel of `columns` (a multiple of 32) as section 4.1 describes it.
  static func panel(_ format: Format, _ columns: Int) -> [UInt8] {
    var out: [UInt8] = []
    let group = format == .int8 ? 128 : 64
    for start in stride(from: 0, to: columns, by: 512) {
      var line = [UInt8](repeating: 0, count: 64)
      for i in 0..<2 where start + 256 * i < columns {
        for r in 0..<16 {
          line[2 * (16 * i + r)] = UInt8(d(r, start / 256 + i).bits & 255)
          line[2 * (16 * i + r) + 1] = UInt8(d(r, start / 256 + i).bits >> 8)
        }
      }
      out += line
      for c in stride(from: start, to: min(start + 512, columns), by: group) {
        out += lines(format, c, min(group, columns - c))
      }
    }
    return out
  }

  /// The lines of `count` columns from c on.
  static func lines(_ format: Format, _ c: Int, _ count: Int) -> [UInt8] {
    let block = format == .int8 ? 32 : 16
    var scales = [UInt8](repeating: 0, count: 64)
    for i in 0..<(count / block) {
      for r in 0..<16 { scales[16 * i + r] = scale(format, r, c / block + i).byte }
    }
    var low: [UInt8] = []
    var codes: [UInt8] = []
    for v in stride(from: c, to: c + count, by: format == .int8 ? 4 : 8) {
      var bits: [UInt64] = [0, 0]
      for r in 0..<16 {
        for i in 0..<4 {
          let first = code(format, r, v + i).code
          let second = code(format, r, v + 4 + i).code
          switch format {
          case .int8: codes.append(UInt8(first))
          case .int4: codes.append(UInt8(first | second << 4))
          default:
            codes.append(UInt8(first >> 1 | (second >> 1) << 4))
            bits[0] |= UInt64(first & 1) << UInt64(4 * r + i)
            bits[1] |= UInt64(second & 1) << UInt64(4 * r + i)
          }
        }
      }
      if format == .int5 { for word in bits { for i in 0..<8 { low.append(UInt8(word >> (8 * i) & 255)) } } }
    }
    return scales + low + codes
  }

  /// Row r as a single-row record, section 4.2.
  static func row(_ format: Format, _ r: Int, _ columns: Int) -> [UInt8] {
    func padded(_ part: [UInt8]) -> [UInt8] {
      part + [UInt8](repeating: 0, count: (16 - part.count % 16) % 16)
    }
    let block = format == .int8 ? 32 : 16
    var ds: [UInt8] = []
    for i in 0..<((columns + 255) / 256) { ds += [UInt8(d(r, i).bits & 255), UInt8(d(r, i).bits >> 8)] }
    let scales = (0..<(columns / block)).map { scale(format, r, $0).byte }
    var low: [UInt8] = []
    var codes: [UInt8] = []
    for c in stride(from: 0, to: columns, by: 32) {
      let c32 = (0..<32).map { code(format, r, c + $0).code }
      if format == .int8 { codes += c32.map { UInt8($0) } }
      if format == .int4 { codes += (0..<16).map { UInt8(c32[$0] | c32[$0 + 16] << 4) } }
      if format == .int5 {
        codes += (0..<16).map { UInt8(c32[$0] >> 1 | (c32[$0 + 16] >> 1) << 4) }
        for i in 0..<4 { low.append((0..<8).reduce(0) { $0 | UInt8(c32[8 * i + $1] & 1) << UInt8($1) }) }
      }
    }
    return padded(ds) + padded(scales) + padded(low) + padded(codes)
  }

  @Test("decode to the values of the format", arguments: [Format.int4, .int5, .int8], tableNames)
  func decodes(format: Format, table: String) {
    for columns in [32, 64, 96, 160, 256, 288, 512, 544, 1120] {
      let panel = Self.panel(format, columns)
      #expect(panel.count == recordBytes(format, columns, 16))
      let decoded = decode(panel, format, rows: 16, columns: columns, panels: true, with: kernels(table))
      let rows = (0..<16).flatMap { Self.row(format, $0, columns) }
      #expect(rows.count == 16 * recordBytes(format, columns, 1))
      let decodedRows = decode(rows, format, rows: 16, columns: columns, panels: false, with: kernels(table))
      let expected = (0..<16).flatMap { r in (0..<columns).map { Self.expected(format, r, $0) } }
      #expect(decoded == expected)
      #expect(decodedRows == expected)
    }
  }

  @Test("F16 and BF16 values are read as IEEE says", arguments: tableNames)
  func halves(table: String) {
    let halves: [UInt16] = [
      0x0000, 0x8000, 0x3c00, 0xbc00, 0x0001, 0x83ff, 0x0400, 0x7bff, 0x3555, 0x7c00, 0xfc00,
    ]
    var record = [UInt8](repeating: 0, count: recordBytes(.f16, 11, 1))
    for (i, half) in halves.enumerated() {
      record[2 * i] = UInt8(half & 255)
      record[2 * i + 1] = UInt8(half >> 8)
    }
    let f16 = decode(record, .f16, rows: 1, columns: 11, panels: false, with: kernels(table))
    let expected: [Float] = [
      0.0, -0.0, 1, -1, 0x1p-24, -0x3ffp-24, 0x1p-14, 65504, 0x1.554p-2, .infinity, -.infinity,
    ]
    #expect(bits(f16) == bits(expected))
    let bf16 = decode(record, .bf16, rows: 1, columns: 11, panels: false, with: kernels(table))
    #expect(bits(bf16) == halves.map { UInt32($0) << 16 })
  }
}

@Suite("Activations as integers")
struct Activations {
  @Test("lie within half a step of the values", arguments: [1, 31, 32, 64, 100, 768])
  func rounding(n: Int) {
    var random = Random(n)
    let x = random.gaussians(n).map { $0 * $0 * $0 }
    let input = Input(x, columns: n, with: scalarKernels)
    for c in 0..<n {
      let step = Double(input.scale[c / 32])
      #expect(abs(input.seen(by: .int8, 0, c) - Double(x[c])) <= step * 0.501)
      #expect((-64...63).contains(input.low[c]) && input.high[c] != -128)
    }
    for c in n..<input.stride { #expect(input.high[c] == 0 && input.low[c] == 0) }
    for b in 0..<(input.stride / 16) {
      let sum = (16 * b..<16 * b + 16).reduce(0) { $0 + Int(input.high[$1]) }
      #expect(Int(input.sum[b]) == sum)
    }
    for b in 0..<(input.stride / 32) {
      let sum = (32 * b..<32 * b + 32).reduce(0) { $0 + 128 * Int(input.high[$1]) + Int(input.low[$1]) }
      #expect(Int(input.sum15[b]) == sum)
    }
  }

  @Test("are the same from every table, for any number", arguments: otherTables)
  func tables(table: String) {
    var random = Random(3)
    var x = random.gaussians(992).map { $0 * Float(sign: .plus, exponent: Int($0 * 20), significand: 1) }
    x += [.infinity, 1, -.infinity, 2] + [Float](repeating: 3, count: 28)
    x += [.nan, -.nan, 1e38, .greatestFiniteMagnitude] + [Float](repeating: -3, count: 28)
    x += [Float](repeating: 1e-31, count: 32) + [Float](repeating: -0x1p-140, count: 32)
    let expected = Input(x, columns: x.count, with: scalarKernels)
    let found = Input(x, columns: x.count, with: kernels(table))
    #expect(found.high.values == expected.high.values)
    #expect(found.low.values == expected.low.values)
    #expect(found.sum.values == expected.sum.values)
    #expect(found.sum15.values == expected.sum15.values)
    #expect(bits(found.scale.values) == bits(expected.scale.values))
  }

  @Test("stay finite for infinities and NaN, and are zero below 2^−100", arguments: otherTables + ["scalar"])
  func extremes(table: String) {
    let blocks: [[Float]] = [
      [.infinity, 1], [.nan, -1], [0x1.8p-101, -0x1p-101], [0x1p-140, 0], [0x1p-99, 0],
    ]
    let x = blocks.flatMap { $0 + [Float](repeating: 0, count: 30) }
    let input = Input(x, columns: x.count, with: kernels(table))
    #expect((0..<5).allSatisfy { input.scale[$0].isFinite })
    #expect(input.scale[0] > 0 && input.scale[1] > 0 && input.scale[4] > 0)
    for block in 2...3 {
      #expect(input.scale[block] == 0)
      #expect((32 * block..<32 * block + 32).allSatisfy { input.high[$0] == 0 && input.low[$0] == 0 })
    }
  }
}

@Suite("Matrix products")
struct MatrixProducts {
  static func matrix(rows: Int, columns: Int) -> [Float] {
    var random = Random(1000 * rows + columns)
    return random.gaussians(rows * columns).map { $0 * 0.02 }
  }

  @Test("agree with a double-precision sum", arguments: Format.allCases, widths)
  func reference(format: Format, columns: Int) {
    let rows = 17
    let panels = encode(
      Self.matrix(rows: rows, columns: columns), format, columns: columns, panels: true, with: fastKernels)
    let w = decode(panels, format, rows: rows, columns: columns, panels: true, with: fastKernels)
    var random = Random(columns)
    let x = Input(random.gaussians(2 * columns), columns: columns, with: scalarKernels)
    let y = x.multiplied(by: panels, format, with: scalarKernels)
    // Roundings on the longest path: of a weight, its pair, 8 pairs, K/256 superblocks; or K/2 columns and one sum.
    let quantized = format == .int4 || format == .int5 || format == .int8
    let roundings = quantized ? 1 + 2 + 8 + (columns + 255) / 256 : (columns + 1) / 2 + 1
    for t in 0..<2 {
      for r in 0..<rows {
        var sum = 0.0
        var magnitude = 0.0
        for c in 0..<columns {
          let product = Double(w[r * columns + c]) * x.seen(by: format, t, c)
          sum += product
          magnitude += abs(product)
        }
        let tolerance = 1.01 * Double(roundings) * 0x1p-24 * magnitude
        #expect(abs(Double(y[t * 32 + r]) - sum) <= tolerance, "row \(r), token \(t)")
      }
      for r in rows..<32 { #expect(y[t * 32 + r] == 0) }
    }
  }

  @Test("are the same bits from every table, for one token and many", arguments: Format.allCases, widths)
  func tables(format: Format, columns: Int) {
    let panels = encode(
      Self.matrix(rows: 40, columns: columns), format, columns: columns, panels: true, with: fastKernels)
    var random = Random(columns + 1)
    let most = 67  // more than a panel serves at once
    let x = Input(random.gaussians(most * columns), columns: columns, with: scalarKernels)
    let all = bits(x.multiplied(by: panels, format, with: scalarKernels))
    for table in tableNames {
      for T in [1, 2, 3, 5, 8, 33, most] where table != "scalar" || T < 8 {
        let y = x.multiplied(by: panels, format, first: most - T, count: T, with: kernels(table))
        #expect(bits(y) == Array(all[((most - T) * 48)...]), "\(table), \(T) tokens")
      }
    }
  }

  @Test("of some panels write their rows and no others", arguments: Format.allCases, tableNames)
  func somePanels(format: Format, table: String) {
    let columns = 96
    let panels = encode(
      Self.matrix(rows: 64, columns: columns), format, columns: columns, panels: true, with: fastKernels)
    var random = Random(4)
    let x = Input(random.gaussians(3 * columns), columns: columns, with: scalarKernels)
    let all = x.multiplied(by: panels, format, with: scalarKernels)
    for T in [1, 3] {
      let y = x.multiplied(by: panels, format, 1..<3, of: 4, count: T, with: kernels(table))
      for i in 0..<(T * 64) {
        #expect((16..<48).contains(i % 64) ? y[i] == all[i] : y[i].isNaN)
      }
    }
  }
}

@Suite("Quantization")
struct Quantization {
  /// Relative error for Gaussian weights; measured values are 2 % below.
  static let bounds: [(Format, Double)] = [
    (.int4, 0.0605), (.int5, 0.0315), (.int8, 0.0047), (.f16, 2.2e-4),
  ]

  static func relativeError(_ x: [Float], _ y: [Float]) -> Double {
    var error = 0.0
    var power = 0.0
    for (a, b) in zip(x, y) {
      error += Double(a - b) * Double(a - b)
      power += Double(a) * Double(a)
    }
    return (error / power).squareRoot()
  }

  /// The magnitude of the weights makes no difference: d stays far from F16's limits.
  @Test("of Gaussian weights has the expected error", arguments: bounds, [false, true])
  func error(bound: (format: Format, error: Double), panels: Bool) {
    for magnitude: Float in bound.format == .f16 ? [0.02] : [0.02, 1e-4, 100] {
      error(bound: bound, panels: panels, magnitude: magnitude)
    }
  }

  private func error(bound: (format: Format, error: Double), panels: Bool, magnitude: Float) {
    var random = Random(5)
    let x = random.gaussians(32 * 512).map { $0 * magnitude }
    let table = fastKernels
    let records = encode(x, bound.format, columns: 512, panels: panels, with: table)
    let y = decode(records, bound.format, rows: 32, columns: 512, panels: panels, with: table)
    let error = Self.relativeError(x, y)
    #expect(error < bound.error && error > 0.85 * bound.error)
  }

  /// Where d is of the order of F16's smallest numbers, rounding it down would put the largest weights out of reach.
  @Test("reaches the largest of tiny weights", arguments: [false, true])
  func tiny(panels: Bool) {
    // d = 1.4 · 2^−24 in units of 2^−12, for the largest scale, 255, and the largest code, 127.
    let largest: Float = 1.4 * 0x1p-36 * 255 * 127
    var x = [Float](repeating: largest, count: 16 * 32)
    for index in x.indices where index % 2 == 1 { x[index] = -largest / 2 }
    let records = encode(x, .int8, columns: 32, panels: panels, with: scalarKernels)
    let y = decode(records, .int8, rows: 16, columns: 32, panels: panels, with: scalarKernels)
    #expect(zip(x, y).allSatisfy { abs($0 - $1) <= 0.01 * largest })
  }

  /// Of INT8 32 scales are tried, from just below the one that puts the largest weight at 127: the last is 145 in the
  /// first case, and the weights are multiples of it; in the second they are multiples of the one after the last.
  @Test("tries 32 scales of INT8", arguments: [(145, 101, true), (146, 100, false)], [false, true])
  func lastScale(_ weights: (scale: Int, largest: Int, isExact: Bool), panels: Bool) {
    // d = 1, in units of 2^−12, by the first block of each row.
    var x = [Float](repeating: 224 * 127 * 0x1p-12, count: 32)
    for index in 0..<32 {
      let code = index == 0 ? weights.largest : index * 7 % (2 * weights.largest + 1) - weights.largest
      x.append(Float(code * weights.scale) * 0x1p-12)
    }
    for table in allTables {
      let records = encode(x, .int8, columns: 64, panels: panels, with: kernels(table))
      let y = decode(records, .int8, rows: 1, columns: 64, panels: panels, with: kernels(table))
      #expect((x == y) == weights.isExact, "\(table)")
    }
  }

  @Test("gives the same bytes from every table", arguments: Format.allCases, otherTables)
  func tables(format: Format, table: String) {
    for columns in [1, 16, 33, 96, 255, 257, 512] {
      for rows in [1, 15, 16, 17] {
        var x = MatrixProducts.matrix(rows: rows, columns: columns)
        if columns == 255 { x = x.map { $0 * $0 * $0 * 1e6 } }
        for panels in [false, true] {
          let expected = encode(x, format, columns: columns, panels: panels, with: scalarKernels)
          let found = encode(x, format, columns: columns, panels: panels, with: kernels(table))
          #expect(found == expected, "\(rows) × \(columns)")
        }
      }
    }
  }

  /// Columns that follow each other in pairs that are nearly equal: x' = x + noise.
  private func pairedFactor(_ columns: Int, _ correlation: Float) -> [Float] {
    var factor = [Float](repeating: 0, count: (columns + 255) / 256 * 65536)
    for c in 0..<columns {
      let row = c / 256 * 65536 + c % 256 * 257
      // H of a pair: 1 and the correlation r; the first costs 1 − r² once the second makes up for it with r.
      factor[row] = c % 2 == 0 ? 1 - correlation * correlation : 1
      if c % 2 == 0, c + 1 < columns { factor[row + 1] = -correlation }
    }
    return factor
  }

  @Test(
    "without correlation calibrated rounding takes the nearest values",
    arguments: [Format.int4, .int5, .int8])
  func uncorrelated(format: Format) {
    var random = Random(50)
    let x = random.gaussians(13 * 288)
    let nearest = encode(x, format, columns: 288, panels: true, with: scalarKernels)
    let factor = pairedFactor(288, 0)
    let isSame = encode(x, format, columns: 288, panels: true, factor: factor, with: scalarKernels) == nearest
    #expect(isSame)
  }

  @Test(
    "calibrated rounding serves correlated inputs, with the same bytes from every table",
    arguments: [Format.int4, .int5, .int8], [272, 300])
  func correlated(format: Format, columns: Int) {
    var random = Random(51)
    let r: Float = 0.95
    let x = random.gaussians(16 * columns)
    let factor = pairedFactor(columns, r)
    func loss(_ records: [UInt8]) -> Float {
      let y = decode(records, format, rows: 16, columns: columns, panels: true, with: scalarKernels)
      let e = zip(x, y).map { $0 - $1 }
      return stride(from: 0, to: e.count, by: 2).reduce(0) {
        $0 + e[$1] * e[$1] + e[$1 + 1] * e[$1 + 1] + 2 * r * e[$1] * e[$1 + 1]
      }
    }
    let nearest = encode(x, format, columns: columns, panels: true, with: scalarKernels)
    let calibrated = encode(x, format, columns: columns, panels: true, factor: factor, with: scalarKernels)
    #expect(loss(calibrated) < 0.55 * loss(nearest))
    for table in allTables {
      let isSame =
        encode(x, format, columns: columns, panels: true, factor: factor, with: kernels(table)) == calibrated
      #expect(isSame, "\(table)")
    }
  }

  @Test("writes zero bits where there is no weight", arguments: Format.allCases)
  func padding(format: Format) {
    // A panel with 3 rows and 40 columns; the same weights with other rows and columns present.
    var random = Random(8)
    let x = random.gaussians(3 * 40)
    let panel = encode(x, format, columns: 40, panels: true, with: scalarKernels)
    let decoded = decode(panel, format, rows: 16, columns: 64, panels: true, with: scalarKernels)
    for r in 3..<16 { for c in 0..<64 { #expect(decoded[r * 64 + c] == 0) } }
    #expect(panel.count == recordBytes(format, 64, 16))
    if format == .int4 {
      // Lines: d, scales, 8 of codes; columns 40…63 are lines 5…7, row 3… bytes 12….
      for i in 64 * 7..<64 * 10 { #expect(panel[i] == 0) }
      for line in 0..<10 where line >= 2 { for i in 12..<64 { #expect(panel[64 * line + i] == 0) } }
    }
  }

  /// The same checkpoint gives the same file from this release as from the last: whoever changes how scales and codes
  /// are chosen changes these numbers knowingly.
  @Test("gives the bytes that it always gave", arguments: digests)
  func bytes(format: Format, nearest: UInt64, calibrated: UInt64) {
    var random = Random(60)
    let x = random.gaussians(19 * 320).map { $0 * 0.02 }
    let table = fastKernels
    let panels = encode(x, format, columns: 320, panels: true, with: table)
    let rows = encode(x, format, columns: 320, panels: false, with: table)
    let found = XXH64.hash(panels + rows)
    #expect(found == nearest, "\(format): \(found)")
    guard format.rawValue > 3 else { return }
    let factor = pairedFactor(320, 0.9)
    let found2 = XXH64.hash(
      encode(x, format, columns: 320, panels: true, factor: factor, with: table))
    #expect(found2 == calibrated, "\(format): \(found2)")
  }

  static let digests: [(Format, UInt64, UInt64)] = [
    (.f32, 13_342_812_014_790_780_420, 0), (.f16, 2_358_345_453_926_513_396, 0),
    (.bf16, 12_981_054_485_373_317_275, 0),
    (.int4, 11_998_022_395_173_103_205, 1_389_523_049_112_870_468),
    (.int5, 16_530_732_923_490_597_189, 8_628_704_143_803_820_407),
    (.int8, 16_754_089_649_160_646_684, 15_329_300_676_467_769_824),
  ]

  @Test("keeps values that the float formats can hold")
  func exact() {
    let x: [Float] = [0.0, -0.0, 1, -2.5, 65504, 0x1p-24, -0x3ffp-24, 0x1p-14, 3.140625]
    for (format, panels) in [(Format.f16, false), (.f16, true), (.f32, true), (.f32, false)] {
      let records = encode(x, format, columns: x.count, panels: panels, with: scalarKernels)
      let y = decode(records, format, rows: 1, columns: x.count, panels: panels, with: scalarKernels)
      #expect(bits(y) == bits(x))
    }
    // Ties go to even; what is too large becomes infinite.
    let ties: [Float] = [2049, 2051, 65519, 65520, 0x1p-25, 0x1.8p-24, 1e30, -1e-30]
    let rounded = decode(
      encode(ties, .f16, columns: 8, panels: false, with: scalarKernels), .f16, rows: 1, columns: 8,
      panels: false,
      with: scalarKernels)
    #expect(bits(rounded) == bits([2048, 2052, 65504, .infinity, 0, 0x1p-23, .infinity, -0.0]))
  }

  @Test("survives what is not a weight", arguments: [Format.int4, .int5, .int8], tableNames)
  func hostile(format: Format, table: String) {
    let strange: [Float] = [.nan, .infinity, -.infinity, 3e38, -3e38, 0x1p-149, 0, 1e-10]
    let x = (0..<1024).map { (i: Int) -> Float in strange[(i * 5 + i / 64) % 8] }
    let records = encode(x, format, columns: 64, panels: true, with: kernels(table))
    let rows = encode(x, format, columns: 64, panels: false, with: kernels(table))
    let zeros = encode(
      [Float](repeating: 0, count: 64), format, columns: 64, panels: false, with: kernels(table))
    #expect(
      decode(zeros, format, rows: 1, columns: 64, panels: false, with: scalarKernels).allSatisfy { $0 == 0 })
    let fromPanel = decode(records, format, rows: 16, columns: 64, panels: true, with: scalarKernels)
    let fromRows = decode(rows, format, rows: 16, columns: 64, panels: false, with: scalarKernels)
    #expect(fromPanel.allSatisfy { $0.isFinite } && fromRows.allSatisfy { $0.isFinite })
  }
}
