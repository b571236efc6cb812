// SPDX-License-Identifier: MIT
import Glibc
import RWKVCheckpoint
import Terminal

/// `hf:OWNER/REPO[/PATH][@REVISION]`, or the address of a page there.
package struct HubPlace: Sendable {
  package let repository: String
  /// The path of a file or a folder in the repository; empty for all of it.
  package let path: String
  let revision: String?

  package init?(_ text: String) {
    if let page = Self.page(text) {
      self.init(page.parts, page.revision)
    } else {
      guard text.hasPrefix("hf:") else { return nil }
      let body = text.dropFirst(3)
      let at = body.lastIndex(of: "@")
      self.init(
        body[..<(at ?? body.endIndex)].split(separator: "/").map(String.init),
        at.map { String(body[body.index(after: $0)...]) })
    }
  }

  private init?(_ parts: [String], _ revision: String?) {
    guard parts.count >= 2, !parts.contains(where: { $0 == ".." || $0 == "." || $0.utf8.contains(0) }) else {
      return nil
    }
    (repository, path) = (parts[..<2].joined(separator: "/"), parts[2...].joined(separator: "/"))
    self.revision = revision
  }

  /// The parts of an address that a browser shows, or copies as a link:
  /// `ENDPOINT/OWNER/REPO[/tree|blob|resolve|raw/REVISION[/PATH]]`.
  private static func page(_ text: String) -> (parts: [String], revision: String?)? {
    guard text.hasPrefix(Hub.endpoint + "/") else { return nil }
    let path = text.dropFirst(Hub.endpoint.count).prefix { !"?#".contains($0) }
    let parts = path.split(separator: "/").compactMap { percentDecoded($0) }
    if parts.count == 2, !weightEndings.contains(where: parts[1].hasSuffix) { return (parts, nil) }
    guard parts.count >= 4, ["tree", "blob", "resolve", "raw"].contains(parts[2]) else { return nil }
    return (Array(parts[..<2] + parts[4...]), parts[3])
  }

  /// What it is called among models: as its file, or where that has the name that most have, as what it is in.
  package var name: String {
    let parts = (repository + "/" + path).split(separator: "/")
    guard let last = parts.last, parts.count > 2, let dot = last.lastIndex(of: "."),
      foreignEndings.contains(String(last[last.index(after: dot)...]))
    else { return String(parts.last ?? "") }
    let stem = last[..<dot]
    let isUsual = ["model", "pytorch_model"].contains { stem == $0 || stem.hasPrefix($0 + "-0") }
    return String(isUsual ? parts[parts.count - 2] : stem)
  }
}

/// What files with weights end in.
let weightEndings = [".safetensors", ".pth", ".pt", ".st", ".gguf", ".bin", ".ckpt"]

/// Where checkpoints are published: lists of files, and their bytes.
struct Hub: Sendable {
  /// HF_ENDPOINT, without a slash at its end.
  static let endpoint: String = {
    let given = variable("HF_ENDPOINT")
    return given.isEmpty ? "https://huggingface.co" : given.hasSuffix("/") ? String(given.dropLast()) : given
  }()
  private let root: Address
  let web: Web

  private static let longestListing = 16 << 20

  /// The hub that HF_ENDPOINT, HF_TOKEN and the token's file name.
  init(isInsecure: Bool) throws {
    guard let root = Address(Self.endpoint) else {
      throw CommandError("HF_ENDPOINT: \(shownAddress(Self.endpoint)) is no address")
    }
    self.root = root
    web = try Web(token: Self.token().map { (root.origin, $0) }, isInsecure: isInsecure)
  }

  func listing(_ place: HubPlace) throws -> RepositoryListing {
    let revision = place.revision.map { "/revision/" + percentEncoded($0, keeping: "") } ?? ""
    let address = try address("/api/models/\(percentEncoded(place.repository))\(revision)?blobs=true")
    guard let answer = try web.file(address, limit: Self.longestListing) else {
      throw CommandError("\(place.repository): no such repository or revision on \(root.shown)")
    }
    guard let listing = RepositoryListing(answer) else {
      throw CommandError("\(address.shown): no list of files")
    }
    return listing
  }

  /// The address of a file at one commit.
  func address(of path: String, in place: HubPlace, commit: String) throws -> Address {
    try address("/\(percentEncoded(place.repository))/resolve/\(commit)/\(percentEncoded(path))")
  }

  private func address(_ path: String) throws -> Address {
    guard let address = Address(Self.endpoint + path) else {
      throw CommandError("\(path): too long for an address")
    }
    return address
  }

  /// HF_TOKEN, or the file in which the hub's own programs keep it. Never shown.
  private static func token() -> String? {
    let cache = variable("XDG_CACHE_HOME").isEmpty ? variable("HOME") + "/.cache" : variable("XDG_CACHE_HOME")
    let home = variable("HF_HOME").isEmpty ? cache + "/huggingface" : variable("HF_HOME")
    let file = variable("HF_TOKEN_PATH").isEmpty ? home + "/token" : variable("HF_TOKEN_PATH")
    var text = variable("HF_TOKEN")
    if text.isEmpty, let content = try? readFile(file) {
      text = String(decoding: content.prefix(4096), as: UTF8.self)
    }
    let secret = text.filter { !$0.isWhitespace && $0.isASCII }
    return secret.isEmpty ? nil : secret
  }
}
