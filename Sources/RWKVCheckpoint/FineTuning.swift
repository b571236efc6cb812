// SPDX-License-Identifier: MIT
import Synchronization

/// What fine-tuning left in files of its own, merged into a checkpoint while it is read.
public struct FineTuning: Sendable {
  /// A file with `blocks.N.att.time_state` for each block: what the model remembers before the first token.
  public var state: String?
  public var lora: LoRA?

  /// A file of RWKV-PEFT's form: for a matrix `NAME.weight` W it has `NAME.lora_A` A [rank, inputs] and
  /// `NAME.lora_B` B [outputs, rank], and W becomes W + (alpha / rank) · B A. Other tensors replace the
  /// checkpoint's.
  public struct LoRA: Sendable {
    public var path: String
    /// `lora_alpha` of the training, which is not in the file.
    public var alpha: Double

    public init(path: String, alpha: Double) {
      (self.path, self.alpha) = (path, alpha)
    }
  }

  public init(state: String? = nil, lora: LoRA? = nil) {
    (self.state, self.lora) = (state, lora)
  }

  public var isEmpty: Bool { state == nil && lora == nil }

  /// Puts the tensors of the files among those of a checkpoint.
  func merge(into sources: inout [String: StoredTensor]) throws(CheckpointError) {
    if let lora { try lora.merge(into: &sources) }
    if let state {
      for (name, tensor) in try TimeStates.tensors(path: state) { sources[name] = tensor }
    }
  }
}

extension FineTuning.LoRA {
  private struct Pair {
    var a: StoredTensor?
    var b: StoredTensor?
  }

  fileprivate func merge(into sources: inout [String: StoredTensor]) throws(CheckpointError) {
    var pairs: [String: Pair] = [:]
    for stored in try Container(path: path).tensors {
      let isA = stored.name.hasSuffix(".lora_A")
      guard isA || stored.name.hasSuffix(".lora_B") else {
        for (name, source) in try Names.sources(of: stored) {
          guard sources[name] != nil else { throw unknown(stored, name) }
          sources[name] = source
        }
        continue
      }
      var matrix = stored
      matrix.name = String(stored.name.dropLast(7)) + ".weight"
      let name = try Names.sources(of: matrix)[0].name
      guard sources[name] != nil else { throw unknown(stored, name) }
      if isA { pairs[name, default: Pair()].a = stored } else { pairs[name, default: Pair()].b = stored }
    }
    guard !pairs.isEmpty else {
      throw CheckpointError(
        .mismatch, file: path, "has no LoRA", expected: "pairs of tensors NAME.lora_A and NAME.lora_B",
        advice: "A whole fine-tuned model is converted like any other")
    }
    for (name, pair) in pairs.sorted(by: { $0.key < $1.key }) {
      guard var target = sources[name] else { continue }
      target.update = try update(name, pair, of: target)
      sources[name] = target
    }
  }

  private func unknown(_ tensor: StoredTensor, _ name: String) -> CheckpointError {
    CheckpointError(
      .mismatch, file: path, tensor: tensor.name, "belongs to no tensor of the checkpoint",
      expected: "a checkpoint with \(quoted(name))", advice: "Is this LoRA of another model or version?")
  }

  private func update(_ name: String, _ pair: Pair, of target: StoredTensor) throws(CheckpointError)
    -> LowRankUpdate
  {
    guard let a = pair.a, let b = pair.b else {
      throw CheckpointError(
        .mismatch, file: path, tensor: (pair.a ?? pair.b)?.name ?? name, "stands alone",
        expected: "both lora_A and lora_B")
    }
    let weight = target.shape
    guard weight.count == 2, a.shape.count == 2, b.shape.count == 2, a.shape[0] == b.shape[1],
      b.shape[0] == weight[0], a.shape[1] == weight[1]
    else {
      throw CheckpointError(
        .mismatch, file: path, tensor: a.name, "does not fit its matrix",
        found: "B \(shapeText(b.shape)) times A \(shapeText(a.shape))",
        expected: "the shape of \(quoted(name)), \(shapeText(weight))",
        advice: "Is this LoRA of another model or version?")
    }
    return LowRankUpdate(a: a, b: b, scale: Float(alpha / Double(a.shape[0])))
  }
}

/// What is added to a matrix [outputs, inputs]: scale · B A.
final class LowRankUpdate: Sendable {
  /// [rank, inputs]
  let a: StoredTensor
  /// [outputs, rank]
  let b: StoredTensor
  let scale: Float

  init(a: StoredTensor, b: StoredTensor, scale: Float) {
    (self.a, self.b, self.scale) = (a, b, scale)
  }

  /// Both factors in memory, turned so that row i of the sum is Σ left[i, r] · right[r, …].
  final class Factors: Sendable {
    let tensor: String
    private let rank: Int
    /// [rows, rank], scaled.
    private let left: [Float]
    /// [rank, columns]
    private let right: [Float]

    init(_ update: LowRankUpdate, of tensor: CheckpointTensor) throws(CheckpointError) {
      let (a, b) = (try update.a.values(), try update.b.values())
      let (rank, scale) = (update.a.shape[0], update.scale)
      let (rows, columns, transposed) = (tensor.rows, tensor.columns, tensor.transposed)
      self.tensor = tensor.name
      self.rank = rank
      left = (0..<rows * rank).map { scale * (transposed ? a[$0 % rank * rows + $0 / rank] : b[$0]) }
      right = transposed ? (0..<rank * columns).map { b[$0 % columns * rank + $0 / columns] } : a
    }

    /// Adds some rows of the sum to `values`.
    func add(to values: UnsafeMutablePointer<Float>, rows: Range<Int>, columns: Int) {
      left.withUnsafeBufferPointer { left in
        right.withUnsafeBufferPointer { right in
          for row in rows {
            let target = values + (row - rows.lowerBound) * columns
            for index in 0..<rank {
              let weight = left[row * rank + index]
              for column in 0..<columns { target[column] += weight * right[index * columns + column] }
            }
          }
        }
      }
    }
  }
}

/// The initial states of a state-tuned file.
public enum TimeStates {
  /// Reads `blocks.N.att.time_state` of a file of any known container, in the order of the blocks: [H, N, N] each,
  /// as they are stored. Other tensors that are in the file are not looked at.
  public static func read(path: String) throws(CheckpointError) -> [[Float]] {
    let tensors = try tensors(path: path)
    var states: [[Float]] = []
    for layer in 0..<tensors.count {
      guard let tensor = tensors["blocks.\(layer).att.time_state"] else {
        throw CheckpointError(
          .mismatch, file: path, "lacks the states of whole blocks",
          found: "no 'blocks.\(layer).att.time_state' among \(tensors.count)")
      }
      states.append(try tensor.values())
    }
    return states
  }

  /// The tensors by their names.
  static func tensors(path: String) throws(CheckpointError) -> [String: StoredTensor] {
    var found: [String: StoredTensor] = [:]
    for stored in try Container(path: path).tensors {
      for (name, tensor) in try Names.sources(of: stored) where name.hasSuffix(".att.time_state") {
        guard tensor.shape.count == 3, tensor.shape[1] == tensor.shape[2], !tensor.isColumnMajor,
          tensor.count <= 1 << 28
        else {
          throw CheckpointError(
            .mismatch, file: path, tensor: stored.name, "has an unexpected shape",
            found: shapeText(tensor.shape), expected: "heads × head size × head size")
        }
        guard found.updateValue(tensor, forKey: name) == nil else {
          throw CheckpointError(.mismatch, file: path, tensor: stored.name, "occurs twice")
        }
      }
    }
    guard !found.isEmpty else {
      throw CheckpointError(
        .mismatch, file: path, "is no state-tuned file", expected: "tensors 'blocks.N.att.time_state'")
    }
    return found
  }
}

extension StoredTensor {
  /// All values, for tensors that are small. In logical order: the transpose of what a column-major tensor holds.
  fileprivate func values() throws(CheckpointError) -> [Float] {
    var failure: CheckpointError?
    let stored = [Float](unsafeUninitializedCapacity: count) { buffer, initialized in
      guard let base = buffer.baseAddress else { return }
      do throws(CheckpointError) {
        try Checkpoint.read(self, from: 0, count: count, into: base)
        initialized = count
      } catch {
        failure = error
      }
    }
    if let failure { throw failure }
    guard isColumnMajor else { return stored }
    let (rows, columns) = (shape[0], shape[1])
    return stored.indices.map { stored[$0 % columns * rows + $0 / columns] }
  }
}
