// SPDX-License-Identifier: MIT
import RWKVFormat

/// Elements against a page that nobody may touch: a kernel that reads or writes beyond their end dies of it.
final class Guarded<Element: BitwiseCopyable> {
  private let memory: GuardedMemory
  let pointer: UnsafeMutablePointer<Element>
  let count: Int

  init(_ values: [Element]) {
    let bytes = values.count * MemoryLayout<Element>.stride
    guard let memory = GuardedMemory(byteCount: bytes, Guarding.place), let base = memory.bytes.baseAddress
    else { preconditionFailure("no memory for \(bytes) bytes") }
    self.memory = memory
    count = values.count
    pointer = base.bindMemory(to: Element.self, capacity: count)
    pointer.update(from: values, count: count)
  }

  convenience init(repeating value: Element, count: Int) {
    self.init([Element](repeating: value, count: count))
  }

  subscript(index: Int) -> Element { pointer[index] }

  var values: [Element] { Array(UnsafeBufferPointer(start: pointer, count: count)) }

  /// Whether nothing was written on the side that does not end at such a page. There are NaNs.
  var guardsIntact: Bool { memory.isIntact }
}

/// Which side of the buffers ends at a page: tests run once for each.
enum Guarding {
  @TaskLocal static var place = GuardedMemory.Place.beforeAPage
}

typealias Floats = Guarded<Float>

extension Guarded where Element == Float {
  convenience init(zeros count: Int) { self.init(repeating: 0, count: count) }

  var doubles: [Double] { values.map(Double.init) }
  var bits: [UInt32] { values.map(\.bitPattern) }
}

extension Random {
  mutating func floats(_ count: Int, in range: ClosedRange<Float> = -1...1) -> [Float] {
    (0..<count).map { _ in range.lowerBound + (range.upperBound - range.lowerBound) * uniform() }
  }
}

/// |value − exact| in units of the last place of the exact number rounded to Float; infinite where one of both is NaN.
func ulpError(_ value: Float, _ exact: Double) -> Double {
  if value.isNaN || exact.isNaN { return value.isNaN && exact.isNaN ? 0 : .infinity }
  let rounded = Float(exact)
  if value == rounded { return 0 }
  return abs(Double(value) - exact) / Double(rounded.magnitude.ulp)
}

/// Lengths around one and several vectors of 16.
let testLengths = [1, 7, 15, 16, 17, 63, 64, 100, 768]

/// Bit patterns, so that NaN and the sign of zero count.
func bits(_ x: [Float]) -> [UInt32] { x.map(\.bitPattern) }
