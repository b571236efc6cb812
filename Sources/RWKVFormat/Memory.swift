// SPDX-License-Identifier: MIT
import Glibc

/// Memory that this process occupies now [bytes].
public func residentMemory() -> Int {
  // "size resident shared …" in pages
  let fields = readText("/proc/self/statm")?.split(separator: " ") ?? []
  guard fields.count > 1, let pages = Int(fields[1]) else { return 0 }
  return pages * Int(getpagesize())
}

/// Memory that this process can occupy in all without being killed or refused more, as far as the system tells
/// [bytes]: what it has, and the least of what the machine, its control groups and its limits still give.
///
/// Pages of files count as free: the kernel drops them when it needs the room.
public func memoryCapacity() -> Int? {
  let more = [machineMemory(), controlGroupMemory(), addressSpace()].compactMap { $0 }.min()
  return more.map { residentMemory() + max(0, $0) }
}

private func machineMemory() -> Int? {
  readText("/proc/meminfo").flatMap { value(of: "MemAvailable:", in: $0) }.map { $0 << 10 }
}

/// What RLIMIT_AS and RLIMIT_DATA leave when all threads have been started, whose stacks count in full.
private func addressSpace() -> Int? {
  var stack = rlimit()
  let isKnown = getrlimit(__rlimit_resource_t(RLIMIT_STACK.rawValue), &stack) == 0
  let stackBytes = isKnown && stack.rlim_cur < 1 << 30 ? Int(stack.rlim_cur) : 8 << 20
  // Dispatch has one for itself, and the stream of weights one.
  let stacks = (processorCount() + 1) * stackBytes
  guard let status = readText("/proc/self/status") else { return nil }
  let used = [(RLIMIT_AS, "VmSize:"), (RLIMIT_DATA, "VmData:")]
  return used.compactMap { resource, field in
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(resource.rawValue), &limit) == 0, limit.rlim_cur < UInt64(Int.max)
    else { return nil }
    return value(of: field, in: status).map { Int(limit.rlim_cur) - ($0 << 10) - stacks }
  }.min()
}

/// The least that the memory groups of this process leave, from its own to the root.
private func controlGroupMemory() -> Int? {
  guard let lines = readText("/proc/self/cgroup")?.split(separator: "\n") else { return nil }
  var smallest: Int?
  for line in lines {
    // "0::/path" in version 2, "N:memory:/path" in version 1
    let fields = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
    guard fields.count == 3, fields[1].isEmpty || fields[1].split(separator: ",").contains("memory") else {
      continue
    }
    let isOld = !fields[1].isEmpty
    var path = fields[2].split(separator: "/").map(String.init)
    while true {
      let folder = (["/sys/fs/cgroup" + (isOld ? "/memory" : "")] + path).joined(separator: "/")
      if let left = memoryLeft(inGroup: folder, isOld: isOld) { smallest = min(smallest ?? left, left) }
      if path.popLast() == nil { break }
    }
  }
  return smallest
}

/// Limit − use + pages of files of one group.
private func memoryLeft(inGroup folder: String, isOld: Bool) -> Int? {
  func number(_ name: String) -> Int? {
    readText("\(folder)/\(name)").flatMap { Int($0.prefix { $0.isNumber }) }
  }
  let limits = isOld ? ["memory.limit_in_bytes"] : ["memory.max", "memory.high"]
  guard let limit = limits.compactMap(number).min(),
    let used = number(isOld ? "memory.usage_in_bytes" : "memory.current")
  else { return nil }
  let counts = readText("\(folder)/memory.stat") ?? ""
  let prefix = isOld ? "total_" : ""
  let files = ["inactive_file", "active_file"].reduce(0) { $0 + (value(of: prefix + $1, in: counts) ?? 0) }
  return limit - used + files
}

/// The number after `name` at the start of a line.
private func value(of name: String, in text: String) -> Int? {
  for line in text.split(separator: "\n") {
    let fields = line.split { $0 == " " || $0 == "\t" }
    if fields.count > 1, fields[0] == name { return Int(fields[1]) }
  }
  return nil
}
