// SPDX-License-Identifier: MIT
import CRWKVKernels
import Glibc
import RWKVFormat
import Synchronization

/// A team of threads that walks through one evaluation together, phase by phase.
///
/// Every member executes the same code, and each call of `Member.parallel` is a phase whose tasks the members share. A
/// phase ends when all its tasks are done, not when all members have arrived: a member that the system has not
/// scheduled holds nothing up. It finds the phases it missed already over and catches up. Members with an even index
/// take tasks from the front, the others from the back, so that what a task leaves in a core's cache is mostly there
/// for the same task of the next phase. Which member runs a task never changes the result. So no thread owns a head or
/// a row: a head of the recurrence, for example, is a task of `Frame.recur`.
///
/// The caller of `run` is member 0; the others are helpers that Dispatch starts. A helper stays for a moment after an
/// evaluation: the next token begins a few microseconds later, and to wake a thread can take longer than choosing one.
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
  private let door = Atomic<Door>(Door(rawValue: 0))
  /// What those who come in do; written while the door is closed and nobody is inside.
  private nonisolated(unsafe) var work: ((_ index: Int) -> Void)?
  /// Helpers that work or look at the door.
  private let helpers = Atomic<Int>(0)
  /// How long helpers look at a closed door [ns].
  private let patience = Atomic<UInt64>(0)
  private static let longestPatience: UInt64 = 500_000

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
    let ending = together(count) { index in
      var member = Member(team: self, index: index, count: count, phase: first)
      body(&member)
    }
    let elapsed = nanoseconds() - start
    patience.store(min(elapsed, Self.longestPatience), ordering: .relaxed)
    let waited = stalled.exchange(0, ordering: .relaxed) + (leavesTogether ? ending : 0)
    crew.withLock { $0.learn(stalled: waited, of: elapsed) }
  }

  /// Runs tasks 0..<count that have nothing to do with each other, on no more threads than an evaluation has.
  ///
  /// This is for what happens between evaluations, as choosing tokens: how long threads wait for the last task says
  /// nothing about the cores they have.
  func each(_ count: Int, _ task: (Int) -> Void) {
    let claimed = Atomic<Int>(0)
    _ = together(min(count, crew.withLock { $0.count })) { _ in
      while true {
        let index = claimed.add(1, ordering: .relaxed).oldValue
        guard index < count else { return }
        task(index)
      }
    }
  }

  /// Calls `body` here with 0, and with 1..<count on those helpers that come before it returns; waits until they have
  /// left. Returns how long that took, if it took long [ns].
  private func together(_ count: Int, _ body: (_ index: Int) -> Void) -> UInt64 {
    guard count > 1 else {
      body(0)
      return 0
    }
    // Helpers call the closure only while `together` waits for them, so its captures outlive it.
    return withoutActuallyEscaping(body) { body in
      work = body
      door.store(door.load(ordering: .relaxed).opened(places: count - 1), ordering: .sequentiallyConsistent)
      for _ in 0..<max(0, count - 1 - helpers.load(ordering: .sequentiallyConsistent)) {
        helpers.add(1, ordering: .relaxed)
        apart { self.help() }
      }
      body(0)
      _ = change { $0.closed }
      let waited = spin { door.load(ordering: .acquiring).inside == 0 }
      work = nil
      return waited
    }
  }

  /// A helper comes in whenever the door opens, and goes home when it has been shut for long.
  private func help() {
    var last: UInt64?
    func isOpen(_ door: Door) -> Bool { door.places > 0 && door.number != last }
    while true {
      if let before = change({ isOpen($0) ? $0.entered : nil }) {
        last = before.number
        work?(before.places)
        _ = change { $0.left }
      }
      _ = spin(atMost: patience.load(ordering: .relaxed)) { isOpen(door.load(ordering: .relaxed)) }
      if isOpen(door.load(ordering: .relaxed)) { continue }
      helpers.subtract(1, ordering: .sequentiallyConsistent)
      // Who has opened the door in between counts on this helper.
      guard isOpen(door.load(ordering: .sequentiallyConsistent)) else { return }
      helpers.add(1, ordering: .relaxed)
    }
  }

  /// Replaces the door's state unless `next` says nil; returns what was replaced.
  private func change(_ next: (Door) -> Door?) -> Door? {
    var seen = door.load(ordering: .acquiring)
    while let desired = next(seen) {
      let (exchanged, original) = door.compareExchange(
        expected: seen, desired: desired, ordering: .acquiringAndReleasing)
      if exchanged { return seen }
      seen = original
    }
    return nil
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
    let waited = spin(until: isOver)
    if waited > 0 { stalled.add(waited, ordering: .relaxed) }
  }

  /// Returns once `isOver` does, or after `limit` nanoseconds: how long it took, 0 if it did not take long.
  @inline(__always)
  private func spin(atMost limit: UInt64 = .max, until isOver: () -> Bool) -> UInt64 {
    var turns = 0
    var start: UInt64 = 0
    while !isOver() {
      turns += 1
      // Phases last microseconds: look for a while, then let others have the core.
      if turns < 2000 {
        rk_pause()
      } else {
        let now = nanoseconds()
        if start == 0 { start = now }
        if now - start > limit { break }
        sched_yield()
      }
    }
    return start > 0 ? nanoseconds() - start : 0
  }
}

/// What helpers see of a team: whether they may come in, and how many are inside.
private struct Door: RawRepresentable, AtomicRepresentable {
  /// Number of the work (32 bits), members that may still come (16 bits), helpers inside (16 bits).
  let rawValue: UInt64

  init(rawValue: UInt64) { self.rawValue = rawValue }

  private init(number: UInt64, places: Int, inside: Int) {
    rawValue = number << 32 | UInt64(places) << 16 | UInt64(inside)
  }

  var number: UInt64 { rawValue >> 32 }
  /// How many members may still come in; also the index that the next of them gets, 1….
  var places: Int { Int(rawValue >> 16 & 0xffff) }
  var inside: Int { Int(rawValue & 0xffff) }
  func opened(places: Int) -> Door { Door(number: (number + 1) & 0xffff_ffff, places: places, inside: 0) }
  var entered: Door { Door(number: number, places: places - 1, inside: inside + 1) }
  var left: Door { Door(number: number, places: places, inside: inside - 1) }
  var closed: Door { Door(number: number, places: 0, inside: inside) }
}

/// How many members an evaluation gets: fewer while another process keeps a core busy.
///
/// A member without a core holds its task back for milliseconds, as long as many phases take. When the others wait so
/// long that they are faster alone, the team does without one; from time to time it is asked back.
struct Crew {
  private let largest: Int
  private(set) var count: Int
  /// Time of evaluations until a larger team is tried [ns]. Not their number: those of prompts take a hundred times as
  /// long as those of tokens.
  private var rest: UInt64 = 0
  /// How long the next rest will be [ns]; doubles each time a larger team stalls again.
  private var nextRest = Self.shortestRest
  /// The last evaluations with as many members: how long they took, and how long members together waited [ns].
  private var recent = (elapsed: 0.0, stalled: 0.0)
  /// How many of them count [ns]. One lost slice of a core among many evaluations costs less than a rest.
  private static let memory = 20_000_000.0
  private static let shortestRest: UInt64 = 30_000_000
  private static let longestRest: UInt64 = 2_000_000_000

  init(largest: Int) {
    self.largest = largest
    count = largest
  }

  mutating func next() -> Int {
    if count < largest && rest == 0 { change(to: count + 1) }
    return count
  }

  /// Takes note of an evaluation in which members together waited `stalled` of `elapsed` nanoseconds each.
  mutating func learn(stalled: UInt64, of elapsed: UInt64) {
    recent.elapsed += Double(elapsed)
    recent.stalled += Double(stalled)
    if recent.elapsed > Self.memory {
      recent.stalled *= Self.memory / recent.elapsed
      recent.elapsed = Self.memory
    }
    // All but one waited for a share s = stalled / (count − 1) / elapsed. Without that one the evaluations would take
    // (1 − s) · count / (count − 1) of their time, which is less if s > 1 / count.
    let isStalled = recent.stalled * Double(count) > Self.memory * Double(count - 1)
    if isStalled && count > 1 {
      change(to: count - 1)
      rest = nextRest
      nextRest = min(2 * nextRest, Self.longestRest)
      return
    }
    rest -= min(rest, elapsed)
    // Forgotten as slowly as it was learnt.
    if count == largest { nextRest = max(nextRest - min(nextRest, elapsed / 16), Self.shortestRest) }
  }

  private mutating func change(to count: Int) {
    self.count = count
    recent = (0, 0)
  }
}

/// A clock that only moves forward.
private func nanoseconds() -> UInt64 {
  var time = timespec()
  clock_gettime(CLOCK_MONOTONIC, &time)
  return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
}
