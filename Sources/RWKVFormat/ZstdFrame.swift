// SPDX-License-Identifier: MIT
import CZstd

/// One piece of bytes as one zstd frame with its content size, for pieces that are small enough to be made whole.
package enum ZstdFrame {
  /// The bytes that it makes depend on the input and on the version of zstd alone.
  package static func compress(_ bytes: UnsafeRawBufferPointer) -> [UInt8] {
    let bound = ZSTD_compressBound(bytes.count)
    return [UInt8](unsafeUninitializedCapacity: bound) { frame, count in
      count = ZSTD_compress(frame.baseAddress, bound, bytes.baseAddress, bytes.count, 1)
      // The only ways to fail are a buffer that is too small and no memory.
      precondition(ZSTD_isError(count) == 0, "out of memory")
    }
  }

  /// The length [bytes] of a frame of `count` bytes at most.
  package static func largest(_ count: Int) -> Int { ZSTD_compressBound(count) }

  /// Fills `bytes` exactly; false if the frame holds anything else or does not end with `frame`.
  package static func decompress(
    _ frame: UnsafeRawBufferPointer, into bytes: UnsafeMutableRawBufferPointer
  ) -> Bool {
    guard ZSTD_getFrameContentSize(frame.baseAddress, frame.count) == UInt64(bytes.count),
      ZSTD_findFrameCompressedSize(frame.baseAddress, frame.count) == frame.count
    else { return false }
    return ZSTD_decompress(bytes.baseAddress, bytes.count, frame.baseAddress, frame.count) == bytes.count
  }
}
