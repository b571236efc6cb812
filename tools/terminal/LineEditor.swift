// SPDX-License-Identifier: MIT
import Glibc

/// Lines typed by a person, with editing and a history of this session where libedit is installed.
///
/// The library is looked for when the program runs, so that neither building nor running needs it. Where input is no
/// terminal, lines are read as they come and nothing is shown.
package struct LineEditor {
  private typealias ReadLine = @convention(c) (UnsafePointer<CChar>) -> UnsafeMutablePointer<CChar>?
  private typealias AddHistory = @convention(c) (UnsafePointer<CChar>) -> Int32

  package let isInteractive = isatty(STDIN_FILENO) == 1 && isatty(STDERR_FILENO) == 1
  private let editor: (read: ReadLine, remember: AddHistory)?

  package init() {
    editor = isInteractive ? Self.open() : nil
  }

  /// libedit's interface of readline: two functions without variable arguments, the same in all its versions.
  private static func open() -> (ReadLine, AddHistory)? {
    guard let library = dlopen("libedit.so.2", RTLD_NOW) ?? dlopen("libedit.so.0", RTLD_NOW),
      let read = dlsym(library, "readline"), let remember = dlsym(library, "add_history")
    else { return nil }
    // Characters are those of the user's locale; in "C", where there are only bytes, UTF-8.
    if setlocale(LC_CTYPE, "") == nil || String(cString: nl_langinfo(Int32(CODESET))) != "UTF-8" {
      setlocale(LC_CTYPE, "C.UTF-8")
    }
    // stdout is for the model's text. The library's own handling of signals would fight with ours.
    if let stream = dlsym(library, "rl_outstream") {
      stream.assumingMemoryBound(to: UnsafeMutablePointer<FILE>?.self).pointee = fdopen(STDERR_FILENO, "w")
    }
    if let catches = dlsym(library, "rl_catch_signals") {
      catches.assumingMemoryBound(to: Int32.self).pointee = 0
    }
    return (unsafeBitCast(read, to: ReadLine.self), unsafeBitCast(remember, to: AddHistory.self))
  }

  /// The next line without its end; nil at the end of input.
  package func readLine(_ prompt: String) -> String? {
    whileReadingLine {
      guard let editor else {
        if isInteractive { write(Array(prompt.utf8), to: STDERR_FILENO) }
        return Swift.readLine()
      }
      guard let line = editor.read(prompt) else { return nil }
      defer { free(line) }
      if line.pointee != 0 { _ = editor.remember(line) }
      return String(cString: line)
    }
  }
}
