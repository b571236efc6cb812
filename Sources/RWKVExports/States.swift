// SPDX-License-Identifier: MIT
public import CRWKVABI
import RWKV

// Part 2 of rwkv.h: states that stay in the library.

@c @implementation
public func rwkv_state_new(_ ctx: OpaquePointer?) -> OpaquePointer? {
  ask(ctx, nil) { Handles.add(StateObject($0.model.newState())) }
}

/// Runs a call that has a state and no context.
private func with<Result>(_ handle: OpaquePointer?, _ failed: Result, _ body: (StateObject) throws -> Result)
  -> Result
{
  attempt(failed) {
    let state = try Handles.get(handle, StateObject.self)
    return try state.exclusively { try body(state) }
  }
}

@c @implementation
public func rwkv_state_clone(_ state: OpaquePointer?) -> OpaquePointer? {
  with(state, nil) { Handles.add(StateObject($0.state.copy(), tokens: $0.tokens)) }
}

@c @implementation
public func rwkv_state_reset(_ state: OpaquePointer?) -> Bool {
  with(state, false) {
    $0.state.assign($0.state.model.newState())
    return true
  }
}

@c @implementation
public func rwkv_state_free(_ state: OpaquePointer?) { Handles.remove(state, StateObject.self) }

@c @implementation
public func rwkv_state_get_size(_ state: OpaquePointer?) -> Int { with(state, failed) { $0.state.byteCount } }

@c @implementation
public func rwkv_state_eval(
  _ ctx: OpaquePointer?, _ state: OpaquePointer?, _ tokens: UnsafePointer<UInt32>?, _ count: Int,
  _ logits: UnsafeMutablePointer<Float>?, _ progress: rwkv_progress?, _ user: UnsafeMutableRawPointer?
) -> Bool {
  use(ctx, false) { context in
    let state = try Handles.get(state, StateObject.self)
    try state.check(context)
    let tokens = try context.tokens(tokens, count)
    return try state.exclusively {
      try context.read(.tokens(tokens[...]), state.state, logits: logits) { end in
        progress?(Double(end) / Double(count), user) ?? true
      }
      return true
    }
  }
}

@c @implementation
public func rwkv_state_eval_vectors(
  _ ctx: OpaquePointer?, _ state: OpaquePointer?, _ vectors: UnsafePointer<Float>?, _ count: Int,
  _ logits: UnsafeMutablePointer<Float>?
) -> Bool {
  use(ctx, false) { context in
    let state = try Handles.get(state, StateObject.self)
    try state.check(context)
    guard let vectors else { throw Failure.null("vectors") }
    let (length, overflow) = count.multipliedReportingOverflow(by: context.model.configuration.embedding)
    guard count > 0, !overflow else { throw Failure(RWKV_ERROR_ARGS, "no vectors; give at least one") }
    let values = UnsafeBufferPointer(start: vectors, count: length)
    guard let wrong = values.firstIndex(where: { !$0.isFinite }) else {
      return try state.exclusively {
        try context.read(.vectors(values), state.state, logits: logits)
        return true
      }
    }
    throw Failure(
      RWKV_ERROR_ARGS, RWKV_ERROR_DATA, "vectors[\(wrong)] is \(values[wrong]), expected a finite number")
  }
}

@c @implementation
public func rwkv_eval_batch(
  _ ctx: OpaquePointer?, _ states: UnsafePointer<OpaquePointer?>?, _ tokens: UnsafePointer<UInt32>?,
  _ count: Int,
  _ logits: UnsafeMutablePointer<Float>?
) -> Bool {
  use(ctx, false) { context in
    guard let states else { throw Failure.null("states") }
    guard (1...Batch.capacity).contains(count) else {
      throw Failure(RWKV_ERROR_ARGS, "\(count) states, expected 1…\(Batch.capacity)")
    }
    let tokens = try context.tokens(tokens, count)
    let objects = try (0..<count).map { try Handles.get(states[$0], StateObject.self) }
    return try exclusivelyAll(objects[...]) {
      context.latest = nil
      let batch = Batch(context.evaluator)
      try batch.decode(tokens, objects.map(\.state))
      guard let logits else { return true }
      let V = context.model.configuration.vocabulary
      for index in 0..<count {
        guard let source = batch.logits(index).baseAddress else { break }
        (logits + index * V).update(from: source, count: V)
      }
      context.latest = objects.last?.state
      return true
    }
  }
}

/// Runs `body` when all states are free. The same state twice is not.
func exclusivelyAll<Result>(_ states: ArraySlice<StateObject>, _ body: () throws -> Result) throws
  -> Result
{
  guard let first = states.first else { return try body() }
  return try first.exclusively { try exclusivelyAll(states.dropFirst(), body) }
}

@c @implementation
public func rwkv_get_hidden(_ ctx: OpaquePointer?, _ hidden: UnsafeMutablePointer<Float>?) -> Bool {
  use(ctx, false) { context in
    guard let hidden else { throw Failure.null("hidden_out") }
    let rows = context.evaluator.headCount
    guard rows > 0, let source = context.evaluator.hidden(rows - 1).baseAddress else {
      throw Failure(RWKV_ERROR_ARGS, "no logits were made yet; evaluate with logits_out first")
    }
    hidden.update(from: source, count: context.model.configuration.embedding)
    return true
  }
}

// MARK: - Saved states

/// The tokens of a C array of any length, which may be no model's.
func list(_ tokens: UnsafePointer<UInt32>?, _ count: Int) throws -> [Int] {
  guard count != 0 else { return [] }
  guard let tokens else { throw Failure.null("tokens") }
  guard (0...State.maximumTokens).contains(count) else {
    throw Failure(RWKV_ERROR_ARGS, "\(count) tokens, expected at most \(State.maximumTokens)")
  }
  return UnsafeBufferPointer(start: tokens, count: count).map { Int($0) }
}

@c @implementation
public func rwkv_state_save(
  _ state: OpaquePointer?, _ path: UnsafePointer<CChar>?, _ tokens: UnsafePointer<UInt32>?, _ count: Int
) -> Bool {
  with(state, false) { object in
    try object.state.save(to: text(path, "path"), tokens: list(tokens, count))
    return true
  }
}

@c @implementation
public func rwkv_state_save_memory(
  _ state: OpaquePointer?, _ tokens: UnsafePointer<UInt32>?, _ count: Int, _ buffer: UnsafeMutableRawPointer?,
  _ size: Int
) -> Int {
  with(state, failed) { object in
    let bytes = try object.state.encoded(tokens: list(tokens, count))
    guard size > 0 else { return bytes.count }
    guard let buffer else { throw Failure.null("buffer") }
    bytes.withUnsafeBytes { bytes in
      guard let base = bytes.baseAddress else { return }
      buffer.copyMemory(from: base, byteCount: min(size, bytes.count))
    }
    return bytes.count
  }
}

@c @implementation
public func rwkv_state_load(_ ctx: OpaquePointer?, _ path: UnsafePointer<CChar>?) -> OpaquePointer? {
  ask(ctx, nil) { context in
    let saved = try context.model.loadState(from: text(path, "path"))
    return Handles.add(StateObject(saved.state, tokens: saved.tokens))
  }
}

@c @implementation
public func rwkv_state_load_memory(
  _ ctx: OpaquePointer?, _ buffer: UnsafeRawPointer?, _ size: Int
) -> OpaquePointer? {
  ask(ctx, nil) { context in
    guard let buffer else { throw Failure.null("buffer") }
    let bytes = UnsafeRawBufferPointer(start: buffer, count: max(0, size))
    let saved = try context.model.loadState(bytes: Array(bytes))
    return Handles.add(StateObject(saved.state, tokens: saved.tokens))
  }
}

@c @implementation
public func rwkv_state_get_tokens(
  _ state: OpaquePointer?, _ tokens: UnsafeMutablePointer<UInt32>?, _ capacity: Int
) -> Int {
  with(state, failed) { try write($0.tokens, tokens, capacity) }
}
