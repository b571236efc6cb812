// SPDX-License-Identifier: MIT
import CZstd

/// The fixed part of a zstd frame (RFC 8878, 3.1.1.1), as far as it matters here.
struct FrameHeader {
  let contentSize: Int
  let windowSize: Int

  /// Nil for anything but a frame with its content size, without dictionary and checksum.
  init?(_ frame: UnsafeRawBufferPointer) {
    guard frame.count >= 6, frame.starts(with: [0x28, 0xB5, 0x2F, 0xFD]) else { return nil }
    let descriptor = frame[4]
    let singleSegment = descriptor & 0x20 != 0
    // Bits 0 and 1: dictionary; 2: checksum; 3: reserved; 4: unused.
    guard descriptor & 0x1F == 0 else { return nil }
    let sizeBytes = [singleSegment ? 1 : 0, 2, 4, 8][Int(descriptor >> 6)]
    let start = singleSegment ? 5 : 6
    guard sizeBytes > 0, frame.count >= start + sizeBytes else { return nil }
    var size: UInt64 = sizeBytes == 2 ? 256 : 0
    for index in 0..<sizeBytes {
      let (sum, overflow) = size.addingReportingOverflow(UInt64(frame[start + index]) << (8 * UInt64(index)))
      if overflow { return nil }
      size = sum
    }
    guard size <= UInt64(Index.maxChunkBytes) else { return nil }
    contentSize = Int(size)
    let unit = 1 << (7 + Int(frame[5] >> 3))  // an eighth of a power of two: at most 2^38
    windowSize = singleSegment ? contentSize : unit * (8 + Int(frame[5] & 7))
  }
}

/// Everything one thread needs to read chunks: a decompressor and buffers. Not for concurrent use.
public final class ChunkReader {
  private let context: OpaquePointer
  private let splitBuffer = Scratch()
  private let storedBuffer = Scratch()
  private var order: SplitOrder?

  /// Costs about 100 KB, plus two chunks once it has read compressed ones.
  public init() {
    // Fails only without memory, as any allocation in Swift does.
    guard let context = ZSTD_createDCtx() else { preconditionFailure("out of memory") }
    self.context = context
  }

  deinit { ZSTD_freeDCtx(context) }

  func stored(_ length: Int) -> UnsafeMutableRawBufferPointer { storedBuffer.bytes(length) }

  /// Inflates a frame of split bytes and puts them in the order of records. `raw` has the length they must have.
  func inflate(
    _ frame: UnsafeRawBufferPointer, _ layout: RecordLayout, into raw: UnsafeMutableRawBufferPointer
  ) throws(ModelFileError) {
    guard let header = FrameHeader(frame), header.contentSize == raw.count,
      header.windowSize <= max(Index.chunkBytes, raw.count)
    else {
      throw .invalid(
        "header of a zstd frame", found: "another",
        expected: "\(raw.count) bytes, a window of at most 1 MiB, no dictionary, no checksum")
    }
    guard ZSTD_findFrameCompressedSize(frame.baseAddress, frame.count) == frame.count else {
      throw .invalid("length of a zstd frame", found: "another", expected: "\(frame.count) bytes")
    }
    if order?.layout != layout { order = SplitOrder(layout) }
    guard let order, let rawBase = raw.baseAddress else { return }
    let target = order.isIdentity ? raw : splitBuffer.bytes(raw.count)
    let size = ZSTD_decompressDCtx(context, target.baseAddress, target.count, frame.baseAddress, frame.count)
    guard size == raw.count, let targetBase = target.baseAddress else {
      let found = ZSTD_isError(size) != 0 ? String(cString: ZSTD_getErrorName(size)) : "\(size) bytes"
      throw .invalid("a zstd frame", found: found, expected: "\(raw.count) bytes")
    }
    if order.isIdentity { return }
    order.merge(
      targetBase.assumingMemoryBound(to: UInt8.self), records: raw.count / layout.recordBytes,
      into: rawBase.assumingMemoryBound(to: UInt8.self))
  }
}

/// Everything one thread needs to encode chunks: a compressor and buffers. Not for concurrent use.
///
/// The bytes that it makes depend on the chunk and on the version of zstd alone.
public final class ChunkWriter {
  private let context: OpaquePointer
  private let splitBuffer = Scratch()
  private let frameBuffer = Scratch()
  private var order: SplitOrder?

  public init() {
    guard let context = ZSTD_createCCtx() else { preconditionFailure("out of memory") }
    self.context = context
    ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, 1)
    ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, 1)
    ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 0)
  }

  deinit { ZSTD_freeCCtx(context) }

  /// One frame of the split bytes, or nil if that saves less than 1 %.
  func deflate(_ raw: UnsafeRawBufferPointer, _ layout: RecordLayout) throws(ModelFileError) -> [UInt8]? {
    if order?.layout != layout { order = SplitOrder(layout) }
    guard let order, let rawBase = raw.baseAddress else { return nil }
    let records = raw.count / layout.recordBytes
    let split = splitBuffer.bytes(raw.count)
    guard let splitBase = split.baseAddress else { return nil }
    order.split(
      rawBase.assumingMemoryBound(to: UInt8.self), records: records,
      into: splitBase.assumingMemoryBound(to: UInt8.self))

    let pieces = order.pieces(records: records).filter { $0 > 0 }
    let frame = frameBuffer.bytes(ZSTD_compressBound(raw.count) + 64 * pieces.count)
    var output = ZSTD_outBuffer(dst: frame.baseAddress, size: frame.count, pos: 0)
    ZSTD_CCtx_reset(context, ZSTD_reset_session_only)
    ZSTD_CCtx_setPledgedSrcSize(context, UInt64(raw.count))
    var start = 0
    for (index, length) in pieces.enumerated() {
      var input = ZSTD_inBuffer(src: splitBase + start, size: length, pos: 0)
      let mode = index == pieces.count - 1 ? ZSTD_e_end : ZSTD_e_flush
      let left = ZSTD_compressStream2(context, &output, &input, mode)
      guard left == 0 else {
        let found = ZSTD_isError(left) != 0 ? String(cString: ZSTD_getErrorName(left)) : "\(left) bytes more"
        throw .unwritable("a compressed chunk", found: found, expected: "one frame")
      }
      start += length
    }
    guard output.pos * 100 <= raw.count * 99 else { return nil }
    return Array(frame[..<output.pos])
  }
}
