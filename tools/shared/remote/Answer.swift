// SPDX-License-Identifier: MIT

/// One answer of a server, and how far its body came. What it says is hostile until it is checked.
package final class Answer {
  package private(set) var status = 0
  /// Names in small letters.
  package private(set) var headers: [String: String] = [:]
  package private(set) var body: [UInt8] = []
  /// Whether there was more than was wanted, which is not here.
  package private(set) var isTooLong = false
  private let limit: Int

  private static let mostHeaders = 200
  private static let longestHeader = 16 << 10
  private static let usualBody = 1 << 20

  /// - Parameter limit: of the body [bytes].
  package init(limit: Int) { self.limit = limit }

  /// A line before the body: that with the status, a header, or the empty one.
  package func takeHeader(_ bytes: UnsafeRawBufferPointer) {
    guard bytes.count <= Self.longestHeader else { return }
    let line = String(decoding: bytes, as: UTF8.self)
    if line.hasPrefix("HTTP/") {
      // Of the last answer only: before it there may be a proxy's, or "100 Continue".
      let word = line.split(whereSeparator: \.isWhitespace).dropFirst().first ?? ""
      (status, headers, body) = (word.utf8.count == 3 ? decimalNumber(word) ?? 0 : 0, [:], [])
    } else if let colon = line.firstIndex(of: ":"), headers.count < Self.mostHeaders {
      let value = line[line.index(after: colon)...].drop { $0.isWhitespace }
      headers[line[..<colon].lowercased()] = String(value.reversed().drop { $0.isWhitespace }.reversed())
    }
  }

  /// False where nothing more is wanted.
  package func takeBody(_ bytes: UnsafeRawBufferPointer) -> Bool {
    guard bytes.count <= limit - body.count else {
      isTooLong = true
      return false
    }
    // Blocks of a file come by the dozen: none grows in steps.
    if body.isEmpty { body.reserveCapacity(min(limit, Self.usualBody)) }
    body += bytes
    return true
  }

  /// Of `Content-Range: bytes 0-99/1234`: which bytes these are, and how many the file has.
  var contentRange: (bytes: ClosedRange<Int>, size: Int)? {
    guard let text = headers["content-range"], text.lowercased().hasPrefix("bytes ") else { return nil }
    let parts = text.dropFirst(6).split(separator: "/", omittingEmptySubsequences: false)
    guard parts.count == 2, let size = decimalNumber(parts[1]) else { return nil }
    let ends = parts[0].split(separator: "-", omittingEmptySubsequences: false).map { decimalNumber($0) }
    guard ends.count == 2, let first = ends[0], let last = ends[1], first <= last, last < size else {
      return nil
    }
    return (first...last, size)
  }

  /// Seconds that the server wants to be left alone for.
  var retryAfter: Int? { headers["retry-after"].flatMap { decimalNumber($0) } }
}
