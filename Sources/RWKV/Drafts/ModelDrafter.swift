// SPDX-License-Identifier: MIT
import RWKVTokenizer

/// Proposes what a smaller model with the same tokenizer finds most likely.
public final class ModelDrafter: Drafter {
  private let session: Session
  /// The state after the text, from which the session goes ahead to guess.
  private let before: State
  private var unread: [Int] = []
  private var groups = LogitGroups()

  /// - Throws: `ModelError` if the two models' tokens differ, or there is no memory.
  public init(_ draft: Model, for model: Model, threads: Int) throws(ModelError) {
    let (found, expected) = (draft.configuration.vocabulary, model.configuration.vocabulary)
    guard found == expected else {
      throw ModelError(.otherTokens("it has \(found) tokens, not \(expected)"), path: draft.path)
    }
    for token in 0..<found where draft.tokenizer?.bytes(of: token) != model.tokenizer?.bytes(of: token) {
      throw ModelError(.otherTokens("token \(token) is another text"), path: draft.path)
    }
    session = try Session(draft, threads: threads)
    before = draft.newState()
  }

  /// Drafts for another text with the same model: shares its memory and threads, so that one of the two may work at a
  /// time.
  public init(beside other: ModelDrafter) {
    session = Session(other.session.evaluator, other.session.model.newState())
    before = other.session.model.newState()
  }

  public func reset() {
    session.state.reset()
    unread = []
  }

  public func read(_ tokens: [Int]) { unread += tokens }

  public func prepare() throws {
    // The last token is what the first draft follows.
    guard unread.count > 1 else { return }
    try session.prefill(Array(unread.dropLast()))
    unread.removeFirst(unread.count - 1)
  }

  public func propose(_ count: Int) throws -> [Int] {
    guard !unread.isEmpty else { return [] }
    try session.prefill(unread)
    unread = []
    before.assign(session.state)
    var tokens: [Int] = []
    while groups.findMaxima(session.logits) {
      tokens.append(groups.mostLikely(session.logits))
      if tokens.count == count { break }
      try session.decode(tokens[tokens.count - 1])
    }
    session.state.assign(before)
    return tokens
  }
}
