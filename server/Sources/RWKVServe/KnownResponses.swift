// SPDX-License-Identifier: MIT
import Synchronization

/// Conversations that clients go on with by the id of the last answer; the oldest are forgotten first. Thread-safe.
final class KnownResponses: Sendable {
  private static let capacity = 4096
  private static let capacityOnDisk = 256 << 20
  private let folder: StateFolder?
  private let known = Mutex<(messages: [String: (owner: String, messages: [JSON])], order: [String])>(
    ([:], []))

  init(_ folder: StateFolder?) { self.folder = folder }

  private func name(_ id: String, _ owner: String) -> String {
    "\(StateFolder.Kind.response.rawValue)-\(owner)-\(id)"
  }

  func find(_ id: String, owner: String) throws -> [JSON] {
    if let found = known.withLock({ $0.messages[id] }), found.owner == owner { return found.messages }
    if SavedStates.isID(id), case .array(let messages)? = folder?.read(name(id, owner))?.head {
      return messages
    }
    throw APIError(
      status: .notFound, message: "There is no response '\(id)'; the server may have forgotten it.",
      parameter: "previous_response_id", code: "previous_response_not_found")
  }

  func insert(_ id: String, _ messages: [JSON], owner: String) {
    known.withLock { known in
      known.messages[id] = (owner, messages)
      known.order.append(id)
      if known.order.count > Self.capacity { known.messages[known.order.removeFirst()] = nil }
    }
    guard let folder else { return }
    do {
      try folder.write(name(id, owner), .array(messages))
      folder.trim(.response, to: Self.capacityOnDisk)
    } catch { note("rwkv-serve: a response is not kept: \(error)") }
  }
}
