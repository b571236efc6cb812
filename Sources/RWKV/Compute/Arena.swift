// SPDX-License-Identifier: MIT
import Glibc

/// Memory for weights or scratch: zero-filled regions that are returned together.
///
/// Pages cost memory only once they are touched, so that buffers for long prompt blocks are free for those who only
/// decode. With ALLOCATED_ARENAS, for sanitizers, each buffer is an allocation of its own, so that an access one byte
/// beyond it is seen.
final class Arena: @unchecked Sendable {
  private var regions: [UnsafeMutableRawBufferPointer] = []

  /// All that was allocated.
  var byteCount: Int { regions.reduce(0) { $0 + $1.count } }

  /// `count` elements, all zero, aligned to 64 bytes.
  func allocate<Element>(_ type: Element.Type, count: Int) throws(ModelError) -> UnsafeMutablePointer<Element>
  {
    try allocate(byteCount: count * MemoryLayout<Element>.stride, hugePages: false)
      .bindMemory(to: type, capacity: count)
  }

  /// `byteCount` zero bytes, aligned to 64; `hugePages` asks the kernel for large pages.
  func allocate(byteCount: Int, hugePages: Bool) throws(ModelError) -> UnsafeMutableRawPointer {
    #if ALLOCATED_ARENAS
      var memory: UnsafeMutableRawPointer?
      guard posix_memalign(&memory, 64, max(byteCount, 1)) == 0, let memory else {
        throw ModelError(.outOfMemory(bytes: byteCount))
      }
      memset(memory, 0, byteCount)
      regions.append(UnsafeMutableRawBufferPointer(start: memory, count: byteCount))
      return memory
    #else
      return try map(byteCount: byteCount, hugePages: hugePages)
    #endif
  }

  private func map(byteCount: Int, hugePages: Bool) throws(ModelError) -> UnsafeMutableRawPointer {
    // Buffers that all start at a page would compete for the same cache sets: shift each by some lines.
    let shift = hugePages ? 0 : (regions.count * 5 % 64) * 64
    let length = max(byteCount + shift, 1)
    let address = mmap(nil, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    guard let address, address != MAP_FAILED else { throw ModelError(.outOfMemory(bytes: byteCount)) }
    if hugePages { madvise(address, length, MADV_HUGEPAGE) }
    regions.append(UnsafeMutableRawBufferPointer(start: address, count: length))
    return address + shift
  }

  deinit {
    #if ALLOCATED_ARENAS
      for region in regions { free(region.baseAddress) }
    #else
      for region in regions { munmap(region.baseAddress, region.count) }
    #endif
  }
}
