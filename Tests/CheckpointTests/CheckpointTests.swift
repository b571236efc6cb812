// SPDX-License-Identifier: MIT
import RWKVFormat
import Testing

@testable import RWKVCheckpoint

@Suite("Checkpoint")
struct CheckpointTests {
  /// Name, version, layers, D, V, F, N of the golden cases (their case.json).
  static let cases: [(String, Version, [Int])] = [
    ("v7-std/model.safetensors", .v7, [3, 128, 256, 320, 64]),
    ("v7-oddlora/model.safetensors", .v7, [2, 192, 256, 256, 64]),
    ("v7-f32-small/model.safetensors", .v7, [2, 64, 256, 256, 64]),
    ("v7-hf", .v7, [2, 128, 256, 256, 64]),
    ("v4-hf", .v4, [3, 64, 256, 256, 0]),
    ("v4-std/model.safetensors", .v4, [3, 128, 307, 320, 0]),
    ("v50-std/model.safetensors", .v50, [2, 128, 256, 320, 64]),
    ("v51-std/model.safetensors", .v51, [2, 128, 300, 320, 64]),
    ("v52-hf", .v52, [2, 64, 256, 224, 64]),
    ("v52-std/model.safetensors", .v52, [2, 192, 256, 128, 64]),
    ("v6-hf", .v6, [2, 64, 256, 224, 64]),
    ("v6-3head/model.safetensors", .v6, [2, 192, 256, 96, 64]),
    ("x-std/model.safetensors", .x, [2, 128, 256, 160, 64]),
  ]

  @Test(arguments: cases.indices)
  func versionAndSizesAreRecognised(index: Int) throws {
    let (name, version, sizes) = CheckpointTests.cases[index]
    guard let path = golden(name) else { return }
    let checkpoint = try Checkpoint(path: path)
    #expect(checkpoint.version == version)
    let found = [
      checkpoint.layers, checkpoint.embedding, checkpoint.vocabulary, checkpoint.ffn, checkpoint.headSize,
    ]
    #expect(found == sizes)
    #expect(checkpoint.tensors.first?.name == "emb.weight")
    #expect(checkpoint.tensors.last?.name == "head.weight")
    for tensor in checkpoint.tensors {
      #expect(try values(checkpoint, tensor).allSatisfy(\.isFinite), "\(tensor.name)")
    }
  }

  @Test func everyTensorOfVersion7HasItsPlaceAndRole() throws {
    let checkpoint = try Checkpoint(path: goldens + "/v7-oddlora/model.safetensors")
    let second = checkpoint.tensors.filter { $0.name.hasPrefix("blocks.1.") }
      .map { "\($0.name.dropFirst(9)) \($0.role) \($0.rows)x\($0.columns)\($0.transposed ? " T" : "")" }
    #expect(
      second == [
        "ln1.weight vector 1x192", "ln1.bias vector 1x192",
        "att.x_r vector 1x192", "att.x_w vector 1x192", "att.x_k vector 1x192", "att.x_v vector 1x192",
        "att.x_a vector 1x192", "att.x_g vector 1x192",
        "att.w0 vector 1x192", "att.w1 lowRank 24x192 T", "att.w2 lowRank 192x24 T",
        "att.a0 vector 1x192", "att.a1 lowRank 16x192 T", "att.a2 lowRank 192x16 T",
        "att.v0 vector 1x192", "att.v1 lowRank 8x192 T", "att.v2 lowRank 192x8 T",
        "att.g1 lowRank 40x192 T", "att.g2 lowRank 192x40 T",
        "att.k_k vector 1x192", "att.k_a vector 1x192", "att.r_k vector 1x192",
        "att.receptance.weight matrix 192x192", "att.key.weight matrix 192x192",
        "att.value.weight matrix 192x192", "att.output.weight matrix 192x192",
        "att.ln_x.weight vector 1x192", "att.ln_x.bias vector 1x192",
        "ln2.weight vector 1x192", "ln2.bias vector 1x192",
        "ffn.x_k vector 1x192", "ffn.key.weight matrix 256x192", "ffn.value.weight rows 256x192 T",
      ])
    // The file has v0, v1, v2 in its first layer, where nothing reads them.
    let first = checkpoint.tensors.filter { $0.name.hasPrefix("blocks.0.") }.map(\.name)
    #expect(!first.contains { $0.hasPrefix("blocks.0.att.v0") || $0.hasPrefix("blocks.0.att.v1") })
    #expect(first.prefix(3) == ["blocks.0.ln0.weight", "blocks.0.ln0.bias", "blocks.0.ln1.weight"])
  }

  @Test(arguments: [
    "v7-f32-small/model.safetensors", "v7-std/model.safetensors", "v7-oddlora/model.safetensors",
  ])
  func valuesAreThoseOfTheFileInOurOrientation(name: String) throws {
    let checkpoint = try Checkpoint(path: goldens + "/" + name)
    let stored = try Safetensors.read(InputFile(path: goldens + "/" + name))
    for tensor in checkpoint.tensors {
      let draft = try Draft(#require(stored.first { $0.name == tensor.name }))
      let bytes = tensor.transposed ? draft.transposed.bytes : draft.bytes
      let size = draft.valueBytes
      let expected = (0..<tensor.rows * tensor.columns).map { i in
        switch draft.type {
        case "F32": Float(bitPattern: bytes.integer(UInt32.self, at: i * size)!)
        case "F16": Float(Float16(bitPattern: bytes.integer(UInt16.self, at: i * size)!))
        default: Float(bitPattern: UInt32(bytes.integer(UInt16.self, at: i * size)!) << 16)
        }
      }
      #expect(try values(checkpoint, tensor) == expected, "\(tensor.name)")
    }
  }

  @Test(arguments: [1, 7, 16, 100, 256, 300])
  func rowsDoNotDependOnTheSizeOfRequests(step: Int) throws {
    let checkpoint = try Checkpoint(path: goldens + "/v7-oddlora/model.safetensors")
    for tensor in checkpoint.tensors where tensor.rows > 1 {
      #expect(try values(checkpoint, tensor, step: step) == values(checkpoint, tensor), "\(tensor.name)")
    }
  }

  @Test func everyHalfBecomesTheSameFloat() {
    for bits in UInt16.min...UInt16.max {
      let expected = Float(Float16(bitPattern: bits))
      let found = float(half: bits)
      #expect(found.bitPattern == expected.bitPattern || (found.isNaN && expected.isNaN), "\(bits)")
    }
  }

  @Test func groupNormEpsilonFollowsTheConfig() throws {
    let plain = try Checkpoint(path: goldens + "/v7-std/model.safetensors")
    #expect(plain.groupNormEpsilon == 64e-5)
    let folder = TemporaryFolder()
    folder.write("model.safetensors", try contents(goldens + "/v7-f32-small/model.safetensors"))
    folder.write(
      "config.json", "{\"model_type\":\"rwkv7\",\"head_dim\":64,\"norm_eps\":1.0e-5,\"hidden_size\":64}".utf8)
    let described = try Checkpoint(path: folder.path)
    #expect(abs(try #require(described.groupNormEpsilon) - 64e-5) < 1e-12)
    folder.write("config.json", "{\"hidden_size\":128}".utf8)
    expectFailure(folder.path, .mismatch, "embedding size", "128", "64", "config.json")
    folder.write("config.json", "{\"hidden_size\":64,\"norm_eps\":1e-6}".utf8)
    expectFailure(folder.path, .unsupported, "layer norm")
    folder.write("config.json", "{\"hidden_size\":6.5}".utf8)
    expectFailure(folder.path, .malformed, "hidden_size")
  }
}
