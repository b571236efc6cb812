// SPDX-License-Identifier: MIT
internal import CRWKVKernels
internal import Glibc

/// The kernel table of this machine: plain functions on pointers, callable from any thread.
typealias Kernels = rk_kernels

/// A function's copy of the table costs nothing compared with its work and keeps the hot path free of
/// global-variable checks.
nonisolated(unsafe) let bestKernels: Kernels = rk_kernels_best().pointee

/// The instruction set in use: "scalar", "avx2", "avx512", "neon", …
public var instructionSet: String { String(cString: bestKernels.name) }

/// `instructionSet`, or why there is none: for people.
package var instructionSetOrProblem: String {
  do throws(ModelError) {
    try checkInstructionSet()
    return instructionSet
  } catch { return "\(error)" }
}

/// Refuses a value of the environment variable RWKV_ISA that would be without effect: the name of no instruction set
/// for which this build has kernels.
package func checkInstructionSet() throws(ModelError) {
  guard let cap = getenv("RWKV_ISA").map({ String(cString: $0) }), !cap.isEmpty else { return }
  var names: [String] = []
  while let name = rk_kernels_name(Int32(names.count)) { names.append(String(cString: name)) }
  guard names.contains(cap) else { throw ModelError(.unknownInstructionSet(cap, known: names)) }
}
