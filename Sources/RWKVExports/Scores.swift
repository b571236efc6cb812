// SPDX-License-Identifier: MIT
public import CRWKVABI
import RWKV
import RWKVTokenizer

// Part 2 of rwkv.h: what is known after each token of a text, and the vectors of texts.

@c @implementation
public func rwkv_state_eval_each(
  _ ctx: OpaquePointer?, _ state: OpaquePointer?, _ tokens: UnsafePointer<UInt32>?, _ count: Int,
  _ logits: UnsafeMutablePointer<Float>?, _ progress: rwkv_progress?, _ user: UnsafeMutableRawPointer?
) -> Bool {
  readEach(ctx, state, tokens, count, progress, user) { context, session, tokens, progress in
    guard let logits else { throw Failure.null("logits_out") }
    let V = context.model.configuration.vocabulary
    try session.forEachLogits(tokens, progress: progress) { index, row in
      if let row = row.baseAddress { (logits + index * V).update(from: row, count: V) }
    }
  }
}

@c @implementation
public func rwkv_state_score(
  _ ctx: OpaquePointer?, _ state: OpaquePointer?, _ tokens: UnsafePointer<UInt32>?,
  _ targets: UnsafePointer<UInt32>?, _ count: Int, _ logprobs: UnsafeMutablePointer<Double>?,
  _ best: UnsafeMutablePointer<UInt32>?, _ progress: rwkv_progress?, _ user: UnsafeMutableRawPointer?
) -> Bool {
  readEach(ctx, state, tokens, count, progress, user) { context, session, tokens, progress in
    guard let logprobs else { throw Failure.null("logprobs_out") }
    let targets = try context.tokens(targets, count)
    let scores = try session.scores(tokens, targets: targets, progress: progress)
    for (index, score) in scores.enumerated() {
      logprobs[index] = score.logProbability
      best?[index] = UInt32(score.mostLikely)
    }
  }
}

/// Runs `body` on a session over a state, with the tokens and the progress that C gave.
private func readEach(
  _ ctx: OpaquePointer?, _ state: OpaquePointer?, _ tokens: UnsafePointer<UInt32>?, _ count: Int,
  _ progress: rwkv_progress?, _ user: UnsafeMutableRawPointer?,
  _ body: (ContextObject, Session, [Int], (Int) -> Bool) throws -> Void
) -> Bool {
  use(ctx, false) { context in
    let state = try Handles.get(state, StateObject.self)
    try state.check(context)
    let tokens = try context.tokens(tokens, count)
    return try state.exclusively {
      context.latest = nil
      try body(context, Session(context.evaluator, state.state), tokens) {
        progress?(Double($0) / Double(count), user) ?? true
      }
      context.latest = state.state
      return true
    }
  }
}

@c @implementation
public func rwkv_embed(
  _ ctx: OpaquePointer?, _ text: UnsafePointer<CChar>?, _ length: Int, _ vector: UnsafeMutablePointer<Float>?,
  _ progress: rwkv_progress?, _ user: UnsafeMutableRawPointer?
) -> Bool {
  use(ctx, false) { context in
    guard let vector else { throw Failure.null("vector_out") }
    let tokens = try context.tokenizer().encode(bytes(text, length, "text"))
    context.latest = nil
    let session = Session(context.evaluator, context.model.newState())
    let values = try session.embedding(tokens) {
      progress?(Double($0) / Double(tokens.count + 1), user) ?? true
    }
    for (index, value) in values.enumerated() { vector[index] = value }
    return true
  }
}
