// SPDX-License-Identifier: MIT
import Glibc
import RWKVFormat
import Remote
import Terminal

/// Refuses a path that cannot be a model, with what to do about it.
func checkModelPath(_ path: String) throws {
  if access(path, F_OK) != 0, RecommendedModel.all.contains(where: { $0.name == path }) {
    throw CommandError("\(path): not here yet; rwkv-run pull \(path) gets it")
  }
  if access(path, F_OK) != 0, HubPlace(path) != nil {
    throw CommandError("\(path): not a file; rwkv-run pull \(shellQuoted(path)) gets it, and gives it a name")
  }
  do { try requireFile(path, ending: ".rwkv") } catch
    where ModelDirectory.isName(path) && !path.contains(".")
  {
    throw CommandError("\(error); rwkv-run list shows the models that are here, rwkv-run pull those to get")
  }
  var status = stat()
  guard stat(path, &status) == 0 else { return }  // opening it says why
  let name = path.split(separator: "/").last ?? ""
  let dot = name.lastIndex(of: ".") ?? name.endIndex
  let isFolder = status.st_mode & S_IFMT == S_IFDIR
  if isFolder, let model = contents(ofFolder: path).first(where: { $0.hasSuffix(".rwkv") }) {
    let separator = path.hasSuffix("/") ? "" : "/"
    throw CommandError("\(path): a folder; did you mean \(shellQuoted(path + separator + model))?")
  }
  guard isFolder || foreignEndings.contains(String(name[dot...].dropFirst()))
  else {
    return
  }
  let stem = isFolder ? name : name[..<dot]
  throw CommandError(
    """
    \(path): a \(isFolder ? "folder" : "checkpoint"), not a .rwkv file; convert it first:
      rwkv-quantize \(shellQuoted(path)) \(shellQuoted(stem + ".rwkv"))
    """)
}
