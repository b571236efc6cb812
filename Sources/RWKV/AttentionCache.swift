// SPDX-License-Identifier: MIT
internal import CRWKVKernels

/// Keys and values of earlier tokens, and the mean keys of their chunks, for one attention block of RWKV-X.
///
/// Grows as needed up to the model's bound. Not thread-safe; tasks of one phase write disjoint heads.
final class AttentionCache {
  let heads: Int
  let headSize: Int
  /// Cached tokens.
  var count = 0
  /// Tokens for which there is room.
  private(set) var capacity = 0
  /// [H, capacity, N]
  private(set) var keys: UnsafeMutablePointer<Float>
  private(set) var values: UnsafeMutablePointer<Float>
  /// Mean keys of complete chunks, [capacity / chunk size + 1, D].
  private(set) var means: UnsafeMutablePointer<Float>
  private var meansCount = 0

  init(heads: Int, headSize: Int) {
    self.heads = heads
    self.headSize = headSize
    keys = .allocate(capacity: 0)
    values = .allocate(capacity: 0)
    means = .allocate(capacity: 0)
  }

  deinit {
    keys.deallocate()
    values.deallocate()
    means.deallocate()
  }

  /// Keys of one head, [count, N].
  func keys(_ head: Int) -> UnsafeMutablePointer<Float> { keys + head * capacity * headSize }
  /// Values of one head, [count, N].
  func values(_ head: Int) -> UnsafeMutablePointer<Float> { values + head * capacity * headSize }

  /// Makes room for `tokens` tokens in chunks of `chunkSize`; `limit`: more than that is never needed.
  func reserve(_ tokens: Int, chunkSize: Int, limit: Int) {
    guard tokens > capacity else { return }
    let room = max(tokens, min(max(256, 2 * capacity), limit))
    let (oldKeys, oldValues, oldCapacity) = (keys, values, capacity)
    keys = .allocate(capacity: heads * room * headSize)
    values = .allocate(capacity: heads * room * headSize)
    for head in 0..<heads {
      let (to, from) = (head * room * headSize, head * oldCapacity * headSize)
      (keys + to).update(from: oldKeys + from, count: count * headSize)
      (values + to).update(from: oldValues + from, count: count * headSize)
    }
    oldKeys.deallocate()
    oldValues.deallocate()
    capacity = room
    let rows = (room / chunkSize + 1) * heads * headSize
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
    let mean = means + (chunk * heads + head) * headSize
    mean.update(repeating: 0, count: headSize)
    for token in chunk * chunkSize..<(chunk + 1) * chunkSize {
      bestKernels.add(keys(head) + token * headSize, headSize, mean)
    }
    for i in 0..<headSize { mean[i] /= Float(chunkSize) }
  }

  /// Takes over the contents of another cache.
  func assign(_ other: AttentionCache) {
    keys.deallocate()
    values.deallocate()
    means.deallocate()
    (count, capacity, meansCount) = (other.count, other.capacity, other.meansCount)
    keys = .allocate(capacity: heads * capacity * headSize)
    values = .allocate(capacity: heads * capacity * headSize)
    means = .allocate(capacity: meansCount)
    for head in 0..<heads {
      keys(head).update(from: other.keys(head), count: count * headSize)
      values(head).update(from: other.values(head), count: count * headSize)
    }
    means.update(from: other.means, count: meansCount)
  }
}
