// SPDX-License-Identifier: MIT
internal import RWKVFormat
import Glibc

/// The whole recurrent state of one conversation: all that a model remembers of the tokens it has read.
///
/// Its size does not depend on how many tokens that were, but in RWKV-7b and, up to a bound, in RWKV-X. Not
/// thread-safe: one session uses a state at a time.
public final class State {
  /// The layout of a state: what one layer keeps, in floats. Reference order: `att` shift, recurrence, `ffn` shift.
  struct Layout: Equatable, Sendable {
    let layers: Int
    /// Floats of one layer.
    let layer: Int
    /// Where the wkv state starts within a layer: [H, N key, N value], in version 4 [3, D] as aa, bb, pp.
    let wkv: Int
    /// Where the previous input of channel mixing starts within a layer, [D]; that of time mixing is at 0.
    let channelShift: Int
    /// Version 4 starts its running maximum `pp` far below any exponent.
    let startsWithMaximum: Bool
    /// Blocks that remember all tokens, or many, in caches: the layers of RWKV-7b, attention blocks of RWKV-X.
    let attentionBlocks: Int
    /// Floats that each of them keeps of the last token, after the layers: RWKV-7b q, k and v before they are mixed;
    /// RWKV-X the input of channel mixing, [D].
    let attentionShift: Int
    /// Heads of a cache, and floats of a head's key and value.
    let cacheHeads, keySize, valueSize: Int
    let heads: Int
    let headSize: Int
    /// Whether the reference stores a head's state as [value, key], the transpose of ours.
    let valueMajor: Bool

    init(_ configuration: Configuration) {
      layers = configuration.layers
      let D = configuration.embedding
      wkv = D
      let recurrence = configuration.version == .v4 ? 3 * D : D * configuration.headSize
      channelShift = D + recurrence
      layer = channelShift + D
      startsWithMaximum = configuration.version == .v4
      heads = configuration.heads
      headSize = configuration.headSize
      valueMajor = configuration.version.isRWKV7
      if configuration.version == .v7b {
        attentionBlocks = layers
        (cacheHeads, keySize, valueSize) = (1, DeepEmbedSizes.keys, D)
        attentionShift = 2 * keySize + valueSize
      } else {
        attentionBlocks = configuration.sparseAttention?.layers ?? 0
        (cacheHeads, keySize, valueSize) = (heads, headSize, headSize)
        attentionShift = D
      }
    }

    var count: Int { attentionShift(attentionBlocks) }
    /// Where a layer's floats are within a state: the last input of time mixing, [D]; the recurrence; the last input of
    /// channel mixing, [D].
    func timeShift(of layer: Int) -> Int { layer * self.layer }
    func wkv(of layer: Int) -> Int { layer * self.layer + wkv }
    func channelShift(of layer: Int) -> Int { layer * self.layer + channelShift }
    /// Where the floats of attention block `block` start.
    func attentionShift(_ block: Int) -> Int { layers * layer + block * attentionShift }
    /// Floats that the caches have for each token.
    var cachedPerToken: Int { cacheHeads * (keySize + valueSize) }
    /// Whether a head's state is a matrix: all versions but 4.
    var hasMatrices: Bool { !startsWithMaximum }
  }

  /// The model it belongs to.
  public let model: Model
  let layout: Layout
  /// [layers, layout.layer] f32
  private(set) var values: UnsafeMutablePointer<Float>
  /// RWKV-7b and RWKV-X: keys and values of the attention blocks.
  private(set) var caches: [AttentionCache]

  private let ownsValues: Bool

  /// The state before the first token: all zeros, unless the model was state-tuned.
  init(_ model: Model) {
    self.model = model
    let layout = Layout(model.configuration)
    self.layout = layout
    values = UnsafeMutablePointer.allocate(capacity: layout.count)
    ownsValues = true
    caches = (0..<layout.attentionBlocks).map { _ in
      AttentionCache(heads: layout.cacheHeads, keySize: layout.keySize, valueSize: layout.valueSize)
    }
    reset()
  }

  /// The numbers of a state without caches, `count` of them.
  package var flat: UnsafeMutableBufferPointer<Float> {
    UnsafeMutableBufferPointer(start: values, count: layout.count)
  }

  /// A state whose numbers, `count` of them, are kept by somebody else and outlive it. Not for RWKV-7b and RWKV-X.
  package init(_ model: Model, over values: UnsafeMutablePointer<Float>) {
    self.model = model
    layout = Layout(model.configuration)
    precondition(layout.attentionBlocks == 0, "RWKV-7b and RWKV-X keep more than a buffer")
    self.values = values
    ownsValues = false
    caches = []
  }

  deinit { if ownsValues { values.deallocate() } }

  /// The number of floats of the state, without the caches of RWKV-7b and RWKV-X, which grow.
  public var count: Int { layout.count }

  /// The memory that the state takes now [bytes]. Only the caches of RWKV-7b and RWKV-X grow.
  public var byteCount: Int {
    caches.reduce(layout.count) { $0 + $1.capacity * layout.cachedPerToken } * MemoryLayout<Float>.size
  }

  /// Makes it the state before the first token.
  public func reset() {
    values.update(repeating: 0, count: layout.count)
    for cache in caches { cache.count = 0 }
    model.initialState?.write(layout, to: values)
    guard layout.startsWithMaximum else { return }
    let D = layout.wkv
    for layer in 0..<layout.layers {
      (values + layer * layout.layer + 3 * D).update(repeating: -1e30, count: D)
    }
  }

  /// Makes an independent copy, a fork of the conversation.
  public func copy() -> State {
    let copy = State(model)
    copy.assign(self)
    return copy
  }

  /// Takes over what `other` remembers; both must belong to the same model.
  public func assign(_ other: State) {
    precondition(
      layout == other.layout && model.identity == other.model.identity, "states of different models")
    values.update(from: other.values, count: layout.count)
    for (cache, source) in zip(caches, other.caches) { cache.assign(source) }
  }

  /// Takes over what `other` remembers; what that remembers then, nobody knows.
  func take(_ other: State) {
    guard ownsValues && other.ownsValues else { return assign(other) }
    swap(&values, &other.values)
    swap(&caches, &other.caches)
  }

  // MARK: - Reading

  /// The input of time mixing of the last token, after its layer norm, [D].
  public func timeShift(_ layer: Int) -> [Float] { slice(layer, 0, layout.wkv) }

  /// The input of channel mixing of the last token, after its layer norm, [D].
  public func channelShift(_ layer: Int) -> [Float] {
    slice(layer, layout.channelShift, layout.layer - layout.channelShift)
  }

  /// The recurrence's state in the reference's order: version 7 [H, N value, N key], versions 5 and 6
  /// [H, N key, N value], version 4 [3, D] as aa, bb, pp.
  public func wkv(_ layer: Int) -> [Float] {
    let values = slice(layer, layout.wkv, layout.channelShift - layout.wkv)
    guard layout.valueMajor else { return values }
    let N = layout.headSize
    return values.indices.map { index in
      let (head, i, j) = (index / (N * N), index / N % N, index % N)
      return values[(head * N + j) * N + i]
    }
  }

  private func slice(_ layer: Int, _ start: Int, _ count: Int) -> [Float] {
    Array(UnsafeBufferPointer(start: values + layer * layout.layer + start, count: count))
  }
}
