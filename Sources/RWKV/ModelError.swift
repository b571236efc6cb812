// SPDX-License-Identifier: MIT
public import RWKVFormat
public import RWKVTokenizer

/// Why a model could not be opened or run: what, where, and what to do.
public struct ModelError: Error, Sendable, CustomStringConvertible {
  /// What went wrong, and with which values.
  public enum Reason: Sendable {
    case outOfMemory(bytes: Int)
    case memoryLimit(Int, minimum: Int)
    case missingMetadata(key: String)
    case invalidMetadata(key: String, found: String, expected: String)
    case missingTensor(String)
    /// A tensor that the model cannot have, and why.
    case unknownTensor(String, String)
    case wrongShape(tensor: String, found: [Int], expected: [Int])
    case wrongFormat(tensor: String, found: String, expected: String)
    case unsupportedVersion(String)
    /// The model does something else than what was asked of it.
    case wrongKind(ModelKind, expected: ModelKind)
    /// An embedding model was trained for some tasks, but not for this one.
    case missingHead(EmbeddingTask, has: [EmbeddingTask])
    /// The reranker was not made for the embedding model's states.
    case wrongPair(reranker: String, embedder: String)
    case tokenOutOfRange(Int, vocabulary: Int)
    /// A vector was given in place of a token to a model that has tables by token.
    case needsTokens
    /// A state of RWKV-7b remembers as many tokens as it may.
    case contextFull(limit: Int)
    case noTokenizer
    case largeTokenizer(tokens: Int, vocabulary: Int)
    case wrongState(found: String, expected: String)
    case notFinite(String)
    case invalidBatch(String)
    /// A model that cannot draft for another one, and why.
    case otherTokens(String)
    /// The environment variable RWKV_ISA names none of those that are known.
    case unknownInstructionSet(String, known: [String])
    case cancelled
    /// The model file cannot be read, or is damaged.
    case file(ModelFileError)
    /// The tokenizer in the model file cannot be used.
    case tokenizer(TokenizerError)
  }

  /// What went wrong.
  public let reason: Reason
  /// The model file, where one is known.
  public var path: String?

  package init(_ reason: Reason, path: String? = nil) {
    self.reason = reason
    self.path = path
  }

  /// Rerankers need no tokenizer: whoever asks for one means another model.
  init(noTokenizerOf kind: ModelKind, path: String) {
    self.init(kind == .reranker ? .wrongKind(kind, expected: .language) : .noTokenizer, path: path)
  }

  init(_ error: ModelFileError) {
    self.init(.file(error), path: error.path)
  }

  public var description: String {
    if case .file(let error) = reason { return "\(error)" }
    return (path.map { "\($0): " } ?? "") + explanation
  }

  private static func description(of kind: ModelKind) -> String {
    switch kind {
    case .language: "a language model, which writes text"
    case .embedding: "an embedding model, which makes vectors of texts (rwkv-run embed)"
    case .reranker: "a reranker, which compares a query with documents (rwkv-run rerank)"
    }
  }

  /// Rounded up.
  private static func mebibytes(_ bytes: Int) -> String { "\((bytes + (1 << 20) - 1) >> 20) MiB" }

  private var explanation: String {
    switch reason {
    case .outOfMemory(let bytes):
      "the system has no \(Self.mebibytes(bytes)) of memory left; use a smaller type or a smaller model"
    case .memoryLimit(let limit, let minimum):
      "needs at least \(Self.mebibytes(minimum)) of memory even when most of it stays in the file, and may use "
        + "\(limit >> 20) MiB; use a smaller type or a smaller model"
    case .missingMetadata(let key):
      "metadata '\(key)' is missing; make the file again with rwkv-quantize"
    case .invalidMetadata(let key, let found, let expected):
      "metadata '\(key)' is \(found), expected \(expected); make the file again with rwkv-quantize"
    case .missingTensor(let name):
      "tensor '\(name)' is missing; make the file again with rwkv-quantize"
    case .unknownTensor(let name, let why):
      "tensor '\(name)' \(why); make the file again with rwkv-quantize"
    case .wrongShape(let tensor, let found, let expected):
      "tensor '\(tensor)' has shape \(found), expected \(expected); make the file again with rwkv-quantize"
    case .wrongFormat(let tensor, let found, let expected):
      "tensor '\(tensor)' is stored as \(found), expected \(expected); make the file again with rwkv-quantize"
    case .unsupportedVersion(let version):
      "RWKV version '\(version)' is not one this program runs; a newer release may"
    case .wrongKind(let found, let expected):
      "is \(Self.description(of: found)); what was asked for takes \(Self.description(of: expected))"
    case .missingHead(let task, let others):
      "has no head for the task \(task.rawValue), only for "
        + "\(others.map(\.rawValue).joined(separator: ", ")): name the task"
    case .wrongPair(let reranker, let embedder):
      "the reranker is for states of \(reranker), the embedding model has \(embedder): do the two belong together?"
    case .tokenOutOfRange(let token, let vocabulary):
      "token id \(token) is outside the model's vocabulary 0…\(vocabulary - 1); is this the model's tokenizer?"
    case .needsTokens:
      "a vector in place of a token: RWKV-7a and 7b have tables by token, in which a vector has no row"
    case .contextFull(let limit):
      "the text is longer than the \(limit) tokens that may be remembered; RWKV-7b keeps all of them: allow more "
        + "(--max-context), as far as there is memory, or start anew"
    case .noTokenizer:
      "the file has no tokenizer; convert the checkpoint again with --tokenizer FILE"
    case .largeTokenizer(let tokens, let vocabulary):
      "the tokenizer has \(tokens) tokens, but the model only \(vocabulary) rows; is it the model's tokenizer?"
    case .wrongState(let found, let expected):
      "the initial state has \(found), expected \(expected); was it tuned for a model of this size?"
    case .notFinite(let what):
      "\(what) are not finite numbers: the model file or the state is broken; check it with rwkv-quantize verify"
    case .invalidBatch(let problem): "batch: \(problem)"
    case .otherTokens(let what):
      "\(what); a model that drafts needs the tokenizer of the one that writes"
    case .unknownInstructionSet(let name, let known):
      "RWKV_ISA is '\(name)', expected one of \(known.joined(separator: ", ")); without it the best is used"
    case .cancelled: "cancelled"
    case .file(let error): "\(error)"
    case .tokenizer(let error): "tokenizer: \(error)"
    }
  }
}
