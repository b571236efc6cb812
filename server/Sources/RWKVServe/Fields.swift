// SPDX-License-Identifier: MIT
import Hummingbird

/// An error that a client reads, in OpenAI's form.
struct APIError: Error, HTTPResponseError {
  let status: HTTPResponse.Status
  let message: String
  /// The field of the request that is wrong.
  var parameter: String?
  var code: String?
  var retryAfter: Int?

  static func invalid(_ message: String, _ parameter: String? = nil) -> APIError {
    APIError(status: .badRequest, message: message, parameter: parameter)
  }

  private var type: String {
    switch status.code {
    case 401: "authentication_error"
    case 429: "rate_limit_error"
    case 500...: "server_error"
    default: "invalid_request_error"
    }
  }

  var body: JSON {
    [
      "error": [
        "message": .string(message), "type": .string(type), "param": parameter.map { .string($0) } ?? .null,
        "code": code.map { .string($0) } ?? .null,
      ]
    ]
  }

  func response(from request: Request, context: some RequestContext) -> Response {
    var response = reply(body, status)
    if let retryAfter { response.headers[.retryAfter] = "\(retryAfter)" }
    return response
  }
}

/// The members of a request. What is unknown is ignored, what is null is absent.
struct Fields: Sendable {
  private let members: [String: JSON]
  /// What stands before a name in errors.
  private let place: String

  init(_ body: ByteBuffer) throws {
    guard case .object(let members) = try JSON(parsing: Array(body.readableBytesView)) else {
      throw APIError.invalid("The body is not a JSON object.")
    }
    self.init(Dictionary(members) { $1 })
  }

  init(_ members: [String: JSON], _ place: String = "") {
    self.members = members
    self.place = place
  }

  subscript(_ name: String) -> JSON? {
    guard let value = members[name] else { return nil }
    if case .null = value { return nil }
    return value
  }

  func wrong(_ name: String, _ expected: String) -> APIError {
    .invalid("'\(place)\(name)' must be \(expected).", place + name)
  }

  func string(_ name: String) throws -> String? {
    guard let value = self[name] else { return nil }
    guard case .string(let text) = value else { throw wrong(name, "a string") }
    return text
  }

  func bool(_ name: String) throws -> Bool {
    guard let value = self[name] else { return false }
    guard case .bool(let flag) = value else { throw wrong(name, "true or false") }
    return flag
  }

  func number(_ name: String, in range: ClosedRange<Double>) throws -> Double? {
    let number: Double
    switch self[name] {
    case nil: return nil
    case .integer(let value)?: number = Double(value)
    case .numeral(let text)?: number = Double(text) ?? .nan
    default: throw wrong(name, "a number")
    }
    guard range.contains(number) else {
      throw wrong(name, "between \(range.lowerBound) and \(range.upperBound)")
    }
    return number
  }

  func integer(_ name: String, in range: ClosedRange<Int>) throws -> Int? {
    guard let value = self[name] else { return nil }
    guard let number = value.integer, range.contains(number) else {
      throw wrong(name, "an integer between \(range.lowerBound) and \(range.upperBound)")
    }
    return number
  }

  /// A list, or one element that stands for a list of itself.
  func list(_ name: String) -> [JSON] {
    guard let value = self[name] else { return [] }
    if case .array(let values) = value { return values }
    return [value]
  }

  /// Texts of a request at most: as many as OpenAI's interface takes.
  static let mostTexts = 2048

  /// A list of texts of which each is work of its own, or one.
  func texts(_ name: String) throws -> [JSON] {
    let values = list(name)
    guard values.count <= Self.mostTexts else {
      throw APIError.invalid(
        "'\(place)\(name)' has \(values.count) elements, of which a request may have \(Self.mostTexts); send them in "
          + "several requests.", place + name)
    }
    return values
  }

  /// What is wrong where there must be something.
  func absent(_ name: String) -> APIError {
    .invalid("'\(place)\(name)' is \(self[name] == nil ? "missing" : "empty").", place + name)
  }

  func strings(_ name: String) throws -> [String] {
    try list(name).map { value in
      guard case .string(let text) = value else { throw wrong(name, "a string or a list of strings") }
      return text
    }
  }

  func object(_ name: String) throws -> Fields? {
    guard let value = self[name] else { return nil }
    return try Self(value, "\(place)\(name)")
  }

  func objects(_ name: String) throws -> [Fields] {
    guard let value = self[name] else { return [] }
    guard case .array(let values) = value else { throw wrong(name, "a list of objects") }
    return try values.enumerated().map { try Self($1, "\(place)\(name)[\($0)]") }
  }

  init(_ value: JSON, _ place: String) throws {
    guard case .object(let members) = value else {
      throw APIError.invalid("'\(place)' must be an object.", place)
    }
    self.init(Dictionary(members) { $1 }, place + ".")
  }

  var names: [String] { members.keys.sorted() }
}

func reply(_ json: JSON, _ status: HTTPResponse.Status = .ok) -> Response {
  reply(json.text, type: "application/json", status)
}

func reply(_ text: String, type: String, _ status: HTTPResponse.Status = .ok) -> Response {
  Response(status: status, headers: [.contentType: type], body: .init(byteBuffer: ByteBuffer(string: text)))
}
