// SPDX-License-Identifier: MIT
package import ArgumentParser
import Glibc
import RWKVFormat

/// Refuses a path where there is nothing, with names beside it that its writer may have meant.
/// - Parameter ending: of files that are worth naming if no name is near.
package func requireFile(_ path: String, ending: String? = nil) throws {
  guard access(path, F_OK) != 0, errno == ENOENT || errno == ENOTDIR else { return }
  throw CommandError("\(path): no such file\(suggestion(for: path, ending: ending))")
}

/// Refuses a path where no file can be written, before the work of which it is to hold the result.
/// - Parameter inputs: files and folders that the work reads: none of them, and nothing in them but older .rwkv
///   files, is written over.
package func requireWritable(_ path: String, besides inputs: [String?]) throws {
  let target: String
  do {
    guard case .file(let file) = try OutputFile.destination(path) else { return }
    target = file
  } catch {
    throw error.inFile(path)
  }
  let folder = target.lastIndex(of: "/").map { String(target[...$0]) } ?? "."
  guard access(folder, W_OK) == 0 else {
    throw CommandError("\(path): \(String(cString: strerror(errno)))")
  }
  if OutputFile.isInput(target, inputs.compactMap { $0 }) || OutputFile.isStandardInput(target) {
    throw CommandError(
      "\(path): this file is read by the same command; choose another name for what is written")
  }
}

extension Argument where Value == String {
  /// A model: a file, or the name of one in the folder of models.
  package init(model help: ArgumentHelp) {
    self.init(help: help, completion: .file(extensions: ["rwkv"]), transform: ModelDirectory.resolve)
  }
}

/// ": did you mean …?"
private func suggestion(for path: String, ending: String?) -> String {
  let slash = path.lastIndex(of: "/")
  let folder = slash.map { String(path[...$0]) } ?? ""
  let name = String(slash.map { path[path.index(after: $0)...] } ?? path[...])
  let names = contents(ofFolder: folder.isEmpty ? "." : folder)
  let near = nearest(to: name, among: names)
  let meant = near.isEmpty ? names.filter { name in ending.map(name.hasSuffix) ?? false } : near
  let quoted = meant.prefix(3).map { shellQuoted(folder + $0) }
  return quoted.isEmpty ? "" : "; did you mean \(quoted.joined(separator: " or "))?"
}

/// Those of `names` that a typing mistake makes into `name`, the nearest first.
private func nearest(to name: String, among names: [String]) -> [String] {
  let letters = Array(name.lowercased())
  return names.map { ($0, distance(Array($0.lowercased()), letters)) }
    .filter { $0.1 <= max(2, letters.count / 3) }.sorted { ($0.1, $0.0) < ($1.1, $1.0) }.map(\.0)
}

/// Levenshtein's distance: letters to add, remove or replace.
private func distance(_ a: [Character], _ b: [Character]) -> Int {
  var row = Array(0...b.count)
  for (i, letter) in a.enumerated() {
    var diagonal = row[0]
    row[0] = i + 1
    for (j, other) in b.enumerated() {
      (row[j + 1], diagonal) = (
        min(diagonal + (letter == other ? 0 : 1), row[j] + 1, row[j + 1] + 1), row[j + 1]
      )
    }
  }
  return row[b.count]
}

/// A word for a shell.
package func shellQuoted(_ word: some StringProtocol) -> String {
  let isPlain = word.utf8.allSatisfy { byte in
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./+,@%".utf8.contains(byte)
      || byte >= 0x80
  }
  guard !isPlain || word.isEmpty else { return String(word) }
  return "'" + word.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "'\\''") + "'"
}

/// Refuses what is not the first argument of a default command, but the mistyped name of another one.
package func requireNoCommand(_ word: String, of commands: [any ParsableCommand.Type]) throws {
  guard word.count > 2, !word.contains("."), !word.contains("/"), access(word, F_OK) != 0 else { return }
  let names = commands.map { $0.configuration.commandName ?? $0._commandName }
  guard let name = nearest(to: word, among: names).first else { return }
  throw ValidationError("There is no command '\(word)'; did you mean '\(name)'?")
}

/// Ends of names of checkpoints, which are other formats than .rwkv.
package let foreignEndings: Set = ["pth", "pt", "safetensors", "st", "gguf", "ggml", "bin"]
