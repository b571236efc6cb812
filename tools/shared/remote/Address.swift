// SPDX-License-Identifier: MIT

/// An http or https URL without a user's name, read strictly: who is asked must not depend on who reads it.
package struct Address: Sendable, Equatable {
  /// "http" or "https".
  package let scheme: String
  /// The host in small letters; IPv6 in its brackets.
  package let host: String
  package let port: Int
  /// Path and query, from the slash on; other characters than visible ASCII are encoded.
  package let target: String

  package init?(_ text: String) {
    guard text.utf8.count <= 16 << 10, let mark = text.firstRange(of: "://") else { return nil }
    scheme = text[..<mark.lowerBound].lowercased()
    guard let usualPort = Self.usualPorts[scheme] else { return nil }
    let authority = text[mark.upperBound...].prefix { !"/?#".contains($0) }
    let isBracketed = authority.hasPrefix("[")
    let name = isBracketed ? authority.prefix { $0 != "]" } + "]" : authority.prefix { $0 != ":" }
    guard authority.hasPrefix(name) else { return nil }
    let rest = authority.dropFirst(name.count)
    let letters = isBracketed ? name.dropFirst().dropLast() : name
    guard !letters.isEmpty, letters.utf8.allSatisfy({ Self.isHostLetter($0) || isBracketed && $0 == 0x3A })
    else { return nil }
    if rest.isEmpty {
      port = usualPort
    } else {
      guard rest.first == ":", let number = decimalNumber(rest.dropFirst()), (1...65535).contains(number)
      else {
        return nil
      }
      port = number
    }
    host = name.lowercased()
    let path = text[authority.endIndex...].prefix { $0 != "#" }
    guard !path.utf8.contains(where: { $0 < 0x20 || $0 == 0x7F }) else { return nil }
    target = (path.hasPrefix("/") ? "" : "/") + path.utf8.map(Self.encoded).joined()
  }

  private static let usualPorts = ["http": 80, "https": 443]

  private static func isHostLetter(_ byte: UInt8) -> Bool {
    let letter = Character(UnicodeScalar(byte))
    return letter.isASCII && (letter.isLetter || letter.isNumber || "-._".contains(letter))
  }

  private static func encoded(_ byte: UInt8) -> String {
    (0x21...0x7E).contains(byte) ? String(UnicodeScalar(byte)) : percentEncoded(byte)
  }

  /// Those who are meant by it: a secret for one origin is for no other.
  var origin: String { "\(scheme)://\(host):\(port)" }

  private var root: String { "\(scheme)://\(host)" + (port == Self.usualPorts[scheme] ? "" : ":\(port)") }

  package var text: String { root + target }

  /// The address as messages show it: without its query, which may hold a secret.
  package var shown: String { root + target.prefix { $0 != "?" } }

  /// Whether it is on this machine.
  var isLocal: Bool {
    let numbers = host.split(separator: ".", omittingEmptySubsequences: false).map(decimalNumber)
    return host == "localhost" || host == "[::1]"
      || numbers.count == 4 && numbers[0] == 127 && numbers.allSatisfy { (0...255).contains($0 ?? -1) }
  }

  /// What a `Location` of this one's answer means.
  package func resolving(_ location: String) -> Address? {
    if location.contains("://"), let address = Address(location) { return address }
    if location.hasPrefix("//") { return Address(scheme + ":" + location) }
    if location.hasPrefix("/") { return Address(root + location) }
    guard !location.isEmpty, !location.prefix(while: { !"/?#".contains($0) }).contains(":") else {
      return nil
    }
    let path = target.prefix { $0 != "?" }
    if location.hasPrefix("?") { return Address(root + path + location) }
    return Address(root + path[...(path.lastIndex(of: "/") ?? path.startIndex)] + location)
  }
}

/// What was given as an address, for messages: without what may be a secret in it.
package func shownAddress(_ text: String) -> String {
  if let address = Address(text) { return address.shown }
  guard let mark = text.firstRange(of: "://") else { return text }
  let rest = text[mark.upperBound...].prefix { !"?#".contains($0) }
  return text[..<mark.upperBound] + (rest.lastIndex(of: "@").map { "…" + rest[$0...] } ?? String(rest))
}

/// Digits and nothing else, up to 2⁵³.
func decimalNumber(_ text: some StringProtocol) -> Int? {
  guard (1...16).contains(text.utf8.count), text.utf8.allSatisfy({ (48...57).contains($0) }),
    let number = Int(text), number <= 1 << 53
  else { return nil }
  return number
}

/// `text` as a part of a URL's path; `keeping`: what stays beside letters, digits and -._~
func percentEncoded(_ text: String, keeping: String = "/") -> String {
  text.utf8.map { byte in
    let letter = Character(UnicodeScalar(byte))
    let stays = letter.isASCII && (letter.isLetter || letter.isNumber || ("-._~" + keeping).contains(letter))
    return stays ? String(letter) : percentEncoded(byte)
  }.joined()
}

/// What `percentEncoded` was made of; nil where it is no UTF-8.
func percentDecoded(_ text: some StringProtocol) -> String? {
  var (bytes, rest) = ([UInt8](), text.utf8[...])
  while let byte = rest.popFirst() {
    let digits = String(decoding: rest.prefix(2), as: UTF8.self)
    if byte == UInt8(ascii: "%"), digits.allSatisfy(\.isHexDigit), let value = UInt8(digits, radix: 16) {
      bytes.append(value)
      rest = rest.dropFirst(2)
    } else {
      bytes.append(byte)
    }
  }
  return String(validating: bytes, as: UTF8.self)
}

private func percentEncoded(_ byte: UInt8) -> String {
  "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
}
