// SPDX-License-Identifier: MIT

/// How many tokens to draft: what pays by the measured cost of passes and the share of drafts that were right.
///
/// Drafts are worth trying as long as what they lost is a small part of all time, so that they cost next to nothing
/// where they never pay, and come back where they do.
struct DraftPace {
  private let most: Int
  /// Of a pass over so many rows, a running mean [s]; 0: not measured yet.
  private var passSeconds: [Double]
  /// Of drafting one token [s].
  private var draftSeconds = 0.0
  /// Probability that a drafted token is right if those before it are.
  private var acceptance = 0.7
  /// Time that drafts took beyond what the same tokens would have taken one by one; below 0: what they won [s].
  private var lost = 0.0
  private var total = 0.0

  /// Of all time, what may be lost on drafts, beside the first two passes.
  private static let share = 0.02

  init(most: Int) {
    self.most = most
    passSeconds = Array(repeating: 0, count: 2 * (most + 1) + 1)
  }

  /// Tokens to draft for a pass that reads `unread` tokens anyway. The first pass shows what one token takes.
  func count(unread: Int) -> Int {
    let plain = passSeconds[1]
    guard plain > 0, lost < 2 * plain + Self.share * total else { return 0 }
    var (best, bestRate) = (0, 1 / seconds(rows: unread))
    var (expected, chance) = (1.0, 1.0)
    for count in 1...most {
      chance *= acceptance
      expected += chance
      let rate = expected / (seconds(rows: unread + count) + Double(count) * draftSeconds)
      if rate > bestRate { (best, bestRate) = (count, rate) }
    }
    return best
  }

  /// A pass read `rows` tokens, `drafted` of them guesses, of which the first `accepted` were right.
  mutating func learn(
    rows: Int, drafted: Int, accepted: Int, drafting: Double, pass: Double
  ) {
    if rows < passSeconds.count { passSeconds[rows] = Self.mean(passSeconds[rows], pass) }
    total += drafting + pass
    // Also of what was not proposed for want of anything to go by.
    lost += drafting
    guard drafted > 0 else { return }
    draftSeconds = Self.mean(draftSeconds, drafting / Double(drafted))
    for index in 0..<min(accepted + 1, drafted) {
      acceptance += 0.1 * ((index < accepted ? 1 : 0) - acceptance)
    }
    lost += pass - Double(accepted + 1) * passSeconds[1]
    lost = max(lost, -4 * passSeconds[1])
  }

  private static func mean(_ mean: Double, _ value: Double) -> Double {
    mean == 0 ? value : 0.8 * mean + 0.2 * value
  }

  /// What a pass over `rows` rows takes; as much as the next shorter one where it has not been tried.
  private func seconds(rows: Int) -> Double { passSeconds[...rows].last { $0 > 0 } ?? 0 }
}
