// SPDX-License-Identifier: MIT
import Glibc
public import RWKV
import RWKVFormat

/// Two models that have read the same text: what a conversion cost.
public struct Comparison: Sendable {
  /// A stretch of the text. Shares and means are over its tokens, each of which both models predicted.
  public struct Stretch: Sendable {
    /// The position of the first token of the stretch.
    public let start: Int
    /// How many tokens both models predicted.
    public fileprivate(set) var tokens = 0
    fileprivate var sums = Prediction()
    /// |S − S'| / |S| over the recurrent states of all layers, after its last token.
    public fileprivate(set) var stateDrift = 0.0

    /// The divergence KL(reference ‖ model) [nats per token].
    public var kl: Double { sums.kl / Double(max(1, tokens)) }
    /// The cross-entropy of the reference, and of the model [nats per token].
    public var referenceNats: Double { sums.referenceNats / Double(max(1, tokens)) }
    /// The cross-entropy of the model [nats per token].
    public var modelNats: Double { sums.modelNats / Double(max(1, tokens)) }
    /// The share of tokens for which both models have the same first choice.
    public var top1: Double { sums.top1 / Double(max(1, tokens)) }
    /// The share of the reference's ten likeliest tokens that are among the model's ten.
    public var top10: Double { sums.top10 / Double(max(1, tokens)) }

    fileprivate init(start: Int) { self.start = start }

    fileprivate mutating func add(_ prediction: Prediction) {
      tokens += 1
      sums.kl += prediction.kl
      sums.referenceNats += prediction.referenceNats
      sums.modelNats += prediction.modelNats
      sums.top1 += prediction.top1
      sums.top10 += prediction.top10
    }
  }

  /// The figures of the whole text.
  public private(set) var whole = Stretch(start: 0)
  /// The figures by position, to see whether the error grows. Each stretch ends at four times the position where the
  /// one before ends.
  public private(set) var stretches: [Stretch] = []

  /// The end of the first stretch.
  private static let firstEnd = 64

  /// Reads `tokens`, at least two, from an empty state with both models; the last is only predicted.
  ///
  /// Keeps the logits of 64 tokens, however long the text is.
  /// - Parameter progress: called with the share done, 0…1; the comparison stops when it returns false.
  public init(
    _ reference: Model, _ model: Model, tokens ids: [Int], threads: Int, progress: (Double) -> Bool
  ) throws(QuantizationError) {
    precondition(ids.count > 1)
    try requireSameShape(reference, model)
    do throws(ModelError) { try run(reference, model, ids, threads, progress) } catch {
      throw error.isCancellation ? .cancelled : .model(error)
    }
  }

  private mutating func run(
    _ reference: Model, _ model: Model, _ ids: [Int], _ threads: Int, _ progress: (Double) -> Bool
  ) throws(ModelError) {
    let a = reference.configuration
    let (first, second) = (
      try Session(reference, threads: threads), try Session(model, threads: threads)
    )
    let block = Block(vocabulary: a.vocabulary)
    var end = 0
    for start in stride(from: 0, to: ids.count - 1, by: Block.capacity) {
      if start >= end {
        stretches.append(Stretch(start: start))
        end = max(Self.firstEnd, 4 * end)
      }
      let piece = Array(ids[start..<min(start + Block.capacity, ids.count - 1)])
      try first.forEachLogits(piece) { row, logits in block.reference[row].update(from: logits) }
      try second.forEachLogits(piece) { row, logits in block.model[row].update(from: logits) }
      for prediction in block.predictions(ids[(start + 1)...].prefix(piece.count), threads: threads) {
        whole.add(prediction)
        stretches[stretches.count - 1].add(prediction)
      }
      if start + piece.count >= min(end, ids.count - 1) {
        stretches[stretches.count - 1].stateDrift = Self.drift(first.state, second.state, layers: a.layers)
      }
      guard progress(Double(start + piece.count) / Double(ids.count - 1)) else {
        throw ModelError(.cancelled)
      }
    }
    whole.stateDrift = stretches.last?.stateDrift ?? 0
  }

  private static func drift(_ reference: State, _ model: State, layers: Int) -> Double {
    var (difference, norm) = (0.0, 0.0)
    for layer in 0..<layers {
      for (a, b) in zip(reference.wkv(layer), model.wkv(layer)) {
        difference += Double(a - b) * Double(a - b)
        norm += Double(a) * Double(a)
      }
    }
    return norm > 0 ? (difference / norm).squareRoot() : 0
  }
}

/// Throws unless both models have the same version, shape and vocabulary: only such models can be compared.
func requireSameShape(_ reference: Model, _ model: Model) throws(QuantizationError) {
  let (a, b) = (reference.configuration, model.configuration)
  guard (a.version, a.layers, a.embedding, a.vocabulary) == (b.version, b.layers, b.embedding, b.vocabulary)
  else { throw .differentModels(path: model.path, reference: reference.path) }
}

/// One token predicted by both models, or sums of such.
private struct Prediction {
  var kl = 0.0
  var referenceNats = 0.0
  var modelNats = 0.0
  var top1 = 0.0
  var top10 = 0.0

  init() {}

  init(_ p: UnsafeBufferPointer<Float>, _ q: UnsafeBufferPointer<Float>, target: Int) {
    kl = divergence(p, q)
    referenceNats = crossEntropy(p, target: target)
    modelNats = crossEntropy(q, target: target)
    let (first, second) = (likeliest(10, p), likeliest(10, q))
    top1 = first.first == second.first ? 1 : 0
    top10 = Double(first.filter(second.contains).count) / Double(max(1, first.count))
  }
}

/// Indices of the `count` largest logits, the largest first; of equal ones the earlier.
private func likeliest(_ count: Int, _ logits: UnsafeBufferPointer<Float>) -> [Int] {
  var best: [Int] = []
  best.reserveCapacity(count + 1)
  for (index, logit) in logits.enumerated() {
    if best.count == count, let last = best.last, logit <= logits[last] { continue }
    best.insert(index, at: best.firstIndex { logits[$0] < logit } ?? best.count)
    if best.count > count { best.removeLast() }
  }
  return best
}

/// Both models' logits of a piece of a text.
private final class Block: @unchecked Sendable {
  static let capacity = 64
  let reference, model: [UnsafeMutableBufferPointer<Float>]

  init(vocabulary: Int) {
    func rows() -> [UnsafeMutableBufferPointer<Float>] {
      (0..<Self.capacity).map { _ in .allocate(capacity: vocabulary) }
    }
    (reference, model) = (rows(), rows())
  }

  deinit { for row in reference + model { row.deallocate() } }

  func predictions(_ targets: ArraySlice<Int>, threads: Int) -> [Prediction] {
    var predictions = [Prediction](repeating: Prediction(), count: targets.count)
    predictions.withUnsafeMutableBufferPointer { buffer in
      nonisolated(unsafe) let predictions = buffer
      let parts = max(1, min(threads, targets.count))
      onThreads(parts) { part in
        for row in targets.count * part / parts..<targets.count * (part + 1) / parts {
          predictions[row] = Prediction(
            UnsafeBufferPointer(reference[row]), UnsafeBufferPointer(model[row]),
            target: targets[targets.startIndex + row])
        }
      }
    }
    return predictions
  }
}

extension UnsafeMutableBufferPointer<Float> {
  fileprivate func update(from other: UnsafeBufferPointer<Float>) { _ = update(fromContentsOf: other) }
}
