// SPDX-License-Identifier: MIT
import FuzzTargets
import Glibc

// libFuzzer has the main function and calls these.

private let target: FuzzTarget = {
  guard let name = getenv("RWKV_FUZZ_TARGET"), let target = FuzzTarget(rawValue: String(cString: name)) else {
    let names = FuzzTarget.allCases.map(\.rawValue).joined(separator: " ")
    fatalError("RWKV_FUZZ_TARGET must be one of: \(names)")
  }
  return target
}()

/// Seconds of CPU that one input may take: a machine with other work must not make findings.
private let allowed = 1.0

/// Seconds of CPU after which the run ends, counted in the same way.
private let budget = getenv("RWKV_FUZZ_SECONDS").flatMap { Double(String(cString: $0)) } ?? .infinity

@_cdecl("LLVMFuzzerInitialize")
public func initialize(
  _ count: UnsafeMutablePointer<CInt>?,
  _ arguments: UnsafeMutablePointer<UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>?>?
) -> CInt {
  if let folder = getenv("RWKV_FUZZ_SEEDS") {
    do { try FuzzSeeds.write(to: String(cString: folder)) } catch { fatalError("\(error)") }
    exit(0)
  }
  target.run([])  // what is made once is not the first input's
  return 0
}

@_cdecl("LLVMFuzzerTestOneInput")
public func testOneInput(_ data: UnsafePointer<UInt8>?, _ size: Int) -> CInt {
  let start = clock()
  target.run(Array(UnsafeBufferPointer(start: data, count: size)))
  let seconds = Double(clock() - start) / Double(CLOCKS_PER_SEC)
  if seconds > allowed { fatalError("took \(seconds) s of CPU, expected at most \(allowed)") }
  // libFuzzer then prints its figures and ends.
  if Double(start) / Double(CLOCKS_PER_SEC) > budget { raise(SIGUSR1) }
  return 0
}
