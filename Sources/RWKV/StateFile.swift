// SPDX-License-Identifier: MIT
internal import RWKVFormat

/// A state that was saved, and what was saved with it.
public struct SavedState {
  /// The state.
  public let state: State
  /// Token ids in the order they were read; empty if they were not saved.
  public let tokens: [Int]
  /// The logits [V] of the next token; empty if they were not saved. See `Session.resume`.
  public let logits: [Float]

  /// Puts a state together with what belongs to it.
  public init(state: State, tokens: [Int], logits: [Float] = []) {
    (self.state, self.tokens, self.logits) = (state, tokens, logits)
  }
}

extension State {
  /// How many tokens can be saved with a state at most.
  public static let maximumTokens = 1 << 22

  /// Writes the state to a file, which appears complete or not at all and replaces an older one. A symbolic link
  /// stays, and its file is replaced; devices and pipes are written to.
  ///
  /// - Parameters:
  ///   - tokens: what has been read, for programs that continue the text; only carried along.
  ///   - logits: of the token after the last one read, [V], with which a text can go on without anything new to read;
  ///     empty: it cannot. Older programs refuse a state that has them.
  public func save(to path: String, tokens: [Int] = [], logits: [Float] = []) throws(StateFileError) {
    guard !OutputFile.isInput(path, [model.path]) else { throw StateFileError(.isModel, path: path) }
    do {
      let bytes = try encoded(tokens: tokens, logits: logits)
      let file = try OutputFile(path: path, overwrite: true, acceptsStreams: true)
      try file.write(bytes, at: 0)
      try file.finish()
    } catch let error as ModelFileError {
      throw StateFileError(.file(error.inFile(path)), path: path)
    } catch let error as StateFileError {
      throw StateFileError(error.reason, path: path)
    } catch { preconditionFailure("\(error)") }
  }

  /// The state as the bytes of a file (formats/state-v1.md); otherwise as `save`.
  public func encoded(tokens: [Int] = [], logits: [Float] = []) throws(StateFileError) -> [UInt8] {
    precondition([0, model.configuration.vocabulary].contains(logits.count), "logits of another model")
    try StatePayload.check(tokens, of: model)
    let payload = StatePayload(
      layout: layout, tokens: tokens.count, cached: caches.map(\.count), logits: logits.count)
    var words: [UInt32] = []
    words.reserveCapacity(payload.words)
    words += tokens.map { UInt32($0) }
    words += caches.map { UInt32($0.count) }
    func append(_ values: UnsafePointer<Float>, _ count: Int) {
      for index in 0..<count { words.append(values[index].bitPattern) }
    }
    append(values, layout.count)
    for cache in caches {
      for head in 0..<cache.heads { append(cache.keys(head), cache.count * cache.keySize) }
      for head in 0..<cache.heads { append(cache.values(head), cache.count * cache.valueSize) }
    }
    words += logits.map(\.bitPattern)
    try words.withUnsafeBufferPointer { words throws(StateFileError) in try payload.checkFinite(words) }

    // All first bytes of the words, then all second ones, …: exponents side by side compress.
    let count = words.count
    let planes = [UInt8](unsafeUninitializedCapacity: 4 * count) { bytes, used in
      for (index, word) in words.enumerated() {
        for byte in 0..<4 {
          bytes[byte * count + index] = UInt8(truncatingIfNeeded: word >> (8 * UInt32(byte)))
        }
      }
      used = 4 * count
    }
    let frame = planes.withUnsafeBytes { ZstdFrame.compress($0) }
    return StateHeader(model, tokens: tokens.count, logits: logits.count, words: count, frame: frame)
      .encoded()
      + frame
  }
}

extension Model {
  /// Loads a state that `State.save` wrote. Refuses what is damaged, broken, or of another model.
  ///
  /// The file may come from anywhere: memory is bounded by what a state of this model can take.
  public func loadState(from path: String) throws(StateFileError) -> SavedState {
    let (header, frame) = try StateHeader.read(path: path) { header throws(StateFileError) in
      try check(header)
    }
    do { return try state(header, frame) } catch { throw StateFileError(error.reason, path: path) }
  }

  /// Loads a state from the bytes that `State.encoded` made.
  public func loadState(bytes: [UInt8]) throws(StateFileError) -> SavedState {
    let header = try StateHeader(bytes, size: bytes.count)
    try check(header)
    return try state(header, Array(bytes[header.byteCount...]))
  }

  /// Loads one of the states in a file of many, which were saved without tokens and logits.
  func loadState(from file: File, _ range: Range<Int>) throws -> State {
    let (header, frame) = try StateHeader.read(file, range) { header throws(StateFileError) in
      try check(header)
      guard header.tokens == 0, header.logits == 0 else {
        throw StateFileError(
          .invalid(
            what: "a state among many", found: "one with \(header.tokens) tokens and \(header.logits) logits",
            expected: "none of them"))
      }
    }
    return try state(header, frame).state
  }

  /// It must be this model's state, and no longer than those can be, or may be here.
  private func check(_ header: StateHeader) throws(StateFileError) {
    guard header.identity == identity else {
      throw StateFileError(
        .wrongModel(
          found: "'\(header.name)' (identity \(hexadecimal(header.identity)))",
          expected: "'\(name)' (identity \(hexadecimal(identity)))"))
    }
    guard [0, configuration.vocabulary].contains(header.logits) else {
      throw StateFileError(
        .invalid(
          what: "the number of logits", found: "\(header.logits)", expected: "\(configuration.vocabulary)"))
    }
    let layout = State.Layout(configuration)
    if let limit = maximumContext {
      let tokens = StatePayload.cached(header, layout)
      guard tokens <= limit else { throw StateFileError(.tooLong(tokens: tokens, limit: limit)) }
    }
    let largest = StatePayload.largest(layout, self)
    guard header.words <= largest, header.frameBytes <= ZstdFrame.largest(4 * header.words) else {
      throw StateFileError(
        .invalid(
          what: "the length of the state", found: "\(header.words) words in \(header.frameBytes) bytes",
          expected: "at most \(largest) words"))
    }
  }

  /// The state in a frame whose header has been checked.
  private func state(_ header: StateHeader, _ frame: [UInt8]) throws(StateFileError) -> SavedState {
    guard XXH64.hash(frame) == header.hash else { throw StateFileError(.damaged(what: "the contents are")) }
    let arena = Arena()
    let planes: UnsafeMutableRawPointer
    do { planes = try arena.allocate(byteCount: 4 * header.words, hugePages: false) } catch {
      throw StateFileError(.outOfMemory(bytes: 4 * header.words))
    }
    let place = UnsafeMutableRawBufferPointer(start: planes, count: 4 * header.words)
    guard frame.withUnsafeBytes({ ZstdFrame.decompress($0, into: place) }) else {
      throw StateFileError(
        .invalid(what: "the zstd frame", found: "another", expected: "one of \(4 * header.words) bytes"))
    }
    return try StatePayload.read(
      StateWords(planes, count: header.words), tokens: header.tokens, logits: header.logits, of: self)
  }
}

/// 16 digits.
package func hexadecimal(_ value: UInt64) -> String {
  let digits = String(value, radix: 16)
  return String(repeating: "0", count: 16 - digits.count) + digits
}
