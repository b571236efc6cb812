// SPDX-License-Identifier: MIT
import Glibc

/// Processors that this process may keep busy: its affinity mask, capped by the CPU quota of its control group.
///
/// What `sysconf` and `activeProcessorCount` say in a container is the size of the host; threads beyond the quota only
/// make the kernel stop all of them for the rest of each period.
public func processorCount() -> Int {
  let count = allowedProcessors() ?? sysconf(Int32(_SC_NPROCESSORS_ONLN))
  return max(1, min(count, controlGroupProcessors() ?? count))
}

/// Processors in the affinity mask.
private func allowedProcessors() -> Int? {
  // sched_getaffinity is not visible from Swift; the kernel prints the same mask, as in
  // "Cpus_allowed:\t0000000f,ffffffff".
  let line = readText("/proc/self/status")?.split(separator: "\n").first { $0.hasPrefix("Cpus_allowed:") }
  guard let line else { return nil }
  let count = line.dropFirst(13).reduce(0) { $0 + ($1.hexDigitValue ?? 0).nonzeroBitCount }
  return count > 0 ? count : nil
}

/// The smallest quota of this process's control group (version 2) and those above it, rounded up to whole processors.
private func controlGroupProcessors() -> Int? {
  let line = readText("/proc/self/cgroup")?.split(separator: "\n").first { $0.hasPrefix("0::/") }
  guard let line else { return nil }
  var path = line.dropFirst(3).split(separator: "/")[...]
  var smallest: Int?
  while true {
    let file = (["/sys/fs/cgroup"] + path.map(String.init) + ["cpu.max"]).joined(separator: "/")
    if let quota = readText(file).flatMap(processors(ofQuota:)) { smallest = min(smallest ?? quota, quota) }
    if path.popLast() == nil { return smallest }
  }
}

/// "QUOTA PERIOD" [µs] or "max PERIOD", as in `cpu.max`.
package func processors(ofQuota text: String) -> Int? {
  let fields = text.split { $0 == " " || $0 == "\n" }
  guard fields.count == 2, let quota = Int(fields[0]), let period = Int(fields[1]), quota > 0, period > 0
  else {
    return nil
  }
  return (quota - 1) / period + 1
}

/// The first 4 KiB of a small file.
func readText(_ path: String) -> String? {
  let descriptor = open(path, O_RDONLY | O_CLOEXEC)
  guard descriptor >= 0 else { return nil }
  defer { close(descriptor) }
  var bytes = [UInt8](repeating: 0, count: 4096)
  let count = read(descriptor, &bytes, bytes.count)
  return count >= 0 ? String(decoding: bytes[..<count], as: UTF8.self) : nil
}
