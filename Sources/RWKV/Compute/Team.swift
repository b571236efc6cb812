// SPDX-License-Identifier: MIT
import CRWKVKernels
import Dispatch
import Glibc
import Synchronization

/// A team of threads that walks through one evaluation together, phase by phase.
///
/// Dispatch is entered once per evaluation (`run`); every member executes the same code, and each call of
/// `Member.parallel` is a phase whose tasks the members share. A phase ends when all its tasks are done, not when all
/// members have arrived: a member that the system has not scheduled holds nothing up. It finds the phases it missed
/// already over and catches up. Members with an even index take tasks from the front, the others from the back, so
/// that what a task leaves in a core's cache is mostly there for the same task of the next phase. Which member runs a
/// task never changes the result.
final class Team: Sendable {
  /// Members at most, 1…
  let size: Int
  /// Where inputs of matrices are gathered: only for calibration.
  let moments: InputMoments?
  /// Phase number (24 bits), then how many of its tasks have been claimed from the front and from the back (20 bits
  /// each).
  private let ticket: Atomic<UInt64>
  /// Finished tasks of the current phase.
  private let finished = Atomic<Int>(0)
  /// Nanoseconds that members of the current evaluation spent waiting for others for long.
  private let stalled = Atomic<UInt64>(0)
  private let crew: Mutex<Crew>

  /// - Parameter firstPhase: the number of the first phase; any will do, less than 2^24.
  init(size: Int, moments: InputMoments? = nil, firstPhase: UInt64 = 0) {
    precondition(size > 0 && firstPhase >> 24 == 0)
    ticket = Atomic(firstPhase << 40)
    self.size = size
    self.moments = moments
    crew = Mutex(Crew(largest: size))
  }

  /// Runs `body` on all members and returns when all have left it.
  ///
  /// One evaluation at a time: a team belongs to one session.
  /// - Parameter leavesTogether: whether members that leave before the others have waited for them, as where they share
  ///   phases.
  func run(leavesTogether: Bool = true, _ body: (inout Member) -> Void) {
    let first = ticket.load(ordering: .acquiring) >> 40
    let count = crew.withLock { $0.next() }
    let start = nanoseconds()
    guard count > 1 else {
      var member = Member(team: self, index: 0, count: 1, phase: first)
      body(&member)
      return crew.withLock { $0.learn(stalled: 0, of: nanoseconds() - start) }
    }
    let left = Atomic<UInt64>(start)
    // The closure runs only while `run` waits, so its captures outlive it.
    withoutActuallyEscaping(body) { body in
      nonisolated(unsafe) let body = body
      DispatchQueue.concurrentPerform(iterations: count) { index in
        var member = Member(team: self, index: index, count: count, phase: first)
        body(&member)
        // The first to leave has seen the end of the last phase; from then on there is only waiting for the others.
        _ = left.compareExchange(expected: start, desired: nanoseconds(), ordering: .relaxed)
      }
    }
    let end = nanoseconds()
    let ending = leavesTogether ? end - left.load(ordering: .relaxed) : 0
    let waited = stalled.exchange(0, ordering: .relaxed) + ending
    crew.withLock { $0.learn(stalled: waited, of: end - start) }
  }

  /// One thread's way through the phases of an evaluation.
  struct Member: ~Copyable {
    private let team: Team
    private var phase: UInt64
    /// 0..<teamSize, different for members that run at the same time: selects scratch.
    let index: Int
    /// Number of members in this evaluation, for choosing how finely to cut work.
    let teamSize: Int
    var moments: InputMoments? { team.moments }

    fileprivate init(team: Team, index: Int, count: Int, phase: UInt64) {
      self.team = team
      self.index = index
      teamSize = count
      self.phase = phase
    }

    /// Shares tasks 0..<count among the members and returns when all are done.
    ///
    /// All members must call this in the same order with the same count, less than 2^20.
    @inline(__always)
    mutating func parallel(_ count: Int, _ task: (Int) -> Void) {
      guard count > 0 else { return }
      let current = phase
      phase = (phase + 1) & 0xff_ffff
      if teamSize == 1 {
        for index in 0..<count { task(index) }
        return
      }
      while let index = team.claim(count, in: current, fromBack: index % 2 == 1) {
        task(index)
        team.finish(count, in: current)
      }
      team.wait(for: current)
    }
  }

  private func claim(_ count: Int, in phase: UInt64, fromBack: Bool) -> Int? {
    var seen = ticket.load(ordering: .acquiring)
    while seen >> 40 == phase {
      let (front, back) = (Int(seen >> 20 & 0xf_ffff), Int(seen & 0xf_ffff))
      guard front + back < count else { return nil }
      let (exchanged, original) = ticket.weakCompareExchange(
        expected: seen, desired: seen + (fromBack ? 1 : 1 << 20), ordering: .acquiringAndReleasing)
      if exchanged { return fromBack ? count - 1 - back : front }
      seen = original
    }
    return nil
  }

  private func finish(_ count: Int, in phase: UInt64) {
    guard finished.add(1, ordering: .acquiringAndReleasing).newValue == count else { return }
    finished.store(0, ordering: .relaxed)
    ticket.store(((phase + 1) & 0xff_ffff) << 40, ordering: .releasing)
  }

  private func wait(for phase: UInt64) {
    wait { ticket.load(ordering: .acquiring) >> 40 != phase }
  }

  /// Returns once `isOver` does.
  @inline(__always)
  func wait(until isOver: () -> Bool) {
    var turns = 0
    var start: UInt64 = 0
    while !isOver() {
      turns += 1
      // Phases last microseconds: look for a while, then let others have the core.
      if turns < 2000 {
        rk_pause()
      } else {
        if start == 0 { start = nanoseconds() }
        sched_yield()
      }
    }
    if start > 0 { stalled.add(nanoseconds() - start, ordering: .relaxed) }
  }
}

/// How many members an evaluation gets: fewer while another process keeps a core busy.
///
/// A member without a core holds its task back for milliseconds, as long as many phases take. When the members spend
/// a good part of their time waiting for such a one, the team does better without it; from time to time it
/// is asked back.
private struct Crew {
  private let largest: Int
  private var count: Int
  /// Time of evaluations until a larger team is tried [ns]. Not their number: those of prompts take a hundred times as
  /// long as those of tokens.
  private var rest: UInt64 = 0
  /// How long the next rest will be [ns]; doubles each time a larger team stalls again.
  private var nextRest = Self.shortestRest
  private static let shortestRest: UInt64 = 30_000_000
  private static let longestRest: UInt64 = 2_000_000_000

  init(largest: Int) {
    self.largest = largest
    count = largest
  }

  mutating func next() -> Int {
    if count < largest && rest == 0 { count += 1 }
    return count
  }

  /// Takes note of an evaluation in which members together waited `stalled` of `elapsed` nanoseconds each.
  mutating func learn(stalled: UInt64, of elapsed: UInt64) {
    let isStalled = Double(stalled) > 0.15 * Double(elapsed)
    if isStalled && count > 1 {
      count -= 1
      rest = nextRest
      nextRest = min(2 * nextRest, Self.longestRest)
      return
    }
    rest -= min(rest, elapsed)
    // Forgotten as slowly as it was learnt.
    if count == largest { nextRest = max(nextRest - min(nextRest, elapsed / 16), Self.shortestRest) }
  }
}

/// A clock that only moves forward.
private func nanoseconds() -> UInt64 {
  var time = timespec()
  clock_gettime(CLOCK_MONOTONIC, &time)
  return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}
