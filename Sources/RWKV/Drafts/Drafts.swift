// SPDX-License-Identifier: MIT

/// Guesses how a text goes on. Whatever it proposes changes how fast a text is written, never the text.
public protocol Drafter: AnyObject {
  /// Forgets what it has read.
  func reset()
  /// Takes in what follows: tokens that were read or chosen, in order, each once.
  func read(_ tokens: [Int]) throws
  /// Called after a prompt, or a piece of one, so that what there is to do with it need not be done while a text is
  /// written.
  func prepare() throws
  /// What may follow what was read: at most `count` tokens, fewer or none where there is nothing to go by.
  func propose(_ count: Int) throws -> [Int]
}

extension Drafter {
  public func prepare() throws {}
}

/// Where the drafts of one text come from, and what became of them. Not thread-safe.
public final class Drafts {
  /// How many tokens are drafted for a pass at most.
  public let limit: Int
  /// How many passes over the weights there were so far.
  public internal(set) var passes = 0
  /// How many tokens were drafted so far.
  public internal(set) var drafted = 0
  /// How many of the drafted tokens were right.
  public internal(set) var accepted = 0
  private let drafter: any Drafter
  /// Probability that a drafted token is right if those before it are, as it seems.
  private(set) var acceptance = 0.7
  /// Decides how many tokens are drafted; nil: always as many as may be.
  var pace: DraftPace?
  /// What the drafter has read: how many tokens, and their hash.
  private var known = (count: 0, hash: Drafts.hash([]))

  /// The largest limit: more drafts in a pass are never made.
  public static let mostTokens = 16
  /// The limit of drafts in a pass where none is given.
  public static let limitByDefault = 8

  /// - Parameter limit: tokens drafted for a pass at most, 1…`mostTokens`. How many are drafted follows from the time
  ///   that passes take and from how many drafts are right.
  public init(_ drafter: any Drafter, limit: Int = limitByDefault) {
    self.drafter = drafter
    self.limit = min(max(1, limit), Self.mostTokens)
    pace = DraftPace()
  }

  /// Drafts `count` tokens for each pass, whether that pays or not.
  package init(_ drafter: any Drafter, always count: Int) {
    self.drafter = drafter
    limit = count
  }

  /// Tells the drafter the whole text so far, before what follows it is written. It reads what is new to it.
  public func follow(_ text: [Int]) throws {
    if known.count > text.count || Self.hash(text.prefix(known.count)) != known.hash {
      drafter.reset()
      known = (0, Self.hash([]))
    }
    try read(Array(text[known.count...]))
    try drafter.prepare()
  }

  /// Tells the drafter what follows what it has read. What a session writes with drafts it learns by itself.
  public func read(_ tokens: [Int]) throws {
    known = (known.count + tokens.count, Self.hash(tokens[...], after: known.hash))
    try drafter.read(tokens)
  }

  /// Lets the drafter get ready for a text after what it has read.
  func prepare() throws { try drafter.prepare() }

  func propose(_ count: Int) throws -> [Int] { try drafter.propose(count) }

  /// What became of the drafts of a pass.
  func count(drafted: Int, accepted: Int) {
    self.drafted += drafted
    self.accepted += accepted
    for index in 0..<min(accepted + 1, drafted) {
      acceptance += 0.1 * ((index < accepted ? 1 : 0) - acceptance)
    }
  }

  private static func hash(_ tokens: ArraySlice<Int>, after start: UInt64 = 0xCBF2_9CE4_8422_2325) -> UInt64 {
    tokens.reduce(start) { ($0 ^ UInt64(truncatingIfNeeded: $1)) &* 0x0100_0000_01B3 }
  }
}
