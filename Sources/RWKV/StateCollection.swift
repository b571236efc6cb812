// SPDX-License-Identifier: MIT
internal import RWKVFormat

/// A file of many states of one model, such as those that documents leave behind for a reranker.
/// formats/state-v1.md, section 3.
///
/// The states are read one after another, so that any number of them takes the memory of those in use.
public final class StateCollection {
  /// How many states the file has.
  public let count: Int

  static let magic: [UInt8] = [0x89, 0x52, 0x57, 0x4B, 0x43, 0x0D, 0x0A, 0x1A]
  private static let headerBytes = 16

  private let path: String
  private let model: Model
  private let file: File
  private var position = headerBytes
  private var left: Int

  /// Opens a file of states of `model`.
  public init(path: String, _ model: Model) throws(StateFileError) {
    (self.path, self.model) = (path, model)
    (file, count) = try Self.open(path)
    left = count
  }

  /// How many states a file has; `.notCollection` if it is no file of states.
  public static func count(path: String) throws(StateFileError) -> Int { try open(path).count }

  private static func open(_ path: String) throws(StateFileError) -> (file: File, count: Int) {
    do {
      let file = try File(reading: path)
      let size = Int(clamping: file.size)
      let header = try file.bytes(0..<min(size, headerBytes))
      guard header.starts(with: magic) else {
        throw StateFileError(.notCollection(isState: header.starts(with: StateHeader.magic)), path: path)
      }
      guard header.count == headerBytes else {
        throw StateFileError(.wrongSize(expected: headerBytes, found: size), path: path)
      }
      guard word(header, 8) == 1 else {
        throw StateFileError(.unsupportedVersion(found: Int(word(header, 8))), path: path)
      }
      return (file, Int(word(header, 12)))
    } catch let error as ModelFileError {
      throw StateFileError(.file(error.inFile(path)), path: path)
    } catch let error as StateFileError {
      throw error
    } catch { preconditionFailure("\(error)") }
  }

  /// The next states, `most` of them or those that are left; none at the end.
  public func next(_ most: Int) throws(StateFileError) -> [State] {
    var states: [State] = []
    while left > 0, states.count < most {
      states.append(try read())
      left -= 1
    }
    guard left > 0 || position == Int(clamping: file.size) else {
      throw StateFileError(.wrongSize(expected: position, found: Int(clamping: file.size)), path: path)
    }
    return states
  }

  private func read() throws(StateFileError) -> State {
    let size = Int(clamping: file.size)
    do {
      let length =
        size - position < 8 ? 0 : Int(clamping: Self.length(try file.bytes(position..<position + 8)))
      let start = position + 8
      guard length > 0, length <= size - start else {
        throw StateFileError(.wrongSize(expected: Int(clamping: UInt64(start) + UInt64(length)), found: size))
      }
      position = start + length
      return try model.loadState(from: file, start..<position)
    } catch let error as ModelFileError {
      throw StateFileError(.file(error.inFile(path)), path: path)
    } catch let error as StateFileError {
      throw StateFileError(error.reason, path: path)
    } catch { preconditionFailure("\(error)") }
  }

  private static func word(_ bytes: [UInt8], _ offset: Int) -> UInt32 {
    (0..<4).reduce(0) { $0 | UInt32(bytes[offset + $1]) << (8 * UInt32($1)) }
  }

  private static func length(_ bytes: [UInt8]) -> UInt64 {
    (0..<8).reduce(0) { $0 | UInt64(bytes[$1]) << (8 * UInt64($1)) }
  }

  /// Writes such a file state by state; it appears under its name with the last one.
  public final class Writer {
    private let path: String
    private let output: OutputFile
    private var position: UInt64 = 0
    private var left: Int

    /// - Parameter count: how many states there will be.
    public init(path: String, count: Int) throws(StateFileError) {
      (self.path, left) = (path, count)
      do throws(ModelFileError) {
        output = try OutputFile(path: path, overwrite: true, acceptsStreams: true)
        try append(magic + bytes(UInt32(1)) + bytes(UInt32(truncatingIfNeeded: count)))
      } catch {
        throw StateFileError(.file(error.inFile(path)), path: path)
      }
    }

    /// Writes one more state; the last one completes the file.
    public func add(_ state: State) throws(StateFileError) {
      let encoded = try state.encoded()
      do throws(ModelFileError) {
        try append(bytes(UInt64(encoded.count)) + encoded)
        left -= 1
        if left == 0 { try output.finish() }
      } catch {
        throw StateFileError(.file(error.inFile(path)), path: path)
      }
    }

    private func append(_ bytes: [UInt8]) throws(ModelFileError) {
      try output.write(bytes, at: position)
      position += UInt64(bytes.count)
    }
  }

  private static func bytes(_ value: some FixedWidthInteger) -> [UInt8] {
    withUnsafeBytes(of: value.littleEndian) { Array($0) }
  }
}
