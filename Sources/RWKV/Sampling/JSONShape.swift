// SPDX-License-Identifier: MIT
import RWKVFormat

/// What a JSON text must be like: of a type, with certain members, one of some values.
public indirect enum JSONShape: Sendable, Equatable {
  /// A member of an object.
  public struct Member: Sendable, Equatable {
    /// The name of the member.
    public let name: String
    /// The shape of its value.
    public let value: JSONShape
    /// Whether an object without the member does not fit.
    public let isRequired: Bool

    /// Makes a member, required unless it is said otherwise.
    public init(_ name: String, _ value: JSONShape, isRequired: Bool = true) {
      (self.name, self.value, self.isRequired) = (name, value, isRequired)
    }
  }

  case any
  case string
  case number
  /// A number without fraction and exponent.
  case integer
  /// One of some values, each as its JSON text without white space.
  case oneOf([String])
  case array(of: JSONShape, count: ClosedRange<Int>)
  /// Members in this order; among them may be `others`, under other names. Nil: there are no others.
  case object([Member], others: JSONShape?)
  case either([JSONShape])
  /// One that has a name, so that it can occur within itself.
  case definition(String)
}

/// Why no text can be of a shape.
public enum JSONShapeError: Error, Sendable, Equatable, CustomStringConvertible {
  case unknownDefinition(String)
  case repeatedMember(String)
  /// What a value shall be is no JSON text.
  case invalidValue(String)
  /// A text is an object or an array, whose end can be seen.
  case notContainer
  /// Nothing fits, or only what nests more than 64 deep.
  case impossible
  case tooLarge(what: String, limit: Int)

  public var description: String {
    switch self {
    case .unknownDefinition(let name): "there is no definition '\(name)'"
    case .repeatedMember(let name): "the member '\(name)' occurs twice"
    case .invalidValue(let text): "'\(text)' is no JSON value"
    case .notContainer: "the text as a whole must be an object or an array"
    case .impossible: "nothing can be written that fits, within \(JSONText.deepest) levels of nesting"
    case .tooLarge(let what, let limit): "more than \(limit) \(what)"
    }
  }
}

/// A shape made ready to lead a text byte by byte.
public final class JSONGrammar: Sendable {
  enum Kind: Sendable {
    case any, string, number, integer
    case literals(ByteTrie)
    case array(items: Int, count: ClosedRange<Int>)
    /// Names are in the tree with their closing quote; `others` is a rule.
    case object(names: ByteTrie, members: [(value: Int, isRequired: Bool)], others: Int?)
    /// Any of several rules; gone once `alternatives` are known.
    case either([Int])
  }

  let kinds: [Kind]
  /// The rules that each rule stands for, none of them an `either`.
  let alternatives: [[Int]]
  /// Containers within each other that a value needs at least; `unreachable` if there is none.
  let heights: [Int]
  let root: Int

  private static let unreachable = 1 << 20
  private static let mostRules = 1 << 14
  private static let mostBytes = 1 << 20
  /// What an unrestricted object and an unrestricted array are.
  static let (anyObject, anyArray) = (1, 2)

  /// Any object.
  public static let object: JSONGrammar = {
    // Nothing in it can be wrong.
    do { return try JSONGrammar(.object([], others: .any)) } catch { preconditionFailure("\(error)") }
  }()

  /// - Parameter definitions: what `.definition` stands for.
  public init(_ shape: JSONShape, definitions: [String: JSONShape] = [:]) throws(JSONShapeError) {
    var compiler = Compiler(definitions: definitions)
    root = try compiler.compile(shape)
    kinds = compiler.kinds
    alternatives = kinds.indices.map { compiler.alternatives(of: $0) }
    heights = Self.heights(kinds)
    for rule in alternatives[root] {
      switch kinds[rule] {
      case .any, .array, .object: break
      case .literals(let texts) where texts.beginsWithContainers: break
      default: throw .notContainer
      }
    }
    guard heights[root] <= JSONText.deepest else { throw .impossible }
  }

  private static func heights(_ kinds: [Kind]) -> [Int] {
    var heights = [Int](repeating: unreachable, count: kinds.count)
    var isStable = false
    while !isStable {
      isStable = true
      for (rule, kind) in kinds.enumerated() {
        let height =
          switch kind {
          case .any, .string, .number, .integer: 0
          case .literals(let texts): texts.isEmpty ? unreachable : texts.deepest
          case .array(let items, let count): count.lowerBound > 0 ? 1 + heights[items] : 1
          case .object(_, let members, _):
            1 + (members.filter(\.isRequired).map { heights[$0.value] }.max() ?? 0)
          case .either(let rules): rules.map { heights[$0] }.min() ?? unreachable
          }
        if min(height, unreachable) < heights[rule] {
          heights[rule] = height
          isStable = false
        }
      }
    }
    return heights
  }

  private struct Compiler {
    let definitions: [String: JSONShape]
    var kinds: [Kind]
    private var known: [String: Int] = [:]
    private var bytes = 0

    init(definitions: [String: JSONShape]) {
      self.definitions = definitions
      kinds = [
        .any, .object(names: ByteTrie([]), members: [], others: 0), .array(items: 0, count: 0 ... .max),
      ]
    }

    private mutating func add(_ kind: Kind) throws(JSONShapeError) -> Int {
      guard kinds.count < mostRules else { throw .tooLarge(what: "parts", limit: mostRules) }
      kinds.append(kind)
      return kinds.count - 1
    }

    mutating func compile(_ shape: JSONShape) throws(JSONShapeError) -> Int {
      switch shape {
      case .any: return 0
      case .string: return try add(.string)
      case .number: return try add(.number)
      case .integer: return try add(.integer)
      case .oneOf(let texts):
        for text in texts where !JSONText.isValue(text) { throw .invalidValue(text) }
        return try add(.literals(try trie(texts.map { Array($0.utf8) })))
      case .array(let items, let count):
        return try add(.array(items: try compile(items), count: count))
      case .object(let members, let others): return try object(members, others)
      case .either(let shapes):
        var rules: [Int] = []
        for shape in shapes { rules.append(try compile(shape)) }
        return try add(.either(rules))
      case .definition(let name):
        if let rule = known[name] { return rule }
        guard let shape = definitions[name] else { throw .unknownDefinition(name) }
        let rule = try add(.either([]))
        known[name] = rule
        kinds[rule] = .either([try compile(shape)])
        return rule
      }
    }

    private mutating func object(
      _ members: [JSONShape.Member], _ others: JSONShape?
    ) throws(JSONShapeError) -> Int {
      var names: Set<String> = []
      var values: [(Int, Bool)] = []
      for member in members {
        guard names.insert(member.name).inserted else { throw .repeatedMember(member.name) }
        values.append((try compile(member.value), member.isRequired))
      }
      let keys = members.map { Array(JSONValue.escaped($0.name).utf8) + [UInt8(ascii: "\"")] }
      let rest: Int? = if let others { try compile(others) } else { nil }
      return try add(.object(names: try trie(keys), members: values, others: rest))
    }

    private mutating func trie(_ texts: [[UInt8]]) throws(JSONShapeError) -> ByteTrie {
      bytes += texts.reduce(0) { $0 + $1.count }
      guard bytes <= mostBytes else { throw .tooLarge(what: "bytes of names and values", limit: mostBytes) }
      return ByteTrie(texts)
    }

    func alternatives(of rule: Int) -> [Int] {
      var (found, seen, waiting) = ([Int](), Set<Int>(), [rule])
      while let next = waiting.popLast() {
        guard seen.insert(next).inserted else { continue }
        if case .either(let rules) = kinds[next] { waiting += rules.reversed() } else { found.append(next) }
      }
      return found
    }
  }
}

/// Texts as a tree of their bytes.
struct ByteTrie: Sendable {
  private struct Node: Sendable {
    var next: [(byte: UInt8, node: Int32)] = []
    /// Texts that go through the node.
    var texts: [Int32] = []
    /// The text that ends here.
    var end: Int32 = -1
  }

  private var nodes = [Node()]
  /// Whether all texts are objects or arrays.
  let beginsWithContainers: Bool
  /// Containers within each other at most.
  let deepest: Int

  init(_ texts: [[UInt8]]) {
    beginsWithContainers = texts.allSatisfy { $0.first == UInt8(ascii: "{") || $0.first == UInt8(ascii: "[") }
    deepest = texts.map(Self.depth).max() ?? 0
    for (index, text) in texts.enumerated() {
      var place = 0
      nodes[0].texts.append(Int32(index))
      for byte in text {
        if let next = step(Int32(place), byte) {
          place = Int(next)
        } else {
          nodes[place].next.append((byte, Int32(nodes.count)))
          place = nodes.count
          nodes.append(Node())
        }
        nodes[place].texts.append(Int32(index))
      }
      nodes[place].end = Int32(index)
    }
  }

  private static func depth(_ text: [UInt8]) -> Int {
    var (automaton, deepest) = (JSONText(), 0)
    for byte in text where automaton.push(byte) { deepest = max(deepest, automaton.depth) }
    return deepest
  }

  var isEmpty: Bool { nodes[0].texts.isEmpty }

  func step(_ node: Int32, _ byte: UInt8) -> Int32? {
    nodes[Int(node)].next.first { $0.byte == byte }?.node
  }

  /// Texts that go through a node.
  func texts(_ node: Int32) -> [Int32] { nodes[Int(node)].texts }
  /// The text that ends at a node; nil: none does.
  func text(endingAt node: Int32) -> Int? { nodes[Int(node)].end < 0 ? nil : Int(nodes[Int(node)].end) }
}
