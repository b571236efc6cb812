// SPDX-License-Identifier: MIT
public import ArgumentParser
import Glibc
import RWKVFormat
import RWKVCheckpoint
import Remote
public import RWKVQuantization
import Terminal

/// What --type says: our types, or another program's, which mean ours of as many bits.
struct TypeArgument: ExpressibleByArgument {
  let type: QuantizationType
  /// The type as it was typed.
  let name: String

  init?(argument: String) {
    guard let type = QuantizationType(anyName: argument) else { return nil }
    (self.type, name) = (type, argument)
  }

  static var allValueStrings: [String] { QuantizationType.allCases.map(\.rawValue) }
  static var defaultCompletionKind: CompletionKind { .list(allValueStrings) }

  /// What is said where the name is another program's.
  var remark: String? {
    name.lowercased() == type.rawValue
      ? nil : "\(name) is a type of another format; this one's of as many bits is \(type.rawValue)"
  }
}

struct Convert: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Converts INPUT to OUTPUT (what happens without the name of a command).",
    discussion: RWKVQuantize.configuration.discussion)

  @Argument(
    help: """
      A .safetensors, .pth, .bin or .gguf file, a directory with shards, or a .rwkv file; or \
      hf:OWNER/REPO[/PATH][@REVISION] or https://…, which are read while they are converted.
      """,
    completion: .file())
  var input: String

  @Argument(help: "The .rwkv file to write.", completion: .file(extensions: ["rwkv"]))
  var output: String

  @Option(
    help: "int4-small, int4, int5, int8, fp16 or fp32 (default: int4; a .rwkv file is re-packed as it is).")
  var type: TypeArgument?

  @Option(
    help: "A file with lines 'pattern format' for tensors about which --type is not to decide.",
    completion: .file())
  var recipe: String?

  @Option(
    help: "A text like those to be read, on which rounding is calibrated; 'auto' lets the model write it.",
    completion: .file())
  var calibrate: String?

  @Option(help: "Write nothing if more is lost: KL of the output against the input, nats per token.")
  var maxKl: Double?

  @Option(
    help: "Write nothing if answers part earlier: the median of the first of 64 tokens that are the input's.")
  var minAgreeingTokens: Double?

  @Flag(
    inversion: .prefixedNo,
    help: "Measure what was lost (default: for small models, and with --calibrate or a limit).")
  var measure: Bool?

  @Option(
    help:
      "A vocabulary or tokenizer.json, also hf:… or https://…, or 'bytes' (default: what is found beside INPUT).",
    completion: .file())
  var tokenizer: String?

  @Flag(help: "Compress nothing, so that the file can be used in place.")
  var store = false

  @OptionGroup var threads: ThreadOptions

  @Flag(help: "Overwrite OUTPUT if it exists.")
  var force = false

  @Flag(name: .customLong("json"), help: "One JSON object on stdout when done.")
  var asJSON = false

  @Option(help: "Epsilon of the group norm (default: the checkpoint's, or 64e-5).")
  var groupNormEps: Double?

  @Flag(
    help: """
      Keep what is read over the network, in OUTPUT.download: --calibrate, --measure and limits read the weights \
      twice. What an interrupted run has fetched is not fetched again.
      """)
  var download = false

  @Flag(help: "Allow http:// beyond this machine, and redirections to it.")
  var insecure = false

  @Flag(help: "Accept weights that are quantized already (ggml's Q4_0, Q4_K, …), to whose errors this adds.")
  var allowQuantized = false

  /// A type, where other programs have it; nothing else belongs here.
  @Argument(help: .hidden) var rest: [String] = []

  @OptionGroup(title: "Fine-tuning") var tuning: TuningOptions

  @OptionGroup(title: "Attention of RWKV-X, which no checkpoint describes") var attention: AttentionOptions

  func validate() throws {
    if let maxKl, !(maxKl >= 0) { throw ValidationError("--max-kl must not be negative.") }
    if let minAgreeingTokens, !(0...64 ~= minAgreeingTokens) {
      throw ValidationError("--min-agreeing-tokens must be between 0 and 64.")
    }
    for (name, limit) in [("max-kl", maxKl), ("min-agreeing-tokens", minAgreeingTokens)]
    where measure == false && limit != nil {
      throw ValidationError("--\(name) needs what --no-measure leaves out.")
    }
    if let groupNormEps, !(groupNormEps > 0 && groupNormEps < 1) {
      throw ValidationError("--group-norm-eps must be between 0 and 1.")
    }
  }

  /// The type that was asked for. This is not checked in `validate`, so that the parser names unknown options first.
  private func chosenType() throws -> TypeArgument? {
    try requireNoCommand(input, of: RWKVQuantize.configuration.subcommands)
    guard let word = rest.first else { return type }
    guard rest.count == 1, type == nil, let type = TypeArgument(argument: word) else {
      let types = TypeArgument.allValueStrings.joined(separator: ", ")
      throw ValidationError("'\(word)' is one argument too many; types are given with --type: \(types).")
    }
    return type
  }

  func run() throws {
    let type = try chosenType()
    try reporting {
      try checkPaths()
      if let remark = type?.remark { note(remark) }
      var options = ConversionOptions()
      options.type = type?.type
      options.recipe = try recipe.map {
        try Recipe(String(decoding: readFile($0), as: UTF8.self), path: $0)
      }
      options.calibration = try calibrate.map { $0 == "auto" ? .generated : .bytes(try readFile($0)) }
      // 16 bits are what the source is run with: there would be nothing to see.
      options.measuresLoss = type?.type == .fp32 || type?.type == .fp16 ? false : measure
      options.maximumKL = maxKl
      options.minimumAgreeingTokens = minAgreeingTokens
      options.tokenizer = TokenizerChoice(named: tokenizer)
      options.store = store
      options.threads = threads.count
      options.overwrite = force
      options.writer = "rwkv-quantize \(version)"
      options.overrides = attention.metadata
      options.acceptsQuantized = allowQuantized
      options.fineTuning = tuning.files
      if let groupNormEps { options.overrides.append(("rwkv.group_norm_epsilon", .number(groupNormEps))) }

      let start = now()
      let progress = ProgressLine()
      defer { progress.clear() }
      let remote = try RemoteInput.isRemote(input) ? openRemote(&options, progress) : nil
      let vocabulary = try tokenizer.flatMap {
        try RemoteInput.isRemote($0) ? RemoteInput($0, isInsecure: insecure) : nil
      }
      if let vocabulary { options.tokenizer = .file(vocabulary.path) }
      let inputs = [remote, vocabulary].compactMap { $0 }
      let report = try RemoteInput.naming(inputs) {
        try Conversion.convert(
          remote?.path ?? input, to: output, options, progress: progress.callback("converting"))
      }
      progress.clear()
      for text in report.notes { note(RemoteInput.renamed(text, inputs)) }
      show(ModelSummary(try ModelFile(path: output)), report, seconds: now() - start)
    }
  }

  /// What is not on this machine is read once, unless it is kept.
  private func openRemote(_ options: inout ConversionOptions, _ progress: ProgressLine) throws -> RemoteInput
  {
    let isReadOnce = calibrate == nil && maxKl == nil && minAgreeingTokens == nil && measure != true
    guard download || isReadOnce else {
      throw CommandError(
        "--calibrate, --measure, --max-kl and --min-agreeing-tokens read the weights twice: add --download, which "
          + "keeps \(input) beside the output"
      )
    }
    let remote = try RemoteInput(input, isInsecure: insecure)
    guard download else {
      options.measuresLoss = false
      note(RemoteInput.note)
      return remote
    }
    try remote.keep(in: output + ".download", progress: progress)
    progress.clear()
    note("kept: \(output).download, which is not needed when the conversion is done")
    return remote
  }

  private func checkPaths() throws {
    let isRemote = RemoteInput.isRemote(input)
    if !isRemote, isLikelyRepository {
      throw CommandError("\(input): no such file; if it is a repository of the hub, write hf:\(input)")
    }
    if !isRemote, access(input, F_OK) != 0, access(output, F_OK) == 0 {
      throw CommandError(
        "\(input): no such file. The checkpoint comes first: rwkv-quantize \(shellQuoted(output)) \(shellQuoted(input))"
      )
    }
    let ending = output.split(separator: "/").last?.split(separator: ".").last.map(String.init) ?? ""
    if foreignEndings.contains(ending) {
      let ours = String(output.dropLast(ending.count)) + "rwkv"
      throw ValidationError(
        "What is written is a .rwkv file, which is no .\(ending) for other programs; type: "
          + "rwkv-quantize \(shellQuoted(input)) \(shellQuoted(ours))")
    }
    if !isRemote { try requireFile(input) }
    if download, !isRemote { throw ValidationError("--download is for hf: and https:// inputs.") }
    try requireWritable(
      output, besides: [input, recipe, calibrate, tokenizer, tuning.lora, tuning.pissa, tuning.timeState])
    if !force, access(output, F_OK) == 0 {
      throw CommandError("\(output): exists already; choose another name, or --force to overwrite it")
    }
  }

  /// Whether the checkpoint is written as OWNER/REPO, where there is no folder OWNER.
  private var isLikelyRepository: Bool {
    let parts = input.split(separator: "/", omittingEmptySubsequences: false).map(String.init)
    return parts.count == 2 && !parts[0].isEmpty && !parts[1].isEmpty && access(parts[0], F_OK) != 0
      && HubPlace("hf:" + input) != nil
  }

  private func show(_ summary: ModelSummary, _ report: ConversionReport, seconds: Double) {
    let loss = report.loss
    if let loss { note(report.isTextStrange ? loss.sentenceWithoutVerdict : loss.sentence) }
    if let answers = report.answers { note(answers.sentence) }
    // Last, so that success is what is read last.
    note(
      "written: \(output): \(summary.title), \(size(summary.fileBytes)), "
        + "\(decimal(summary.bitsPerWeight, 2)) bits per weight, "
        + "\(decimal(seconds, 1)) s")
    if asJSON {
      let fields = loss.map { $0.fields + (report.answers?.fields ?? []) }
      let more =
        [("seconds", JSON.number(seconds, decimals: 3))] + (fields.map { [("loss", .object($0))] } ?? [])
      Terminal.output("\(summary.json(path: output, more: more))")
    }
  }
}

/// Files of fine-tuning that are merged into the checkpoint.
struct TuningOptions: ParsableArguments {
  @Option(help: "A LoRA to merge: a file, which needs --lora-alpha, or a PEFT folder.", completion: .file())
  var lora: String?

  @Option(
    help: "Of a PiSSA: the file with its initial factors (init_pissa.pth); --lora is the trained one.",
    completion: .file())
  var pissa: String?

  @Option(help: "The lora_alpha of its training: the sum is W + alpha / rank · B A.")
  var loraAlpha: Double?

  @Option(
    name: .customLong("state"),
    help: "A state-tuned file (blocks.N.att.time_state): what the model remembers at the start.",
    completion: .file())
  var timeState: String?

  func validate() throws {
    if lora == nil, loraAlpha != nil {
      throw ValidationError("--lora-alpha goes with --lora.")
    }
    if pissa != nil, lora == nil { throw ValidationError("--pissa goes with --lora, the trained factors.") }
    if pissa != nil, loraAlpha != nil {
      throw ValidationError("--pissa goes without --lora-alpha: its factors are not scaled.")
    }
    if let loraAlpha, !loraAlpha.isFinite { throw ValidationError("--lora-alpha must be a number.") }
  }

  var files: FineTuning {
    FineTuning(
      state: timeState,
      lora: lora.map { FineTuning.LoRA(path: $0, alpha: loraAlpha, initial: pissa) })
  }
}

/// Hyper-parameters of RWKV-X.
struct AttentionOptions: ParsableArguments {
  enum Mode: String, ExpressibleByArgument, CaseIterable { case sparse, full }

  @Option(help: "Tokens of a chunk (2048).")
  var mobaChunkSize: Int?

  @Option(help: "Chunks that a token attends to (3).")
  var mobaTopk: Int?

  @Option(help: "Cached tokens above which the cache is compressed; 0: never (20000).")
  var maxKvCache: Int?

  @Option(help: "Cached tokens that compression leaves (16000).")
  var minKvCache: Int?

  @Option(help: "Latest tokens that compression keeps (2000).")
  var kvWindow: Int?

  @Option(help: "sparse or full (sparse).")
  var mobaMode: Mode?

  func validate() throws {
    for (name, value, least) in [
      ("moba-chunk-size", mobaChunkSize, 1), ("moba-topk", mobaTopk, 1), ("max-kv-cache", maxKvCache, 0),
      ("min-kv-cache", minKvCache, 1), ("kv-window", kvWindow, 1),
    ] {
      if let value, !(least...1 << 24).contains(value) {
        throw ValidationError("--\(name) must be from \(least) to 2^24.")
      }
    }
  }

  var metadata: [(key: String, value: MetadataValue)] {
    let numbers = [
      ("chunk_size", mobaChunkSize), ("top_k", mobaTopk), ("max_kv_cache", maxKvCache),
      ("min_kv_cache", minKvCache), ("kv_window", kvWindow),
    ]
    var metadata: [(key: String, value: MetadataValue)] = numbers.compactMap { (key, value) in
      value.map { ("rwkv.x.\(key)", .integer(Int64($0))) }
    }
    if let mobaMode { metadata.append(("rwkv.x.mode", .string(mobaMode.rawValue))) }
    return metadata
  }
}
