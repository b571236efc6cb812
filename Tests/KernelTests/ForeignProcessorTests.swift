// SPDX-License-Identifier: MIT
import Foundation
import Testing

/// NEON code, compiled for ARM and run on emulated processors: every kernel gives the bits that it gives here.
@Suite("On ARM processors", .serialized)
struct ForeignProcessorTests {
  static let root = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../..").standardized
    .path

  /// Where the compiler, the C library or the emulator are missing, this suite says so and is skipped.
  static let isPossible =
    (try? shell("for tool in clang aarch64-linux-gnu-gcc qemu-aarch64; do command -v $tool || exit 1; done"))?
    .status == 0

  static func shell(_ command: String) throws -> (status: Int32, output: String) {
    let process = Process()
    process.executableURL = URL(filePath: "/bin/sh")
    process.arguments = ["-c", command]
    let pipe = Pipe()
    process.standardOutput = pipe
    try process.run()
    let data = pipe.fileHandleForReading.readDataToEndOfFile()
    process.waitUntilExit()
    return (process.terminationStatus, String(decoding: data, as: UTF8.self))
  }

  /// What Programs/digests.c prints on one processor for one table.
  struct Report {
    var tables: [String] = []
    var best = ""
    /// By case.
    var digests: [String: String] = [:]

    init(_ command: String) throws {
      let (status, output) = try shell(command)
      try #require(status == 0, "\(command)")
      for line in output.split(separator: "\n") {
        let words = line.split(separator: " ").map(String.init)
        switch words[0] {
        case "tables": tables = Array(words.dropFirst())
        case "best": best = words[1]
        default: digests[words[0]] = words[2]
        }
      }
    }
  }

  /// The program for this processor and for ARM, in a folder that is removed at exit.
  static let folder = Result {
    let folder = NSTemporaryDirectory() + "rwkv-kernels-\(getpid())"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    atexit {
      try? FileManager.default.removeItem(atPath: NSTemporaryDirectory() + "rwkv-kernels-\(getpid())")
    }
    let kernels = "\(root)/Sources/CRWKVKernels"
    let sources = "\(kernels)/*.c \(root)/Tests/KernelTests/Programs/digests.c"
    // The cross compiler is Swift's own clang; the GNU compiler knows how to link.
    let (status, _) = try shell(
      """
      set -e; cd \(folder)
      clang -O2 -Wall -Werror -I\(kernels)/include \(sources) -lm -o here
      clang --target=aarch64-linux-gnu -O2 -Wall -Werror -I\(kernels)/include -c \(sources)
      aarch64-linux-gnu-gcc -static *.o -lm -o arm
      """)
    try #require(status == 0, "compiling for aarch64")
    return folder
  }

  @Test(
    .enabled("needs clang, gcc-aarch64-linux-gnu and qemu-user") { isPossible },
    arguments: [
      ("cortex-a53", ["scalar", "neon"]), ("neoverse-n1", ["scalar", "neon", "dotprod"]),
      ("max", ["scalar", "neon", "dotprod", "i8mm"]),
    ])
  func sameBits(processor: String, tables: [String]) throws {
    let folder = try Self.folder.get()
    let best = try #require(tables.last)
    let here = try Report("\(folder)/here scalar")
    let there = try Report("qemu-aarch64 -cpu \(processor) \(folder)/arm \(best)")
    #expect(there.tables == tables)
    #expect(there.best == best)
    #expect(there.digests.count > 300)
    for (name, digest) in there.digests { #expect(digest == here.digests[name], "\(name)") }
  }
}
