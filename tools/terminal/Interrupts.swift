// SPDX-License-Identifier: MIT
package import ArgumentParser
import Glibc
import Synchronization

private let interrupted = Atomic<Bool>(false)
private let terminated = Atomic<Bool>(false)
/// Whether a line is being typed, which Ctrl-C does not interrupt by itself.
private let isReadingLine = Atomic<Bool>(false)

/// Whether Ctrl-C was pressed; long work looks at it and stops in order.
package var isInterrupted: Bool { interrupted.load(ordering: .relaxed) }

/// Whether the program was asked to end (SIGTERM); never forgotten.
package var isTerminated: Bool { terminated.load(ordering: .relaxed) }

/// Makes Ctrl-C set `isInterrupted`; a second one ends the program at once, except while a line is typed. A terminal
/// that is closed counts as Ctrl-C, and so does SIGTERM, which ends the program in order everywhere.
package func catchInterrupts() {
  signal(SIGPIPE, SIG_IGN)
  // Only what a signal handler may call.
  handle(SIGINT) { _ in
    let isSecond = interrupted.exchange(true, ordering: .relaxed)
    if isSecond && !isReadingLine.load(ordering: .relaxed) { _exit(130) }
  }
  handle(SIGTERM) { _ in
    if terminated.exchange(true, ordering: .relaxed) { _exit(143) }
    interrupted.store(true, ordering: .relaxed)
  }
  var before = sigaction()
  sigaction(SIGHUP, nil, &before)
  let ignored = unsafeBitCast(SIG_IGN, to: Int.self)
  if unsafeBitCast(before.__sigaction_handler.sa_handler, to: Int.self) == ignored { return }  // nohup
  handle(SIGHUP) { _ in interrupted.store(true, ordering: .relaxed) }
}

/// Sets a handler that also ends waiting for input: without SA_RESTART, a read that is interrupted fails with EINTR.
private func handle(_ signal: Int32, _ handler: @escaping @convention(c) (Int32) -> Void) {
  var action = sigaction()
  action.__sigaction_handler.sa_handler = handler
  sigaction(signal, &action, nil)
}

/// Forgets a Ctrl-C that has been answered: the next one is a first one again.
package func forgetInterrupt() { interrupted.store(false, ordering: .relaxed) }

/// Waits until there is something to read on standard input, or its end; false when the time has passed. Nil: Ctrl-C was
/// pressed, now or earlier, and is hereby answered.
///
/// Signals are let in only while the system waits, so that none falls between looking and waiting.
func waitForInputUnlessInterrupted(milliseconds: Int?) -> Bool? {
  var (signals, before) = (sigset_t(), sigset_t())
  sigemptyset(&signals)
  for signal in [SIGINT, SIGHUP, SIGTERM] { sigaddset(&signals, signal) }
  pthread_sigmask(SIG_BLOCK, &signals, &before)
  defer { pthread_sigmask(SIG_SETMASK, &before, nil) }
  while !interrupted.exchange(false, ordering: .relaxed) {
    var input = fd_set()
    input.__fds_bits.0 = 1 << STDIN_FILENO
    var time = timespec()
    if let milliseconds {
      time = timespec(tv_sec: milliseconds / 1000, tv_nsec: milliseconds % 1000 * 1_000_000)
    }
    let found = withUnsafePointer(to: &time) {
      pselect(STDIN_FILENO + 1, &input, nil, nil, milliseconds == nil ? nil : $0, &before)
    }
    if found >= 0 || errno != EINTR { return found != 0 }
  }
  return nil
}

/// Runs `body`, which waits for a line from the user and handles Ctrl-C itself.
func whileReadingLine<Result>(_ body: () -> Result) -> Result {
  isReadingLine.store(true, ordering: .relaxed)
  defer { isReadingLine.store(false, ordering: .relaxed) }
  return body()
}

/// Exit code after Ctrl-C, or SIGTERM.
package var interruptedExit: ExitCode { ExitCode(isTerminated ? 143 : 130) }
