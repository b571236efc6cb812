// SPDX-License-Identifier: MIT
import RWKV
import RWKVFormat

/// Error-compensating rounding: the source model reads a text, block by block, and each block's matrices are rounded
/// with what their inputs were like.
///
/// Memory beyond the running model: the residual stream of all tokens, and moments of one block's matrices (256 floats
/// for each column of each matrix).
struct Calibration {
  let model: Model
  let tokens: [Int]
  let threads: Int

  /// Fewer tokens than this say too little about blocks of 256 columns (docs/quality.md).
  static let leastTokens = 16 * 256

  /// Makes all chunks of `writer` in file order.
  func run(
    _ quantizer: Quantizer, _ writer: ModelFileWriter, progress: @escaping @Sendable (Double) -> Bool
  ) throws(QuantizationError) {
    var pass = Pass(quantizer, writer, model, threads: threads, progress)
    var failure: QuantizationError?
    do throws(ModelError) {
      let evaluator = try Evaluator(model, threads: threads, span: tokens.count, moments: pass.moments)
      try evaluator.walk(tokens) { position in
        do throws(QuantizationError) { try pass.enter(position) } catch { failure = error }
        return failure == nil
      }
    } catch {
      throw failure ?? (error.isCancellation ? .cancelled : .model(error))
    }
    try pass.finish()
  }

  /// The way through the model: tensors of a block are written when the text has passed through it.
  private struct Pass {
    let moments = InputMoments()
    private let quantizer: Quantizer
    private let writer: ModelFileWriter
    private let model: Model
    private let threads: Int
    private let progress: @Sendable (Double) -> Bool
    /// Tensors of the current block, by name, and what has been learnt of their inputs.
    private var current: [String: InputMoments.Tensor] = [:]
    /// Tensors that have been written.
    private var written = 0

    init(
      _ quantizer: Quantizer, _ writer: ModelFileWriter, _ model: Model, threads: Int,
      _ progress: @escaping @Sendable (Double) -> Bool
    ) {
      (self.quantizer, self.writer, self.model, self.threads) = (quantizer, writer, model, threads)
      self.progress = progress
    }

    /// Writes everything up to the block before `position` and watches the inputs of that one.
    mutating func enter(_ position: Int) throws(QuantizationError) {
      guard progress(Double(written) / Double(writer.tensors.count)) else { throw .cancelled }
      if let last = writer.tensors.lastIndex(where: { current[$0.name] != nil }) { try write(upTo: last + 1) }
      let prefixes = model.blockPrefixes
      let prefix = position < prefixes.count ? prefixes[position] : "head."
      current = moments.watch(
        writer.tensors.filter { $0.name.hasPrefix(prefix) && $0.canCompensate }
          .map { ($0.name, $0.compensatedBlocks) }, of: model)
    }

    mutating func finish() throws(QuantizationError) { try write(upTo: writer.tensors.count) }

    private mutating func write(upTo end: Int) throws(QuantizationError) {
      let tensors = Array(current.values)
      let blocks = tensors.flatMap { tensor in tensor.blocks.indices.map { (tensor, $0) } }
      try parallel(blocks.count, threads: threads) {
      } task: { (index, _) throws(QuantizationError) in
        let (tensor, block) = blocks[index]
        CompensationFactor.replace(
          tensor.sums + block * InputMoments.Tensor.blockCount, count: tensor.blocks[block].count)
      }
      try quantizer.run(writer, tensors: written..<end, factors: current, progress: progress)
      written = end
      current = [:]
    }
  }
}

extension TensorInfo {
  /// Whether rounding it can profit from its inputs' moments: not tables, whose rows are read alone, and
  /// not `time_maa_w2`, whose five parts have an input each.
  fileprivate var canCompensate: Bool {
    format.isCoded && !TensorInfo.isTable(name) && !name.hasSuffix("time_maa_w2")
  }

  /// Rows of hidden units whose errors are made up for by each other: equal parts of a chunk, which is made by one
  /// thread.
  func compensatedRows(ofChunk chunk: Int) -> [Range<Int>] {
    let rows = records(ofChunk: chunk)
    return stride(from: rows.lowerBound, to: rows.upperBound, by: 256).map {
      $0..<min($0 + 256, rows.upperBound)
    }
  }

  /// The diagonal blocks within which errors are made up for: 256 columns, or rows where these are hidden units.
  fileprivate var compensatedBlocks: [Range<Int>] {
    guard rowsPerRecord == 1 else {
      return stride(from: 0, to: columns, by: 256).map { $0..<min($0 + 256, columns) }
    }
    return (0..<chunkCount).flatMap { compensatedRows(ofChunk: $0) }
  }
}
