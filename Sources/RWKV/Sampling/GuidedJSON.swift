// SPDX-License-Identifier: MIT
/// The beginning of a JSON text that is to fit a grammar, or is any object or array without one.
///
/// `JSONText` knows what JSON allows; this knows what of it the grammar does. Where more than one way of fitting is
/// open, all are followed. No way is ever followed that could not be written to its end.
struct GuidedJSON: Sendable {
  private(set) var text = JSONText()
  private var ways: [Way] = []

  /// More are forgotten, which only makes the text narrower.
  private static let mostWays = 64

  /// A container that is open.
  private struct Container: Hashable {
    let rule: Int
    /// Elements that have begun; of an object the first member that may still come.
    var count = 0
    /// The member whose value comes; nil: another one, that the grammar does not name.
    var member: Int?
  }

  /// One way in which the text fits so far.
  private struct Way: Hashable {
    var containers: [Container] = []
    /// The rule of the value that is being written, no container of the grammar.
    var value: Int?
    /// Where in the tree of its literal or of the names of members the way is; nil: in none.
    var node: Int32?
  }

  init(_ grammar: JSONGrammar?) { if grammar != nil { ways = [Way()] } }

  /// Whether a string's next character must stand here, any that JSON allows, or its end.
  var isWithinFreeString: Bool {
    text.isWithinString && (ways.isEmpty || ways.contains { $0.node == nil })
  }

  var isComplete: Bool { text.isComplete }

  /// Adds a byte; false if it cannot stand here, and then the text is of no use any more.
  mutating func push(_ byte: UInt8, _ grammar: JSONGrammar?) -> Bool {
    let before = text
    guard text.push(byte) else { return false }
    guard let grammar else { return true }
    // Whoever asks for a shape wants its contents: one space or line break between parts is enough.
    guard text.spaces <= 1 else { return false }
    if before.place.isInString && text.place.isInString && !before.isKey
      && ways.allSatisfy({ $0.node == nil })
    {
      return true
    }
    var next: [Way] = []
    for way in ways {
      Step(grammar, byte, before, text).follow(way) { way in
        if next.count < Self.mostWays && !next.contains(way) { next.append(way) }
      }
    }
    ways = next
    return !ways.isEmpty
  }

  /// One byte, which JSON allows.
  private struct Step {
    let grammar: JSONGrammar
    let byte: UInt8
    let before: JSONText
    let after: JSONText

    init(_ grammar: JSONGrammar, _ byte: UInt8, _ before: JSONText, _ after: JSONText) {
      (self.grammar, self.byte, self.before, self.after) = (grammar, byte, before, after)
    }

    private var isSpace: Bool { byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 }
    private var character: Unicode.Scalar { Unicode.Scalar(byte) }
    private var hasEnded: Bool { after.place == .afterValue || after.place == .end }

    /// Hands out the ways in which a way goes on with the byte.
    func follow(_ way: Way, _ take: (Way) -> Void) {
      var way = way
      if let rule = way.value, case .literals(let texts) = grammar.kinds[rule], let node = way.node {
        if let next = texts.step(node, byte) {
          way.node = next
          if texts.text(endingAt: next) != nil && hasEnded { (way.value, way.node) = (nil, nil) }
          return take(way)
        }
        // A number ends where another byte comes.
        let hasNumberEnded = before.place.isInNumber && !after.place.isInNumber
        guard texts.text(endingAt: node) != nil, hasNumberEnded else { return }
        (way.value, way.node) = (nil, nil)
        return between(way, take)
      }
      switch before.place {
      case .value, .elementOrEnd:
        if isSpace { return take(way) }
        if character == "]" { return close(way, take) }
        begin(way, take)
      case .key, .keyOrEnd:
        if isSpace { return take(way) }
        if character == "}" { return close(way, take) }
        guard let container = way.containers.last, hasMore(container) else { return }
        if case .object(_, let members, _) = grammar.kinds[container.rule], !members.isEmpty { way.node = 0 }
        take(way)
      case .colon: take(way)
      case .afterValue: between(way, take)
      case .string, .escape, .hexadecimal, .continuation:
        if before.isKey { return key(way, take) }
        if hasEnded { way.value = nil }
        take(way)
      case .literal:
        if hasEnded { way.value = nil }
        take(way)
      case .minus, .zero, .integer, .point, .fraction, .exponent, .exponentSign, .exponentDigits:
        if after.place.isInNumber {
          let isDigit = (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte)
          if let rule = way.value, case .integer = grammar.kinds[rule], !isDigit { return }
          return take(way)
        }
        way.value = nil
        between(way, take)
      case .end: return
      }
    }

    /// A value begins.
    private func begin(_ way: Way, _ take: (Way) -> Void) {
      var way = way
      let rule: Int
      if let container = way.containers.last {
        switch grammar.kinds[container.rule] {
        case .array(let items, let count):
          guard container.count < count.upperBound else { return }
          way.containers[way.containers.count - 1].count += 1
          rule = items
        case .object(_, let members, let others):
          rule = container.member.map { members[$0].value } ?? others ?? 0
        default: return
        }
      } else {
        rule = grammar.root
      }
      for alternative in grammar.alternatives[rule] where fits(alternative, before.depth) {
        begin(alternative, way, take)
      }
    }

    private func begin(_ rule: Int, _ way: Way, _ take: (Way) -> Void) {
      var way = way
      switch (grammar.kinds[rule], character) {
      case (.any, "{"): way.containers.append(Container(rule: JSONGrammar.anyObject))
      case (.any, "["): way.containers.append(Container(rule: JSONGrammar.anyArray))
      case (.object, "{"), (.array, "["): way.containers.append(Container(rule: rule))
      case (.any, _), (.string, "\""), (.number, "-"), (.number, "0"..."9"), (.integer, "-"),
        (.integer, "0"..."9"):
        way.value = rule
      case (.literals(let texts), _):
        guard let node = texts.step(0, byte) else { return }
        (way.value, way.node) = (rule, node)
      default: return
      }
      take(way)
    }

    /// Whether a value of a rule can be written where so many containers are open.
    private func fits(_ rule: Int, _ depth: Int) -> Bool { depth + grammar.heights[rule] <= JSONText.deepest }

    /// What may come after a value.
    private func between(_ way: Way, _ take: (Way) -> Void) {
      if isSpace { return take(way) }
      guard character == "," else { return close(way, take) }
      guard let container = way.containers.last, hasMore(container) else { return }
      take(way)
    }

    private func close(_ way: Way, _ take: (Way) -> Void) {
      var way = way
      guard let container = way.containers.popLast() else { return }
      switch grammar.kinds[container.rule] {
      case .array(_, let count): guard container.count >= count.lowerBound else { return }
      case .object(_, let members, _):
        guard !members[container.count...].contains(where: \.isRequired) else { return }
      default: return
      }
      take(way)
    }

    /// Whether a further element or member can stand in a container.
    private func hasMore(_ container: Container) -> Bool {
      switch grammar.kinds[container.rule] {
      case .array(let items, let count):
        container.count < count.upperBound && fits(items, before.depth)
      case .object(_, let members, let others):
        allowsOthers(others) || members.indices.contains { mayCome($0, container, members) }
      default: false
      }
    }

    private func allowsOthers(_ rule: Int?) -> Bool { rule.map { fits($0, before.depth) } ?? false }

    /// Whether a member may come next: in order, and none that is required is left out.
    private func mayCome(
      _ member: Int, _ container: Container, _ members: [(value: Int, isRequired: Bool)]
    ) -> Bool {
      member >= container.count && fits(members[member].value, before.depth)
        && !members[container.count..<member].contains(where: \.isRequired)
    }

    /// A byte of a key, or the quote after it.
    private func key(_ way: Way, _ take: (Way) -> Void) {
      var way = way
      guard let container = way.containers.last,
        case .object(let names, let members, let others) = grammar.kinds[container.rule]
      else { return }
      let next = way.node.flatMap { names.step($0, byte) }
      let last = way.containers.count - 1
      way.node = next
      if after.place == .colon {
        way.node = nil
        if let member = next.flatMap({ names.text(endingAt: $0) }) {
          guard mayCome(member, container, members) else { return }
          (way.containers[last].count, way.containers[last].member) = (member + 1, member)
        } else {
          guard allowsOthers(others) else { return }
          way.containers[last].member = nil
        }
        return take(way)
      }
      let leadsToMember =
        next.map { names.texts($0).contains { mayCome(Int($0), container, members) } } ?? false
      // An escape could write the name of a member in another way.
      let escapes = character == "\\" || before.place == .escape || before.place == .hexadecimal
      if leadsToMember || (allowsOthers(others) && (members.isEmpty || !escapes)) { take(way) }
    }
  }
}
