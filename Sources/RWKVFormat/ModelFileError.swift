// SPDX-License-Identifier: MIT
import Glibc

/// What is wrong with a model file, where, and what to do about it.
public struct ModelFileError: Error, Sendable, Equatable, CustomStringConvertible {
  /// What went wrong, and with which values.
  public enum Reason: Sendable, Equatable {
    /// A system call failed with this `errno`.
    case system(call: String, errno: Int32)
    case notRegularFile
    case notModelFile
    case unsupportedVersion(found: Int)
    case unsupportedFeatures(found: UInt32)
    case unsupportedFormat(found: Int)
    /// The file is shorter or longer [bytes] than it must be.
    case wrongSize(expected: UInt64, found: UInt64)
    /// Another program changed the file while it was in use.
    case changed
    /// A checksum does not match: these bytes changed after they were written.
    case damaged(what: String)
    /// The checksums match but the contents break a rule of the format.
    case invalid(what: String, found: String, expected: String)
    /// The output exists and was not to be overwritten.
    case exists
    /// What is to be written cannot be expressed in this format.
    case unwritable(what: String, found: String, expected: String)
  }

  /// The path of the file.
  public internal(set) var path: String
  /// Byte in the file, where that is known.
  public internal(set) var offset: UInt64?
  /// The name of the tensor, where it is about one.
  public internal(set) var tensor: String?
  /// What went wrong.
  public let reason: Reason

  init(_ reason: Reason, path: String = "", offset: UInt64? = nil, tensor: String? = nil) {
    self.path = path
    self.offset = offset
    self.tensor = tensor
    self.reason = reason
  }

  static func invalid(
    _ what: String, found: some Any, expected: String, offset: UInt64? = nil, tensor: String? = nil
  ) -> ModelFileError {
    ModelFileError(
      .invalid(what: what, found: "\(found)", expected: expected), offset: offset, tensor: tensor)
  }

  static func unwritable(
    _ what: String, found: some Any, expected: String, tensor: String? = nil
  ) -> ModelFileError {
    ModelFileError(.unwritable(what: what, found: "\(found)", expected: expected), tensor: tensor)
  }

  package func inFile(_ path: String) -> ModelFileError {
    var copy = self
    copy.path = path
    return copy
  }

  public var description: String {
    var text = path
    if let tensor { text += ": tensor '\(tensor)'" }
    if let offset { text += " (byte \(offset))" }
    return text + ": " + explanation
  }

  private var explanation: String {
    let again = "Get or make the file again"
    switch reason {
    case .system(let call, let code):
      return "\(call): \(String(cString: strerror(code)))"
    case .notRegularFile:
      return "a folder or a device, not a file; give the path of a file"
    case .notModelFile:
      return "not a .rwkv model file (its first bytes are others); convert checkpoints with rwkv-quantize"
    case .unsupportedVersion(let found):
      return "file format version \(found), this program reads version 1; use a newer program"
    case .unsupportedFeatures(let found):
      return "needs features 0x\(String(found, radix: 16)) that this program does not know; use a newer one"
    case .unsupportedFormat(let found):
      return "weight format \(found) is unknown; use a newer program"
    case .wrongSize(let expected, let found):
      return "\(found) bytes, expected \(expected): incomplete copy or download? \(again)"
    case .changed:
      return "another program changed the file while it was in use; open it again when it is complete"
    case .damaged(let what):
      return "\(what) is damaged: its checksum does not match. \(again)"
    case .invalid(let what, let found, let expected):
      return "\(what) is \(found), expected \(expected). The file breaks its format: make it again"
    case .exists:
      return "exists already; choose another name or ask to overwrite it"
    case .unwritable(let what, let found, let expected):
      return "\(what) is \(found), but the .rwkv format demands \(expected)"
    }
  }
}
