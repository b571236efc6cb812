// SPDX-License-Identifier: MIT
import Foundation
import Testing

/// The documents' commands are run, in the order in which they stand there.
@Suite("Documents")
struct DocumentTests {
  static let names =
    ["README.md"]
    + ((try? FileManager.default.contentsOfDirectory(atPath: "\(packageRoot)/docs")) ?? [])
    .filter { $0.hasSuffix(".md") }.sorted().map { "docs/\($0)" }

  /// What stands in for published checkpoints: small random ones of the same layout.
  private static let standIns = [
    ("rwkv7-g1d-0.4b.pth", "v7-pth/model.pth"), ("rwkv7-hf", "v7-hf"), ("rwkv6-finch-hf", "v6-hf"),
    ("rwkv5-eagle-hf", "v52-hf"), ("rwkv4-pile-hf", "v4-hf"), ("RWKV-X-0.2B-64k-Base.pth", "x-one/model.pth"),
    ("rwkv0b1-emb-curriculum.pth", "emb-std/model.pth"), ("rwkv0b1-reranker.pth", "rerank-std/model.pth"),
  ]

  /// What makes commands of a block of code: lines before it, and after it. The folder `programs` has what was built.
  private static let wrappings: [String: (before: String, after: String)] = [
    "sh": ("", ""),
    "python": ("python3 - <<'END'", "END"),
    "c": (
      """
      cat >block.c <<'END'
      #include <rwkv.h>
      #include <stdio.h>
      #include <string.h>
      __attribute__((unused)) static bool print_piece(const char * text, size_t length, void * user) {
        return fwrite(text, 1, length, stdout) == length && !user;
      }
      int main(void) {
      """,
      """
      }
      END
      ln -sf "$programs/librwkv.so" librwkv.so.0
      cc -Wall -Werror -I"$root/Sources/CRWKVABI/include" block.c librwkv.so.0 -Wl,-rpath,. -o block
      ./block >block.out; [ -s block.out ]
      """
    ),
    // Linking takes long, and examples/swift-embed is the same as a program.
    "swift": (
      "cat >block.swift <<'END'",
      """
      END
      swiftc -typecheck -swift-version 6 -I "$programs/Modules" block.swift \\
        -Xcc -fmodule-map-file="$root/Sources/CZstd/module.modulemap" \\
        -Xcc -fmodule-map-file="$programs/CRWKVKernels.build/module.modulemap"
      """
    ),
    "template": ("cat >block.template <<'END'", "END\nrwkv-run chat model.rwkv --template block.template"),
  ]

  /// A document's blocks of code as commands, without those after a comment "not run: reason". Blocks without a
  /// language are pictures.
  static func commands(_ name: String) throws -> [String] {
    let text = try String(contentsOfFile: "\(packageRoot)/\(name)", encoding: .utf8)
    var (blocks, block, isSkipped) = ([String](), [String]?.none, false)
    var language = ""
    for line in text.components(separatedBy: "\n") {
      if line.hasPrefix("<!-- not run: ") { isSkipped = true }
      guard line.hasPrefix("```") else {
        block?.append(line)
        continue
      }
      guard let lines = block else {
        (block, language) = ([], String(line.dropFirst(3)))
        continue
      }
      if !isSkipped && !language.isEmpty {
        let wrapping = try #require(wrappings[language], "\(name): ```\(language) is run by no test")
        blocks.append(([wrapping.before] + lines + [wrapping.after]).joined(separator: "\n"))
      }
      (block, isSkipped) = (nil, false)
    }
    return blocks
  }

  @Test(arguments: names)
  func commandsDoWhatTheySay(_ name: String) throws {
    let folder = TemporaryFolder()
    for (published, golden) in Self.standIns {
      try FileManager.default.copyItem(
        atPath: "\(packageRoot)/Tests/Fixtures/goldens/\(golden)", toPath: folder.file(published))
    }
    try FileManager.default.createSymbolicLink(
      atPath: folder.file("examples"), withDestinationPath: "\(packageRoot)/examples")
    let programs = (Tool(name: "rwkv-run").path as NSString).deletingLastPathComponent
    let libraries =
      "export PYTHONPATH='\(packageRoot)/python' RWKV_LIBRARY='\(programs)/librwkv.so'; root='\(packageRoot)' programs='\(programs)'"
    var script =
      ["cd '\(folder.path)'; export PATH='\(programs)':\"$PATH\"", libraries] + (try Self.commands(name))
    if script.contains(where: { $0.contains("rwkv_vocab_v20230424.txt") }) {
      let bytes = (0..<256).map { String(format: "%d b'\\x%02x' 1\n", $0 + 1, $0) }.joined()
      try bytes.write(
        toFile: folder.file("rwkv_vocab_v20230424.txt"), atomically: true, encoding: .utf8)
    }
    // A document may take the model for granted.
    let making = "rwkv-quantize rwkv7-g1d-0.4b.pth model.rwkv"
    if !script.contains(where: { $0.contains(making) }) { script.insert(making, at: 2) }
    let result = try Running(
      "/bin/bash", ["-eu", "-o", "pipefail", "-x", "-c", script.joined(separator: "\n")]
    ).wait()
    #expect(result.status == 0, "\(result.errors.suffix(1000))")
  }

  /// What stands below EXAMPLES in the help of a program and of its commands.
  private static func examples(_ program: String) throws -> [String] {
    let tool = Tool(name: program)
    let help = try tool.run("--help").output
    let list = help.components(separatedBy: "\nSUBCOMMANDS:\n").last ?? ""
    let commands = list.components(separatedBy: "\n").compactMap { line in
      line.hasPrefix("  ") && !line.hasPrefix("   ") ? line.split(separator: " ").first.map(String.init) : nil
    }
    var examples: [String] = []
    for command in [["help"]] + commands.filter({ $0 != "See" }).map({ ["help", $0] }) + [
      ["help", "state", "show"]
    ] {
      let lines = try tool.run(command).output.components(separatedBy: "\n")
      let start = lines.firstIndex(of: "EXAMPLES") ?? lines.endIndex
      examples += lines[start...].dropFirst().prefix { $0.hasPrefix("  ") }
    }
    return examples
  }

  @Test func examplesOfTheHelpRun() throws {
    let folder = TemporaryFolder()
    try FileManager.default.createDirectory(
      atPath: folder.file("checkpoint"), withIntermediateDirectories: true)
    for name in ["RWKV-x070-World-0.4B.pth", "model.pth", "checkpoint/pytorch_model.bin"] {
      try FileManager.default.copyItem(atPath: golden("v7-pth/model.pth"), toPath: folder.file(name))
    }
    for (name, model) in [("emb.pth", "emb-std"), ("rerank.pth", "rerank-std")] {
      try FileManager.default.copyItem(
        atPath: golden("\(model)/model.pth"), toPath: folder.file(name))
    }
    for name in ["text.txt", "prompt.txt", "sentences.txt", "docs.txt"] {
      try "A text.\nOf two lines.\n".write(toFile: folder.file(name), atomically: true, encoding: .utf8)
    }
    let programs = (Tool(name: "rwkv-run").path as NSString).deletingLastPathComponent
    let (conversions, calls) = (try Self.examples("rwkv-quantize"), try Self.examples("rwkv-run"))
    #expect(conversions.count >= 7 && calls.count >= 15)
    try "A question?\n".write(toFile: folder.file("questions.txt"), atomically: true, encoding: .utf8)
    // Shorter measurements do. What is got over the network has tests of its own.
    let shortened = calls.filter { !$0.contains("hf:") && !$0.contains("rwkv7-0.4b") }.map {
      $0.contains(" bench ") ? $0 + " -p 8 -n 4 -r 1" : $0
    }
    let preparation =
      "cp model.rwkv a.rwkv; cp model.rwkv b.rwkv; rwkv-run chat model.rwkv --save-state monday.state; "
      + "rwkv-quantize emb.pth emb.rwkv --tokenizer bytes; rwkv-quantize rerank.pth rerank.rwkv"
    var lines = ["cd '\(folder.path)'; export PATH='\(programs)':\"$PATH\""]
    for line in conversions + [preparation] + shortened where !lines.contains(line) { lines.append(line) }
    let result = try Running(
      "/bin/bash", ["-eu", "-o", "pipefail", "-x", "-c", lines.joined(separator: "\n")]
    ).wait()
    #expect(result.status == 0, "\(result.errors.suffix(1000))")
  }

  @Test func commandsAreFound() throws {
    #expect(Self.names.count > 4)
    #expect(try Self.names.filter { try !Self.commands($0).isEmpty }.count >= 3)
  }

  /// What a release's documents name and its archive lacks is said, and stops it.
  @Test func whatAnArchiveLacksIsNamed() throws {
    let folder = TemporaryFolder()
    func write(_ name: String, _ text: String) throws {
      try text.write(toFile: folder.file(name), atomically: true, encoding: .utf8)
    }
    let program = ["\(packageRoot)/tools/packaging/links.py", folder.path]
    try write("other%20one.md", "[here](README.md) [afar](https://example.org/x.md)")
    try write("README.md", "[here](other%2520one.md#part)")
    let whole = try Running("/usr/bin/env", ["python3"] + program).wait()
    #expect(whole.status == 0 && whole.output.isEmpty, "\(whole)")
    try write("README.md", "[nowhere](none.md), made by tools/none.sh")
    let lacking = try Running("/usr/bin/env", ["python3"] + program).wait()
    #expect(
      lacking.status == 1
        && lacking.output == "README.md: none.md is not there\nREADME.md: tools/none.sh is not there\n",
      "\(lacking)")
  }

  /// Each function of a table of kernels has a line about what keeps it within its buffers.
  @Test func everyKernelIsBounded() throws {
    func text(_ name: String) throws -> String {
      try String(contentsOfFile: "\(packageRoot)/\(name)", encoding: .utf8)
    }
    let kernels = try text("Sources/CRWKVKernels/include/rk_kernels.h").components(separatedBy: " (*")
      .dropFirst()
      .map { String($0.prefix { $0 != ")" }) }
    #expect(kernels.count > 25)
    let section = try text("ARCHITECTURE.md").components(separatedBy: "## Which check keeps each kernel")
    let table = try #require(section.last?.components(separatedBy: "\n## ").first)
    #expect(kernels.filter { !table.contains("`\($0)`") } == [])
  }

  @Test(arguments: names + ["ARCHITECTURE.md", "CONTRIBUTING.md", "formats/README.md"])
  func linksLeadSomewhere(_ name: String) throws {
    let text = try String(contentsOfFile: "\(packageRoot)/\(name)", encoding: .utf8)
    let folder = (name as NSString).deletingLastPathComponent
    for part in text.components(separatedBy: "](").dropFirst() {
      let target = part.prefix { $0 != ")" && $0 != "#" }
      guard !target.isEmpty, !target.contains("://") else { continue }
      #expect(FileManager.default.fileExists(atPath: "\(packageRoot)/\(folder)/\(target)"), "\(target)")
    }
  }
}
