// SPDX-License-Identifier: MIT
import Glibc
import RWKV
import RWKVCheckpoint
import RWKVFormat
import Terminal

extension Model {
  /// What `--load-state` names: a state that was saved, or a state-tuned checkpoint, in which training left
  /// `blocks.N.att.time_state`.
  func loadAnyState(_ path: String) throws -> SavedState {
    try requireFile(path, ending: ".state")
    do throws(StateFileError) {
      return try loadState(from: path)
    } catch {
      guard case .notStateFile = error.reason else { throw error }
      let notAState = error
      let tuned: [[Float]]
      do throws(CheckpointError) {
        tuned = try TimeStates.read(path: path)
      } catch {
        // Neither the one nor the other.
        if error.kind == .unsupported { throw notAState }
        throw error
      }
      do { return SavedState(state: try newState(timeStates: tuned), tokens: []) } catch {
        throw CommandError("\(path): \(error)")
      }
    }
  }
}

/// Refuses to save a state where none can be written: see `requireWritable`; and, unless `force`, over a file that
/// holds something else than a state.
/// - Parameters:
///   - forcing: what to type for `force`.
///   - read: says by its error if a file is none of those that may be replaced.
func requireStateFile(
  _ path: String, force: Bool, besides inputs: [String?], forcing: String = "--force",
  read: (String) throws(StateFileError) -> Void = { _ = try StateSummary(path: $0) }
) throws {
  try requireWritable(path, besides: inputs)
  guard !force, case .file(let file) = try OutputFile.destination(path) else { return }
  var status = stat()
  guard stat(file, &status) == 0, status.st_size > 0 else { return }
  do {
    try read(file)
  } catch {
    switch error.reason {
    case .notStateFile, .isCollection, .notCollection: break
    default: return
    }
    throw CommandError("\(path): holds something else than a saved state; choose another name, or \(forcing)")
  }
}
