// SPDX-License-Identifier: MIT

/// How many tokens to draft for texts that advance together: what pays by the measured cost of passes and the share of
/// drafts that were right.
///
/// Drafts are worth trying as long as what they lost is a small part of all time, so that they cost next to nothing
/// where they never pay, and come back where they do.
struct DraftPace {
  /// One of the texts.
  struct Text {
    /// Tokens that a pass reads of it anyway.
    let unread: Int
    /// Tokens that may be drafted.
    let most: Int
    /// Probability that a drafted token is right if those before it are.
    let acceptance: Double
  }

  /// How long a pass over so many rows takes, a running mean [s]; 0: not measured yet.
  private var passSeconds = [Double](repeating: 0, count: Evaluator.capacity + 1)
  /// How long drafting one token takes [s].
  private var draftSeconds = 0.0
  /// Time that drafts took beyond what the same tokens would have taken one by one; below 0: what they won [s].
  private var lost = 0.0
  private var total = 0.0

  /// The share of all time that may be lost on drafts, beside the first two passes.
  private static let share = 0.02

  /// Tokens to draft for each of the texts; together with what is read anyway no more than a pass can read. The first
  /// pass over so many texts shows what one token of each takes.
  func counts(_ texts: [Text]) -> [Int] {
    var counts = texts.map { _ in 0 }
    let plain = passSeconds[texts.count]
    guard plain > 0, lost < 2 * plain + Self.share * total else { return counts }
    var best = counts
    var rows = texts.reduce(0) { $0 + $1.unread }
    var bestRate = Double(texts.count) / seconds(rows: rows)
    // The likeliest next draft of any text, as long as there is one; what pays best of all that.
    var chances = texts.map(\.acceptance)
    var (expected, drafted) = (Double(texts.count), 0)
    while rows < Evaluator.capacity,
      let next = texts.indices.filter({ counts[$0] < texts[$0].most }).max(by: { chances[$0] < chances[$1] })
    {
      expected += chances[next]
      chances[next] *= texts[next].acceptance
      counts[next] += 1
      (rows, drafted) = (rows + 1, drafted + 1)
      let rate = expected / (seconds(rows: rows) + Double(drafted) * draftSeconds)
      if rate > bestRate { (best, bestRate) = (counts, rate) }
    }
    return best
  }

  /// A pass read `rows` tokens of `texts` texts, `drafted` of them guesses, of which `accepted` were right.
  mutating func learn(
    rows: Int, texts: Int, drafted: Int, accepted: Int, drafting: Double, pass: Double
  ) {
    passSeconds[rows] = Self.mean(passSeconds[rows], pass)
    total += drafting + pass
    // Also of what was not proposed for want of anything to go by.
    lost += drafting
    guard drafted > 0 else { return }
    draftSeconds = Self.mean(draftSeconds, drafting / Double(drafted))
    let plain = passSeconds[texts]
    lost += pass - Double(accepted + texts) / Double(texts) * plain
    lost = max(lost, -4 * plain)
  }

  private static func mean(_ mean: Double, _ value: Double) -> Double {
    mean == 0 ? value : 0.8 * mean + 0.2 * value
  }

  /// What a pass over `rows` rows takes; as much as the next shorter one where it has not been tried.
  private func seconds(rows: Int) -> Double { passSeconds[...rows].last { $0 > 0 } ?? 0 }
}
