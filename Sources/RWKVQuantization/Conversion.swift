// SPDX-License-Identifier: MIT
import CRWKVKernels
import Glibc
import RWKV
public import RWKVCheckpoint
public import RWKVFormat
import RWKVTokenizer
import Synchronization

/// What is made of the input.
public struct ConversionOptions: Sendable {
  /// What to convert to; nil is int4 for a checkpoint, and re-packs a `.rwkv` file without touching a weight.
  public var type: QuantizationType?
  /// The formats of tensors about which `type` is not to decide.
  public var recipe: Recipe?
  /// What error-compensating rounding is calibrated on; without it every weight gets the nearest value.
  public var calibration: CalibrationText?
  /// Whether the output and the source read a text before the output gets its name; nil: where that takes little, for
  /// small models and after a calibration.
  public var measuresLoss: Bool? = false
  /// The KL(source ‖ output) [nats per token] above which there is no output; implies `measuresLoss`.
  public var maximumKL: Double?
  /// Median of the tokens that answers of source and output have in common, of 64, below which there is no output;
  /// implies `measuresLoss`.
  public var minimumAgreeingTokens: Double?
  /// Which tokenizer the output gets.
  public var tokenizer = TokenizerChoice.automatic
  /// Whether nothing is compressed, so that the file can be mapped and used in place.
  public var store = false
  /// How many threads convert at most; fewer where there is no memory for all.
  public var threads = processorCount()
  /// Whether an output that exists is replaced; otherwise it is an error.
  public var overwrite = false
  /// What is merged into a checkpoint.
  public var fineTuning = FineTuning()
  /// Whether weights may come from ggml's quantized types, to whose errors a second quantization only adds.
  public var acceptsQuantized = false
  /// Metadata to set or replace: `rwkv.group_norm_epsilon`, and for RWKV-X `rwkv.x.…`.
  public var overrides: [(key: String, value: MetadataValue)] = []
  /// What the file says of its maker.
  public var writer = "rwkv-quantize"
  /// Tensors whose weights the wanted format cannot express.
  var inSixteenBits: Set<String> = []
  /// Instruction set of the kernels, nil: the best one. Makes no difference to the output.
  package var instructionSet: String?

  public init() {}
}

/// What a conversion has to say.
public struct ConversionReport: Sendable {
  /// Things worth telling the user, one sentence each.
  public internal(set) var notes: [String] = []
  /// What was lost, if it was measured.
  public internal(set) var loss: Comparison?
  /// How far source and output write the same answers, if that was measured.
  public internal(set) var answers: FreeRunning?
  /// Whether it was measured on a text of which the source can make nothing: a language, or characters, that it has
  /// never seen. There even its likeliest tokens are guesses, and change easily.
  public internal(set) var isTextStrange = false
}

/// Converts checkpoints, and `.rwkv` files, to `.rwkv` files.
public enum Conversion {
  /// Reads `input` (a checkpoint of any known container, or a `.rwkv` file) and writes `output`.
  ///
  /// Bounded memory: some 20 MiB per thread, whatever the size of the model. Without success nothing is left
  /// behind and an existing output is untouched. For a calibration, or to measure the loss, the source is run: a
  /// checkpoint from a 16-bit copy beside the output, which has no name and vanishes at the end.
  /// - Parameter progress: called with the share done, 0…1, from any thread; stops the conversion by returning false.
  public static func convert(
    _ input: String, to output: String, _ options: ConversionOptions,
    progress: @escaping @Sendable (Double) -> Bool = { _ in true }
  ) throws(QuantizationError) -> ConversionReport {
    do { try checkInstructionSet() } catch { throw .model(error) }
    var options = options
    var notes: [String] = []
    while true {
      do throws(QuantizationError) {
        var report = try convertOnce(input, to: output, options, progress: progress)
        report.notes.insert(contentsOf: notes, at: 0)
        return report
      } catch {
        // Known only when the weights are read; they are read again.
        guard case .outsideRange(let tensor, let format, let magnitude) = error,
          options.inSixteenBits.insert(tensor).inserted
        else { throw error }
        notes.append(
          "tensor '\(tensor)' is in 16 bits: its weights, of magnitude \(magnitude), are outside the range of "
            + format.name)
      }
    }
  }

  /// What a conversion may read beside a checkpoint, tensors apart: descriptions and vocabularies.
  private static func descriptions(beside input: String) -> [String] {
    let folder = input.lastIndex(of: "/").map { String(input[...$0]) } ?? "./"
    return contents(ofFolder: folder).filter { $0.hasSuffix(".json") || $0.hasSuffix(".txt") }.map {
      folder + $0
    }
  }

  private static func convertOnce(
    _ input: String, to output: String, _ options: ConversionOptions,
    progress: @escaping @Sendable (Double) -> Bool
  ) throws(QuantizationError) -> ConversionReport {
    let isModelFile = try hasModelFileMagic(input)
    let tuning = options.fineTuning
    var inputs = [tuning.state, tuning.lora?.path, tuning.lora?.initial].compactMap { $0 }
    if case .file(let path) = options.tokenizer { inputs.append(path) }
    inputs += isModelFile ? [input] : [input] + descriptions(beside: input)
    if OutputFile.isInput(output, inputs) { throw .outputIsInput(path: output) }
    if isModelFile {
      let problems = try Verification.problems(of: input, threads: max(1, options.threads)) { _ in progress(0)
      }
      guard problems.isEmpty else { throw .unsound(problems) }
    }
    let draft = try Draft(input, options, progress)
    if OutputFile.isInput(output, draft.files) { throw .outputIsInput(path: output) }
    let problems = Blueprint.problems(draft.metadata, draft.tensors.map(\.plan)).map(\.description)
    guard problems.isEmpty else { throw .architecture(path: input, problems: problems) }
    if let reason = draft.refusal(of: options) { throw .option("\(input): \(reason)") }
    let writer = try draft.writer(output, options, store: options.store)
    var report = ConversionReport(notes: draft.notes)
    if draft.source != nil, options.calibration == nil,
      [.int4Small, .int4, .int5].contains(options.type ?? .int4)
    {
      report.notes.append(
        "not calibrated: with --calibrate TEXT, or auto for a text by the model itself, about half as much is lost"
      )
    }
    let copyBytes = draft.tensors.reduce(0) { $0 + 2 * $1.plan.rows * $1.plan.columns }
    let isCheap = options.calibration != nil || copyBytes <= Self.largestMeasuredCopy
    let isGated = options.maximumKL != nil || options.minimumAgreeingTokens != nil
    var measures = isGated || options.measuresLoss ?? isCheap
    if options.measuresLoss == nil, !measures, draft.source != nil {
      report.notes.append(
        "what was lost is not measured, which takes \(copyBytes >> 20) MiB beside the output for this model: "
          + "--measure does it")
    }
    if measures, !isGated, let reason = draft.reasonNotToMeasure(options) {
      report.notes.append("what was lost is not measured: \(reason)")
      measures = false
    }
    guard draft.source != nil, options.calibration != nil || measures else {
      try draft.write(writer, options, progress: progress)
      do { try writer.finish() } catch { throw .file(error) }
      return report
    }

    let source = try runnable(input, isModelFile: isModelFile, output: output, options, progress)
    var heldOut: [Int] = []
    if let text = options.calibration {
      var tokens: [Int]
      (tokens, heldOut) = try text.tokens(source, threads: options.threads) { !progress(0) }
      if tokens.count < Calibration.leastTokens {
        report.notes.append(
          "the calibration text has \(tokens.count) tokens; with fewer than \(Calibration.leastTokens) the rounding "
            + "fits the text more than the model")
      }
      let calibration = Calibration(model: source, tokens: tokens, threads: max(1, options.threads))
      try calibration.run(draft.quantizer(options), writer, progress: progress)
    } else {
      try draft.write(writer, options, progress: progress)
    }
    if measures {
      do { try writer.complete() } catch { throw .file(error) }
      let isBuiltIn = heldOut.count < 256
      if isBuiltIn { heldOut = try source.tokens(of: Array(CalibrationText.builtIn.utf8)) }
      let (found, answers) = try loss(source, writer, heldOut, output: output, options, progress)
      (report.loss, report.answers) = (found, answers)
      let nats = found.whole.referenceNats * Double(found.whole.tokens)
      report.isTextStrange = isBuiltIn && nats > 2 * Double(CalibrationText.builtIn.utf8.count)
    }
    do { try writer.finish() } catch { throw .file(error) }
    return report
  }

  /// Up to this size of the source's 16-bit copy the loss is measured without being asked for [bytes].
  private static let largestMeasuredCopy = 512 << 20

  /// Compares what has been written with its source.
  private static func loss(
    _ source: Model, _ writer: ModelFileWriter, _ tokens: [Int], output: String, _ options: ConversionOptions,
    _ progress: @escaping @Sendable (Double) -> Bool
  ) throws(QuantizationError) -> (Comparison, FreeRunning) {
    let model: Model
    do {
      // Where memory is short, the output passes through it block by block; the source stays in its file.
      model = try Model(path: writer.readablePath, threads: options.threads, memoryLimit: memoryCapacity())
    } catch {
      throw .model(error)
    }
    let loss = try Comparison(source, model, tokens: tokens, threads: options.threads) { _ in progress(1) }
    // Not a number is more than any limit.
    if let limit = options.maximumKL, !(loss.whole.kl <= limit) {
      throw .tooMuchLost(path: output, kl: loss.whole.kl, limit: limit)
    }
    let answers = try FreeRunning(
      source, model, prompts: FreeRunning.prompts(of: tokens, count: 16), length: 64, threads: options.threads
    ) { _ in progress(1) }
    if let least = options.minimumAgreeingTokens, answers.medianAgreeingTokens < least {
      throw .partTooEarly(path: output, agreeing: answers.medianAgreeingTokens, least: least)
    }
    return (loss, answers)
  }

  /// The source as a model that can be run: the file itself, or a copy in 16 bits beside the output.
  private static func runnable(
    _ input: String, isModelFile: Bool, output: String, _ options: ConversionOptions,
    _ progress: @escaping @Sendable (Double) -> Bool
  ) throws(QuantizationError) -> Model {
    var copied = options
    (copied.type, copied.recipe, copied.overwrite) = (.fp16, nil, true)
    var path = input
    var writer: ModelFileWriter?
    // A file of ours may lack the tokenizer that was named, and its metadata may have been changed.
    if !isModelFile || options.tokenizer != .automatic || !options.overrides.isEmpty {
      let draft = try Draft(input, copied, progress)
      let copy = try draft.writer(output + ".source", copied, store: true)
      try draft.write(copy, copied) { _ in progress(0) }
      do { try copy.complete() } catch { throw .file(error) }
      (path, writer) = (copy.readablePath, copy)
    }
    defer { withExtendedLifetime(writer) {} }
    do { return try Model(path: path, threads: options.threads) } catch { throw .model(error) }
  }
}

/// The output before it is written: metadata and tensors in file order.
private struct Draft {
  var metadata: Metadata
  var tensors: [PlannedTensor] = []
  let source: (any WeightSource)?
  /// The files that hold a checkpoint's tensors.
  private(set) var files: [String] = []
  /// The vocabulary in the checkpoint itself.
  private var ownVocabulary: Vocabulary?
  var notes: [String] = []

  /// Makes the draft of any input, with the tokenizer and the metadata that were asked for.
  init(
    _ input: String, _ options: ConversionOptions, _ progress: @escaping @Sendable (Double) -> Bool
  ) throws(QuantizationError) {
    self =
      try hasModelFileMagic(input)
      ? Draft(modelFile: input, options, progress) : Draft(checkpoint: input, options, progress)
    for (key, value) in options.overrides {
      if key.hasPrefix("rwkv.x."), metadata.string("rwkv.version") != "x" {
        throw .option("\(input): not RWKV-X, so there is no '\(key)' to set")
      }
      if key == "rwkv.group_norm_epsilon", metadata.string("rwkv.version") == "4" {
        throw .option("\(input): RWKV-4 has no group norm whose epsilon could be set")
      }
      metadata[key] = value
    }
    metadata["writer"] = .string(options.writer)
    try addTokenizer(options.tokenizer, input: input)
  }

  /// Why what is asked for cannot be done with a model that predicts no text, if it cannot.
  func refusal(of options: ConversionOptions) -> String? {
    guard let kind = metadata.string("rwkv.kind").flatMap(ModelKind.init) else { return nil }
    if options.maximumKL != nil || options.minimumAgreeingTokens != nil {
      return "is a model that predicts no text, and what was lost is measured of models that do"
    }
    return switch (kind, options.calibration) {
    case (.reranker, .some): "is a reranker, which reads no text: there is nothing to calibrate it on"
    case (.embedding, .generated?): "is an embedding model, which writes no text: name one to calibrate it on"
    default: nil
    }
  }

  /// Why no text can be read, if none can.
  func reasonNotToMeasure(_ options: ConversionOptions) -> String? {
    guard metadata["rwkv.kind"] == nil else { return "that is measured of models that predict text" }
    return switch metadata.string("tokenizer.kind").flatMap(TokenizerKind.init) {
    case nil: "there is no tokenizer to read a text with"
    case .vocabulary? where options.calibration == nil:
      "the built-in text is not written in the model's own vocabulary; --calibrate takes one that is"
    default: nil
    }
  }

  func writer(
    _ output: String, _ options: ConversionOptions, store: Bool
  ) throws(QuantizationError) -> ModelFileWriter {
    do {
      return try ModelFileWriter(
        path: output, overwrite: options.overwrite, metadata: metadata, tensors: tensors.map(\.plan),
        store: store)
    } catch {
      throw .file(error)
    }
  }

  /// `threads`: if not those of the options.
  func quantizer(_ options: ConversionOptions, threads: Int? = nil) -> Quantizer {
    let kernels = options.instructionSet.flatMap { rk_kernels_named($0) } ?? rk_kernels_best()
    return Quantizer(
      source: source, tensors: tensors, threads: threads ?? max(1, options.threads), kernels: kernels.pointee)
  }

  /// How many of the wanted threads are used: as many as there is memory for.
  ///
  /// Each holds the weights of a chunk as they are read and in F32, its records in both orders and what compression
  /// makes of them; up to four finished chunks of it, with and without compression, wait for their turn.
  private static func threads(for tensors: [TensorInfo], wanted: Int) throws(QuantizationError) -> Int {
    let (compressor, stack) = (4 << 20, 8 << 20)
    let each = tensors.reduce(0) { most, tensor in
      let records = tensor.records(ofChunk: 0).count
      let values = 4 * records * tensor.rowsPerRecord * tensor.columns
      return max(most, 2 * values + (3 + 4 * 2) * records * tensor.recordBytes + compressor + stack)
    }
    guard let capacity = memoryCapacity() else { return max(1, wanted) }
    let free = capacity - residentMemory()
    guard free >= each else { throw .outOfMemory(needed: each, free: free) }
    return max(1, min(wanted, free / each))
  }

  /// Makes all chunks, each weight the nearest value.
  func write(
    _ writer: ModelFileWriter, _ options: ConversionOptions, progress: @escaping @Sendable (Double) -> Bool
  ) throws(QuantizationError) {
    let threads = try Self.threads(for: writer.tensors, wanted: options.threads)
    try quantizer(options, threads: threads).run(writer, tensors: tensors.indices, progress: progress)
  }

  /// Makes the draft of a checkpoint.
  private init(
    checkpoint path: String, _ options: ConversionOptions, _ progress: @escaping @Sendable (Double) -> Bool
  ) throws(QuantizationError) {
    let checkpoint: Checkpoint
    do throws(CheckpointError) {
      checkpoint = try Checkpoint(
        path: path, fineTuning: options.fineTuning, allowQuantized: options.acceptsQuantized)
    } catch {
      throw .checkpoint(error)
    }
    notes += checkpoint.remarks
    files = checkpoint.files
    let source = CheckpointSource(checkpoint, path: path)
    let type = options.type ?? .int4
    self.source = source
    ownVocabulary = checkpoint.tokenizer
    metadata = Metadata(checkpoint)
    metadata["model.name"] = .string(stem(of: path))
    metadata["quantization.type"] = .string(type.rawValue)
    add(checkpoint.generation)
    tensors = try Self.plan(source, type, options, progress)
  }

  /// Stores what the publisher recommends, as far as it can be followed. None of it begins with `rwkv.`: the model's
  /// identity stays.
  private mutating func add(_ recommended: GenerationConfig) {
    notes += recommended.notes
    for setting in SamplingSetting.allCases where setting != .seed {
      guard let number = recommended.numbers[setting.key] else { continue }
      var options = SamplingOptions()
      guard options.set(setting, number), (try? options.check()) != nil else {
        notes.append("generation_config.json: '\(setting.key)' is \(number), which cannot be: left out")
        continue
      }
      metadata["generation." + setting.key] = .number(number)
    }
    for (index, stop) in recommended.stops.enumerated() {
      metadata["generation.stop.\(index)"] = .string(stop)
    }
  }

  /// Makes the draft of a `.rwkv` file, which is re-packed if no type is given.
  private init(
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
    tensors = try Self.plan(source, type, options, progress)
    if let tokenizer = file["tokenizer"] {
      tensors.append(PlannedTensor(plan: TensorPlan(tokenizer), content: .records(file, tokenizer)))
    }
  }

  /// The weights in the order in which a runtime needs them.
  private static func plan(
    _ source: any WeightSource, _ type: QuantizationType, _ options: ConversionOptions,
    _ progress: @escaping @Sendable (Double) -> Bool
  ) throws(QuantizationError) -> [PlannedTensor] {
    var exactness = [Exactness](repeating: Exactness(), count: source.tensors.count)
    try options.recipe?.check(against: source.tensors)
    let formats = zip(source.tensors, type.formats(of: source.tensors)).map { tensor, format in
      options.inSixteenBits.contains(tensor.name)
        ? .half : options.recipe?.format(of: tensor) ?? format
    }
    let undecided = formats.enumerated().filter { $1 == .half }.map { source.tensors[$0.offset].name }
    if !undecided.isEmpty {
      exactness = try source.exactness(threads: max(1, options.threads), cancelled: { !progress(0) }) {
        undecided.contains($0.name) && !$0.isF16
      }
    }
    let places = source.tensors.map(\.name).placesInFile
    let order = source.tensors.indices.sorted { (places[$0], $0) < (places[$1], $1) }
    return order.map { number in
      let tensor = source.tensors[number]
      return PlannedTensor(
        plan: TensorPlan(
          name: tensor.name, format: formats[number].weightFormat(exactness[number]),
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
    case .automatic, .required:
      // A reranker reads no text.
      guard metadata.string("tokenizer.kind") == nil, metadata.string("rwkv.kind") != "reranker" else {
        return
      }
      var passedOver: [String] = []
      found = TokenizerBlob.found(ownVocabulary, beside: input, rows: rows, passedOver: &passedOver)
      notes += passedOver.map { "not used as its tokenizer: \($0)" }
      if let found {
        notes.append("tokenizer: \(found.origin)")
      } else if choice == .required {
        throw .option("\(input): no tokenizer found beside it; give its vocabulary with --tokenizer")
      } else {
        notes.append(
          "no tokenizer found beside \(input): commands that read or write text will need one; "
            + "give it with --tokenizer FILE")
      }
    }
    guard let found else { return }
    if found.leavesTooMuch(of: rows) {
      notes.append(
        "the tokenizer has text for \(found.vocabularySize) of the model's \(rows) tokens: is it this model's?"
      )
    }
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
