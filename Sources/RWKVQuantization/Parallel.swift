// SPDX-License-Identifier: MIT
import Glibc
import RWKVFormat
import Synchronization

/// Runs tasks 0..<count on `threads` threads, each with a context of its own; tasks start in ascending order.
///
/// The first error (or `cancelled` returning true between tasks) stops all threads and is thrown.
func parallel<Context>(
  _ count: Int, threads: Int, cancelled: @Sendable () -> Bool = { false }, context: @Sendable () -> Context,
  task: @Sendable (Int, Context) throws(QuantizationError) -> Void
) throws(QuantizationError) {
  let next = Atomic<Int>(0)
  let failure = Mutex<QuantizationError?>(nil)
  onThreads(availableThreads(min(threads, count))) { _ in
    let context = context()
    while true {
      let index = next.add(1, ordering: .relaxed).oldValue
      guard index < count else { return }
      do throws(QuantizationError) {
        if cancelled() { throw QuantizationError.cancelled }
        try task(index, context)
      } catch {
        failure.withLock { $0 = $0 ?? error }
        next.store(count, ordering: .relaxed)
      }
    }
  }
  if let error = failure.withLock({ $0 }) { throw error }
}

/// Puts chunks that threads finish in any order back into file order and appends them.
///
/// A thread that is `window` chunks ahead waits, so that memory stays bounded.
final class ChunkSequence: @unchecked Sendable {
  private let writer: ModelFileWriter
  private let window: Int
  private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
  private let changed = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
  // Guarded by `mutex`.
  private var next: Int
  private var waiting: [Int: EncodedChunk] = [:]
  private var stopped = false

  /// - Parameter first: the first chunk that is handed over.
  init(_ writer: ModelFileWriter, first: Int, window: Int) {
    self.writer = writer
    next = first
    self.window = window
    var attributes = pthread_mutexattr_t()
    pthread_mutexattr_init(&attributes)
    // Who gives it back without having it is told so.
    pthread_mutexattr_settype(&attributes, Int32(PTHREAD_MUTEX_ERRORCHECK))
    pthread_mutex_init(mutex, &attributes)
    pthread_mutexattr_destroy(&attributes)
    pthread_cond_init(changed, nil)
  }

  deinit {
    pthread_cond_destroy(changed)
    pthread_mutex_destroy(mutex)
    changed.deallocate()
    mutex.deallocate()
  }

  /// Returns when chunk `index` of the file may be made, or after `stop`.
  func wait(for index: Int) {
    withLock { while index >= next + window && !stopped { pthread_cond_wait(changed, mutex) } }
  }

  /// Hands over chunk `index`.
  func put(_ chunk: EncodedChunk, at index: Int) throws(QuantizationError) {
    try withLock { () throws(QuantizationError) in
      defer { pthread_cond_broadcast(changed) }
      waiting[index] = chunk
      while let chunk = waiting.removeValue(forKey: next) {
        do throws(ModelFileError) { try writer.append(chunk) } catch { throw QuantizationError.file(error) }
        next += 1
      }
    }
  }

  /// Lets all waiting threads go: after an error.
  func stop() {
    withLock {
      stopped = true
      pthread_cond_broadcast(changed)
    }
  }

  private func withLock<Failure: Error>(_ body: () throws(Failure) -> Void) throws(Failure) {
    pthread_mutex_lock(mutex)
    defer {
      let code = pthread_mutex_unlock(mutex)
      precondition(code == 0, "the lock of chunks is not this thread's")
    }
    try body()
  }
}
