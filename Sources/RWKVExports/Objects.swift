// SPDX-License-Identifier: MIT
import CRWKVABI
import RWKV
import RWKVTokenizer

/// `struct rwkv_context`
final class ContextObject: Object, @unchecked Sendable {
  override class var kind: String { "context" }
  let model: Model
  let evaluator: Evaluator
  let errors: ErrorSlot
  let threads: Int
  /// Guesses of what follows in generated texts.
  var drafts: Drafts?
  /// The state whose logits the evaluator holds.
  weak var latest: State?

  init(_ model: Model, threads: Int, prints: Bool) throws {
    guard (1...mostThreads).contains(threads) else {
      throw Failure(RWKV_ERROR_ARGS, "\(threads) threads, expected 1…\(mostThreads)")
    }
    self.model = model
    evaluator = try Evaluator(model, threads: threads)
    errors = ErrorSlot(prints: prints)
    self.threads = threads
  }

  /// Reads a sequence into a state and copies the logits after it, if they are wanted.
  func read(
    _ input: Evaluator.Input, _ state: State, logits: UnsafeMutablePointer<Float>?,
    progress: (Int) -> Bool = { _ in true }
  ) throws {
    latest = nil
    try evaluator.read(input, state, output: logits == nil ? .none : .lastOfEachRun) { end, _ in progress(end)
    }
    guard let logits, let source = evaluator.logits(0).baseAddress else { return }
    logits.update(from: source, count: model.configuration.vocabulary)
    latest = state
  }

  /// `count` tokens of a C array, all within the vocabulary.
  func tokens(_ tokens: UnsafePointer<UInt32>?, _ count: Int) throws -> [Int] {
    guard let tokens else { throw Failure.null("tokens") }
    guard count > 0 else { throw Failure(RWKV_ERROR_ARGS, "no tokens; give at least one") }
    let vocabulary = model.configuration.vocabulary
    return try UnsafeBufferPointer(start: tokens, count: count).map { token in
      guard token < vocabulary else {
        throw Failure(
          RWKV_ERROR_ARGS, "token id \(token) is outside the model's vocabulary 0…\(vocabulary - 1)")
      }
      return Int(token)
    }
  }
}

/// `struct rwkv_state`
final class StateObject: Object, @unchecked Sendable {
  override class var kind: String { "state" }
  let state: State
  /// The tokens it was saved with.
  let tokens: [Int]

  init(_ state: State, tokens: [Int] = []) {
    self.state = state
    self.tokens = tokens
  }

  func check(_ context: ContextObject) throws {
    guard state.model.identity == context.model.identity else {
      throw Failure(
        RWKV_ERROR_ARGS, "the state belongs to '\(state.model.name)', not to '\(context.model.name)'")
    }
  }
}

/// `struct rwkv_sampler`
final class SamplerObject: Object, @unchecked Sendable {
  override class var kind: String { "sampler" }
  var sampler: Sampler
  /// Whether it has chosen a token; its options stay as they are then.
  var hasStarted = false
  private(set) var options: SamplingOptions
  private let tokenizer: (any Tokenizer)?

  init(_ options: SamplingOptions, _ tokenizer: (any Tokenizer)?) throws {
    self.options = options
    self.tokenizer = tokenizer
    sampler = try Sampler(options, tokenizer: tokenizer)
  }

  func change(_ body: (inout SamplingOptions) throws -> Void) throws {
    guard !hasStarted else {
      throw Failure(
        RWKV_ERROR_CTX, "the sampler has chosen tokens; set options before the first, or make a new one")
    }
    var changed = options
    try body(&changed)
    sampler = try Sampler(changed, tokenizer: tokenizer)
    options = changed
  }
}

// MARK: - Buffers of the caller

/// Writes as much of `bytes` as fits and a 0 behind it; returns the whole length.
func write(_ bytes: some Collection<UInt8>, _ buffer: UnsafeMutablePointer<CChar>?, _ size: Int) throws -> Int
{
  guard size > 0 else { return bytes.count }
  guard let buffer else { throw Failure.null("buffer") }
  var end = 0
  for byte in bytes.prefix(size - 1) {
    buffer[end] = CChar(bitPattern: byte)
    end += 1
  }
  buffer[end] = 0
  return bytes.count
}

/// Writes as many tokens as fit; returns their whole number.
func write(_ tokens: [Int], _ buffer: UnsafeMutablePointer<UInt32>?, _ capacity: Int) throws -> Int {
  guard capacity > 0 else { return tokens.count }
  guard let buffer else { throw Failure.null("tokens") }
  for (index, token) in tokens.prefix(capacity).enumerated() { buffer[index] = UInt32(token) }
  return tokens.count
}

/// Writes as many values as fit; returns their whole number.
func write<Value>(_ values: [Value], _ name: String, _ buffer: UnsafeMutablePointer<Value>?, _ capacity: Int)
  throws -> Int
{
  guard capacity > 0 else { return values.count }
  guard let buffer else { throw Failure.null(name) }
  for (index, value) in values.prefix(capacity).enumerated() { buffer[index] = value }
  return values.count
}

/// A 0-terminated string.
func text(_ pointer: UnsafePointer<CChar>?, _ name: String) throws -> String {
  guard let pointer else { throw Failure.null(name) }
  return String(cString: pointer)
}

/// `count` bytes of text; NULL is an empty one.
func bytes(_ pointer: UnsafePointer<CChar>?, _ count: Int, _ name: String) throws -> [UInt8] {
  guard count != 0 else { return [] }
  guard count > 0 else { throw Failure(RWKV_ERROR_ARGS, "\(name): more bytes than there can be") }
  guard let pointer else { throw Failure.null(name) }
  return UnsafeBufferPointer(start: pointer, count: count).map(UInt8.init(bitPattern:))
}

/// A list of 0-terminated strings.
func texts(_ pointers: UnsafePointer<UnsafePointer<CChar>?>?, _ count: Int, _ name: String) throws -> [String]
{
  try (0..<max(0, count)).map { index in
    guard let pointers else { throw Failure.null(name) }
    return try text(pointers[index], "\(name)[\(index)]")
  }
}
