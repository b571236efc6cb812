// SPDX-License-Identifier: MIT
import Foundation
import Hummingbird
import RWKV
import Synchronization

/// States that clients keep by id, each its owner's alone; with a folder they are there and nowhere else. Thread-safe.
final class SavedStates: Sendable {
  /// What is told of a state.
  struct Description: Sendable {
    let id: String
    let name: String?
    let bytes: Int
    let tokens: Int
    /// Whether the last thing that it has read is an answer of the model.
    let answered: Bool
    var created = Int(Date().timeIntervalSince1970)

    var json: JSON {
      [
        "id": .string(id), "object": "state", "name": name.map { .string($0) } ?? .null,
        "bytes": .integer(bytes),
        "tokens": .integer(tokens), "created": .integer(created),
      ]
    }
  }

  struct Entry: @unchecked Sendable {
    let description: Description
    let tokens: [Int]
    /// What is kept never changes: whoever goes on does so on a copy.
    let state: State

    var answered: Bool { description.answered }
    func file() throws -> [UInt8] { try state.encoded(tokens: tokens) }
  }

  private struct Key: Hashable {
    let owner: String
    let id: String
  }

  static let capacity = 1 << 30
  private let model: Model
  private let folder: StateFolder?
  private let entries = Mutex<[Key: Entry]>([:])

  init(_ model: Model, _ folder: StateFolder?) { (self.model, self.folder) = (model, folder) }

  private func prefix(_ owner: String) -> String { "\(StateFolder.Kind.saved.rawValue)-\(owner)-" }

  func add(_ state: State, tokens: [Int], name: String?, owner: String, answered: Bool, id: String? = nil)
    throws -> Entry
  {
    let id = id ?? "state-" + (0..<2).map { _ in String(UInt64.random(in: 0 ... .max), radix: 36) }.joined()
    let description = Description(
      id: id, name: name, bytes: state.byteCount, tokens: tokens.count, answered: answered)
    let entry = Entry(description: description, tokens: tokens, state: state)
    guard bytes + state.byteCount <= Self.capacity else {
      throw APIError(
        status: .tooManyRequests, message: "States take \(Self.capacity >> 20) MiB already; delete some.")
    }
    guard let folder else {
      entries.withLock { $0[Key(owner: owner, id: id)] = entry }
      return entry
    }
    let head: JSON = [
      "name": name.map { .string($0) } ?? .null, "bytes": .integer(description.bytes),
      "tokens": .integer(tokens.count), "answered": .bool(answered), "created": .integer(description.created),
    ]
    try folder.write(prefix(owner) + id, head, try entry.file())
    return entry
  }

  func find(_ id: String, owner: String) throws -> Entry {
    guard let folder else {
      guard let entry = entries.withLock({ $0[Key(owner: owner, id: id)] }) else { throw Self.unknown(id) }
      return entry
    }
    guard Self.isID(id), let record = folder.read(prefix(owner) + id),
      let description = Self.description(id, record.head),
      let saved = try? model.loadState(bytes: record.state)
    else { throw Self.unknown(id) }
    return Entry(description: description, tokens: saved.tokens, state: saved.state)
  }

  /// Whether a client may call a state so: it is a part of a file's name.
  static func isID(_ id: String) -> Bool {
    (1...64).contains(id.utf8.count)
      && id.utf8.allSatisfy { byte in
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
          UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"):
          true
        default: false
        }
      }
  }

  private static func description(_ id: String, _ head: JSON) -> Description? {
    guard case .integer(let bytes)? = head["bytes"], case .integer(let tokens)? = head["tokens"],
      case .bool(let answered)? = head["answered"], case .integer(let created)? = head["created"]
    else { return nil }
    var name: String?
    if case .string(let text)? = head["name"] { name = text }
    return Description(id: id, name: name, bytes: bytes, tokens: tokens, answered: answered, created: created)
  }

  func list(owner: String) -> [Description] {
    let all: [Description]
    if let folder {
      let prefix = prefix(owner)
      all = folder.listing.sizes.keys.filter { $0.hasPrefix(prefix) }.compactMap { name in
        folder.head(name).flatMap { Self.description(String(name.dropFirst(prefix.count)), $0) }
      }
    } else {
      all = entries.withLock { $0.filter { $0.key.owner == owner }.map(\.value.description) }
    }
    return all.sorted { ($0.created, $0.id) < ($1.created, $1.id) }
  }

  func remove(_ id: String, owner: String) throws {
    guard let folder else {
      guard entries.withLock({ $0.removeValue(forKey: Key(owner: owner, id: id)) }) != nil else {
        throw Self.unknown(id)
      }
      return
    }
    guard Self.isID(id), folder.remove(prefix(owner) + id) else { throw Self.unknown(id) }
  }

  var bytes: Int {
    folder?.bytes(of: .saved) ?? entries.withLock { $0.values.reduce(0) { $0 + $1.description.bytes } }
  }

  private static func unknown(_ id: String) -> APIError {
    APIError(
      status: .notFound, message: "There is no state '\(id)'.", parameter: "state", code: "state_not_found")
  }
}
