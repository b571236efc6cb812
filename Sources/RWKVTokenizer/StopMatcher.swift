// SPDX-License-Identifier: MIT
/// Ends a stream of bytes at the first of several stop strings, which may lie across token borders.
///
/// Bytes that may be the beginning of a stop string are held back, so no part of one is ever handed out. What
/// is handed out does not depend on how the input was cut. Put it before `UTF8Stream`.
public struct StopMatcher: Sendable {
  private let stops: [[UInt8]]
  private var held: [UInt8] = []
  /// How many bytes are held back because they may be the beginning of a stop string.
  public var heldCount: Int { held.count }
  /// True once a stop string has been seen; all further input is ignored.
  public private(set) var isStopped = false

  /// Makes a matcher. Empty stop strings are ignored.
  public init(_ stops: [[UInt8]]) {
    self.stops = stops.filter { !$0.isEmpty }
  }

  /// Makes a matcher of texts. Empty ones are ignored.
  public init(_ stops: [String]) {
    self.init(stops.map { Array($0.utf8) })
  }

  /// Adds bytes and returns those that cannot belong to a stop string.
  ///
  /// The stop string that ends first counts; of several that end at the same byte, the longest.
  public mutating func push(_ bytes: some Sequence<UInt8>) -> [UInt8] {
    var output: [UInt8] = []
    for byte in bytes {
      if isStopped { break }
      held.append(byte)
      if let stop = stops.filter({ held.ends(with: $0) }).map(\.count).max() {
        output += held.dropLast(stop)
        held.removeAll()
        isStopped = true
      } else {
        let kept = stops.map { held.longestSuffix(thatBegins: $0) }.max() ?? 0
        output += held.dropLast(kept)
        held.removeFirst(held.count - kept)
      }
    }
    return output
  }

  /// Ends the stream: what was held back is ordinary text after all.
  public mutating func flush() -> [UInt8] {
    defer { held.removeAll() }
    return held
  }
}

extension [UInt8] {
  fileprivate func ends(with suffix: [UInt8]) -> Bool {
    count >= suffix.count && self.suffix(suffix.count).elementsEqual(suffix)
  }

  /// The length of the longest suffix that is a proper prefix of `stop`.
  fileprivate func longestSuffix(thatBegins stop: [UInt8]) -> Int {
    (0...Swift.min(count, stop.count - 1)).last { suffix($0).elementsEqual(stop.prefix($0)) } ?? 0
  }
}
