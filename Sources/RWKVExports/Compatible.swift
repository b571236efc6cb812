// SPDX-License-Identifier: MIT
public import CRWKVABI
import Glibc
import RWKV
import RWKVFormat

// Part 1 of rwkv.h: what rwkv.cpp has.

@c @implementation
public func rwkv_set_print_errors(_ ctx: OpaquePointer?, _ prints: Bool) {
  if ctx == nil { ErrorSlot.ofThread.prints = prints } else { ask(ctx, ()) { $0.errors.prints = prints } }
}

@c @implementation
public func rwkv_get_print_errors(_ ctx: OpaquePointer?) -> Bool {
  ctx == nil ? ErrorSlot.ofThread.prints : ask(ctx, false) { $0.errors.prints }
}

@c @implementation
public func rwkv_get_last_error(_ ctx: OpaquePointer?) -> rwkv_error_flags {
  let slot = Handles.find(ctx, ContextObject.self)?.errors ?? ErrorSlot.ofThread
  return rwkv_error_flags(rawValue: slot.take())
}

@c @implementation
public func rwkv_init_from_file(_ path: UnsafePointer<CChar>?, _ threads: UInt32, _: UInt32) -> OpaquePointer?
{
  begin(nil) {
    guard threads > 0 else { throw Failure(RWKV_ERROR_ARGS, "n_threads is 0, expected 1…\(mostThreads)") }
    return try openContext(text(path, "model_file_path"), threads: threads)
  }
}

@c @implementation
public func rwkv_clone_context(_ ctx: OpaquePointer?, _ threads: UInt32) -> OpaquePointer? {
  ask(ctx, nil) { context in
    Handles.add(try ContextObject(context.model, threads: Int(threads), prints: context.errors.prints))
  }
}

@c @implementation
public func rwkv_gpu_offload_layers(_ ctx: OpaquePointer?, _: UInt32) -> Bool {
  ask(ctx, false) { _ in true }
}

@c @implementation
public func rwkv_eval(
  _ ctx: OpaquePointer?, _ token: UInt32, _ stateIn: UnsafePointer<Float>?,
  _ stateOut: UnsafeMutablePointer<Float>?, _ logitsOut: UnsafeMutablePointer<Float>?
) -> Bool {
  withUnsafePointer(to: token) { rwkv_eval_sequence(ctx, $0, 1, stateIn, stateOut, logitsOut) }
}

@c @implementation
public func rwkv_eval_sequence(
  _ ctx: OpaquePointer?, _ tokens: UnsafePointer<UInt32>?, _ count: Int, _ stateIn: UnsafePointer<Float>?,
  _ stateOut: UnsafeMutablePointer<Float>?, _ logitsOut: UnsafeMutablePointer<Float>?
) -> Bool {
  use(ctx, false) { context in
    let model = context.model
    try refuseHybrid(model)
    // rwkv.cpp builds its graph for such calls and evaluates nothing; here is nothing to prepare.
    if tokens == nil && count > 0 { return true }
    let tokens = try context.tokens(tokens, count)
    // The state is advanced where it goes; only without such a place the library needs one of its own.
    let state: State
    if let stateOut, stateIn == UnsafePointer(stateOut) {
      state = State(model, over: stateOut)
    } else {
      state = stateOut.map { State(model, over: $0) } ?? model.newState()
      if let stateIn, let target = state.flat.baseAddress {
        memmove(target, stateIn, state.count * MemoryLayout<Float>.size)
      } else if stateOut != nil {
        state.assign(model.newState())
      }
    }
    try context.read(.tokens(tokens[...]), state, logits: logitsOut)
    return true
  }
}

@c @implementation
public func rwkv_eval_sequence_in_chunks(
  _ ctx: OpaquePointer?, _ tokens: UnsafePointer<UInt32>?, _ count: Int, _ chunkSize: Int,
  _ stateIn: UnsafePointer<Float>?, _ stateOut: UnsafeMutablePointer<Float>?,
  _ logitsOut: UnsafeMutablePointer<Float>?
) -> Bool {
  guard chunkSize != 0 else {
    return ask(ctx, false) { _ in throw Failure(RWKV_ERROR_ARGS, "chunk_size is 0, expected 1 or more") }
  }
  return rwkv_eval_sequence(ctx, tokens, count, stateIn, stateOut, logitsOut)
}

/// RWKV-7b and RWKV-X remember more than a buffer of fixed length holds.
private func refuseHybrid(_ model: Model) throws {
  let version = model.configuration.version
  guard version == .x || version == .v7b else { return }
  throw Failure(
    RWKV_ERROR_MODEL, RWKV_ERROR_UNSUPPORTED,
    "RWKV-\(version.rawValue.uppercased())'s state has no fixed length; use rwkv_state_new and rwkv_state_eval"
  )
}

@c @implementation
public func rwkv_get_n_vocab(_ ctx: OpaquePointer?) -> Int {
  ask(ctx, 0) { $0.model.configuration.vocabulary }
}

@c @implementation
public func rwkv_get_n_embed(_ ctx: OpaquePointer?) -> Int {
  ask(ctx, 0) { $0.model.configuration.embedding }
}

@c @implementation
public func rwkv_get_n_layer(_ ctx: OpaquePointer?) -> Int { ask(ctx, 0) { $0.model.configuration.layers } }

@c @implementation
public func rwkv_get_state_len(_ ctx: OpaquePointer?) -> Int {
  ask(ctx, 0) { context in
    try refuseHybrid(context.model)
    return context.model.stateCount
  }
}

@c @implementation
public func rwkv_get_logits_len(_ ctx: OpaquePointer?) -> Int { rwkv_get_n_vocab(ctx) }

@c @implementation
public func rwkv_get_state_buffer_element_count(_ ctx: OpaquePointer?) -> UInt32 {
  UInt32(clamping: rwkv_get_state_len(ctx))
}

@c @implementation
public func rwkv_get_logits_buffer_element_count(_ ctx: OpaquePointer?) -> UInt32 {
  UInt32(clamping: rwkv_get_logits_len(ctx))
}

@c @implementation
public func rwkv_init_state(_ ctx: OpaquePointer?, _ state: UnsafeMutablePointer<Float>?) {
  ask(ctx, ()) { context in
    try refuseHybrid(context.model)
    guard let state else { throw Failure.null("state") }
    State(context.model, over: state).assign(context.model.newState())
  }
}

@c @implementation
public func rwkv_free(_ ctx: OpaquePointer?) { Handles.remove(ctx, ContextObject.self) }

@c @implementation
public func rwkv_quantize_model_file(
  _ input: UnsafePointer<CChar>?, _ output: UnsafePointer<CChar>?, _ format: UnsafePointer<CChar>?
) -> Bool {
  rwkv_quantize_with_vocabulary(input, output, format, nil)
}

@c @implementation
public func rwkv_get_system_info_string() -> UnsafePointer<CChar>? { UnsafePointer(systemInformation) }

/// Made once and never freed.
nonisolated(unsafe) private let systemInformation: UnsafeMutablePointer<CChar>? = strdup(
  "librwkv \(RWKV_VERSION_MAJOR).\(RWKV_VERSION_MINOR).\(RWKV_VERSION_PATCH), \(instructionSet), "
    + "\(processorCount()) processors")
