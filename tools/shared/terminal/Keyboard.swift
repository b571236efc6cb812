// SPDX-License-Identifier: MIT
import Glibc

/// What a person types, character by character: what libedit reads from.
///
/// Ctrl-C gives up the line, and the ends of pasted lines are part of it. Terminals put marks around what is pasted
/// when they are asked to (`Keyboard.asksForMarks`).
struct Keyboard {
  /// Written to a terminal before a line is read, and after it.
  static let asksForMarks = "\u{1B}[?2004h"
  static let wantsNoMarks = "\u{1B}[?2004l"
  static let pasteBegins = Array("\u{1B}[200~".utf8)
  static let pasteEnds = Array("\u{1B}[201~".utf8)
  /// Handed out where the terminal has forgotten what it showed; Ctrl-_ is bound to showing it again.
  static let redraw: Int32 = 0x1F

  /// Typed and not yet handed out.
  private var bytes: [UInt8] = []
  private var isPasting = false
  /// What Ctrl-V, which was handed out, is to quote.
  private var quoted: UInt8?
  /// Called before the program stops for Ctrl-Z, and when it goes on or the window has another size.
  var rest: () -> Void = {}
  var wake: () -> Void = {}
  private var hasWoken = false
  /// Whether Ctrl-C ended the line.
  private(set) var wasInterrupted = false

  mutating func beginLine() { wasInterrupted = false }

  /// The next character, a Unicode scalar; −1 at the end of input and after Ctrl-C.
  mutating func next() -> Int32 {
    if let byte = quoted {
      quoted = nil
      return Int32(byte)
    }
    repeat {
      guard !wasInterrupted, !bytes.isEmpty || receive() else {
        defer { hasWoken = false }
        return hasWoken ? Self.redraw : -1
      }
    } while takeMark()
    let length = Self.length(ofCharacterFrom: bytes[0])
    while bytes.count < length { guard receive() else { return -1 } }
    if let scalar = String(validating: bytes[..<length], as: UTF8.self)?.unicodeScalars.first {
      bytes.removeFirst(length)
      return isPasting && scalar.value < 0x20 ? quote(UInt8(scalar.value)) : Int32(scalar.value)
    }
    bytes.removeFirst()
    return 0xFFFD
  }

  /// Waits for input; false when Ctrl-C was pressed instead, since the last one that was answered.
  mutating func waitForInput(milliseconds: Int? = nil) -> Bool {
    switch waitForArrival(milliseconds: milliseconds, rest: rest) {
    case .input: return true
    case .nothing: return false
    case .change:
      wake()
      // In the middle of a character or a mark, the rest of it comes first.
      guard bytes.isEmpty else { return waitForInput(milliseconds: milliseconds) }
      hasWoken = true
      return false
    case .interrupt: break
    }
    // The system has forgotten what was typed before, and so do we.
    wasInterrupted = true
    isPasting = false
    bytes = []
    return false
  }

  private mutating func receive(milliseconds: Int? = nil) -> Bool {
    guard waitForInput(milliseconds: milliseconds) else { return false }
    var buffer = [UInt8](repeating: 0, count: 4096)
    let count = read(STDIN_FILENO, &buffer, buffer.count)
    guard count > 0 else { return false }
    // Ctrl-D that was typed before this line was asked for: the system, which edited lines then, hands it over as 0.
    bytes += buffer[..<count].map { $0 == 0 ? 4 : $0 }
    return true
  }

  /// Whether the next bytes were a mark, which is not handed out.
  private mutating func takeMark() -> Bool {
    let mark = isPasting ? Self.pasteEnds : Self.pasteBegins
    // It may arrive in parts. The escape key alone is none.
    while bytes.count > 1, bytes.count < mark.count, mark.starts(with: bytes) {
      guard receive(milliseconds: 50) else { return wasInterrupted }
    }
    guard bytes.starts(with: mark) else { return false }
    bytes.removeFirst(mark.count)
    isPasting.toggle()
    return true
  }

  /// Hands out a control character as one to be written: after Ctrl-V. Line ends are \n.
  private mutating func quote(_ byte: UInt8) -> Int32 {
    let isReturn = byte == UInt8(ascii: "\r")
    if isReturn && bytes.first == UInt8(ascii: "\n") { bytes.removeFirst() }
    quoted = isReturn ? UInt8(ascii: "\n") : byte
    return 0x16
  }

  /// How many bytes a character of UTF-8 has, by its first.
  private static func length(ofCharacterFrom lead: UInt8) -> Int {
    switch lead {
    case 0xC2...0xDF: 2
    case 0xE0...0xEF: 3
    case 0xF0...0xF4: 4
    default: 1
    }
  }
}
