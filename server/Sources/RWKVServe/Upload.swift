// SPDX-License-Identifier: MIT
import Foundation
import RWKV
import RWKVCheckpoint

/// A state that a client sends.
enum Upload {
  /// Reads a state file, or a tuned state in any form of a checkpoint; an error of the request where it is neither.
  ///
  /// What a tuned state goes on with is a new conversation.
  static func state(_ bytes: [UInt8], of model: Model) throws -> (SavedState, isTuned: Bool) {
    do throws(StateFileError) { return (try model.loadState(bytes: bytes), false) } catch {
      guard case .notStateFile = error.reason else { throw error }
    }
    // Checkpoints are read from files.
    let path = FileManager.default.temporaryDirectory.path + "/rwkv-serve-\(UUID().uuidString).pth"
    guard
      FileManager.default.createFile(
        atPath: path, contents: Data(bytes), attributes: [.posixPermissions: 0o600])
    else {
      throw APIError(status: .internalServerError, message: "There is no room for the file.")
    }
    defer { unlink(path) }
    do {
      return (
        SavedState(state: try model.newState(timeStates: try TimeStates.read(path: path)), tokens: []), true
      )
    } catch {
      let problem = "\(error)".replacing(path, with: "the file")
      throw APIError.invalid("Neither a saved state nor a tuned one: \(problem).")
    }
  }
}
