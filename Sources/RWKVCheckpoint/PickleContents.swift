// SPDX-License-Identifier: MIT
/// What a pickle that was read has for a checkpoint.
extension Pickle {
  /// Names and tensors of the dictionary, in its order, or of the one within it that has the weights.
  func contents() throws(Failure) -> Contents {
    guard stack.count == 1, case .dictionary(var entries) = objects[stack[0]] else {
      throw Failure(unsupported: true, problem: "holds no dictionary of tensors")
    }
    let settings = settings(entries)
    var path: [(name: String, beside: [(key: Int, value: Int)])] = []
    while path.count < 4,
      let name = Pickle.wrappers.first(where: { dictionary($0, in: entries)?.isEmpty == false }),
      let inner = dictionary(name, in: entries)
    {
      path.append((name, entries))
      entries = inner
    }
    var contents = Contents(tensors: try tensors(of: entries), settings: settings, lists: lists(entries))
    let names = path.flatMap { others(like: contents.tensors.map(\.tensor), beside: $0.name, in: $0.beside) }
    if !names.isEmpty { contents.choice = (path.map(\.name).joined(separator: "."), names) }
    return contents
  }

  /// What trainers keep beside the weights and has tensors of the same shapes: averages over steps, copies in F32; but
  /// not what an optimizer knows of each.
  private func others(
    like tensors: [Tensor], beside name: String, in entries: [(key: Int, value: Int)]
  ) -> [String] {
    let shapes = Dictionary(tensors.map { ($0.shape, 1) }, uniquingKeysWith: +)
    var visited: Set<Int> = []
    func isOther(_ object: Int, _ depth: Int) -> Bool {
      guard case .dictionary(let inner) = objects[object], visited.insert(object).inserted else {
        return false
      }
      let found = inner.compactMap { if case .tensor(let tensor) = objects[$0.value] { tensor } else { nil } }
      let counts = Dictionary(found.map { ($0.shape, 1) }, uniquingKeysWith: +)
      let isLike = !found.isEmpty && shapes.allSatisfy { counts[$0.key, default: 0] >= $0.value }
      return isLike && found != tensors || depth > 0 && inner.contains { isOther($0.value, depth - 1) }
    }
    return entries.compactMap { entry in
      guard case .text(let key) = objects[entry.key], key != name, !key.hasPrefix("optim") else { return nil }
      return isOther(entry.value, 2) ? key : nil
    }
  }

  private func lists(_ entries: [(key: Int, value: Int)]) -> [String: [Int]] {
    var lists: [String: [Int]] = [:]
    for entry in entries {
      guard case .text(let key) = objects[entry.key] else { continue }
      switch objects[entry.value] {
      case .list(let values), .tuple(let values):
        let numbers = values.compactMap { if case .integer(let number) = objects[$0] { number } else { nil } }
        if numbers.count == values.count { lists[key] = numbers }
      default: break
      }
    }
    return lists
  }

  /// Under which trainers keep the weights, beside the state of the training.
  private static let wrappers = [
    "module", "state_dict", "model_state_dict", "lora_state_dict", "model", "weights", "params", "network",
  ]

  private func dictionary(
    _ name: String, in entries: [(key: Int, value: Int)]
  ) -> [(key: Int, value: Int)]? {
    for entry in entries {
      if case .text(name) = objects[entry.key], case .dictionary(let inner) = objects[entry.value] {
        return inner
      }
    }
    return nil
  }

  private func settings(_ entries: [(key: Int, value: Int)]) -> [String: Double] {
    var settings: [String: Double] = [:]
    for entry in dictionary("config", in: entries) ?? [] {
      guard case .text(let key) = objects[entry.key] else { continue }
      switch objects[entry.value] {
      case .integer(let value): settings[key] = Double(value)
      case .number(let value): settings[key] = value
      case .bool(let value): settings[key] = value ? 1 : 0
      default: break
      }
    }
    return settings
  }

  /// The tensors of a dictionary, and those of dictionaries within it, whose names are joined by dots. Other things are
  /// passed over.
  private func tensors(
    of entries: [(key: Int, value: Int)]
  ) throws(Failure) -> [(name: String, tensor: Tensor)] {
    var found: [(name: String, tensor: Tensor)] = []
    var other: String?
    try collect(entries, prefix: "", depth: 0, into: &found, &other)
    if found.isEmpty, let other {
      throw Failure(unsupported: true, problem: "has something else than a tensor at \(quoted(other))")
    }
    return found
  }

  private func collect(
    _ entries: [(key: Int, value: Int)], prefix: String, depth: Int,
    into found: inout [(name: String, tensor: Tensor)], _ other: inout String?
  ) throws(Failure) {
    for entry in entries {
      guard case .text(let key) = objects[entry.key] else {
        throw Failure(unsupported: true, problem: "has a key that is no text")
      }
      switch objects[entry.value] {
      case .tensor(let tensor): found.append((prefix + key, tensor))
      case .dictionary(let inner) where depth < 4:
        try collect(inner, prefix: prefix + key + ".", depth: depth + 1, into: &found, &other)
      default: other = other ?? prefix + key
      }
      guard found.count <= StoredTensor.maximumTensors else { throw Failure(problem: "has too many tensors") }
    }
  }

  /// The texts of a list, if it is one.
  var list: [String]? {
    guard let top = stack.first, case .list(let values) = objects[top] else { return nil }
    var texts: [String] = []
    for value in values {
      guard case .text(let text) = objects[value] else { return nil }
      texts.append(text)
    }
    return texts
  }
}
