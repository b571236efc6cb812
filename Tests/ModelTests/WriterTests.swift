// SPDX-License-Identifier: MIT
import Foundation
import RWKV
import RWKVCheckpoint
import RWKVQuantization
import Testing

/// Files as other programs write them, against the logits of the golden case that they hold.
@Suite("Other writers' files")
struct WriterTests {
  private static let folder = URL(filePath: #filePath).deletingLastPathComponent()
    .appending(path: "../../../shared/field-cases").standardized.path
  private static let isThere = FileManager.default.fileExists(atPath: folder)

  /// How far the logits of a file are from those of a golden case.
  private func distance(
    _ file: String, _ golden: String, type: QuantizationType = .fp32, tuning: FineTuning = FineTuning()
  ) throws -> Float {
    let golden = try #require(Golden.cases(golden).first { $0.name == golden })
    let logits = try logits(Self.folder + "/" + file, type, tuning, golden.tokens)
    return ModelTests.distance(logits, try golden.expected("logits"))
  }

  private func logits(
    _ path: String, _ type: QuantizationType, _ tuning: FineTuning, _ tokens: [Int]
  ) throws -> [Float] {
    let output = NSTemporaryDirectory() + "/writer-\(UUID().uuidString).rwkv"
    defer { try? FileManager.default.removeItem(atPath: output) }
    var options = ConversionOptions()
    options.type = type
    options.fineTuning = tuning
    _ = try Conversion.convert(path, to: output, options)
    let session = try Session(Model(path: output), threads: 1)
    var logits: [Float] = []
    try session.forEachLogits(tokens) { _, row in logits += row }
    return logits
  }

  /// What holds the golden's own values has its logits.
  @Test(
    .enabled(if: isThere, "needs ../shared"),
    arguments: [
      ("F01-v52-std.st", "v52-std"), ("M01-forward_module.pth", "v7-std"),
      ("M01-mp_rank_00_model_states.pt", "v7-std"), ("M02-int-buffer.pth", "v7-std"),
    ])
  func modelsAreTheGolden(file: String, golden: String) throws {
    let tolerance = try #require(Golden.cases(golden).first { $0.name == golden }).tolerance
    #expect(try distance(file, golden) <= tolerance)
  }

  @Test(.enabled(if: isThere, "needs ../shared"))
  func halfIsNoWorseThanInt8WhereValuesAreSmall() throws {
    let half = try distance("F12-small-values.pth", "v7-std", type: .fp16)
    #expect(try half <= distance("F12-small-values.pth", "v7-std", type: .int8))
  }

  @Test(
    .enabled(if: isThere, "needs ../shared"),
    arguments: [
      ("F05-state-lacks-last-layer.pth", "layer 2"), ("F05-state-lacks-first-layer.pth", "layer 0"),
      ("F14-state-of-larger-model.pth", "4 layers"),
    ])
  func statesThatDoNotFitAreNamed(file: String, words: String) throws {
    let path = Self.folder + "/" + file
    expectFailure(FineTuning(state: path), path, words)
  }

  private func expectFailure(_ tuning: FineTuning, _ words: String...) {
    do {
      let base = try #require(Golden.cases("v7-std").first).checkpoint.path
      _ = try Checkpoint(path: base, fineTuning: tuning)
      Issue.record("merged")
    } catch {
      for word in words { #expect("\(error)".contains(word), "\(error)") }
    }
  }

  @Test(.enabled(if: isThere, "needs ../shared"))
  func adaptersAreMergedOrRefusedByName() throws {
    let base = try #require(Golden.cases("v7-std").first).checkpoint.path
    let peft = FineTuning.LoRA(path: Self.folder + "/M04-peft")
    let ai00 = FineTuning.LoRA(path: Self.folder + "/M04-ai00-lora.st", alpha: 8)
    for lora in [peft, ai00] {
      let merged = try Checkpoint(path: base, fineTuning: FineTuning(lora: lora))
      #expect(merged.tensors.contains { $0.isUpdated })
    }
    func lora(_ file: String) -> FineTuning {
      FineTuning(lora: FineTuning.LoRA(path: Self.folder + "/" + file, alpha: 8))
    }
    expectFailure(lora("M04-lora-or-pissa.pth"), "PiSSA", "M04-init_pissa.pth")
    expectFailure(lora("M04-init_pissa.pth"), "PiSSA")
    let pissa = FineTuning.LoRA(
      path: Self.folder + "/M04-lora-or-pissa.pth", initial: Self.folder + "/M04-init_pissa.pth")
    for lora in [pissa, FineTuning.LoRA(path: Self.folder + "/M04-disha.pth")] {
      let merged = try Checkpoint(path: base, fineTuning: FineTuning(lora: lora))
      #expect(merged.tensors.contains { $0.isUpdated })
    }
  }
}
