// SPDX-License-Identifier: MIT
import RWKV
import RWKVFormat
import RWKVQuantization
import Testing

@testable import RWKVCheckpoint

/// Golden models once more, as every kind of program writes them: the logits are still those of the original.
@Suite("Writers' forms")
struct WriterFormsTests {
  typealias Model = ForeignFileTests.Model

  /// A program, or a habit, that publishes models.
  enum Form: String, CaseIterable, CustomTestStringConvertible {
    case pythonST, rustST
    case prefixed, deepSpeed, lightning, legacyTorch, torchShards
    case shards, shardsWithoutIndex
    case rwkvCpp, gguf, splitGGUF
    case peft, ai00, pissa

    var testDescription: String { rawValue }
    /// Whether it rounds all values to F16.
    var isHalf: Bool { self == .pythonST || self == .rustST }
    /// Other versions are not written by it, or cannot be.
    var versions: String {
      switch self {
      case .pythonST: "4 5.1 5.2 6 7 7b"
      case .rustST: "4 5.2 6 7"
      case .gguf, .splitGGUF: "6 7"
      case .prefixed, .legacyTorch: "4 5.0 5.1 5.2 6 7 7a 7b"
      default: "4 5.0 5.1 5.2 6 7"
      }
    }
  }

  private static let goldens = [
    "4": "v4-hf", "5.0": "v50-std", "5.1": "v51-std", "5.2": "v52-hf", "6": "v6-hf", "7": "v7-f32-small",
    "7a": "v7a-pth", "7b": "v7b-std",
  ]

  struct Case: CustomTestStringConvertible, Sendable {
    let form: Form
    let golden: String
    var testDescription: String { "\(golden) as \(form.rawValue)" }
  }

  static let cases = Form.allCases.flatMap { form in
    form.versions.split(separator: " ").compactMap { version in
      goldens[String(version)].map { Case(form: form, golden: $0) }
    }
  }

  private let folder = TemporaryFolder()

  @Test(arguments: cases)
  func theLogitsAreTheOriginals(_ test: Case) throws {
    var model = try Model(test.golden)
    let exact = model
    let place = try #require(golden(test.golden))
    if test.form.isHalf {
      for (name, draft) in model.tensors { model.tensors[name] = draft.mapped { Float(Float16($0)) } }
    }
    let written = TemporaryFolder()
    var options = ConversionOptions()
    let path = try write(model, as: test.form, to: written, &options)
    let tokens = try tokens(place)
    let logits = try logits(path, options, tokens)
    let tolerance = Float(try #require(try number("abs_tolerance_fp32", in: place + "/case.json")))
    if model.tensors.allSatisfy({ exact.tensors[$0.key]?.bytes == $0.value.bytes }) {
      #expect(distance(logits, try expected(place)) <= tolerance)
    } else {
      let plain = written.write("plain.safetensors", safetensors(model.drafts))
      #expect(distance(logits, try self.logits(plain, ConversionOptions(), tokens)) <= tolerance)
    }
  }

  // MARK: Logits

  private func logits(_ path: String, _ options: ConversionOptions, _ tokens: [Int]) throws -> [Float] {
    var options = options
    options.type = .fp32
    options.tokenizer = .bytes
    let output = folder.path + "/model.rwkv"
    options.overwrite = true
    _ = try Conversion.convert(path, to: output, options)
    let session = try Session(RWKV.Model(path: output), threads: 1)
    var logits: [Float] = []
    try session.forEachLogits(tokens) { _, row in logits += row }
    return logits
  }

  private func tokens(_ folder: String) throws -> [Int] {
    let json = try InputFile(path: folder + "/tokens.json").json(limit: 1 << 20, depth: 2)
    return try #require(json.array).compactMap { $0.number.map { Int($0) } }
  }

  private func expected(_ folder: String) throws -> [Float] {
    let tensors = try Container(path: folder + "/expected.safetensors").tensors
    return try Draft(#require(tensors.first { $0.name == "logits" })).floats
  }

  private func number(_ key: String, in path: String) throws -> Double? {
    try InputFile(path: path).json(limit: 1 << 20, depth: 16)[key]?.number
  }

  private func distance(_ a: [Float], _ b: [Float]) -> Float {
    a.count == b.count ? zip(a, b).reduce(0) { max($0, abs($1.0 - $1.1)) } : .infinity
  }
}
