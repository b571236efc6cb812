import Dispatch

/// The memory's read bandwidth with `threads` threads [bytes/s]: the best of several passes over 256 MiB, four streams
/// a thread. Decoding cannot read its weights faster than this, unless they fit a cache.
package func readBandwidth(threads: Int) -> Double {
  let bytes = 256 << 20
  let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes, alignment: 4096)
  defer { memory.deallocate() }
  nonisolated(unsafe) let words = memory.bindMemory(to: SIMD8<UInt64>.self)
  memory.initializeMemory(as: UInt8.self, repeating: 1)
  nonisolated(unsafe) let sums = UnsafeMutableBufferPointer<SIMD8<UInt64>>.allocate(capacity: threads)
  defer { sums.deallocate() }
  var best = Double.infinity
  for _ in 0..<7 {
    let start = now()
    DispatchQueue.concurrentPerform(iterations: threads) { thread in
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
