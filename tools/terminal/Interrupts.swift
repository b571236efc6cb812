// SPDX-License-Identifier: MIT
package import ArgumentParser
import Glibc
import Synchronization

private let interrupted = Atomic<Bool>(false)
/// Whether a line is being typed, which Ctrl-C does not interrupt by itself.
private let isReadingLine = Atomic<Bool>(false)
/// How the terminal was when the program started; written before signals can come.
private nonisolated(unsafe) var terminal: termios?

/// Whether Ctrl-C was pressed; long work looks at it and stops in order.
package var isInterrupted: Bool { interrupted.load(ordering: .relaxed) }

/// Makes Ctrl-C set `isInterrupted`; a second one ends the program at once.
package func catchInterrupts() {
  var settings = termios()
  if tcgetattr(STDIN_FILENO, &settings) == 0 { terminal = settings }
  signal(SIGPIPE, SIG_IGN)
  // Only what a signal handler may call.
  signal(SIGINT) { _ in
    if interrupted.exchange(true, ordering: .relaxed) {
      if var terminal { tcsetattr(STDIN_FILENO, TCSANOW, &terminal) }
      _exit(130)
    }
    guard isReadingLine.load(ordering: .relaxed) else { return }
    let hint: StaticString = "\n(Ctrl-C again, or /exit, leaves)\n"
    _ = Glibc.write(STDERR_FILENO, hint.utf8Start, hint.utf8CodeUnitCount)
  }
}

/// Forgets a Ctrl-C that has been answered: the next one is a first one again.
package func forgetInterrupt() { interrupted.store(false, ordering: .relaxed) }

/// Runs `body`, which waits for a line from the user; Ctrl-C says how to leave.
package func whileReadingLine<Result>(_ body: () -> Result) -> Result {
  isReadingLine.store(true, ordering: .relaxed)
  defer { isReadingLine.store(false, ordering: .relaxed) }
  return body()
}

/// Exit code after Ctrl-C.
package let interruptedExit = ExitCode(130)
