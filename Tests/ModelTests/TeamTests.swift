// SPDX-License-Identifier: MIT
import Glibc
import Testing

@testable import RWKV

/// Threads that share the tasks of one phase after another.
@Suite("Team")
struct TeamTests {
  /// Phases are counted in 24 bits; no model is evaluated for so long in a test, so the count starts near its end.
  @Test(arguments: [1, 2, 3], [0, 0xff_fff0, 0xff_fffe, 0xff_ffff] as [UInt64])
  func everyTaskRunsOncePerPhaseHoweverManyThereWere(size: Int, firstPhase: UInt64) {
    let team = Team(size: size, firstPhase: firstPhase)
    let (evaluations, phases, tasks) = (10, 6, 7)
    let counts = UnsafeMutablePointer<Int>.allocate(capacity: tasks)
    let early = UnsafeMutablePointer<Int>.allocate(capacity: tasks)
    defer {
      counts.deallocate()
      early.deallocate()
    }
    counts.initialize(repeating: 0, count: tasks)
    early.initialize(repeating: 0, count: tasks)
    for evaluation in 0..<evaluations {
      team.run { member in
        for phase in 0..<phases {
          member.parallel(tasks) { task in
            // The phase before has ended: its tasks have all been done.
            let due = evaluation * phases + phase
            if (0..<tasks).contains(where: { counts[$0] < due }) { early[task] += 1 }
            counts[task] += 1
          }
        }
      }
      #expect((0..<tasks).allSatisfy { counts[$0] == (evaluation + 1) * phases })
    }
    #expect((0..<tasks).allSatisfy { early[$0] == 0 })
  }

  /// Helpers are found where they wait, called back when they have gone, and neither miss nor repeat a task.
  @Test(arguments: [1, 2, 3, 16], [0, 200, 2000] as [UInt32])
  func everyTaskBetweenEvaluationsRunsOnce(size: Int, microseconds: UInt32) {
    let team = Team(size: size)
    let tasks = 40
    let counts = UnsafeMutablePointer<Int>.allocate(capacity: tasks)
    counts.initialize(repeating: 0, count: tasks)
    defer { counts.deallocate() }
    for _ in 0..<20 {
      team.run { member in member.parallel(tasks) { counts[$0] += 1 } }
      team.each(tasks) { counts[$0] += 1 }
      usleep(microseconds)
      team.each(1) { counts[$0] += 1 }
    }
    #expect((0..<tasks).allSatisfy { counts[$0] == ($0 == 0 ? 60 : 40) })
  }

  /// Each time that a larger team stalls again, the next try waits twice as long, up to two seconds; evaluations of the
  /// whole team, and only those, make the waits shorter again.
  @Test func aStallingTeamIsTriedAgainLessAndLessOften() {
    let millisecond: UInt64 = 1_000_000
    var crew = Crew(largest: 2)
    /// Milliseconds of evaluations until the team is whole again.
    func rest() -> UInt64 {
      var passed: UInt64 = 0
      while crew.next() == 1 {
        crew.learn(stalled: 0, of: millisecond)
        passed += 1
      }
      return passed
    }
    func stall() { crew.learn(stalled: 90 * millisecond, of: 100 * millisecond) }
    #expect(crew.next() == 2)
    var rests: [UInt64] = []
    for _ in 0..<9 {
      stall()
      rests.append(rest())
    }
    #expect(rests == [30, 60, 120, 240, 480, 960, 1920, 2000, 2000])
    // A sixteenth of the time that went well is forgotten.
    for _ in 0..<16 { crew.learn(stalled: 0, of: 1000 * millisecond) }
    stall()
    #expect(rest() == 1000)
    // Waiting for as long as the others work is no stall; with one member there is nobody to wait for.
    crew.learn(stalled: 50 * millisecond, of: 100 * millisecond)
    #expect(crew.next() == 2)
    var alone = Crew(largest: 1)
    alone.learn(stalled: 90 * millisecond, of: 100 * millisecond)
    #expect(alone.next() == 1)
  }

  /// A slice of a core is lost now and then; a core that another process keeps busy is lost again and again.
  @Test func aSingleStallAmongManyEvaluationsSendsNobodyAway() {
    let millisecond: UInt64 = 1_000_000
    var crew = Crew(largest: 2)
    for _ in 0..<5 {
      crew.learn(stalled: 4 * millisecond, of: 5 * millisecond)
      for _ in 0..<10 { crew.learn(stalled: 0, of: 2 * millisecond) }
    }
    #expect(crew.next() == 2)
    for _ in 0..<5 { crew.learn(stalled: 4 * millisecond, of: 5 * millisecond) }
    #expect(crew.next() == 1)
  }

  /// One task that takes longer than the others is no sign of a core that others keep busy.
  @Test func whatRunsBetweenEvaluationsSendsNobodyAway() {
    let team = Team(size: 2)
    team.each(2) { if $0 == 0 { usleep(20_000) } }
    team.run { member in #expect(member.teamSize == 2) }
  }
}
