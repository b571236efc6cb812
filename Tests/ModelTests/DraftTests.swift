// SPDX-License-Identifier: MIT
import RWKV
import RWKVTokenizer
import Testing

/// Proposes what a given text goes on with, wrong at every `period`-th token.
final class Oracle: Drafter {
  private let text: [Int]
  private let period: Int
  private var count = 0

  init(_ text: [Int], wrongEvery period: Int = .max) {
    self.text = text
    self.period = period
  }

  func reset() { count = 0 }

  func read(_ tokens: [Int]) { count += tokens.count }

  func propose(_ count: Int) -> [Int] {
    (self.count..<self.count + count).map { index in
      let right = index < text.count ? text[index] : 65
      return index % period == period - 1 ? (right + 1) % 256 : right
    }
  }
}

/// Drafts change nothing but the number of passes: text, log-probabilities, states and logits are the same to the bit.
@Suite("Drafts")
struct DraftTests {
  struct Written: Equatable {
    var tokens: [Int] = []
    var text: [UInt8] = []
    var logProbabilities: [Double] = []
    var reason: FinishReason?
    var state: [UInt8] = []
    var logits: [Float] = []
  }

  static let prompt = Array("abcabcabd abc".utf8).map(Int.init)

  static func write(
    _ model: Model, _ options: SamplingOptions, count: Int? = 20, after prompt: [Int] = prompt,
    stop: [String] = [], drafts: Drafts? = nil
  ) throws -> Written {
    let session = try Session(model, threads: 1)
    try session.prefill(prompt)
    try drafts?.follow(prompt)
    var sampler = try Sampler(options, tokenizer: ByteTokenizer())
    var written = Written()
    written.reason = try session.generate(
      count, with: &sampler, tokenizer: ByteTokenizer(), stop: stop, drafts: drafts,
      observe: { token in
        written.tokens.append(token.id)
        written.logProbabilities.append(LogProbabilities(token.logits)[token.id])
      },
      receive: { text in
        written.text += text
        return written.text.count < 200
      })
    written.state = try session.state.encoded()
    written.logits = Array(session.logits)
    return written
  }

  static var settings: [SamplingOptions] {
    var warm = SamplingOptions()
    (warm.temperature, warm.topP, warm.presencePenalty, warm.frequencyPenalty, warm.seed) = (
      1, 0.9, 0.5, 0.3, 11
    )
    var json = SamplingOptions()
    (json.onlyJSON, json.topP, json.seed) = (true, 0.95, 5)
    return [.greedy, warm, json].map {
      var options = $0
      options.logitBias[0] = -.infinity  // token 0 would end the text
      return options
    }
  }

  /// Texts are bytes, which the vocabulary of `v7b-odd` has not all.
  static let cases = GoldenTests.cases.filter { $0.name != "v7b-odd" } + Golden.cases("x")

  @Test(arguments: cases, [0, 1, 2])
  func nothingChanges(_ golden: Golden, _ setting: Int) throws {
    let model = try golden.model()
    let options = Self.settings[setting]
    let expected = try Self.write(model, options)
    let text = Self.prompt + expected.tokens
    for count in 1...8 {
      for (name, drafter) in [
        ("right", Oracle(text)), ("some", Oracle(text, wrongEvery: 5)),
        ("wrong", Oracle(text, wrongEvery: 1)),
        ("repetition", RepetitionDrafter()),
      ] as [(String, any Drafter)] where name == "some" || count == 4 {
        let drafts = Drafts(drafter, always: count)
        #expect(try Self.write(model, options, drafts: drafts) == expected, "\(count) drafted, \(name)")
        // Tokens are chosen after all that were written, unless the last of them ends the text.
        let chosen = expected.tokens.count - (expected.reason == .length ? 0 : 1)
        switch name {
        case "right":
          // After each pass all that was drafted and one more.
          let passes = (chosen + count) / (count + 1)
          #expect((passes...passes + 1).contains(drafts.passes), "\(count) drafted of \(chosen)")
        case "wrong": #expect(drafts.accepted == 0 && drafts.drafted >= count * chosen / 2)
        default: #expect(drafts.accepted <= drafts.drafted)
        }
      }
    }
  }

  /// While a text is written the state has read all but as many tokens as it is said to be behind.
  @Test func theStateIsBehindByWhatIsSaid() throws {
    let golden = try #require(GoldenTests.cases.first { $0.name == "v7-std" })
    let model = try golden.model()
    let expected = try Self.write(model, .greedy)
    let session = try Session(model, threads: 1)
    try session.prefill(Self.prompt)
    let drafts = Drafts(Oracle(Self.prompt + expected.tokens, wrongEvery: 5), always: 3)
    try drafts.follow(Self.prompt)
    var sampler = try Sampler(.greedy)
    var (tokens, mostUnread) = (Self.prompt, 0)
    _ = try session.generate(
      20, with: &sampler, tokenizer: ByteTokenizer(), drafts: drafts,
      observe: { token in
        let state = model.newState()
        #expect(throws: Never.self) {
          let reader = try Session(model, state: state, threads: 1)
          try reader.prefill(Array(tokens.dropLast(token.unread)))
          #expect(try session.state.encoded() == state.encoded())
        }
        mostUnread = max(mostUnread, token.unread)
        tokens.append(token.id)
      }, receive: { _ in true })
    #expect(mostUnread > 1)
  }

  /// With the pace that follows from time: whatever it chooses, the text is the same.
  @Test func theyAreGivenUpAndTriedAgain() throws {
    let golden = try #require(GoldenTests.cases.first { $0.name == "v7-std" })
    let model = try golden.model()
    let expected = try Self.write(model, .greedy, count: 100)
    let right = Drafts(Oracle(Self.prompt + expected.tokens))
    #expect(try Self.write(model, .greedy, count: 100, drafts: right) == expected)
    #expect(right.accepted > 0 && right.accepted <= right.drafted && right.passes < expected.tokens.count)
    let wrong = Drafts(Oracle(Self.prompt + expected.tokens, wrongEvery: 1))
    #expect(try Self.write(model, .greedy, count: 100, drafts: wrong) == expected)
    #expect(wrong.accepted == 0 && wrong.drafted > 0)
  }

  @Test func aTextThatEndsAmongDraftsEndsThere() throws {
    let golden = try #require(GoldenTests.cases.first { $0.name == "v7-std" })
    let model = try golden.model()
    let whole = try Self.write(model, Self.settings[1])
    let text = Self.prompt + whole.tokens
    // Limits of tokens, and stop strings that begin and end anywhere.
    for end in 1..<12 {
      let expected = try Self.write(model, Self.settings[1], count: end)
      let drafts = Drafts(Oracle(text), always: 8)
      #expect(try Self.write(model, Self.settings[1], count: end, drafts: drafts) == expected)
      let bytes = whole.tokens[end..<end + 2].map(UInt8.init(truncatingIfNeeded:))
      guard let stop = String(validating: bytes, as: UTF8.self) else { continue }
      let stopped = try Self.write(model, Self.settings[1], stop: [stop])
      #expect(
        try Self.write(
          model, Self.settings[1], stop: [stop], drafts: Drafts(Oracle(text), always: 8)) == stopped)
      #expect(stopped.reason == .stop)
    }
  }

  @Test func aModelDraftsForItself() throws {
    let golden = try #require(GoldenTests.cases.first { $0.name == "v7-std" })
    let model = try golden.model()
    for options in Self.settings {
      let expected = try Self.write(model, options)
      let drafts = Drafts(try ModelDrafter(model, for: model, threads: 1), always: 4)
      #expect(try Self.write(model, options, drafts: drafts) == expected)
      #expect(options.temperature > 0 || drafts.accepted == drafts.drafted)
    }
  }

  @Test func aModelWithOtherTokensDraftsNothing() throws {
    let (first, second) = (
      try #require(GoldenTests.cases.first { $0.name == "v7-std" }),
      try #require(GoldenTests.cases.first { $0.name == "v51-std" })
    )
    let error = #expect(throws: ModelError.self) {
      try ModelDrafter(second.model(), for: first.model(), threads: 1)
    }
    #expect("\(try #require(error))".contains("300 tokens, not 256"))
  }

  /// What followed the last three tokens the last time, and nothing where they are new.
  @Test func repetitionsAreProposed() {
    let drafter = RepetitionDrafter()
    drafter.read([1, 2, 3, 4, 5, 6])
    #expect(drafter.propose(4) == [])
    drafter.read([1, 2, 3])
    #expect(drafter.propose(4) == [4, 5, 6, 1])
    drafter.read([7, 1, 2, 3])
    #expect(drafter.propose(2) == [7, 1])
    drafter.reset()
    drafter.read([2, 3])
    #expect(drafter.propose(2) == [])
  }

  /// A text that goes on is not read again; one that was changed is.
  @Test func draftersFollowTheText() throws {
    final class Recorder: Drafter {
      var text: [Int] = []
      var reads = 0
      func reset() { text = [] }
      func read(_ tokens: [Int]) {
        text += tokens
        reads += tokens.count
      }
      func propose(_ count: Int) -> [Int] { [] }
    }
    let recorder = Recorder()
    let drafts = Drafts(recorder)
    try drafts.follow([1, 2, 3])
    try drafts.follow([1, 2, 3, 4])
    #expect(recorder.text == [1, 2, 3, 4] && recorder.reads == 4)
    try drafts.follow([1, 2])
    #expect(recorder.text == [1, 2])
    try drafts.read([5])
    try drafts.follow([1, 2, 6])
    #expect(recorder.text == [1, 2, 6])
  }
}
