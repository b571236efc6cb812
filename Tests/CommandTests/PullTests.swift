// SPDX-License-Identifier: MIT
import Foundation
import Testing

/// Models that are known by name.
@Suite("Models by name")
struct PullTests {
  private static let model = (
    path: "\(packageRoot)/examples/model/rwkv7-docs-5m.safetensors", name: "rwkv7-docs-5m.safetensors"
  )

  @Test(.enabled(if: Hub.isReachable)) func aModelIsPulledUsedListedAndRemoved() throws {
    let hub = try Hub([Self.model])
    func run(_ arguments: String...) throws -> Tool.Result { try hub.run("rwkv-run", arguments) }
    let empty = try run("list")
    #expect(empty.status == 0 && empty.output.isEmpty && empty.errors.contains("pull"), "\(empty)")
    let pulled = try run("pull", "hf:owner/r/rwkv7-docs-5m.safetensors", "--type", "int8")
    #expect(pulled.status == 0 && pulled.errors.contains("rwkv-run chat rwkv7-docs-5m"), "\(pulled.errors)")
    let again = try run("pull", "hf:owner/r/rwkv7-docs-5m.safetensors")
    #expect(again.status == 1 && again.errors.contains("there already"), "\(again.errors)")
    let list = try run("list")
    #expect(list.output.hasPrefix("rwkv7-docs-5m  RWKV-7"), "\(list.output)")
    let object = try JSONSerialization.jsonObject(with: Data(try run("list", "--json").output.utf8))
    #expect((object as? [String: Any])?["name"] as? String == "rwkv7-docs-5m")

    let other = try run(
      "pull", "hf:owner/r/rwkv7-docs-5m.safetensors", "--type", "int8", "--name", "two words")
    #expect(other.status == 0 && other.errors.contains("rwkv-run chat 'two words'"), "\(other.errors)")
    #expect(try run("list").output.contains("\ntwo words      RWKV-7"))
    // In columns, whatever the letters' width.
    rename(hub.models + "/two words.rwkv", hub.models + "/模型.rwkv")
    #expect(try run("list").output.contains("\n模型           RWKV-7"))
    #expect(try run("rm", "模型").status == 0)
    let outside = try run("pull", "hf:owner/r", "--name", "../m")
    #expect(outside.status == 64, "\(outside.errors)")

    // By name, wherever a model is taken.
    let uses = [
      ["rwkv7-docs-5m", "-p", "The", "-n", "2"],
      ["chat", "rwkv7-docs-5m", "-p", "The", "-n", "2", "--template", "none"],
      ["tokenize", "rwkv7-docs-5m", "-p", "The"], ["embed", "rwkv7-docs-5m", "-p", "The"],
      ["bench", "rwkv7-docs-5m", "-p", "1", "-n", "1", "-r", "1"],
      ["logits", "rwkv7-docs-5m", "--tokens", "1", "--out", hub.folder.file("l")],
    ]
    for use in uses {
      let result = try hub.run("rwkv-run", use)
      #expect(result.status == 0, "\(use): \(result.errors)")
    }
    for use in [["show", "rwkv7-docs-5m"], ["verify", "rwkv7-docs-5m"]] {
      #expect(try hub.quantize(use).status == 0)
    }
    // A file of that name comes first.
    let shadowed = try hub.run(
      "rwkv-run", ["tokenize", "rwkv7-docs-5m", "-p", "The"],
      setup: "cd \(hub.folder.path); echo no > rwkv7-docs-5m")
    #expect(shadowed.status == 1)

    let removed = try run("rm", "rwkv7-docs-5m")
    #expect(removed.status == 0)
    #expect(try FileManager.default.contentsOfDirectory(atPath: hub.models) == [])
    let gone = try run("rm", "../port")
    #expect(gone.status == 1 && gone.errors.contains("no such model"), "\(gone.errors)")
  }

  /// From another server, too: what was fetched is known by its SHA-256.
  @Test(.enabled(if: Hub.isReachable)) func aPullThatWasBrokenOffGoesOn() throws {
    let hub = try Hub([Self.model], fault: "half")
    let arguments = ["pull", "hf:owner/r", "--type", "int8", "--download"]
    let broken = try hub.run("rwkv-run", arguments)
    #expect(broken.status == 1 && broken.errors.contains("7200 s"), "\(broken.errors)")
    let kept = hub.models + "/r.rwkv.download/r"
    let parts = try FileManager.default.contentsOfDirectory(atPath: kept)
    #expect(parts.count == 1 && parts[0].hasSuffix(".part"), "\(parts)")
    let listed = try hub.run("rwkv-run", ["list"])
    #expect(listed.errors.contains("r: a download that has not ended"), "\(listed.errors)")
    let next = try Hub([Self.model])
    let done = try next.run("rwkv-run", arguments, setup: "export RWKV_MODELS=\(hub.models)")
    #expect(done.status == 0, "\(done.errors)")
    #expect(!next.log.contains { $0.contains("bytes=2097152-") }, "\(next.log)")
    #expect(try FileManager.default.contentsOfDirectory(atPath: hub.models) == ["r.rwkv"])
    let plain = try next.run("rwkv-run", Array(arguments.dropLast()))
    #expect(plain.status == 0, "\(plain.errors)")
    #expect(
      FileManager.default.contentsEqual(atPath: next.models + "/r.rwkv", andPath: hub.models + "/r.rwkv"))
    // What is not wanted any more goes, whether it came to its end or not.
    #expect(try hub.run("rwkv-run", arguments + ["--name", "other"]).status == 1)
    #expect(FileManager.default.fileExists(atPath: hub.models + "/other.rwkv.download"))
    let removed = try hub.run("rwkv-run", ["rm", "other"])
    #expect(removed.status == 0 && removed.errors.contains("other.rwkv.download"), "\(removed.errors)")
    #expect(try FileManager.default.contentsOfDirectory(atPath: hub.models) == ["r.rwkv"])
  }

  /// Names and addresses in places where they are not understood are answered with what to type.
  @Test(.enabled(if: Hub.isReachable)) func mistypedNamesAreAnsweredWithWhatToType() throws {
    let hub = try Hub([Self.model])
    let file = try hub.run("rwkv-run", ["pull", "hf:owner/r/nothing.safetensors"])
    #expect(file.status == 1 && file.errors.contains("not there; these checkpoints are:"), "\(file.errors)")
    #expect(file.errors.contains("hf:owner/r/rwkv7-docs-5m.safetensors"), "\(file.errors)")
    let bare = try hub.quantize(["owner/r", hub.folder.file("o.rwkv")])
    #expect(bare.status == 1 && bare.errors.contains("write hf:owner/r"), "\(bare.errors)")
    let place = try hub.run("rwkv-run", ["chat", "hf:owner/r"])
    #expect(place.status == 1 && place.errors.contains("gets it, and gives it a name"), "\(place.errors)")
    let name = try hub.run("rwkv-run", ["chat", "nothing"])
    #expect(name.status == 1 && name.errors.contains("rwkv-run list shows"), "\(name.errors)")
  }

  /// A model that could not read a text would have been fetched for nothing.
  @Test(.enabled(if: Hub.isReachable)) func aModelWithoutAVocabularyIsNotFetched() throws {
    let model = "\(packageRoot)/Tests/Fixtures/goldens/emb-std/model.pth"
    let folder = TemporaryFolder()
    let note = folder.file("note.txt")
    try "no vocabulary".write(toFile: note, atomically: true, encoding: .utf8)
    let hub = try Hub([(model, "model.pth"), (note, "log.txt")])
    let refused = try hub.run("rwkv-run", ["pull", "hf:owner/r/model.pth"])
    #expect(
      refused.status == 1 && refused.errors.contains("give its vocabulary with --tokenizer"), "\(refused)")
    #expect(try FileManager.default.contentsOfDirectory(atPath: hub.models) == [])
    let pulled = try hub.run("rwkv-run", ["pull", "hf:owner/r/model.pth", "--tokenizer", "bytes"])
    #expect(pulled.status == 0 && pulled.errors.contains("left out"), "\(pulled)")
    // Files that say nothing about the weights stay where they are.
    #expect(try !String(contentsOfFile: hub.folder.file("log"), encoding: .utf8).contains("log.txt"))
  }

  @Test(.enabled(if: Hub.isReachable)) func recommendedOnesComeWithTheirVocabulary() throws {
    let hub = try Hub([Self.model])
    let result = try hub.run("rwkv-run", ["pull", "rwkv7-0.1b"])
    // This hub has another repository: the vocabulary is looked for first.
    #expect(
      result.status == 1 && result.errors.contains("fla-hub/rwkv7-0.1B-g1: no such repository"),
      "\(result.errors)")
  }

  @Test func theChoiceIsShownWithoutANetwork() throws {
    let folder = TemporaryFolder()
    func run(_ arguments: [String]) throws -> Tool.Result {
      try Tool(name: "rwkv-run").run(arguments, after: "export RWKV_MODELS=\(folder.path)")
    }
    let choice = try run(["pull"])
    #expect(choice.status == 0 && choice.output.contains("rwkv7-0.4b"), "\(choice.output)")
    // Memory that this process may not take makes the large ones slow.
    let little = try Tool(name: "rwkv-run").run(["pull"], after: "ulimit -v 2000000")
    #expect(
      little.output.split(separator: "\n").contains { $0.hasPrefix("rwkv7-13.3b") && $0.contains("slow") })
    let unknown = try run(["pull", "rwkv7-9b"])
    #expect(unknown.status == 1 && unknown.errors.contains("rwkv7-7.2b"), "\(unknown.errors)")
    let early = try run(["chat", "rwkv7-0.4b"])
    #expect(early.status == 1 && early.errors.contains("rwkv-run pull rwkv7-0.4b"), "\(early.errors)")
  }

  @Test func withoutLibcurlItSaysWhatToInstall() throws {
    // A folder in which the loader finds something else under the names that are looked for.
    let folder = TemporaryFolder()
    for name in ["libcurl.so.4", "libcurl-gnutls.so.4", "libcurl.so"] {
      try Data("no library".utf8).write(to: URL(filePath: folder.file(name)))
    }
    let result = try Tool(name: "rwkv-quantize").run(
      ["hf:owner/r", folder.file("m.rwkv")],
      after: "export HF_ENDPOINT=http://127.0.0.1:1 LD_LIBRARY_PATH=\(folder.path)")
    #expect(result.status == 1 && result.errors.contains("apt-get install libcurl4"), "\(result.errors)")
  }
}
