// SPDX-License-Identifier: MIT
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
}
