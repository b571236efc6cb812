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
      return (answer, feed(answer, answers[index]) ? nil : Problem("no chunk"))
    }, clock: Web.Clock(now: { 0 }, wait: { _ in }), tell: { _ in })
  guard let hub else { return }
  for (range, known) in [(10..<50, nil), (0..<40, 40)] {
    guard let part = try? web.part(hub, range, known: known) else { continue }
    precondition(part.bytes.count == min(range.upperBound, part.size) - range.lowerBound, "another part")
  }
  if case .some(.some(let bytes)) = try? web.file(hub, limit: 64) { precondition(bytes.count <= 64) }
  _ = RepositoryListing(input)
  _ = HubPlace(String(decoding: input, as: UTF8.self))
}

/// Hands an answer over as libcurl does: line by line, then the body in pieces. A chunked body comes as it is cut, and
/// lines of a head may follow it. False where it is cut wrongly.
private func feed(_ answer: Answer, _ bytes: ArraySlice<UInt8>) -> Bool {
  var rest = bytes
  takeHead(answer, &rest)
  guard answer.headers["transfer-encoding"] == "chunked" else {
    takeBody(answer, rest)
    return true
  }
  while let line = takeLine(&rest) {
    let digits = String(decoding: line.prefix { !" ;\r\n".utf8.contains($0) }, as: UTF8.self)
    guard let count = Int(digits, radix: 16), count >= 0 else { return false }
    guard count > 0 else {
      takeHead(answer, &rest)
      return true
    }
    guard takeBody(answer, rest.prefix(count)) else { return true }
    rest = rest.dropFirst(count)
    _ = takeLine(&rest)
  }
  return false
}

private func takeLine(_ rest: inout ArraySlice<UInt8>) -> ArraySlice<UInt8>? {
  guard let end = rest.firstIndex(of: UInt8(ascii: "\n")) else { return nil }
  defer { rest = rest[(end + 1)...] }
  return rest[...end]
}

/// Hands over lines up to the empty one.
private func takeHead(_ answer: Answer, _ rest: inout ArraySlice<UInt8>) {
  while let line = takeLine(&rest) {
    line.withUnsafeBytes { answer.takeHeader($0) }
    if line.allSatisfy({ "\r\n".utf8.contains($0) }) { return }
  }
}

/// Hands over a body in pieces; false where no more is wanted.
@discardableResult
private func takeBody(_ answer: Answer, _ bytes: ArraySlice<UInt8>) -> Bool {
  for start in stride(from: bytes.startIndex, to: bytes.endIndex, by: 16) {
    let isWanted = bytes[start..<min(start + 16, bytes.endIndex)].withUnsafeBytes { answer.takeBody($0) }
    guard isWanted else { return false }
  }
  return true
}
