// SPDX-License-Identifier: MIT
import Foundation
import RWKVTokenizer

/// Optional data beside the repository: vocabularies, and cases made by the reference tokenizers.
enum TokenizerData {
  static let folder = URL(filePath: #filePath).appending(path: "../../../../shared/tokenizers").standardized
  static let isPresent = FileManager.default.fileExists(atPath: folder.appending(path: "README.md").path)

  static func bytes(_ name: String) throws -> [UInt8] {
    [UInt8](try Data(contentsOf: folder.appending(path: name)))
  }

  /// A text, or bytes that are not valid UTF-8, and its ids.
  struct Case: Decodable {
    let text: String?
    let bytes_b64: String?
    let ids: [Int]
    let decoded: String?

    var bytes: [UInt8] {
      if let text { return Array(text.utf8) }
      return [UInt8](bytes_b64.flatMap { Data(base64Encoded: $0) } ?? Data())
    }
  }

  static func cases(_ name: String) throws -> [Case] {
    try JSONDecoder().decode([Case].self, from: Data(bytes(name)))
  }
}

/// A repeatable source of random bytes.
struct TestGenerator: RandomNumberGenerator {
  var state: UInt64

  mutating func next() -> UInt64 {
    state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
    return (state ^ state >> 29) &* 0x9E37_79B9_7F4A_7C15
  }
}

extension [UInt8] {
  /// The same bytes in pieces of random length.
  func randomPieces(_ generator: inout TestGenerator, longest: Int = 5) -> [ArraySlice<UInt8>] {
    var pieces: [ArraySlice<UInt8>] = []
    var rest = self[...]
    while !rest.isEmpty {
      let piece = rest.prefix(Int.random(in: 1...longest, using: &generator))
      pieces.append(piece)
      rest = rest.dropFirst(piece.count)
    }
    return pieces
  }
}
