// SPDX-License-Identifier: MIT
import CRWKVKernels
import Glibc
public import RWKVCheckpoint
public import RWKVFormat
import RWKVTokenizer
import Synchronization

/// What is made of the input.
public struct ConversionOptions: Sendable {
  /// Nil: int4 for a checkpoint; a `.rwkv` file is re-packed without touching a weight.
  public var type: QuantizationType?
  public var tokenizer = TokenizerChoice.automatic
  /// Compress nothing, so that the file can be mapped and used in place.
  public var store = false
  public var threads = processorCount()
  public var overwrite = false
  /// Merged into a checkpoint.
  public var fineTuning = FineTuning()
  /// Whether weights may come from ggml's quantized types, to whose errors a second quantization only adds.
  public var acceptsQuantized = false
  /// Metadata to set or replace: `rwkv.group_norm_epsilon`, and for RWKV-X `rwkv.x.…`.
  public var overrides: [(key: String, value: MetadataValue)] = []
  /// What the file says of its maker.
  public var writer = "rwkv-quantize"
  /// Instruction set of the kernels, nil: the best one. Makes no difference to the output.
  package var instructionSet: String?

  public init() {}
}

/// Converts checkpoints, and `.rwkv` files, to `.rwkv` files.
public enum Conversion {
  /// Reads `input` (a checkpoint of any known container, or a `.rwkv` file) and writes `output`.
  ///
  /// Bounded memory: some 20 MiB per thread, whatever the size of the model. Without success nothing is left
  /// behind and an existing output is untouched.
  /// - Parameter progress: called with the share done, 0…1, from any thread; stops the conversion by returning false.
  /// - Returns: things worth telling the user, one sentence each.
  public static func convert(
    _ input: String, to output: String, _ options: ConversionOptions,
    progress: @escaping @Sendable (Double) -> Bool = { _ in true }
  ) throws(QuantizationError) -> [String] {
    let isModelFile = try hasModelFileMagic(input)
    // Re-packing in place is safe: the input is replaced when the output is complete.
    if isSameFile(input, output), !isModelFile || options.type != nil { throw .outputIsInput(path: output) }
    var draft =
      try isModelFile
      ? Draft(modelFile: input, options, progress) : Draft(checkpoint: input, options, progress)
    for (key, value) in options.overrides {
      if key.hasPrefix("rwkv.x."), draft.metadata.string("rwkv.version") != "x" {
        throw .option("\(input): not RWKV-X, so there is no '\(key)' to set")
      }
      if key == "rwkv.group_norm_epsilon", draft.metadata.string("rwkv.version") == "4" {
        throw .option("\(input): RWKV-4 has no group norm whose epsilon could be set")
      }
      draft.metadata[key] = value
    }
    draft.metadata["writer"] = .string(options.writer)
    try draft.addTokenizer(options.tokenizer, input: input)
    let problems = Architecture.problems(draft.metadata, draft.tensors.map(\.plan))
    guard problems.isEmpty else { throw .architecture(path: input, problems: problems) }

    let threads = max(1, options.threads)
    let writer: ModelFileWriter
    do {
      writer = try ModelFileWriter(
        path: output, overwrite: options.overwrite, metadata: draft.metadata,
        tensors: draft.tensors.map(\.plan),
        store: options.store)
    } catch {
      throw .file(error)
    }
    let kernels = options.instructionSet.flatMap { rk_kernels_named($0) } ?? rk_kernels_best()
    let quantizer = Quantizer(
      source: draft.source, tensors: draft.tensors, threads: threads, kernels: kernels.pointee)
    try quantizer.run(writer, progress: progress)
    do { try writer.finish() } catch { throw .file(error) }
    return draft.notes
  }
}

/// The output before it is written: metadata and tensors in file order.
private struct Draft {
  var metadata: Metadata
  var tensors: [PlannedTensor] = []
  let source: (any WeightSource)?
  var notes: [String] = []

  /// From a checkpoint.
  init(
    checkpoint path: String, _ options: ConversionOptions, _ progress: @escaping @Sendable (Double) -> Bool
  ) throws(QuantizationError) {
    let checkpoint: Checkpoint
    do throws(CheckpointError) {
      checkpoint = try Checkpoint(
        path: path, fineTuning: options.fineTuning, allowQuantized: options.acceptsQuantized)
    } catch {
      throw .checkpoint(error)
    }
    let source = CheckpointSource(checkpoint, path: path)
    let type = options.type ?? .int4
    self.source = source
    metadata = Metadata(checkpoint)
    metadata["model.name"] = .string(stem(of: path))
    metadata["quantization.type"] = .string(type.rawValue)
    tensors = try Self.plan(source, type, threads: max(1, options.threads), progress)
  }

  /// From a `.rwkv` file.
  init(
    modelFile path: String, _ options: ConversionOptions, _ progress: @escaping @Sendable (Double) -> Bool
  ) throws(QuantizationError) {
    let file: ModelFile
    do { file = try ModelFile(path: path) } catch { throw .file(error) }
    guard options.fineTuning.isEmpty else {
      throw .option(
        "\(path): is a finished .rwkv file; a LoRA or a state is merged into the checkpoint it was made from")
    }
    metadata = file.metadata
    guard let type = options.type else {
      source = nil
      tensors = file.tensors.map {
        PlannedTensor(plan: TensorPlan($0), content: .records(file, $0))
      }
      return
    }
    let source = try ModelFileSource(file)
    self.source = source
    metadata["quantization.type"] = .string(type.rawValue)
    tensors = try Self.plan(source, type, threads: max(1, options.threads), progress)
    if let tokenizer = file["tokenizer"] {
      tensors.append(PlannedTensor(plan: TensorPlan(tokenizer), content: .records(file, tokenizer)))
    }
  }

  /// The weights in the order in which a runtime needs them.
  private static func plan(
    _ source: any WeightSource, _ type: QuantizationType, threads: Int,
    _ progress: @escaping @Sendable (Double) -> Bool
  ) throws(QuantizationError) -> [PlannedTensor] {
    var exactness = [Exactness](repeating: Exactness(), count: source.tensors.count)
    if type == .fp16 {
      exactness = try source.exactness(threads: threads, cancelled: { !progress(0) }) {
        $0.role != .vector && !$0.isF16
      }
    }
    let places = source.tensors.map(\.name).placesInFile
    let order = source.tensors.indices.sorted { (places[$0], $0) < (places[$1], $1) }
    return order.map { number in
      let tensor = source.tensors[number]
      return PlannedTensor(
        plan: TensorPlan(
          name: tensor.name, format: type.format(for: tensor.role, exactness: exactness[number]),
          rows: tensor.rows,
          columns: tensor.columns, rowsPerRecord: tensor.role.rowsPerRecord, transposed: tensor.transposed),
        content: .weights(number))
    }
  }

  /// Puts the tokenizer that was chosen behind the weights, in place of one that is there.
  mutating func addTokenizer(_ choice: TokenizerChoice, input: String) throws(QuantizationError) {
    guard let rows = metadata.integer("rwkv.vocabulary").map(Int.init) else { return }
    let found: TokenizerBlob?
    switch choice {
    case .file(let path): found = try TokenizerBlob(path: path, rows: rows)
    case .bytes:
      guard rows >= 256 else { throw .vocabularyTooLarge(tokenizer: "bytes", tokens: 256, rows: rows) }
      found = .bytes
    case .automatic:
      guard metadata.string("tokenizer.kind") == nil else { return }
      found = TokenizerBlob.beside(input, rows: rows)
      if let found {
        notes.append("tokenizer: \(found.origin)")
      } else {
        notes.append(
          "no tokenizer found beside \(input): commands that read or write text will need one; "
            + "give it with --tokenizer FILE")
      }
    }
    guard let found else { return }
    tensors.removeAll { $0.plan.name == "tokenizer" }
    metadata["tokenizer.kind"] = .string(found.kind.rawValue)
    if let blob = found.blob {
      let plan = TensorPlan(name: "tokenizer", format: .bytes, rows: blob.count, columns: 1, rowsPerRecord: 1)
      tensors.append(PlannedTensor(plan: plan, content: .bytes(blob)))
    }
  }
}

extension [String] {
  /// Numbers that ascend in file order, for names that are in it but for the attention blocks of RWKV-X: each of
  /// these stands behind the last block that is executed before it, number q·(m + 1) − 1 with q = L div M.
  var placesInFile: [Int] {
    func number(_ name: String, _ prefix: String) -> Int? {
      name.hasPrefix(prefix) ? Int(name.dropFirst(prefix.count).prefix { $0 != "." }) : nil
    }
    let blocks = (compactMap { number($0, "blocks.") }.max() ?? 0) + 1
    let attention = (compactMap { number($0, "moba.") }.max() ?? 0) + 1
    return map { name in
      if let block = number(name, "blocks.") { return 2 * block }
      if let block = number(name, "moba.") { return 2 * (blocks / attention * (block + 1) - 1) + 1 }
      return name == "emb.weight" ? -1 : 2 * blocks
    }
  }
}

extension TensorPlan {
  init(_ info: TensorInfo) {
    self.init(
      name: info.name, format: info.format, rows: info.rows, columns: info.columns,
      rowsPerRecord: info.rowsPerRecord, transposed: info.transposed)
  }
}

extension Metadata {
  /// Sizes of a checkpoint; for RWKV-X also the published settings of its attention, which are in no checkpoint.
  fileprivate init(_ checkpoint: Checkpoint) {
    self.init()
    self["rwkv.version"] = .string(checkpoint.version.rawValue)
    let sizes = [
      ("layers", checkpoint.layers), ("embedding", checkpoint.embedding),
      ("vocabulary", checkpoint.vocabulary),
      ("ffn", checkpoint.ffn),
    ]
    for (key, value) in sizes { self["rwkv.\(key)"] = .integer(Int64(value)) }
    if let epsilon = checkpoint.groupNormEpsilon {
      self["rwkv.head_size"] = .integer(Int64(checkpoint.headSize))
      self["rwkv.group_norm_epsilon"] = .number(epsilon)
    }
    self["source.format"] = .string(checkpoint.source)
    guard checkpoint.version == .x else { return }
    self["rwkv.x.layers"] = .integer(Int64(checkpoint.attentionLayers))
    self["rwkv.x.chunk_size"] = .integer(2048)
    self["rwkv.x.top_k"] = .integer(3)
    self["rwkv.x.max_kv_cache"] = .integer(20000)
    self["rwkv.x.min_kv_cache"] = .integer(16000)
    self["rwkv.x.kv_window"] = .integer(2000)
    self["rwkv.x.mode"] = .string("sparse")
  }
}

/// `model` of `dir/model.safetensors` (or of `dir/model/`).
private func stem(of path: String) -> String {
  let name = path.split(separator: "/").last.map(String.init) ?? path
  guard let dot = name.lastIndex(of: "."), dot != name.startIndex else { return name }
  return String(name[..<dot])
}

private func hasModelFileMagic(_ path: String) throws(QuantizationError) -> Bool {
  let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
  guard descriptor >= 0 else { throw .unreadable(path: path, reason: String(cString: strerror(errno))) }
  defer { close(descriptor) }
  var magic = [UInt8](repeating: 0, count: 8)
  return read(descriptor, &magic, 8) == 8 && magic == [0x89, 0x52, 0x57, 0x4B, 0x56, 0x0D, 0x0A, 0x1A]
}

private func isSameFile(_ a: String, _ b: String) -> Bool {
  var (first, second) = (stat(), stat())
  guard stat(a, &first) == 0, stat(b, &second) == 0 else { return false }
  return first.st_dev == second.st_dev && first.st_ino == second.st_ino
}
