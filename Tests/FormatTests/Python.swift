// SPDX-License-Identifier: MIT
import Glibc

/// The Python in PATH, where it has what formats/read_model.py needs.
enum Python {
  static let isUsable = run(["-c", "import numpy, zstandard"]).status == 0

  static let root = String(#filePath.dropLast("Tests/FormatTests/Python.swift".count))

  /// Runs python3 and returns its exit status and what it wrote to stdout and stderr.
  static func run(_ arguments: [String]) -> (status: Int32, output: String) {
    let folder = TemporaryFolder()
    let path = folder.file("output")
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_addopen(&actions, 1, path, O_WRONLY | O_CREAT, 0o600)
    posix_spawn_file_actions_adddup2(&actions, 1, 2)
    let strings = (["python3"] + arguments).map { strdup($0) }
    defer { strings.forEach { free($0) } }
    var child: pid_t = 0
    guard posix_spawnp(&child, "python3", &actions, nil, strings + [nil], environ) == 0 else {
      return (-1, "")
    }
    var status: Int32 = -1
    while waitpid(child, &status, 0) < 0, errno == EINTR {}
    return (status, String(decoding: readBytes(path), as: UTF8.self))
  }
}
