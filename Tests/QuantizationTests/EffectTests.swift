// SPDX-License-Identifier: MIT
import RWKVCheckpoint
import RWKVFormat
import Testing

@testable import RWKVQuantization

/// Nothing that is asked for is silently without effect, and nothing silently wrong.
@Suite("Effects")
struct EffectTests {
  private let folder = TemporaryFolder()
  private let input = golden("v7-std")

  private func refusal(_ adjust: (inout ConversionOptions) throws -> Void) throws -> String {
    do {
      try convert(input, to: folder.file("m.rwkv"), .int8) { options in try? adjust(&options) }
      Issue.record("converted")
      return ""
    } catch {
      #expect(folder.contents == [])
      return "\(error)"
    }
  }

  @Test func rulesWithoutEffectAreRefused() throws {
    let cases = [
      ("blocks.0.*.weight int4\nblocks.9.* int8", "recipe, line 2: 'blocks.9.*' fits no tensor"),
      ("*.x_k int8", "line 1: '*.x_k' fits only vectors"),
      ("# all\n* int8\nhead.weight fp16", "line 3: 'head.weight' decides nothing"),
    ]
    for (text, words) in cases {
      let recipe = try Recipe(text, path: "recipe")
      #expect(try refusal { $0.recipe = recipe }.contains(words), "\(text)")
    }
    let recipe = try Recipe("head.weight fp16\n* int4", path: "recipe")
    let file = try convert(input, to: folder.file("m.rwkv"), .int8) { $0.recipe = recipe }
    #expect(file["head.weight"]?.format == .bf16 || file["head.weight"]?.format == .f16)
    #expect(file["blocks.1.att.key.weight"]?.format == .int4)
  }

  @Test func emptyCalibrationTextsAreRefused() throws {
    #expect(try refusal { $0.calibration = .bytes([]) }.contains("the calibration text is empty"))
    #expect(try refusal { $0.calibration = .tokens([]) }.contains("has no tokens"))
  }

  /// Tiny texts are worth a remark.
  @Test func tinyCalibrationTextsAreNamed() throws {
    var options = ConversionOptions()
    (options.type, options.calibration) = (.int4, .bytes(Array("a few words".utf8)))
    let report = try Conversion.convert(input, to: folder.file("m.rwkv"), options)
    #expect(report.notes.contains { $0.contains("the calibration text has") })
  }

  /// One matrix of the golden scaled, in F32; what INT4 and INT8 cannot hold is in 16 bits, with a remark.
  @Test(arguments: [
    (Float(0x1p23), true), (0x1p-30, true), (1, false), (0x1p12, false), (0, false),
  ])
  func weightsOutsideTheRangeGetSixteenBits(scale: Float, isOutside: Bool) throws {
    let checkpoint = try Checkpoint(path: input)
    let name = "blocks.1.att.key.weight"
    var (entries, data) = ([String](), [UInt8]())
    for tensor in checkpoint.tensors {
      var values = [Float](repeating: 0, count: tensor.rows * tensor.columns)
      try values.withUnsafeMutableBufferPointer {
        try checkpoint.readRows(tensor, rows: 0..<tensor.rows, into: $0)
      }
      if tensor.name == name { values = values.map { $0 * scale } }
      // The file has [inputs, outputs] where ours is transposed, but for the value matrix, which it has as it is.
      let turns = tensor.transposed && (tensor.role == .lowRank || tensor.role == .rows)
      let (rows, columns) = (tensor.rows, tensor.columns)
      if turns { values = values.indices.map { values[$0 % rows * columns + $0 / rows] } }
      let shape =
        tensor.name.hasSuffix("r_k")
        ? [2, 64] : tensor.role == .vector ? [columns] : turns ? [columns, rows] : [rows, columns]
      let start = data.count
      for value in values { withUnsafeBytes(of: value.bitPattern) { data += $0 } }
      let fileName = tensor.name
      entries.append(
        "\"\(fileName)\":{\"dtype\":\"F32\",\"shape\":\(shape),\"data_offsets\":[\(start),\(data.count)]}")
    }
    let header = Array(("{" + entries.joined(separator: ",") + "}").utf8)
    let length = withUnsafeBytes(of: UInt64(header.count)) { Array($0) }
    let path = folder.write("model.safetensors", length + header + data)
    for type in [QuantizationType.int4, .int8] {
      var options = ConversionOptions()
      (options.type, options.overwrite) = (type, true)
      let report = try Conversion.convert(path, to: folder.file("m.rwkv"), options)
      let format = try ModelFile(path: folder.file("m.rwkv"))[name]?.format
      #expect(isOutside ? format == .bf16 : format == (type == .int4 ? .int4 : .int8), "\(scale)")
      #expect(report.notes.contains { $0.contains(name) && $0.contains("outside the range") } == isOutside)
    }
  }
}
