// SPDX-License-Identifier: MIT

/// The order of bytes that zstd compresses: class by class, wide elements plane by plane. formats/rwkv-v1.md 5.
struct SplitOrder {
  let layout: RecordLayout
  private let runs: [[RecordLayout.Run]]

  init(_ layout: RecordLayout) {
    self.layout = layout
    runs = layout.runs()
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
    var next = split
    let recordBytes = layout.recordBytes
    for byteClass in 0..<RecordLayout.classCount {
      let bytes = layout.classBytes[byteClass] * records
      let width = layout.elementBytes(byteClass)
      var element = next
      runs[byteClass].withUnsafeBufferPointer { runs in
        for record in 0..<records {
          let start = raw + record * recordBytes
          for run in runs {
            Self.scatter(start + run.offset, run.length / width, width, element, plane: bytes / width)
            element += run.length / width
          }
        }
      }
      next += bytes
    }
  }

  func merge(_ split: UnsafePointer<UInt8>, records: Int, into raw: UnsafeMutablePointer<UInt8>) {
    var next = split
    let recordBytes = layout.recordBytes
    for byteClass in 0..<RecordLayout.classCount {
      let bytes = layout.classBytes[byteClass] * records
      let width = layout.elementBytes(byteClass)
      var element = next
      runs[byteClass].withUnsafeBufferPointer { runs in
        for record in 0..<records {
          let start = raw + record * recordBytes
          for run in runs {
            Self.gather(element, plane: bytes / width, run.length / width, width, start + run.offset)
            element += run.length / width
          }
        }
      }
      next += bytes
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

  /// At least one byte, uninitialised.
  package func bytes(_ count: Int) -> UnsafeMutableRawBufferPointer {
    if buffer.count < count || buffer.count == 0 {
      buffer.deallocate()
      buffer = .allocate(byteCount: max(count, 1), alignment: 64)
    }
    return UnsafeMutableRawBufferPointer(rebasing: buffer[..<count])
  }
}
