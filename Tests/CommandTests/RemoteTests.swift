// SPDX-License-Identifier: MIT
import Foundation
import Testing

/// Checkpoints that are read from a server while they are converted.
@Suite("Remote checkpoints", .enabled(if: Hub.isReachable))
struct RemoteTests {
  /// Ten parts to read, of which tensors have several.
  private static let model = (
    path: "\(packageRoot)/examples/model/rwkv7-docs-5m.safetensors", name: "model.safetensors"
  )
  private static func case_(_ folder: String, _ names: [String]) -> [(path: String, name: String)] {
    names.map { (golden("\(folder)/\($0)"), $0) }
  }
  private static let small = case_("v7-f32-small", ["model.safetensors"])

  /// The bytes of the output are those of a conversion of the local files; nothing else stays; no secret is shown.
  /// Returns what was said on stderr.
  @discardableResult private func equal(
    _ hub: Hub, _ input: String, local: String, token: String? = nil, setup: String = "", more: [String] = [],
    location: SourceLocation = #_sourceLocation
  ) throws -> String {
    let (near, far) = (hub.folder.file("near.rwkv"), hub.folder.file("far.rwkv"))
    let made = try Tool(name: "rwkv-quantize").run(local, near, "--no-measure", "--force")
    #expect(made.status == 0, "\(made.errors)", sourceLocation: location)
    let result = try hub.quantize([input, far] + more, token: token, setup: setup)
    #expect(result.status == 0, "\(result.errors)", sourceLocation: location)
    #expect(
      FileManager.default.contentsEqual(atPath: near, andPath: far), sourceLocation: location)
    #expect(!hub.folder.contents.contains { $0.hasPrefix("rwkv-") }, sourceLocation: location)
    #expect(!result.errors.contains("secret"), sourceLocation: location)
    return result.errors
  }

  /// The same, of the hub itself: large files come from another host's name, which never gets the token.
  private func same(
    _ hub: Hub, _ input: String, local: String, token: String? = nil, setup: String = "", more: [String] = [],
    location: SourceLocation = #_sourceLocation
  ) throws {
    try equal(hub, input, local: local, token: token, setup: setup, more: more, location: location)
    let other = hub.log.filter { $0.hasPrefix("localhost:") || $0.hasPrefix("cdn.test:") }
    #expect(other.contains { $0.contains("/cdn/") }, sourceLocation: location)
    #expect(other.allSatisfy { $0.contains(" - /") }, sourceLocation: location)
  }

  @Test(arguments: ["none", "busy", "cut", "slow", "expired", "short", "huge-header", "bad-chunk"])
  func bytesAreThoseOfALocalConversion(fault: String) throws {
    let hub = try Hub([Self.model], fault: fault)
    try same(hub, "hf:owner/r", local: hub.repository.path)
    // Redirections are followed once, not for every part: hubs count them.
    let asked = hub.log.filter { $0.contains("/resolve/") && !$0.contains(" bytes=0-0 ") }.count
    #expect(asked < hub.log.count / 2 || fault == "expired" || fault == "busy", "\(hub.log)")
  }

  /// People learn once why nothing comes, not for each part that is waited for.
  @Test func aBrokenLineIsWaitedFor() throws {
    let hub = try Hub([Self.model], fault: "break")
    let errors = try equal(hub, "hf:owner/r", local: hub.repository.path)
    #expect(errors.components(separatedBy: "trying again").count == 2, "\(errors)")
  }

  /// Old and simple ones, those behind what compresses or caches, those that send less or more than they are asked for.
  @Test(arguments: [
    "http-1.0,no-length,weak,equals,relative", "gzip,any-size,few-tags,small-parts,same-path",
    "gzip,http-1.0,weak,few-tags",
  ])
  func otherServersAreRead(manners: String) throws {
    let hub = try Hub([Self.model] + Self.case_("v7-hf-fork", ["generation_config.json"]), fault: manners)
    try equal(hub, "hf:owner/r", local: hub.repository.path)
  }

  @Test func aFileThatIsWantedWholeMayComeWhole() throws {
    let hub = try Hub(Self.small, fault: "whole-if-all")
    try same(hub, "hf:owner/r", local: hub.repository.path)
  }

  @Test func addressesOfPagesAreUnderstood() throws {
    let hub = try Hub(Self.case_("v7-pth", ["model.pth"]), fault: "private")
    let file = hub.repository.appending(path: "model.pth").path
    let pages = [
      ("", hub.repository.path), ("/tree/main", hub.repository.path), ("/blob/refs%2Fpr%2F1/model.pth", file),
      ("/resolve/main/model.pth?download=true", file),
    ]
    for (page, local) in pages {
      try same(
        hub, "\(hub.endpoint)/owner/r\(page)", local: local, token: "secret-of-mine", more: ["--force"])
    }
  }

  @Test(arguments: ["limited", "limited-until", "limited-by-policy"])
  func aServerThatAsksToWaitIsLeftAlone(limit: String) throws {
    let hub = try Hub(Self.small, fault: limit)
    try same(hub, "hf:owner/r", local: hub.repository.path)
    #expect(hub.log.count > 3 && !hub.log.contains("too early"))
  }

  @Test func nobodyWaitsForHours() throws {
    let hours = try Hub(Self.small, fault: "for-hours")
    let result = try hours.quantize(["hf:owner/r", hours.folder.file("m.rwkv")])
    #expect(result.status == 1 && result.errors.contains("7200 s"), "\(result.errors)")
  }

  @Test func aConnectionThatStandsStillIsGivenUp() throws {
    let hub = try Hub(Self.small, fault: "stopped")
    try same(hub, "hf:owner/r", local: hub.repository.path, setup: "export HF_HUB_DOWNLOAD_TIMEOUT=1")
  }

  @Test func everyContainerIsRead() throws {
    let torch = try Hub(Self.case_("v7-pth", ["model.pth"]))
    let file = torch.repository.appending(path: "model.pth").path
    try same(torch, "hf:owner/r@main", local: torch.repository.path)
    try same(torch, "hf:owner/r/model.pth", local: file, more: ["--force"])
    let url = torch.folder.file("url.rwkv")
    let result = try torch.quantize(["http://127.0.0.1:\(torch.port)/cdn/model.pth?key=secret", url])
    #expect(result.status == 0 && !result.errors.contains("secret"), "\(result.errors)")
    #expect(FileManager.default.contentsEqual(atPath: url, andPath: torch.folder.file("near.rwkv")))

    let names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    let shards = try Hub(
      Self.case_("v7-hf-native", names + ["model.safetensors.index.json", "config.json"]))
    try same(shards, "hf:owner/r@refs/pr/1", local: shards.repository.path)
    let written = shards.folder.file("model.gguf")
    let made = try Running(
      "/usr/bin/env", ["python3", Hub.program("gguf.py"), Self.small[0].path, written]
    ).wait()
    #expect(made.status == 0, "\(made.errors)")
    let llama = try Hub([(written, "model.gguf")])
    try same(llama, "hf:owner/r", local: llama.repository.path)
    try same(llama, "hf:owner/r/model.gguf", local: written, more: ["--force"])

    // By one of them, in a folder, without an index.
    let inner = try Hub(
      names.map { (golden("v7-hf-native/\($0)"), "in/\($0)") } + [
        (golden("v7-hf-native/config.json"), "in/config.json")
      ])
    try same(inner, "hf:owner/r/in", local: inner.repository.appending(path: "in").path)
    try same(
      inner, "hf:owner/r/in/\(names[1])", local: inner.repository.appending(path: "in/\(names[1])").path,
      more: ["--force"])
  }

  @Test func tokensOpenPrivateRepositories() throws {
    let hub = try Hub(Self.small, fault: "private")
    try same(hub, "hf:owner/r", local: hub.repository.path, token: "secret-of-mine")
    let denied = try hub.quantize(["hf:owner/r", hub.folder.file("m.rwkv")])
    #expect(denied.status == 1 && denied.errors.contains("or a private one"), "\(denied.errors)")
    #expect(denied.errors.contains("HF_TOKEN"), "\(denied.errors)")
    try Data("secret-of-mine\n".utf8).write(to: URL(filePath: hub.folder.file("token")))
    symlink(".", hub.folder.file("huggingface"))
    for setup in [
      "HF_TOKEN_PATH=\(hub.folder.file("token"))", "HF_HOME=\(hub.folder.path)",
      "XDG_CACHE_HOME=\(hub.folder.path)",
    ] {
      let result = try hub.quantize(
        ["hf:owner/r", hub.folder.file("m.rwkv"), "--force"], setup: "export \(setup)")
      #expect(result.status == 0 && !result.errors.contains("secret"), "\(result.errors)")
    }
  }

  @Test func certificatesAreChecked() throws {
    let hub = try Hub(Self.small, tls: true)
    try same(hub, "hf:owner/r", local: hub.repository.path)
    let refused = try hub.quantize(["hf:owner/r", hub.folder.file("m.rwkv")], trusted: false)
    #expect(refused.status == 1 && refused.errors.contains("ertificate"), "\(refused.errors)")
    let downgraded = try Hub(Self.small, fault: "downgrade", tls: true)
    let result = try downgraded.quantize(["hf:owner/r", downgraded.folder.file("m.rwkv")])
    #expect(result.status == 1 && result.errors.contains("redirected from https"), "\(result.errors)")
  }

  /// The hub is its own proxy; its other name is known to nobody else.
  @Test func proxiesAreUsed() throws {
    let hub = try Hub(Self.small)
    let proxy = "export HF_ENDPOINT=http://hub.test:\(hub.port) http_proxy=http://127.0.0.1:\(hub.port)"
    try same(hub, "hf:owner/r", local: hub.repository.path, setup: proxy, more: ["--insecure"])
    #expect(hub.log.allSatisfy { $0.hasSuffix(" proxied") }, "\(hub.log)")
    let around = try hub.quantize(
      ["hf:owner/r", hub.folder.file("m.rwkv"), "--insecure"], setup: proxy + " NO_PROXY=hub.test")
    #expect(around.status == 1 && around.errors.contains("resolve"), "\(around.errors)")
    // Plain HTTP for this machine stays on it.
    let here = try hub.quantize(
      ["hf:owner/r", hub.folder.file("m.rwkv")], setup: "export http_proxy=http://127.0.0.1:1")
    #expect(here.status == 0, "\(here.errors)")
  }

  @Test(arguments: [
    ("whole", "does not send parts"), ("other-part", "another part"), ("wrong-total", "changed"),
    ("changed", "changed"), ("changed-date", "changed"), ("compressed", "compresses files"),
    ("longer", "another part"), ("size", "the repository lists"),
    ("linked-size", "the repository lists"), ("linked-hash", "another file than the repository lists"),
    ("loop", "redirected more than"), ("no-place", "no address"), ("no-list", "no list of files"),
  ])
  func faultsAreNamedAndLeaveNothing(fault: String, words: String) throws {
    let hub = try Hub([Self.model], fault: fault)
    let result = try hub.quantize(["hf:owner/r", hub.folder.file("m.rwkv")])
    #expect(result.status == 1 && result.errors.contains(words), "\(result.errors)")
    #expect(!result.errors.contains("signature"), "\(result.errors)")
    #expect(hub.folder.contents.filter { $0.hasSuffix(".rwkv") || $0.hasPrefix("rwkv-") } == [])
  }

  @Test func whatCannotBeReadIsNamed() throws {
    let hub = try Hub(Self.case_("v7-pth", ["model.pth"]) + [(Self.small[0].path, "other.safetensors")])
    let output = hub.folder.file("m.rwkv")
    let cases = [
      (["hf:owner/r"], "hf:owner/r/other.safetensors  "), (["hf:owner/none"], "no such repository"),
      (["hf:owner"], "expected hf:OWNER/REPO"), (["hf:owner/r/none"], "not there; these checkpoints are"),
      (["http://127.0.0.1:\(hub.port)/cdn/model.pth/none?key=secret"], "/none: 404"),
      (["http://example.com/model.pth"], "--insecure"),
      (["http://127.0.0.1.example.com/model.pth"], "--insecure"),
      (["http://127.0.0.1:secret@example.com/model.pth"], "no address"),
      (["hf:owner/r/model.pth", "--calibrate", "auto"], "--download"),
      (
        ["hf:owner/r/model.pth", "--min-agreeing-tokens", "9"], "--min-agreeing-tokens read the weights twice"
      ),
    ]
    for (arguments, words) in cases {
      let result = try hub.quantize([arguments[0], output] + arguments.dropFirst())
      #expect(result.status == 1 && result.errors.contains(words), "\(arguments): \(result.errors)")
    }
    let log = try Hub([(hub.folder.file("log"), "model.pth")])
    let strange = try log.quantize(["http://127.0.0.1:\(log.port)/cdn/model.pth?key=secret", output])
    #expect(
      strange.status == 1 && !strange.errors.contains("secret")
        && strange.errors.contains("/cdn/model.pth: "), "\(strange.errors)")
  }

  /// Nobody knows the folder in which they are meanwhile.
  @Test func whatIsBesideIsNamedAsItWasGiven() throws {
    let folder = TemporaryFolder()
    for (name, text) in [
      ("rwkv_vocab_v20230424.txt", "1 'a' 1\n7 'b\n"), ("config.json", "{\"hidden_act\": \"silu\"}"),
    ] {
      try Data(text.utf8).write(to: URL(filePath: folder.file(name)))
    }
    let hub = try Hub(
      Self.case_("v7-pth", ["model.pth"]) + [
        (folder.file("rwkv_vocab_v20230424.txt"), "rwkv_vocab_v20230424.txt"),
        (golden("v7-pth/model.pth"), "in/model.pth"), (folder.file("config.json"), "in/config.json"),
      ])
    let (vocabulary, local) = ("rwkv_vocab_v20230424.txt", golden("v7-pth/model.pth"))
    let cases = [
      (["hf:owner/r/model.pth", "--tokenizer", "hf:owner/r/\(vocabulary)"], "hf:owner/r/\(vocabulary): "),
      ([local, "--tokenizer", "hf:owner/r/\(vocabulary)"], "hf:owner/r/\(vocabulary): "),
      ([local, "--tokenizer", "http://localhost:\(hub.port)/cdn/\(vocabulary)"], "/cdn/\(vocabulary): "),
      (["hf:owner/r/model.pth"], "hf:owner/r/\(vocabulary): "),
      (["hf:owner/r/in"], "hf:owner/r/in/config.json: "),
    ]
    for (arguments, words) in cases {
      let result = try hub.quantize(
        [arguments[0], hub.folder.file("m.rwkv"), "--force"] + arguments.dropFirst())
      #expect(result.errors.contains(words), "\(arguments): \(result.errors)")
      #expect(!result.errors.contains(hub.folder.path + "/rwkv-"), "\(arguments): \(result.errors)")
    }
  }

  /// What is in an archive is known by small parts of it: large matrices are fetched when they are converted, once.
  @Test func whatIsInAnArchiveIsFoundInSmallParts() throws {
    let folder = TemporaryFolder()
    let file = folder.file("model.pth")
    let made = try Running("/usr/bin/env", ["python3", Hub.program("pth.py"), file, "40", "1024", "1024"])
      .wait()
    #expect(made.status == 0, "\(made.errors)")
    let hub = try Hub([(file, "model.pth")])
    let result = try hub.quantize(["hf:owner/r", hub.folder.file("m.rwkv")])
    #expect(result.status == 1 && result.errors.contains("no RWKV model"), "\(result.errors)")
    let bytes = hub.log.reduce(0) { sum, line in
      guard let range = line.firstMatch(of: #/\/cdn\/.* bytes=(\d+)-(\d+)/#) else { return sum }
      return sum + (Int(range.2) ?? 0) - (Int(range.1) ?? 0) + 1
    }
    #expect(bytes > 0 && bytes < 4 << 20, "\(bytes) of 84 MB")
  }

  // MARK: Kept

  @Test func aDownloadIsResumedAndHashed() throws {
    let hub = try Hub([Self.model])
    let output = hub.folder.file("m.rwkv")
    let kept = URL(filePath: output + ".download/r")
    // As an interrupted run leaves it: the beginning, under the name of this version.
    let whole = try hub.quantize(["hf:owner/r", output, "--download", "--measure"])
    #expect(whole.status == 0 && whole.errors.contains("kept: "), "\(whole.errors)")
    let file = kept.appending(path: "model.safetensors")
    #expect(FileManager.default.contentsEqual(atPath: file.path, andPath: Self.model.path))
    let partName = try #require(try Self.partName(hub))
    try FileManager.default.removeItem(at: file)
    try Data(contentsOf: URL(filePath: Self.model.path)).prefix(5_000_000).write(
      to: kept.appending(path: partName))
    let before = hub.log.count
    let resumed = try hub.quantize(["hf:owner/r", output, "--download", "--force"])
    #expect(resumed.status == 0, "\(resumed.errors)")
    #expect(FileManager.default.contentsEqual(atPath: file.path, andPath: Self.model.path))
    #expect(!hub.log[before...].contains { $0.contains("bytes=1048576-") || $0.contains("bytes=3145728-") })
    // Complete: not fetched again.
    let after = hub.log.count
    let again = try hub.quantize(["hf:owner/r", output, "--download", "--force"])
    #expect(again.status == 0 && hub.log.count - after < before, "\(again.errors)")
  }

  /// The name of what an interrupted download leaves: from one whose connection is cut for good.
  private static func partName(_ hub: Hub) throws -> String? {
    let broken = try Hub([model], fault: "wrong-hash")
    let output = broken.folder.file("m.rwkv")
    let result = try broken.quantize(["hf:owner/r", output, "--download"])
    #expect(result.status == 1 && result.errors.contains("SHA-256"), "\(result.errors)")
    let left = try FileManager.default.contentsOfDirectory(atPath: output + ".download/r")
    #expect(left == [], "what is wrong is removed")
    let hash = try Running("/usr/bin/env", ["sha256sum", model.path]).wait().output.prefix(64)
    let name = folderOfVersion(String(hash))
    return "model.safetensors.\(name).part"
  }

  private static func folderOfVersion(_ hash: String) -> String {
    let sum = try? Running("/bin/sh", ["-c", "printf %s \(hash) | sha256sum"]).wait().output
    return String(sum?.prefix(12) ?? "")
  }
}
