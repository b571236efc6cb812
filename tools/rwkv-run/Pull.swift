// SPDX-License-Identifier: MIT
import ArgumentParser
import Glibc
import RWKVFormat
import RWKVQuantization
import Remote
import Terminal

struct Pull: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Gets a model over the network and keeps it under a name.",
    discussion: """
      Without a name: the models to choose from, and which of them this machine can run. Any other checkpoint is \
      given by its place on huggingface.co.

      It is read while it is converted, so that nothing but the model needs room. With --download it is fetched first, \
      and a pull that was broken off goes on where it was. Models are kept in \
      ~/.local/share/rwkv ($XDG_DATA_HOME/rwkv, or $RWKV_MODELS); 'rwkv-run list' shows them, 'rwkv-run rm' removes \
      them.

      EXAMPLES
        rwkv-run pull
        rwkv-run pull rwkv7-0.4b
        rwkv-run pull hf:RWKV/RWKV7-1.5B-20260805 --type int5
        rwkv-run pull hf:OWNER/REPO/model.pth --tokenizer rwkv_vocab_v20230424.txt --name mine
        rwkv-run chat rwkv7-0.4b
      """)

  @Argument(
    help: ArgumentHelp(
      "A name from the list, or hf:OWNER/REPO[/PATH][@REVISION].", valueName: "name"),
    completion: .list(RecommendedModel.all.map(\.name)))
  var name: String?

  @Option(help: "int4-small, int4, int5, int8, fp16 or fp32 (default: int4, for the smallest model int8).")
  var type: String?

  @Option(
    name: .customLong("name"),
    help: ArgumentHelp("What to call it (default: as its file or its repository).", valueName: "name"))
  var ownName: String?

  @Option(
    help: ArgumentHelp(
      "The model's vocabulary, where it is not beside the checkpoint: a file, hf:OWNER/REPO/FILE, or a URL.",
      valueName: "file"), completion: .file())
  var tokenizer: String?

  @OptionGroup var threads: ThreadOptions

  @Flag(
    help: """
      Fetch the checkpoint before it is converted: the same command goes on where it was broken off. Takes room for \
      both; the checkpoint is removed in the end.
      """)
  var download = false

  @Flag(help: "Get it anew if there is one of this name.")
  var force = false

  @Flag(help: "Allow http:// beyond this machine, and redirections to it.")
  var insecure = false

  func validate() throws {
    if let type, QuantizationType(anyName: type) == nil {
      let types = QuantizationType.allCases.map(\.rawValue).joined(separator: ", ")
      throw ValidationError("--type is one of \(types).")
    }
    if let ownName, !ModelDirectory.isName(ownName) {
      throw ValidationError("--name is the name of a file, without a folder.")
    }
  }

  func run() throws {
    guard let name else { return output(Self.choice()) }
    catchInterrupts()
    try reporting("rwkv-run") {
      var model = try Self.source(name)
      if let ownName { model.name = ownName }
      guard ModelDirectory.isName(model.name) else {
        throw CommandError("\(model.name): no name for a model; choose one with --name")
      }
      let target = ModelDirectory.file(named: model.name)
      if !force, access(target, F_OK) == 0 {
        throw CommandError(
          "\(model.name) is there already: rwkv-run chat \(shellQuoted(model.name)); --force gets it anew, "
            + "--name NAME another one beside it")
      }
      try Self.makeFolder(ModelDirectory.path)
      try requireWritable(target, besides: [])
      try convert(model, to: target)
      let bytes = size(ModelSummary(try ModelFile(path: target)).fileBytes)
      note("\(model.name): \(bytes), \(target)\nTalk to it: rwkv-run chat \(shellQuoted(model.name))")
    }
  }

  /// What a name stands for.
  private struct Source {
    var name: String
    var checkpoint: String
    var vocabulary: String?
    var type: String?
  }

  private static func source(_ name: String) throws -> Source {
    if let known = RecommendedModel.all.first(where: { $0.name == name }) {
      return Source(
        name: name, checkpoint: known.checkpoint, vocabulary: known.vocabulary, type: known.type)
    }
    guard let place = HubPlace(name) else {
      throw CommandError(
        "\(shownAddress(name)): neither hf:OWNER/REPO[/FILE], nor its page on the hub, nor one of the models to choose "
          + "from:\n\n" + choice())
    }
    return Source(name: place.name, checkpoint: name)
  }

  private func convert(_ model: Source, to target: String) throws {
    var options = ConversionOptions()
    options.type = (type ?? model.type).flatMap { QuantizationType(anyName: $0) }
    options.measuresLoss = false
    options.threads = threads.count
    options.overwrite = force
    options.writer = "rwkv-run \(version)"
    let named = tokenizer ?? model.vocabulary
    options.tokenizer = named.map { TokenizerChoice(named: $0) } ?? .required
    let vocabulary = try named.flatMap {
      try RemoteInput.isRemote($0) ? RemoteInput($0, isInsecure: insecure) : nil
    }
    if let vocabulary { options.tokenizer = .file(vocabulary.path) }
    let input = try RemoteInput(model.checkpoint, isInsecure: insecure)
    let progress = ProgressLine()
    defer { progress.clear() }
    if download {
      try input.keep(in: target + ModelDirectory.download, progress: progress)
      progress.clear()
    } else {
      note(RemoteInput.note)
    }
    let inputs = [input, vocabulary].compactMap { $0 }
    let report = try RemoteInput.naming(inputs) {
      try Conversion.convert(input.path, to: target, options) { share in
        progress.update(download ? "converting" : "getting \(model.name)", share)
        return !isInterrupted
      }
    }
    progress.clear()
    input.discard()
    for text in report.notes { note(RemoteInput.renamed(text, inputs)) }
  }

  /// The recommended models, with what this machine can do.
  private static func choice() -> String {
    let memory = memoryCapacity()
    let rows = RecommendedModel.all.map { model in
      let fits = memory.map { model.memoryBytes <= $0 } ?? true
      return [
        model.name, size(model.downloadBytes), size(model.memoryBytes),
        fits ? "runs here" : "slow here: too little memory",
      ]
    }
    return
      (table([["name", "to read", "memory", ""]] + rows) + ["", "rwkv-run pull NAME gets one of them."])
      .map { String($0.reversed().drop { $0 == " " }.reversed()) }.joined(separator: "\n")
  }

  private static func makeFolder(_ path: String) throws {
    var made = path.hasPrefix("/") ? "" : "."
    for part in path.split(separator: "/") {
      made += "/" + part
      guard mkdir(made, 0o755) != 0 else { continue }
      let code = errno
      guard code == EEXIST || access(made, F_OK) == 0 else {
        throw CommandError("\(made): \(String(cString: strerror(code)))")
      }
    }
  }
}

struct List: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Lists the models that are known by name.",
    discussion: """
      EXAMPLES
        rwkv-run list
        rwkv-run list --json
      """)

  @Flag(name: .customLong("json"), help: "One JSON object per model on stdout.")
  var asJSON = false

  func run() throws {
    try reporting("rwkv-run") {
      let models = ModelDirectory.names.map { name in
        (name, summary: try? ModelSummary(ModelFile(path: ModelDirectory.file(named: name))))
      }
      if asJSON { return models.forEach { output("\(Self.object($0, $1))") } }
      let rows = models.map { name, summary in
        [
          name, summary.map { "RWKV-\($0.version.uppercased())" } ?? "damaged",
          summary.map { size($0.fileBytes) } ?? "",
        ]
      }
      if !rows.isEmpty { output(table(rows, leftAligned: 2).joined(separator: "\n")) }
      if rows.isEmpty { note("no models in \(ModelDirectory.path); rwkv-run pull gets one") }
      for name in ModelDirectory.begun {
        note("\(name): a download that has not ended; pull --download goes on with it, rm removes it")
      }
    }
  }

  private static func object(_ name: String, _ summary: ModelSummary?) -> JSON {
    .object([
      ("name", .string(name)), ("path", .string(ModelDirectory.file(named: name))),
      ("version", summary.map { .string($0.version) } ?? .null),
      ("file_bytes", summary.map { .integer($0.fileBytes) } ?? .null),
    ])
  }
}

struct Remove: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "rm", abstract: "Removes models that are known by name.",
    discussion: """
      EXAMPLES
        rwkv-run rm rwkv7-0.4b
      """)

  @Argument(
    help: "Names, as rwkv-run list has them.",
    completion: .custom { _, _, _ in
      // Bash reads them as words of a command.
      ModelDirectory.names.map { CompletionShell.requesting == .bash ? shellQuoted($0) : $0 }
    })
  var names: [String]

  func run() throws {
    try reporting("rwkv-run") {
      for name in names {
        guard ModelDirectory.isName(name), (ModelDirectory.names + ModelDirectory.begun).contains(name) else {
          let there = ModelDirectory.names.joined(separator: ", ")
          throw CommandError("\(name): no such model" + (there.isEmpty ? "" : "; there are \(there)"))
        }
      }
      for name in names {
        let path = ModelDirectory.file(named: name)
        if ModelDirectory.begun.contains(name) {
          RemoteInput.remove(path + ModelDirectory.download)
          note("removed: \(path)\(ModelDirectory.download)")
        }
        guard ModelDirectory.names.contains(name) else { continue }
        guard unlink(path) == 0 else { throw CommandError("\(path): \(String(cString: strerror(errno)))") }
        note("removed: \(path)")
      }
    }
  }
}

extension ModelDirectory {
  /// The end of the name of a folder in which `pull --download` keeps what has come of a checkpoint.
  fileprivate static let download = ".download"

  /// The names of the models whose download has begun and not ended.
  fileprivate static var begun: [String] {
    contents(ofFolder: path).filter { $0.hasSuffix(".rwkv" + download) }.map {
      String($0.dropLast((".rwkv" + download).utf8.count))
    }
  }
}
