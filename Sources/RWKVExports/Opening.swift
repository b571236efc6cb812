// SPDX-License-Identifier: MIT
import CRWKVABI
import Glibc
import RWKV
import RWKVFormat
import RWKVQuantization

/// Threads of one context or scheduler at most.
let mostThreads = 1024

/// How many threads `n_threads` asks for; 0 is for all processors that this process may use.
func threadCount(_ wanted: UInt32) throws -> Int {
  guard wanted <= mostThreads else {
    throw Failure(RWKV_ERROR_ARGS, "n_threads is \(wanted), expected at most \(mostThreads)")
  }
  return wanted == 0 ? min(processorCount(), mostThreads) : Int(wanted)
}

/// Opens a model for `threads` threads: see `threadCount`.
func openContext(
  _ path: String, threads: UInt32, memoryLimit: Int? = nil, maximumContext: Int? = nil,
  _ progress: @escaping @Sendable (Double) -> Bool = { _ in true }
) throws -> OpaquePointer? {
  let threads = try threadCount(threads)
  let model = try openModel(path, threads: threads, memoryLimit, maximumContext, progress)
  return Handles.add(try ContextObject(model, threads: threads, prints: ErrorSlot.ofThread.prints))
}

/// Opens a `.rwkv` file, or another checkpoint by way of a temporary one.
func openModel(
  _ path: String, threads: Int, _ memoryLimit: Int? = nil, _ maximumContext: Int? = nil,
  _ progress: @escaping @Sendable (Double) -> Bool = { _ in true }
) throws -> Model {
  guard access(path, R_OK) == 0 else {
    throw Failure(RWKV_ERROR_FILE, RWKV_ERROR_FILE_OPEN, "\(path): \(String(cString: strerror(errno)))")
  }
  let start = firstBytes(path, 24)
  if start.starts(with: [0x89, 0x52, 0x57, 0x4B, 0x56]) {
    return try Model(
      path: path, threads: threads, memoryLimit: memoryLimit, maximumContext: maximumContext,
      progress: progress)
  }
  let folder = try temporaryFolder()
  let file = folder + "/model.rwkv"
  defer {
    // The model holds the file open; it needs no name.
    unlink(file)
    rmdir(folder)
  }
  var options = ConversionOptions()
  // FP32 models of rwkv.cpp stay as they are; its 16-bit and quantized ones fit into 16 bits.
  let isFullPrecision = start.starts(with: [0x66, 0x6D, 0x67, 0x67]) && start[20...] == [0, 0, 0, 0]
  options.type = isFullPrecision ? .fp32 : .fp16
  options.acceptsQuantized = true
  options.threads = threads
  options.writer = "librwkv"
  _ = try Conversion.convert(path, to: file, options) { progress(0.5 * $0) }
  return try Model(
    path: file, threads: threads, memoryLimit: memoryLimit, maximumContext: maximumContext
  ) { progress(0.5 + 0.5 * $0) }
}

private func firstBytes(_ path: String, _ count: Int) -> [UInt8] {
  let descriptor = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC)
  guard descriptor >= 0 else { return [] }
  defer { close(descriptor) }
  var bytes = [UInt8](repeating: 0, count: count)
  let length = read(descriptor, &bytes, count)
  return Array(bytes.prefix(max(0, length)))
}

private func temporaryFolder() throws -> String {
  let parent = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
  var template = Array("\(parent)/rwkv-XXXXXX".utf8CString)
  guard mkdtemp(&template) != nil else {
    throw Failure(RWKV_ERROR_FILE, RWKV_ERROR_FILE_WRITE, "\(parent): \(String(cString: strerror(errno)))")
  }
  return String(decoding: template.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
}
