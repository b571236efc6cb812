// SPDX-License-Identifier: MIT
/// The `.st` files of web-rwkv, Ai00 and RWKV-Runner: safetensors in F16 with some tensors renamed and some with their
/// last two axes exchanged. Their Python converter exchanges the low-rank matrices of versions 6 and 7, the Rust one
/// those of version 6; both exchange states.
enum WebRWKV {
  /// Gives the tensors BlinkDL's names, and marks those whose axes are exchanged.
  static func undo(
    _ sources: inout [String: StoredTensor], isSafetensors: Bool, file: String
  ) throws(CheckpointError) {
    if sources["blocks.0.att.time_mix_x"] != nil, sources["blocks.0.att.time_maa_x"] == nil {
      for (name, source) in sources where name.holds(".time_mix_") {
        sources[name] = nil
        sources[renamed(name)] = source
      }
    }
    if isSafetensors { try refuseUnclearBonus(sources, file: file) }
    if isBonusPlain(sources) {
      for (name, source) in sources where name.hasSuffix(".att.time_first") {
        sources[name] = nil
        sources[name.dropLast(10) + "time_faaaa"] = source
      }
    }
    let exchanged = try hasExchangedAxes(sources, file: file)
    guard exchanged || file.hasSuffix(".st") else { return }
    for name in sources.keys
    where name.hasSuffix(".time_state") || exchanged && isLowRank(name) {
      sources[name]?.isOutputMajor = true
    }
  }

  /// `blocks.0.att.time_mix_w1` → `blocks.0.att.time_maa_w1`
  private static func renamed(_ name: String) -> String {
    guard let dot = name.lastIndex(of: ".") else { return name }
    return name[...dot] + "time_maa_" + name[dot...].dropFirst(".time_mix_".utf8.count)
  }

  /// Whether `time_first` is the bonus itself: in version 6, and in a gated version 5 of F16 with a row of values for
  /// each head. BlinkDL's tensor of that name, an exponent, is older than such rows.
  private static func isBonusPlain(_ sources: [String: StoredTensor]) -> Bool {
    guard let bonus = sources["blocks.0.att.time_first"], sources["blocks.0.att.time_faaaa"] == nil else {
      return false
    }
    if sources["blocks.0.att.time_maa_x"] != nil { return true }
    return sources["blocks.0.att.gate.weight"] != nil && sources.values.allSatisfy { $0.type == .f16 }
      && bonus.count == sources["blocks.0.att.ln_x.weight"]?.count
  }

  /// One `time_first` for each head is an exponent in BlinkDL's oldest files of version 5, and the bonus itself where a
  /// converter renamed it: the Python one does for 5.0, others for both.
  private static func refuseUnclearBonus(
    _ sources: [String: StoredTensor], file: String
  ) throws(CheckpointError) {
    guard let bonus = sources["blocks.0.att.time_first"], let norm = sources["blocks.0.att.ln_x.weight"],
      bonus.count < norm.count, sources["blocks.0.att.time_faaaa"] == nil
    else { return }
    let isConverted =
      sources["blocks.0.att.gate.weight"] != nil && sources.values.allSatisfy { $0.type == .f16 }
    guard isConverted || file.hasSuffix(".st") else { return }
    throw CheckpointError(
      .unsupported, file: file, tensor: "blocks.0.att.time_first",
      "has one value for each head: whether it is the bonus or its exponent, as in the oldest checkpoints, "
        + "cannot be told after a conversion to .st", advice: "Convert the original checkpoint")
  }

  private static let lowRank: Set<String> = [
    "time_maa_w1", "time_maa_w2", "time_decay_w1", "time_decay_w2", "w1", "w2", "a1", "a2", "v1", "v2", "g1",
    "g2",
  ]

  private static func isLowRank(_ name: String) -> Bool {
    guard let dot = name.lastIndex(of: ".") else { return false }
    let leaf = String(name[name.index(after: dot)...])
    // Of 7b's attention those with the same names.
    return name[..<dot].hasSuffix(".att")
      ? lowRank.contains(leaf) : name[..<dot].hasSuffix(".qkv") && ["v1", "v2"].contains(leaf)
  }

  /// Whether the low-rank matrices are transposed, judged by all their shapes together: BlinkDL's first factors are
  /// [D, rank], the second [rank, D].
  private static func hasExchangedAxes(
    _ sources: [String: StoredTensor], file: String
  ) throws(CheckpointError) -> Bool {
    guard let width = sources["emb.weight"]?.shape.last else { return false }
    var (plain, exchanged, square): (String?, String?, String?)
    for (name, source) in sources where isLowRank(name) && !source.isOutputMajor {
      guard let (a, b) = source.shape.count > 1 ? (source.shape.suffix(2).first, source.shape.last) : nil,
        let a, let b
      else { continue }
      let isFirst = name.hasSuffix("1")
      if a == b {
        square = name
      } else if (isFirst ? a : b) == width {
        plain = name
      } else if (isFirst ? b : a) == width {
        exchanged = name
      }
    }
    if let plain, let exchanged {
      throw CheckpointError(
        .mismatch, file: file, tensor: exchanged, "has its axes exchanged, and \(quoted(plain)) has not",
        advice: "No known converter writes that; convert the original checkpoint")
    }
    if plain == nil, exchanged == nil, let square, file.hasSuffix(".st") {
      throw CheckpointError(
        .unsupported, file: file, tensor: square,
        "is square: whether its axes are exchanged, as some converters to .st do, cannot be told",
        advice: "Convert the original checkpoint")
    }
    return exchanged != nil
  }
}
