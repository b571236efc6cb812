// SPDX-License-Identifier: MIT
import ArgumentParser
import Glibc
import Terminal

/// The text of -p or -f, or what comes through a pipe. From a terminal nothing is read: a person would not know why
/// nothing happens.
func givenText(_ prompt: String?, _ file: String?) throws -> [UInt8] {
  if let prompt { return Array(prompt.utf8) }
  if file == nil && isatty(STDIN_FILENO) == 1 {
    throw ValidationError("Give -p TEXT or -f FILE, or send a text through a pipe.")
  }
  return try readFile(file ?? "-")
}
