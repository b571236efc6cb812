// SPDX-License-Identifier: MIT
import CPeak
import RWKV
import RWKVFormat
import Terminal

/// What the machine allows: how fast it reads memory, and how fast it multiplies with nothing else to do.
struct Roofline {
  let threads: Int
  /// [bytes/s]
  let bandwidth: Double
  /// Multiplications and additions of int8 and of F32 numbers [1/s]; 0: not known.
  let integerOperations: Double
  let floatOperations: Double

  /// - Throws: if there is no memory to measure with.
  init(threads: Int) throws(CommandError) {
    self.threads = threads
    bandwidth = try readBandwidth(threads: threads)
    integerOperations = Self.onAll(threads, peak_int8)
    floatOperations = Self.onAll(threads, peak_float)
  }

  /// One line for people.
  var description: String {
    "\(threads) thread\(threads == 1 ? "" : "s"), \(instructionSet): this machine reads "
      + "\(decimal(bandwidth / 1e9, 1)) GB/s, and does at most\n\(decimal(integerOperations / 1e9, 0)) int8 or "
      + "\(decimal(floatOperations / 1e9, 0)) F32 operations per nanosecond."
  }

  private static func onAll(_ threads: Int, _ peak: @escaping @Sendable (Double) -> Double) -> Double {
    let threads = availableThreads(threads)
    nonisolated(unsafe) let rates = UnsafeMutableBufferPointer<Double>.allocate(capacity: threads)
    defer { rates.deallocate() }
    onThreads(threads) { rates[$0] = peak(0.05) }
    return rates.reduce(0, +)
  }

  /// Tokens per second that the machine allows, where a token needs `bytes` of memory and `work`.
  func limit(bytes: Int, _ work: Work) -> Double {
    func seconds(_ amount: Int, _ rate: Double) -> Double { rate > 0 ? Double(amount) / rate : 0 }
    let arithmetic =
      seconds(work.integerOperations, integerOperations) + seconds(work.floatOperations, floatOperations)
    return 1 / max(seconds(bytes, bandwidth), arithmetic)
  }

  /// Multiplications and additions of the matrices of one token, zeros of the channel mixing included.
  struct Work {
    var integerOperations = 0
    var floatOperations = 0

    /// - Parameter head: whether the token's logits are wanted.
    init(_ file: ModelFile, head: Bool) {
      for tensor in file.tensors where tensor.rows > 1 && !TensorInfo.isTable(tensor.name) {
        if tensor.name == "head.weight" && !head { continue }
        let operations = 2 * tensor.rows * tensor.columns
        switch tensor.format {
        case .int4, .int5, .int8: integerOperations += operations
        case .f32, .f16, .bf16: floatOperations += operations
        case .bytes: break
        }
      }
    }
  }
}
