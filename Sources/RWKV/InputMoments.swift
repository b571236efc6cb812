// SPDX-License-Identifier: MIT
internal import CRWKVKernels

/// Second moments of matrices' inputs, Σ x xᵀ over the rows x that a model reads: what error-compensating rounding has
/// to know (GPTQ, arXiv:2210.17323).
///
/// An evaluator that has one adds the inputs of all watched tensors. The sums depend neither on the number of threads
/// nor on how a text is cut into blocks. Change what is watched only between evaluations.
package final class InputMoments: @unchecked Sendable {
  /// The moments of one tensor's inputs.
  package final class Tensor: @unchecked Sendable {
    /// Ranges of columns, at most 256 each, for which the moments are kept: diagonal blocks of the whole matrix.
    package let blocks: [Range<Int>]
    /// [blocks, 256, 256]: for each block the upper triangle, row by row.
    package let sums: UnsafeMutablePointer<Float>
    /// Floats of one block.
    package static let blockCount = 256 * 256

    init(_ blocks: [Range<Int>]) {
      precondition(blocks.allSatisfy { $0.count <= 256 })
      self.blocks = blocks
      sums = .allocate(capacity: blocks.count * Self.blockCount)
      sums.initialize(repeating: 0, count: blocks.count * Self.blockCount)
    }

    deinit { sums.deallocate() }

    /// Adds `rows` inputs to block `index`.
    func add(_ index: Int, _ values: UnsafePointer<Float>, stride: Int, rows: Int, _ kernels: Kernels) {
      kernels.add_moments(
        values + blocks[index].lowerBound, stride, rows, blocks[index].count, sums + index * Self.blockCount)
    }
  }

  private struct Key: Hashable {
    let region: UnsafePointer<UnsafeRawPointer>
    let offset: Int

    init(_ location: Location) { (region, offset) = (location.region, location.offset) }
  }
  private var watched: [Key: Tensor] = [:]

  package init() {}

  /// Watches these tensors of a model from now on, and no others: for each the ranges of its columns (of its rows where
  /// these are hidden units). Returns their moments by name.
  package func watch(_ requests: [(name: String, blocks: [Range<Int>])], of model: Model) -> [String: Tensor]
  {
    watched = [:]
    var tensors: [String: Tensor] = [:]
    for (name, blocks) in requests {
      guard let location = model.store.location(of: name) else { continue }
      let tensor = Tensor(blocks)
      watched[Key(location)] = tensor
      tensors[name] = tensor
    }
    return tensors
  }

  func tensor(at location: Location) -> Tensor? { watched[Key(location)] }
}

extension Team.Member {
  /// Where inputs are gathered: one phase that adds those of the weights at `location`.
  mutating func gather(
    _ location: Location, _ values: UnsafePointer<Float>, stride: Int, rows: Int, _ kernels: Kernels
  ) {
    guard let tensor = moments?.tensor(at: location) else { return }
    parallel(tensor.blocks.count) { tensor.add($0, values, stride: stride, rows: rows, kernels) }
  }
}
