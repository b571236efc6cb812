// SPDX-License-Identifier: MIT
internal import RWKV

/// Why a template cannot be used.
public struct ChatTemplateError: Error, Sendable, Equatable, CustomStringConvertible {
  /// The template's name or file.
  public let name: String
  /// The number of the line, counted from 1; nil means the template as a whole.
  public let line: Int?
  /// What is wrong, with what was expected.
  public let problem: String

  public var description: String { "template \(name)\(line.map { ", line \($0)" } ?? ""): \(problem)" }
}

extension ChatTemplate {
  /// Longest template that is read [bytes].
  public static let maximumBytes = 1 << 16

  /// Reads a template: lines `key = value`, empty lines, and comments that begin with #.
  ///
  /// Texts stand in double quotes, with \n \t \" \\ for what cannot. `system` and `user` have {text} in them once.
  /// - Parameter name: for messages; the file's name.
  public init(parsing text: String, name: String) throws(ChatTemplateError) {
    self.init(name: name)
    guard text.utf8.count <= Self.maximumBytes else {
      throw ChatTemplateError(
        name: name, line: nil, problem: "\(text.utf8.count) bytes, expected at most \(Self.maximumBytes)")
    }
    var seen: Set<String> = []
    // Scalars: "\r\n" is one Character.
    let lines = text.unicodeScalars.split(separator: "\n", omittingEmptySubsequences: false)
    for (index, scalars) in lines.enumerated() {
      let line = String(scalars).trimmed
      guard !line.isEmpty, !line.hasPrefix("#") else { continue }
      do throws(Problem) {
        guard let equals = line.firstIndex(of: "=") else { throw Problem("expected key = value") }
        let key = line[..<equals].trimmed
        let name = key.split(whereSeparator: \.isWhitespace).joined(separator: " ")
        guard name == "stop" || seen.insert(name).inserted else {
          throw Problem("'\(name)' stands here a second time")
        }
        try set(name, line[line.index(after: equals)...].trimmed)
      } catch {
        throw ChatTemplateError(name: name, line: index + 1, problem: error.text)
      }
    }
    for key in ["user", "assistant"] where !seen.contains(key) {
      throw ChatTemplateError(name: name, line: nil, problem: "'\(key)' is missing")
    }
    do {
      var options = SamplingOptions()
      for (setting, number) in sampling.values { _ = options.set(setting, number) }
      try options.check()
    } catch {
      throw ChatTemplateError(name: name, line: nil, problem: "\(error)")
    }
  }

  private struct Problem: Error {
    let text: String
    init(_ text: String) { self.text = text }
  }

  private mutating func set(_ key: String, _ value: Substring) throws(Problem) {
    switch key {
    case "system": system = try Self.pattern(value)
    case "user": user = try Self.pattern(value)
    case "tool": tool = try Self.pattern(value)
    case "greeting": greeting = try Self.text(value)
    case "assistant": assistant = try Self.text(value)
    case "end": end = try Self.text(value)
    case "stop":
      let stop = try Self.text(value)
      guard !stop.isEmpty else { throw Problem("an empty stop string would end every answer at once") }
      stops.append(stop)
    case "clean":
      guard value == "on" || value == "off" else { throw Problem("'\(value)', expected on or off") }
      cleans = value == "on"
    case _ where key.hasPrefix("think ") && !key.dropFirst(6).contains(" "):
      let texts = try Self.texts(value)
      guard texts.count == 2 else {
        throw Problem(
          "\(texts.count) texts, expected two: what the message ends with, what the answer starts with")
      }
      thinking.append(Thinking(name: String(key.dropFirst(6)), message: texts[0], answer: texts[1]))
    default:
      guard let option = SamplingSetting(rawValue: key), option != .seed else {
        throw Problem("unknown key '\(key)'")
      }
      var probe = SamplingOptions()
      guard let number = Double(String(value)), probe.set(option, number) else {
        throw Problem("'\(value)' is not a number of the right kind")
      }
      sampling.values[option] = number
    }
  }

  private static func text(_ value: Substring) throws(Problem) -> String {
    let texts = try texts(value)
    guard texts.count == 1 else { throw Problem("\(texts.count) texts in quotes, expected one") }
    return texts[0]
  }

  private static func pattern(_ value: Substring) throws(Problem) -> Pattern {
    let parts = try text(value).split(placeholder: "{text}")
    guard parts.count == 2 else { throw Problem("{text} occurs \(parts.count - 1) times, expected once") }
    return Pattern(before: parts[0], after: parts[1])
  }

  /// The quoted texts of a value, of which there may be several with white space between them.
  private static func texts(_ value: Substring) throws(Problem) -> [String] {
    var (texts, rest) = ([String](), value.unicodeScalars[...])
    while true {
      rest = rest.drop { $0 == " " || $0 == "\t" }
      guard let quote = rest.popFirst() else { return texts }
      guard quote == "\"" else { throw Problem("expected a text in double quotes, found '\(quote)'") }
      var text = String.UnicodeScalarView()
      while true {
        guard let scalar = rest.popFirst() else { throw Problem("the closing quote is missing") }
        if scalar == "\"" { break }
        guard scalar == "\\" else {
          text.append(scalar)
          continue
        }
        switch rest.popFirst() {
        case "n": text.append("\n")
        case "t": text.append("\t")
        case "\"": text.append("\"")
        case "\\": text.append("\\")
        case let other:
          throw Problem("\\\(other.map { "\($0)" } ?? "") means nothing; there are \\n \\t \\\" \\\\")
        }
      }
      texts.append(String(text))
    }
  }
}

extension String {
  /// The parts between all occurrences of a text.
  fileprivate func split(placeholder: String) -> [String] {
    // Bytes: a combining mark after the placeholder must not hide it.
    var (parts, part, rest) = ([String](), [UInt8](), Array(utf8)[...])
    while let byte = rest.first {
      if rest.starts(with: placeholder.utf8) {
        parts.append(String(decoding: part, as: UTF8.self))
        part = []
        rest = rest.dropFirst(placeholder.utf8.count)
      } else {
        part.append(byte)
        rest = rest.dropFirst()
      }
    }
    return parts + [String(decoding: part, as: UTF8.self)]
  }
}
