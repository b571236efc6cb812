// SPDX-License-Identifier: MIT
import Glibc
import Synchronization

/// A file that appears under its name when it is complete, or not at all.
///
/// The bytes go to a file without a name in the folder of the destination, which `finish` syncs and names: however the
/// process ends before, nothing is left. File systems that cannot do that get `.NAME.PID.partial`, which the object
/// removes when it goes without `finish`. Errors do not name the path; that is the caller's part.
///
/// A symbolic link stays, and its file is replaced. Devices and pipes are never replaced: they are refused, or written
/// to as the bytes come where the caller writes them in order.
package final class OutputFile: Sendable {
  /// What a path stands for.
  package enum Destination {
    /// A regular file, there or not, by a path that is no link.
    case file(String)
    /// A device or a pipe.
    case stream
  }

  /// The path that the file gets in the end; nil for a stream, which has no file.
  private let path: String?
  private let partialPath: String
  private let overwrite: Bool
  private let file: File
  private let finished = Atomic<Bool>(false)

  /// - Parameter acceptsStreams: whether devices and pipes are written to; if so, each write must begin where the one
  ///   before ended.
  package init(path: String, overwrite: Bool, acceptsStreams: Bool = false) throws(ModelFileError) {
    self.overwrite = overwrite
    switch try Self.destination(path) {
    case .stream:
      guard acceptsStreams else { throw ModelFileError(.notRegularFile) }
      (self.path, partialPath) = (nil, "")
      file = try File(streamingTo: path)
    case .file(let target):
      if !overwrite, access(target, F_OK) == 0 { throw ModelFileError(.exists) }
      (self.path, partialPath) = (target, Self.partialPath(for: target))
      if let unnamed = File(unnamedIn: Self.directory(of: target)) {
        file = unnamed
      } else {
        file = try File(creating: partialPath)
      }
    }
  }

  deinit { if path != nil, !finished.load(ordering: .relaxed) { unlink(partialPath) } }

  package func write(_ bytes: [UInt8], at offset: UInt64) throws(ModelFileError) {
    if path == nil { try file.append(bytes) } else { try file.write(bytes, at: offset) }
  }

  /// A name under which the file can be opened as long as this object lives.
  package var readablePath: String {
    // A file that has a name yet has the partial one.
    access(partialPath, F_OK) == 0 ? partialPath : "/proc/self/fd/\(file.descriptor)"
  }

  /// Waits until all is on the disk and gives the file its name. Once.
  package func finish() throws(ModelFileError) {
    guard let path else { return }
    try file.synchronize()
    // What has appeared under the name since.
    guard case .file(path) = try Self.destination(path) else { throw ModelFileError(.notRegularFile) }
    if !overwrite, access(path, F_OK) == 0 { throw ModelFileError(.exists) }
    try file.name(partialPath)
    try File.call("rename") { rename(partialPath, path) }
    finished.store(true, ordering: .relaxed)
    try File.synchronizeDirectory(Self.directory(of: path))
  }

  /// Follows links to what a path stands for, which need not exist. What has no place that could be written to is an
  /// error: a folder, a name that is too long, links in a circle.
  package static func destination(_ path: String) throws(ModelFileError) -> Destination {
    var target = path
    for _ in 0..<40 {
      var status = stat()
      if lstat(target, &status) != 0 {
        if errno == ENOENT { return .file(target) }
        throw ModelFileError(.system(call: "create", errno: errno))
      }
      switch status.st_mode & S_IFMT {
      case S_IFREG: return .file(target)
      case S_IFDIR: throw ModelFileError(.system(call: "create", errno: EISDIR))
      case S_IFLNK: break
      default: return .stream
      }
      // What another program has opened, /dev/stdout above all, is its own whatever it is.
      if target.hasPrefix("/proc/") { return .stream }
      var buffer = [CChar](repeating: 0, count: Int(PATH_MAX))
      let count = readlink(target, &buffer, buffer.count)
      guard count > 0 else { throw ModelFileError(.system(call: "readlink", errno: errno)) }
      let link = String(decoding: buffer[..<count].map(UInt8.init(bitPattern:)), as: UTF8.self)
      target = link.hasPrefix("/") ? link : directory(of: target) + "/" + link
    }
    throw ModelFileError(.system(call: "create", errno: ELOOP))
  }

  /// Whether a path leads to one of the files that the same work reads: one of `inputs`, or what is in one of them that
  /// is a folder, but for older .rwkv files.
  package static func isInput(_ path: String, _ inputs: [String]) -> Bool {
    guard let output = identity(path) else { return false }
    return inputs.contains { input in
      let parts = contents(ofFolder: input).filter { !$0.hasSuffix(".rwkv") }.map { input + "/" + $0 }
      return ([input] + parts).contains { identity($0) == output }
    }
  }

  /// Whether a path leads to the file that standard input comes from.
  package static func isStandardInput(_ path: String) -> Bool {
    var status = stat()
    guard fstat(STDIN_FILENO, &status) == 0, status.st_mode & S_IFMT == S_IFREG else { return false }
    return identity(path) == identity(status)
  }

  /// What tells a file from all others, whatever its names are.
  private static func identity(_ path: String) -> [UInt64]? {
    var status = stat()
    return stat(path, &status) == 0 ? identity(status) : nil
  }

  private static func identity(_ status: stat) -> [UInt64] { [UInt64(status.st_dev), UInt64(status.st_ino)] }

  private static func directory(of path: String) -> String {
    guard let slash = path.lastIndex(of: "/") else { return "." }
    return slash == path.startIndex ? "/" : String(path[..<slash])
  }

  /// A long name is cut, so that the additions fit.
  private static func partialPath(for path: String) -> String {
    let name = path.split(separator: "/", omittingEmptySubsequences: false).last.map(String.init) ?? path
    var short = name
    while short.utf8.count > 200 { short.removeLast() }
    return String(path.dropLast(name.count)) + ".\(short).\(getpid()).partial"
  }
}

/// Names in a folder, sorted; none if it cannot be read.
package func contents(ofFolder folder: String) -> [String] {
  guard let directory = opendir(folder) else { return [] }
  defer { closedir(directory) }
  var names: [String] = []
  while let entry = readdir(directory) {
    let name = withUnsafePointer(to: &entry.pointee.d_name) {
      $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
    }
    if name != "." && name != ".." { names.append(name) }
  }
  return names.sorted()
}
