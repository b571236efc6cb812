// SPDX-License-Identifier: MIT
public import RWKVFormat

/// What is wrong with a JSON Schema.
public struct JSONSchemaError: Error, Sendable, Equatable, CustomStringConvertible {
  /// What is wrong, as a sentence.
  public let description: String
  /// Where in the schema it is wrong: names with points between them, of which the first is the schema's own.
  public let place: String

  init(_ description: String, _ place: String) { (self.description, self.place) = (description, place) }
}

/// Reads a JSON Schema as a shape that a text is held to while it is written.
///
/// What is known is in docs/serving.md; another keyword is an error that names it, because a text that ignored it might
/// not fit.
public struct JSONSchema {
  private static let annotations: Set<String> = [
    "title", "description", "default", "examples", "$schema", "$id", "$comment", "deprecated", "readOnly",
    "writeOnly",
  ]
  private static let definitions = ["$defs", "definitions"]

  /// What the schema is called in errors.
  private let field: String
  /// What stands before the names of definitions.
  private let prefix: String

  /// What a text must be that fits a schema. Throws `JSONSchemaError`.
  ///
  /// - Parameter field: what the schema is called in errors.
  public static func grammar(_ schema: JSONValue, _ field: String) throws -> JSONGrammar {
    let (shape, definitions) = try shapes(schema, field)
    do { return try JSONGrammar(shape, definitions: definitions) } catch {
      throw JSONSchemaError("The schema in '\(field)' cannot be used: \(error).", field)
    }
  }

  /// The shapes of a schema and of its definitions. Throws `JSONSchemaError`.
  ///
  /// - Parameter prefix: stands before the names of definitions, so that those of several schemas differ.
  public static func shapes(
    _ schema: JSONValue, _ field: String, prefix: String = ""
  ) throws -> (JSONShape, [String: JSONShape]) {
    let reader = JSONSchema(field: field, prefix: prefix)
    var shapes: [String: JSONShape] = [:]
    for list in definitions {
      guard case .object(let members, _)? = schema[list] else { continue }
      for (name, definition) in members {
        shapes["\(prefix)#/\(list)/\(name)"] = try reader.shape(definition, "\(field).\(list).\(name)")
      }
    }
    let shape = try reader.shape(schema, field)
    shapes["\(prefix)#"] = shape
    return (shape, shapes)
  }

  private func wrong(_ place: String, _ expected: String) -> JSONSchemaError {
    JSONSchemaError("'\(place)' must be \(expected).", place)
  }

  private func shape(_ schema: JSONValue, _ place: String) throws -> JSONShape {
    if case .bool(let fits) = schema {
      guard fits else { throw JSONSchemaError("Nothing fits the schema in '\(place)'.", place) }
      return .any
    }
    guard case .object(let members, _) = schema else { throw wrong(place, "a schema") }
    let hidden = Self.annotations.union(place == field ? Self.definitions : [])
    var keywords: [String: JSONValue] = [:]
    for (name, value) in members where !hidden.contains(name) {
      guard Self.known.contains(name) else {
        throw JSONSchemaError(
          "The keyword '\(name)' of JSON Schema is not supported here.", "\(place).\(name)")
      }
      keywords[name] = value
    }
    for alone in ["$ref", "anyOf"] where keywords[alone] != nil {
      if let other = keywords.keys.sorted().first(where: { $0 != alone }) {
        throw JSONSchemaError("'\(other)' beside '\(alone)' is not supported here.", "\(place).\(other)")
      }
    }
    if let reference = keywords["$ref"] {
      guard case .string(let name) = reference, name.hasPrefix("#") else {
        throw wrong("\(place).$ref", "a reference within the schema, as #/$defs/NAME")
      }
      return .definition(prefix + name.replacing("~1", with: "/").replacing("~0", with: "~"))
    }
    if let any = keywords["anyOf"] {
      guard case .array(let schemas) = any else { throw wrong("\(place).anyOf", "a list of schemas") }
      return .either(try schemas.enumerated().map { try shape($1, "\(place).anyOf[\($0)]") })
    }
    let types = try types(keywords, place)
    if let values = try values(keywords, place) {
      return .oneOf(
        values.filter { value in types?.contains { Self.isValue(value, of: $0) } ?? true }.map(Self.text))
    }
    guard let types else { return .any }
    let shapes = try types.map { try shape(of: $0, keywords, place) }
    return shapes.count == 1 ? shapes[0] : .either(shapes)
  }

  private static let known: Set<String> = [
    "type", "properties", "required", "additionalProperties", "items", "minItems", "maxItems", "enum",
    "const",
    "anyOf", "$ref",
  ]

  /// Names of types; nil: any type.
  private func types(_ keywords: [String: JSONValue], _ place: String) throws -> [String]? {
    let expected = wrong(
      "\(place).type", "object, array, string, number, integer, boolean, null or a list of them")
    switch keywords["type"] {
    case nil:
      if ["properties", "required", "additionalProperties"].contains(where: { keywords[$0] != nil }) {
        return ["object"]
      }
      return ["items", "minItems", "maxItems"].contains { keywords[$0] != nil } ? ["array"] : nil
    case .string(let type)?: return [type]
    case .array(let types)?:
      return try types.map { type in
        guard case .string(let name) = type else { throw expected }
        return name
      }
    default: throw expected
    }
  }

  private func values(_ keywords: [String: JSONValue], _ place: String) throws -> [JSONValue]? {
    if let value = keywords["const"] { return [value] }
    guard let list = keywords["enum"] else { return nil }
    guard case .array(let values) = list else { throw wrong("\(place).enum", "a list of values") }
    return values
  }

  private static func isValue(_ value: JSONValue, of type: String) -> Bool {
    switch (type, value) {
    case ("object", .object), ("array", .array), ("string", .string), ("number", .number), ("boolean", .bool),
      ("null", .null):
      true
    case ("integer", .number(let text)): isInteger(text)
    default: false
    }
  }

  /// Whether a number is whole, of any size; 2.0 and 2e3 are.
  private static func isInteger(_ text: String) -> Bool {
    let isWhole = !text.utf8.contains { ".eE".utf8.contains($0) }
    return isWhole || Double(text).map { $0.rounded() == $0 } ?? false
  }

  /// A whole number, also where it is written as 2.0 or 2e3; nil for anything else.
  private static func integer(_ value: JSONValue) -> Int? {
    guard case .number(let text) = value else { return nil }
    return Int(text) ?? Int(exactly: Double(text) ?? .nan)
  }

  /// A value as JSON on one line, without white space; numbers are written as in the schema.
  private static func text(_ value: JSONValue) -> String {
    switch value {
    case .null: "null"
    case .bool(let flag): flag ? "true" : "false"
    case .number(let text): text
    case .string(let text): quoted(text)
    case .array(let values): "[" + values.map(text).joined(separator: ",") + "]"
    case .object(let members, let order):
      "{" + order.map { quoted($0) + ":" + text(members[$0] ?? .null) }.joined(separator: ",") + "}"
    }
  }

  private static func quoted(_ text: String) -> String { "\"\(JSONValue.escaped(text))\"" }

  private func shape(of type: String, _ keywords: [String: JSONValue], _ place: String) throws -> JSONShape {
    switch type {
    case "string": return .string
    case "number": return .number
    case "integer": return .integer
    case "boolean": return .oneOf(["true", "false"])
    case "null": return .oneOf(["null"])
    case "array":
      let least = try count(keywords, "minItems", place) ?? 0
      let most = try count(keywords, "maxItems", place) ?? .max
      guard least <= most else { throw wrong("\(place).maxItems", "at least minItems") }
      let items = try keywords["items"].map { try shape($0, "\(place).items") } ?? .any
      return .array(of: items, count: least...most)
    case "object": return try object(keywords, place)
    default:
      throw wrong("\(place).type", "object, array, string, number, integer, boolean, null or a list of them")
    }
  }

  private func count(_ keywords: [String: JSONValue], _ name: String, _ place: String) throws -> Int? {
    guard let value = keywords[name] else { return nil }
    guard let count = Self.integer(value), count >= 0 else { throw wrong("\(place).\(name)", "a count") }
    return count
  }

  private func object(_ keywords: [String: JSONValue], _ place: String) throws -> JSONShape {
    var properties: [(String, JSONValue)] = []
    switch keywords["properties"] {
    case nil: break
    case .object(let members, let order)?: properties = order.map { ($0, members[$0] ?? .null) }
    default: throw wrong("\(place).properties", "an object")
    }
    var required: [String] = []
    switch keywords["required"] {
    case nil: break
    case .array(let names)?:
      required = try names.map { name in
        guard case .string(let text) = name else { throw wrong("\(place).required", "a list of names") }
        return text
      }
    default: throw wrong("\(place).required", "a list of names")
    }
    // Without a word about others there are none beside those that are named.
    var others: JSONShape? = properties.isEmpty ? .any : nil
    switch keywords["additionalProperties"] {
    case nil: break
    case .bool(false)?: others = nil
    case let schema?: others = try shape(schema, "\(place).additionalProperties")
    }
    var members = try properties.map { name, schema in
      JSONShape.Member(
        name, try shape(schema, "\(place).properties.\(name)"), isRequired: required.contains(name))
    }
    for name in required where !members.contains(where: { $0.name == name }) {
      guard let others else {
        throw JSONSchemaError("'\(name)' is required, but no property.", "\(place).required")
      }
      members.append(JSONShape.Member(name, others))
    }
    return .object(members, others: others)
  }
}
