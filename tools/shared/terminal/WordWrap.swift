// SPDX-License-Identifier: MIT
import Glibc

/// Text on its way to a terminal, piece by piece: a word that reaches the window's edge begins a new line.
///
/// Nothing is held back: the part of a word that has been written is wiped out and written again. Where output is no
/// terminal, or one that cannot do that, the text stays as it is.
package struct WordWrap {
  /// The width of the window; nil: the text stays as it is.
  private let columns: () -> Int?
  /// Columns of this line, and of its last word.
  private var column = 0
  private var word: [UInt8] = []
  private var wordColumns = 0

  /// Wraps for what is written here, to a window that may change its size.
  package init(_ descriptor: Int32 = STDOUT_FILENO) {
    guard isatty(descriptor) == 1, !isDumbTerminal else {
      columns = { nil }
      return
    }
    columns = {
      var size = winsize()
      guard ioctl(descriptor, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 1 else { return nil }
      return Int(size.ws_col) - 1  // the cursor stays in the window
    }
  }

  /// Wraps for a window of this width.
  package init(columns: Int) { self.columns = { columns } }

  /// What to write for a piece of whole characters.
  package mutating func push(_ text: [UInt8]) -> [UInt8] {
    guard let columns = columns() else { return text }
    var result: [UInt8] = []
    for scalar in String(decoding: text, as: UTF8.self).unicodeScalars {
      let bytes = Array(String(scalar).utf8)
      switch scalar {
      case "\n", "\r": (column, word, wordColumns) = (0, [], 0)
      case " ", "\t":
        column = scalar == " " ? column + 1 : (column / 8 + 1) * 8
        (word, wordColumns) = ([], 0)
        // A space at the edge is the new line.
        if column > columns {
          result.append(UInt8(ascii: "\n"))
          column = 0
          continue
        }
      default:
        let width = Self.width(scalar)
        if column + width > columns {
          // A word that fills the window by itself is cut, as is text without spaces.
          let moves = wordColumns < column && wordColumns + width <= columns && width < 2
          if moves {
            if result.count >= word.count {
              result.removeLast(word.count)  // all of it is new
            } else {
              result += Array("\u{1B}[\(wordColumns)D\u{1B}[K".utf8)
            }
            result += [UInt8(ascii: "\n")] + word
            column = wordColumns
          } else {
            result.append(UInt8(ascii: "\n"))
            (column, word, wordColumns) = (0, [], 0)
          }
        }
        column += width
        word += bytes
        wordColumns += width
      }
      result += bytes
    }
    return result
  }

  /// Columns that a text takes in a window.
  static func width(_ text: String) -> Int { text.unicodeScalars.reduce(0) { $0 + width($1) } }

  /// Columns of a character: 2 for those of East Asia and pictures, 0 for marks that join the one before.
  private static func width(_ scalar: Unicode.Scalar) -> Int {
    switch scalar.properties.generalCategory {
    case .nonspacingMark, .enclosingMark, .format, .control: return 0
    default: break
    }
    switch scalar.value {
    case 0x1100...0x115F, 0x2E80...0xA4CF, 0xAC00...0xD7A3, 0xF900...0xFAFF, 0xFE30...0xFE6F, 0xFF00...0xFF60,
      0xFFE0...0xFFE6, 0x1F300...0x1F64F, 0x1F900...0x1F9FF, 0x20000...0x3FFFD:
      return 2
    default: return 1
    }
  }
}
