// SPDX-License-Identifier: MIT
import Foundation
import RWKV
import RWKVChat
import RWKVQuantization
import RWKVTokenizer
import Testing

/// A conversation is what its tokens say: nothing more is remembered, nothing less.
@Suite("Conversation")
struct ConversationTests {
  static let cases = ["v4-hf", "v6-hf", "v7-std", "x-one"].flatMap { name in
    Golden.cases(name).filter { $0.name == name }
  }
  /// Stops that these random models write soon, some of them over several tokens.
  private static let template = """
    system = "System: {text}\\n\\n"
    user = "User: {text}\\n\\n"
    assistant = "Assistant:"
    end = "\\n\\n"
    think off = "" ""
    think on = " (think)" " <think"

    """

  private func conversation(
    _ golden: Golden, stops: [String] = [], snapshotLimit: Int = 1 << 30, pieces: [String]? = nil
  ) throws -> Conversation {
    let text = Self.template + stops.map { "stop = \"\($0)\"\n" }.joined()
    let model = try golden.model(.int8)
    return Conversation(
      try Session(model, threads: 1), template: try ChatTemplate(parsing: text, name: "test"),
      tokenizer: Folded(
        vocabularySize: model.configuration.vocabulary,
        pieces: pieces?.map { Array($0.utf8) } ?? Array("ab\u{E9}🙂cd".utf8).map { [$0] }),
      snapshotLimit: snapshotLimit)
  }

  /// Bytes as tokens; ids that random models have beyond those are letters, too.
  private struct Folded: Tokenizer {
    let vocabularySize: Int
    let pieces: [[UInt8]]
    func encode(_ bytes: [UInt8]) -> [Int] { bytes.map { Int($0) % vocabularySize } }
    func bytes(of id: Int) -> [UInt8] {
      id == 0 ? [] : pieces[id % pieces.count]
    }
  }

  private func options(seed: UInt64 = 3) -> SamplingOptions {
    var options = SamplingOptions()
    options.topP = 1
    options.seed = seed
    return options
  }

  /// The saved state of a fresh session that read these tokens.
  private func reference(_ conversation: Conversation) throws -> [UInt8] {
    let session = try Session(conversation.session.model, threads: 1)
    if !conversation.tokens.isEmpty { try session.prefill(conversation.tokens) }
    return try session.state.encoded()
  }

  private func say(_ conversation: Conversation, _ message: String, attempt: Int = 0) throws -> [UInt8] {
    var shown: [UInt8] = []
    _ = try conversation.send(message, options: options(), attempt: attempt, limit: 30) {
      #expect(String(validating: $0, as: UTF8.self) != nil)
      shown += $0
      return true
    }
    return shown
  }

  @Test func allVersionsAreThere() { #expect(Self.cases.count == 4) }

  @Test(arguments: cases)
  func theStateHasReadExactlyTheTokens(_ golden: Golden) throws {
    for stops in [[], ["ab", "\u{E9}c"], ["a"], ["dab\u{E9}"]] {
      let conversation = try conversation(golden, stops: stops)
      for message in ["hello", "and then?", ""] {
        let shown = try say(conversation, message)
        for stop in stops { #expect(!String(decoding: shown, as: UTF8.self).contains(stop)) }
        #expect(try conversation.session.state.encoded() == reference(conversation))
      }
      #expect(conversation.turns.map(\.message) == ["hello", "and then?", ""])
    }
  }

  /// Guesses change nothing: what is shown, remembered, taken back and gone on with.
  @Test(arguments: cases)
  func withDraftsItIsTheSame(_ golden: Golden) throws {
    for stops in [[], ["ab", "\u{E9}c"], ["a"], ["dab\u{E9}"]] {
      let (plain, drafted) = (
        try conversation(golden, stops: stops), try conversation(golden, stops: stops)
      )
      for message in ["hello", "and then?", ""] {
        let before = plain.tokens.count
        let answer = try say(plain, message)
        // Right, but for some; where an answer is cut, what would have followed is not known.
        drafted.drafts = Drafts(Oracle(plain.tokens, wrongEvery: 6), always: 4)
        #expect(try say(drafted, message) == answer && plain.tokens.count > before)
        #expect(drafted.tokens == plain.tokens && (stops.count > 0 || drafted.drafts?.accepted ?? 0 > 0))
        #expect(try drafted.session.state.encoded() == plain.session.state.encoded())
      }
      for conversation in [plain, drafted] { _ = try conversation.continueAnswer(limit: 9) { _ in true } }
      #expect(try remembered(drafted) == remembered(plain))
      for conversation in [plain, drafted] { _ = try conversation.undo() }
      #expect(try remembered(drafted) == remembered(plain))
    }
  }

  /// What is shown with stop strings is what is shown without them, up to where the first one stands.
  @Test(arguments: cases)
  func stopsCutAndNothingElse(_ golden: Golden) throws {
    let whole = try say(conversation(golden), "hello")
    let text = String(decoding: whole, as: UTF8.self)
    var cut = 0
    for stop in ["a", "b", "ab", "c", "cd", "dd", "\u{E9}", "🙂", "bb", "never"] {
      let found = text.range(of: stop, options: .literal)
      let expected = found.map { String(text[..<$0.lowerBound]) } ?? text
      #expect(
        String(decoding: try say(conversation(golden, stops: [stop]), "hello"), as: UTF8.self) == expected)
      cut += found == nil ? 0 : 1
    }
    #expect(cut > 0)
  }

  /// Stop strings that begin again before they end, in tokens of one and several letters: the state has read what was
  /// shown and no letter of a stop string.
  @Test func stopsThatOverlapThemselvesCutAndNothingElse() throws {
    let golden = try #require(Self.cases.first { $0.name == "v7-std" })
    let pieces = ["a", "b", "aa", "ab", "ba", "c", "bab"]
    var cut = 0
    for stops in [
      ["aab"], ["abab"], ["aabaac", "bb"], ["abac", "babb"], ["aaab", "aac"], ["bba", "abba"],
    ] {
      for seed in 0..<12 as Range<UInt64> {
        var answers: [[UInt8]] = []
        for stops in [[], stops] {
          let conversation = try conversation(golden, stops: stops, pieces: pieces)
          var shown: [UInt8] = []
          let answer = try conversation.send("hello", options: options(seed: seed), limit: 40) {
            shown += $0
            return true
          }
          answers.append(shown)
          #expect(conversation.turns.first?.answer == shown)
          #expect(try conversation.session.state.encoded() == reference(conversation))
          if answer.reason == .stop { cut += 1 }
        }
        let whole = String(decoding: answers[0], as: UTF8.self)
        let first = stops.compactMap { whole.range(of: $0) }.min {
          ($0.upperBound, $0.lowerBound) < ($1.upperBound, $1.lowerBound)
        }
        #expect(
          String(decoding: answers[1], as: UTF8.self) == first.map { whole[..<$0.lowerBound] } ?? whole[...])
      }
    }
    #expect(cut > 20)
  }

  /// The state and the tokens of a conversation whose answers are all at their end.
  private func remembered(_ conversation: Conversation) throws -> [UInt8] {
    let file = FileManager.default.temporaryDirectory.appending(path: "chat-\(UUID().uuidString)")
    defer { try? FileManager.default.removeItem(at: file) }
    try conversation.save(to: file.path)
    return try Array(Data(contentsOf: file))
  }

  @Test(arguments: cases)
  func takingBackIsAsIfNeverSaid(_ golden: Golden) throws {
    // With states of all turns, and with only the last one's, so that earlier ones are read again.
    for limit in [1 << 30, 0] {
      let conversation = try conversation(golden, snapshotLimit: limit)
      var states = [try remembered(conversation)]
      var answers: [[UInt8]] = []
      for message in ["one", "two", "three"] {
        answers.append(try say(conversation, message))
        states.append(try remembered(conversation))
      }
      // Another branch, and back to the first one.
      #expect(try conversation.undo()?.message == "three")
      #expect(try remembered(conversation) == states[2])
      #expect(try say(conversation, "another") != answers[2])
      #expect(try conversation.undo()?.message == "another")
      #expect(try say(conversation, "three") == answers[2])
      #expect(try remembered(conversation) == states[3])
      for (index, message) in ["one", "two", "three"].enumerated().reversed() {
        #expect(try conversation.undo()?.message == message)
        #expect(try remembered(conversation) == states[index])
      }
      #expect(try conversation.undo() == nil && conversation.tokens.isEmpty)
    }
  }

  @Test(arguments: cases)
  func savedAndLoadedGoesOnBitForBit(_ golden: Golden) throws {
    let file = FileManager.default.temporaryDirectory.appending(path: "chat-\(UUID().uuidString)").path
    defer { try? FileManager.default.removeItem(atPath: file) }
    let first = try conversation(golden, stops: ["ab"])
    first.reset(system: "be brief")
    _ = try say(first, "one")
    try first.save(to: file)
    let second = try conversation(golden, stops: ["ab"])
    second.load(try second.session.model.loadState(from: file))
    // What the template has after an answer that was cut is read there already; here it can go on.
    #expect(second.tokens.starts(with: first.tokens) && second.transcript == first.transcript)
    #expect(try say(second, "two") == say(first, "two"))
    #expect(
      try second.session.state.encoded(tokens: second.tokens)
        == first.session.state.encoded(tokens: first.tokens))
    #expect(try second.undo()?.message == "two" && second.undo() == nil)
  }

  /// An answer that was cut goes on after it was saved, and after a message that was taken back, as if neither had
  /// been.
  @Test(arguments: cases, [1 << 30, 0])
  func cutAnswersGoOnLater(_ golden: Golden, _ limit: Int) throws {
    func answer(_ between: (Conversation) throws -> Void) throws -> [UInt8] {
      let conversation = try conversation(golden, snapshotLimit: limit)
      _ = try say(conversation, "zero")
      let cut = try conversation.send("one", options: options(), limit: 5) { _ in true }
      #expect(cut.reason == .length)
      try between(conversation)
      var shown: [UInt8] = []
      let rest = try conversation.continueAnswer(limit: 9) {
        shown += $0
        return true
      }
      // The message has been read.
      #expect(rest?.promptTokens == 0 && rest.map { 1...9 ~= $0.answerTokens } == true)
      #expect(try conversation.session.state.encoded() == reference(conversation))
      return shown + conversation.transcript
    }
    let whole = try answer { _ in }
    let saved = try answer { _ = try remembered($0) }
    let tookBack = try answer {
      _ = try say($0, "two")
      _ = try $0.undo()
    }
    let stopped = try answer { conversation in
      #expect(throws: ModelError.self) {
        try conversation.send("two", options: options(), reading: { _, _ in false }, receive: { _ in true })
      }
    }
    #expect(saved == whole && tookBack == whole && stopped == whole)
  }

  /// Taken back after a load, with the states of all turns and with the last one's alone: those of earlier turns are
  /// made again from what was loaded.
  @Test(arguments: cases, [1 << 30, 0])
  func takingBackAfterALoadIsAsIfNeverSaid(_ golden: Golden, _ limit: Int) throws {
    let (first, second) = (try conversation(golden), try conversation(golden, snapshotLimit: limit))
    _ = try say(first, "zero")
    let saved = try remembered(first)
    second.load(try second.session.model.loadState(bytes: saved))
    var states = [try remembered(second)]
    for message in ["one", "two", "three"] {
      _ = try say(second, message)
      states.append(try remembered(second))
    }
    for (index, message) in ["one", "two", "three"].enumerated().reversed() {
      #expect(try second.undo()?.message == message)
      #expect(try remembered(second) == states[index])
    }
    #expect(try second.undo() == nil && states[0] == saved)
  }

  /// A state that was saved without its tokens: what is saved after it has none either, since the beginning is missing;
  /// after a new start they are all known.
  @Test func withoutItsTokensAConversationIsSavedWithoutTokens() throws {
    let golden = try #require(Self.cases.first { $0.name == "v7-std" })
    let file = FileManager.default.temporaryDirectory.appending(path: "chat-\(UUID().uuidString)").path
    defer { try? FileManager.default.removeItem(atPath: file) }
    let (first, second) = (try conversation(golden), try conversation(golden, snapshotLimit: 0))
    let model = second.session.model
    _ = try say(first, "zero")
    second.load(try model.loadState(bytes: first.session.state.encoded()))
    #expect(second.tokens.isEmpty)
    _ = try say(second, "one")
    try second.save(to: file)
    let saved = try model.loadState(from: file)
    #expect(saved.tokens.isEmpty)
    _ = try say(second, "two")
    #expect(try second.undo()?.message == "two" && second.undo()?.message == "one" && second.undo() == nil)
    second.reset()
    _ = try say(second, "one")
    try second.save(to: file)
    #expect(try model.loadState(from: file).tokens.starts(with: second.tokens) && !second.tokens.isEmpty)
  }

  @Test(arguments: cases)
  func instructionsAreSavedBeforeTheFirstMessage(_ golden: Golden) throws {
    let file = FileManager.default.temporaryDirectory.appending(path: "chat-\(UUID().uuidString)").path
    defer { try? FileManager.default.removeItem(atPath: file) }
    let (saved, unsaved, loaded) = (
      try conversation(golden), try conversation(golden), try conversation(golden)
    )
    for conversation in [saved, unsaved] { conversation.reset(system: "be brief") }
    try saved.save(to: file)
    loaded.load(try loaded.session.model.loadState(from: file))
    let answer = try say(unsaved, "one")
    #expect(try say(saved, "one") == answer && say(loaded, "one") == answer)
    #expect(saved.tokens == unsaved.tokens && loaded.tokens == unsaved.tokens)
    #expect(try saved.undo()?.message == "one")
    #expect(try say(saved, "one") == answer)
  }

  @Test func attemptsAndSeedsDiffer() throws {
    let golden = try #require(Self.cases.first { $0.name == "v7-std" })
    let conversation = try conversation(golden)
    let first = try say(conversation, "one")
    _ = try conversation.undo()
    let second = try say(conversation, "one", attempt: 1)
    _ = try conversation.undo()
    #expect(first != second)
    #expect(try say(conversation, "one") == first)
  }

  @Test func whatFailsChangesNothing() throws {
    let golden = try #require(Self.cases.first { $0.name == "v7-std" })
    let conversation = try conversation(golden)
    _ = try say(conversation, "one")
    let (before, tokens) = (try conversation.session.state.encoded(), conversation.tokens)
    #expect(throws: ModelError.self) {
      try conversation.send("two", options: options(), reading: { _, _ in false }, receive: { _ in true })
    }
    var wrong = options()
    wrong.topP = 7
    #expect(throws: SamplingError.self) { try conversation.send("two", options: wrong) { _ in true } }
    #expect(try conversation.session.state.encoded() == before && conversation.tokens == tokens)
    #expect(conversation.turns.count == 1)
  }

  @Test func aStoppedAnswerStaysAsFarAsItWasShown() throws {
    let golden = try #require(Self.cases.first { $0.name == "v7-std" })
    let conversation = try conversation(golden)
    var pieces = 0
    let answer = try conversation.send("one", options: options()) { _ in
      pieces += 1
      return pieces < 4
    }
    #expect(answer.reason == .cancelled && conversation.turns.count == 1)
    #expect(try conversation.session.state.encoded() == reference(conversation))
  }
}
