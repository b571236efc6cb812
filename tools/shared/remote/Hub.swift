// SPDX-License-Identifier: MIT
import Glibc
import RWKVCheckpoint
import Terminal

/// `hf:OWNER/REPO[/PATH][@REVISION]`
package struct HubPlace: Sendable {
  package let repository: String
  /// Of a file or a folder in it; empty: all.
  package let path: String
  let revision: String?

  package init?(_ text: String) {
    guard text.hasPrefix("hf:") else { return nil }
    let body = text.dropFirst(3)
    let at = body.lastIndex(of: "@")
    let parts = body[..<(at ?? body.endIndex)].split(separator: "/")
    guard parts.count >= 2, !parts.contains(".."), !parts.contains("."), !text.utf8.contains(0) else {
      return nil
    }
    repository = parts[..<2].joined(separator: "/")
    path = parts[2...].joined(separator: "/")
    revision = at.map { String(body[body.index(after: $0)...]) }
  }

  /// What it is called among models.
  package var name: String {
    let last = (path.isEmpty ? repository : path).split(separator: "/").last ?? ""
    let dot = last.lastIndex(of: ".").flatMap {
      foreignEndings.contains(String(last[last.index(after: $0)...])) ? $0 : nil
    }
    return String(last[..<(dot ?? last.endIndex)])
  }
}

/// Where checkpoints are published: lists of files, and their bytes.
struct Hub: Sendable {
  /// Without a slash at its end.
  private let endpoint: String
  private let root: Address
  let web: Web

  private static let longestListing = 16 << 20

  /// As HF_ENDPOINT, HF_TOKEN and its file say.
  init(isInsecure: Bool) throws {
    let given = variable("HF_ENDPOINT")
    endpoint =
      given.isEmpty ? "https://huggingface.co" : given.hasSuffix("/") ? String(given.dropLast()) : given
    guard let root = Address(endpoint) else { throw CommandError("HF_ENDPOINT: \(endpoint) is no address") }
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

  /// Of a file at one commit.
  func address(of path: String, in place: HubPlace, commit: String) throws -> Address {
    try address("/\(percentEncoded(place.repository))/resolve/\(commit)/\(percentEncoded(path))")
  }

  private func address(_ path: String) throws -> Address {
    guard let address = Address(endpoint + path) else {
      throw CommandError("\(path): too long for an address")
    }
    return address
  }

  /// HF_TOKEN, or the file in which the hub's own programs keep it. Never shown.
  private static func token() -> String? {
    let home = variable("HF_HOME").isEmpty ? variable("HOME") + "/.cache/huggingface" : variable("HF_HOME")
    let file = variable("HF_TOKEN_PATH").isEmpty ? home + "/token" : variable("HF_TOKEN_PATH")
    var text = variable("HF_TOKEN")
    if text.isEmpty, let content = try? readFile(file) {
      text = String(decoding: content.prefix(4096), as: UTF8.self)
    }
    let secret = text.filter { !$0.isWhitespace && $0.isASCII }
    return secret.isEmpty ? nil : secret
  }
}
