// SPDX-License-Identifier: MIT
import RWKVFormat

/// The tensors that a model of some version and size must have. One list for conversion and verification.
///
/// Letters: L layers, D embedding, V vocabulary, F hidden units, N head size. Shapes: rows × columns as stored.
struct Architecture {
  private enum Rows: Equatable {
    case count(Int)
    /// A multiple of the number with this name, such as the rank of a low-rank pair; the first tensor decides.
    case rank(String, times: Int)
  }
  private struct Requirement {
    let name: String
    /// Another name for the same thing.
    let alternative: String?
    let rows, columns: Rows
    let rowsPerRecord: Int
    let transposed: Bool
    let isOptional: Bool
  }

  private let version: String
  private let (L, D, V, F, N): (Int, Int, Int, Int, Int)
  private var requirements: [Requirement] = []

  /// Problems of a model's tensors, one sentence each; none if it can be run.
  static func problems(_ metadata: Metadata, _ tensors: [TensorPlan]) -> [String] {
    do throws(Problem) {
      return try Architecture(metadata, tensorCount: tensors.count).problems(tensors)
    } catch { return [error.text] }
  }

  private struct Problem: Error { let text: String }

  private init(_ metadata: Metadata, tensorCount: Int) throws(Problem) {
    func size(_ key: String) throws(Problem) -> Int {
      guard let value = metadata.integer(key), (1...1 << 24).contains(value) else {
        throw Problem(text: "metadata '\(key)' is missing or not a number from 1 to 2^24")
      }
      return Int(value)
    }
    /// A small file must not make a long list.
    func layers(_ key: String) throws(Problem) -> Int {
      let count = try size(key)
      guard count <= tensorCount else {
        throw Problem(text: "metadata '\(key)' is \(count), but there are only \(tensorCount) tensors")
      }
      return count
    }
    guard let version = metadata.string("rwkv.version"),
      ["4", "5.0", "5.1", "5.2", "6", "7", "x"].contains(version)
    else { throw Problem(text: "metadata 'rwkv.version' is missing or none of 4, 5.0, 5.1, 5.2, 6, 7, x") }
    self.version = version
    L = try layers("rwkv.layers")
    D = try size("rwkv.embedding")
    V = try size("rwkv.vocabulary")
    F = try size("rwkv.ffn")
    guard version != "4" else {
      N = 1
      addModel()
      return
    }
    N = try size("rwkv.head_size")
    guard D % N == 0 else { throw Problem(text: "the head size \(N) does not divide the embedding \(D)") }
    guard let epsilon = metadata.number("rwkv.group_norm_epsilon"), epsilon > 0, epsilon < 1 else {
      throw Problem(text: "metadata 'rwkv.group_norm_epsilon' is missing or not between 0 and 1")
    }
    addModel()
    guard version == "x" else { return }
    for key in ["chunk_size", "top_k", "max_kv_cache", "min_kv_cache", "kv_window"] {
      guard let value = metadata.integer("rwkv.x.\(key)"), value >= 0 else {
        throw Problem(text: "metadata 'rwkv.x.\(key)' is missing or negative")
      }
    }
    guard ["sparse", "full"].contains(metadata.string("rwkv.x.mode")) else {
      throw Problem(text: "metadata 'rwkv.x.mode' is missing or neither sparse nor full")
    }
    for layer in 0..<(try layers("rwkv.x.layers")) { addAttention("moba.\(layer).") }
  }

  // MARK: - What there must be

  private mutating func addModel() {
    add("emb.weight", .count(V), .count(D), 1)
    for layer in 0..<L {
      let block = "blocks.\(layer)."
      if layer == 0 { norm(block + "ln0") }
      norm(block + "ln1")
      norm(block + "ln2")
      switch version {
      case "4": addTimeMix4(block + "att.")
      case "5.0", "5.1", "5.2": addTimeMix5(block + "att.")
      case "6": addTimeMix6(block + "att.")
      default: addTimeMix7(block + "att.", isFirst: layer == 0)
      }
      addChannelMix(block + "ffn.", .count(F))
    }
    norm("ln_out")
    add("head.weight", .count(V), .count(D), 16)
  }

  private mutating func addTimeMix4(_ att: String) {
    vectors(att, "time_decay time_first time_mix_k time_mix_v time_mix_r")
    matrices(att, "key value receptance output")
  }

  private mutating func addTimeMix5(_ att: String) {
    let perHead = version == "5.2" ? D : D / N
    vectors(att, "time_mix_k time_mix_v time_mix_r")
    vectors(att, "time_decay", perHead)
    add(att + "time_faaaa", or: att + "time_first", .count(1), .count(perHead), 1)
    matrices(att, "receptance key value output")
    norm(att + "ln_x")
    initialState(att)
    guard version != "5.0" else { return }
    vectors(att, "time_mix_g")
    matrices(att, "gate")
  }

  private mutating func addTimeMix6(_ att: String) {
    vectors(att, "time_maa_x time_maa_w time_maa_k time_maa_v time_maa_r time_maa_g time_decay time_faaaa")
    initialState(att)
    add(att + "time_maa_w1", .rank(att + "maa", times: 5), .count(D), 16, transposed: true)
    add(att + "time_maa_w2", .count(5 * D), .rank(att + "maa", times: 1), 16, transposed: true)
    lowRank(att, "time_decay_w")
    matrices(att, "receptance key value gate output")
    norm(att + "ln_x")
  }

  private mutating func addTimeMix7(_ att: String, isFirst: Bool) {
    vectors(att, "x_r x_w x_k x_v x_a x_g w0 a0 k_k k_a r_k")
    // Layer 0 may have a value residual; it is never used.
    vectors(att, "v0", optional: isFirst)
    for name in ["w", "a", "g"] { lowRank(att, name) }
    lowRank(att, "v", optional: isFirst)
    matrices(att, "receptance key value output")
    norm(att + "ln_x")
    initialState(att)
  }

  /// F is the number of hidden units; attention blocks have their own.
  private mutating func addChannelMix(_ ffn: String, _ F: Rows) {
    switch version {
    case "4", "5.0", "5.1", "5.2": vectors(ffn, "time_mix_k time_mix_r")
    case "6": vectors(ffn, "time_maa_k time_maa_r")
    default: vectors(ffn, "x_k")
    }
    if !["7", "x"].contains(version) { matrices(ffn, "receptance") }
    add(ffn + "key.weight", F, .count(D), 16)
    add(ffn + "value.weight", F, .count(D), 1, transposed: true)
  }

  /// An attention block of RWKV-X.
  private mutating func addAttention(_ block: String) {
    norm(block + "ln1")
    norm(block + "ln2")
    matrices(block + "att.", "receptance key value output")
    addChannelMix(block + "ffn.", .rank(block, times: 1))
  }

  private mutating func add(
    _ name: String, or alternative: String? = nil, _ rows: Rows, _ columns: Rows, _ perRecord: Int,
    transposed: Bool = false, optional: Bool = false
  ) {
    requirements.append(
      Requirement(
        name: name, alternative: alternative, rows: rows, columns: columns, rowsPerRecord: perRecord,
        transposed: transposed,
        isOptional: optional))
  }

  private mutating func vectors(
    _ prefix: String, _ names: String, _ count: Int? = nil, optional: Bool = false
  ) {
    for name in names.split(separator: " ") {
      add(prefix + name, .count(1), .count(count ?? D), 1, optional: optional)
    }
  }

  private mutating func norm(_ name: String) { vectors(name + ".", "weight bias") }

  private mutating func matrices(_ prefix: String, _ names: String) {
    for name in names.split(separator: " ") { add("\(prefix)\(name).weight", .count(D), .count(D), 16) }
  }

  /// Of state-tuned files: [H, N, N].
  private mutating func initialState(_ att: String) {
    add(att + "time_state", .count(D), .count(N), 1, optional: true)
  }

  private mutating func lowRank(_ prefix: String, _ name: String, optional: Bool = false) {
    add(
      "\(prefix)\(name)1", .rank(prefix + name, times: 1), .count(D), 16, transposed: true, optional: optional
    )
    add(
      "\(prefix)\(name)2", .count(D), .rank(prefix + name, times: 1), 16, transposed: true, optional: optional
    )
  }

  // MARK: - What there is

  private func problems(_ tensors: [TensorPlan]) -> [String] {
    var rest = Dictionary(tensors.map { ($0.name, $0) }) { first, _ in first }
    rest["tokenizer"] = nil
    var problems: [String] = []
    var ranks: [String: Int] = [:]
    for requirement in requirements {
      let found = rest.removeValue(forKey: requirement.name)
      guard let tensor = found ?? requirement.alternative.flatMap({ rest.removeValue(forKey: $0) }) else {
        if !requirement.isOptional { problems.append("tensor '\(requirement.name)' is missing") }
        continue
      }
      func size(_ rows: Rows, _ found: Int) -> Int {
        switch rows {
        case .count(let count): return count
        case .rank(let name, let times):
          let rank = ranks[name] ?? max(1, found / times)
          ranks[name] = rank
          return rank * times
        }
      }
      let (rows, columns) = (size(requirement.rows, tensor.rows), size(requirement.columns, tensor.columns))
      if (tensor.rows, tensor.columns) != (rows, columns) {
        problems.append(
          "tensor '\(tensor.name)' has \(tensor.rows) × \(tensor.columns), expected \(rows) × \(columns)")
      } else if tensor.rowsPerRecord != requirement.rowsPerRecord
        || tensor.transposed != requirement.transposed
      {
        problems.append(
          "tensor '\(tensor.name)' is stored by \(tensor.rowsPerRecord) rows or in another orientation")
      }
    }
    return problems
      + rest.keys.sorted().map { "tensor '\($0)' does not belong to RWKV-\(version) with \(L) layers" }
  }
}
