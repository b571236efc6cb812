import Glibc

/// Memory for weights or scratch: zero-filled, page-aligned regions that are returned together.
///
/// Pages cost memory only once they are touched, so that buffers for long prompt blocks are free for those who only
/// decode.
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
    for region in regions { munmap(region.baseAddress, region.count) }
  }
}
