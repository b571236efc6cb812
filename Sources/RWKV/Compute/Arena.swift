// SPDX-License-Identifier: MIT
internal import RWKVFormat
import Glibc

/// Memory for weights or scratch: zero-filled regions that are returned together.
///
/// Pages cost memory only once they are touched, so that buffers for long prompt blocks are free for those who only
/// decode. In debug builds, and with GUARDED_ARENAS, each buffer ends at a page that nobody may touch, so that every
/// test sees an access one byte beyond it.
final class Arena: @unchecked Sendable {
  #if DEBUG || GUARDED_ARENAS
    private var regions: [GuardedMemory] = []

    /// All that was allocated.
    var byteCount: Int { regions.reduce(0) { $0 + $1.bytes.count } }
  #else
    private var regions: [UnsafeMutableRawBufferPointer] = []

    /// All that was allocated.
    var byteCount: Int { regions.reduce(0) { $0 + $1.count } }

    deinit { for region in regions { munmap(region.baseAddress, region.count) } }
  #endif

  /// `count` elements, all zero, aligned to 64 bytes.
  func allocate<Element>(_ type: Element.Type, count: Int) throws(ModelError) -> UnsafeMutablePointer<Element>
  {
    try allocate(byteCount: count * MemoryLayout<Element>.stride, hugePages: false)
      .bindMemory(to: type, capacity: count)
  }

  /// `byteCount` zero bytes, aligned to 64; `hugePages` asks the kernel for large pages. Guarded ones are aligned as
  /// their size is, which suits every kernel.
  func allocate(byteCount: Int, hugePages: Bool) throws(ModelError) -> UnsafeMutableRawPointer {
    #if DEBUG || GUARDED_ARENAS
      guard let region = GuardedMemory(byteCount: byteCount), let address = region.bytes.baseAddress else {
        throw ModelError(.outOfMemory(bytes: byteCount))
      }
      regions.append(region)
      return address
    #else
      // Buffers that all start at a page would compete for the same cache sets: shift each by some lines.
      let shift = hugePages ? 0 : (regions.count * 5 % 64) * 64
      let length = max(byteCount + shift, 1)
      let address = mmap(nil, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
      guard let address, address != MAP_FAILED else { throw ModelError(.outOfMemory(bytes: byteCount)) }
      if hugePages { madvise(address, length, MADV_HUGEPAGE) }
      regions.append(UnsafeMutableRawBufferPointer(start: address, count: length))
      return address + shift
    #endif
  }
}
