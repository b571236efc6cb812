// SPDX-License-Identifier: MIT
import RWKV
import Terminal

/// The lines of a text that are not empty.
func linesOf(_ bytes: [UInt8]) -> [[UInt8]] {
  bytes.split { $0 == UInt8(ascii: "\n") || $0 == UInt8(ascii: "\r") }.map(Array.init)
}

extension Array {
  /// Consecutive parts of at most `count` members.
  func parts(of count: Int) -> [ArraySlice<Element>] {
    stride(from: 0, to: self.count, by: count).map { self[$0..<Swift.min($0 + count, self.count)] }
  }
}

/// NumPy's format 1.0, F32 [rows, …]: magic, version, length of the header, header, values.
func npy(_ values: [Float], rows: Int) -> [UInt8] {
  var header = "{'descr': '<f4', 'fortran_order': False, 'shape': (\(rows), \(values.count / rows)), }"
  header += String(repeating: " ", count: (64 - (10 + header.utf8.count + 1) % 64) % 64) + "\n"
  var bytes: [UInt8] = [0x93] + Array("NUMPY".utf8) + [1, 0]
  withUnsafeBytes(of: UInt16(header.utf8.count).littleEndian) { bytes += $0 }
  bytes += header.utf8
  values.withUnsafeBytes { bytes += $0 }
  return bytes
}
