// SPDX-License-Identifier: MIT
import Glibc
import RWKVFormat

/// What a container reader returns: tensors under the file's own names, and what it knows beside them.
struct Container: Sendable {
  /// What people call this kind of file: "safetensors", "PyTorch", …
  var kind: String
  var tensors: [StoredTensor]
  var claims = Claims()
  /// How its names are to be read.
  var dialect = Names.Dialect.common
  /// What stands in a `generation_config.json` beside the tensors.
  var generation = GenerationConfig()
  /// A vocabulary that stands in the file itself.
  var vocabulary: Vocabulary?
  /// Numbers of a trainer's configuration in the file.
  var settings: [String: Double] = [:]
  /// Lists of integers among the tensors of a torch file.
  var lists: [String: [Int]] = [:]
  /// What people should know of how the file was read.
  var remarks: [String] = []

  /// A file by its content, or a directory by the usual names in it.
  init(path: String) throws(CheckpointError) {
    var status = stat()
    guard stat(path, &status) == 0 else {
      throw CheckpointError(.unreadable, file: path, "cannot be opened: " + String(cString: strerror(errno)))
    }
    if status.st_mode & S_IFMT == S_IFDIR {
      try self.init(directory: path)
    } else {
      try self.init(anyOf: path)
    }
    tensors = Names.unwrapped(tensors)
  }

  init(kind: String, tensors: [StoredTensor]) { (self.kind, self.tensors) = (kind, tensors) }

  init(_ content: GGUF.Content) {
    kind = "GGUF"
    (tensors, claims, dialect) = (content.tensors, content.claims, content.dialect)
    vocabulary = content.vocabulary
  }

  /// A file, or all those that it is one of. A downloaded pair of model.safetensors and config.json may be given by the
  /// first's name, a set of shards by any of them or by its index.
  private init(anyOf path: String) throws(CheckpointError) {
    let slash = path.lastIndex(of: "/").map(path.index(after:)) ?? path.startIndex
    let (directory, name) = (String(path[..<slash]), String(path[slash...]))
    if name.hasSuffix(".index.json") {
      try self.init(index: InputFile(path: path), directory: directory)
    } else if let index = Container.index(listing: name, in: directory) {
      try self.init(index: index, directory: directory)
    } else if let shard = ShardName(path) {
      try self.init(shards: shard.paths())
    } else {
      try self.init(file: InputFile(path: path))
      guard CheckpointChoice.wholeFiles.contains(name) else { return }
    }
    try readConfig(directory: directory)
  }

  init(file: InputFile) throws(CheckpointError) {
    let start = try file.bytes(at: 0, count: min(64, file.size))
    switch Array(start.prefix(4)) {
    case Array("PK\u{3}\u{4}".utf8):
      self = try TorchCheckpoint.read(file)
    case RWKVCppFile.magic:
      let (tensors, claims) = try RWKVCppFile.read(file)
      self.init(kind: "rwkv.cpp", tensors: tensors)
      self.claims = claims
    case Array("GGUF".utf8):
      self.init(try GGUF.read([file]))
    default:
      if TorchCheckpoint.isLegacy(start) {
        self = try TorchCheckpoint.readLegacy(file)
        return
      }
      guard start.count > 8, start[8] == UInt8(ascii: "{") else { throw Container.unknown(file, start) }
      self.init(kind: "safetensors", tensors: try Safetensors.read(file))
    }
  }

  private static func unknown(_ file: InputFile, _ start: [UInt8]) -> CheckpointError {
    let advice: String
    if start.starts(with: [0x89, 0x52, 0x57, 0x4B, 0x56]) {
      advice = "This is a finished .rwkv file"
    } else if start.starts(with: [0x80, 0x02]) {
      advice =
        "It looks like a pickle, but neither like torch's own nor like a torch file from before version 1.6; load it "
        + "and save its weights with torch.save"
    } else if start.first == UInt8(ascii: "{") {
      advice = "It looks like JSON; give the directory it lies in"
    } else if start.starts(with: "version https://".utf8) {
      advice = "It is a Git LFS pointer; fetch the file itself"
    } else if start.first == UInt8(ascii: "<") {
      advice = "It looks like a web page, which some sites send in place of a file; get the file itself"
    } else if start.isEmpty {
      advice = "It is empty; get it again"
    } else {
      advice = "Give a .safetensors, .pth, .gguf or rwkv.cpp .bin file, or a directory with one"
    }
    return CheckpointError(.unsupported, file: file.path, "is no checkpoint of a known kind", advice: advice)
  }

  // MARK: Directories

  private init(directory: String, followingLatest: Bool = true) throws(CheckpointError) {
    let directory = directory.hasSuffix("/") ? directory : directory + "/"
    let names = Container.names(in: directory)
    let choice = CheckpointChoice(names: names)
    if followingLatest, !choice.isUsual, let step = try Container.latest(in: directory, names, choice) {
      try self.init(directory: directory + step, followingLatest: false)
      try readConfig(directory: directory)
      return
    }
    switch choice {
    case .index(let name): try self.init(index: InputFile(path: directory + name), directory: directory)
    case .file(let name):
      if let shard = ShardName(directory + name) {
        try self.init(shards: shard.paths())
      } else {
        try self.init(file: InputFile(path: directory + name))
      }
    case .several(let names): throw Container.ambiguous(directory, names)
    case .none: throw Container.ambiguous(directory, [])
    }
    try readConfig(directory: directory)
  }

  /// The folder of DeepSpeed's newest step, which the file `latest` beside it names; nil: there is none. It must be
  /// there where no other choice is.
  private static func latest(
    in directory: String, _ names: [String], _ choice: CheckpointChoice
  ) throws(CheckpointError) -> String? {
    guard names.contains("latest"), let file = try? InputFile(path: directory + "latest"),
      let bytes = try? file.bytes(at: 0, count: min(file.size, 256))
    else { return nil }
    let step = String(decoding: bytes.filter { $0 > 32 }, as: UTF8.self)
    var status = stat()
    guard names.contains(step), ![".", ".."].contains(step), stat(directory + step, &status) == 0,
      status.st_mode & S_IFMT == S_IFDIR
    else {
      guard choice == .none else { return nil }
      throw CheckpointError(
        .unreadable, file: file.path, "names a folder that is not beside it", found: quoted(step))
    }
    return step
  }

  private static func ambiguous(_ directory: String, _ names: [String]) -> CheckpointError {
    CheckpointError(
      .unreadable, file: directory, "holds \(names.isEmpty ? "no" : "several") checkpoints",
      found: names.isEmpty ? nil : names.sorted().prefix(5).map(quoted).joined(separator: ", "),
      expected: "model.safetensors, pytorch_model.bin or an index of shards", advice: "Give the file itself")
  }

  static func names(in directory: String) -> [String] {
    var names: [String] = []
    guard let stream = opendir(directory) else { return names }
    defer { closedir(stream) }
    while let entry = readdir(stream) {
      names.append(
        withUnsafePointer(to: &entry.pointee.d_name) {
          $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
        })
    }
    return names
  }

  /// Shards: `weight_map` names the file of every tensor. Both sides must agree exactly.
  private init(index: InputFile, directory: String) throws(CheckpointError) {
    let json = try index.config(limit: 64 << 20)
    guard case .object(let map, _)? = json["weight_map"], !map.isEmpty else {
      throw index.malformed("has no weight_map")
    }
    var remaining: [String: String] = [:]
    for (tensor, value) in map {
      guard let written = value.string,
        case let file = written.hasPrefix("./") ? String(written.dropFirst(2)) : written,
        !file.isEmpty, file.utf8.count <= 255,
        !file.contains("/"), !file.contains("\\"), !file.holds(".."), !file.utf8.contains(0)
      else { throw index.malformed("names a file outside its directory", tensor: tensor) }
      remaining[tensor] = file
    }
    let files = Set(remaining.values).sorted()
    guard files.count <= 1024 else { throw index.malformed("names too many files") }
    try requireFiles(files, in: directory, of: index.path)
    kind = "shards"
    tensors = []
    for name in files {
      let shard = try Container(file: InputFile(path: directory + name))
      for tensor in shard.tensors {
        guard remaining.removeValue(forKey: tensor.name) == name else {
          throw index.malformed("does not list a tensor of \(name)", tensor: tensor.name)
        }
      }
      tensors += shard.tensors
      remarks += shard.remarks.filter { !remarks.contains($0) }
      kind = "\(files.count) \(shard.kind) shards"
    }
    if let tensor = remaining.keys.min() {
      throw index.malformed("lists a tensor that its shard lacks", tensor: tensor)
    }
  }

  /// Files that describe themselves need no config.json.
  private mutating func readConfig(directory: String) throws(CheckpointError) {
    let recommended = directory + "generation_config.json"
    if access(recommended, F_OK) == 0 { generation = GenerationConfig(path: recommended) }
    guard claims.origin.isEmpty, access(directory + "config.json", F_OK) == 0 else { return }
    let file = try InputFile(path: directory + "config.json")
    claims = try Claims(config: file.config(), file: file.path)
  }
}

/// Which of a folder's files is its checkpoint: the usual name, or the only file with a checkpoint's extension.
package enum CheckpointChoice: Equatable {
  case index(String)
  /// A file, or any of its shards.
  case file(String)
  case several([String])
  case none

  /// Chosen by a name that is a checkpoint's and nothing else's.
  var isUsual: Bool {
    switch self {
    case .index: true
    case .file(let name): Self.wholeFiles.contains(name)
    case .several, .none: false
    }
  }

  static let wholeFiles = ["model.safetensors", "pytorch_model.bin", "mp_rank_00_model_states.pt"]

  package init(names: [String]) {
    let indices = names.filter { $0.hasSuffix(".index.json") }
    let usual = Self.wholeFiles.map { $0 + ".index.json" }.first(where: indices.contains)
    if let name = usual ?? (indices.count == 1 ? indices[0] : nil) {
      self = .index(name)
      return
    }
    if let name = Self.wholeFiles.first(where: names.contains) {
      self = .file(name)
      return
    }
    var found = names.filter { name in
      [".safetensors", ".pth", ".gguf"].contains(where: name.hasSuffix)
        || ShardName(name) != nil && [".bin", ".pt", ".st"].contains(where: name.hasSuffix)
    }
    if found.isEmpty {
      // Of trainers and converters.
      found = names.filter { name in [".ckpt", ".pt", ".st"].contains(where: name.hasSuffix) }
    }
    let set = found.first.flatMap { ShardName($0) }
    switch found.count {
    case 0: self = .none
    case 1: self = .file(found[0])
    default:
      self = set != nil && found.allSatisfy { ShardName($0) == set } ? .file(found[0]) : .several(found)
    }
  }
}
