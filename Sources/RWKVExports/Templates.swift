// SPDX-License-Identifier: MIT
import CRWKVABI
import RWKV
import RWKVChat

// Part 2 of rwkv.h: conversations.

@c @implementation
public func rwkv_apply_template(
  _ ctx: OpaquePointer?, _ template: UnsafePointer<CChar>?, _ thinking: UnsafePointer<CChar>?,
  _ roles: UnsafePointer<UnsafePointer<CChar>?>?, _ contents: UnsafePointer<UnsafePointer<CChar>?>?,
  _ count: Int,
  _ buffer: UnsafeMutablePointer<CChar>?, _ size: Int
) -> Int {
  ask(ctx, failed) { context in
    let template = try context.template(template)
    let messages = try zip(texts(roles, count, "roles"), texts(contents, count, "contents")).map {
      try ChatMessage(role: $0, $1)
    }
    let thinking = try thinking.map { try template.thinking(named: text($0, "thinking")) }
    return try write(template.text(of: messages, thinking).utf8, buffer, size)
  }
}

@c @implementation
public func rwkv_get_template_stop(
  _ ctx: OpaquePointer?, _ template: UnsafePointer<CChar>?, _ index: Int,
  _ buffer: UnsafeMutablePointer<CChar>?, _ size: Int
) -> Int {
  ask(ctx, failed) { context in
    let stops = try context.template(template).choice(for: context.model).stops
    guard stops.indices.contains(index) else {
      throw Failure(RWKV_ERROR_ARGS, RWKV_ERROR_KEY, "the template has \(stops.count) stop strings")
    }
    return try write(stops[index].utf8, buffer, size)
  }
}

@c @implementation
public func rwkv_get_template_stop_count(_ ctx: OpaquePointer?, _ template: UnsafePointer<CChar>?) -> Int {
  ask(ctx, failed) { try $0.template(template).choice(for: $0.model).stops.count }
}

@c @implementation
public func rwkv_sampler_new_for_template(
  _ ctx: OpaquePointer?, _ template: UnsafePointer<CChar>?
) -> OpaquePointer? {
  ask(ctx, nil) { context in
    let options = try context.template(template).choice(for: context.model).options
    return Handles.add(try SamplerObject(options, context.model.tokenizer))
  }
}

extension ContextObject {
  /// A template by its name, or of its text; NULL: the one that the model was most likely trained with.
  fileprivate func template(_ source: UnsafePointer<CChar>?) throws -> ChatTemplate {
    let source = try source.map { try text($0, "template") } ?? ChatTemplate.name(for: model)
    if source.contains("=") { return try ChatTemplate(parsing: source, name: "template") }
    guard let template = ChatTemplate.builtIn(source) else {
      throw Failure(
        RWKV_ERROR_ARGS, RWKV_ERROR_KEY,
        "no template is called '\(source)'; there are \(ChatTemplate.builtInNames.joined(separator: ", "))")
    }
    return template
  }
}
