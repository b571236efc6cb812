// SPDX-License-Identifier: MIT
import ArgumentParser
import CPeak
import CRWKVKernels
import RWKVFormat
import Terminal

@main
struct BenchKernels: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "bench-kernels",
    abstract: "Measures the matrix kernels alone, each weight format on each instruction set.",
    discussion: """
      A matrix times a vector, from memory and from the cache, in GB/s of weights and as a share of what the machine \
      can read;
      a matrix times several tokens in 10^9 operations per second and as a share of the int8 peak.

      EXAMPLES
        bench-kernels
        bench-kernels --columns 768 -t 1 -t 2 --isa avx2
      """)

  @Option(
    name: .customShort("t"), help: "Threads; may be repeated (default: the processors this process may use).")
  var threads: [Int] = []

  @Option(help: "Columns of the matrix.")
  var columns = 2048

  @Option(help: "Instruction set (default: all that this machine has).")
  var isa: String?

  @Option(help: "Weights in memory [MB]; several times the cache.")
  var megabytes = 400

  @Option(name: .customShort("r"), help: "Repetitions; the median counts.")
  var repetitions = 7

  func validate() throws {
    if threads.contains(where: { $0 < 1 }) { throw ValidationError("-t must be at least 1.") }
    if columns < 1 || megabytes < 1 || repetitions < 1 {
      throw ValidationError("--columns, --megabytes and -r must be at least 1.")
    }
  }

  func run() throws {
    let all: [String] = ["scalar", "sse41", "avx2", "avxvnni", "avx512", "neon", "dotprod", "i8mm"]
    let names = all.filter { (name: String) in rk_kernels_named(name) != nil }
    let chosen = isa.map { [$0] } ?? names
    guard chosen.allSatisfy(names.contains) else {
      throw ValidationError("--isa must be one of \(names.joined(separator: ", ")).")
    }
    let peak = peak_int8(0.2)
    output("Int8 peak of one core (AVX-512 VNNI): \(decimal(peak / 1e9, 0)) GOP/s. \(columns) columns.\n")
    for count in threads.isEmpty ? [processorCount()] : threads {
      let bandwidth = try readBandwidth(threads: count)
      output("Reading memory with \(count) threads: \(decimal(bandwidth / 1e9, 1)) GB/s.\n")
      output(
        "| threads | table | type | memory, GB/s | of reading | cache, GB/s | 64 tokens, GOP/s | of the int8 peak |"
      )
      output("|---|---|---|---|---|---|---|---|")
      for name in chosen {
        for format in [WeightFormat.int4, .int5, .int8, .f16, .bf16, .f32] {
          measure(name, format, threads: count, bandwidth, peak)
        }
      }
      output("")
    }
  }

  /// One row of the table.
  private func measure(
    _ name: String, _ format: WeightFormat, threads: Int, _ bandwidth: Double, _ peak: Double
  ) {
    let large = Product(name, format, columns: columns, bytes: megabytes << 20, tokens: 1)
    let memory = large.weightBytes / large.seconds(threads: threads, repetitions)
    // A quarter of a megabyte a thread fits every second-level cache.
    let small = Product(name, format, columns: columns, bytes: threads << 18, tokens: 1)
    let cache = small.weightBytes / small.seconds(threads: threads, repetitions)
    let block = Product(name, format, columns: columns, bytes: threads << 20, tokens: 64)
    let operations = block.operations / block.seconds(threads: threads, repetitions)
    let share = peak > 0 ? "\(decimal(100 * operations / (peak * Double(threads)), 0)) %" : ""
    output(
      "| \(threads) | \(name) | \(format.name) | \(decimal(memory / 1e9, 1)) | "
        + "\(decimal(100 * memory / bandwidth, 0)) % | \(decimal(cache / 1e9, 1)) | "
        + "\(decimal(operations / 1e9, 0)) | \(share) |")
  }
}
