// SPDX-License-Identifier: MIT
import Glibc

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
      headers[line[..<colon].lowercased()] = trimmed(line[line.index(after: colon)...])
    }
  }

  /// Takes bytes of the body; false where nothing more is wanted.
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

  /// Whether the body is the file's bytes, not a compressed form of them.
  var isPlain: Bool { ["", "identity"].contains(headers["content-encoding", default: ""].lowercased()) }

  /// What `Content-Range: bytes 0-99/1234` says: which bytes these are, and how many the file has. Where the server
  /// says `*` for the latter, it is `known`. Old servers' "bytes=0-99/1234" is understood, too.
  func contentRange(known: Int?) -> (bytes: ClosedRange<Int>, size: Int)? {
    guard let text = headers["content-range"]?.lowercased(), text.hasPrefix("bytes") else { return nil }
    let parts = text.dropFirst(5).drop { "=: ".contains($0) }.split(
      separator: "/", omittingEmptySubsequences: false
    ).map { trimmed($0) }
    guard parts.count == 2, let size = parts[1] == "*" ? known : decimalNumber(parts[1]) else { return nil }
    let ends = parts[0].split(separator: "-", omittingEmptySubsequences: false).map {
      decimalNumber(trimmed($0))
    }
    guard ends.count == 2, let first = ends[0], let last = ends[1], first <= last, last < size else {
      return nil
    }
    return (first...last, size)
  }

  /// Seconds that the server wants to be left alone for: of `Retry-After`, as a number or a date, or of a limit that is
  /// used up, as the hub tells it: `RateLimit: "api";r=0;t=55`.
  var retryAfter: Int? {
    if let after = headers["retry-after"] {
      if let seconds = decimalNumber(after) { return seconds }
      let now = headers["date"].flatMap(Self.date) ?? time(nil)
      return Self.date(after).map { max(0, $0 - now) }
    }
    guard status == 429 else { return nil }
    let limits = headers["ratelimit", default: ""].split(separator: ",").map { limit in
      limit.split(separator: ";").map { trimmed($0) }
    }
    return limits.filter { $0.contains("r=0") }.joined().compactMap {
      $0.hasPrefix("t=") ? decimalNumber($0.dropFirst(2)) : nil
    }.max()
  }

  /// "Sun, 06 Nov 1994 08:49:37 GMT" in seconds since 1970.
  private static func date(_ text: String) -> Int? {
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    let words = text.split { " :".contains($0) }
    guard words.count == 8, words[7] == "GMT", let month = months.firstIndex(of: String(words[2])) else {
      return nil
    }
    let numbers = [1, 3, 4, 5, 6].compactMap { Int32(words[$0]) }
    guard numbers.count == 5, numbers.allSatisfy({ (0...9999).contains($0) }) else { return nil }
    var parts = tm()
    (parts.tm_mday, parts.tm_mon, parts.tm_year) = (numbers[0], Int32(month), numbers[1] - 1900)
    (parts.tm_hour, parts.tm_min, parts.tm_sec) = (numbers[2], numbers[3], numbers[4])
    return timegm(&parts)
  }
}

/// Which version of a file an answer is of, as far as the server says it.
struct Version {
  /// ETag; that it is called weak is left out, since what compresses on the way calls it so.
  private(set) var tag: String?
  private var modified: String?

  init() {}

  init(of answer: Answer) {
    tag = answer.headers["etag"].map { String($0.hasPrefix("W/") ? $0.dropFirst(2) : $0[...]) }
    modified = answer.headers["last-modified"]
  }

  /// Takes in what another part of the file says; false where that is of another version.
  mutating func isSame(_ other: Version) -> Bool {
    if let tag, let theirs = other.tag {
      guard tag == theirs else { return false }
    } else if let modified, let theirs = other.modified, modified != theirs {
      return false
    }
    (tag, modified) = (tag ?? other.tag, modified ?? other.modified)
    return true
  }
}

private func trimmed(_ text: some StringProtocol) -> String {
  String(text.drop { $0.isWhitespace }.reversed().drop { $0.isWhitespace }.reversed())
}
