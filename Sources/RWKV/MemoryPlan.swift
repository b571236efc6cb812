// SPDX-License-Identifier: MIT
internal import RWKVFormat

/// How a model runs that is larger than the memory it may use.
public struct Streaming: Sendable, Equatable {
  /// The most memory that the process will use, as far as the library knows [bytes].
  public let limit: Int
  /// The smallest limit with which this model runs [bytes].
  public let minimum: Int
  /// How many blocks pass through memory for each token, and how many blocks there are.
  public let streamedBlocks, blocks: Int
  /// What is brought into memory for each token [bytes]: after decompression, and as it stands in the file.
  public let streamedBytes, streamedFileBytes: Int
  /// How many tokens of a prompt share one pass over the file.
  public static let tokensPerPass = 512
  /// The tokens per second to expect, from the time in which one of the blocks was read and inflated: the first time,
  /// perhaps from the disk, and a second time, out of the system's cache.
  public internal(set) var firstTokensPerSecond = 0.0, cachedTokensPerSecond = 0.0
}

/// Where the weights of a model go: which blocks stay in memory, and which pass through it.
struct MemoryPlan {
  let groups: TensorGroups
  /// Whether the block at each position is streamed.
  let isStreamed: [Bool]
  private(set) var streaming: Streaming?
  /// What a model that stays in memory leaves of the memory that it may use [bytes].
  private(set) var spare = Int.max
  /// Whether stored matrices are used in the mapped file: not where memory is short, since every pass would then wait
  /// for the pages that the last one has driven out.
  let mapsFile: Bool

  var streams: Bool { streaming != nil }

  /// - Parameter limit: memory that the whole process may use [bytes]; nil: as much as it needs.
  init(
    _ file: ModelFile, _ configuration: Configuration, limit: Int?, threads: Int
  ) throws(ModelError) {
    let groups = TensorGroups(file, configuration)
    let sizes = groups.blocks.map(TensorGroups.byteCount)
    // Regions of weights end at the border of a large page.
    let fixed =
      residentMemory() + Self.allowance + TensorGroups.byteCount(groups.common) + 3 * (2 << 20)
      + Self.sessionBytes(file, configuration) + Self.readerBytes(file) * (threads + 1)
    let all = fixed + sizes.reduce(0, +)
    guard let limit, all > limit, let largest = sizes.max() else {
      self.init(resident: groups, in: file)
      if let limit { spare = limit - all }
      return
    }
    let perPass = Streaming.tokensPerPass * paddedWidth(configuration.embedding) * 2 * 4
    let minimum = fixed + perPass + 2 * largest
    guard minimum <= limit else {
      throw ModelError(.memoryLimit(limit, minimum: min(minimum, all)), path: file.path)
    }
    self.init(streaming: groups, of: file, room: limit - minimum, limit: limit, minimum: minimum)
  }

  /// Everything stays in memory or in the mapped file.
  init(resident groups: TensorGroups, in file: ModelFile) {
    self.groups = groups
    isStreamed = groups.blocks.map { _ in false }
    mapsFile = (groups.common + groups.blocks.joined()).contains {
      $0.rows > 1 && file.storedOffset(of: $0) != nil
    }
  }

  /// Blocks of `room` bytes stay in memory, the others are streamed.
  init(streaming groups: TensorGroups, of file: ModelFile, room: Int, limit: Int, minimum: Int) {
    self.groups = groups
    mapsFile = false
    let sizes = groups.blocks.map(TensorGroups.byteCount)
    isStreamed = Self.choose(sizes, room: room)
    let streamed = zip(groups.blocks, isStreamed).filter(\.1).map(\.0)
    streaming = Streaming(
      limit: limit, minimum: minimum, streamedBlocks: streamed.count, blocks: sizes.count,
      streamedBytes: streamed.reduce(0) { $0 + TensorGroups.byteCount($1) },
      streamedFileBytes: streamed.joined().reduce(0) { $0 + file.storedBytes(of: $1) })
  }

  /// Chooses which blocks are streamed. As many as there is room for stay in memory, spread evenly: while they are
  /// evaluated, the next streamed one is inflated.
  private static func choose(_ sizes: [Int], room: Int) -> [Bool] {
    for kept in stride(from: sizes.count - 1, to: 0, by: -1) {
      let isStreamed = sizes.indices.map { ($0 + 1) * kept / sizes.count == $0 * kept / sizes.count }
      let bytes = sizes.indices.reduce(0) { isStreamed[$1] ? $0 : $0 + sizes[$1] }
      if bytes <= room { return isStreamed }
    }
    return sizes.map { _ in true }
  }

  /// What the program itself still takes: code that has not run yet, stacks, the sampler.
  private static let allowance = 8 << 20

  /// Memory of one session: its state and the activations of a piece.
  static func sessionBytes(_ file: ModelFile, _ configuration: Configuration) -> Int {
    let (D, T) = (paddedWidth(configuration.embedding), Evaluator.capacity)
    let keys = file.tensors.filter { $0.name.hasSuffix(".ffn.key.weight") }
    let hidden = keys.map(\.rows).max() ?? 0
    let limits = keys.count * HiddenSums.limitsBytes(units: hidden, columns: configuration.embedding)
    let activations = activationBytes(configuration, hiddenUnits: hidden)
    let logits = T * 4 * paddedWidth(configuration.vocabulary)
    // Attention caches grow up to their bound; one of them is copied when it grows.
    let attention = configuration.sparseAttention.map { ($0.layers + 1) * ($0.maximumCache + 1) * D * 8 } ?? 0
    // Rows of 7a's and 7b's tables, and what 7b's attention remembers at least.
    let tables = file.tensors.filter { TensorInfo.isTable($0.name) }
    let rows = tables.reduce(0) { $0 + T * 4 * paddedWidth($1.columns) }
    let context = configuration.bytesPerToken * leastContext
    return State.Layout(configuration).count * 4 + activations + limits + logits + attention + rows + context
  }

  /// Activations of a piece: no version keeps more than 128 bytes for each row and channel.
  static func activationBytes(_ configuration: Configuration, hiddenUnits: Int) -> Int {
    Evaluator.capacity * (128 * paddedWidth(configuration.embedding) + 2 * 4 * paddedWidth(hiddenUnits))
  }

  /// Tokens of RWKV-7b's cache that a session has room for, whatever the limit.
  private static let leastContext = 1024

  /// The most tokens that each of some states of RWKV-7b remembers: as many as are wanted, or as memory is left for.
  static func maximumContext(
    _ configuration: Configuration, wanted: Int?, states: Int = 1, _ plan: MemoryPlan
  ) -> Int? {
    let each = configuration.bytesPerToken
    guard each > 0 else { return nil }
    if let wanted { return min(wanted, State.maximumTokens) }
    let limit = plan.streaming?.limit ?? memoryCapacity() ?? Int.max
    let share = min(plan.spare, limit - residentMemory()) / states
    // While one block's cache grows, there are two of it.
    let room = share / each * configuration.layers / (configuration.layers + 1)
    return min(max(room, leastContext), State.maximumTokens)
  }

  /// Memory of one thread that reads chunks.
  private static func readerBytes(_ file: ModelFile) -> Int {
    let largest = file.tensors.map { min($0.rawBytes, $0.recordsPerChunk * $0.recordBytes) }.max() ?? 0
    return 2 * largest + (200 << 10)
  }
}
