// SPDX-License-Identifier: MIT
import ArgumentParser
import RWKV
import RWKVFormat
import Terminal

/// Arguments that all commands with a model share.
struct ModelOptions: ParsableArguments {
  @Argument(model: "A .rwkv file made by rwkv-quantize, or a name that rwkv-run list has.")
  var model: String

  @OptionGroup var threads: ThreadOptions

  var threadCount: Int { threads.count }

  @OptionGroup var memory: MemoryOptions

  /// Opens the model with a line of progress.
  func open(kinds: [ModelKind] = [.language], requiresTokenizer: Bool = false) throws -> Model {
    try memory.open(model, threads: threadCount, kinds: kinds, requiresTokenizer: requiresTokenizer)
  }
}
