// SPDX-License-Identifier: MIT

/// Rows as lines, in columns two spaces apart: the first `leftAligned` to the left, numbers to the right.
package func table(_ rows: [[String]], leftAligned: Int = 1) -> [String] {
  let widths = (0..<(rows.first?.count ?? 0)).map { column in
    rows.map { WordWrap.width($0[column]) }.max() ?? 0
  }
  return rows.map { row in
    let cells = row.enumerated().map { (column, text) in
      let space = String(repeating: " ", count: widths[column] - WordWrap.width(text))
      if column >= leftAligned { return space + text }
      return column == row.count - 1 ? text : text + space
    }
    return cells.joined(separator: "  ")
  }
}
