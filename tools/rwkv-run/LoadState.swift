import RWKV
import RWKVCheckpoint
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
      return SavedState(state: try newState(timeStates: tuned), tokens: [])
    }
  }
}
