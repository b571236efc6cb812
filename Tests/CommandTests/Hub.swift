// SPDX-License-Identifier: MIT
import Foundation
import Testing

/// A local hub with one repository, owner/r, and one fault (Programs/hub.py).
final class Hub {
  let folder = TemporaryFolder()
  let repository: URL
  let port: Int
  private let server: Running
  private let scheme: String

  /// - Parameter files: copied into the repository: from paths, under names.
  init(_ files: [(path: String, name: String)], fault: String = "none", tls: Bool = false) throws {
    repository = URL(filePath: folder.path).appending(path: "r")
    for (path, name) in files {
      let target = repository.appending(path: name)
      try FileManager.default.createDirectory(
        at: target.deletingLastPathComponent(), withIntermediateDirectories: true)
      try FileManager.default.copyItem(atPath: path, toPath: target.path)
    }
    var arguments = [Self.program("hub.py"), repository.path, fault, folder.file("port"), folder.file("log")]
    if tls { arguments += try Self.certificate(in: folder) }
    scheme = tls ? "https" : "http"
    server = try Running("/usr/bin/env", ["python3"] + arguments)
    let start = ContinuousClock.now
    while !FileManager.default.fileExists(atPath: folder.file("port")),
      ContinuousClock.now - start < .seconds(60)
    { usleep(10_000) }
    port = Int(try String(contentsOfFile: folder.file("port"), encoding: .utf8)) ?? 0
  }

  /// The path of a program of these tests.
  static func program(_ name: String) -> String {
    URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Programs/" + name).path
  }

  /// One that signs itself, and its key.
  private static func certificate(in folder: TemporaryFolder) throws -> [String] {
    let (key, certificate) = (folder.file("key.pem"), folder.file("cert.pem"))
    let made = try Running(
      "/usr/bin/env",
      [
        "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate,
        "-days", "2",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
      ]
    ).wait()
    #expect(made.status == 0, "\(made.errors)")
    return [certificate, key]
  }

  deinit {
    kill(server.process, SIGKILL)
    waitpid(server.process, nil, 0)
  }

  var log: [String] {
    ((try? String(contentsOfFile: folder.file("log"), encoding: .utf8)) ?? "").split(separator: "\n").map(
      String.init)
  }

  var endpoint: String { "\(scheme)://127.0.0.1:\(port)" }
  /// Where the models are that are known by name.
  var models: String { folder.file("models") }

  /// Runs a program with this hub as the endpoint.
  func run(
    _ tool: String, _ arguments: [String], token: String? = nil, trusted: Bool = true, setup: String = ""
  ) throws -> Tool.Result {
    var before =
      "unset HF_TOKEN HF_TOKEN_PATH HF_HOME XDG_CACHE_HOME http_proxy https_proxy all_proxy no_proxy NO_PROXY; unset CURL_CA_BUNDLE SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE; export HOME=/nonexistent"
    before += " HF_ENDPOINT=\(endpoint) TMPDIR=\(folder.path) RWKV_MODELS=\(models)"
    if let token { before += " HF_TOKEN=\(token)" }
    if scheme == "https", trusted { before += " SSL_CERT_FILE=\(folder.file("cert.pem"))" }
    if !setup.isEmpty { before += "; " + setup }
    return try Tool(name: tool).run(arguments, after: before)
  }

  func quantize(
    _ arguments: [String], token: String? = nil, trusted: Bool = true, setup: String = ""
  ) throws -> Tool.Result {
    try run("rwkv-quantize", arguments, token: token, trusted: trusted, setup: setup)
  }

  /// Whether libcurl is here, without which nothing can be read from a hub.
  static let isReachable: Bool = {
    guard dlopen("libcurl.so.4", RTLD_LAZY) != nil || dlopen("libcurl-gnutls.so.4", RTLD_LAZY) != nil else {
      print("libcurl is not installed: tests of reading over the network are skipped")
      return false
    }
    return true
  }()
}
