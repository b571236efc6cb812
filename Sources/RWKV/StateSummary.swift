// SPDX-License-Identifier: MIT
internal import RWKVFormat

/// What a saved state says of itself, without its model.
public struct StateSummary: Sendable {
  /// The name of the model that the state belongs to.
  public let modelName: String
  /// The identity of the model, 16 hexadecimal digits.
  public let modelIdentity: String
  /// How many tokens were saved with the state; 0 if they were not saved.
  public let tokenCount: Int
  /// Whether a text can go on from it without anything new to read.
  public let hasLogits: Bool
  /// The memory that the state takes [bytes].
  public let stateBytes: Int
  /// The length of the file [bytes].
  public let fileBytes: Int

  /// Reads a file and checks its checksums.
  public init(path: String) throws(StateFileError) {
    let (header, frame) = try StateHeader.read(path: path)
    guard XXH64.hash(frame) == header.hash else {
      throw StateFileError(.damaged(what: "the contents are"), path: path)
    }
    modelName = header.name
    modelIdentity = hexadecimal(header.identity)
    tokenCount = header.tokens
    hasLogits = header.logits > 0
    stateBytes = 4 * (header.words - header.tokens - header.logits)
    fileBytes = header.byteCount + header.frameBytes
  }
}

extension StateHeader {
  /// The header of a file and its frame, whose checksum is still to be compared.
  ///
  /// - Parameter check: may refuse the file before its frame is read.
  static func read(
    path: String, check: (StateHeader) throws(StateFileError) -> Void = { _ in }
  ) throws(StateFileError) -> (StateHeader, [UInt8]) {
    do {
      let file = try File(reading: path)
      return try read(file, 0..<Int(clamping: file.size), check: check)
    } catch let error as ModelFileError {
      throw StateFileError(.file(error.inFile(path)), path: path)
    } catch let error as StateFileError {
      throw StateFileError(error.reason, path: path)
    } catch { preconditionFailure("\(error)") }
  }

  /// Reads header and frame of a state that is this part of a file.
  static func read(
    _ file: File, _ range: Range<Int>, check: (StateHeader) throws(StateFileError) -> Void
  ) throws -> (StateHeader, [UInt8]) {
    let start = range.prefix(size + maximumName)
    let header = try StateHeader(try file.bytes(start), size: range.count)
    try check(header)
    return (header, try file.bytes(range.lowerBound + header.byteCount..<range.upperBound))
  }
}

extension File {
  /// The bytes of a range of the file.
  func bytes(_ range: Range<Int>) throws(ModelFileError) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: range.count)
    var failure: ModelFileError?
    bytes.withUnsafeMutableBytes { buffer in
      do throws(ModelFileError) { try read(into: buffer, at: UInt64(range.lowerBound)) } catch {
        failure = error
      }
    }
    if let failure { throw failure }
    return bytes
  }
}
