// SPDX-License-Identifier: MIT
import Foundation
import RWKV
import RWKVChat
import RWKVFormat
import RWKVQuantization
import Testing

/// Who decides how tokens are chosen: the caller, the model's file, the template, in this order.
@Suite("Sampling choice")
struct SamplingChoiceTests {
  private let folder = FileManager.default.temporaryDirectory.appending(path: "choice-\(UUID())")

  /// The golden in transformers-rwkv's layout, with or without its generation_config.json.
  private func model(recommendation: String?) throws -> (model: Model, notes: [String]) {
    let manager = FileManager.default
    let golden = try #require(Golden.cases("v7-hf-fork").first)
    try? manager.removeItem(at: folder)
    try manager.copyItem(at: golden.folder, to: folder)
    defer { try? manager.removeItem(at: folder) }
    for name in try manager.contentsOfDirectory(atPath: folder.path) {
      try manager.setAttributes([.posixPermissions: 0o600], ofItemAtPath: folder.appending(path: name).path)
    }
    let file = folder.appending(path: "generation_config.json")
    try manager.removeItem(at: file)
    try recommendation.map { try Data($0.utf8).write(to: file) }
    let output = folder.appending(path: "m.rwkv").path
    var options = ConversionOptions()
    options.type = .fp32
    let notes = try Conversion.convert(folder.path, to: output, options).notes
    return (try Model(path: output), notes)
  }

  private var published: String {
    get throws {
      let golden = try #require(Golden.cases("v7-hf-fork").first)
      return try String(contentsOf: golden.folder.appending(path: "generation_config.json"), encoding: .utf8)
    }
  }

  @Test func whatIsPublishedIsStoredAndLeavesTheIdentity() throws {
    let (plain, _) = try model(recommendation: nil)
    let (advised, _) = try model(recommendation: published)
    #expect(plain.samplingAdvice == SamplingAdvice())
    #expect(plain.identity == advised.identity)
    #expect(
      advised.samplingAdvice
        == SamplingAdvice(
          values: [
            .temperature: 0.96, .topP: 0.76, .topK: 32, .presencePenalty: 1, .frequencyPenalty: 0.1,
            .penaltyDecay: 0.988,
          ], stops: ["✿", "\nUser:", "\n### User"]))
    for entry in advised.metadata.entries where plain.metadata[entry.key] == nil {
      #expect(entry.key.hasPrefix("generation."))
    }
  }

  @Test func theFirstThatHasAValueDecides() throws {
    let template = try #require(ChatTemplate.builtIn("g1"))
    let (plain, _) = try model(recommendation: nil)
    let standard = SamplingChoice(model: plain)
    #expect(standard.options.temperature == 1 && standard.options.topP == 0.85)
    #expect(standard.options.presencePenalty == 0 && standard.options.frequencyPenalty == 0)
    #expect(standard.origins.values.allSatisfy { $0 == .standard } && standard.stops.isEmpty)
    #expect(template.choice(for: plain).options.topP == 0.5)

    let (advised, _) = try model(
      recommendation: "{\"temperature\": 0.7, \"top_p\": 0.4, \"stop_strings\": [\"END\"]}")
    let choice = template.choice(for: advised, given: SamplingAdvice(values: [.temperature: 0.3]))
    #expect(choice.options.temperature == 0.3 && choice.origins[.temperature] == .given)
    #expect(choice.options.topP == 0.4 && choice.origins[.topP] == .file)
    #expect(choice.options.presencePenalty == 2 && choice.origins[.presencePenalty] == .template)
    #expect(choice.options.minP == 0 && choice.origins[.minP] == .standard)
    // Those of the template belong to how it is written.
    #expect(
      choice.stops == ["END", "\n\nUser:", "\n\nSystem:"]
        && choice.stopOrigins == [.file, .template, .template])
    #expect(SamplingChoice(given: SamplingAdvice(stops: []), model: advised).stops.isEmpty)
    #expect(SamplingChoice(given: SamplingAdvice(stops: ["x"]), model: advised).stops == ["x"])
  }

  @Test func valuesThatCannotBeAreSaidAndLeftOut() throws {
    let (model, notes) = try model(recommendation: "{\"temperature\": -1, \"top_p\": 0.5, \"top_k\": 1.5}")
    #expect(model.samplingAdvice.values == [.topP: 0.5])
    #expect(notes.filter { $0.contains("generation_config.json") }.count == 2)
  }

  /// A stop string that the model is sure to write ends texts, unless the caller names others.
  @Test func storedStopsEndTexts() async throws {
    let (plain, _) = try model(recommendation: nil)
    func text(_ model: Model, stop: [String]? = nil) async throws -> String {
      var text = ""
      let session = try Session(model, threads: 1)
      for try await piece in try session.generate("ab", count: 40, options: .greedy, stop: stop) {
        text += piece
      }
      return text
    }
    let whole = try await text(plain)
    let letter = try #require(whole.unicodeScalars.dropFirst(3).first { $0.isASCII && $0.value > 32 })
    let json = letter == "\"" || letter == "\\" ? "\\\(letter)" : "\(letter)"
    let (advised, _) = try model(recommendation: "{\"stop_strings\": \"\(json)\"}")
    let stopped = try await text(advised)
    #expect(stopped == String(String.UnicodeScalarView(whole.unicodeScalars.prefix { $0 != letter })))
    #expect(try await text(advised, stop: []) == whole)
  }
}
