// SPDX-License-Identifier: MIT
public import RWKV
public import RWKVCheckpoint
public import RWKVFormat
public import RWKVTokenizer

/// Why a model cannot be converted: what, where, and what to do.
public enum QuantizationError: Error, Sendable, CustomStringConvertible {
  case file(ModelFileError)
  case checkpoint(CheckpointError)
  /// The source or the output cannot be run.
  case model(ModelError)
  /// A vocabulary file cannot be used.
  case tokenizer(path: String, TokenizerError)
  case unreadable(path: String, reason: String)
  /// A value that no format can hold, in the checkpoint's tensor of this name.
  case notFinite(path: String, tensor: String, row: Int, column: Int, value: Float)
  /// Weights that the format of this tensor cannot express: this is the largest magnitude of many rows.
  case outsideRange(tensor: String, format: WeightFormat, magnitude: Float)
  /// A new type was asked for, but the weights of this file have lost their precision already.
  case alreadyQuantized(path: String, tensor: String, format: WeightFormat)
  case vocabularyTooLarge(tokenizer: String, tokens: Int, rows: Int)
  /// Tensors are missing, unexpected or of the wrong shape.
  case architecture(path: String, problems: [String])
  /// A `.rwkv` file that is to be converted or re-packed has these problems.
  case unsound([String])
  case outputIsInput(path: String)
  /// A comparison of models that differ in more than their weights.
  case differentModels(path: String, reference: String)
  /// More was lost than the user allows; there is no output.
  case tooMuchLost(path: String, kl: Double, limit: Double)
  /// Answers of the output and of its source part earlier than was allowed.
  case partTooEarly(path: String, agreeing: Double, least: Double)
  case recipe(path: String, line: Int, problem: String)
  /// An option that does not belong to this model.
  case option(String)
  /// Bytes that the conversion takes at least, and that the system still gives.
  case outOfMemory(needed: Int, free: Int)
  case cancelled

  public var description: String {
    switch self {
    case .file(let error): "\(error)"
    case .checkpoint(let error): "\(error)"
    case .model(let error): "\(error)"
    case .tokenizer(let path, let error): "\(path): \(error)"
    case .unreadable(let path, let reason): "\(path): \(reason)"
    case .notFinite(let path, let tensor, let row, let column, let value):
      "\(path): tensor '\(tensor)', row \(row), column \(column) is \(value), expected a finite number. "
        + "The checkpoint is damaged or its training diverged: get another one"
    case .outsideRange(let tensor, let format, let magnitude):
      "tensor '\(tensor)': weights of magnitude \(magnitude) are outside the range of \(format.name); choose another "
        + "format for it with --recipe"
    case .alreadyQuantized(let path, let tensor, let format):
      "\(path): tensor '\(tensor)' is \(format.name) already; a second quantization would add errors. Convert "
        + "the checkpoint itself or a .rwkv file of type fp32 or fp16 (without --type a file is re-packed as it is)"
    case .vocabularyTooLarge(let tokenizer, let tokens, let rows):
      "\(tokenizer): \(tokens) tokens, but the model has rows for \(rows): this is not its tokenizer. Name "
        + "the right one with --tokenizer"
    case .architecture(let path, let problems):
      "\(path): \(problems.joined(separator: "\n  "))"
    case .unsound(let problems): problems.joined(separator: "\n  ")
    case .outputIsInput(let path):
      "\(path): this file is read by the same conversion; choose another name for the output"
    case .differentModels(let path, let reference):
      "\(path): not the same model as \(reference): version or sizes differ"
    case .tooMuchLost(let path, let kl, let limit):
      "\(path): not written: KL is \(Float(kl)) nats per token, more than \(limit). Try --calibrate with a text like "
        + "those that the model will read, or a larger type"
    case .partTooEarly(let path, let agreeing, let least):
      "\(path): not written: answers part from the original's after \(agreeing) tokens (median), fewer than \(least). "
        + "Try --calibrate with a text like those that the model will read, or a larger type"
    case .recipe(let path, let line, let problem): "\(path), line \(line): \(problem)"
    case .option(let text): text
    case .outOfMemory(let needed, let free):
      "the conversion needs \((needed + (1 << 20) - 1) >> 20) MiB of memory, and the system gives \(free >> 20) MiB "
        + "more; close other programs or raise the limit"
    case .cancelled: "cancelled"
    }
  }
}
