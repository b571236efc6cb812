internal import CRWKVKernels

/// The kernel table of this machine: plain functions on pointers, callable from any thread.
typealias Kernels = rk_kernels

/// A function's copy of the table costs nothing compared with its work and keeps the hot path free of
/// global-variable checks.
nonisolated(unsafe) let bestKernels: Kernels = rk_kernels_best().pointee

/// The instruction set in use: "scalar", "avx2", "avx512", "neon", …
public var instructionSet: String { String(cString: bestKernels.name) }
