// SPDX-License-Identifier: MIT
import RWKVFormat

/// What a hub says of a repository:
/// `{"sha": …, "siblings": [{"rfilename": …, "size": …, "lfs": {"sha256": …}}, …]}`.
package struct RepositoryListing: Sendable {
  package struct File: Sendable {
    package let path: String
    package let size: Int?
    /// The file's SHA-256 in hexadecimal, which hubs give for large files only.
    package let sha256: String?
  }
  /// The commit that a revision stands for.
  package let commit: String
  package let files: [File]

  /// Nil for anything else. Files whose paths could lead out of a folder are left out.
  package init?(_ bytes: [UInt8]) {
    guard let json = try? JSON(parsing: bytes, depth: 32), let commit = json["sha"]?.string,
      (1...64).contains(commit.utf8.count), commit.allSatisfy(\.isHexDigit),
      let siblings = json["siblings"]?.array
    else { return nil }
    self.commit = commit
    files = siblings.compactMap { file in
      guard let path = file["rfilename"]?.string, !path.utf8.contains(0) else { return nil }
      let parts = path.split(separator: "/", omittingEmptySubsequences: false)
      guard parts.allSatisfy({ !["", ".", ".."].contains($0) && $0.utf8.count <= 255 }) else { return nil }
      let large = file["lfs"]
      let hash = large?["sha256"]?.string.flatMap {
        $0.utf8.count == 64 && $0.allSatisfy(\.isHexDigit) ? $0 : nil
      }
      return File(
        path: path, size: large?["size"]?.unsigned ?? file["size"]?.unsigned, sha256: hash?.lowercased())
    }
  }
}
