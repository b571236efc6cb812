// SPDX-License-Identifier: MIT
import Glibc
import RWKVCheckpoint
import RWKVFormat
package import Terminal

/// A checkpoint on the hub, or behind a URL, as a folder of this machine: small files are in it, those with
/// weights are empty there and read from the server when they are needed.
package final class RemoteInput {
  /// What a conversion gets as its input.
  package private(set) var path: String
  private let folder: String
  /// Where `keep` has put it.
  private var kept: String?
  /// What it is called in messages: the query of an address may be a secret.
  private let name: String
  /// The folder in which it is, in that for all, and what it is called.
  private var inner = (path: "", name: "")
  /// Files that are empty here, by their path.
  private var files: [String: RemoteFile] = [:]

  /// Whether a file beside the weights may say what they are: settings, indices of shards, vocabularies.
  private static func isSide(_ path: String) -> Bool {
    let name = lastPart(path)
    let words = ["vocab", "tokenizer"] + (name.hasSuffix(".json") ? ["config", ".index."] : [])
    return (name.hasSuffix(".json") || name.hasSuffix(".txt")) && words.contains(where: name.contains)
  }

  private static let longestSideFile = 64 << 20

  package static func isRemote(_ input: String) -> Bool {
    ["hf:", "https://", "http://"].contains(where: input.hasPrefix)
  }

  /// What of what is read from a server is checked, for people.
  package static let note =
    "read over the network: sizes and version are checked at every part; the bytes are not hashed, because no file "
    + "is read from its beginning to its end (--download does both)"

  /// - Parameter isInsecure: plain HTTP is allowed beyond this machine.
  package init(_ input: String, isInsecure: Bool) throws {
    leanMalloc()
    name = shownAddress(input)
    let parent = variable("TMPDIR").isEmpty ? "/tmp" : variable("TMPDIR")
    var template = Array((parent + "/rwkv-XXXXXX").utf8CString)
    guard let made = template.withUnsafeMutableBufferPointer({ $0.baseAddress.flatMap(mkdtemp) }) else {
      throw CommandError("\(parent): no temporary folder: \(String(cString: strerror(errno)))")
    }
    (folder, path) = (String(cString: made), "")
    do {
      let hub = try Hub(isInsecure: isInsecure)
      if let place = HubPlace(input) {
        path = try placeRepository(place, hub)
      } else if input.hasPrefix("hf:") {
        throw CommandError("\(name): expected hf:OWNER/REPO, hf:OWNER/REPO/FILE or hf:OWNER/REPO@REVISION")
      } else {
        path = try placeFile(Address(input), hub.web)
      }
    } catch {
      remove()
      throw error
    }
  }

  deinit { remove() }

  private func remove() {
    for path in files.keys { SubstituteFiles.remove(path) }
    Self.remove(folder)
  }

  /// Removes what `keep` has fetched.
  package func discard() {
    if let kept { Self.remove(kept) }
  }

  /// Removes a folder that `keep` has filled.
  package static func remove(_ folder: String) {
    for name in contents(ofFolder: folder) {
      let inner = folder + "/" + name
      for file in contents(ofFolder: inner) { unlink(inner + "/" + file) }
      rmdir(inner)
    }
    rmdir(folder)
  }

  /// Runs `body`, whose errors name these inputs as they were given.
  package static func naming<Result>(_ inputs: [RemoteInput], _ body: () throws -> Result) throws -> Result {
    do { return try body() } catch  where !isInterrupted && !inputs.isEmpty {
      throw CommandError(renamed("\(error)", inputs))
    }
  }

  /// `text` with what the user typed in place of the folders, once.
  package static func renamed(_ text: String, _ inputs: [RemoteInput]) -> String {
    inputs.reduce(text) { text, input in
      text.replacing(input.path, with: input.name)
        .replacing((input.kept ?? input.folder) + input.inner.path, with: input.inner.name)
        .replacing("\(input.name): \(input.name): ", with: "\(input.name): ")
    }
  }

  // MARK: What is there

  private func placeFile(_ address: Address?, _ web: Web) throws -> String {
    guard let address else {
      throw CommandError("\(name): no address; names and passwords do not belong into it")
    }
    let last = address.target.prefix { $0 != "?" }.split(separator: "/").last ?? "model"
    inner = ("/url", String(address.shown.dropLast(last.utf8.count + 1)))
    let path = folder + inner.path + "/" + (last == ".." || last == "." ? "model" : last)
    mkdir(folder + inner.path, 0o700)
    if path.hasSuffix(".json") || path.hasSuffix(".txt") {
      guard let bytes = try web.file(address, limit: Self.longestSideFile) else {
        throw CommandError("\(address.shown): 404, there is no such file")
      }
      try store(bytes, at: path)
    } else {
      try place(RemoteFile(address, web: web, expected: Expectation()), at: path)
    }
    return path
  }

  private func placeRepository(_ place: HubPlace, _ hub: Hub) throws -> String {
    let listing = try hub.listing(place)
    func isWeights(_ path: String) -> Bool { weightEndings.contains(where: path.hasSuffix) }

    let named = listing.files.first { $0.path == place.path }
    let directory = named.map { folderPart($0.path) } ?? place.path
    // Named as a downloaded folder is, since models are named after it.
    let whole = directory.isEmpty ? place.repository : place.repository + "/" + directory
    inner = ("/" + lastPart(whole), "hf:" + whole)
    let around = folder + inner.path
    mkdir(around, 0o700)
    // A vocabulary that is named stands for itself.
    let isAlone = named.map { !isWeights($0.path) } ?? false
    let here = listing.files.filter {
      isAlone
        ? $0.path == place.path
        : folderPart($0.path) == directory && (isWeights($0.path) || Self.isSide($0.path))
    }
    var together = named?.size
    if named == nil {
      switch CheckpointChoice(names: here.map { lastPart($0.path) }) {
      case .index, .file: together = here.filter { isWeights($0.path) }.reduce(0) { $0 + ($1.size ?? 0) }
      case .none, .several: throw Self.ambiguous(place, listing.files.filter { isWeights($0.path) })
      }
    }
    for file in here {
      let target = around + "/" + lastPart(file.path)
      let address = try hub.address(of: file.path, in: place, commit: listing.commit)
      let expected = Expectation(size: file.size, sha256: file.sha256)
      if isWeights(file.path) {
        try self.place(RemoteFile(address, web: hub.web, expected: expected, together: together), at: target)
      } else if file.size ?? 0 <= Self.longestSideFile,
        let bytes = try hub.web.file(address, limit: Self.longestSideFile)
      {
        guard file.size ?? bytes.count == bytes.count, file.sha256 ?? SHA256.hex(bytes) == SHA256.hex(bytes)
        else {
          throw CommandError("\(address.shown): not the file that the repository lists")
        }
        try store(bytes, at: target)
      }
    }
    return named.map { around + "/" + lastPart($0.path) } ?? around
  }

  private static func ambiguous(_ place: HubPlace, _ weights: [RepositoryListing.File]) -> CommandError {
    let below = weights.filter { place.path.isEmpty || $0.path.hasPrefix(place.path + "/") }
    let list = (below.isEmpty ? weights : below).map {
      "\n  hf:\(place.repository)/\($0.path.replacing("\n", with: "\\x0A"))  \($0.size.map(size) ?? "")"
    }
    let isMissing = below.isEmpty && !list.isEmpty
    let place = place.path.isEmpty ? place.repository : place.repository + "/" + place.path
    let problem = isMissing ? "not there; these checkpoints are:" : "name one of its checkpoints:"
    return CommandError("hf:\(place): " + (list.isEmpty ? "no checkpoint there" : problem + list.joined()))
  }

  private func place(_ file: RemoteFile, at path: String) throws {
    try store([], at: path)
    files[path] = file
    SubstituteFiles.put(file, at: path)
  }

  private func store(_ bytes: [UInt8], at path: String) throws {
    let descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
    defer { close(descriptor) }
    guard descriptor >= 0, write(bytes, to: descriptor) else {
      throw CommandError("\(path): \(String(cString: strerror(errno)))")
    }
  }

  // MARK: Keeping it

  /// Fetches what the checkpoint consists of into `target`, and goes on from there: it can be read more than
  /// once, and what an earlier call has fetched is not fetched again.
  package func keep(in target: String, progress: ProgressLine) throws {
    // What belongs to it is what its reader looks at.
    _ = try Self.naming([self]) { try Checkpoint(path: path, allowQuantized: true) }
    let (around, there) = (folder + inner.path, target + inner.path)
    for folder in [target, there] {
      guard mkdir(folder, 0o777) == 0 || errno == EEXIST else {
        throw CommandError("\(folder): \(String(cString: strerror(errno)))")
      }
    }
    let wanted = files.filter { $0.value.isUsed }.sorted { $0.key < $1.key }
    let total = wanted.reduce(0) { $0 + $1.value.size }
    var before = 0
    for (path, file) in wanted {
      let download = Download(file, to: there + "/" + lastPart(path))
      do {
        try download.run { progress.update("downloading", Double(before + $0) / Double(max(1, total))) }
      } catch  where isInterrupted {
        Terminal.note("interrupted; what has come is kept in \(target), and the same command goes on with it")
        throw error
      }
      before += file.size
    }
    for side in contents(ofFolder: around) where files[around + "/" + side] == nil {
      let copy = there + "/" + side
      unlink(copy)
      try store(try readFile(around + "/" + side), at: copy)
    }
    remove()
    path = path.replacing(folder, with: target)
    kept = target
  }
}

/// The last part of a path, and, below, what is before it.
private func lastPart(_ path: String) -> String { String(path.split(separator: "/").last ?? "") }
private func folderPart(_ path: String) -> String {
  path.split(separator: "/").dropLast().joined(separator: "/")
}
