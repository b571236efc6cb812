// SPDX-License-Identifier: MIT
import Testing

@testable import RWKVFormat

@Suite("formats/rwkv-v1.md")
struct SpecificationTests {
  /// The file that the text shows byte by byte.
  private func example() throws -> [UInt8] {
    let folder = TemporaryFolder()
    var metadata = Metadata()
    metadata["rwkv.version"] = .string("7")
    metadata["rwkv.layers"] = .integer(1)
    var row: [UInt8] = [0x00, 0x38] + [UInt8](repeating: 0, count: 14)  // d = 0.5
    row += [0x82, 0x3F] + [UInt8](repeating: 0, count: 14)  // s = 2, o = +4; s = −1, o = −4
    row += (0..<16).map { UInt8($0 | (15 - $0) << 4) }
    let plan = TensorPlan(name: "w", format: .int4, rows: 1, columns: 32, rowsPerRecord: 1)
    let text = TensorPlan(name: "note", format: .bytes, rows: 5, columns: 1, rowsPerRecord: 1)
    let samples = [Sample(raw: row, plan: plan), Sample(raw: Array("hello".utf8), plan: text)]
    try writeModel(samples, to: folder.file("m"), metadata: metadata, store: true)
    return readBytes(folder.file("m"))
  }

  /// Lines "offset  bytes  meaning" of the code block after "## 9.".
  private func dump() -> [(offset: Int, bytes: [UInt8])] {
    let text = String(decoding: readBytes(Python.root + "formats/rwkv-v1.md"), as: UTF8.self)
    let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
    return lines.drop { !$0.hasPrefix("## 9.") }.filter { $0.hasPrefix("    ") }.map { line in
      let words = line.split(separator: " ")
      // Bytes: words of two digits, up to the first gap of two spaces after them.
      let columns = String(line.dropFirst(10)).prefix(47)
      let bytes = columns.split(separator: " ").compactMap { UInt8($0, radix: 16) }
      return (words.first.flatMap { Int($0, radix: 16) } ?? -1, bytes)
    }
  }

  @Test func hexDumpIsTheFile() throws {
    let file = try example()
    var shown = [UInt8](repeating: 0, count: file.count)
    var next = 0
    for (offset, bytes) in dump() {
      try #require(offset >= next && offset + bytes.count <= file.count && !bytes.isEmpty)
      shown.replaceSubrange(offset..<offset + bytes.count, with: bytes)
      next = offset + bytes.count
    }
    #expect(next == file.count)
    #expect(shown == file, "the bytes left out are zero, the others are as shown")
  }
}
