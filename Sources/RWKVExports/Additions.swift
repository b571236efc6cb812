// SPDX-License-Identifier: MIT
public import CRWKVABI
import Glibc
import RWKV
import RWKVFormat
import RWKVQuantization
import RWKVTokenizer

// Part 2 of rwkv.h: the model, its text, and generation.

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
  begin(nil) {
    try openContext(text(path, "path"), threads: threads, memoryLimit: nil, report(to: progress, user))
  }
}

@c @implementation
public func rwkv_open_with_memory_limit(
  _ path: UnsafePointer<CChar>?, _ threads: UInt32, _ limit: Int, _ progress: rwkv_progress?,
  _ user: UnsafeMutableRawPointer?
) -> OpaquePointer? {
  begin(nil) {
    try openContext(
      text(path, "path"), threads: threads, memoryLimit: bytes(ofLimit: limit), report(to: progress, user))
  }
}

/// What a limit of C means [bytes]: 0 is what the machine has, and a size_t beyond Int no limit, which is nil here.
private func bytes(ofLimit limit: Int) -> Int? { limit == 0 ? memoryCapacity() : limit < 0 ? nil : limit }

@c @implementation
public func rwkv_open_with_max_context(
  _ path: UnsafePointer<CChar>?, _ threads: UInt32, _ limit: Int, _ context: Int, _ progress: rwkv_progress?,
  _ user: UnsafeMutableRawPointer?
) -> OpaquePointer? {
  begin(nil) {
    try openContext(
      text(path, "path"), threads: threads, memoryLimit: bytes(ofLimit: limit),
      maximumContext: context == 0 ? nil : context < 0 ? Int.max : context, report(to: progress, user))
  }
}

@c @implementation
public func rwkv_get_max_context(_ ctx: OpaquePointer?) -> Int {
  ask(ctx, 0) { $0.model.maximumContext ?? 0 }
}

private func report(
  to progress: rwkv_progress?, _ user: UnsafeMutableRawPointer?
) -> @Sendable (Double) -> Bool {
  nonisolated(unsafe) let user = user
  return { progress?($0, user) ?? true }
}

@c @implementation
public func rwkv_get_architecture(
  _ ctx: OpaquePointer?, _ buffer: UnsafeMutablePointer<CChar>?, _ size: Int
) -> Int {
  ask(ctx, failed) { try write($0.model.configuration.version.rawValue.utf8, buffer, size) }
}

@c @implementation
public func rwkv_get_name(
  _ ctx: OpaquePointer?, _ buffer: UnsafeMutablePointer<CChar>?, _ size: Int
) -> Int {
  ask(ctx, failed) { try write($0.model.name.utf8, buffer, size) }
}

@c @implementation
public func rwkv_get_identity(
  _ ctx: OpaquePointer?, _ buffer: UnsafeMutablePointer<CChar>?, _ size: Int
) -> Int {
  ask(ctx, failed) { try write(hexadecimal($0.model.identity).utf8, buffer, size) }
}

@c @implementation
public func rwkv_get_n_head(_ ctx: OpaquePointer?) -> Int {
  ask(ctx, 0) { $0.model.configuration.version == .v4 ? 0 : $0.model.configuration.heads }
}

@c @implementation
public func rwkv_get_weight_size(_ ctx: OpaquePointer?) -> Int { ask(ctx, failed) { $0.model.weightBytes } }

@c @implementation
public func rwkv_get_streamed_size(_ ctx: OpaquePointer?) -> Int {
  ask(ctx, failed) { $0.model.streaming?.streamedBytes ?? 0 }
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
  func tokenizer() throws -> any Tokenizer {
    try model.requireTokenizer()
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

@c @implementation
public func rwkv_get_token_bytes(
  _ ctx: OpaquePointer?, _ token: UInt32, _ buffer: UnsafeMutablePointer<CChar>?, _ size: Int
) -> Int {
  withUnsafePointer(to: token) { rwkv_decode(ctx, $0, 1, buffer, size) }
}

// MARK: - Conversion

@c @implementation
public func rwkv_quantize_with_vocabulary(
  _ input: UnsafePointer<CChar>?, _ output: UnsafePointer<CChar>?, _ format: UnsafePointer<CChar>?,
  _ vocabulary: UnsafePointer<CChar>?
) -> Bool {
  begin(false) {
    let name = try text(format, "format_name")
    guard let type = QuantizationType(anyName: name) else {
      let types = QuantizationType.allCases.map(\.rawValue).joined(separator: ", ")
      throw Failure(
        RWKV_ERROR_ARGS, RWKV_ERROR_DATA_TYPE,
        "format '\(name)' is unknown, expected one of \(types), or a name of ggml's: Q4_K, Q5_1, Q8_0")
    }
    let path = try text(input, "model_file_path_in")
    guard access(path, R_OK) == 0 else {
      throw Failure(RWKV_ERROR_FILE, RWKV_ERROR_FILE_OPEN, "\(path): \(String(cString: strerror(errno)))")
    }
    var options = ConversionOptions()
    options.type = type
    options.overwrite = true
    options.writer = "librwkv"
    options.tokenizer = TokenizerChoice(named: try vocabulary.map { try text($0, "vocabulary") })
    _ = try Conversion.convert(path, to: try text(output, "model_file_path_out"), options)
    return true
  }
}

// MARK: - Generation

@c @implementation
public func rwkv_generate(
  _ ctx: OpaquePointer?, _ state: OpaquePointer?, _ sampler: OpaquePointer?, _ prompt: UnsafePointer<CChar>?,
  _ promptLength: Int, _ maxTokens: Int, _ stops: UnsafePointer<UnsafePointer<CChar>?>?, _ stopCount: Int,
  _ receive: rwkv_text?, _ user: UnsafeMutableRawPointer?
) -> rwkv_finish {
  rwkv_generate_observed(
    ctx, state, sampler, prompt, promptLength, maxTokens, stops, stopCount, nil, receive, user)
}

@c @implementation
public func rwkv_generate_observed(
  _ ctx: OpaquePointer?, _ state: OpaquePointer?, _ sampler: OpaquePointer?, _ prompt: UnsafePointer<CChar>?,
  _ promptLength: Int, _ maxTokens: Int, _ stops: UnsafePointer<UnsafePointer<CChar>?>?, _ stopCount: Int,
  _ observe: rwkv_token?, _ receive: rwkv_text?, _ user: UnsafeMutableRawPointer?
) -> rwkv_finish {
  use(ctx, RWKV_FINISH_ERROR) { context in
    let state = try Handles.get(state, StateObject.self)
    let sampler = try Handles.get(sampler, SamplerObject.self)
    try state.check(context)
    guard let receive else { throw Failure.null("receive") }
    let tokens = try context.tokenizer().encode(bytes(prompt, promptLength, "prompt"))
    let stops =
      try stops == nil && stopCount == 0
      ? SamplingChoice(model: context.model).stops : texts(stops, stopCount, "stops")
    return try state.exclusively {
      try sampler.exclusively {
        try context.begin(tokens, state.state)
        return try context.generate(
          maxTokens < 0 ? Int.max : maxTokens, from: state.state, with: sampler, stop: stops,
          observe: observe.map { observe in
            { observe(UInt32($0.id), -crossEntropy($0.logits, target: $0.id), $0.logits.baseAddress, user) }
          },
          receive: { receive($0, $1, user) })
      }
    }
  }
}

@c @implementation
public func rwkv_set_drafts(_ ctx: OpaquePointer?, _ draft: UnsafePointer<CChar>?, _ most: Int) -> Bool {
  use(ctx, false) { context in
    guard (0...Drafts.mostTokens).contains(most) else {
      throw Failure(RWKV_ERROR_ARGS, "\(most) tokens to draft, expected 0…\(Drafts.mostTokens)")
    }
    context.drafts = try draft.map { draft in
      let source = try text(draft, "draft")
      let drafter: any Drafter =
        source == "ngram"
        ? RepetitionDrafter()
        : try ModelDrafter(
          openModel(source, threads: context.threads), for: context.model, threads: context.threads)
      return Drafts(drafter, limit: most == 0 ? Drafts.limitByDefault : most)
    }
    return true
  }
}

@c @implementation
public func rwkv_get_drafts(
  _ ctx: OpaquePointer?, _ passes: UnsafeMutablePointer<Int>?, _ drafted: UnsafeMutablePointer<Int>?,
  _ accepted: UnsafeMutablePointer<Int>?
) -> Bool {
  use(ctx, false) { context in
    passes?.pointee = context.drafts?.passes ?? 0
    drafted?.pointee = context.drafts?.drafted ?? 0
    accepted?.pointee = context.drafts?.accepted ?? 0
    return true
  }
}

extension ContextObject {
  /// Reads a prompt; an empty one is for a state that was evaluated last.
  fileprivate func begin(_ prompt: [Int], _ state: State) throws {
    let goesOn = latest === state
    if prompt.isEmpty && !goesOn {
      throw Failure(RWKV_ERROR_ARGS, "the prompt is empty, and this context did not evaluate the state last")
    }
    latest = nil
    if !prompt.isEmpty { try Session(evaluator, state).prefill(prompt) }
    if goesOn { try drafts?.read(prompt) } else { try drafts?.follow(prompt) }
  }

  /// Writes after what `state` has read.
  fileprivate func generate(
    _ limit: Int, from state: State, with sampler: SamplerObject, stop: [String],
    observe: ((ChosenToken) -> Void)?, receive: (UnsafePointer<CChar>?, Int) -> Bool
  ) throws -> rwkv_finish {
    sampler.hasStarted = true
    let reason = try Session(evaluator, state).generate(
      limit, with: &sampler.sampler, tokenizer: tokenizer(), stop: stop, drafts: drafts, observe: observe
    ) {
      ($0 + [0]).withUnsafeBufferPointer { text in
        text.withMemoryRebound(to: CChar.self) { receive($0.baseAddress, $0.count - 1) }
      }
    }
    latest = state
    return reason.flag
  }
}

extension FinishReason {
  /// The value that C gets for it.
  var flag: rwkv_finish {
    switch self {
    case .length: RWKV_FINISH_LENGTH
    case .end: RWKV_FINISH_END
    case .stop: RWKV_FINISH_STOP
    case .cancelled: RWKV_FINISH_CANCELLED
    }
  }
}
