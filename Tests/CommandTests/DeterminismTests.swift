import Foundation
import Testing

/// The same numbers whatever the machine is doing, and on any of its instruction sets.
@Suite("Determinism", .serialized)
struct DeterminismTests {
  let quantize = Tool(name: "rwkv-quantize")
  let run = Tool(name: "rwkv-run")
  let folder = TemporaryFolder()

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
    let tokens = (0..<80).map { "\($0 * $0 * 7 % 256)" }.joined(separator: ",")
    let arguments = ["logits", folder.file("m.rwkv"), "--tokens", tokens, "--mode", mode, "-t", "\(threads)"]
    return try output(run, arguments + ["--out", folder.file("logits")], to: "logits", isa: isa)
  }

  /// Other processes want all cores meanwhile: threads lose theirs in the middle of a phase, and teams shrink.
  @Test(arguments: ["int4", "int8", "fp32"])
  func busyNeighboursChangeNothing(type: String) throws {
    let file = try model(type)
    let expected = try logits(threads: 1)
    let neighbours = try (0..<4).map { _ in try Running("/bin/sh", ["-c", "while :; do :; done"]) }
    defer {
      for neighbour in neighbours {
        kill(neighbour.process, SIGKILL)
        _ = try? neighbour.wait()
      }
    }
    for threads in [1, 2, 3, 8] {
      #expect(try model(type, threads: threads) == file)
      #expect(try logits(threads: threads) == expected)
      #expect(try logits(threads: threads, mode: "prefill") == expected)
    }
  }

  /// Caps that this machine lacks fall back to what it has, so every name may be asked for.
  @Test(arguments: ["int4", "int5", "int8", "fp16", "fp32"])
  func instructionSetsAgree(type: String) throws {
    let file = try model(type)
    let expected = try logits(threads: 1)
    for isa in ["scalar", "avx2", "avx512", "neon", "dotprod"] {
      #expect(try model(type, isa: isa) == file, "\(isa)")
      #expect(try logits(threads: 2, isa: isa) == expected, "\(isa)")
    }
    // Without fused multiply-add, sums round twice: equal within rounding.
    #expect(try model(type, isa: "sse41") == file)
    let (a, b) = (values(expected), values(try logits(threads: 2, isa: "sse41")))
    #expect(a.count == 80 * 256 && a.count == b.count)
    let distance = zip(a, b).map { abs($0 - $1) }.max() ?? .infinity
    #expect(distance <= 1e-3, "\(distance)")
  }

  private func values(_ safetensors: Data) -> [Float] {
    let header = safetensors.withUnsafeBytes { Int($0.loadUnaligned(as: UInt64.self)) }
    return Array(safetensors.dropFirst(8 + header)).withUnsafeBytes { bytes in
      (0..<bytes.count / 4).map { bytes.loadUnaligned(fromByteOffset: 4 * $0, as: Float.self) }
    }
  }
}
