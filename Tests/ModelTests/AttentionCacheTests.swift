// SPDX-License-Identifier: MIT
import Testing

@testable import RWKV

/// Keys and values of earlier tokens, as they grow and are copied.
@Suite("Attention cache")
struct AttentionCacheTests {
  private static let (heads, keySize, valueSize, chunk) = (3, 4, 6, 5)

  /// Any number that depends on everything.
  private func number(_ head: Int, _ token: Int, _ i: Int) -> Float {
    Float(100 * token + 10 * head + i) / 8
  }

  private func append(_ count: Int, to cache: AttentionCache) {
    cache.reserve(cache.count + count, chunkSize: Self.chunk, limit: 1000)
    for token in cache.count..<cache.count + count {
      for head in 0..<Self.heads {
        for i in 0..<Self.keySize { cache.keys(head)[token * Self.keySize + i] = number(head, token, i) }
        for i in 0..<Self.valueSize {
          cache.values(head)[token * Self.valueSize + i] = -number(head, token, i)
        }
      }
    }
    let old = cache.count / Self.chunk
    cache.count += count
    for chunk in old..<cache.count / Self.chunk {
      for head in 0..<Self.heads { cache.average(head, chunk: chunk, chunkSize: Self.chunk) }
    }
  }

  private func expectSound(_ cache: AttentionCache, _ count: Int) {
    #expect(cache.count == count && cache.capacity >= count)
    for head in 0..<Self.heads {
      for token in 0..<count {
        for i in 0..<Self.keySize {
          #expect(cache.keys(head)[token * Self.keySize + i] == number(head, token, i))
        }
        for i in 0..<Self.valueSize {
          #expect(cache.values(head)[token * Self.valueSize + i] == -number(head, token, i))
        }
      }
      for chunk in 0..<count / Self.chunk {
        for i in 0..<Self.keySize {
          let mean = (0..<Self.chunk).reduce(Float(0)) { $0 + number(head, chunk * Self.chunk + $1, i) }
          #expect(
            cache.means[(chunk * Self.heads + head) * Self.keySize + i] == mean / Float(Self.chunk))
        }
      }
    }
  }

  /// Room is made for 256 tokens, then for twice as many, up to the limit.
  @Test func growingKeepsKeysValuesAndMeans() {
    let cache = AttentionCache(heads: Self.heads, keySize: Self.keySize, valueSize: Self.valueSize)
    var rooms: [Int] = []
    for count in [7, 249, 1, 300, 443] {
      append(count, to: cache)
      expectSound(cache, cache.count)
      rooms.append(cache.capacity)
    }
    #expect(rooms == [256, 256, 512, 1000, 1000])
    let other = AttentionCache(heads: Self.heads, keySize: Self.keySize, valueSize: Self.valueSize)
    append(3, to: other)
    other.assign(cache)
    expectSound(other, 1000)
    // A copy, not the same memory.
    cache.keys(0)[0] = -1
    #expect(other.keys(0)[0] == number(0, 0, 0))
    other.average(chunkSize: Self.chunk)
    expectSound(other, 1000)
  }
}
