// SPDX-License-Identifier: MIT
import CRWKVKernels
import RWKVFormat
import Testing

/// Every kernel of every table with every buffer against a page that nobody may touch, once with its end and once with
/// its beginning: one element beyond, read or written, ends the process. Sizes lie around vectors, units and blocks.
@Suite("Bounds of kernels")
struct BoundsTests {
  /// Runs a kernel at many sizes, and hashes all that it wrote.
  typealias Call = @Sendable (rk_kernels, inout XXH64) -> Void

  static let calls: [String: Call] = elementwise.merging(vocabulary) { $1 }.merging(recurrences) { $1 }
    .merging(weights) { $1 }

  @Test("are all tried here")
  func complete() {
    let functions = Mirror(reflecting: scalarKernels).children.compactMap(\.label).filter { $0 != "name" }
    #expect(Set(Self.calls.keys) == Set(functions))
  }

  @Test("are those of the list of tables, too")
  func names() {
    for name in ["", "none", "scala", "scalars", "avx"] { #expect(rk_kernels_named(name) == nil) }
    #expect(!allTables.isEmpty && allTables.allSatisfy { String(cString: kernels($0).name) == $0 })
    #expect(rk_format_numbers(-1) == nil && rk_format_numbers(1 << 20) == nil)
  }

  @Test("hold, and what lies beside them does not matter", arguments: calls.keys.sorted(), allTables)
  func hold(kernel: String, table: String) throws {
    let call = try #require(Self.calls[kernel])
    let results = [GuardedMemory.Place.beforeAPage, .behindAPage].map { place in
      var hash = XXH64()
      Guarding.$place.withValue(place) { call(kernels(table), &hash) }
      return hash.value
    }
    #expect(results[0] == results[1] && results[0] != XXH64().value)
  }

  @Test("of the limits of rows hold", arguments: [Format.int4, .int5])
  func limits(format: Format) {
    for place in [GuardedMemory.Place.beforeAPage, .behindAPage] {
      Guarding.$place.withValue(place) {
        for columns in Self.widths { _ = Rows(format, columns) }
      }
    }
  }

  // MARK: - Vectors

  private static let lengths = [1, 2, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 100, 128, 255, 256, 300]

  private static func vectors(_ use: @escaping @Sendable (rk_kernels, Vectors) -> Void) -> Call {
    { kernels, hash in
      for n in lengths {
        let vectors = Vectors(n)
        use(kernels, vectors)
        hash.add(vectors.written)
      }
    }
  }

  /// Inputs a, b, c and a place y for the result, all of length n.
  private struct Vectors {
    let n: Int
    let inputs: [Floats]
    let written: Floats
    var a: UnsafePointer<Float> { UnsafePointer(inputs[0].pointer) }
    var b: UnsafePointer<Float> { UnsafePointer(inputs[1].pointer) }
    var c: UnsafePointer<Float> { UnsafePointer(inputs[2].pointer) }
    var y: UnsafeMutablePointer<Float> { written.pointer }

    init(_ n: Int) {
      var numbers = Random(n)
      self.n = n
      inputs = (0..<3).map { _ in Floats(numbers.floats(n)) }
      written = Floats(numbers.floats(n, in: -9...9))
    }
  }

  private static let elementwise: [String: Call] = [
    "layer_norm": vectors { $0.layer_norm($1.a, $1.b, $1.c, $1.n, 1e-5, $1.y) },
    "token_shift": vectors { $0.token_shift($1.a, $1.b, $1.c, $1.n, $1.y) },
    "add": vectors { $0.add($1.a, $1.n, $1.y) },
    "tanh": vectors { $0.tanh($1.y, $1.n) },
    "sigmoid": vectors { $0.sigmoid($1.y, $1.n) },
    "multiply_sigmoid": vectors { $0.multiply_sigmoid($1.a, $1.n, $1.y) },
    "relu_squared": vectors { $0.relu_squared($1.y, $1.n) },
    "decay": vectors { $0.decay($1.a, $1.n % 2 == 0 ? nil : $1.b, $1.n, $1.y) },
    "dot": vectors { $1.y[0] = $0.dot($1.a, $1.b, $1.n) },
    "add_scaled": vectors { $0.add_scaled(0.3, $1.a, $1.n, $1.y) },
    "exp_shifted": vectors { $1.y[0] += $0.exp_shifted($1.y, $1.n, 9) },
    "add_moments": { kernels, hash in
      for n in lengths where n <= 256 {
        var numbers = Random(n)
        let (T, ldx) = (5, n + 3)
        let x = Floats(numbers.floats((T - 1) * ldx + n)), sums = Floats(zeros: 256 * n)
        kernels.add_moments(x.pointer, ldx, T, n, sums.pointer)
        for i in 0..<n { hash.add(Array(UnsafeBufferPointer(start: sums.pointer + 257 * i, count: n - i))) }
      }
    },
    "nonzero": { kernels, hash in
      for n in lengths {
        var numbers = Random(n)
        let h = Floats(numbers.floats(n).map { $0 == 0 ? 1 : $0 })  // as many as there is room for
        let from = n / 3
        let index = Guarded<Int32>(repeating: -1, count: n - from), value = Floats(zeros: n - from)
        #expect(kernels.nonzero(h.pointer, from, n, index.pointer, value.pointer) == n - from)
        hash.add(index)
        hash.add(value)
      }
    },
  ]

  private static let vocabulary: [String: Call] = [
    "softmax_terms": { kernels, hash in
      for n in lengths {
        var numbers = Random(n)
        let x = Floats(numbers.floats(n, in: -30...0))
        let terms = Guarded<Double>(repeating: 0, count: n)
        let sums = Guarded<Double>(repeating: 0, count: (n + 63) / 64)
        kernels.softmax_terms(x.pointer, n, 0, 0.7, terms.pointer, sums.pointer)
        hash.add(terms)
        hash.add(sums)
      }
    },
    "sum_exp": vectors { $1.y[0] = Float($0.sum_exp($1.y, $1.n, 9)) },
    "maxima": { kernels, hash in
      for n in lengths {
        var numbers = Random(n)
        let x = Floats(numbers.floats(n)), maxima = Floats(zeros: (n + 63) / 64), least = Floats(zeros: 1)
        #expect(kernels.maxima(x.pointer, n, maxima.pointer, least.pointer) != 0)
        hash.add(maxima)
        hash.add(least)
      }
    },
    "within": { kernels, hash in
      for n in lengths {
        var numbers = Random(n)
        let x = Floats(numbers.floats(n))
        let index = Guarded<Int32>(repeating: -1, count: n), value = Floats(zeros: n)
        #expect(kernels.within(x.pointer, n, -1, 1, index.pointer, value.pointer) == n)
        hash.add(index)
        hash.add(value)
      }
    },
  ]

  // MARK: - Recurrences

  private static let recurrences: [String: Call] = [
    "wkv4": { kernels, hash in
      sizes(&hash) { Wkv4Case(T: $1, n: $0, seed: 1).run(String(cString: kernels.name)).result }
    },
    "wkv6": { kernels, hash in
      sizes(&hash) {
        let head = Wkv6Case(T: $1, N: $0, perToken: $0 % 2 == 0, gated: $0 % 3 != 0, seed: 2)
        return head.run(String(cString: kernels.name)).result
      }
    },
    "wkv7": { kernels, hash in
      sizes(&hash) {
        Wkv7Case(T: $1, N: $0, later: $0 % 2 == 0, seed: 3).run(String(cString: kernels.name)).result
      }
    },
  ]

  private static func sizes(_ hash: inout XXH64, _ run: (_ N: Int, _ T: Int) -> HeadResult<Float>) {
    for N in [1, 8, 15, 16, 17, 33, 48, 63, 64, 65] {
      for T in [1, 3] {
        let result = run(N, T)
        hash.add(result.y)
        hash.add(result.state)
      }
    }
  }

  // MARK: - Weights

  private static let widths = [1, 31, 32, 33, 64, 96, 128, 129, 255, 256, 257, 320]

  private static let widthsOfRows = [1, 33, 96, 257, 1120]
  private static let rowCount = 150

  /// By columns.
  private static let matrices: [Int: [Float]] = {
    var numbers = Random(1)
    let all = numbers.floats(rowCount * 1120)
    return Dictionary(
      uniqueKeysWithValues: Set(widths + widthsOfRows).map { ($0, Array(all.prefix(rowCount * $0))) })
  }()

  /// Records by format and columns: 17 rows in panels, or all one by one.
  private static let panels = records {
    encode(Array($1.prefix(17 * $2)), $0, columns: $2, panels: true, with: fastKernels)
  }
  private static let rows = records { encode($1, $0, columns: $2, panels: false, with: fastKernels) }

  private static func records(_ make: (Format, [Float], Int) -> [UInt8]) -> [Format: [Int: [UInt8]]] {
    Dictionary(
      uniqueKeysWithValues: Format.allCases.map { format in
        (
          format,
          Dictionary(uniqueKeysWithValues: matrices.map { ($0.key, make(format, $0.value, $0.key)) })
        )
      })
  }

  private static func each(_ use: (Format, _ columns: Int, _ w: [Float]) -> Void) {
    for columns in widths {
      let w = Array(matrices[columns, default: []].prefix(17 * columns))
      for format in Format.allCases { use(format, columns, w) }
    }
  }

  /// Rows of a value matrix with what `add_rows` wants to know of them.
  private struct Rows {
    let records: Guarded<UInt8>
    let limits: Guarded<UInt8>

    init(_ format: Format, _ columns: Int) {
      records = Guarded(rows[format]?[columns] ?? [])
      limits = Guarded(repeating: 0, count: rk_row_limits_bytes(format.rawValue, columns, rowCount))
      rk_row_limits(format.rawValue, records.pointer, columns, 0, rowCount, limits.pointer)
    }

    func view(_ format: Format, _ columns: Int, _ range: Range<Int>) -> rk_rows {
      rk_rows(
        format: format.rawValue, records: records.pointer, columns: columns, from: range.lowerBound,
        to: range.upperBound)
    }
  }

  private static let weights: [String: Call] = [
    "matmul": { kernels, hash in
      each { format, columns, w in
        let panels = panels[format]?[columns] ?? []
        var numbers = Random(columns)
        let x = Input(numbers.floats(33 * columns), columns: columns, with: kernels)
        for T in [1, 2, 3, 4, 5, 7, 8, 9, 33] {
          hash.add(x.multiplied(by: panels, format, first: 33 - T, count: T, with: kernels))
        }
      }
    },
    "quantize_input": { kernels, hash in
      for n in lengths {
        var numbers = Random(n)
        let x = Input(numbers.floats(n), columns: n, with: kernels)
        hash.add(x.scale)
        hash.add(x.sum)
      }
    },
    "encode_panel": { kernels, hash in
      each { format, columns, w in
        hash.add(encode(w, format, columns: columns, panels: true, with: kernels))
        guard [33, 257].contains(columns), format.rawValue > 3 else { return }
        let factor = [Float](repeating: 0.01, count: (columns + 255) / 256 * 65536)
        hash.add(encode(w, format, columns: columns, panels: true, factor: factor, with: kernels))
      }
    },
    "encode_row": { kernels, hash in
      each { format, columns, w in
        hash.add(encode(w, format, columns: columns, panels: false, with: kernels))
      }
    },
    "decode_panel_row": { kernels, hash in
      each { format, columns, w in
        let panels = panels[format]?[columns] ?? []
        hash.add(decode(panels, format, rows: 17, columns: columns, panels: true, with: kernels))
      }
    },
    "decode_row": { kernels, hash in
      each { format, columns, w in
        let rows = rows[format]?[columns] ?? []
        hash.add(decode(rows, format, rows: 17, columns: columns, panels: false, with: kernels))
      }
    },
    "add_rows": { kernels, hash in
      sumsOfRows { format, columns, range, rows in
        for count in [1, 2, 5, 37] {
          // The last rows are among them.
          let index = Guarded((0..<count).map { Int32($0 < count / 2 ? 3 * $0 : rowCount - count + $0) })
          var numbers = Random(count)
          let h = Floats(numbers.floats(count)), y = Floats(zeros: range.upperBound)
          var sum = rk_add_rows(
            rows: rows.view(format, columns, range), limits: rows.limits.pointer, index: index.pointer,
            h: h.pointer, n: count, y: y.pointer)
          kernels.add_rows(&sum)
          hash.add(y)
        }
      }
    },
    "add_rows_block": { kernels, hash in
      let scratch = Floats(zeros: Int(RK_ADD_ROWS_SCRATCH))
      sumsOfRows { format, columns, range, rows in
        for T in columns < 200 ? [2, 3, 4, 5, 9, 70] : [2, 5] {
          var numbers = Random(T)
          let (first, count, ldh) = (3, 147, 160)
          let h = Floats(numbers.floats((T - 1) * ldh + first + count).map { $0 > 0.2 ? $0 : 0 })
          let y = Floats(zeros: (T - 1) * columns + range.upperBound)
          var block = rk_add_rows_block(
            rows: rows.view(format, columns, range), first: first, count: count, T: T, h: h.pointer,
            h_stride: ldh, y: y.pointer, y_stride: columns, scratch: scratch.pointer)
          kernels.add_rows_block(&block)
          hash.add(y)
        }
      }
    },
  ]

  private static func sumsOfRows(_ use: (Format, _ columns: Int, Range<Int>, Rows) -> Void) {
    for columns in widthsOfRows {
      for format in Format.allCases {
        let rows = Rows(format, columns)
        for range in [0..<columns, columns / 64 * 32..<columns] { use(format, columns, range, rows) }
      }
    }
  }
}

extension XXH64 {
  fileprivate mutating func add<Element>(_ values: [Element]) { values.withUnsafeBytes { update($0) } }

  fileprivate mutating func add<Element>(_ values: Guarded<Element>) {
    update(
      UnsafeRawBufferPointer(
        start: values.pointer, count: values.count * MemoryLayout<Element>.stride))
  }
}
