// SPDX-License-Identifier: MIT
internal import CRWKVKernels

/// Keys and values of earlier tokens, for one attention block of RWKV-7b or RWKV-X; for the latter also the mean keys
/// of their chunks.
///
/// Grows as needed up to the model's bound. Not thread-safe; tasks of one phase write disjoint heads.
final class AttentionCache {
  let heads: Int
  /// Floats of a head's key and value.
  let keySize, valueSize: Int
  /// Cached tokens.
  var count = 0
  /// Tokens for which there is room.
  private(set) var capacity = 0
  /// [H, capacity, keySize or valueSize]
  private(set) var keys: UnsafeMutablePointer<Float>
  private(set) var values: UnsafeMutablePointer<Float>
  /// Mean keys of complete chunks, [capacity / chunk size + 1, H · keySize].
  private(set) var means: UnsafeMutablePointer<Float>
  private var meansCount = 0

  init(heads: Int, keySize: Int, valueSize: Int) {
    (self.heads, self.keySize, self.valueSize) = (heads, keySize, valueSize)
    keys = .allocate(capacity: 0)
    values = .allocate(capacity: 0)
    means = .allocate(capacity: 0)
  }

  deinit {
    keys.deallocate()
    values.deallocate()
    means.deallocate()
  }

  /// Keys of one head, [count, keySize].
  func keys(_ head: Int) -> UnsafeMutablePointer<Float> { keys + head * capacity * keySize }
  /// Values of one head, [count, valueSize].
  func values(_ head: Int) -> UnsafeMutablePointer<Float> { values + head * capacity * valueSize }

  /// Makes room for `tokens` tokens in chunks of `chunkSize` (`Int.max` where there are none); `limit`: more than
  /// that is never needed.
  func reserve(_ tokens: Int, chunkSize: Int, limit: Int) {
    guard tokens > capacity else { return }
    let room = max(tokens, min(max(256, 2 * capacity), limit))
    let (oldKeys, oldValues, oldCapacity) = (keys, values, capacity)
    capacity = room
    keys = .allocate(capacity: heads * room * keySize)
    values = .allocate(capacity: heads * room * valueSize)
    for head in 0..<heads {
      keys(head).update(from: oldKeys + head * oldCapacity * keySize, count: count * keySize)
      values(head).update(from: oldValues + head * oldCapacity * valueSize, count: count * valueSize)
    }
    oldKeys.deallocate()
    oldValues.deallocate()
    let rows = (room / chunkSize + 1) * heads * keySize
    let oldMeans = means
    means = .allocate(capacity: rows)
    means.update(from: oldMeans, count: meansCount)
    (means + meansCount).update(repeating: 0, count: rows - meansCount)
    meansCount = rows
    oldMeans.deallocate()
  }

  /// Sets the mean keys of all complete chunks.
  func average(chunkSize: Int) {
    for chunk in 0..<count / chunkSize {
      for head in 0..<heads { average(head, chunk: chunk, chunkSize: chunkSize) }
    }
  }

  /// Sets the mean key of one chunk and head.
  func average(_ head: Int, chunk: Int, chunkSize: Int) {
    let mean = means + (chunk * heads + head) * keySize
    mean.update(repeating: 0, count: keySize)
    for token in chunk * chunkSize..<(chunk + 1) * chunkSize {
      bestKernels.add(keys(head) + token * keySize, keySize, mean)
    }
    for i in 0..<keySize { mean[i] /= Float(chunkSize) }
  }

  /// Takes over the contents of another cache.
  func assign(_ other: AttentionCache) {
    keys.deallocate()
    values.deallocate()
    means.deallocate()
    (count, capacity, meansCount) = (other.count, other.capacity, other.meansCount)
    keys = .allocate(capacity: heads * capacity * keySize)
    values = .allocate(capacity: heads * capacity * valueSize)
    means = .allocate(capacity: meansCount)
    for head in 0..<heads {
      keys(head).update(from: other.keys(head), count: count * keySize)
      values(head).update(from: other.values(head), count: count * valueSize)
    }
    means.update(from: other.means, count: meansCount)
  }
}
