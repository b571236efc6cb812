// SPDX-License-Identifier: MIT
import CRWKVKernels
import Testing

@Suite("Sums of rows")
struct SumsOfRows {
  /// y[c] += Σ h[i] · rows[index[i]][c], as the kernels define it: in groups of 128 rows whose h·d become integers
  /// (INT4, INT5), or one fused multiply-add after the other.
  static func add(
    _ format: Format, _ rows: [UInt8], _ w: [Float], columns: Int, _ index: [Int32], _ h: [Float],
    _ range: Range<Int>, to y: inout [Float]
  ) {
    guard format == .int4 || format == .int5 else {
      for (i, row) in index.enumerated() {
        for c in range { y[c] = y[c].addingProduct(h[i], w[Int(row) * columns + c]) }
      }
      return
    }
    let largest: Float = format == .int4 ? 1052 : 518
    let record = rows.count / (w.count / columns)
    func d(_ row: Int32, _ c: Int) -> Float {
      let at = Int(row) * record + c / 256 * 2
      return Float(Float16(bitPattern: UInt16(rows[at]) | UInt16(rows[at + 1]) << 8))
    }
    /// |d| rounded up to four significant bits.
    func limit(_ d: Float) -> Float {
      let (magnitude, unit) = (abs(d), max(abs(d).binade, 0x1p-14) * 0.125)
      return (magnitude / unit).rounded(.up) * unit
    }
    for group in Set(index.map { $0 / 128 }).sorted() {
      let members = index.indices.filter { index[$0] / 128 == group }
      for c in range {
        let m = members.map { abs(h[$0]) * limit(d(index[$0], c)) }.max() ?? 0
        guard m >= 0x1p-100 else { continue }
        var sum = 0
        for i in members {
          let d = d(index[i], c)
          let g = (Float.zero + 12_582_912).addingProduct(h[i] * d, largest / m) - 12_582_912
          // The weight without d: an integer, which the rounding of the product left recognizable.
          if d != 0 { sum += Int(g) * Int((w[Int(index[i]) * columns + c] / d * 4096).rounded()) }
        }
        y[c] = y[c].addingProduct(m * (0x1p-12 / largest), Float(sum))
      }
    }
  }

  /// y + Σ h[i] · rows[index[i]], as a table computes it, in the columns of `range`.
  private func sum(
    _ format: Format, _ rows: [UInt8], columns: Int, _ index: [Int32], _ h: [Float], _ range: Range<Int>,
    addedTo y: [Float], with kernels: rk_kernels
  ) -> [Float] {
    let (h, sums, index, records) = (Floats(h), Floats(y), Guarded(index), Guarded(rows))
    let limits = Guarded(limits(format, rows, columns))
    let rows = rk_rows(
      format: format.rawValue, records: records.pointer, columns: columns, from: range.lowerBound,
      to: range.upperBound)
    var sum = rk_add_rows(
      rows: rows, limits: limits.pointer, index: index.pointer, h: h.pointer, n: index.count, y: sums.pointer)
    kernels.add_rows(&sum)
    return sums.values
  }

  /// The same for T tokens, [T, columns], and rows [1, count − 1) of `count`.
  private func sums(
    _ format: Format, _ rows: [UInt8], count: Int, columns: Int, _ h: [Float], T: Int, _ range: Range<Int>,
    addedTo y: [Float], with kernels: rk_kernels
  ) -> [Float] {
    let (h, sums, scratch) = (Floats(h), Floats(y), Floats(zeros: Int(RK_ADD_ROWS_SCRATCH)))
    rows.withUnsafeBytes { records in
      guard let records = records.baseAddress else { return }
      let rows = rk_rows(
        format: format.rawValue, records: records, columns: columns, from: range.lowerBound,
        to: range.upperBound
      )
      var block = rk_add_rows_block(
        rows: rows, first: 1, count: count - 2, T: T, h: h.pointer, h_stride: count, y: sums.pointer,
        y_stride: columns, scratch: scratch.pointer)
      kernels.add_rows_block(&block)
    }
    #expect(sums.guardsIntact && scratch.guardsIntact)
    return sums.values
  }

  /// What the kernels want to know of all rows beforehand.
  private func limits(_ format: Format, _ rows: [UInt8], _ columns: Int) -> [UInt8] {
    let count = rows.count / rk_record_bytes(format.rawValue, columns, 1)
    var limits = [UInt8](repeating: 0, count: rk_row_limits_bytes(format.rawValue, columns, count))
    rk_row_limits(format.rawValue, rows, columns, 0, count, &limits)
    return limits
  }

  @Test("agree with their definition, bit for bit", arguments: Format.allCases, tableNames)
  func reference(format: Format, table: String) {
    for columns in [1, 33, 96, 257, 768, 2400] {
      let count = 300
      let rows = encode(
        MatrixProducts.matrix(rows: count, columns: columns), format, columns: columns, panels: false,
        with: fastKernels)
      let w = decode(rows, format, rows: count, columns: columns, panels: false, with: scalarKernels)
      // 1, 5, 12 and 17 of a group.
      for count in columns < 700 ? [1, 5, 12, 20, 37] : [37] {
        let index = (0..<count).map { (i: Int) -> Int32 in Int32(i < 12 ? 3 * i : i < 20 ? 120 + i : 230 + i)
        }
        let factors: [Float] = [0.5, -1.25, 3.7, 1e-3, 0.3]
        let h = (0..<count).map { (i: Int) -> Float in factors[i % 5] * Float(i + 1) }
        let from = columns > 200 ? 64 : 0
        let to = columns == 768 ? 672 : columns
        var expected = (0..<columns).map { Float($0 % 7) * 0.1 }
        let y = sum(
          format, rows, columns: columns, index, h, from..<to, addedTo: expected, with: kernels(table))
        Self.add(format, rows, w, columns: columns, index, h, from..<to, to: &expected)
        #expect(bits(y) == bits(expected))
      }
    }
  }

  /// Integers of at most 1052 or 518 for the largest of 128 activations: 0.12 and 0.25 % are lost where 4 and 5 bits
  /// cost 6 and 3 %.
  @Test(
    "come close to the sums of dequantized rows", arguments: [(Format.int4, 0.00125), (.int5, 0.0026)],
    tableNames)
  func closeness(format: (Format, Double), table: String) {
    let (columns, count) = (768, 512)
    let rows = encode(
      MatrixProducts.matrix(rows: count, columns: columns), format.0, columns: columns, panels: false,
      with: fastKernels)
    let w = decode(rows, format.0, rows: count, columns: columns, panels: false, with: scalarKernels)
    var random = Random(7)
    let h = random.gaussians(count).map { $0 > 0 ? $0 * $0 : 0 }
    let index = h.indices.filter { h[$0] != 0 }.map { Int32($0) }
    let y = sum(
      format.0, rows, columns: columns, index, index.map { h[Int($0)] }, 0..<columns,
      addedTo: [Float](repeating: 0, count: columns), with: kernels(table))
    var (error, power) = (0.0, 0.0)
    for c in 0..<columns {
      let exact = h.indices.reduce(0.0) { $0 + Double(h[$1]) * Double(w[$1 * columns + c]) }
      error += (Double(y[c]) - exact) * (Double(y[c]) - exact)
      power += exact * exact
    }
    #expect((error / power).squareRoot() < format.1)
  }

  @Test("of blocks of tokens are the same bits as token by token", arguments: Format.allCases, tableNames)
  func blocks(format: Format, table: String) {
    let kernels = kernels(table)
    // Half of the activations, a tenth of them, or most are zero: tokens share rows where most are needed by most,
    // and few tokens those that two of them need.
    for (columns, from, to, least) in [
      (1, 0, 1, 0), (33, 0, 33, 0), (96, 32, 64, 0), (96, 32, 64, -1.3), (257, 0, 257, 0),
      (1120, 32, 1120, 0), (1120, 32, 1120, -1.3), (1120, 0, 1120, 1.6),
    ] as [(Int, Int, Int, Float)] {
      let count = 170
      let rows = encode(
        MatrixProducts.matrix(rows: count, columns: columns), format, columns: columns, panels: false,
        with: fastKernels)
      for T in [2, 3, 4, 5] + (columns == 96 ? [70] : []) {
        var random = Random(columns)
        let h = random.gaussians(T * count).map { $0 > least ? $0 : 0 }
        var expected = [Float](repeating: 0.25, count: T * columns)
        let y = sums(
          format, rows, count: count, columns: columns, h, T: T, from..<to, addedTo: expected, with: kernels)
        for t in 0..<T {
          let index = (1..<count - 1).filter { h[t * count + $0] != 0 }.map { Int32($0) }
          let values = index.map { h[t * count + Int($0)] }
          let place = (t * columns)..<((t + 1) * columns)
          let token = sum(
            format, rows, columns: columns, index, values, from..<to, addedTo: Array(expected[place]),
            with: scalarKernels)
          expected.replaceSubrange(place, with: token)
        }
        #expect(bits(y) == bits(expected), "\(T) tokens")
      }
    }
  }
}
