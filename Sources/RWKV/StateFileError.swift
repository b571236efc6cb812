// SPDX-License-Identifier: MIT
public import RWKVFormat

/// Why a state cannot be saved or loaded: what, where, and what to do.
public struct StateFileError: Error, Sendable, CustomStringConvertible {
  /// What went wrong, and with which values.
  public enum Reason: Sendable {
    case file(ModelFileError)
    case notStateFile
    /// A file of many states where a saved state is needed.
    case isCollection
    /// No file of many states; perhaps a saved state.
    case notCollection(isState: Bool)
    case unsupportedVersion(found: Int)
    case unsupportedFeatures(found: UInt32)
    /// The file is shorter or longer [bytes] than it must be.
    case wrongSize(expected: Int, found: Int)
    /// A checksum does not match: these bytes changed after they were written.
    case damaged(what: String)
    /// The checksums match but the contents break a rule of the format.
    case invalid(what: String, found: String, expected: String)
    /// The state belongs to another model than the one it is loaded for.
    case wrongModel(found: String, expected: String)
    /// The state of RWKV-7b remembers more tokens than its model was opened for.
    case tooLong(tokens: Int, limit: Int)
    /// A value of the state is infinite or not a number.
    case notFinite(value: Float, place: String)
    case outOfMemory(bytes: Int)
    /// The state would replace the file of its own model.
    case isModel
  }

  /// What went wrong.
  public let reason: Reason
  /// The file; nil for a state in memory.
  public let path: String?

  init(_ reason: Reason, path: String? = nil) {
    self.reason = reason
    self.path = path
  }

  public var description: String {
    if case .file(let error) = reason { return "\(error)" }
    return (path.map { "\($0): " } ?? "state: ") + explanation
  }

  private var explanation: String {
    switch reason {
    case .file(let error): "\(error)"
    case .notStateFile: "not a saved state (its first bytes are others); save one with --save-state"
    case .isCollection:
      "a file of states of documents, for rwkv-run rerank --states; a saved state is made with --save-state"
    case .notCollection(let isState):
      (isState ? "one saved state" : "its first bytes are those of another file")
        + ", expected states of documents; make such a file with rwkv-run embed --keep-states"
    case .unsupportedVersion(let found):
      "state format version \(found), this program reads version 1; use a newer program"
    case .unsupportedFeatures(let found):
      "needs features 0x\(String(found, radix: 16)) that this program does not know; use a newer one"
    case .wrongSize(let expected, let found):
      "\(found) bytes, expected \(expected): incomplete copy? Save the state again"
    case .damaged(let what):
      "\(what) damaged: the checksum does not match. Save the state again, or take another copy"
    case .invalid(let what, let found, let expected):
      "\(what) is \(found), expected \(expected). Save the state again"
    case .wrongModel(let found, let expected):
      "the state belongs to \(found), not to \(expected); open the model that it was saved with"
    case .tooLong(let tokens, let limit):
      "the state remembers \(tokens) tokens, the model was opened for \(limit); allow more (--max-context), as far as "
        + "there is memory"
    case .notFinite(let value, let place):
      "\(place) is \(value), expected a finite number: the state or its model is broken"
    case .isModel: "is the model's own file; choose another name for the state"
    case .outOfMemory(let bytes): "the system has no \((bytes + (1 << 20) - 1) >> 20) MiB of memory left"
    }
  }
}
