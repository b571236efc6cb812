// SPDX-License-Identifier: MIT
import Foundation
import RWKVFormat
import Testing

@testable import RWKVQuantization

/// formats/read_model.py, a reader written from the text of the format: a second opinion on real conversions.
@Suite("read_model.py", .enabled(if: python("import numpy, zstandard"), "needs python3, numpy and zstandard"))
struct ReadModelTests {
  /// The file's values one after another, as F32.
  private static let script = """
    import sys
    sys.path.insert(0, sys.argv[1])
    sys.dont_write_bytecode = True
    import read_model
    model = read_model.Model(sys.argv[2])
    with open(sys.argv[3], "wb") as out:
      for tensor in model.tensors.values():
        out.write(model.read(tensor).astype("<f4").tobytes())
    """

  @Test(arguments: [QuantizationType.int4, .int5, .int8, .fp16], ["v7-oddlora", "v6-hf"])
  func dequantizesEveryTensorAsTheKernelsDo(type: QuantizationType, name: String) throws {
    let folder = TemporaryFolder()
    let file = try convert(golden(name), to: folder.file("m.rwkv"), type)
    #expect(python(Self.script, packageRoot + "/formats", file.path, folder.file("values")))
    let found = readBytes(folder.file("values")).withUnsafeBytes { Array($0.bindMemory(to: UInt32.self)) }
    let expected = try file.tensors.flatMap { try values(file, $0).map(\.bitPattern) }
    #expect(found == expected)
  }
}

/// Runs a script; false if that fails.
private func python(_ script: String, _ arguments: String...) -> Bool {
  let process = Process()
  process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
  process.arguments = ["python3", "-c", script] + arguments
  process.standardError = FileHandle.nullDevice
  do { try process.run() } catch { return false }
  process.waitUntilExit()
  return process.terminationStatus == 0
}
