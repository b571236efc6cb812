// SPDX-License-Identifier: MIT
import RWKV

/// Reads a JSON Schema as a shape that a text is held to while it is written.
///
/// What is known is in docs/serving.md; another keyword is an error that names it, because a text that ignored it might
/// not fit.
struct Schema {
  private static let annotations: Set<String> = [
    "title", "description", "default", "examples", "$schema", "$id", "$comment", "deprecated", "readOnly",
    "writeOnly",
  ]
  private static let definitions = ["$defs", "definitions"]

  /// What a field of the request that has the schema is called.
  private let field: String
  /// What stands before the names of definitions.
  private let prefix: String

  /// What a text must be that fits a schema.
  static func grammar(_ schema: JSON, _ field: String) throws -> JSONGrammar {
    let (shape, definitions) = try shapes(schema, field)
    do { return try JSONGrammar(shape, definitions: definitions) } catch {
      throw APIError.invalid("The schema in '\(field)' cannot be used: \(error).", field)
    }
  }

  /// A schema and its definitions.
  static func shapes(
    _ schema: JSON, _ field: String, prefix: String = ""
  ) throws -> (JSONShape, [String: JSONShape]) {
    let reader = Schema(field: field, prefix: prefix)
    var shapes: [String: JSONShape] = [:]
    for list in definitions {
      guard case .object(let members)? = schema[list] else { continue }
      for (name, definition) in members {
        shapes["\(prefix)#/\(list)/\(name)"] = try reader.shape(definition, "\(field).\(list).\(name)")
      }
    }
    let shape = try reader.shape(schema, field)
    shapes["\(prefix)#"] = shape
    return (shape, shapes)
  }

  private func wrong(_ place: String, _ expected: String) -> APIError {
    .invalid("'\(place)' must be \(expected).", place)
  }

  private func shape(_ schema: JSON, _ place: String) throws -> JSONShape {
    if case .bool(let fits) = schema {
      guard fits else { throw APIError.invalid("Nothing fits the schema in '\(place)'.", place) }
      return .any
    }
    guard case .object(let members) = schema else { throw wrong(place, "a schema") }
    let hidden = Self.annotations.union(place == field ? Self.definitions : [])
    var keywords: [String: JSON] = [:]
    for (name, value) in members where !hidden.contains(name) {
      guard Self.known.contains(name) else {
        throw APIError.invalid(
          "The keyword '\(name)' of JSON Schema is not supported here.", "\(place).\(name)")
      }
      keywords[name] = value
    }
    for alone in ["$ref", "anyOf"] where keywords[alone] != nil {
      if let other = keywords.keys.sorted().first(where: { $0 != alone }) {
        throw APIError.invalid("'\(other)' beside '\(alone)' is not supported here.", "\(place).\(other)")
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
        values.filter { value in types?.contains { Self.isValue(value, of: $0) } ?? true }.map(\.text))
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
  private func types(_ keywords: [String: JSON], _ place: String) throws -> [String]? {
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

  private func values(_ keywords: [String: JSON], _ place: String) throws -> [JSON]? {
    if let value = keywords["const"] { return [value] }
    guard let list = keywords["enum"] else { return nil }
    guard case .array(let values) = list else { throw wrong("\(place).enum", "a list of values") }
    return values
  }

  private static func isValue(_ value: JSON, of type: String) -> Bool {
    switch (type, value) {
    case ("object", .object), ("array", .array), ("string", .string), ("number", .number),
      ("number", .integer),
      ("integer", .integer), ("boolean", .bool), ("null", .null):
      true
    default: false
    }
  }

  private func shape(of type: String, _ keywords: [String: JSON], _ place: String) throws -> JSONShape {
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

  private func count(_ keywords: [String: JSON], _ name: String, _ place: String) throws -> Int? {
    guard let value = keywords[name] else { return nil }
    guard case .integer(let count) = value, count >= 0 else { throw wrong("\(place).\(name)", "a count") }
    return count
  }

  private func object(_ keywords: [String: JSON], _ place: String) throws -> JSONShape {
    var properties: [(String, JSON)] = []
    switch keywords["properties"] {
    case nil: break
    case .object(let members)?: properties = members
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
        throw APIError.invalid("'\(name)' is required, but no property.", "\(place).required")
      }
      members.append(JSONShape.Member(name, others))
    }
    return .object(members, others: others)
  }
}
