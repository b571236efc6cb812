// SPDX-License-Identifier: MIT
import Foundation
import Testing

/// The same numbers whatever the machine is doing, and on any of its instruction sets.
@Suite("Determinism", .serialized)
struct DeterminismTests {
  let quantize = Tool(name: "rwkv-quantize")
  let run = Tool(name: "rwkv-run")
  let folder = TemporaryFolder()
  /// Tokens that are evaluated.
  static let count = 24

  /// The file that a tool writes to `name`.
  private func output(_ tool: Tool, _ arguments: [String], to name: String, isa: String? = nil) throws -> Data
  {
    let result = try tool.run(arguments, after: isa.map { "export RWKV_ISA=\($0)" } ?? ":")
    #expect(result.status == 0, "\(result.errors)")
    return try Data(contentsOf: URL(filePath: folder.file(name)))
  }

  private func model(_ type: String, threads: Int = 1, isa: String? = nil) throws -> Data {
    let arguments = [golden("v7-std/model.safetensors"), folder.file("m.rwkv"), "--type", type]
    return try output(quantize, arguments + ["--force", "-t", "\(threads)"], to: "m.rwkv", isa: isa)
  }

  private func logits(threads: Int, mode: String = "decode", isa: String? = nil) throws -> Data {
    let tokens = (0..<Self.count).map { "\($0 * $0 * 7 % 256)" }.joined(separator: ",")
    let arguments = ["logits", folder.file("m.rwkv"), "--tokens", tokens, "--mode", mode, "-t", "\(threads)"]
    return try output(run, arguments + ["--out", folder.file("logits")], to: "logits", isa: isa)
  }

  /// Other processes want all cores meanwhile: threads lose theirs in the middle of a phase, and teams shrink.
  @Test(arguments: ["int4", "int8"])
  func busyNeighboursChangeNothing(type: String) throws {
    let file = try model(type)
    let expected = try logits(threads: 1)
    let neighbours = try (0..<3).map { _ in try Running("/bin/sh", ["-c", "while :; do :; done"]) }
    defer {
      for neighbour in neighbours {
        kill(neighbour.process, SIGKILL)
        _ = try? neighbour.wait()
      }
    }
    for threads in [2, 5] {
      #expect(try model(type, threads: threads) == file)
      #expect(try logits(threads: threads) == expected)
      #expect(try logits(threads: threads, mode: "prefill") == expected)
    }
  }

  /// Those of this kind of processor; what this machine lacks falls back to what it has.
  #if arch(x86_64)
    private static let caps = ["scalar", "avx2", "avx512"]
  #else
    private static let caps = ["scalar", "neon", "dotprod"]
  #endif

  @Test(arguments: ["int4", "int5", "int8", "fp16", "fp32"])
  func instructionSetsAgree(type: String) throws {
    _ = try model(type)
    let expected = try logits(threads: 1)
    for isa in Self.caps {
      #expect(try logits(threads: 2, isa: isa) == expected, "\(isa)")
    }
    guard Self.caps.contains("avx2") else { return }
    // SSE4.1 has no fused multiply-add, so its sums round twice. With exact weights that is all. With quantized ones a
    // sum that lies near a border now and then gives another integer activation: less than quantization itself does.
    let unfused = distance(try logits(threads: 2, isa: "sse41"), expected)
    guard type.hasPrefix("int") else {
      #expect(unfused <= 1e-3)
      return
    }
    _ = try model("fp32")
    let quantization = distance(expected, try logits(threads: 1))
    #expect(unfused <= quantization / 4, "\(unfused), quantization \(quantization)")
  }

  /// Root mean square of the differences.
  private func distance(_ a: Data, _ b: Data) -> Float {
    let (a, b) = (values(a), values(b))
    guard a.count == Self.count * 256, a.count == b.count else { return .infinity }
    return (zip(a, b).reduce(0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) } / Float(a.count)).squareRoot()
  }

  private func values(_ safetensors: Data) -> [Float] {
    let header = safetensors.withUnsafeBytes { Int($0.loadUnaligned(as: UInt64.self)) }
    return Array(safetensors.dropFirst(8 + header)).withUnsafeBytes { bytes in
      (0..<bytes.count / 4).map { bytes.loadUnaligned(fromByteOffset: 4 * $0, as: Float.self) }
    }
  }
}
