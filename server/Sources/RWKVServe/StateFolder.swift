// SPDX-License-Identifier: MIT
import Glibc
import RWKV
import Synchronization

/// What outlives the process, in a folder that several processes may share. Thread-safe.
///
/// Each file has a head, one line of JSON, and then the bytes of a state file. It appears complete or not at all, and
/// lies in a folder of the model's own. Whatever cannot be read as that counts as not there.
final class StateFolder: Sendable {
  enum Kind: String {
    case cache = "c", saved = "s", response = "r"
  }

  struct Record {
    let head: JSON
    let state: [UInt8]
  }

  /// What is in the folder, and when that was looked up.
  struct Listing: Sendable {
    /// Sizes of all files by their names [bytes].
    fileprivate(set) var sizes: [String: Int] = [:]
    /// Grows with each change.
    fileprivate(set) var version = 0
    fileprivate var changed = timespec()
  }

  private static let magic = "rwkv-serve 1 "
  /// The longest head [bytes].
  private static let longestHead = 64 << 20
  private let path: String
  private let longest: Int
  private let known = Mutex(Listing())

  init(_ folder: String, _ model: Model) throws {
    let identity = String(model.identity, radix: 16)
    path = folder + "/" + String(repeating: "0", count: 16 - identity.count) + identity
    longest = Self.longestHead + Self.longestState(model)
    for path in [folder, path] where mkdir(path, 0o700) != 0 && errno != EEXIST {
      throw StateFolderError(path: path, call: "mkdir", number: errno)
    }
    guard access(path, R_OK | W_OK | X_OK) == 0 else {
      throw StateFolderError(path: path, call: "access", number: errno)
    }
    removeLeftovers()
  }

  /// The longest file of a state of a model [bytes].
  static func longestState(_ model: Model) -> Int { 64 * model.newState().byteCount + (64 << 20) }

  /// Removes the files that killed processes have left.
  private func removeLeftovers() {
    for name in list() where name.hasPrefix(".") {
      var status = stat()
      guard lstat("\(path)/\(name)", &status) == 0, time(nil) - status.st_mtim.tv_sec > 3600 else { continue }
      unlink("\(path)/\(name)")
    }
  }

  private func list() -> [String] {
    guard let directory = opendir(path) else { return [] }
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

  /// Looked up again only when names have come or gone.
  var listing: Listing {
    var status = stat()
    guard stat(path, &status) == 0 else { return Listing() }
    let changed = status.st_mtim
    return known.withLock { known in
      if known.changed.tv_sec == changed.tv_sec && known.changed.tv_nsec == changed.tv_nsec { return known }
      let old = known.sizes
      known.sizes = [:]
      for name in list() where Kind(rawValue: String(name.prefix(1))) != nil {
        known.sizes[name] = old[name] ?? size(name)
      }
      known.changed = changed
      known.version += 1
      return known
    }
  }

  private func size(_ name: String) -> Int {
    var status = stat()
    return lstat("\(path)/\(name)", &status) == 0 ? Int(status.st_size) : 0
  }

  func bytes(of kind: Kind) -> Int {
    listing.sizes.reduce(0) { $0 + ($1.key.hasPrefix(kind.rawValue) ? $1.value : 0) }
  }

  /// Puts a file under a name, in place of an older one.
  func write(_ name: String, _ head: JSON, _ state: [UInt8] = []) throws {
    // Other machines may share the folder.
    let place = "\(path)/.\(String(UInt64.random(in: 0 ... .max), radix: 36))"
    func fail(_ call: String) -> StateFolderError {
      let error = StateFolderError(path: path, call: call, number: errno)
      unlink(place)
      return error
    }
    let file = open(place, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
    guard file >= 0 else { throw fail("open") }
    defer { close(file) }
    for part in [Array((Self.magic + head.text + "\n").utf8), state] {
      var written = 0
      while written < part.count {
        let count = part.withUnsafeBytes {
          Glibc.write(file, $0.baseAddress! + written, part.count - written)
        }
        guard count > 0 || errno == EINTR else { throw fail("write") }
        written += max(0, count)
      }
    }
    guard fsync(file) == 0 else { throw fail("fsync") }
    guard rename(place, "\(path)/\(name)") == 0 else { throw fail("rename") }
    let size = Self.magic.utf8.count + head.text.utf8.count + 1 + state.count
    known.withLock { known in
      known.sizes[name] = size
      known.version += 1
    }
  }

  /// What is in a file; nil where there is none that can be read.
  func read(_ name: String) -> Record? {
    guard let bytes = bytes(name, longest: nil), let (head, end) = Self.head(bytes) else { return nil }
    return Record(head: head, state: Array(bytes[end...]))
  }

  /// The head of a file, which is short.
  func head(_ name: String) -> JSON? { bytes(name, longest: 1 << 16).flatMap { Self.head($0)?.head } }

  /// - Parameter longest: bytes to read at most; nil: all.
  private func bytes(_ name: String, longest: Int?) -> [UInt8]? {
    let file = open("\(path)/\(name)", O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
    guard file >= 0 else { return nil }
    defer { close(file) }
    var status = stat()
    guard fstat(file, &status) == 0, status.st_mode & S_IFMT == S_IFREG, status.st_size <= self.longest else {
      return nil
    }
    let size = min(Int(status.st_size), longest ?? .max)
    let bytes = [UInt8](unsafeUninitializedCapacity: size) { buffer, used in
      while used < size {
        let count = Glibc.read(file, buffer.baseAddress! + used, size - used)
        if count > 0 { used += count } else if count == 0 || errno != EINTR { break }
      }
    }
    return bytes.count == size ? bytes : nil
  }

  /// The head, and where the state begins.
  private static func head(_ bytes: [UInt8]) -> (head: JSON, end: Int)? {
    guard bytes.starts(with: magic.utf8), let end = bytes.firstIndex(of: UInt8(ascii: "\n")),
      end <= longestHead,
      let head = try? JSON(parsing: Array(bytes[magic.utf8.count..<end]))
    else { return nil }
    return (head, end + 1)
  }

  /// Says that a file was used.
  func touch(_ name: String) { utimensat(AT_FDCWD, "\(path)/\(name)", nil, AT_SYMLINK_NOFOLLOW) }

  /// Whether it was there.
  @discardableResult
  func remove(_ name: String) -> Bool { unlink("\(path)/\(name)") == 0 }

  /// Removes the least recently used files of a kind where they take more than `capacity` bytes.
  func trim(_ kind: Kind, to capacity: Int) {
    var bytes = bytes(of: kind)
    guard bytes > capacity else { return }
    var ages: [(name: String, used: timespec, size: Int)] = []
    for name in listing.sizes.keys where name.hasPrefix(kind.rawValue) {
      var status = stat()
      if lstat("\(path)/\(name)", &status) == 0 { ages.append((name, status.st_mtim, Int(status.st_size))) }
    }
    ages.sort { ($0.used.tv_sec, $0.used.tv_nsec) < ($1.used.tv_sec, $1.used.tv_nsec) }
    // A bit more, so that not every file that comes makes another look necessary.
    for file in ages where bytes > capacity - capacity / 10 {
      remove(file.name)
      bytes -= file.size
    }
  }
}

struct StateFolderError: Error, CustomStringConvertible {
  let path: String
  let call: String
  let number: Int32

  var description: String { "\(path): \(call): \(String(cString: strerror(number)))" }
}
