// SPDX-License-Identifier: MIT
import RWKV
import RWKVQuantization
import Testing

/// Answers of two models, compared with what they write when each runs by itself.
@Suite struct FreeRunningTests {
  let folder = TemporaryFolder()

  /// First choices, one token after another, until token 0.
  private func answer(_ model: Model, _ prompt: [Int], _ length: Int) throws -> [Int] {
    let session = try Session(model, threads: 1)
    var (answer, input) = ([Int](), prompt)
    while answer.count < length, answer.last != 0 {
      var last: [Float] = []
      try session.forEachLogits(input) { _, logits in last = Array(logits) }
      let token = try #require(last.firstIndex(of: last.max() ?? 0))
      answer.append(token)
      input = [token]
    }
    return answer
  }

  /// More prompts than go through one pass, of unlike lengths, so that the groups and their borders are seen.
  @Test(arguments: ["v7-std", "v4-std", "v6-std"])
  func answersPartWhereTheModelsByThemselvesDo(name: String) throws {
    let exact = folder.file("exact.rwkv"), rough = folder.file("rough.rwkv")
    try convert(golden(name), to: exact, .fp32)
    try convert(golden(name), to: rough, .int4)
    let (first, second) = (try Model(path: exact, threads: 1), try Model(path: rough, threads: 1))
    let prompts = (0..<70).map { number in (0...number % 5).map { (37 * number + 11 * $0 + 1) % 256 } }
    let result = try FreeRunning(first, second, prompts: prompts, length: 9, threads: 2)
    for (number, prompt) in prompts.enumerated() {
      let (a, b) = (try answer(first, prompt, 9), try answer(second, prompt, 9))
      let same = zip(a, b).prefix { $0 == $1 }.count
      #expect(result.agreeingTokens[number] == same, "prompt \(number)")
      #expect(result.isWhole[number] == (a == b), "prompt \(number)")
    }
    #expect(Set(result.agreeingTokens).count > 2, "prompts that tell something")
    let itself = try FreeRunning(first, first, prompts: prompts, length: 9, threads: 1)
    #expect(itself.wholeShare == 1 && itself.agreeingTokens.allSatisfy { (1...9).contains($0) })
  }

  @Test func promptsOfATextAreEvenlySpaced() {
    #expect(FreeRunning.prompts(of: Array(0..<100), count: 2) == [Array(0..<32), Array(50..<82)])
    #expect(FreeRunning.prompts(of: Array(0..<70), count: 40) == [Array(0..<32), Array(35..<67)])
    #expect(FreeRunning.prompts(of: [1, 2], count: 40) == [[1, 2]])
  }

  /// A model that ends every text at once, and does so in four bits too.
  @Test func answersThatEndEarlyDoNotPart() throws {
    let input = folder.write(
      "ending.safetensors",
      smallModel { name, values in
        if name == "ln_out.bias" { values = values.map { _ in 1 } }
        if name == "head.weight" { for column in 0..<64 { values[column] = 10 } }
      })
    var options = ConversionOptions()
    options.type = .int4
    options.minimumAgreeingTokens = 64
    let report = try Conversion.convert(input, to: folder.file("m.rwkv"), options)
    let answers = try #require(report.answers)
    #expect(answers.agreeingTokens.allSatisfy { $0 == 1 } && answers.wholeShare == 1)
    #expect(answers.medianAgreeingTokens == 64 && answers.meanAgreeingTokens == 64)
  }

  @Test func answersThatPartTooEarlyLeaveNoOutput() throws {
    var options = ConversionOptions()
    options.type = .int4
    options.minimumAgreeingTokens = 64
    let error = #expect(throws: QuantizationError.self) {
      try Conversion.convert(golden("v7-std"), to: folder.file("m.rwkv"), options)
    }
    #expect(error?.description.contains("not written: answers part") == true)
    #expect(folder.contents == [])
    options.minimumAgreeingTokens = 0
    let report = try Conversion.convert(golden("v7-std"), to: folder.file("m.rwkv"), options)
    let answers = try #require(report.answers)
    #expect(answers.agreeingTokens.count == 16 && answers.medianAgreeingTokens < 64)
    #expect(folder.contents == ["m.rwkv"])
  }
}
