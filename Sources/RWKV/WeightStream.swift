// SPDX-License-Identifier: MIT
internal import RWKVFormat
import Dispatch
import Synchronization

/// Brings the matrices of blocks that do not fit into memory there for each pass, in the order of evaluation.
///
/// There are two buffers. While one block is evaluated, a background thread inflates the next one into the other
/// buffer; when the evaluation arrives there first, its threads help with the chunks that are left. Checksums are
/// compared the first time a block is read. The sessions of a model take turns: one evaluation at a time.
final class WeightStream: @unchecked Sendable {
  /// The chunks of one streamed block.
  struct Group {
    var chunks: [ChunkPlace] = []
    var byteCount = 0
  }

  /// One filling of a buffer. Threads claim chunks one by one.
  private final class Fill: Sendable {
    let position: Int
    let buffer: Int
    let verifies: Bool
    private let claimed = Atomic<Int>(0)

    init(position: Int, buffer: Int, verifies: Bool) {
      (self.position, self.buffer, self.verifies) = (position, buffer, verifies)
    }

    func claim() -> Int { claimed.add(1, ordering: .relaxed).oldValue }
  }

  private let file: ModelFile
  /// What is streamed of the block at each position; nil if that block is always in memory.
  private let groups: [Group?]
  /// The positions of the blocks that are streamed.
  private let streamed: [Int]
  /// Where each block's matrices are at present: what their locations refer to.
  private let regions: UnsafeMutablePointer<UnsafeRawPointer>
  private let buffers: [UnsafeMutableRawPointer]
  /// Keeps the buffers alive: the background thread may still fill one when nothing else holds the model any more.
  private let arena: Arena
  private let queue = DispatchQueue(label: "rwkv.weights")
  private let backgroundReader = ChunkReader()
  private let turn = Mutex<Void>(())
  private let failure = Mutex<ModelError?>(nil)
  /// The filling that the evaluation meets next. Changes between phases only.
  private var fill: Fill?
  /// Whether the checksums of the block at a position have been compared. Changes between phases only.
  private var isVerified: [Bool]

  /// - Parameter regions: one for each position; those of streamed blocks are set here.
  init(
    _ file: ModelFile, _ groups: [Group?], regions: UnsafeMutablePointer<UnsafeRawPointer>, arena: Arena
  ) throws(ModelError) {
    (self.file, self.groups, self.regions, self.arena) = (file, groups, regions, arena)
    streamed = groups.indices.filter { groups[$0] != nil }
    isVerified = groups.map { _ in false }
    let largest = groups.reduce(0) { max($0, $1?.byteCount ?? 0) }
    buffers = [
      try arena.allocate(byteCount: largest, hugePages: true),
      try arena.allocate(byteCount: largest, hugePages: true),
    ]
    for position in streamed { regions[position] = UnsafeRawPointer(buffers[0]) }
  }

  /// Tokens per second if a pass takes as long as a block does, as it comes from the disk, perhaps, and again.
  func expectedRates(_ readers: [ChunkReader]) throws(ModelError) -> (first: Double, cached: Double) {
    let bytes = streamed.reduce(0) { $0 + (groups[$1]?.byteCount ?? 0) }
    let first = streamed[0]
    guard let group = groups[first] else { return (0, 0) }
    // Fresh pages would take as long as inflating into them does.
    buffers[0].initializeMemory(as: UInt8.self, repeating: 0, count: group.byteCount)
    func rate() throws(ModelError) -> Double {
      Double(group.byteCount) / Double(bytes) / (try seconds([first], readers, verifying: true))
    }
    return (try rate(), try rate())
  }

  /// The time that a pass takes when nothing is evaluated.
  func secondsPerPass(_ readers: [ChunkReader]) throws(ModelError) -> Double {
    try turn.withLock { _ throws(ModelError) in
      queue.sync {}
      fill = nil
      return try seconds(streamed, readers, verifying: false)
    }
  }

  private func seconds(
    _ positions: [Int], _ readers: [ChunkReader], verifying: Bool
  ) throws(ModelError) -> Double {
    let start = DispatchTime.now().uptimeNanoseconds
    for (number, position) in positions.enumerated() {
      guard let group = groups[position] else { continue }
      try file.load(group.chunks, to: buffers[number % 2], using: readers, verifying: verifying)
    }
    return Double(DispatchTime.now().uptimeNanoseconds - start) * 1e-9
  }

  /// Runs one evaluation, which acquires all blocks in order; throws if some of them could not be read.
  func evaluate(_ body: () throws(ModelError) -> Void) throws(ModelError) {
    try turn.withLock { _ throws(ModelError) in
      if fill == nil { begin(streamed[0], into: 0) }
      do throws(ModelError) {
        try body()
        let error = failure.withLock { failure in
          defer { failure = nil }
          return failure
        }
        if let error { throw error }
      } catch {
        // What has been inflated ahead may be damaged: begin anew next time.
        queue.sync {}
        fill = nil
        throw error
      }
    }
  }

  /// Waits until the block at `position` is in memory. Called by all members; no phases if it always is.
  func acquire(_ position: Int, _ member: inout Team.Member, _ readers: [ChunkReader]) {
    guard position < groups.count, let group = groups[position] else { return }
    let reader = readers[member.index]
    member.parallel(group.chunks.count) { _ in
      guard let fill else { return }
      loadNext(of: group, fill, reader)
    }
    // One member waits for the chunk that the background thread may still be at, and sends it on to the next block.
    member.parallel(1) { _ in
      guard let fill else { return }
      queue.sync {}
      if failure.withLock({ $0 == nil }) { isVerified[position] = true }
      regions[position] = UnsafeRawPointer(buffers[fill.buffer])
      let next = streamed.first { $0 > position } ?? streamed[0]
      begin(next, into: 1 - fill.buffer)
    }
  }

  private func begin(_ position: Int, into buffer: Int) {
    let fill = Fill(position: position, buffer: buffer, verifies: !isVerified[position])
    self.fill = fill
    queue.async { [self] in
      guard let group = groups[position] else { return }
      while loadNext(of: group, fill, backgroundReader) {}
    }
  }

  /// Claims and reads one chunk; false if none is left.
  @discardableResult
  private func loadNext(of group: Group, _ fill: Fill, _ reader: ChunkReader) -> Bool {
    let index = fill.claim()
    guard index < group.chunks.count else { return false }
    let place = group.chunks[index]
    do {
      try file.readChunk(
        place.chunk, of: place.tensor, into: place.bytes(in: buffers[fill.buffer]), using: reader,
        verifying: fill.verifies)
    } catch {
      failure.withLock { $0 = $0 ?? ModelError(error) }
    }
    return true
  }
}
