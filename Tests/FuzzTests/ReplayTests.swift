// SPDX-License-Identifier: MIT
import Foundation
import FuzzTargets
import Testing

/// Inputs that fuzzing found, run once more: those that crashed, and a small corpus that reaches what it reached.
@Suite("Fuzzing corpus", .serialized)
struct ReplayTests {
  @Test(arguments: FuzzTarget.allCases)
  func everyInputIsReadOrRefused(_ target: FuzzTarget) throws {
    let folder = URL(filePath: #filePath).deletingLastPathComponent()
      .appending(path: "../Fixtures/fuzz/\(target.rawValue)").standardized
    let names = try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()
    #expect(!names.isEmpty)
    for name in names { target.run(Array(try Data(contentsOf: folder.appending(path: name)))) }
  }
}
