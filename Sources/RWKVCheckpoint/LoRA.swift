// SPDX-License-Identifier: MIT
import RWKVFormat

extension FineTuning.LoRA {
  /// What there is for one matrix.
  private struct Parts {
    var a: StoredTensor?
    var b: StoredTensor?
    var disha: StoredTensor?
    /// The factors of a PiSSA from before the training; nil for any other adapter.
    var initialA: StoredTensor?
    var initialB: StoredTensor?
  }

  func merge(into sources: inout [String: StoredTensor]) throws(CheckpointError) {
    let folder = try AdapterFolder(path)
    let container = try Container(path: folder.weights)
    try refuseOthers(container.tensors)
    var parts: [String: Parts] = [:]
    for stored in container.tensors.map(Self.plain) {
      if let (matrix, part) = Self.matrix(of: stored) {
        let name = try name(of: matrix, stored, in: sources)
        parts[name, default: Parts()][keyPath: part] = stored
        continue
      }
      for (name, source) in try Names.sources(of: stored) {
        guard sources[name] != nil else { throw unknown(stored, name) }
        sources[name] = source
      }
    }
    guard !parts.isEmpty else {
      throw CheckpointError(
        .mismatch, file: path, "has no LoRA", expected: "pairs of tensors NAME.lora_A and NAME.lora_B",
        advice: "A whole fine-tuned model is converted like any other")
    }
    if let initial { try addInitial(initial, to: &parts, sources) }
    let hasPairs = initial == nil && parts.values.contains { $0.a != nil || $0.b != nil }
    let scale = hasPairs ? try scale(folder, container, parts.values.compactMap(\.a)) : { _ in 1 }
    for (name, parts) in parts.sorted(by: { $0.key < $1.key }) {
      guard var target = sources[name] else { continue }
      target.update = LowRankUpdate(terms: try terms(name, parts, of: target, scale: scale))
      sources[name] = target
    }
  }

  // MARK: Names

  /// RWKV-PEFT's names of PEFT's `X.lora_A.weight` and of Ai00's `X.lora.0` [inputs, rank] and `X.lora.1`.
  private static func plain(_ stored: StoredTensor) -> StoredTensor {
    var tensor = stored
    for factor in ["lora_A", "lora_B"] {
      for suffix in [".weight", ".default.weight"] where stored.name.hasSuffix("." + factor + suffix) {
        tensor.name = String(stored.name.dropLast(suffix.utf8.count))
      }
    }
    for saved in [".modules_to_save.default.", ".modules_to_save."] where tensor.name.holds(saved) {
      tensor.name = tensor.name.removing(saved.dropLast())
    }
    if stored.name.hasSuffix(".lora.1") { tensor.name = stored.name.dropLast(6) + "lora_B" }
    if stored.name.hasSuffix(".lora.0"), stored.shape.count == 2 {
      tensor.name = stored.name.dropLast(6) + "lora_A"
      tensor = tensor.transposed
    }
    return tensor
  }

  /// The matrix that a part of an adapter belongs to; nil for other tensors.
  private static func matrix(
    of stored: StoredTensor
  ) -> (matrix: String, part: WritableKeyPath<Parts, StoredTensor?>)? {
    let suffixes: [(String, WritableKeyPath<Parts, StoredTensor?>)] = [
      (".init_lora_A", \.initialA), (".init_lora_B", \.initialB), (".lora_A", \.a), (".lora_B", \.b),
      (".disha", \.disha),
    ]
    guard let (suffix, part) = suffixes.first(where: { stored.name.hasSuffix($0.0) }) else { return nil }
    return (stored.name.dropLast(suffix.utf8.count) + ".weight", part)
  }

  /// The checkpoint's name of a matrix.
  private func name(
    of matrix: String, _ stored: StoredTensor, in sources: [String: StoredTensor]
  ) throws(CheckpointError) -> String {
    var renamed = stored
    renamed.name = matrix
    let name = try Names.sources(of: renamed)[0].name
    guard sources[name] != nil else { throw unknown(stored, name) }
    return name
  }

  private func unknown(_ tensor: StoredTensor, _ name: String) -> CheckpointError {
    CheckpointError(
      .mismatch, file: path, tensor: tensor.name, "belongs to no tensor of the checkpoint",
      expected: "a checkpoint with \(quoted(name))", advice: "Is this LoRA of another model or version?")
  }

  // MARK: Other rules than a LoRA's

  /// Adapters that are no sum with something of a small rank, and PiSSA without its other half.
  private func refuseOthers(_ tensors: [StoredTensor]) throws(CheckpointError) {
    let rules = [
      (".bone", "Bone"), (".lora_magnitude_vector", "DoRA"), (".lora_embedding_", "a LoRA of the embedding"),
    ]
    for (sign, rule) in rules {
      guard let tensor = tensors.first(where: { $0.name.holds(sign) }) else { continue }
      throw refusal(tensor, rule)
    }
    if let rows = tensors.first(where: { $0.name.hasSuffix(".disha") && $0.shape.count != 2 }) {
      throw refusal(rows, "DiSHA's multiplying form")
    }
    if let half = tensors.first(where: { $0.name.holds("init_lora_") }) {
      throw CheckpointError(
        .unsupported, file: path, tensor: half.name, "is the initial half of a PiSSA",
        advice: "Give the trained half as the LoRA, and this file beside it as the PiSSA's initial half")
    }
    if initial == nil, let initial = initialPiSSA(tensors) {
      throw CheckpointError(
        .unsupported, file: path, "is the trained half of a PiSSA, which is no LoRA",
        found: "its initial half, \(initial), beside it", advice: "Give that as the PiSSA's initial half")
    }
  }

  private func refusal(_ tensor: StoredTensor, _ rule: String) -> CheckpointError {
    CheckpointError(
      .unsupported, file: path, tensor: tensor.name, "belongs to an adapter of \(rule), which is no LoRA",
      advice: "Merge it with the program that trained it and convert the result")
  }

  /// The file beside this one that has this adapter's factors as they were before the training.
  private func initialPiSSA(_ tensors: [StoredTensor]) -> String? {
    guard let one = tensors.first(where: { $0.name.hasSuffix(".lora_A") }) else { return nil }
    let folder = path.lastIndex(of: "/").map { String(path[...$0]) } ?? "./"
    let initial = one.name.dropLast(6) + "init_lora_A"
    for name in Container.names(in: folder).sorted() where name.holds("pissa") && folder + name != path {
      guard let beside = try? Container(path: folder + name).tensors else { continue }
      if beside.contains(where: { ("." + $0.name).hasSuffix("." + initial) && $0.shape == one.shape }) {
        return name
      }
    }
    return nil
  }

  private func addInitial(
    _ file: String, to parts: inout [String: Parts], _ sources: [String: StoredTensor]
  ) throws(CheckpointError) {
    for stored in try Container(path: file).tensors {
      guard let (matrix, part) = Self.matrix(of: stored), part == \.initialA || part == \.initialB else {
        throw CheckpointError(
          .mismatch, file: file, tensor: stored.name, "does not belong into the initial half of a PiSSA",
          expected: "NAME.init_lora_A and NAME.init_lora_B")
      }
      let name = try name(of: matrix, stored, in: sources)
      guard parts[name]?.a != nil else {
        throw CheckpointError(
          .mismatch, file: file, tensor: stored.name, "has no trained half in \(path)",
          advice: "Both files are written by one training")
      }
      parts[name]?[keyPath: part] = stored
    }
    for (name, parts) in parts where parts.initialA == nil || parts.initialB == nil {
      throw CheckpointError(
        .mismatch, file: file, "lacks the initial factors of \(quoted(name))",
        advice: "Both files are written by one training")
    }
  }

  // MARK: Terms

  /// What a product of that rank is multiplied by: alpha / rank, or what a configuration says.
  private func scale(
    _ folder: AdapterFolder, _ container: Container, _ factors: [StoredTensor]
  ) throws(CheckpointError) -> @Sendable (_ rank: Int) -> Double {
    let configuration = try folder.configuration()
    if let rank = configuration.rank, let other = factors.first(where: { $0.shape.first != rank }) {
      throw CheckpointError(
        .mismatch, file: path, tensor: other.name, "is of another rank than the configuration beside it",
        found: shapeText(other.shape), expected: "r = \(rank)", advice: "Both are written by one training")
    }
    guard let alpha = alpha ?? configuration.alpha ?? container.settings["lora_alpha"] else {
      throw CheckpointError(
        .mismatch, file: path, "does not say which lora_alpha it was trained with", advice: "Give the alpha")
    }
    let isRankStabilized = configuration.isRankStabilized || container.settings["use_rslora"] == 1
    return { alpha / (isRankStabilized ? Double($0).squareRoot() : Double($0)) }
  }

  private func terms(
    _ name: String, _ parts: Parts, of target: StoredTensor, scale: (Int) -> Double
  ) throws(CheckpointError) -> [LowRankUpdate.Term] {
    var terms: [LowRankUpdate.Term] = []
    if parts.a != nil || parts.b != nil {
      terms.append(try pair(name, parts.a, parts.b, of: target, scale: scale))
    }
    if initial != nil {
      var term = try pair(name, parts.initialA, parts.initialB, of: target, scale: { _ in 1 })
      term.scale = -1
      terms.append(term)
    }
    if let disha = parts.disha {
      guard target.shape.count == 2, disha.shape[1] == target.shape[0], disha.shape[0] <= target.shape[1]
      else { throw misfit(name, disha, "D \(shapeText(disha.shape))", target) }
      terms.append(LowRankUpdate.Term(a: nil, b: disha.transposed, scale: 1))
    }
    return terms
  }

  private func pair(
    _ name: String, _ a: StoredTensor?, _ b: StoredTensor?, of target: StoredTensor, scale: (Int) -> Double
  ) throws(CheckpointError) -> LowRankUpdate.Term {
    guard let a, let b else {
      throw CheckpointError(
        .mismatch, file: path, tensor: (a ?? b)?.name ?? name, "stands alone",
        expected: "both lora_A and lora_B")
    }
    let weight = target.shape
    guard weight.count == 2, a.shape.count == 2, b.shape.count == 2, a.shape[0] == b.shape[1],
      b.shape[0] == weight[0], a.shape[1] == weight[1]
    else { throw misfit(name, a, "B \(shapeText(b.shape)) times A \(shapeText(a.shape))", target) }
    return LowRankUpdate.Term(a: a, b: b, scale: Float(scale(a.shape[0])))
  }

  private func misfit(
    _ name: String, _ tensor: StoredTensor, _ found: String, _ target: StoredTensor
  ) -> CheckpointError {
    CheckpointError(
      .mismatch, file: path, tensor: tensor.name, "does not fit its matrix", found: found,
      expected: "the shape of \(quoted(name)), \(shapeText(target.shape))",
      advice: "Is this LoRA of another model or version?")
  }
}

/// A folder of PEFT's or rwkvtune's, or a file alone.
private struct AdapterFolder {
  /// The file with the tensors.
  let weights: String
  /// The file that says how they are added.
  private let description: String?

  private static let weightNames = ["adapter_model.safetensors", "adapter_model.bin", "lora_weights.pth"]
  private static let descriptionNames = ["adapter_config.json", "lora_config.json"]

  init(_ path: String) throws(CheckpointError) {
    let names = Container.names(in: path)
    guard let name = Self.descriptionNames.first(where: names.contains) else {
      (weights, description) = (path, nil)
      return
    }
    let folder = path.hasSuffix("/") ? path : path + "/"
    description = folder + name
    weights = folder + (Self.weightNames.first(where: names.contains) ?? "")
  }

  func configuration() throws(CheckpointError) -> (alpha: Double?, rank: Int?, isRankStabilized: Bool) {
    guard let description else { return (nil, nil, false) }
    let json = try InputFile(path: description).config()
    func isSet(_ key: String) -> Bool {
      switch json[key] {
      case nil, .null?, .bool(false)?: false
      case .object(let members, _)?: !members.isEmpty
      default: true
      }
    }
    if let type = json["peft_type"]?.string, type != "LORA" {
      throw CheckpointError(
        .unsupported, file: description, "is of an adapter that is no LoRA", found: quoted(type),
        expected: "LORA")
    }
    if let key = ["use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out"].first(where: isSet) {
      throw CheckpointError(
        .unsupported, file: description, "sets \(key), by which the adapter is no plain LoRA",
        advice: "Merge it with PEFT and convert the result")
    }
    if let initial = json["init_lora_weights"]?.string, initial != "gaussian" {
      throw CheckpointError(
        .unsupported, file: description, "changed the checkpoint before the training", found: quoted(initial),
        advice: "Merge it with PEFT and convert the result")
    }
    return (json["lora_alpha"]?.double, json["r"]?.unsigned, isSet("use_rslora"))
  }
}

/// What is added to a matrix [outputs, inputs]: Σ scale · B A.
final class LowRankUpdate: Sendable {
  struct Term {
    /// [rank, inputs]; nil for A[r, i] = 1 where i mod rank is r, and else 0.
    let a: StoredTensor?
    /// [outputs, rank]
    let b: StoredTensor
    var scale: Float
  }
  let terms: [Term]

  init(terms: [Term]) { self.terms = terms }

  /// All factors in memory, turned so that row i of the sum is Σ left[i, r] · right[r, …].
  final class Factors: Sendable {
    let tensor: String
    private let rank: Int
    /// [rows, rank], scaled.
    private let left: [Float]
    /// [rank, columns]
    private let right: [Float]

    init(_ update: LowRankUpdate, of tensor: CheckpointTensor) throws(CheckpointError) {
      let (rows, columns) = (tensor.rows, tensor.columns)
      // B A is of the file's orientation, which may be ours already.
      let transposed = tensor.transposed && !tensor.source.isOutputMajor
      let (outputs, inputs) = transposed ? (columns, rows) : (rows, columns)
      // [outputs, rank] and [rank, inputs] of all terms.
      let rank = update.terms.reduce(0) { $0 + $1.b.shape[1] }
      var b = [Float](repeating: 0, count: outputs * rank)
      var a: [Float] = []
      var first = 0
      for term in update.terms {
        let (part, width) = (try term.b.values(), term.b.shape[1])
        for output in 0..<outputs {
          for r in 0..<width { b[output * rank + first + r] = term.scale * part[output * width + r] }
        }
        a += try term.a?.values() ?? (0..<width * inputs).map { $0 % inputs % width == $0 / inputs ? 1 : 0 }
        first += width
      }
      self.tensor = tensor.name
      self.rank = rank
      left = transposed ? (0..<rows * rank).map { a[$0 % rank * rows + $0 / rank] } : b
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
