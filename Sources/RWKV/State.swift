import Glibc

/// The whole recurrent state of one conversation: all that a model remembers of the tokens it has read.
///
/// Its size does not depend on how many tokens that were. Not thread-safe: one session uses a state at a time.
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

    init(_ configuration: Configuration) {
      layers = configuration.layers
      let D = configuration.embedding
      wkv = D
      let recurrence = configuration.version == .v4 ? 3 * D : D * configuration.headSize
      channelShift = D + recurrence
      layer = channelShift + D
      startsWithMaximum = configuration.version == .v4
    }

    var count: Int { layers * layer }
  }

  let layout: Layout
  /// [layers, layout.layer] f32
  let values: UnsafeMutablePointer<Float>

  /// The state before the first token.
  init(_ layout: Layout) {
    self.layout = layout
    values = UnsafeMutablePointer.allocate(capacity: layout.count)
    reset()
  }

  deinit { values.deallocate() }

  /// Number of floats.
  public var count: Int { layout.count }

  /// Forgets everything.
  public func reset() {
    values.update(repeating: 0, count: layout.count)
    guard layout.startsWithMaximum else { return }
    let D = layout.wkv
    for layer in 0..<layout.layers {
      (values + layer * layout.layer + 3 * D).update(repeating: -1e30, count: D)
    }
  }

  /// An independent copy: a fork of the conversation.
  public func copy() -> State {
    let copy = State(layout)
    copy.values.update(from: values, count: layout.count)
    return copy
  }

  /// Takes over what `other` remembers; both must belong to the same model.
  public func assign(_ other: State) {
    precondition(layout == other.layout, "states of different models")
    values.update(from: other.values, count: layout.count)
  }
}
