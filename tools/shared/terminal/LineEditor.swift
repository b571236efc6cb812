// SPDX-License-Identifier: MIT
import Glibc

/// What came of waiting for a line.
package enum Line {
  /// A line without its end.
  case text(String)
  /// Ctrl-C was pressed; what had been typed is forgotten.
  case interrupted
  case end
}

/// Lines typed by a person, with editing and a history of this session where libedit is installed.
///
/// The library is looked for when the program runs, so that neither building nor running needs it. Where input is no
/// terminal, lines are read as they come and nothing is shown.
package struct LineEditor {
  private typealias ReadLine = @convention(c) (UnsafePointer<CChar>) -> UnsafeMutablePointer<CChar>?
  private typealias AddHistory = @convention(c) (UnsafePointer<CChar>) -> Int32
  private typealias GetCharacter = @convention(c) (UnsafeMutablePointer<FILE>?) -> Int32

  package let isInteractive = isatty(STDIN_FILENO) == 1 && isatty(STDERR_FILENO) == 1
  private let editor: (read: ReadLine, remember: AddHistory)?
  /// Whether lines can be edited.
  package var edits: Bool { editor != nil }
  private let marksPastes = !isDumbTerminal
  private let piped = PipedLines()

  package init() {
    editor = isInteractive ? Self.open() : nil
  }

  /// libedit's interface of readline: two functions without variable arguments, the same in all its versions.
  private static func open() -> (ReadLine, AddHistory)? {
    guard let library = dlopen("libedit.so.2", RTLD_NOW) ?? dlopen("libedit.so.0", RTLD_NOW),
      let read = dlsym(library, "readline"), let remember = dlsym(library, "add_history"),
      let source = dlsym(library, "rl_getc_function")
    else { return nil }
    // Characters are those of the user's locale; in "C", where there are only bytes, UTF-8.
    if setlocale(LC_CTYPE, "") == nil || String(cString: nl_langinfo(Int32(CODESET))) != "UTF-8" {
      setlocale(LC_CTYPE, "C.UTF-8")
    }
    source.assumingMemoryBound(to: GetCharacter?.self).pointee = { _ in keyboard.next() }
    // stdout is for the model's text. The library's own handling of signals would fight with ours.
    if let stream = dlsym(library, "rl_outstream") {
      stream.assumingMemoryBound(to: UnsafeMutablePointer<FILE>?.self).pointee = fdopen(STDERR_FILENO, "w")
    }
    if let catches = dlsym(library, "rl_catch_signals") {
      catches.assumingMemoryBound(to: Int32.self).pointee = 0
    }
    prepareForStops(library)
    return (unsafeBitCast(read, to: ReadLine.self), unsafeBitCast(remember, to: AddHistory.self))
  }

  /// Ctrl-Z gives the terminal back to the shell, and what was typed is shown again when the program goes on.
  private static func prepareForStops(_ library: UnsafeMutableRawPointer) {
    typealias Command = @convention(c) () -> Void
    typealias Prepare = @convention(c) (Int32) -> Void
    typealias Bind = @convention(c) (UnsafePointer<CChar>) -> Int32
    guard let prepare = dlsym(library, "rl_prep_terminal"),
      let restore = dlsym(library, "rl_deprep_terminal"),
      let resize = dlsym(library, "rl_resize_terminal"), let bind = dlsym(library, "rl_parse_and_bind"),
      let initialize = dlsym(library, "rl_initialize")
    else { return }
    let raw = unsafeBitCast(prepare, to: Prepare.self)
    let (cooked, sized) = (unsafeBitCast(restore, to: Command.self), unsafeBitCast(resize, to: Command.self))
    _ = unsafeBitCast(initialize, to: (@convention(c) () -> Int32).self)()
    _ = "bind ^_ ed-redisplay".withCString(unsafeBitCast(bind, to: Bind.self))
    keyboard.rest = {
      cooked()
      if !isDumbTerminal { write(Array(Keyboard.wantsNoMarks.utf8), to: STDERR_FILENO) }
    }
    keyboard.wake = {
      cooked()
      raw(1)
      sized()
      if !isDumbTerminal { write(Array(Keyboard.asksForMarks.utf8), to: STDERR_FILENO) }
    }
  }

  package func readLine(_ prompt: String) -> Line {
    guard isInteractive else { return piped.next() }
    // The system's own editing knows nothing of the window, and what was typed stays where it stands.
    return whileReadingLine(followsSize: edits) {
      keyboard.beginLine()
      guard let editor else { return readPlainLine(prompt) }
      if marksPastes { show(Keyboard.asksForMarks) }
      defer { if marksPastes { show(Keyboard.wantsNoMarks) } }
      guard let line = editor.read(prompt) else { return keyboard.wasInterrupted ? .interrupted : .end }
      defer { free(line) }
      if line.pointee != 0 { _ = editor.remember(line) }
      return .text(String(cString: line))
    }
  }

  /// Of what the system hands over when it does the editing, without the end [bytes]; the rest is lost.
  private static let longestLine = 4095

  /// Without the library: the system's own editing. What is pasted is one line here, too, between the terminal's marks.
  private func readPlainLine(_ prompt: String) -> Line {
    var echo = termios()
    let before = tcgetattr(STDIN_FILENO, &echo) == 0 ? echo : nil
    if marksPastes, before != nil {
      // The marks come back to the terminal as they are, which shows nothing of them.
      echo.c_lflag &= ~tcflag_t(ECHOCTL)
      tcsetattr(STDIN_FILENO, TCSANOW, &echo)
      show(Keyboard.asksForMarks)
    }
    defer {
      if marksPastes, var before {
        show(Keyboard.wantsNoMarks)
        tcsetattr(STDIN_FILENO, TCSANOW, &before)
      }
    }
    let (begin, end) = (
      String(decoding: Keyboard.pasteBegins, as: UTF8.self),
      String(decoding: Keyboard.pasteEnds, as: UTF8.self)
    )
    var text = ""
    show(prompt)
    while true {
      while !keyboard.waitForInput() {
        if keyboard.wasInterrupted { return .interrupted }
        show("\n" + prompt)  // the program was stopped
      }
      guard let line = Swift.readLine() else { return text.isEmpty ? .end : .text(text) }
      let isCut = line.utf8.count >= Self.longestLine
      if isCut {
        note(
          "the terminal cut a line after \(Self.longestLine) bytes; longer ones take libedit, or a file (-f)")
      }
      text += line
      let isPasting = text.ranges(of: begin).count > text.ranges(of: end).count
      // The mark at the end may be in what was cut; else the rest of what is pasted is there.
      guard isPasting, !isCut || keyboard.waitForInput(milliseconds: 100) else { break }
      text += "\n"
    }
    return .text(text.replacing(begin, with: "").replacing(end, with: ""))
  }

  private func show(_ text: String) { write(Array(text.utf8), to: STDERR_FILENO) }
}

/// libedit asks for characters without saying for whom. Only the thread that reads lines touches it.
private nonisolated(unsafe) var keyboard = Keyboard()

/// Lines of standard input where it is no terminal. Swift's own `readLine` would wait on when a signal arrives.
private final class PipedLines {
  /// What has been read and not handed out.
  private var rest: [UInt8] = []
  private var hasEnded = false

  func next() -> Line {
    var seen = 0
    while true {
      if let end = rest[seen...].firstIndex(of: UInt8(ascii: "\n")) {
        let line = rest[..<end]
        rest.removeSubrange(...end)
        return .text(
          String(decoding: line.last == UInt8(ascii: "\r") ? line.dropLast() : line, as: UTF8.self))
      }
      seen = rest.count
      if hasEnded {
        defer { rest = [] }
        return rest.isEmpty ? .end : .text(String(decoding: rest, as: UTF8.self))
      }
      var buffer = [UInt8](repeating: 0, count: 1 << 16)
      let count = read(STDIN_FILENO, &buffer, buffer.count)
      if isInterrupted { return .interrupted }
      if count < 0 && errno == EINTR { continue }
      hasEnded = count <= 0
      if count > 0 { rest += buffer[..<count] }
    }
  }
}
