// SPDX-License-Identifier: MIT
package import ArgumentParser
import Glibc
import Synchronization

private let interrupted = Atomic<Bool>(false)
/// Whether a line is being typed, which Ctrl-C does not interrupt by itself.
private let isReadingLine = Atomic<Bool>(false)

/// Whether Ctrl-C was pressed; long work looks at it and stops in order.
package var isInterrupted: Bool { interrupted.load(ordering: .relaxed) }

/// Makes Ctrl-C set `isInterrupted`; a second one ends the program at once, except while a line is typed. A terminal
/// that is closed counts as Ctrl-C.
package func catchInterrupts() {
  signal(SIGPIPE, SIG_IGN)
  // Only what a signal handler may call.
  signal(SIGINT) { _ in
    let isSecond = interrupted.exchange(true, ordering: .relaxed)
    if isSecond && !isReadingLine.load(ordering: .relaxed) { _exit(130) }
  }
  let before = signal(SIGHUP) { _ in interrupted.store(true, ordering: .relaxed) }
  let isIgnored = unsafeBitCast(before, to: Int.self) == unsafeBitCast(SIG_IGN, to: Int.self)
  if isIgnored { signal(SIGHUP, SIG_IGN) }  // nohup
}

/// Forgets a Ctrl-C that has been answered: the next one is a first one again.
package func forgetInterrupt() { interrupted.store(false, ordering: .relaxed) }

/// Runs `body`, which waits for a line from the user and handles Ctrl-C itself.
func whileReadingLine<Result>(_ body: () -> Result) -> Result {
  isReadingLine.store(true, ordering: .relaxed)
  defer { isReadingLine.store(false, ordering: .relaxed) }
  return body()
}

/// Exit code after Ctrl-C.
package let interruptedExit = ExitCode(130)
