// SPDX-License-Identifier: MIT

/// The C library's, whose Swift module leaves malloc.h out.
@_silgen_name("mallopt")
private func mallopt(_ parameter: Int32, _ value: Int32) -> Int32

/// One heap, since one for each thread would reserve 64 MiB of addresses, of which `ulimit -v` may leave few; and
/// buffers go back to the system when they are freed, as those of a load and the blocks of a file on a server are.
package func leanMalloc() {
  let (arenaMax, mmapThreshold): (Int32, Int32) = (-8, -3)
  _ = (mallopt(arenaMax, 1), mallopt(mmapThreshold, 128 << 10))
}
