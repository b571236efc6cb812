// SPDX-License-Identifier: MIT
import Dispatch
import RWKV
import Synchronization

/// States after prefixes of texts, the least recently used ones dropped first; with a folder also on the disk, where
/// they outlive the process. Thread-safe.
final class StateCache: Sendable {
  struct Found: @unchecked Sendable {
    let state: State
    let count: Int
  }

  /// A prefix of somebody's texts.
  private struct Key: Hashable {
    let owner: String
    let count: Int
    let hash: UInt64

    /// What the file is called.
    var name: String { "\(StateFolder.Kind.cache.rawValue)-\(owner)-\(count)-\(String(hash, radix: 16))" }

    init(owner: String, count: Int, hash: UInt64) {
      (self.owner, self.count, self.hash) = (owner, count, hash)
    }

    init?(name: String) {
      let parts = name.split(separator: "-", omittingEmptySubsequences: false)
      guard parts.count == 4, parts[0] == StateFolder.Kind.cache.rawValue, let count = Int(parts[2]),
        count > 0,
        let hash = UInt64(parts[3], radix: 16)
      else { return nil }
      self.init(owner: String(parts[1]), count: count, hash: hash)
    }
  }

  private struct Entry: @unchecked Sendable {
    let tokens: [Int]
    let state: State
    var lastUse: Int
    var bytes: Int { state.byteCount + 8 * tokens.count }
  }

  private struct Entries {
    var known: [Key: Entry] = [:]
    /// How many of the states in memory have read so many tokens.
    var counts: [Int: Int] = [:]
    /// Uses, the oldest first; those that are not their entry's last say nothing.
    var uses: [(key: Key, time: Int)] = []
    var firstUse = 0
    var time = 0
    var bytes = 0
    var hits = 0
    var misses = 0

    mutating func use(_ key: Key) {
      time += 1
      known[key]?.lastUse = time
      uses.append((key, time))
      guard firstUse + 2 * known.count + 64 < uses.count else { return }
      uses = uses[firstUse...].filter { known[$0.key]?.lastUse == $0.time }
      firstUse = 0
    }

    mutating func removeOldest() {
      while firstUse < uses.count {
        let (key, time) = uses[firstUse]
        firstUse += 1
        guard let entry = known[key], entry.lastUse == time else { continue }
        known[key] = nil
        counts[key.count, default: 1] -= 1
        bytes -= entry.bytes
        return
      }
    }
  }

  /// The most bytes of states in memory (`--state-cache`): `insert` drops others.
  private let capacity: Int
  private let model: Model
  private let folder: StateFolder?
  private let entries = Mutex(Entries())
  private let onDisk = Mutex<(version: Int, counts: Set<Int>)>((0, []))
  /// Still to be written to the disk; one thread does that, the newest first.
  private let waiting = Mutex<(list: [(Key, Entry)], isWriting: Bool)>(([], false))
  private let writer = DispatchQueue(label: "rwkv-serve.states", qos: .utility)
  /// The folder has room for so many times the memory.
  private static let diskFactor = 8
  /// More that wait to be written are forgotten, the oldest first.
  private static let mostWaiting = 16

  init(capacity: Int, _ model: Model, _ folder: StateFolder?) {
    (self.capacity, self.model, self.folder) = (capacity, model, folder)
  }

  /// The state after the longest known beginning of a text that leaves at least one token to read.
  ///
  /// What a lookup costs depends on the text, and not on how many states there are.
  func longest(prefixOf tokens: [Int], owner: String) -> Found? {
    let files = folder?.listing ?? StateFolder.Listing()
    let onDisk = counts(files)
    let candidates = entries.withLock { entries in
      var candidates: [Key] = []
      Self.forEachPrefix(of: tokens.dropLast()) { count, hash in
        guard entries.counts[count] ?? 0 > 0 || onDisk.contains(count) else { return }
        let key = Key(owner: owner, count: count, hash: hash)
        if entries.known[key] != nil || files.sizes[key.name] != nil { candidates.append(key) }
      }
      return candidates
    }
    for key in candidates.reversed() {
      guard let entry = entries.withLock({ $0.known[key] }) ?? load(key), tokens.starts(with: entry.tokens)
      else {
        continue
      }
      folder?.touch(key.name)
      entries.withLock { entries in
        entries.hits += 1
        entries.use(key)
      }
      return Found(state: entry.state, count: key.count)
    }
    entries.withLock { $0.misses += 1 }
    return nil
  }

  /// Keeps a state that nobody changes any more.
  func insert(_ tokens: [Int], _ state: State, owner: String) {
    var hash: UInt64 = 0
    Self.forEachPrefix(of: tokens[...]) { hash = $1 }
    let key = Key(owner: owner, count: tokens.count, hash: hash)
    let entry = Entry(tokens: tokens, state: state, lastUse: 0)
    guard insert(key, entry), folder != nil else { return }
    let begins = waiting.withLock { waiting in
      waiting.list.append((key, entry))
      if waiting.list.count > Self.mostWaiting { waiting.list.removeFirst() }
      defer { waiting.isWriting = true }
      return !waiting.isWriting
    }
    if begins { writer.async { self.write() } }
  }

  /// Puts an entry into the cache; false if it was there.
  private func insert(_ key: Key, _ entry: Entry) -> Bool {
    entries.withLock { entries in
      let isNew = entries.known[key] == nil
      if isNew {
        entries.known[key] = entry
        entries.counts[key.count, default: 0] += 1
        entries.bytes += entry.bytes
      }
      entries.use(key)
      while entries.bytes > capacity && !entries.known.isEmpty { entries.removeOldest() }
      return isNew
    }
  }

  // MARK: The disk

  /// How many tokens the states on the disk have read.
  private func counts(_ files: StateFolder.Listing) -> Set<Int> {
    onDisk.withLock { onDisk in
      if onDisk.version != files.version {
        onDisk = (files.version, Set(files.sizes.keys.compactMap { Key(name: $0)?.count }))
      }
      return onDisk.counts
    }
  }

  private func load(_ key: Key) -> Entry? {
    guard let record = folder?.read(key.name), let saved = try? model.loadState(bytes: record.state),
      saved.tokens.count == key.count
    else { return nil }
    let entry = Entry(tokens: saved.tokens, state: saved.state, lastUse: 0)
    _ = insert(key, entry)
    return entry
  }

  private func write() {
    while true {
      let next = waiting.withLock { waiting in
        let next = waiting.list.popLast()
        waiting.isWriting = next != nil
        return next
      }
      guard let (key, entry) = next, let folder else { return }
      if let bytes = try? entry.state.encoded(tokens: entry.tokens) {
        do { try folder.write(key.name, [:], bytes) } catch {
          note("rwkv-serve: a state is not kept: \(error)")
        }
      }
      folder.trim(.cache, to: Self.diskFactor * capacity)
    }
  }

  /// Waits until all that was to be written is.
  func finishWriting() { writer.sync {} }

  /// Numbers of tokens of all prefixes, with a hash of each.
  private static func forEachPrefix(of tokens: ArraySlice<Int>, _ body: (Int, UInt64) -> Void) {
    var hash: UInt64 = 0xCBF2_9CE4_8422_2325
    for (index, token) in tokens.enumerated() {
      hash = (hash ^ UInt64(token)) &* 0x9E37_79B9_7F4A_7C15
      hash ^= hash >> 32
      body(index + 1, hash)
    }
  }

  var statistics: (entries: Int, bytes: Int, hits: Int, misses: Int) {
    entries.withLock { ($0.known.count, $0.bytes, $0.hits, $0.misses) }
  }
}
