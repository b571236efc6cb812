import CRWKVKernels
import Dispatch
import Glibc
import Synchronization

/// A team of threads that walks through one evaluation together, phase by phase.
///
/// Dispatch is entered once per evaluation (`run`); every member executes the same code, and each call of
/// `Member.parallel` is a phase whose tasks the members share. A phase ends when all its tasks are done, not when all
/// members have arrived: a member that the system has not scheduled holds nothing up. It finds the phases it missed
/// already over and catches up. Which member runs a task never changes the result.
final class Team: Sendable {
  /// Members at most, 1…
  let size: Int
  /// Phase number in the upper, next unclaimed task in the lower 32 bits.
  private let ticket = Atomic<UInt64>(0)
  /// Finished tasks of the current phase.
  private let finished = Atomic<Int>(0)

  init(size: Int) {
    precondition(size > 0)
    self.size = size
  }

  /// Runs `body` on all members and returns when all have left it.
  ///
  /// One evaluation at a time: a team belongs to one session.
  func run(_ body: (inout Member) -> Void) {
    let first = ticket.load(ordering: .acquiring) >> 32
    guard size > 1 else {
      var member = Member(team: self, index: 0, phase: first)
      return body(&member)
    }
    // The closure runs only while `run` waits, so its captures outlive it.
    withoutActuallyEscaping(body) { body in
      nonisolated(unsafe) let body = body
      DispatchQueue.concurrentPerform(iterations: size) { index in
        var member = Member(team: self, index: index, phase: first)
        body(&member)
      }
    }
  }

  /// One thread's way through the phases of an evaluation.
  struct Member: ~Copyable {
    private let team: Team
    private var phase: UInt64
    /// 0..<teamSize, different for members that run at the same time: selects scratch.
    let index: Int

    fileprivate init(team: Team, index: Int, phase: UInt64) {
      self.team = team
      self.index = index
      self.phase = phase
    }

    /// Number of members, for choosing how finely to cut work.
    var teamSize: Int { team.size }

    /// Shares tasks 0..<count among the members and returns when all are done.
    ///
    /// All members must call this in the same order with the same count.
    @inline(__always)
    mutating func parallel(_ count: Int, _ task: (Int) -> Void) {
      guard count > 0 else { return }
      let current = phase
      phase = (phase + 1) & 0xffff_ffff
      if team.size == 1 {
        for index in 0..<count { task(index) }
        return
      }
      while let index = team.claim(count, in: current) {
        task(index)
        team.finish(count, in: current)
      }
      team.wait(for: current)
    }
  }

  private func claim(_ count: Int, in phase: UInt64) -> Int? {
    var seen = ticket.load(ordering: .acquiring)
    while seen >> 32 == phase {
      let index = Int(seen & 0xffff_ffff)
      guard index < count else { return nil }
      let (exchanged, original) = ticket.weakCompareExchange(
        expected: seen, desired: seen + 1, ordering: .acquiringAndReleasing)
      if exchanged { return index }
      seen = original
    }
    return nil
  }

  private func finish(_ count: Int, in phase: UInt64) {
    guard finished.add(1, ordering: .acquiringAndReleasing).newValue == count else { return }
    finished.store(0, ordering: .relaxed)
    ticket.store(((phase + 1) & 0xffff_ffff) << 32, ordering: .releasing)
  }

  private func wait(for phase: UInt64) {
    var turns = 0
    while ticket.load(ordering: .acquiring) >> 32 == phase {
      turns += 1
      // Phases last microseconds: look for a while, then let others have the core.
      if turns < 2000 { rk_pause() } else { sched_yield() }
    }
  }
}
