// SPDX-License-Identifier: MIT
import Glibc
import Synchronization

/// A whole model file mapped for reading: pages come from the disk when they are touched, processes share them, and the
/// kernel may drop them.
///
/// Stored tensors are used in place (`ModelFile.storedOffset`). Nothing is checked on the way: see
/// `ModelFile.verifyChunk`. Where another program cuts the file short, or the disk fails, the kernel has no page to
/// give and sends SIGBUS. The first mapping of a process therefore installs a handler for that signal: it puts zeros in
/// the place of what is missing, so that the reader goes on, and `check` throws from then on. Signals for addresses
/// outside of mappings go to the handler that was there before.
public final class FileMapping: Sendable {
  /// The bytes of the file, valid as long as the object lives.
  public nonisolated(unsafe) let bytes: UnsafeRawBufferPointer
  private let path: String
  private let file: File
  private let guarded: Int

  /// Maps a file that is open.
  public init(_ file: ModelFile) throws(ModelFileError) {
    (path, self.file) = (file.path, file.file)
    let size = Int(file.size)
    guard let base = mmap(nil, size, PROT_READ, MAP_SHARED, self.file.descriptor, 0), base != MAP_FAILED
    else {
      throw ModelFileError(.system(call: "mmap", errno: errno), path: file.path)
    }
    bytes = UnsafeRawBufferPointer(start: base, count: size)
    guard let guarded = FaultGuard.add(UInt(bitPattern: base), size) else {
      munmap(base, size)
      throw ModelFileError(.system(call: "guard of mmap", errno: EMFILE), path: file.path)
    }
    self.guarded = guarded
  }

  deinit {
    FaultGuard.remove(guarded)
    munmap(UnsafeMutableRawPointer(mutating: bytes.baseAddress), bytes.count)
  }

  /// Throws if the file is not what it was when it was opened: what was read since may be wrong. Costs one system call.
  public func check() throws(ModelFileError) {
    guard !FaultGuard.wasHit(guarded), file.isUnchanged else { throw ModelFileError(.changed, path: path) }
  }
}

/// The mapped ranges that the handler of SIGBUS knows. Its table never moves, so that the handler may read it anywhere.
private enum FaultGuard {
  struct Range: ~Copyable {
    let start = Atomic<UInt>(0)
    let end = Atomic<UInt>(0)
    let isUsed = Atomic<Bool>(false)
    let wasHit = Atomic<Bool>(false)
  }

  /// Files that one process may have mapped at a time.
  static let capacity = 256
  nonisolated(unsafe) static let ranges: UnsafeMutablePointer<Range> = {
    let ranges = UnsafeMutablePointer<Range>.allocate(capacity: capacity)
    for index in 0..<capacity { (ranges + index).initialize(to: Range()) }
    return ranges
  }()
  nonisolated(unsafe) static var previous = sigaction()
  static let isInstalled: Bool = {
    var action = sigaction()
    action.sa_flags = SA_SIGINFO | SA_ONSTACK
    action.__sigaction_handler.sa_sigaction = { _, info, _ in FaultGuard.handle(info) }
    return sigaction(SIGBUS, &action, &previous) == 0
  }()

  /// Number of the range's entry, or nil where there is no room.
  static func add(_ start: UInt, _ size: Int) -> Int? {
    // Touched here, so that the handler finds them ready.
    guard pageSize > 0, isInstalled else { return nil }
    for index in 0..<capacity {
      let (isFree, _) = ranges[index].isUsed.compareExchange(
        expected: false, desired: true, ordering: .acquiringAndReleasing)
      guard isFree else { continue }
      ranges[index].wasHit.store(false, ordering: .relaxed)
      ranges[index].end.store(start + UInt(size), ordering: .relaxed)
      ranges[index].start.store(start, ordering: .releasing)
      return index
    }
    return nil
  }

  static func remove(_ index: Int) {
    ranges[index].start.store(0, ordering: .relaxed)
    ranges[index].end.store(0, ordering: .relaxed)
    ranges[index].isUsed.store(false, ordering: .releasing)
  }

  static func wasHit(_ index: Int) -> Bool { ranges[index].wasHit.load(ordering: .relaxed) }

  /// Runs in the thread that touched the missing page: only loads, stores and system calls.
  static func handle(_ info: UnsafeMutablePointer<siginfo_t>?) {
    let address = UInt(bitPattern: info?.pointee._sifields._sigfault.si_addr)
    for index in 0..<capacity {
      let end = ranges[index].end.load(ordering: .relaxed)
      guard address >= ranges[index].start.load(ordering: .relaxed), address < end else { continue }
      // All pages from here on are gone, or as good as gone.
      let page = UnsafeMutableRawPointer(bitPattern: address / pageSize * pageSize)
      let flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED
      ranges[index].wasHit.store(true, ordering: .relaxed)
      let zeros = mmap(page, Int(end - address / pageSize * pageSize), PROT_READ, flags, -1, 0)
      if zeros != MAP_FAILED { return }
    }
    // Not ours: the instruction is repeated, and the previous handler gets the signal.
    sigaction(SIGBUS, &previous, nil)
  }

  static let pageSize = UInt(getpagesize())
}
