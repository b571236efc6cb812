// SPDX-License-Identifier: MIT
import Glibc
import RWKVFormat

/// The memory's read bandwidth with `threads` threads [bytes/s]: the best of several passes over 256 MiB, four streams
/// a thread. Decoding cannot read its weights faster than this, unless they fit a cache. Uses fewer threads where the
/// system does not let this process have so many.
/// - Throws: if there is no room for 256 MiB.
package func readBandwidth(threads: Int) throws(CommandError) -> Double {
  let bytes = 256 << 20
  guard let start = aligned_alloc(4096, bytes) else {
    throw CommandError("the memory's speed is measured in 256 MiB of it, which this process cannot get")
  }
  defer { free(start) }
  let memory = UnsafeMutableRawBufferPointer(start: start, count: bytes)
  memory.initializeMemory(as: UInt8.self, repeating: 1)
  nonisolated(unsafe) let words = memory.bindMemory(to: SIMD8<UInt64>.self)
  let threads = availableThreads(threads)
  nonisolated(unsafe) let sums = UnsafeMutableBufferPointer<SIMD8<UInt64>>.allocate(capacity: threads)
  defer { sums.deallocate() }
  var best = Double.infinity
  for _ in 0..<7 {
    let start = now()
    onThreads(threads) { thread in
      let range = words.count * thread / threads..<words.count * (thread + 1) / threads
      let quarter = range.count / 4
      var (a, b, c, d) = (SIMD8<UInt64>(), SIMD8<UInt64>(), SIMD8<UInt64>(), SIMD8<UInt64>())
      for index in range.lowerBound..<range.lowerBound + quarter {
        a &+= words[index]
        b &+= words[index + quarter]
        c &+= words[index + 2 * quarter]
        d &+= words[index + 3 * quarter]
      }
      sums[thread] = a &+ b &+ c &+ d
    }
    best = min(best, now() - start)
  }
  // The sums are used, so that the loops cannot be left out.
  return sums.contains(SIMD8(repeating: 42)) ? 0 : Double(bytes) / best
}
