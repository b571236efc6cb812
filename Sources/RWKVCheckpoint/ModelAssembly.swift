// SPDX-License-Identifier: MIT
internal import RWKVFormat

/// Puts the tensors of one model together: sizes from shapes, every expected tensor present with its shape,
/// in the order of our file, nothing left over.
struct ModelAssembly {
  let version: Version
  let kind: ModelKind
  let file: String
  private(set) var layers = 0
  private(set) var attentionLayers = 0
  private(set) var embedding = 0
  private(set) var vocabulary = 0
  private(set) var ffn = 0
  private(set) var headSize = 0
  private(set) var tensors: [CheckpointTensor] = []

  private let sources: [String: StoredTensor]
  private var unused: Set<String>
  private var missing: [String] = []

  init(
    version: Version, kind: ModelKind, sources: [String: StoredTensor], claims: Claims, file: String
  ) throws(CheckpointError) {
    (self.version, self.kind) = (version, kind)
    self.sources = sources
    self.file = file
    unused = Set(sources.keys)
    layers = try blockCount("blocks.")
    attentionLayers = version == .x ? try blockCount("moba.") : 0
    // A reranker has a single token, whose row may have lost its axis.
    let isReranker = kind == .reranker
    (vocabulary, embedding) =
      isReranker ? (1, try required("emb.weight", "a vector").count) : try matrixSize("emb.weight")
    guard kind != .embedding || vocabulary > EmbeddingTask.endOfText else {
      throw CheckpointError(
        .unsupported, file: file, tensor: "emb.weight",
        "lacks the token that ends the texts of embedding models",
        found: "\(vocabulary) rows", expected: "more than \(EmbeddingTask.endOfText), as EmbeddingRWKV has")
    }
    ffn = try matrixSize("blocks.0.ffn.key.weight").rows
    headSize = try findHeadSize(claims)
    try claims.check(self)

    try add("emb.weight", isReranker ? .vector : .embedding, vocabulary, embedding)
    for layer in 0..<layers { try addBlock(layer) }
    for layer in 0..<attentionLayers { try addAttentionBlock("moba.\(layer).") }
    try addNorm("ln_out")
    try addHead()
    try checkComplete()
  }

  // MARK: Sizes

  /// Blocks are numbered from 0 without holes.
  private func blockCount(_ prefix: String) throws(CheckpointError) -> Int {
    var numbers: Set<Int> = []
    for name in sources.keys where name.hasPrefix(prefix) {
      let digits = name.dropFirst(prefix.count).prefix { $0 != "." }
      guard let number = Int(digits), number >= 0, String(number) == digits else {
        throw CheckpointError(
          .mismatch, file: file, tensor: name, "has no block number", expected: "\(prefix)N.…")
      }
      numbers.insert(number)
    }
    guard let last = numbers.max(), last + 1 == numbers.count else {
      throw CheckpointError(
        .mismatch, file: file, "lacks whole blocks", found: "\(numbers.count) blocks named \(prefix)N",
        expected: numbers.max().map { "0…\($0)" } ?? "at least one",
        advice: "A shard may be missing: give the directory with all of them")
    }
    return numbers.count
  }

  /// What sizes are taken from.
  private func required(_ name: String, _ expected: String) throws(CheckpointError) -> StoredTensor {
    if let source = sources[name] { return source }
    throw CheckpointError(
      .mismatch, file: file, tensor: name, "is missing", expected: expected,
      advice: "The file may be incomplete; get it again")
  }

  private func matrixSize(_ name: String) throws(CheckpointError) -> (rows: Int, columns: Int) {
    let shape = try required(name, "a matrix").shape
    guard shape.count == 2 else { throw wrongShape(name, shape, expected: "a matrix") }
    return (shape[0], shape[1])
  }

  /// N: from the [H, N] tensors, from the number of decays (5.0, 5.1), or as claimed where the tensor is
  /// flat.
  private func findHeadSize(_ claims: Claims) throws(CheckpointError) -> Int {
    let size: Int
    switch version {
    case .v4: return 0
    case .v50, .v51:
      let heads = try required("blocks.0.att.time_decay", "a decay of each head").count
      size = heads > 0 && embedding % heads == 0 ? embedding / heads : 0
    case .v52, .v6, .v7, .v7a, .v7b, .x:
      let names = (version.isRWKV7 ? ["r_k"] : ["time_faaaa", "time_first", "time_decay"]).map {
        "blocks.0.att." + $0
      }
      let name = names.first { sources[$0] != nil } ?? names[0]
      var shape = try required(name, "[heads, head size]").shape
      if shape.count > 1 {
        while shape.count > 1, shape.last == 1 { shape.removeLast() }
        size = shape.last ?? 0
      } else {
        size = claims.headSize ?? 0
      }
    }
    guard size > 1, embedding % size == 0 else {
      throw CheckpointError(
        .mismatch, file: file, "has heads that do not divide the embedding", found: "head size \(size)",
        expected: "a divisor of \(embedding)")
    }
    return size
  }

  // MARK: Blocks

  private mutating func addBlock(_ layer: Int) throws(CheckpointError) {
    let block = "blocks.\(layer)."
    if layer == 0 { try addNorm(block + "ln0") }
    try addNorm(block + "ln1")
    switch version {
    case .v4: try addTimeMix4(block + "att.")
    case .v50, .v51, .v52: try addTimeMix5(block + "att.")
    case .v6: try addTimeMix6(block + "att.")
    case .v7, .v7a, .v7b, .x: try addTimeMix7(block + "att.", layer: layer)
    }
    if version == .v7b { try addDeepAttention(block + "qkv.") }
    try addNorm(block + "ln2")
    try addChannelMix(block + "ffn.", ffn: ffn)
    if version.hasTokenTables { try addDeepEmbed(block + "ffn.") }
  }

  private mutating func addTimeMix4(_ att: String) throws(CheckpointError) {
    for name in ["time_decay", "time_first", "time_mix_k", "time_mix_v", "time_mix_r"] {
      try addVector(att + name)
    }
    for name in ["receptance", "key", "value", "output"] { try addSquare(att + name) }
  }

  private mutating func addTimeMix5(_ att: String) throws(CheckpointError) {
    let heads = embedding / headSize
    let decays = version == .v52 ? embedding : heads
    let gated = version != .v50
    for name in ["k", "v", "r"] + (gated ? ["g"] : []) { try addVector(att + "time_mix_" + name) }
    try addVector(att + "time_decay", decays)
    // The bonus under its old name is used as exp(x), under the new one as it is; the name tells the runtime.
    try addVector(att + (sources[att + "time_first"] != nil ? "time_first" : "time_faaaa"), decays)
    for name in ["receptance", "key", "value"] + (gated ? ["gate"] : []) + ["output"] {
      try addSquare(att + name)
    }
    try addNorm(att + "ln_x")
    try addInitialState(att)
  }

  private mutating func addTimeMix6(_ att: String) throws(CheckpointError) {
    for name in ["x", "w", "k", "v", "r", "g"] { try addVector(att + "time_maa_" + name) }
    let rank = rank(att + "time_maa_w") / 5
    try addLowRank(att + "time_maa_w1", 5 * rank, embedding)
    try addLowRank(att + "time_maa_w2", embedding, rank, groups: 5)
    try addVector(att + "time_decay")
    try addLowRankPair(att + "time_decay_w")
    try addVector(att + "time_faaaa")
    for name in ["receptance", "key", "value", "gate", "output"] { try addSquare(att + name) }
    try addNorm(att + "ln_x")
    try addInitialState(att)
  }

  private mutating func addTimeMix7(_ att: String, layer: Int) throws(CheckpointError) {
    for name in ["r", "w", "k", "v", "a", "g"] { try addVector(att + "x_" + name) }
    for name in ["w", "a", "v", "g"] {
      // The first layer has no value residual; some files carry unused tensors for it.
      if name == "v", layer == 0 {
        unused.subtract(["0", "1", "2"].map { att + "v" + $0 })
        continue
      }
      if name != "g" { try addVector(att + name + "0") }
      try addLowRankPair(att + name)
    }
    for name in ["k_k", "k_a", "r_k"] { try addVector(att + name) }
    for name in ["receptance", "key", "value", "output"] { try addSquare(att + name) }
    try addNorm(att + "ln_x")
    try addInitialState(att)
  }

  private mutating func addChannelMix(_ ffn: String, ffn width: Int) throws(CheckpointError) {
    let gated = !version.isRWKV7
    let mixes =
      version == .v6 ? ["time_maa_k", "time_maa_r"] : gated ? ["time_mix_k", "time_mix_r"] : ["x_k"]
    for name in mixes { try addVector(ffn + name) }
    try add(ffn + "key.weight", .matrix, width, embedding)
    if gated { try addSquare(ffn + "receptance") }
    try add(ffn + "value.weight", .rows, width, embedding)
  }

  /// DeepEmbed of RWKV-7a and 7b.
  private mutating func addDeepEmbed(_ ffn: String) throws(CheckpointError) {
    let (rank, width) = (DeepEmbedSizes.rank, DeepEmbedSizes.width)
    try addTable(ffn + "s_emb", columns: width)
    try addLowRank(ffn + "s1", rank, embedding)
    try addLowRank(ffn + "s2", self.ffn, rank)
    try addVector(ffn + "s0", self.ffn)
  }

  /// The attention of RWKV-7b.
  private mutating func addDeepAttention(_ qkv: String) throws(CheckpointError) {
    let (rank, keys) = (DeepEmbedSizes.attentionRank, DeepEmbedSizes.keys)
    try add(qkv + "qq.weight", .matrix, keys, embedding)
    for (name, width) in [("k", keys), ("v", embedding)] {
      try addLowRank(qkv + name + "1", rank, embedding)
      try addLowRank(qkv + name + "2", width, rank)
      try addTable(qkv + name + "_emb", columns: width)
    }
    for (name, width) in [("q", keys), ("k", keys), ("v", embedding)] {
      try addVector(qkv + "x_" + name, width)
      try addVector(qkv + "ln\(name).weight", width)
      try addVector(qkv + "ln\(name).bias", width)
    }
  }

  /// A table with a row for each token, and the matrix that makes the rest of such a row from the token's embedding.
  private mutating func addTable(_ name: String, columns: Int) throws(CheckpointError) {
    try add(name + ".weight", .table, vocabulary, columns)
    try add(name + "_x.weight", .matrix, columns, embedding)
  }

  /// A block of RWKV-X's sparse attention; its ffn has a size of its own.
  private mutating func addAttentionBlock(_ block: String) throws(CheckpointError) {
    try addNorm(block + "ln1")
    for name in ["receptance", "key", "value", "output"] { try addSquare(block + "att." + name) }
    try addNorm(block + "ln2")
    let width = try matrixSize(block + "ffn.key.weight").rows
    try addChannelMix(block + "ffn.", ffn: width)
  }

  private mutating func addHead() throws(CheckpointError) {
    switch kind {
    case .language: try add("head.weight", .head, vocabulary, embedding)
    case .embedding:
      for task in EmbeddingTask.heads(among: sources.keys) {
        for name in ["fc1", "fc2"] { try add(task.head + name + ".weight", .head, embedding, embedding) }
        try addNorm(task.head + "norm")
      }
    case .reranker:
      try add("head.0.weight", .head, embedding, embedding)
      try addVector("head.0.bias")
      try addVector("head.2.weight")
    }
  }

  // MARK: Tensors

  private mutating func addSquare(_ name: String) throws(CheckpointError) {
    try add(name + ".weight", .matrix, embedding, embedding)
  }

  private mutating func addNorm(_ name: String) throws(CheckpointError) {
    try addVector(name + ".weight")
    try addVector(name + ".bias")
  }

  private mutating func addVector(_ name: String, _ count: Int? = nil) throws(CheckpointError) {
    try add(name, .vector, 1, count ?? embedding)
  }

  /// The rank of a low-rank pair, `name1` [D, rank] and `name2` [rank, D], of which one may be missing.
  private func rank(_ name: String) -> Int {
    ((sources[name + "1"] ?? sources[name + "2"])?.count ?? 0) / embedding
  }

  /// `name1` [D, rank] and `name2` [rank, D]; the rank is whatever the first has.
  private mutating func addLowRankPair(_ name: String) throws(CheckpointError) {
    let rank = rank(name)
    try addLowRank(name + "1", rank, embedding)
    try addLowRank(name + "2", embedding, rank)
  }

  /// Adds the initial state of a layer, if there is one: state-tuned files have them.
  private mutating func addInitialState(_ att: String) throws(CheckpointError) {
    guard let source = sources[att + "time_state"] else { return }
    try add(att + "time_state", .state, embedding, headSize)
    if source.isOutputMajor { tensors[tensors.count - 1].groupRows = headSize }
  }

  private mutating func addLowRank(
    _ name: String, _ rows: Int, _ columns: Int, groups: Int = 1
  ) throws(CheckpointError) {
    try add(name, .lowRank, rows, columns, groups: groups)
  }

  /// Takes one tensor: `rows` × `columns` in our orientation, `groups` of them one below the other.
  private mutating func add(
    _ name: String, _ role: TensorRole, _ rows: Int, _ columns: Int, groups: Int = 1
  ) throws(CheckpointError) {
    guard var source = sources[name] else { return missing.append(name) }
    unused.remove(name)
    if role == .vector || role == .state {
      // Value by value, whatever their order in the file.
      (source.strides, source.isColumnMajor) = (source.viewStrides, false)
    }
    let transposed = role == .lowRank || role == .rows
    let fileIsTransposed = transposed && !source.isOutputMajor
    let expected = [groups] + (fileIsTransposed ? [columns, rows] : [rows, columns])
    try checkShape(source, name, expected: expected, role: role)
    let isByColumn = fileIsTransposed != source.isColumnMajor
    tensors.append(
      CheckpointTensor(
        name: name, role: role, rows: groups * rows, columns: columns, transposed: transposed, source: source,
        groupRows: isByColumn && rows > 1 && columns > 1 ? rows : nil))
  }

  /// Axes of size one may come and go; vectors and states only have to have the right number of values.
  private func checkShape(
    _ tensor: StoredTensor, _ name: String, expected: [Int], role: TensorRole
  ) throws(CheckpointError) {
    let matches =
      role == .vector || role == .state
      ? tensor.count == expected.reduce(1, *)
      : tensor.shape.filter { $0 != 1 } == expected.filter { $0 != 1 }
    guard matches, !expected.contains(0) else {
      throw wrongShape(name, tensor.shape, expected: shapeText(expected.filter { $0 != 1 }))
    }
  }

  private func wrongShape(_ name: String, _ shape: [Int], expected: String) -> CheckpointError {
    CheckpointError(
      .mismatch, file: file, tensor: name,
      "has a shape that RWKV-\(version.rawValue.uppercased()) does not have",
      found: shapeText(shape), expected: expected + " (embedding size \(embedding))")
  }

  private func checkComplete() throws(CheckpointError) {
    guard !missing.isEmpty || !unused.isEmpty else { return }
    func list(_ names: [String], _ what: String) -> String? {
      guard !names.isEmpty else { return nil }
      let shown = names.prefix(4).map(quoted).joined(separator: ", ")
      return "\(names.count) \(what): \(shown)" + (names.count > 4 ? ", …" : "")
    }
    let found = [
      list(missing, "missing"), list(unused.compactMap { sources[$0]?.name }.sorted(), "unknown"),
    ].compactMap { $0 }
    throw CheckpointError(
      .mismatch, file: file,
      "looks like RWKV-\(version.rawValue.uppercased()) with \(layers) blocks, but is not",
      found: found.joined(separator: "; "), expected: "exactly that version's tensors",
      advice: missing.isEmpty
        ? "It may be a newer variant that is not supported" : "The file may be incomplete; get it again")
  }
}
