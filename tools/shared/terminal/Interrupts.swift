// SPDX-License-Identifier: MIT
package import ArgumentParser
import Glibc
import Synchronization

private let interrupted = Atomic<Bool>(false)
private let terminated = Atomic<Bool>(false)
/// Ctrl-Z was pressed while a line was typed.
private let isStopping = Atomic<Bool>(false)
/// The program goes on after it was stopped, or the window has another size.
private let hasChanged = Atomic<Bool>(false)
/// Whether Ctrl-C may end the program at once.
private let endsAtOnce = Atomic<Bool>(false)
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
    if isSecond && !isReadingLine.load(ordering: .relaxed) || endsAtOnce.load(ordering: .relaxed) {
      _exit(130)
    }
  }
  handle(SIGTERM) { _ in
    if terminated.exchange(true, ordering: .relaxed) || endsAtOnce.load(ordering: .relaxed) { _exit(143) }
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

/// Runs `body`, which may take long, looks at nothing meanwhile and leaves nothing behind: Ctrl-C ends the program.
package func endingAtOnce<Result, Failure: Error>(_ body: () throws(Failure) -> Result) throws(Failure)
  -> Result
{
  endsAtOnce.store(true, ordering: .relaxed)
  defer { endsAtOnce.store(false, ordering: .relaxed) }
  return try body()
}

/// Forgets a Ctrl-C that has been answered: the next one is a first one again.
package func forgetInterrupt() { interrupted.store(false, ordering: .relaxed) }

/// What ended a wait for something to read.
enum Arrival {
  /// Something to read on standard input, or its end.
  case input
  /// The time has passed.
  case nothing
  /// Ctrl-C was pressed, now or earlier, and is hereby answered.
  case interrupt
  /// The terminal has forgotten what it showed, or has another size.
  case change
}

/// Waits until there is something to read on standard input.
///
/// Signals are let in only while the system waits, so that none falls between looking and waiting.
/// - Parameter rest: called before the program stops for Ctrl-Z.
func waitForArrival(milliseconds: Int?, rest: () -> Void) -> Arrival {
  var (signals, before) = (sigset_t(), sigset_t())
  sigemptyset(&signals)
  for signal in [SIGINT, SIGHUP, SIGTERM, SIGTSTP, SIGCONT, SIGWINCH] { sigaddset(&signals, signal) }
  pthread_sigmask(SIG_BLOCK, &signals, &before)
  defer { pthread_sigmask(SIG_SETMASK, &before, nil) }
  while !interrupted.exchange(false, ordering: .relaxed) {
    if isStopping.exchange(false, ordering: .relaxed) {
      rest()
      stop()
    }
    if hasChanged.exchange(false, ordering: .relaxed) { return .change }
    var input = fd_set()
    input.__fds_bits.0 = 1 << STDIN_FILENO
    var time = timespec()
    if let milliseconds {
      time = timespec(tv_sec: milliseconds / 1000, tv_nsec: milliseconds % 1000 * 1_000_000)
    }
    let found = withUnsafePointer(to: &time) {
      pselect(STDIN_FILENO + 1, &input, nil, nil, milliseconds == nil ? nil : $0, &before)
    }
    if found >= 0 || errno != EINTR { return found == 0 ? .nothing : .input }
  }
  return .interrupt
}

/// Stops this program as Ctrl-Z stops any.
private func stop() {
  signal(SIGTSTP, SIG_DFL)
  var signals = sigset_t()
  sigemptyset(&signals)
  sigaddset(&signals, SIGTSTP)
  raise(SIGTSTP)
  pthread_sigmask(SIG_UNBLOCK, &signals, nil)  // here it stops
  pthread_sigmask(SIG_BLOCK, &signals, nil)
  signal(SIGTSTP) { _ in isStopping.store(true, ordering: .relaxed) }
}

/// Runs `body`, which waits for a line from the user and handles Ctrl-C, Ctrl-Z and, where `followsSize`, changes of
/// the window itself.
func whileReadingLine<Result>(followsSize: Bool, _ body: () -> Result) -> Result {
  isReadingLine.store(true, ordering: .relaxed)
  signal(SIGTSTP) { _ in isStopping.store(true, ordering: .relaxed) }
  for number in followsSize ? [SIGCONT, SIGWINCH] : [SIGCONT] {
    signal(number) { _ in hasChanged.store(true, ordering: .relaxed) }
  }
  defer {
    for number in [SIGTSTP, SIGCONT, SIGWINCH] { signal(number, SIG_DFL) }
    isReadingLine.store(false, ordering: .relaxed)
  }
  return body()
}

/// Exit code after Ctrl-C, or SIGTERM.
package var interruptedExit: ExitCode { ExitCode(isTerminated ? 143 : 130) }
