// SPDX-License-Identifier: MIT
import Dispatch
import Glibc

/// How many of `wanted` threads, this one included, the system lets this process have now.
///
/// Dispatch waits without end for a thread that it cannot get. So as many are started for a moment, each with the room
/// of a stack and of the memory that the allocator reserves for it: limits of address space, data or processes show
/// here. Costs some 30 µs for each.
package func availableThreads(_ wanted: Int) -> Int {
  guard wanted > 1 else { return 1 }
  var attributes = pthread_attr_t()
  pthread_attr_init(&attributes)
  defer { pthread_attr_destroy(&attributes) }
  var stack = 0
  pthread_attr_getstacksize(&attributes, &stack)
  pthread_attr_setstacksize(&attributes, stack + arenaReserve)

  let gate = UnsafeMutablePointer<sem_t>.allocate(capacity: 1)
  sem_init(gate, 0, 0)
  defer {
    sem_destroy(gate)
    gate.deallocate()
  }
  var threads: [pthread_t] = []
  while threads.count < wanted - 1 {
    var thread = pthread_t()
    let code = pthread_create(
      &thread, &attributes,
      { gate in
        guard let gate = gate?.assumingMemoryBound(to: sem_t.self) else { return nil }
        while sem_wait(gate) != 0 {}
        return nil
      }, gate)
    guard code == 0 else { break }
    threads.append(thread)
  }
  for _ in threads { sem_post(gate) }
  for thread in threads { pthread_join(thread, nil) }
  return threads.count + 1
}

/// Address space that glibc reserves for the small allocations of a new thread.
private let arenaReserve = 64 << 20

/// Calls `body` with each of 0..<count at the same time, with 0 on this thread; returns when all have returned.
package func onThreads(_ count: Int, _ body: (Int) -> Void) {
  // All calls have returned, and their queues have let the closure go, before this function does.
  withoutActuallyEscaping(body) { body in
    nonisolated(unsafe) let body = body
    let group = DispatchGroup()
    for index in 1..<max(1, count) { ownQueue().async(group: group) { body(index) } }
    body(0)
    group.wait()
  }
}

/// Starts `body` on a thread of its own, one of Dispatch's, also where /proc is not mounted.
public func apart(_ body: @escaping @Sendable () -> Void) { ownQueue().async(execute: body) }

/// A queue that is not shared, which gets a thread at once.
///
/// Dispatch's global queues, and `concurrentPerform` with them, look their threads up in /proc while they are busy, and
/// end the process where it is not mounted.
private func ownQueue() -> DispatchQueue { DispatchQueue(label: "rwkv.thread") }
