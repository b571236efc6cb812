// SPDX-License-Identifier: MIT
import Foundation
import Testing

/// What is written replaces nothing that it must not.
struct OutputTests {
  /// Every way in which the commands write a file, but for the path.
  enum Output: String, CaseIterable {
    case state, logits, vectors, model

    func run(_ model: String, _ path: String) throws -> Tool.Result {
      switch self {
      case .state:
        try Tool(name: "rwkv-run").run(model, "-p", "a", "-n", "1", "--save-state", path)
      case .logits: try Tool(name: "rwkv-run").run("logits", model, "--tokens", "1,2,3", "--out", path)
      case .vectors: try Tool(name: "rwkv-run").run("embed", model, "-p", "a", "--out", path)
      case .model: try Tool(name: "rwkv-quantize").run(model, path, "--force")
      }
    }
  }

  private let folder = TemporaryFolder()
  private let model: String

  init() throws {
    model = folder.file("model.rwkv")
    let made = try Tool(name: "rwkv-quantize").run(
      golden("v7-std") + "/model.safetensors", model, "--type", "fp32", "--tokenizer", "bytes")
    #expect(made.status == 0, "\(made.errors)")
  }

  @Test(arguments: Output.allCases) func linksStay(_ output: Output) throws {
    let manager = FileManager.default
    try manager.createDirectory(atPath: folder.file("deep"), withIntermediateDirectories: true)
    for target in ["deep/there.npy", "deep/new.npy"] {
      let link = folder.file("link.npy")
      try? manager.removeItem(atPath: link)
      try manager.createSymbolicLink(atPath: link, withDestinationPath: target)
      if target.contains("there") { manager.createFile(atPath: folder.file(target), contents: nil) }
      let result = try output.run(model, link)
      #expect(result.status == 0, "\(result.errors)")
      #expect(try manager.destinationOfSymbolicLink(atPath: link) == target)
      #expect(try Data(contentsOf: URL(fileURLWithPath: folder.file(target))).count > 32)
    }
  }

  @Test(arguments: Output.allCases) func devicesAndInputsAreNotReplaced(_ output: Output) throws {
    let manager = FileManager.default
    let device = folder.file("null.npy")
    try manager.createSymbolicLink(atPath: device, withDestinationPath: "/dev/null")
    #expect(try output.run(model, device).status == (output == .model ? 1 : 0))
    #expect(try manager.destinationOfSymbolicLink(atPath: device) == "/dev/null")

    let before = try Data(contentsOf: URL(fileURLWithPath: model))
    let (link, hard) = (folder.file("same.npy"), folder.file("hard.npy"))
    try manager.createSymbolicLink(atPath: link, withDestinationPath: model)
    try manager.linkItem(atPath: model, toPath: hard)
    for path in [link, hard] {
      let result = try output.run(model, path)
      #expect(result.status == 1)
      #expect(result.errors.contains("is read by the same command"), "\(result.errors)")
    }
    #expect(try Data(contentsOf: URL(fileURLWithPath: model)) == before)
  }

  @Test(arguments: Output.allCases) func namesThatAreLong(_ output: Output) throws {
    let longest = String(repeating: "n", count: 251) + ".npy"
    let result = try output.run(model, folder.file(longest))
    #expect(result.status == 0, "\(result.errors)")
    let tooLong = try output.run(model, folder.file("n" + longest))
    #expect(tooLong.status == 1)
    #expect(tooLong.errors.contains("too long"), "\(tooLong.errors)")
    #expect(tooLong.output.isEmpty, "it is refused before the work")
    #expect(folder.contents == ["model.rwkv", longest])
  }

  @Test func aStateReplacesStatesAlone() throws {
    let run = Tool(name: "rwkv-run")
    let path = folder.file("notes.txt")
    try "my notes, which are longer than a header of sixty-four bytes would be".write(
      toFile: path, atomically: true, encoding: .utf8)
    let refused = try run.run(model, "-p", "a", "-n", "1", "--save-state", path)
    #expect(refused.status == 1)
    #expect(refused.errors.contains("--force"))
    #expect(try String(contentsOfFile: path, encoding: .utf8).hasPrefix("my notes"))
    #expect(try run.run(model, "-p", "a", "-n", "1", "--save-state", path, "--force").status == 0)
    // The state that was loaded gives way to the one that follows it.
    let again = try run.run(model, "-p", "b", "-n", "1", "--load-state", path, "--save-state", path)
    #expect(again.status == 0, "\(again.errors)")
  }
}
