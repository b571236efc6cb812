// SPDX-License-Identifier: MIT
import CRWKVABI
import Glibc
import RWKV
import RWKVCheckpoint
import RWKVFormat
import RWKVQuantization
import Synchronization

/// An error as C sees it.
struct Failure: Error {
  let flags: UInt32
  let text: String

  init(_ place: rwkv_error_flags, _ what: rwkv_error_flags, _ text: String) {
    flags = place.rawValue | what.rawValue
    self.text = text
  }

  init(_ place: rwkv_error_flags, _ text: String) { self.init(place, RWKV_ERROR_NONE, text) }

  init(_ error: any Error) {
    switch error {
    case let failure as Failure: self = failure
    case let error as ModelError: self.init(error)
    case let error as ModelFileError: self.init(RWKV_ERROR_FILE, error.flag, "\(error)")
    case let error as StateFileError: self.init(RWKV_ERROR_FILE, error.flag, "\(error)")
    case let error as QuantizationError: self.init(error)
    default: self.init(RWKV_ERROR_ARGS, "\(error)")
    }
  }

  private init(_ error: ModelError) {
    let (place, what) =
      switch error.reason {
      case .outOfMemory, .memoryLimit, .contextFull: (RWKV_ERROR_CTX, RWKV_ERROR_ALLOC)
      case .tokenOutOfRange, .invalidBatch, .needsTokens, .otherTokens, .unknownInstructionSet:
        (RWKV_ERROR_ARGS, RWKV_ERROR_NONE)
      case .file(let error): (RWKV_ERROR_FILE, error.flag)
      case .tokenizer: (RWKV_ERROR_MODEL, RWKV_ERROR_DATA)
      case .noTokenizer: (RWKV_ERROR_MODEL, RWKV_ERROR_PARAM_MISSING)
      case .missingMetadata, .missingTensor: (RWKV_ERROR_MODEL_PARAMS, RWKV_ERROR_PARAM_MISSING)
      case .invalidMetadata: (RWKV_ERROR_MODEL_PARAMS, RWKV_ERROR_DIMENSION)
      case .unknownTensor: (RWKV_ERROR_MODEL_PARAMS, RWKV_ERROR_KEY)
      case .wrongShape: (RWKV_ERROR_MODEL_PARAMS, RWKV_ERROR_SHAPE)
      case .wrongFormat: (RWKV_ERROR_MODEL_PARAMS, RWKV_ERROR_DATA_TYPE)
      case .unsupportedVersion, .wrongKind, .missingHead, .wrongPair:
        (RWKV_ERROR_MODEL, RWKV_ERROR_UNSUPPORTED)
      case .notFinite: (RWKV_ERROR_MODEL, RWKV_ERROR_DATA)
      case .largeTokenizer, .wrongState, .cancelled: (RWKV_ERROR_MODEL, RWKV_ERROR_NONE)
      }
    self.init(place, what, "\(error)")
  }

  private init(_ error: QuantizationError) {
    let (place, what) =
      switch error {
      case .file(let error): (RWKV_ERROR_FILE, error.flag)
      case .checkpoint(let error): (RWKV_ERROR_FILE, error.flag)
      case .unreadable: (RWKV_ERROR_FILE, RWKV_ERROR_FILE_OPEN)
      case .outOfMemory: (RWKV_ERROR_CTX, RWKV_ERROR_ALLOC)
      case .option, .outputIsInput, .recipe: (RWKV_ERROR_ARGS, RWKV_ERROR_NONE)
      default: (RWKV_ERROR_FILE, RWKV_ERROR_DATA)
      }
    if case .model(let error) = error { self.init(error) } else { self.init(place, what, "\(error)") }
  }

  static func null(_ name: String) -> Failure {
    Failure(RWKV_ERROR_ARGS, "\(name) is NULL, expected a pointer")
  }
}

extension ModelFileError {
  /// What went wrong with the file.
  fileprivate var flag: rwkv_error_flags {
    switch reason {
    case .system(let call, _):
      switch call {
      case "open": RWKV_ERROR_FILE_OPEN
      case "fstat": RWKV_ERROR_FILE_STAT
      case "read", "mmap", "guard of mmap": RWKV_ERROR_FILE_READ
      default: RWKV_ERROR_FILE_WRITE
      }
    case .notRegularFile: RWKV_ERROR_FILE_STAT
    case .notModelFile: RWKV_ERROR_FILE_MAGIC
    case .unsupportedVersion, .unsupportedFeatures: RWKV_ERROR_FILE_VERSION
    case .unsupportedFormat: RWKV_ERROR_DATA_TYPE
    case .wrongSize, .changed, .damaged, .invalid, .unwritable: RWKV_ERROR_DATA
    case .exists: RWKV_ERROR_FILE_WRITE
    }
  }
}

extension StateFileError {
  fileprivate var flag: rwkv_error_flags {
    switch reason {
    case .file(let error): error.flag
    case .notStateFile, .isCollection, .notCollection: RWKV_ERROR_FILE_MAGIC
    case .unsupportedVersion, .unsupportedFeatures: RWKV_ERROR_FILE_VERSION
    case .wrongModel: RWKV_ERROR_KEY
    case .wrongSize, .damaged, .invalid, .notFinite: RWKV_ERROR_DATA
    case .outOfMemory, .tooLong: RWKV_ERROR_ALLOC
    case .isModel: RWKV_ERROR_FILE_WRITE
    }
  }
}

extension CheckpointError {
  fileprivate var flag: rwkv_error_flags {
    switch kind {
    case .unreadable: RWKV_ERROR_FILE_OPEN
    case .malformed: RWKV_ERROR_DATA
    case .unsupported: RWKV_ERROR_UNSUPPORTED
    case .mismatch: RWKV_ERROR_SHAPE
    }
  }
}

/// Where errors are kept: one per context, and one per thread for errors without a context.
final class ErrorSlot: Sendable {
  private struct Content {
    var flags: UInt32 = 0
    var text = ""
    var prints = false
  }
  private let content: Mutex<Content>

  init(prints: Bool) { content = Mutex(Content(prints: prints)) }

  var prints: Bool {
    get { content.withLock { $0.prints } }
    set { content.withLock { $0.prints = newValue } }
  }

  var text: String { content.withLock { $0.text } }

  func set(_ error: any Error) {
    let failure = Failure(error)
    let prints = content.withLock { content in
      content.flags = failure.flags
      content.text = failure.text
      return content.prints
    }
    guard prints else { return }
    let line = Array("rwkv: \(failure.text)\n".utf8)
    _ = Glibc.write(STDERR_FILENO, line, line.count)
  }

  /// The flags, which are cleared.
  func take() -> UInt32 {
    content.withLock { content in
      defer { content.flags = 0 }
      return content.flags
    }
  }

  /// That of the calling thread.
  static var ofThread: ErrorSlot {
    if let slot = pthread_getspecific(key) {
      return Unmanaged<ErrorSlot>.fromOpaque(slot).takeUnretainedValue()
    }
    let slot = ErrorSlot(prints: printsFromTheStart)
    pthread_setspecific(key, Unmanaged.passRetained(slot).toOpaque())
    return slot
  }

  private static let printsFromTheStart = getenv("RWKV_PRINT_ERRORS").map { String(cString: $0) } == "1"

  private static let key: pthread_key_t = {
    var key = pthread_key_t()
    pthread_key_create(&key) { slot in
      if let slot { Unmanaged<ErrorSlot>.fromOpaque(slot).release() }
    }
    return key
  }()
}

/// Runs a call that has no context; an error goes to the thread's slot.
func attempt<Result>(_ failed: Result, _ body: () throws -> Result) -> Result {
  do { return try body() } catch {
    ErrorSlot.ofThread.set(error)
    return failed
  }
}

/// Runs a call on a context that only asks for something; an error goes to its slot.
func ask<Result>(_ handle: OpaquePointer?, _ failed: Result, _ body: (ContextObject) throws -> Result)
  -> Result
{
  guard let context = Handles.find(handle, ContextObject.self) else {
    return attempt(failed) { try body(Handles.get(handle, ContextObject.self)) }
  }
  do { return try body(context) } catch {
    context.errors.set(error)
    return failed
  }
}

/// Runs a call that uses a context's memory and threads; its error replaces that of earlier calls.
func use<Result>(_ handle: OpaquePointer?, _ failed: Result, _ body: (ContextObject) throws -> Result)
  -> Result
{
  ask(handle, failed) { context in
    try context.exclusively {
      _ = context.errors.take()
      return try body(context)
    }
  }
}

/// Runs a call that opens or converts a file; its error replaces that of the thread's earlier calls.
func begin<Result>(_ failed: Result, _ body: () throws -> Result) -> Result {
  _ = ErrorSlot.ofThread.take()
  return attempt(failed, body)
}
