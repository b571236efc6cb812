// SPDX-License-Identifier: MIT
import ArgumentParser
import Glibc
import RWKV
import RWKVFormat
import Terminal

/// A number of bytes as people write it: 300M, 1.5G, 65536.
struct ByteCount: ExpressibleByArgument {
  let bytes: Int

  init?(argument: String) {
    var digits = argument[...]
    let shift: Double
    switch digits.last {
    case "K", "k": shift = 10
    case "M", "m": shift = 20
    case "G", "g": shift = 30
    default: shift = 0
    }
    if shift > 0 { digits.removeLast() }
    guard let number = Double(digits), number > 0, number * exp2(shift) < 1e18 else { return nil }
    bytes = Int(number * exp2(shift))
  }
}

/// How much memory a model may take.
struct MemoryOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      """
      Memory to use at most, as 300M or 2G (default: what the machine has left). A model that needs more is read from \
      its file block by block for each token.
      """, valueName: "size"))
  var memoryLimit: ByteCount?

  @Option(
    help: ArgumentHelp(
      "RWKV-7b: tokens to remember at most (default: as many as there is memory for). All others need none.",
      valueName: "tokens"))
  var maxContext: Int?

  func validate() throws {
    if let maxContext, maxContext < 1 { throw ValidationError("--max-context must be at least 1.") }
  }

  /// Opens a model with a line of progress, and says how it runs if it does not fit into memory.
  ///
  /// - Parameter kinds: which of them the command is for.
  func open(
    _ path: String, threads: Int, kinds: [ModelKind] = [.language], requiresTokenizer: Bool = false
  ) throws -> Model {
    try checkModelPath(path)
    leanMalloc()
    let progress = ProgressLine()
    defer { progress.clear() }
    let limit = memoryLimit?.bytes ?? memoryCapacity()
    let model = try Model(
      path: path, threads: threads, memoryLimit: limit, maximumContext: maxContext, kinds: kinds,
      requiresTokenizer: requiresTokenizer
    ) { share in
      progress.update("loading", share)
      return !isInterrupted
    }
    progress.clear()
    if let most = model.maximumContext {
      let each = model.configuration.bytesPerToken
      note(
        "RWKV-7b remembers every token: \(size(each)) each, at most \(most) tokens (\(size(each * most))).")
    }
    guard let streaming = model.streaming else { return model }
    let reason = memoryLimit == nil ? "the model does not fit into the memory that is left" : "--memory-limit"
    note(
      "\(reason) (\(size(streaming.limit))): \(streaming.streamedBlocks) of \(streaming.blocks) blocks are read from "
        + "the file for each token, \(size(streaming.streamedFileBytes)). "
        + "Expect about \(expectation(streaming)).")
    return model
  }

  private func expectation(_ streaming: Streaming) -> String {
    let cached = decimal(streaming.cachedTokensPerSecond, 1)
    // A file in the cache can be this much slower at first too.
    guard streaming.firstTokensPerSecond < streaming.cachedTokensPerSecond / 3 else {
      return "\(cached) tokens/s"
    }
    return "\(decimal(streaming.firstTokensPerSecond, 1)) tokens/s from the disk, "
      + "\(cached) while the system keeps the file in its cache"
  }
}
