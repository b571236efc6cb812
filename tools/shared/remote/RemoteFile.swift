// SPDX-License-Identifier: MIT
import Glibc
import RWKVCheckpoint
import Synchronization
import Terminal

/// What is known of a file before it is asked for.
package struct Expectation: Sendable {
  var size: Int?
  /// The file's SHA-256 in hexadecimal, if the hub gives it.
  var sha256: String?

  package init(size: Int? = nil, sha256: String? = nil) { (self.size, self.sha256) = (size, sha256) }
}

/// A file on a server, of which the blocks in use are in memory and those that follow are on their way. Blocks that
/// were read are forgotten, and those of which only a part was read go to the disk when there are too many, so that the
/// memory is the same for any file.
package final class RemoteFile: RemoteBytes, @unchecked Sendable {
  let address: Address
  package let size: Int
  let expected: Expectation
  private let web: Web

  package static let blockBytes = 512 << 10
  /// Blocks that are asked for before they are needed, while a file is read in order.
  private static let ahead = 8
  /// Blocks in memory, enough for two threads that read in order.
  private static let most = 2 * (ahead + 1)
  /// What may be on the disk in any case [bytes].
  private static let leastStored = 24 << 20
  /// Small ranges that are fetched together lie no further apart than this, and are so many bytes at most.
  private static let (nearness, mostPieces) = (8 << 10, 4 << 20)

  private enum Block {
    case coming
    /// With the number of its bytes that nobody has read.
    case here([UInt8], unread: Int)
    /// In this place on the disk.
    case stored(Int, bytes: Int, unread: Int)
    case failed(String)

    var isHere: Bool { if case .here = self { true } else { false } }
    var isStored: Bool { if case .stored = self { true } else { false } }
    /// Whether all of it was read, but for what containers have between tensors.
    var wasRead: Bool {
      if case .here(let bytes, let unread) = self { unread <= bytes.count / 32 } else { false }
    }
  }
  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  private let changed = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
  // Guarded by `mutex`.
  private var blocks: [Int: Block] = [:]
  /// When each block was used last.
  private var used: [Int: Int] = [:]
  private var clock = 0
  /// Blocks that were read: they tell whether a file is read in order.
  private var seen: Set<Int> = []
  private let disk: StoredBlocks
  /// Blocks that were read to their end, the newest at the end: a thread that comes behind does not ask for them ahead.
  private var finished: [Int] = []
  /// Small ranges that were announced, and are here.
  private var pieces: [(start: Int, bytes: [UInt8])] = []
  /// The version of the parts that came; the others must be of it, too.
  private var version = Version()
  private var hasBegun = false

  /// - Parameter together: size of all files that are read as one model [bytes], which decides about the room on the
  ///   disk: the largest of its matrices that are read column by column have up to a 64th of it.
  package init(_ address: Address, web: Web, expected: Expectation, together: Int? = nil) throws {
    (self.address, self.web, self.expected) = (address, web, expected)
    if let size = expected.size {
      self.size = size
    } else {
      let first = try web.part(address, 0..<1)
      (size, version, hasBegun) = (first.size, first.version, true)
    }
    let stored = max(Self.leastStored, (together ?? size) / 64)
    disk = StoredBlocks(of: Self.blockBytes, limit: stored / Self.blockBytes)
    pthread_mutex_init(mutex, nil)
    pthread_cond_init(changed, nil)
  }

  /// Whether anything of it was read.
  var isUsed: Bool {
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    return clock > 0
  }

  /// What tells this version from others, if the server names it; for those who keep a part of it.
  var identity: String? {
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    return expected.sha256 ?? version.tag
  }

  deinit {
    pthread_cond_destroy(changed)
    pthread_mutex_destroy(mutex)
    changed.deallocate()
    mutex.deallocate()
  }

  package func read(at offset: Int, into buffer: UnsafeMutableRawBufferPointer) -> String? {
    if takePiece(offset, buffer) { return nil }
    var done = 0
    while done < buffer.count {
      let (index, start) = (offset + done).quotientAndRemainder(dividingBy: Self.blockBytes)
      pthread_mutex_lock(mutex)
      defer { pthread_mutex_unlock(mutex) }
      clock += 1
      let isInOrder = seen.contains(index - 1)
      seen.insert(index)
      request(index, isNow: true)
      for next in index + 1...index + Self.ahead
      where isInOrder && next * Self.blockBytes < size && !finished.contains(next) {
        request(next, isNow: false)
      }
      while case .coming = blocks[index] { pthread_cond_wait(changed, mutex) }
      switch blocks[index] {
      case .here(let bytes, let unread):
        let count = min(buffer.count - done, bytes.count - start)
        bytes.withUnsafeBytes {
          UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + count])
            .copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[start..<start + count]))
        }
        done += count
        blocks[index] = .here(bytes, unread: unread - count)
        if unread <= count, start + count == bytes.count { finish(index) }
      case .stored(let place, let bytes, let unread):
        let count = min(buffer.count - done, bytes - start)
        let part = UnsafeMutableRawBufferPointer(rebasing: buffer[done..<done + count])
        guard disk.read(place, at: start, into: part) else {
          forget(index)
          continue
        }
        done += count
        blocks[index] = .stored(place, bytes: bytes, unread: unread - count)
        if unread <= count, start + count == bytes { finish(index) }
      case .failed(let problem): return problem
      // Others read it, and it gave its room away before this thread was there.
      default: continue
      }
    }
    return nil
  }

  /// Asks for a block that is not there. The caller holds the lock.
  private func request(_ index: Int, isNow: Bool) {
    if isNow { used[index] = clock }
    guard blocks[index] == nil else { return }
    used[index] = clock
    blocks[index] = .coming
    while blocks.values.count(where: { !$0.isStored }) > Self.most, let oldest = oldest() { giveUp(oldest) }
    guard let worker = Worker({ self.load(index) }) else {
      return blocks[index] = .failed("no thread can be started")
    }
    worker.detach()
  }

  /// The block whose room others get: of those that were read, or else of all that are here, the one that was used
  /// longest ago. The caller holds the lock.
  private func oldest() -> Int? { oldest(where: \.wasRead) ?? oldest(where: \.isHere) }

  private func oldest(where isWanted: (Block) -> Bool) -> Int? {
    blocks.filter { isWanted($0.value) }.keys.min { used[$0, default: 0] < used[$1, default: 0] }
  }

  /// Takes a block out of memory. The caller holds the lock.
  private func giveUp(_ index: Int) {
    guard case .here(let bytes, let unread) = blocks[index] else { return }
    if blocks[index]?.wasRead == false {
      if disk.isFull, let oldest = oldest(where: \.isStored) { forget(oldest) }
      if let place = disk.store(bytes) {
        return blocks[index] = .stored(place, bytes: bytes.count, unread: unread)
      }
    }
    forget(index)
  }

  /// Forgets a block that was read to its end; some of it may have been read twice before, so that counting is not
  /// enough. The caller holds the lock.
  private func finish(_ index: Int) {
    forget(index)
    finished.append(index)
    if finished.count > 4 * Self.most { finished.removeFirst() }
  }

  private func forget(_ index: Int) {
    if case .stored(let place, _, _) = blocks[index] { disk.giveBack(place) }
    blocks[index] = nil
    used[index] = nil
  }

  package func willRead(_ ranges: [Range<Int>]) {
    var (joined, total) = ([Range<Int>](), 0)
    for range in ranges.sorted(by: { $0.lowerBound < $1.lowerBound }) {
      if let last = joined.last, range.lowerBound - last.upperBound <= Self.nearness,
        range.upperBound - last.lowerBound <= Self.blockBytes
      {
        joined[joined.count - 1] = last.lowerBound..<max(last.upperBound, range.upperBound)
        total += max(0, range.upperBound - last.upperBound)
      } else {
        joined.append(range)
        total += range.count
      }
      if total > Self.mostPieces { break }
    }
    let wanted = joined
    let next = Atomic(0)
    let workers = (0..<min(Self.ahead, wanted.count)).map { _ in
      Worker {
        while case let index = next.add(1, ordering: .relaxed).oldValue, index < wanted.count {
          self.loadPiece(wanted[index])
        }
      }
    }
    for worker in workers { worker?.wait() }
  }

  private func loadPiece(_ range: Range<Int>) {
    // What fails is asked for again when it is read.
    guard let part = try? web.part(address, range, known: size) else { return }
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    guard problem(of: part, range) == nil else { return }
    hasBegun = true
    pieces.append((range.lowerBound, part.bytes))
  }

  /// Whether the bytes were announced, and are here.
  private func takePiece(_ offset: Int, _ buffer: UnsafeMutableRawBufferPointer) -> Bool {
    pthread_mutex_lock(mutex)
    defer { pthread_mutex_unlock(mutex) }
    guard buffer.count <= Self.nearness,
      let piece = pieces.first(where: {
        $0.start <= offset && offset + buffer.count <= $0.start + $0.bytes.count
      })
    else { return false }
    let place = piece.bytes[(offset - piece.start)...].prefix(buffer.count)
    place.withUnsafeBytes { buffer.copyMemory(from: $0) }
    return true
  }

  private func load(_ index: Int) {
    let start = index * Self.blockBytes
    let range = start..<min(size, start + Self.blockBytes)
    let result = Result { try web.part(address, range, known: size) }
    pthread_mutex_lock(mutex)
    switch result {
    case .success(let part):
      if let problem = problem(of: part, range) {
        blocks[index] = .failed(problem)
      } else {
        blocks[index] = .here(part.bytes, unread: part.bytes.count)
        hasBegun = true
      }
    case .failure(let error): blocks[index] = .failed("\(error)")
    }
    pthread_cond_broadcast(changed)
    pthread_mutex_unlock(mutex)
  }

  /// Whether a part is not of the file that was expected, or not of the one that was read before. The caller
  /// holds the lock.
  private func problem(of part: Web.Part, _ range: Range<Int>) -> String? {
    let sizes = [part.size, part.linkedSize ?? part.size]
    if let listed = expected.size, let found = sizes.first(where: { $0 != listed }) {
      return hasBegun
        ? "\(Web.changed(address))" : "\(address.shown): \(found) bytes, but the repository lists \(listed)"
    }
    if let hash = expected.sha256, let linked = part.linkedTag, linked.filter(\.isHexDigit).count == 64,
      linked.filter(\.isHexDigit) != hash
    {
      return "\(address.shown): the server has another file than the repository lists"
    }
    guard part.size == size, part.bytes.count == range.count, version.isSame(part.version) else {
      return "\(Web.changed(address))"
    }
    return nil
  }
}

/// A thread of its own: not one of the pool, whose threads wait for the blocks. Nil where none can be started.
private final class Worker {
  private var thread = pthread_t()

  private final class Work: Sendable {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
  }

  init?(_ body: @escaping @Sendable () -> Void) {
    let work = Unmanaged.passRetained(Work(body))
    let code = pthread_create(
      &thread, nil,
      { context in
        guard let context else { return nil }
        Unmanaged<Work>.fromOpaque(context).takeRetainedValue().body()
        return nil
      }, work.toOpaque())
    guard code == 0 else {
      work.release()
      return nil
    }
  }

  /// Waits until the thread ends. Either this or `detach` must be called, once.
  func wait() { pthread_join(thread, nil) }
  func detach() { pthread_detach(thread) }
}
