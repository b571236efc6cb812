// SPDX-License-Identifier: MIT

/// The order of bytes that zstd compresses: class by class, wide elements plane by plane. formats/rwkv-v1.md 5.
struct SplitOrder {
  let layout: RecordLayout
  /// A record's runs in stream order.
  private let stream: [Piece]

  private struct Piece {
    let byteClass: Int
    let offset, length: Int
    /// Bytes of an element.
    let width: Int
  }

  init(_ layout: RecordLayout) {
    self.layout = layout
    let pieces = layout.runs().enumerated().flatMap { byteClass, runs in
      runs.map {
        Piece(
          byteClass: byteClass, offset: $0.offset, length: $0.length, width: layout.elementBytes(byteClass))
      }
    }
    stream = pieces.sorted { $0.offset < $1.offset }
  }

  /// True if the split order is the order of the records themselves.
  var isIdentity: Bool { layout.format == .bytes }

  /// Lengths of the pieces that deserve entropy tables of their own: a class, or a plane of one.
  func pieces(records: Int) -> [Int] {
    (0..<RecordLayout.classCount).flatMap { byteClass in
      let width = layout.elementBytes(byteClass)
      return [Int](repeating: layout.classBytes[byteClass] * records / width, count: width)
    }
  }

  func split(_ raw: UnsafePointer<UInt8>, records: Int, into split: UnsafeMutablePointer<UInt8>) {
    forEachRun(records) { start, element, plane, piece in
      Self.scatter(raw + start, piece.length / piece.width, piece.width, split + element, plane: plane)
    }
  }

  func merge(_ split: UnsafePointer<UInt8>, records: Int, into raw: UnsafeMutablePointer<UInt8>) {
    forEachRun(records) { start, element, plane, piece in
      Self.gather(split + element, plane: plane, piece.length / piece.width, piece.width, raw + start)
    }
  }

  /// All runs in the order of the records, so that these are read or written from start to end: where a run starts in
  /// them, where its first element does in split order, and the length of a plane of its class.
  @inline(__always)
  private func forEachRun(
    _ records: Int, _ body: (_ start: Int, _ element: Int, _ plane: Int, _ piece: Piece) -> Void
  ) {
    var next = InlineArray<4, Int>(repeating: 0)
    var planes = InlineArray<4, Int>(repeating: 0)
    var first = 0
    for byteClass in 0..<RecordLayout.classCount {
      let bytes = layout.classBytes[byteClass] * records
      (next[byteClass], planes[byteClass]) = (first, bytes / layout.elementBytes(byteClass))
      first += bytes
    }
    let recordBytes = layout.recordBytes
    stream.withUnsafeBufferPointer { stream in
      for record in 0..<records {
        for piece in stream {
          body(record * recordBytes + piece.offset, next[piece.byteClass], planes[piece.byteClass], piece)
          next[piece.byteClass] += piece.length / piece.width
        }
      }
    }
  }

  /// Byte b of element i goes to `planes[b · plane + i]`.
  private static func scatter(
    _ elements: UnsafePointer<UInt8>, _ count: Int, _ width: Int, _ planes: UnsafeMutablePointer<UInt8>,
    plane: Int
  ) {
    switch width {
    case 1:
      planes.update(from: elements, count: count)
    case 2:
      for i in 0..<count {
        planes[i] = elements[2 &* i]
        planes[plane &+ i] = elements[2 &* i &+ 1]
      }
    default:
      for i in 0..<count {
        planes[i] = elements[4 &* i]
        planes[plane &+ i] = elements[4 &* i &+ 1]
        planes[2 &* plane &+ i] = elements[4 &* i &+ 2]
        planes[3 &* plane &+ i] = elements[4 &* i &+ 3]
      }
    }
  }

  private static func gather(
    _ planes: UnsafePointer<UInt8>, plane: Int, _ count: Int, _ width: Int,
    _ elements: UnsafeMutablePointer<UInt8>
  ) {
    switch width {
    case 1 where count == 64:
      // A line of scales: too short for a call.
      UnsafeMutableRawPointer(elements).storeBytes(
        of: UnsafeRawPointer(planes).loadUnaligned(as: SIMD64<UInt8>.self), as: SIMD64<UInt8>.self)
    case 1:
      elements.update(from: planes, count: count)
    case 2:
      for i in 0..<count {
        elements[2 &* i] = planes[i]
        elements[2 &* i &+ 1] = planes[plane &+ i]
      }
    default:
      for i in 0..<count {
        elements[4 &* i] = planes[i]
        elements[4 &* i &+ 1] = planes[plane &+ i]
        elements[4 &* i &+ 2] = planes[2 &* plane &+ i]
        elements[4 &* i &+ 3] = planes[3 &* plane &+ i]
      }
    }
  }
}

/// Memory that grows to the largest size asked for and is reused.
package final class Scratch {
  package init() {}

  private var buffer = UnsafeMutableRawBufferPointer(start: nil, count: 0)

  deinit { buffer.deallocate() }

  /// Uninitialised memory of `count` bytes, or of one byte for 0; valid until the next call.
  package func bytes(_ count: Int) -> UnsafeMutableRawBufferPointer {
    if buffer.count < count || buffer.count == 0 {
      buffer.deallocate()
      buffer = .allocate(byteCount: max(count, 1), alignment: 64)
    }
    return UnsafeMutableRawBufferPointer(rebasing: buffer[..<count])
  }
}
