// SPDX-License-Identifier: MIT

/// What fine-tuning left in files of its own, merged into a checkpoint while it is read.
public struct FineTuning: Sendable {
  /// A file with `blocks.N.att.time_state` for each block: what the model remembers before the first token.
  public var state: String?
  /// The adapter to merge.
  public var lora: LoRA?

  /// A file of RWKV-PEFT's form: for a matrix `NAME.weight` W it has `NAME.lora_A` A [rank, inputs] and
  /// `NAME.lora_B` B [outputs, rank], and W becomes W + (alpha / rank) · B A; or `NAME.disha` D [rank, outputs], and
  /// W[o, i] becomes W[o, i] + D[i mod rank, o]. Other tensors replace the checkpoint's.
  public struct LoRA: Sendable {
    /// The path of the file or of the PEFT folder.
    public var path: String
    /// The `lora_alpha` of the training, for files and folders that do not say it, such as RWKV-PEFT's.
    public var alpha: Double?
    /// For a PiSSA, the file with the factors from before the training, `NAME.init_lora_A` A₀ and `NAME.init_lora_B`
    /// B₀. W becomes W − B₀ A₀ + B A.
    public var initial: String?

    /// Names an adapter.
    public init(path: String, alpha: Double? = nil, initial: String? = nil) {
      (self.path, self.alpha, self.initial) = (path, alpha, initial)
    }
  }

  /// Names what to merge; by default nothing.
  public init(state: String? = nil, lora: LoRA? = nil) {
    (self.state, self.lora) = (state, lora)
  }

  /// Whether there is nothing to merge.
  public var isEmpty: Bool { state == nil && lora == nil }

  /// Puts the tensors of the files among those of a checkpoint.
  func merge(into sources: inout [String: StoredTensor]) throws(CheckpointError) {
    if let lora { try lora.merge(into: &sources) }
    if let state {
      let states = try TimeStates.tensors(path: state)
      try TimeStates.check(states, against: sources, path: state)
      for (name, tensor) in states { sources[name] = tensor }
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

  /// Whether they are for these layers and this width, all of them.
  static func check(
    _ states: [String: StoredTensor], against sources: [String: StoredTensor], path: String
  ) throws(CheckpointError) {
    let layers = (sources.keys.compactMap(blockNumber).max() ?? -1) + 1
    let found = (states.keys.compactMap(blockNumber).max() ?? -1) + 1
    guard found <= layers else {
      throw CheckpointError(
        .mismatch, file: path, "is the state of a larger model", found: "states of \(found) layers",
        expected: "\(layers), as the checkpoint has")
    }
    for layer in 0..<layers {
      let name = "blocks.\(layer).att.time_state"
      guard let state = states[name] else {
        throw CheckpointError(
          .mismatch, file: path, "lacks the state of layer \(layer)", found: "\(states.count) states",
          expected: "\(layers), one for each layer of the checkpoint")
      }
      if let width = sources["emb.weight"]?.shape.last, state.shape[0] * state.shape[1] != width {
        throw CheckpointError(
          .mismatch, file: path, tensor: state.name, "is the state of a model of another size",
          found: shapeText(state.shape), expected: "heads × head size of \(width), the embedding size")
      }
    }
  }

  /// `blocks.3.att.…` → 3
  private static func blockNumber(_ name: String) -> Int? {
    name.hasPrefix("blocks.") ? Int(name.dropFirst(7).prefix { $0 != "." }) : nil
  }

  /// The tensors by their names.
  static func tensors(path: String) throws(CheckpointError) -> [String: StoredTensor] {
    var found: [String: StoredTensor] = [:]
    let container = try Container(path: path)
    for stored in container.tensors {
      for (name, var tensor) in try Names.sources(of: stored) where name.hasSuffix(".att.time_state") {
        guard tensor.shape.count == 3, tensor.shape[1] == tensor.shape[2], !tensor.isColumnMajor,
          tensor.count <= 1 << 28
        else {
          throw CheckpointError(
            .mismatch, file: path, tensor: stored.name, "has an unexpected shape",
            found: shapeText(tensor.shape), expected: "heads × head size × head size")
        }
        if container.kind == "safetensors", tensor.type == .f16 {
          // web-rwkv's converter exchanges the axes and writes F16; nothing in the file says so.
          guard path.hasSuffix(".st") else {
            throw CheckpointError(
              .unsupported, file: path, tensor: stored.name,
              "is F16 in safetensors: whether its axes are exchanged, as converters to .st do, cannot be told",
              advice: "Give the file that was trained, or name it .st if such a converter wrote it")
          }
          tensor.isOutputMajor = true
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
