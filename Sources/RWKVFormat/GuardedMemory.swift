// SPDX-License-Identifier: MIT
import Glibc

/// Zeros of which the last byte lies against a page that nobody may touch, or the first behind one: who reads or writes
/// beyond that end dies of it. The page before or behind the bytes is forbidden as well; what lies between is marked,
/// and whether something was written there is seen at the end.
///
/// For tests, and for the arenas of debug builds. Addresses are as aligned as the byte count.
package final class GuardedMemory {
  package enum Place: Sendable { case beforeAPage, behindAPage }

  package let bytes: UnsafeMutableRawBufferPointer
  private let pages: UnsafeMutableRawBufferPointer
  /// What of the accessible pages is not part of `bytes`. Its marks are NaN for those who take them for numbers.
  private let rest: UnsafeMutableRawBufferPointer
  private static let mark: UInt8 = 0xff

  /// Nil where the system has no memory.
  package init?(byteCount: Int, _ place: Place = .beforeAPage) {
    let page = Int(getpagesize())
    let inside = max(1, (byteCount + page - 1) / page) * page
    let address = mmap(nil, inside + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    guard let address, address != MAP_FAILED else { return nil }
    pages = UnsafeMutableRawBufferPointer(start: address, count: inside + 2 * page)
    guard mprotect(address + page, inside, PROT_READ | PROT_WRITE) == 0 else {
      munmap(address, pages.count)
      return nil
    }
    let accessible = UnsafeMutableRawBufferPointer(start: address + page, count: inside)
    switch place {
    case .beforeAPage:
      bytes = UnsafeMutableRawBufferPointer(rebasing: accessible[(inside - byteCount)...])
      rest = UnsafeMutableRawBufferPointer(rebasing: accessible[..<(inside - byteCount)])
    case .behindAPage:
      bytes = UnsafeMutableRawBufferPointer(rebasing: accessible[..<byteCount])
      rest = UnsafeMutableRawBufferPointer(rebasing: accessible[byteCount...])
    }
    if let start = rest.baseAddress { memset(start, Int32(Self.mark), rest.count) }
  }

  /// Whether nothing was written beside the bytes, where that does not end the process.
  package var isIntact: Bool {
    guard let start = rest.baseAddress, let first = rest.first else { return true }
    return first == Self.mark && memcmp(start, start + 1, rest.count - 1) == 0
  }

  deinit {
    precondition(isIntact, "a write beside \(bytes.count) bytes of memory")
    munmap(pages.baseAddress, pages.count)
  }
}
