// SPDX-License-Identifier: MIT
public import CRWKVABI
import RWKV
import RWKVFormat

// Part 2 of rwkv.h: many texts at once.

@c @implementation
public func rwkv_eval_texts(
  _ ctx: OpaquePointer?, _ states: UnsafePointer<OpaquePointer?>?, _ tokens: UnsafePointer<UInt32>?,
  _ lengths: UnsafePointer<Int>?, _ count: Int, _ logits: UnsafeMutablePointer<Float>?,
  _ progress: rwkv_progress?,
  _ user: UnsafeMutableRawPointer?
) -> Bool {
  use(ctx, false) { context in
    let texts = try context.texts(tokens, lengths, count)
    let V = context.model.configuration.vocabulary
    return try context.withStates(states, texts) { states in
      try context.evaluator.read(
        texts, states, output: logits == nil ? .none : .lastOfEachRun, progress: texts.report(progress, user)
      ) { place in
        guard let logits, let source = context.evaluator.logits(place.row).baseAddress else { return }
        (logits + place.text * V).update(from: source, count: V)
      }
      return true
    }
  }
}

@c @implementation
public func rwkv_score_texts(
  _ ctx: OpaquePointer?, _ states: UnsafePointer<OpaquePointer?>?, _ tokens: UnsafePointer<UInt32>?,
  _ targets: UnsafePointer<UInt32>?, _ lengths: UnsafePointer<Int>?, _ count: Int,
  _ logprobs: UnsafeMutablePointer<Double>?, _ best: UnsafeMutablePointer<UInt32>?,
  _ progress: rwkv_progress?,
  _ user: UnsafeMutableRawPointer?
) -> Bool {
  use(ctx, false) { context in
    guard let logprobs else { throw Failure.null("logprobs_out") }
    let texts = try context.texts(tokens, lengths, count)
    let targets = try context.texts(targets, lengths, count)
    let starts = texts.reduce(into: [0]) { $0.append(($0.last ?? 0) + $1.count) }
    return try context.withStates(states, texts) { states in
      let scores = try context.evaluator.scores(
        texts, states, targets: targets, progress: texts.report(progress, user))
      for (start, scores) in zip(starts, scores) {
        for (index, score) in scores.enumerated() {
          logprobs[start + index] = score.logProbability
          best?[start + index] = UInt32(score.mostLikely)
        }
      }
      return true
    }
  }
}

@c @implementation
public func rwkv_embed_texts(
  _ ctx: OpaquePointer?, _ tokens: UnsafePointer<UInt32>?, _ lengths: UnsafePointer<Int>?, _ count: Int,
  _ vectors: UnsafeMutablePointer<Float>?, _ progress: rwkv_progress?, _ user: UnsafeMutableRawPointer?
) -> Bool {
  embed(ctx, EmbeddingOptions(), tokens, lengths, count, vectors, progress, user)
}

@c @implementation
public func rwkv_embed_texts_for(
  _ ctx: OpaquePointer?, _ task: UnsafePointer<CChar>?, _ normalizes: Bool, _ tokens: UnsafePointer<UInt32>?,
  _ lengths: UnsafePointer<Int>?, _ count: Int, _ vectors: UnsafeMutablePointer<Float>?,
  _ progress: rwkv_progress?, _ user: UnsafeMutableRawPointer?
) -> Bool {
  ask(ctx, false) { context in
    var options = EmbeddingOptions()
    options.normalizes = normalizes
    if task != nil {
      let name = try text(task, "task")
      guard context.model.configuration.kind == .embedding else {
        throw Failure(RWKV_ERROR_ARGS, "task: only embedding models have heads for tasks; give NULL")
      }
      guard let task = EmbeddingTask(rawValue: name) else {
        let names = EmbeddingTask.allCases.map(\.rawValue).joined(separator: ", ")
        throw Failure(RWKV_ERROR_ARGS, "task: '\(name)', expected one of \(names)")
      }
      options.task = task
    }
    return embed(ctx, options, tokens, lengths, count, vectors, progress, user)
  }
}

private func embed(
  _ ctx: OpaquePointer?, _ options: EmbeddingOptions, _ tokens: UnsafePointer<UInt32>?,
  _ lengths: UnsafePointer<Int>?, _ count: Int, _ vectors: UnsafeMutablePointer<Float>?,
  _ progress: rwkv_progress?, _ user: UnsafeMutableRawPointer?
) -> Bool {
  use(ctx, false) { context in
    guard let vectors else { throw Failure.null("vectors_out") }
    let texts = try context.texts(tokens, lengths, count, least: 0)
    let D = context.model.configuration.embedding
    context.latest = nil
    let result = try context.evaluator.embeddings(texts, nil, options, progress: texts.report(progress, user))
    for (text, vector) in result.enumerated() {
      for (index, value) in vector.enumerated() { vectors[text * D + index] = value }
    }
    return true
  }
}

extension [[Int]] {
  /// The library's progress, in tokens, as C wants it.
  fileprivate func report(_ progress: rwkv_progress?, _ user: UnsafeMutableRawPointer?) -> (Int) -> Bool {
    let total = Double(Swift.max(1, joined().count))
    return { progress?(Swift.min(1, Double($0) / total), user) ?? true }
  }
}

extension ContextObject {
  /// `count` texts whose tokens stand one after another, each of at least `least` tokens.
  fileprivate func texts(
    _ tokens: UnsafePointer<UInt32>?, _ lengths: UnsafePointer<Int>?, _ count: Int, least: Int = 1
  ) throws -> [[Int]] {
    guard let lengths else { throw Failure.null("lengths") }
    guard count > 0 else { throw Failure(RWKV_ERROR_ARGS, "no texts; give at least one") }
    let counts = UnsafeBufferPointer(start: lengths, count: count)
    var total = 0
    for (index, length) in counts.enumerated() {
      let (sum, overflow) = total.addingReportingOverflow(length)
      guard length >= least, !overflow else {
        throw Failure(RWKV_ERROR_ARGS, "text \(index) has \(length) tokens, expected \(least) or more")
      }
      total = sum
    }
    let all = total == 0 ? [] : try self.tokens(tokens, total)
    var start = 0
    return counts.map { length in
      defer { start += length }
      return Array(all[start..<start + length])
    }
  }

  /// Runs `body` with a state for each text while nobody else uses them. The same state twice is an error.
  fileprivate func withStates(
    _ states: UnsafePointer<OpaquePointer?>?, _ texts: [[Int]], _ body: ([State]) throws -> Bool
  ) throws -> Bool {
    guard let states else { throw Failure.null("states") }
    let objects = try texts.indices.map { try Handles.get(states[$0], StateObject.self) }
    for object in objects { try object.check(self) }
    latest = nil
    return try exclusivelyAll(objects[...]) { try body(objects.map(\.state)) }
  }
}
