// SPDX-License-Identifier: MIT
public import CRWKVABI
import RWKV
import RWKVFormat

// Part 2 of rwkv.h: sampling.

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
    var chosen = SamplingChoice(model: context.model).options
    if let options = options?.pointee {
      chosen.temperature = options.temperature
      chosen.topP = options.top_p
      chosen.topK = Int(options.top_k)
      chosen.presencePenalty = options.presence_penalty
      chosen.frequencyPenalty = options.frequency_penalty
      chosen.penaltyDecay = options.penalty_decay
      chosen.seed = options.seed
    }
    return Handles.add(try SamplerObject(chosen, context.model.tokenizer))
  }
}

/// Options that are set by name. Those of `rwkv_sampler_options` are among them, for languages without structs.
private let options: [String: @Sendable (inout SamplingOptions, Double) throws -> Void] = [
  "temperature": { $0.temperature = $1 },
  "top_p": { $0.topP = $1 },
  "top_k": { $0.topK = try integer($1, 0...Double(Int32.max)) },
  "min_p": { $0.minP = $1 },
  "presence_penalty": { $0.presencePenalty = $1 },
  "frequency_penalty": { $0.frequencyPenalty = $1 },
  "penalty_decay": { $0.penaltyDecay = $1 },
  "only_json": { $0.onlyJSON = try integer($1, 0...1) == 1 },
  "seed": { $0.seed = UInt64(try integer($1, 0...0x1p53)) },
]

private func integer(_ value: Double, _ range: ClosedRange<Double>) throws -> Int {
  guard range.contains(value), value == value.rounded() else {
    throw Failure(
      RWKV_ERROR_ARGS, "the value is \(value), expected a whole number, 0…\(Int(range.upperBound))")
  }
  return Int(value)
}

@c @implementation
public func rwkv_sampler_set(
  _ sampler: OpaquePointer?, _ name: UnsafePointer<CChar>?, _ value: Double
) -> Bool {
  attempt(false) {
    let object = try Handles.get(sampler, SamplerObject.self)
    let name = try text(name, "name")
    guard let set = options[name] else {
      throw Failure(
        RWKV_ERROR_ARGS, RWKV_ERROR_KEY,
        "no option is called '\(name)'; there are \(options.keys.sorted().joined(separator: ", "))")
    }
    return try object.exclusively {
      try object.change { try set(&$0, value) }
      return true
    }
  }
}

@c @implementation
public func rwkv_sampler_set_bias(_ sampler: OpaquePointer?, _ token: UInt32, _ bias: Float) -> Bool {
  attempt(false) {
    let object = try Handles.get(sampler, SamplerObject.self)
    return try object.exclusively {
      try object.change { $0.logitBias[Int(token)] = bias == 0 ? nil : bias }
      return true
    }
  }
}

@c @implementation
public func rwkv_sampler_set_json_schema(_ sampler: OpaquePointer?, _ schema: UnsafePointer<CChar>?) -> Bool {
  attempt(false) {
    let object = try Handles.get(sampler, SamplerObject.self)
    let grammar = try schema.map { try jsonGrammar(try text($0, "schema")) }
    return try object.exclusively {
      try object.change { $0.jsonGrammar = grammar }
      return true
    }
  }
}

private func jsonGrammar(_ text: String) throws -> JSONGrammar {
  do {
    return try JSONSchema.grammar(JSONValue(parsing: Array(text.utf8), depth: 100), "schema")
  } catch let error as JSONValue.SyntaxError {
    throw Failure(RWKV_ERROR_ARGS, "the schema is no JSON: \(error.problem) at byte \(error.offset)")
  } catch let error as JSONSchemaError {
    throw Failure(RWKV_ERROR_ARGS, error.description)
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
      let chosen = try object.sampler.sample(UnsafeBufferPointer(start: logits, count: count))
      object.hasStarted = true
      token.pointee = UInt32(chosen)
      return true
    }
  }
}

@c @implementation
public func rwkv_sampler_is_finished(_ sampler: OpaquePointer?) -> Bool {
  attempt(false) {
    let object = try Handles.get(sampler, SamplerObject.self)
    return try object.exclusively { object.sampler.isFinished }
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
