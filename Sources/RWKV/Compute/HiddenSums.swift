// SPDX-License-Identifier: MIT
internal import CRWKVKernels
internal import RWKVFormat

/// The last product of channel mixing, for value matrices that are stored by hidden unit:
///
///     x += Σ_j hidden_j · row_j        or  x += σ(gate) · Σ_j hidden_j · row_j
///
/// Rows of hidden units that are zero are not read. Each sum is made of `parts` ranges of hidden units, added up in
/// order: the result depends neither on the number of threads nor on the number of rows of a piece. Scratch of one
/// session, and what it has learned about the rows.
final class HiddenSums {
  private let kernels: Kernels
  let hiddenUnits: Int
  /// Sums of the parts, [parts, T, D] for T ≤ `fewRows`; of longer pieces those of one part, [T, D].
  private let partial: Rows
  private let index: UnsafeMutablePointer<Int32>
  private let value: UnsafeMutablePointer<Float>
  private let rowScratch: UnsafeMutablePointer<Float>
  /// Limits of each value matrix's rows (`rk_row_limits`), by its ordinal, and which parts of them are known: decoding
  /// notes them when it first comes to a part.
  private let limits: UnsafeMutablePointer<UInt8>
  private let limitsKnown: UnsafeMutablePointer<Bool>
  /// Rows that decoding has read so far, by part, and how many there were to read.
  private let rowsRead: UnsafeMutablePointer<Int>
  private let rowsSeen: UnsafeMutablePointer<Int>

  /// Hidden units are summed in this many ranges, whatever the number of threads.
  private static let parts = 8
  /// Rows up to which the hidden units are shared out by part: each member then reads memory in one ascending stream.
  private static let fewRows = 16

  /// - Parameters:
  ///   - hiddenUnits: the most of any block.
  ///   - matrices: how many there are.
  ///   - sums: those of another frame, which share what they learn: a value matrix belongs to one of them at a time.
  init(
    _ frame: Frame, teamSize: Int, hiddenUnits: Int, matrices: Int, beside sums: HiddenSums? = nil,
    arena: Arena
  ) throws(ModelError) {
    kernels = frame.kernels
    self.hiddenUnits = hiddenUnits
    let D = frame.configuration.embedding
    partial = try Rows(rows: max(frame.capacity, Self.parts * Self.fewRows), width: D, in: arena)
    index = try arena.allocate(Int32.self, count: hiddenUnits)
    value = try arena.allocate(Float.self, count: hiddenUnits)
    rowScratch = try arena.allocate(Float.self, count: teamSize * Int(RK_ADD_ROWS_SCRATCH))
    if let sums {
      (limits, limitsKnown) = (sums.limits, sums.limitsKnown)
      (rowsRead, rowsSeen) = (sums.rowsRead, sums.rowsSeen)
      return
    }
    limits = try arena.allocate(
      UInt8.self, count: matrices * Self.limitsBytes(units: hiddenUnits, columns: D))
    limitsKnown = try arena.allocate(Bool.self, count: matrices * Self.parts)
    rowsRead = try arena.allocate(Int.self, count: Self.parts)
    rowsSeen = try arena.allocate(Int.self, count: Self.parts)
  }

  /// Memory for the limits of a value matrix's rows, if it is INT4 or INT5; the other formats need none [bytes].
  static func limitsBytes(units: Int, columns: Int) -> Int {
    Int(rk_row_limits_bytes(Int32(WeightFormat.int4.rawValue), columns, units)) + (parts - 1) * limitsGap
  }

  /// Bytes between the limits of two parts: kernels read eight at a time, and another thread may write the next part's.
  private static let limitsGap = 16

  /// Share of the hidden units' rows that decoding single tokens has read, 0…1; 1 before the first token.
  var shareRead: Double {
    let parts = 0..<Self.parts
    let seen = parts.reduce(0) { $0 + rowsSeen[$1] }
    return seen == 0 ? 1 : Double(parts.reduce(0) { $0 + rowsRead[$1] }) / Double(seen)
  }

  /// x += matrixᵀ · hidden, times σ(gate) if there is a gate, for all rows of `frame`.
  func add(
    _ member: inout Team.Member, _ matrix: HiddenRows, _ hidden: Rows, gate: Rows? = nil, to frame: Frame
  ) {
    let rows = frame.rows
    member.gather(matrix.location, hidden.values, stride: hidden.stride, rows: rows, kernels)
    if rows == 1 {
      member.parallel(Self.parts) { part in sumRow(matrix, hidden, part) }
      addParts(&member, gate, to: frame)
    } else if rows <= Self.fewRows && member.teamSize <= Self.parts {
      let scratch = rowScratch + member.index * Int(RK_ADD_ROWS_SCRATCH)
      member.parallel(Self.parts) { part in
        sumFewRows(matrix, hidden, part, rows, scratch)
      }
      addParts(&member, gate, to: frame)
    } else {
      addColumns(&member, matrix, hidden, gate, to: frame)
    }
  }

  /// Lists a token's hidden units of `part` that are not zero; returns their number.
  private func list(_ hidden: UnsafeMutablePointer<Float>, _ matrix: HiddenRows, _ part: Int) -> Int {
    let units = matrix.units(part, of: Self.parts)
    return kernels.nonzero(
      hidden, units.lowerBound, units.upperBound, index + units.lowerBound, value + units.lowerBound)
  }

  /// Adds the `count` rows of the units that were listed last.
  private func add(_ matrix: HiddenRows, _ part: Int, _ count: Int, to sums: UnsafeMutablePointer<Float>) {
    let from = matrix.units(part, of: Self.parts).lowerBound
    var sum = rk_add_rows(
      rows: matrix.rows(0..<matrix.columns), limits: limits(matrix, part), index: index + from,
      h: value + from,
      n: count, y: sums)
    kernels.add_rows(&sum)
  }

  /// One part of a single row's sum.
  private func sumRow(_ matrix: HiddenRows, _ hidden: Rows, _ part: Int) {
    let count = list(hidden[0], matrix, part)
    rowsRead[part] += count
    rowsSeen[part] += matrix.units(part, of: Self.parts).count
    partial[part].update(repeating: 0, count: matrix.columns)
    add(matrix, part, count, to: partial[part])
  }

  /// One part of a few rows' sums.
  private func sumFewRows(
    _ matrix: HiddenRows, _ hidden: Rows, _ part: Int, _ rows: Int, _ scratch: UnsafeMutablePointer<Float>
  ) {
    let sums = Rows(partial, from: part * rows)
    // Where few tokens need the same hidden unit, it is faster if each reads its own (docs/performance-notebook.md).
    let needed = (0..<rows).reduce(0) { $0 + list(hidden[$1], matrix, part) }
    let units = matrix.units(part, of: Self.parts).count
    guard Double(needed) < Double(units) * (rows <= 4 ? 0.6 : 2.2) else {
      return sum(matrix, hidden, part, 0..<rows, 0..<matrix.columns, into: sums, scratch)
    }
    for row in 0..<rows {
      sums[row].update(repeating: 0, count: matrix.columns)
      add(matrix, part, list(hidden[row], matrix, part), to: sums[row])
    }
  }

  /// One part of the sums of some rows, in some columns.
  private func sum(
    _ matrix: HiddenRows, _ hidden: Rows, _ part: Int, _ rows: Range<Int>, _ columns: Range<Int>,
    into sums: Rows, _ scratch: UnsafeMutablePointer<Float>
  ) {
    let units = matrix.units(part, of: Self.parts)
    for row in rows { (sums[row] + columns.lowerBound).update(repeating: 0, count: columns.count) }
    var sum = rk_add_rows_block(
      rows: matrix.rows(columns), first: units.lowerBound, count: units.count, T: rows.count,
      h: hidden[rows.lowerBound], h_stride: hidden.stride, y: sums[rows.lowerBound], y_stride: sums.stride,
      scratch: scratch)
    kernels.add_rows_block(&sum)
  }

  /// x += σ(gate) · sum of the parts, [parts, rows, D].
  private func addParts(_ member: inout Team.Member, _ gate: Rows?, to frame: Frame) {
    let (rows, D) = (frame.rows, frame.configuration.embedding)
    // Members share a single row, which is all that there is to do.
    let shares = rows == 1 ? member.teamSize : 1
    member.parallel(rows * shares) { task in
      let (row, share) = (task / shares, task % shares)
      let (from, to) = (D * share / shares, D * (share + 1) / shares)
      let sum = partial[row] + from
      for part in 1..<Self.parts { kernels.add(partial[part * rows + row] + from, to - from, sum) }
      if let gate { kernels.multiply_sigmoid(gate[row] + from, to - from, sum) }
      kernels.add(sum, to - from, frame.x[row] + from)
    }
  }

  /// The same for many rows, in tasks of 256 columns, which share activations as integers, for one half of a prompt's
  /// rows.
  private func addColumns(
    _ member: inout Team.Member, _ matrix: HiddenRows, _ hidden: Rows, _ gate: Rows?, to frame: Frame
  ) {
    let (D, total) = (matrix.columns, frame.product)
    let width = member.teamSize == 1 ? D : 256
    let tiles = (D + width - 1) / width
    let halves = RowHalves(frame.rows, teamSize: member.teamSize)
    let scratch = rowScratch + member.index * Int(RK_ADD_ROWS_SCRATCH)
    member.parallel(tiles * halves.count) { task in
      let rows = halves[task / tiles]
      let columns = task % tiles * width..<min(D, (task % tiles + 1) * width)
      let (from, count) = (columns.lowerBound, columns.count)
      sum(matrix, hidden, 0, rows, columns, into: total, scratch)
      for part in 1..<Self.parts {
        sum(matrix, hidden, part, rows, columns, into: partial, scratch)
        for row in rows { kernels.add(partial[row] + from, count, total[row] + from) }
      }
      for row in rows {
        if let gate { kernels.multiply_sigmoid(gate[row] + from, count, total[row] + from) }
        kernels.add(total[row] + from, count, frame.x[row] + from)
      }
    }
  }

  /// Limits of a value matrix's rows, of which those of `part` are known.
  private func limits(_ matrix: HiddenRows, _ part: Int) -> UnsafePointer<UInt8> {
    let D = matrix.columns
    let limits =
      limits + matrix.ordinal * Self.limitsBytes(units: hiddenUnits, columns: D) + part * Self.limitsGap
    let isKnown = limitsKnown + matrix.ordinal * Self.parts + part
    if !isKnown.pointee {
      let units = matrix.units(part, of: Self.parts)
      rk_row_limits(matrix.format, matrix.records, D, units.lowerBound, units.count, limits)
      isKnown.pointee = true
    }
    return UnsafePointer(limits)
  }
}
