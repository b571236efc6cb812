// SPDX-License-Identifier: MIT
internal import RWKVFormat

/// The start of a saved state: 64 bytes and the model's name. formats/state-v1.md section 1.
struct StateHeader {
  static let size = 64
  static let magic: [UInt8] = [0x89, 0x52, 0x57, 0x4B, 0x53, 0x0D, 0x0A, 0x1A]
  static let version = 1
  static let maximumName = 1024
  /// The required feature of a state with logits.
  private static let hasLogits: UInt32 = 1

  let identity: UInt64
  /// The model's name, for people.
  let name: String
  /// How many tokens the payload has.
  let tokens: Int
  /// How many logits the payload has, 0 or V.
  let logits: Int
  /// Words of the payload.
  let words: Int
  /// XXH64 of the frame.
  let hash: UInt64
  /// Length of the frame [bytes].
  let frameBytes: Int

  /// Where the frame starts.
  var byteCount: Int { Self.size + name.utf8.count }

  init(_ model: Model, tokens: Int, logits: Int = 0, words: Int, frame: [UInt8]) {
    identity = model.identity
    var name = model.name
    while name.utf8.count > Self.maximumName { name.removeLast() }
    self.name = name
    self.tokens = tokens
    self.logits = logits
    self.words = words
    hash = XXH64.hash(frame)
    frameBytes = frame.count
  }

  func encoded() -> [UInt8] {
    var bytes = Self.magic
    func append(_ value: some FixedWidthInteger) { withUnsafeBytes(of: value.littleEndian) { bytes += $0 } }
    append(UInt16(Self.version))
    append(UInt16(name.utf8.count))
    append(logits > 0 ? Self.hasLogits : 0)
    append(identity)
    append(UInt64(words))
    append(UInt32(tokens))
    append(UInt32(logits))
    append(UInt64(byteCount + frameBytes))
    append(hash)
    append(XXH64.hash(bytes + Array(name.utf8)))
    return bytes + Array(name.utf8)
  }

  /// Reads and checks the header of a file of `size` bytes; `bytes` are its first, all or enough for any name.
  init(_ bytes: [UInt8], size: Int) throws(StateFileError) {
    guard bytes.starts(with: Self.magic) else {
      throw StateFileError(bytes.starts(with: StateCollection.magic) ? .isCollection : .notStateFile)
    }
    guard bytes.count >= Self.size else {
      throw StateFileError(.wrongSize(expected: Self.size, found: size))
    }
    func load<Number: FixedWidthInteger>(_ offset: Int, _: Number.Type) -> Number {
      bytes.withUnsafeBytes {
        Number(littleEndian: $0.loadUnaligned(fromByteOffset: offset, as: Number.self))
      }
    }
    let version = Int(load(8, UInt16.self))
    guard version == Self.version else { throw StateFileError(.unsupportedVersion(found: version)) }
    let nameBytes = Int(load(10, UInt16.self))
    let nameEnd = Self.size + nameBytes
    guard nameBytes <= Self.maximumName, nameEnd <= bytes.count,
      XXH64.hash(Array(bytes[..<56] + bytes[Self.size..<nameEnd])) == load(56, UInt64.self)
    else { throw StateFileError(.damaged(what: "the header is")) }
    let features = load(12, UInt32.self)
    guard features & ~Self.hasLogits == 0 else {
      throw StateFileError(.unsupportedFeatures(found: features & ~Self.hasLogits))
    }

    func check(_ what: String, _ found: some BinaryInteger, _ range: ClosedRange<Int>) throws(StateFileError)
    {
      guard let number = Int(exactly: found), range.contains(number) else {
        throw StateFileError(
          .invalid(what: what, found: "\(found)", expected: "\(range.lowerBound) to \(range.upperBound)"))
      }
    }
    identity = load(16, UInt64.self)
    let words = load(24, UInt64.self)
    tokens = Int(load(32, UInt32.self))
    try check("the number of tokens", tokens, 0...State.maximumTokens)
    try check("the number of words", words, tokens...1 << 48)
    logits = Int(load(36, UInt32.self))
    try check("the number of logits", logits, features == 0 ? 0...0 : 1...Int(Int32.max))
    self.words = Int(words)
    let length = load(40, UInt64.self)
    guard length == UInt64(size) else {
      throw StateFileError(.wrongSize(expected: Int(clamping: length), found: size))
    }
    hash = load(48, UInt64.self)
    frameBytes = size - nameEnd
    guard let name = String(validating: bytes[Self.size..<nameEnd], as: UTF8.self) else {
      throw StateFileError(.invalid(what: "the model's name", found: "not text", expected: "UTF-8"))
    }
    self.name = name
  }
}

/// Words of 32 bits that stand in four planes of bytes: all lowest bytes, all second ones, …
struct StateWords {
  private let planes: UnsafePointer<UInt8>
  let count: Int

  init(_ planes: UnsafeMutableRawPointer, count: Int) {
    self.planes = UnsafePointer(planes.assumingMemoryBound(to: UInt8.self))
    self.count = count
  }

  subscript(index: Int) -> UInt32 {
    (0..<4).reduce(0) { $0 | UInt32(planes[$1 * count + index]) << (8 * UInt32($1)) }
  }
}

/// The words of a state and what they mean: tokens, lengths of the caches, flat state, the caches' keys and values.
struct StatePayload {
  let layout: State.Layout
  let tokens: Int
  /// RWKV-7b, RWKV-X: cached tokens of each attention block.
  let cached: [Int]
  /// 0 or V.
  let logits: Int

  private var flat: Int { tokens + cached.count }
  var words: Int {
    cached.reduce(flat + layout.count + logits) { $0 + $1 * layout.cachedPerToken }
  }

  /// The most words that a state of this model can have.
  static func largest(_ layout: State.Layout, _ model: Model) -> Int {
    let cached = Array(repeating: mostCached(model), count: layout.attentionBlocks)
    return StatePayload(
      layout: layout, tokens: State.maximumTokens, cached: cached, logits: model.configuration.vocabulary
    ).words
  }

  /// Tokens that each cache of a state has, by the number of its words.
  static func cached(_ header: StateHeader, _ layout: State.Layout) -> Int {
    let others = header.tokens + header.logits + layout.attentionBlocks + layout.count
    return (header.words - others) / (layout.attentionBlocks * layout.cachedPerToken)
  }

  /// The most tokens of a cache. RWKV-7b: those that the model was opened for. RWKV-X: one more than where compression
  /// begins; without it, a bound of the format.
  private static func mostCached(_ model: Model) -> Int {
    if let most = model.maximumContext { return most }
    let options = model.configuration.sparseAttention
    let most = options.map { max($0.maximumCache, $0.minimumCache) + 1 } ?? 0
    return options?.maximumCache == 0 ? State.maximumTokens : most
  }

  /// Where word `index` belongs, for messages; nil: not a number of the state.
  private func place(_ index: Int) -> String? {
    guard index >= flat else { return nil }
    let value = index - flat
    if value < layout.layers * layout.layer {
      let (layer, offset) = (value / layout.layer, value % layout.layer)
      let part =
        offset < layout.wkv
        ? "time shift \(offset)"
        : offset < layout.channelShift
          ? "recurrence \(offset - layout.wkv)" : "channel shift \(offset - layout.channelShift)"
      return "layer \(layer), \(part)"
    }
    if value < layout.count { return "attention shift \(value - layout.layers * layout.layer)" }
    let logit = index - (words - logits)
    return logit >= 0 ? "logit \(logit)" : "attention cache, value \(value - layout.count)"
  }

  private func check(_ word: UInt32, at index: Int) throws(StateFileError) {
    let value = Float(bitPattern: word)
    guard !value.isFinite, let place = place(index) else { return }
    throw StateFileError(.notFinite(value: value, place: place))
  }

  func checkFinite(_ words: UnsafeBufferPointer<UInt32>) throws(StateFileError) {
    for index in flat..<words.count { try check(words[index], at: index) }
  }

  /// Builds the state; every word must have its place and every value must be finite.
  static func read(
    _ words: StateWords, tokens: Int, logits: Int, of model: Model
  ) throws(StateFileError) -> SavedState {
    let state = model.newState()
    let blocks = state.caches.count
    guard tokens + blocks + state.layout.count + logits <= words.count else { throw wrongLength(words.count) }
    let most = mostCached(model)
    var cached: [Int] = []
    for block in 0..<blocks {
      let count = Int(words[tokens + block])
      guard count <= most else {
        throw StateFileError(
          .invalid(
            what: "the length of attention cache \(block)", found: "\(count)", expected: "at most \(most)"))
      }
      cached.append(count)
    }
    // The blocks see the same tokens.
    guard Set(cached).count <= 1 else {
      throw StateFileError(
        .invalid(what: "the lengths of the attention caches", found: "\(cached)", expected: "all the same"))
    }
    let payload = StatePayload(layout: state.layout, tokens: tokens, cached: cached, logits: logits)
    guard payload.words == words.count else { throw wrongLength(words.count, payload.words) }

    var next = payload.flat
    func fill(_ values: UnsafeMutablePointer<Float>, _ count: Int) throws(StateFileError) {
      for index in 0..<count {
        try payload.check(words[next], at: next)
        values[index] = Float(bitPattern: words[next])
        next += 1
      }
    }
    try fill(state.values, state.layout.count)
    let chunk = model.configuration.sparseAttention?.chunkSize ?? Int.max
    for (cache, count) in zip(state.caches, cached) {
      cache.reserve(count, chunkSize: chunk, limit: most)
      for head in 0..<cache.heads { try fill(cache.keys(head), count * cache.keySize) }
      for head in 0..<cache.heads { try fill(cache.values(head), count * cache.valueSize) }
      cache.count = count
      cache.average(chunkSize: chunk)
    }
    let ids = (0..<tokens).map { Int(words[$0]) }
    try check(ids, of: model)
    var last = [Float](repeating: 0, count: logits)
    try last.withUnsafeMutableBufferPointer { buffer throws(StateFileError) in
      if let start = buffer.baseAddress { try fill(start, logits) }
    }
    return SavedState(state: state, tokens: ids, logits: last)
  }

  /// Tokens that are said to have been read: as many as may be, which the model can read.
  static func check(_ tokens: [Int], of model: Model) throws(StateFileError) {
    guard tokens.count <= State.maximumTokens else {
      throw StateFileError(
        .invalid(
          what: "the number of tokens", found: "\(tokens.count)", expected: "0 to \(State.maximumTokens)"))
    }
    let vocabulary = model.configuration.vocabulary
    guard let wrong = tokens.first(where: { !(0..<vocabulary).contains($0) }) else { return }
    throw StateFileError(
      .invalid(what: "a token", found: "\(wrong)", expected: "an id from 0 to \(vocabulary - 1)"))
  }

  private static func wrongLength(_ found: Int, _ expected: Int? = nil) -> StateFileError {
    StateFileError(
      .invalid(
        what: "the length of the state", found: "\(found) words",
        expected: expected.map { "\($0)" } ?? "more for this model"))
  }
}
