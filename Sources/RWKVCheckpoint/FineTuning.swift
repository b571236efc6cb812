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
    /// `lora_alpha` of the training, which is not in the file; nil for a PEFT folder, whose adapter_config.json has it.
    public var alpha: Double?

    public init(path: String, alpha: Double? = nil) {
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
      let states = try TimeStates.tensors(path: state)
      try TimeStates.check(states, against: sources, path: state)
      for (name, tensor) in states { sources[name] = tensor }
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
    let stored = try Container(path: path).tensors
    try refuseOthers(stored)
    let tensors = stored.map(Self.plain)
    let scale = try scale()
    for stored in tensors {
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
      target.update = try update(name, pair, of: target, scale: scale)
      sources[name] = target
    }
  }

  /// PEFT's `X.lora_A.weight` and Ai00's `X.lora.0` [inputs, rank] and `X.lora.1` as RWKV-PEFT has them.
  private static func plain(_ stored: StoredTensor) -> StoredTensor {
    var tensor = stored
    for factor in ["lora_A", "lora_B"] {
      for suffix in [".weight", ".default.weight"] where stored.name.hasSuffix("." + factor + suffix) {
        tensor.name = String(stored.name.dropLast(suffix.count))
      }
    }
    if stored.name.hasSuffix(".lora.1") { tensor.name = stored.name.dropLast(6) + "lora_B" }
    if stored.name.hasSuffix(".lora.0"), stored.shape.count == 2 {
      tensor.name = stored.name.dropLast(6) + "lora_A"
      tensor.shape.reverse()
      tensor.isColumnMajor.toggle()
    }
    return tensor
  }

  /// Adapters that are added by another rule than a LoRA.
  private func refuseOthers(_ tensors: [StoredTensor]) throws(CheckpointError) {
    let rules = [
      (".disha", "DiSHA"), (".bone", "Bone"), ("init_lora_", "the initial half of PiSSA"),
      (".lora_magnitude_vector", "DoRA"),
    ]
    for (sign, rule) in rules {
      guard let tensor = tensors.first(where: { $0.name.holds(sign) }) else { continue }
      throw CheckpointError(
        .unsupported, file: path, tensor: tensor.name, "belongs to an adapter of \(rule), which is no LoRA",
        advice: "Merge it with the program that trained it and convert the result")
    }
    if let initial = try initialPiSSA(tensors) {
      throw CheckpointError(
        .unsupported, file: path,
        "is the trained half of a PiSSA, which is no LoRA: \(initial) lies beside it",
        advice: "Merge it with the program that trained it and convert the result")
    }
  }

  /// The file beside this one that has this adapter's factors as they were before the training.
  private func initialPiSSA(_ tensors: [StoredTensor]) throws(CheckpointError) -> String? {
    guard let one = tensors.first(where: { $0.name.hasSuffix(".lora_A") }) else { return nil }
    let folder = path.lastIndex(of: "/").map { String(path[...$0]) } ?? "./"
    let initial = one.name.dropLast(6) + "init_lora_A"
    for name in Container.names(in: folder).sorted()
    where name.holds("pissa") && folder + name != path {
      guard let beside = try? Container(path: folder + name).tensors else { continue }
      if beside.contains(where: { $0.name.hasSuffix(initial) && $0.shape == one.shape }) { return name }
    }
    return nil
  }

  private func unknown(_ tensor: StoredTensor, _ name: String) -> CheckpointError {
    CheckpointError(
      .mismatch, file: path, tensor: tensor.name, "belongs to no tensor of the checkpoint",
      expected: "a checkpoint with \(quoted(name))", advice: "Is this LoRA of another model or version?")
  }

  /// What a product of that rank is multiplied by: alpha / rank, or what PEFT's adapter_config.json says.
  private func scale() throws(CheckpointError) -> @Sendable (_ rank: Int) -> Double {
    let configuration = path + (path.hasSuffix("/") ? "" : "/") + "adapter_config.json"
    guard Container.names(in: path).contains("adapter_config.json") else {
      guard let alpha else {
        throw CheckpointError(
          .mismatch, file: path, "does not say which lora_alpha it was trained with", advice: "Give the alpha"
        )
      }
      return { alpha / Double($0) }
    }
    let file = try InputFile(path: configuration)
    let json = try file.json(limit: 1 << 20, depth: 16)
    func isSet(_ key: String) -> Bool {
      switch json[key] {
      case nil, .null?, .bool(false)?: false
      case .object(let members)?: !members.isEmpty
      default: true
      }
    }
    if let type = json["peft_type"]?.string, type != "LORA" {
      throw CheckpointError(
        .unsupported, file: file.path, "is of an adapter that is no LoRA", found: quoted(type),
        expected: "LORA")
    }
    if let key = ["use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out"].first(where: isSet) {
      throw CheckpointError(
        .unsupported, file: file.path, "sets \(key), by which the adapter is no plain LoRA",
        advice: "Merge it with PEFT and convert the result")
    }
    if let initial = json["init_lora_weights"]?.string, initial != "gaussian" {
      throw CheckpointError(
        .unsupported, file: file.path, "changed the checkpoint before the training", found: quoted(initial),
        advice: "Merge it with PEFT and convert the result")
    }
    guard let alpha = alpha ?? json["lora_alpha"]?.double else {
      throw CheckpointError(.malformed, file: file.path, "has no lora_alpha")
    }
    let isRankStabilized = isSet("use_rslora")
    return { alpha / (isRankStabilized ? Double($0).squareRoot() : Double($0)) }
  }

  private func update(
    _ name: String, _ pair: Pair, of target: StoredTensor, scale: (Int) -> Double
  ) throws(CheckpointError) -> LowRankUpdate {
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
    return LowRankUpdate(a: a, b: b, scale: Float(scale(a.shape[0])))
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
    if shape.count == 3, isOutputMajor {
      let n = shape[2]
      return stored.indices.map { stored[$0 / (n * n) * n * n + $0 % n * n + $0 / n % n] }
    }
    guard isColumnMajor else { return stored }
    let (rows, columns) = (shape[0], shape[1])
    return stored.indices.map { stored[$0 % columns * rows + $0 / columns] }
  }
}
