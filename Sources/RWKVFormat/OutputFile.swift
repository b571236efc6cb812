// SPDX-License-Identifier: MIT
import Glibc
import Synchronization

/// A file that appears under its name when it is complete, or not at all.
///
/// The bytes go to a file without a name in the folder of the destination, which `finish` syncs and names: however the
/// process ends before, nothing is left. File systems that cannot do that get `.NAME.PID.partial`, which the object
/// removes when it goes without `finish`. Errors do not name the path; that is the caller's part.
package final class OutputFile: Sendable {
  private let path: String
  private let partialPath: String
  private let overwrite: Bool
  private let file: File
  private let finished = Atomic<Bool>(false)

  package init(path: String, overwrite: Bool) throws(ModelFileError) {
    try Self.checkDestination(path, overwrite)
    (self.path, self.overwrite) = (path, overwrite)
    partialPath = Self.partialPath(for: path)
    if let unnamed = File(unnamedIn: Self.directory(of: path)) {
      file = unnamed
    } else {
      file = try File(creating: partialPath)
    }
  }

  deinit { if !finished.load(ordering: .relaxed) { unlink(partialPath) } }

  package func write(_ bytes: [UInt8], at offset: UInt64) throws(ModelFileError) {
    try file.write(bytes, at: offset)
  }

  /// A name under which the file can be opened as long as this object lives.
  package var readablePath: String {
    // A file that has a name yet has the partial one.
    access(partialPath, F_OK) == 0 ? partialPath : "/proc/self/fd/\(file.descriptor)"
  }

  /// Waits until all is on the disk and gives the file its name. Once.
  package func finish() throws(ModelFileError) {
    try file.synchronize()
    try Self.checkDestination(path, overwrite)
    try file.name(partialPath)
    try File.call("rename") { rename(partialPath, path) }
    finished.store(true, ordering: .relaxed)
    try File.synchronizeDirectory(Self.directory(of: path))
  }

  private static func directory(of path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
  }

  private static func partialPath(for path: String) -> String {
    let name = path.split(separator: "/", omittingEmptySubsequences: false).last.map(String.init) ?? path
    return String(path.dropLast(name.count)) + ".\(name).\(getpid()).partial"
  }

  private static func checkDestination(_ path: String, _ overwrite: Bool) throws(ModelFileError) {
    var status = stat()
    guard lstat(path, &status) == 0 else { return }
    let kind = status.st_mode & S_IFMT
    if kind == S_IFDIR { throw ModelFileError(.system(call: "create", errno: EISDIR)) }
    // Not even asked to: a device must not be replaced by a file.
    guard kind == S_IFREG || kind == S_IFLNK else { throw ModelFileError(.notRegularFile) }
    if !overwrite { throw ModelFileError(.exists) }
  }
}
