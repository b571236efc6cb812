import Glibc
import Terminal

/// Refuses a path that cannot be a model, with what to do about it.
func checkModelPath(_ path: String) throws {
  var status = stat()
  guard stat(path, &status) == 0 else {
    guard errno == ENOENT else { return }  // opening it says why
    throw CommandError("\(path): no such file\(suggestion(for: path))")
  }
  let name = path.split(separator: "/").last ?? ""
  let dot = name.lastIndex(of: ".") ?? name.endIndex
  let isFolder = status.st_mode & S_IFMT == S_IFDIR
  guard isFolder || ["pth", "pt", "safetensors", "st", "gguf", "bin"].contains(name[dot...].dropFirst())
  else {
    return
  }
  let stem = isFolder ? name : name[..<dot]
  throw CommandError(
    """
    \(path): a \(isFolder ? "folder" : "checkpoint"), not a .rwkv file; convert it first:
      rwkv-quantize \(quoted(path)) \(quoted(stem + ".rwkv"))
    """)
}

/// Names beside a missing file that its writer may have meant: ": did you mean …?"
private func suggestion(for path: String) -> String {
  let slash = path.lastIndex(of: "/")
  let folder = slash.map { String(path[...$0]) } ?? ""
  let name = Array((slash.map { path[path.index(after: $0)...] } ?? path[...]).lowercased())
  let names = contents(of: folder.isEmpty ? "." : folder)
  let near = names.map { ($0, distance(Array($0.lowercased()), name)) }
    .filter { $0.1 <= max(2, name.count / 3) }.sorted { ($0.1, $0.0) < ($1.1, $1.0) }.map(\.0)
  let models = names.filter { $0.hasSuffix(".rwkv") }.sorted()
  let meant = (near.isEmpty ? models : near).prefix(3).map { quoted(folder + $0) }
  return meant.isEmpty ? "" : "; did you mean \(meant.joined(separator: " or "))?"
}

private func contents(of folder: String) -> [String] {
  guard let directory = opendir(folder) else { return [] }
  defer { closedir(directory) }
  var names: [String] = []
  while let entry = readdir(directory) {
    let name = withUnsafePointer(to: &entry.pointee.d_name) {
      $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
    }
    if name != "." && name != ".." { names.append(name) }
  }
  return names
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
private func quoted(_ word: some StringProtocol) -> String {
  let isPlain = word.utf8.allSatisfy { byte in
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./+,@%".utf8.contains(byte)
      || byte >= 0x80
  }
  guard !isPlain || word.isEmpty else { return String(word) }
  return "'" + word.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "'\\''") + "'"
}
