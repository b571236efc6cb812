// SPDX-License-Identifier: MIT
import RWKVCheckpoint
import Remote
import Synchronization

/// A server whose answers stand between zero bytes: lines of a head, an empty line, a body. A part of a file, all of it
/// and a small file are asked for, until there are no more answers.
func askServer(_ input: [UInt8]) {
  let answers = input.split(separator: 0, omittingEmptySubsequences: false)
  let hub = Address("https://hub.example/owner/r/resolve/main/model")
  let next = Mutex(0)
  let web = Web(
    token: ("https://hub.example:443", "secret"), isInsecure: false,
    get: { address, _, headers, limit in
      let isHere = address.host.allSatisfy { "0123456789.".contains($0) } && address.host.hasPrefix("127.")
      precondition(
        address.scheme == "https" || isHere || ["localhost", "[::1]"].contains(address.host),
        "\(address) in the clear")
      precondition(
        headers.isEmpty || address.host == "hub.example" && address.port == 443,
        "the token went to \(address)")
      let answer = Answer(limit: limit)
      let index = next.withLock { index in
        index += 1
        return index - 1
      }
      guard index < answers.count else { return (answer, Problem("nobody is there any more", .untrusted)) }
      feed(answer, Array(answers[index]))
      return (answer, nil)
    }, wait: { _ in })
  guard let hub else { return }
  for (range, known) in [(10..<50, nil), (0..<40, 40)] {
    guard let part = try? web.part(hub, range, known: known) else { continue }
    precondition(part.bytes.count == min(range.upperBound, part.size) - range.lowerBound, "another part")
  }
  if case .some(.some(let bytes)) = try? web.file(hub, limit: 64) { precondition(bytes.count <= 64) }
  _ = RepositoryListing(input)
  _ = HubPlace(String(decoding: input, as: UTF8.self))
}

/// As libcurl hands it over: line by line, then the body in pieces.
private func feed(_ answer: Answer, _ bytes: [UInt8]) {
  var rest = bytes[...]
  while let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
    let line = rest[...end]
    rest = rest[(end + 1)...]
    line.withUnsafeBytes { answer.takeHeader($0) }
    if line.count == 1 { break }
  }
  while !rest.isEmpty {
    let isWanted = rest.prefix(16).withUnsafeBytes { answer.takeBody($0) }
    guard isWanted else { return }
    rest = rest.dropFirst(16)
  }
}
