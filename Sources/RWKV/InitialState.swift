// SPDX-License-Identifier: MIT
internal import RWKVFormat

/// What a state-tuned model remembers before the first token: the recurrence's state of every layer.
struct InitialState: Sendable {
  /// [layers][H, N key, N value]
  private let layers: [[Float]]

  /// Reads the tensors `blocks.N.att.time_state` of a file; nil if it has none.
  init?(_ file: ModelFile, _ configuration: Configuration) throws(ModelError) {
    guard (0..<configuration.layers).contains(where: { file[Self.name($0)] != nil }) else { return nil }
    var stored: [[Float]] = []
    for layer in 0..<configuration.layers {
      guard let tensor = file[Self.name(layer)] else { throw ModelError(.missingTensor(Self.name(layer))) }
      guard tensor.format == .f32, tensor.rowsPerRecord == 1 else {
        throw ModelError(.wrongFormat(tensor: tensor.name, found: tensor.format.name, expected: "F32"))
      }
      let D = configuration.embedding
      guard (tensor.rows, tensor.columns) == (D, configuration.headSize) else {
        throw ModelError(
          .wrongShape(
            tensor: tensor.name, found: [tensor.rows, tensor.columns], expected: [D, configuration.headSize]))
      }
      var values = [Float](repeating: 0, count: tensor.rows * tensor.columns)
      var failure: ModelFileError?
      values.withUnsafeMutableBytes { bytes in
        do throws(ModelFileError) { try file.read(tensor, into: bytes) } catch { failure = error }
      }
      if let failure { throw ModelError(failure) }
      stored.append(values)
    }
    try self.init(stored, State.Layout(configuration))
  }

  /// - Parameter timeStates: [layers][H, N value, N key], as training stores them in every version: RWKV-PEFT's
  ///   `rwkvop.py` exchanges the last two axes before kernels that want [key, value], and does not before the one
  ///   that wants [value, key].
  init(_ timeStates: [[Float]], _ layout: State.Layout) throws(ModelError) {
    let (H, N) = (layout.heads, layout.headSize)
    guard timeStates.count == layout.layers, layout.hasMatrices else {
      throw ModelError(
        .wrongState(
          found: "\(timeStates.count) layers",
          expected: layout.hasMatrices ? "\(layout.layers)" : "none: RWKV-4 has no such states"))
    }
    for (layer, values) in timeStates.enumerated() {
      guard values.count == H * N * N else {
        throw ModelError(
          .wrongState(
            found: "\(values.count) values in layer \(layer)", expected: "\(H) heads of \(N) × \(N)"))
      }
      guard values.allSatisfy(\.isFinite) else {
        throw ModelError(.notFinite("values of '\(Self.name(layer))'"))
      }
    }
    layers = timeStates.map { values in
      values.indices.map { values[$0 / (N * N) * N * N + $0 % N * N + $0 / N % N] }
    }
  }

  /// Writes it over a state that remembers nothing.
  func write(_ layout: State.Layout, to values: UnsafeMutablePointer<Float>) {
    for (layer, initial) in layers.enumerated() {
      (values + layer * layout.layer + layout.wkv).update(from: initial, count: initial.count)
    }
  }

  private static func name(_ layer: Int) -> String { "blocks.\(layer).att.time_state" }
}

extension Model {
  /// A state that remembers nothing but what a state-tuned checkpoint was trained to.
  ///
  /// - Parameter timeStates: [layers][H, N, N], the tensors `blocks.N.att.time_state` as training stores them.
  public func newState(timeStates: [[Float]]) throws(ModelError) -> State {
    let state = State(self)
    try InitialState(timeStates, state.layout).write(state.layout, to: state.values)
    return state
  }
}
