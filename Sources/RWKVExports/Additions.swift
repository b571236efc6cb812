// SPDX-License-Identifier: MIT
public import CRWKVABI
import RWKV
import RWKVFormat
import RWKVTokenizer

// Part 2 of rwkv.h, without states: the model, its text, sampling and generation.

/// What functions that return a length return when they fail.
let failed = -1  // (size_t) -1

@c @implementation
public func rwkv_version_number() -> UInt32 {
  UInt32(RWKV_VERSION_MAJOR * 1_000_000 + RWKV_VERSION_MINOR * 1000 + RWKV_VERSION_PATCH)
}

@c @implementation
public func rwkv_get_last_error_text(
  _ ctx: OpaquePointer?, _ buffer: UnsafeMutablePointer<CChar>?, _ size: Int
) -> Int {
  let slot = Handles.find(ctx, ContextObject.self)?.errors ?? ErrorSlot.ofThread
  return (try? write(slot.text.utf8, buffer, size)) ?? failed
}

@c @implementation
public func rwkv_open(
  _ path: UnsafePointer<CChar>?, _ threads: UInt32, _ progress: rwkv_progress?,
  _ user: UnsafeMutableRawPointer?
) -> OpaquePointer? {
  attempt(nil) {
    let threads = threads == 0 ? min(processorCount(), 1024) : Int(threads)
    guard (1...1024).contains(threads) else {
      throw Failure(RWKV_ERROR_ARGS, "n_threads is \(threads), expected 0…1024")
    }
    nonisolated(unsafe) let user = user
    let model = try openModel(text(path, "path"), threads: threads) { progress?($0, user) ?? true }
    let prints = ErrorSlot.ofThread.prints
    return Handles.add(try ContextObject(model, threads: threads, prints: prints))
  }
}

@c @implementation
public func rwkv_get_architecture(
  _ ctx: OpaquePointer?, _ buffer: UnsafeMutablePointer<CChar>?, _ size: Int
) -> Int {
  ask(ctx, failed) { try write($0.model.configuration.version.rawValue.utf8, buffer, size) }
}

@c @implementation
public func rwkv_get_metadata_count(_ ctx: OpaquePointer?) -> Int {
  ask(ctx, failed) { $0.model.metadata.entries.count }
}

@c @implementation
public func rwkv_get_metadata_key(
  _ ctx: OpaquePointer?, _ index: Int, _ buffer: UnsafeMutablePointer<CChar>?, _ size: Int
) -> Int {
  ask(ctx, failed) { context in
    let entries = context.model.metadata.entries
    guard entries.indices.contains(index) else {
      throw Failure(RWKV_ERROR_ARGS, "there are \(entries.count) entries of metadata")
    }
    return try write(entries[index].key.utf8, buffer, size)
  }
}

@c @implementation
public func rwkv_get_metadata(
  _ ctx: OpaquePointer?, _ key: UnsafePointer<CChar>?, _ buffer: UnsafeMutablePointer<CChar>?, _ size: Int
) -> Int {
  ask(ctx, failed) { context in
    let key = try text(key, "key")
    guard let value = context.model.metadata[key] else {
      throw Failure(RWKV_ERROR_ARGS, RWKV_ERROR_KEY, "the model has no metadata '\(key)'")
    }
    let text =
      switch value {
      case .bool(let flag): "\(flag)"
      case .integer(let integer): "\(integer)"
      case .number(let number): "\(number)"
      case .string(let string): string
      case .integers(let integers): integers.map(String.init).joined(separator: ",")
      }
    return try write(text.utf8, buffer, size)
  }
}

// MARK: - Text

extension ContextObject {
  fileprivate func tokenizer() throws -> any Tokenizer {
    guard let tokenizer = model.tokenizer else {
      throw Failure(
        RWKV_ERROR_MODEL, RWKV_ERROR_PARAM_MISSING,
        "\(model.path): the file has no tokenizer; convert the checkpoint again with --tokenizer FILE")
    }
    return tokenizer
  }
}

@c @implementation
public func rwkv_encode(
  _ ctx: OpaquePointer?, _ text: UnsafePointer<CChar>?, _ length: Int,
  _ tokens: UnsafeMutablePointer<UInt32>?,
  _ capacity: Int
) -> Int {
  ask(ctx, failed) { context in
    try write(context.tokenizer().encode(bytes(text, length, "text")), tokens, capacity)
  }
}

@c @implementation
public func rwkv_decode(
  _ ctx: OpaquePointer?, _ tokens: UnsafePointer<UInt32>?, _ count: Int,
  _ buffer: UnsafeMutablePointer<CChar>?,
  _ size: Int
) -> Int {
  ask(ctx, failed) { context in
    let tokens = count == 0 ? [] : try context.tokens(tokens, count)
    return try write(context.tokenizer().decode(tokens), buffer, size)
  }
}

// MARK: - Sampling

@c @implementation
public func rwkv_sampler_options_init(_ options: UnsafeMutablePointer<rwkv_sampler_options>?) -> Bool {
  attempt(false) {
    guard let options else { throw Failure.null("options") }
    let defaults = SamplingOptions()
    options.pointee = rwkv_sampler_options(
      temperature: defaults.temperature, top_p: defaults.topP, presence_penalty: defaults.presencePenalty,
      frequency_penalty: defaults.frequencyPenalty, penalty_decay: defaults.penaltyDecay, seed: defaults.seed,
      top_k: UInt32(defaults.topK))
    return true
  }
}

@c @implementation
public func rwkv_sampler_new(
  _ ctx: OpaquePointer?, _ options: UnsafePointer<rwkv_sampler_options>?
) -> OpaquePointer? {
  ask(ctx, nil) { context in
    var chosen = SamplingOptions()
    if let options = options?.pointee {
      chosen.temperature = options.temperature
      chosen.topP = options.top_p
      chosen.topK = Int(options.top_k)
      chosen.presencePenalty = options.presence_penalty
      chosen.frequencyPenalty = options.frequency_penalty
      chosen.penaltyDecay = options.penalty_decay
      chosen.seed = options.seed
    }
    return Handles.add(SamplerObject(try Sampler(chosen, tokenizer: context.model.tokenizer)))
  }
}

@c @implementation
public func rwkv_sampler_sample(
  _ sampler: OpaquePointer?, _ logits: UnsafePointer<Float>?, _ count: Int,
  _ token: UnsafeMutablePointer<UInt32>?
) -> Bool {
  attempt(false) {
    let object = try Handles.get(sampler, SamplerObject.self)
    guard let logits else { throw Failure.null("logits") }
    guard let token else { throw Failure.null("token_out") }
    guard count > 0 else {
      throw Failure(RWKV_ERROR_ARGS, "no logits; give one for each token of the vocabulary")
    }
    return try object.exclusively {
      token.pointee = UInt32(try object.sampler.sample(UnsafeBufferPointer(start: logits, count: count)))
      return true
    }
  }
}

@c @implementation
public func rwkv_sampler_reset(_ sampler: OpaquePointer?) -> Bool {
  attempt(false) {
    let object = try Handles.get(sampler, SamplerObject.self)
    return try object.exclusively {
      object.sampler.reset()
      return true
    }
  }
}

@c @implementation
public func rwkv_sampler_free(_ sampler: OpaquePointer?) { Handles.remove(sampler, SamplerObject.self) }

// MARK: - Generation

@c @implementation
public func rwkv_generate(
  _ ctx: OpaquePointer?, _ state: OpaquePointer?, _ sampler: OpaquePointer?, _ prompt: UnsafePointer<CChar>?,
  _ promptLength: Int, _ maxTokens: Int, _ stops: UnsafePointer<UnsafePointer<CChar>?>?, _ stopCount: Int,
  _ receive: rwkv_text?, _ user: UnsafeMutableRawPointer?
) -> rwkv_finish {
  use(ctx, RWKV_FINISH_ERROR) { context in
    let state = try Handles.get(state, StateObject.self)
    let sampler = try Handles.get(sampler, SamplerObject.self)
    try state.check(context)
    let tokenizer = try context.tokenizer()
    guard let receive else { throw Failure.null("receive") }
    let tokens = tokenizer.encode(try bytes(prompt, promptLength, "prompt"))
    let stops = try (0..<max(0, stopCount)).map { index in
      guard let stops else { throw Failure.null("stops") }
      return try text(stops[index], "a stop string")
    }
    return try state.exclusively {
      try sampler.exclusively {
        let session = Session(context.evaluator, state.state)
        if !tokens.isEmpty {
          context.latest = nil
          try session.prefill(tokens)
        } else if context.latest !== state.state {
          throw Failure(
            RWKV_ERROR_ARGS, "the prompt is empty, and this context did not evaluate the state last")
        }
        context.latest = nil
        let limit = maxTokens < 0 ? Int.max : maxTokens
        let reason = try session.generate(limit, with: &sampler.sampler, tokenizer: tokenizer, stop: stops) {
          ($0 + [0]).withUnsafeBufferPointer { text in
            text.withMemoryRebound(to: CChar.self) { receive($0.baseAddress, $0.count - 1, user) }
          }
        }
        context.latest = state.state
        return
          switch reason
        {
        case .length: RWKV_FINISH_LENGTH
        case .end: RWKV_FINISH_END
        case .stop: RWKV_FINISH_STOP
        case .cancelled: RWKV_FINISH_CANCELLED
        }
      }
    }
  }
}
