// SPDX-License-Identifier: MIT
import RWKVFormat
import RWKVTokenizer
import Synchronization

/// Text that a session writes, as pieces of whole characters. `Session.generate` makes one.
///
/// Nothing is computed before a piece is asked for, and then on a thread of its own, so that no actor has to wait. The
/// session must not be used for anything else while a piece is awaited. Cancelling the task ends the loop with a
/// `CancellationError`, also while a long prompt is read. Where the loop is left early the session has read the pieces,
/// and what `takeHeld` gives. To be iterated once.
public final class GeneratedText: AsyncSequence, AsyncIteratorProtocol {
  /// Why the text ended; nil while it goes on.
  public var finishReason: FinishReason? { writer.reason }

  private let session: Session
  /// Still to be read.
  private var prompt: [Int]
  private var writer: TextWriter
  private var sampler: Sampler

  init(_ session: Session, prompt: [Int], writer: TextWriter, sampler: Sampler) {
    self.session = session
    self.prompt = prompt
    self.writer = writer
    self.sampler = sampler
  }

  public func makeAsyncIterator() -> GeneratedText { self }

  /// Ends the text, and returns what the session has read of it beyond the last piece: an unfinished character, as
  /// U+FFFD, or what might have begun a stop string; mostly nothing.
  public func takeHeld() -> String {
    var held: [UInt8] = []
    if writer.reason == nil {
      _ = writer.cancel {
        held = $0
        return true
      }
    }
    return String(decoding: held, as: UTF8.self)
  }

  /// The next piece; nil at the end.
  public func next(isolation actor: isolated (any Actor)? = #isolation) async throws -> String? {
    let isCancelled = Flag()
    // The caller waits for the closure and cannot touch the text meanwhile.
    nonisolated(unsafe) let text = self
    let bytes = try await withTaskCancellationHandler {
      try await withCheckedThrowingContinuation { continuation in
        apart { continuation.resume(with: Result { try text.advance(isCancelled) }) }
      }
    } onCancel: {
      isCancelled.value.store(true, ordering: .relaxed)
    }
    return bytes.isEmpty ? nil : String(decoding: bytes, as: UTF8.self)
  }

  private final class Flag: Sendable {
    let value = Atomic(false)
  }

  /// Goes on until there is text, or the end.
  private func advance(_ isCancelled: Flag) throws -> [UInt8] {
    func goesOn() -> Bool { !isCancelled.value.load(ordering: .relaxed) }
    if !prompt.isEmpty {
      let tokens = prompt
      prompt = []
      do { try session.prefill(tokens) { _ in goesOn() } } catch {
        guard goesOn() else { throw CancellationError() }
        throw error
      }
    }
    while writer.reason == nil {
      guard goesOn() else { throw CancellationError() }
      let bytes = try writer.step(session, with: &sampler)
      if !bytes.isEmpty { return bytes }
    }
    return []
  }
}

extension Session {
  /// Reads a prompt and writes what follows:
  ///
  ///     for try await piece in try session.generate("The database", count: 200) {
  ///       print(piece, terminator: "")
  ///     }
  ///
  /// - Parameters:
  ///   - prompt: what to read first. If it is empty, the text goes on from what the session has read, or starts as a
  ///     new document.
  ///   - count: tokens to write at most; nil: until the model ends the text.
  ///   - options: nil: what the model's file recommends, else temperature 1 and top-p 0.85.
  ///   - stop: strings that end the text and are not part of it; nil: those that the model's file has.
  /// - Throws: `ModelError` if the model has no tokenizer, `SamplingError` if an option is out of range.
  public func generate(
    _ prompt: String, count: Int? = nil, options: SamplingOptions? = nil, stop: [String]? = nil
  ) throws -> GeneratedText {
    let tokenizer = try model.requireTokenizer()
    let choice = SamplingChoice(given: SamplingAdvice(stops: stop), model: model)
    var tokens = try tokenizer.encode(prompt)
    if tokens.isEmpty && logits.isEmpty { tokens = [0] }  // token 0 separates documents
    return GeneratedText(
      self, prompt: tokens, writer: TextWriter(count, tokenizer: tokenizer, stop: choice.stops),
      sampler: try Sampler(options ?? choice.options, tokenizer: tokenizer))
  }
}
