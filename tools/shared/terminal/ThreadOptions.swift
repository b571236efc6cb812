// SPDX-License-Identifier: MIT
import ArgumentParser
import RWKVFormat

/// Threads to use; common to all commands.
package struct ThreadOptions: ParsableArguments {
  /// The most threads that may be asked for; more would only wait for each other.
  package static let most = 1024

  @Option(name: [.short, .long], help: "Threads (default: the processors this process may use).")
  private var threads: Int?

  package init() {}

  package func validate() throws {
    if let threads, !(1...Self.most).contains(threads) {
      throw ValidationError("--threads must be from 1 to \(Self.most).")
    }
  }

  package var count: Int { threads ?? processorCount() }
}
