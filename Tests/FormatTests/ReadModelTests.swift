// SPDX-License-Identifier: MIT
import Testing

@testable import RWKVFormat

/// formats/read_model.py is a second reader, written from the text of the format.
@Suite("read_model.py", .enabled(if: Python.isUsable, "python3 with numpy and zstandard is not in PATH"))
struct ReadModelTests {
  let folder = TemporaryFolder()
  static let script = Python.root + "formats/read_model.py"

  @Test func listsAModel() throws {
    try writeModel(smallSamples, to: folder.file("m.rwkv"))
    let (status, output) = Python.run([Self.script, folder.file("m.rwkv")])
    #expect(status == 0)
    #expect(output.contains("rwkv.version = '7'"))
    #expect(output.contains("rwkv.group_norm_epsilon = 0.00064"))
    #expect(output.contains("test.list = [1, -2, 9223372036854775807]"))
    #expect(output.contains("blocks.0.att.key.weight  INT4 17 x 64  16 per record"))
    #expect(output.contains("blocks.0.ffn.value.weight  INT5 5 x 96  1 per record, transposed"))
  }

  @Test func refusesADamagedModel() throws {
    let path = folder.file("m.rwkv")
    try writeModel(smallSamples, to: path)
    var bytes = readBytes(path)
    bytes[70] ^= 1
    writeBytes(bytes, path)
    let (status, output) = Python.run([Self.script, path])
    #expect(status != 0 && output.contains("damaged: index"))
  }

  /// 21 rows of 550 columns: two groups of 512, an incomplete line of scales, a panel with 5 rows.
  @Test(arguments: [WeightFormat.f32, .f16, .bf16, .int4, .int5, .int8], [1, 16])
  func valuesAreExact(format: WeightFormat, rowsPerRecord: Int) throws {
    let plan = TensorPlan(name: "t", format: format, rows: 21, columns: 550, rowsPerRecord: rowsPerRecord)
    let tensor = LogicalTensor(plan, seed: 11)
    let path = folder.file("m.rwkv")
    try writeModel([Sample(raw: tensor.raw, plan: plan)], to: path)
    let (status, output) = Python.run([Self.script, path, "--tensor", "t", "--out", folder.file("t.npy")])
    #expect(status == 0, "\(output)")
    let npy = readBytes(folder.file("t.npy"))
    try #require(npy.count == 128 + 21 * 550 * 4)
    #expect(
      String(decoding: npy[..<128], as: UTF8.self).contains(
        "'<f4', 'fortran_order': False, 'shape': (21, 550)"))
    let values = npy.withUnsafeBytes { bytes in
      (0..<21 * 550).map { bytes.loadUnaligned(fromByteOffset: 128 + 4 * $0, as: UInt32.self) }
    }
    let expected = (0..<21).flatMap { row in (0..<550).map { tensor.value(row, $0).bitPattern } }
    #expect(values == expected)
  }

  @Test func compressedAndStoredFilesHaveTheSameValues() throws {
    try writeModel(smallSamples, to: folder.file("a.rwkv"))
    try writeModel(smallSamples, to: folder.file("b.rwkv"), store: true)
    for name in ["emb.weight", "blocks.0.att.key.weight", "blocks.0.ffn.value.weight", "tokenizer"] {
      for file in ["a", "b"] {
        let arguments = [
          Self.script, folder.file(file + ".rwkv"), "--tensor", name, "--out", folder.file(file + ".npy"),
        ]
        #expect(Python.run(arguments).status == 0)
      }
      #expect(readBytes(folder.file("a.npy")) == readBytes(folder.file("b.npy")))
    }
  }
}
