// SPDX-License-Identifier: MIT
import Glibc
import RWKVFormat

/// The name of a file that is one of several, as every writer numbers them: `model-00001-of-00003.safetensors`.
struct ShardName: Equatable {
  /// The folder of the shards, with its slash; empty for the working directory.
  let directory: String
  private let prefix: String
  private let suffix: String
  private let width: Int
  let count: Int

  /// nil: the name has no such number, or is the only one.
  init?(_ path: String) {
    let slash = path.lastIndex(of: "/").map(path.index(after:)) ?? path.startIndex
    directory = String(path[..<slash])
    let parts = path[slash...].split(separator: "-", omittingEmptySubsequences: false)
    guard parts.count >= 4, parts[parts.count - 2] == "of" else { return nil }
    let (number, last) = (parts[parts.count - 3], parts[parts.count - 1])
    let digits = last.prefix { ("0"..."9").contains($0) }
    guard (1...9).contains(number.utf8.count), number.allSatisfy({ ("0"..."9").contains($0) }),
      let count = Int(digits), (2...1024).contains(count), last.dropFirst(digits.count).first == "."
    else { return nil }
    self.count = count
    width = number.utf8.count
    prefix = parts.dropLast(3).joined(separator: "-") + "-"
    suffix = "-of-" + last
  }

  private func name(_ number: Int) -> String {
    let digits = String(number)
    return prefix + String(repeating: "0", count: max(0, width - digits.utf8.count)) + digits + suffix
  }

  /// The paths of all, in order. Some writers count from 0.
  func paths() throws(CheckpointError) -> [String] {
    func isThere(_ number: Int) -> Bool { access(directory + name(number), F_OK) == 0 }
    let numbers = isThere(0) && !isThere(count) ? 0...count - 1 : 1...count
    try requireFiles(numbers.map(name), in: directory, of: "\(directory)\(prefix)…\(suffix)")
    return numbers.map { directory + name($0) }
  }
}

/// Throws, naming them, unless all files are there.
func requireFiles(_ names: [String], in directory: String, of set: String) throws(CheckpointError) {
  let missing = names.filter { access(directory + $0, F_OK) != 0 }
  guard !missing.isEmpty else { return }
  let shown = missing.prefix(8).map(quoted).joined(separator: ", ") + (missing.count > 8 ? ", …" : "")
  throw CheckpointError(
    .unreadable, file: set, "is a checkpoint in \(names.count) files, of which \(missing.count) are missing",
    found: "no " + shown, advice: "Get them into the same folder")
}

extension Container {
  /// Shards without an index: every tensor is in one of them.
  init(shards paths: [String]) throws(CheckpointError) {
    var files: [InputFile] = []
    for path in paths { files.append(try InputFile(path: path)) }
    if try files[0].bytes(at: 0, count: min(4, files[0].size)) == Array("GGUF".utf8) {
      self.init(try GGUF.read(files))
    } else {
      self.init(kind: "shards", tensors: [])
      for file in files {
        let shard = try Container(file: file)
        tensors += shard.tensors
        kind = "\(files.count) \(shard.kind) shards"
      }
    }
  }

  /// The index in `directory` that lists this file; nil: there is none.
  static func index(listing name: String, in directory: String) -> InputFile? {
    for index in names(in: directory.isEmpty ? "." : directory).sorted() where index.hasSuffix(".index.json")
    {
      if let file = try? InputFile(path: directory + index),
        let json = try? file.config(limit: 64 << 20),
        case .object(let map, _)? = json["weight_map"],
        map.values.contains(.string(name)) || map.values.contains(.string("./" + name))
      {
        return file
      }
    }
    return nil
  }
}
