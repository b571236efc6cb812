// SPDX-License-Identifier: MIT
import Synchronization

/// Reading rows in our orientation with bounded memory.
extension Checkpoint {
  /// Bytes read from a file at a time.
  private static let pieceBytes = 256 << 10
  /// A stripe of a transposed matrix held in memory: at most 1M floats (4 MiB), at least 16 rows.
  private static let stripeValues = 1 << 20
  /// Requests of this many rows are transposed straight into the caller's buffer.
  private static let directRows = 256

  /// Reads rows as Float, row after row: `rows.count * tensor.columns` values. Exact for F32, F16 and BF16
  /// sources. Thread-safe. Throws `unreadable` when the file fails.
  public func readRows(
    _ tensor: CheckpointTensor, rows: Range<Int>, into target: UnsafeMutableBufferPointer<Float>
  ) throws(CheckpointError) {
    precondition(rows.lowerBound >= 0 && rows.upperBound <= tensor.rows, "rows out of range")
    precondition(target.count >= rows.count * tensor.columns, "buffer too small")
    guard let base = target.baseAddress, !rows.isEmpty else { return }
    if let groupRows = tensor.groupRows {
      var row = rows.lowerBound
      while row < rows.upperBound {
        let end = min(rows.upperBound, (row / groupRows + 1) * groupRows)
        let part = base + (row - rows.lowerBound) * tensor.columns
        row = try readTransposed(tensor, rows: row..<end, groupRows: groupRows, into: part)
      }
    } else {
      let start = rows.lowerBound * tensor.columns
      try Checkpoint.read(tensor.source, from: start, count: rows.count * tensor.columns, into: base)
    }
    tensor.source.transform.undo(UnsafeMutableBufferPointer(start: base, count: rows.count * tensor.columns))
    if let update = tensor.source.update {
      try factors(update, of: tensor).add(to: base, rows: rows, columns: tensor.columns)
    }
  }

  /// Rows within one group; returns the row to go on with.
  private func readTransposed(
    _ tensor: CheckpointTensor, rows: Range<Int>, groupRows: Int, into target: UnsafeMutablePointer<Float>
  ) throws(CheckpointError) -> Int {
    let group = rows.lowerBound / groupRows
    let block = tensor.sourceType.blockLength
    let inner = rows.lowerBound - group * groupRows..<rows.upperBound - group * groupRows
    if inner.count >= Checkpoint.directRows, inner.lowerBound % block == 0 {
      let count = inner.count / block * block
      try Checkpoint.transpose(
        tensor, group: group, inner: inner.lowerBound..<inner.lowerBound + count, groupRows: groupRows,
        into: target)
      return rows.lowerBound + count
    }
    // Small requests come in ascending order, usually: keep the stripe around them.
    let unit = max(16, block)
    let height = max(unit, Checkpoint.stripeValues / tensor.columns / unit * unit)
    let first = inner.lowerBound / height * height
    let stripe = try stripe(
      tensor, group: group, inner: first..<min(first + height, groupRows), groupRows: groupRows)
    let end = min(inner.upperBound, first + height)
    let count = (end - inner.lowerBound) * tensor.columns
    stripe.values.withUnsafeBufferPointer { values in
      if let base = values.baseAddress {
        target.update(from: base + (inner.lowerBound - first) * tensor.columns, count: count)
      }
    }
    return rows.lowerBound + end - inner.lowerBound
  }

  /// The cached stripe, or a new one. The lock is held while it is read: threads that want the same one wait
  /// for it.
  private func stripe(
    _ tensor: CheckpointTensor, group: Int, inner: Range<Int>, groupRows: Int
  ) throws(CheckpointError) -> Stripe {
    let result: Result<Stripe, CheckpointError> = stripes.withLock { cache in
      let row = group * groupRows + inner.lowerBound
      if let stripe = cache.find({ $0.row == row && $0.tensor == tensor.name }) { return .success(stripe) }
      var failure: CheckpointError?
      let values = [Float](unsafeUninitializedCapacity: inner.count * tensor.columns) { buffer, count in
        count = inner.count * tensor.columns
        do throws(CheckpointError) {
          if let base = buffer.baseAddress {
            try Checkpoint.transpose(tensor, group: group, inner: inner, groupRows: groupRows, into: base)
          }
        } catch {
          failure = error
          count = 0
        }
      }
      if let failure { return .failure(failure) }
      let stripe = Stripe(tensor: tensor.name, row: row, values: values)
      cache.insert(stripe)
      return .success(stripe)
    }
    return try result.get()
  }

  /// The cached factors of a LoRA, or new ones.
  private func factors(
    _ update: LowRankUpdate, of tensor: CheckpointTensor
  ) throws(CheckpointError) -> LowRankUpdate.Factors {
    let result: Result<LowRankUpdate.Factors, CheckpointError> = updates.withLock { cache in
      if let factors = cache.find({ $0.tensor == tensor.name }) { return .success(factors) }
      do throws(CheckpointError) {
        let factors = try LowRankUpdate.Factors(update, of: tensor)
        cache.insert(factors)
        return .success(factors)
      } catch {
        return .failure(error)
      }
    }
    return try result.get()
  }

  /// Transposes `inner` rows of one group. The file has `columns` runs of `groupRows` values; 16 runs are read,
  /// then written as 64-byte pieces of the target's rows. The runs of the tile lie an odd number of cache lines
  /// apart, so that 16 values of a row do not compete for one place in the cache.
  private static func transpose(
    _ tensor: CheckpointTensor, group: Int, inner: Range<Int>, groupRows: Int,
    into target: UnsafeMutablePointer<Float>
  ) throws(CheckpointError) {
    let source = tensor.source
    let (columns, height) = (tensor.columns, inner.count)
    let pitch = (height / 16 | 1) * 16 + 32
    let tile = UnsafeMutablePointer<Float>.allocate(capacity: 16 * pitch)
    defer { tile.deallocate() }
    for first in stride(from: 0, to: columns, by: 16) {
      let width = min(16, columns - first)
      for column in 0..<width {
        let start = (group * columns + first + column) * groupRows + inner.lowerBound
        try read(source, from: start, count: height, into: tile + column * pitch)
      }
      let corner = target + first
      if width == 16 {
        for row in 0..<height {
          for column in 0..<16 { corner[row * columns + column] = tile[column * pitch + row] }
        }
      } else {
        for row in 0..<height {
          for column in 0..<width { corner[row * columns + column] = tile[column * pitch + row] }
        }
      }
    }
  }

  /// Consecutive values of a stored tensor; `from` and `count` are whole blocks of its type.
  static func read(
    _ tensor: StoredTensor, from start: Int, count: Int, into target: UnsafeMutablePointer<Float>
  ) throws(CheckpointError) {
    if let strides = tensor.strides {
      return try readView(tensor, strides, from: start, count: count, into: target)
    }
    let type = tensor.type
    let piece = pieceBytes / type.blockBytes * type.blockLength
    let scratch = UnsafeMutableRawBufferPointer.allocate(
      byteCount: type.bytes(min(count, piece)), alignment: 64)
    defer { scratch.deallocate() }
    guard let raw = scratch.baseAddress else { return }
    var done = 0
    while done < count {
      let now = min(piece, count - done)
      let part = UnsafeMutableRawBufferPointer(rebasing: scratch[..<type.bytes(now)])
      try tensor.file.read(at: tensor.offset + type.bytes(start + done), into: part)
      type.decode(UnsafeRawPointer(raw), count: now, into: target + done)
      done += now
    }
  }
}

extension Checkpoint {
  /// Consecutive values of a view, whose values lie apart: along the last axis a piece of the file is read and what is
  /// between them left out.
  private static func readView(
    _ tensor: StoredTensor, _ strides: [Int], from start: Int, count: Int,
    into target: UnsafeMutablePointer<Float>
  ) throws(CheckpointError) {
    let (type, columns, step) = (
      tensor.type, tensor.shape[tensor.shape.count - 1], strides[strides.count - 1]
    )
    let piece = max(1, pieceBytes / type.blockBytes / max(1, step))
    let span = (min(piece, columns) - 1) * step + 1
    let scratch = UnsafeMutableRawBufferPointer.allocate(byteCount: span * type.blockBytes, alignment: 64)
    defer { scratch.deallocate() }
    let values = UnsafeMutablePointer<Float>.allocate(capacity: span)
    defer { values.deallocate() }
    guard let raw = scratch.baseAddress else { return }
    var done = 0
    while done < count {
      // Where the next value lies, and how many follow along the last axis.
      var (rest, place) = (start + done, 0)
      for axis in tensor.shape.indices.reversed() {
        place += rest % tensor.shape[axis] * strides[axis]
        rest /= tensor.shape[axis]
      }
      let now = min(piece, count - done, columns - (start + done) % columns)
      let length = (now - 1) * step + 1
      let part = UnsafeMutableRawBufferPointer(rebasing: scratch[..<type.bytes(length)])
      try tensor.file.read(at: tensor.offset + type.bytes(place), into: part)
      type.decode(UnsafeRawPointer(raw), count: length, into: values)
      for index in 0..<now { target[done + index] = values[index * step] }
      done += now
    }
  }
}

/// Some rows of a transposed tensor, in our orientation.
final class Stripe: Sendable {
  let tensor: String
  let row: Int
  let values: [Float]

  init(tensor: String, row: Int, values: [Float]) {
    self.tensor = tensor
    self.row = row
    self.values = values
  }
}

/// The four values used last, the newest at the end.
struct RecentValues<Value: Sendable>: Sendable {
  private var values: [Value] = []

  mutating func find(_ isWanted: (Value) -> Bool) -> Value? {
    guard let index = values.firstIndex(where: isWanted) else { return nil }
    let value = values.remove(at: index)
    values.append(value)
    return value
  }

  mutating func insert(_ value: Value) {
    if values.count == 4 { values.removeFirst() }
    values.append(value)
  }
}
