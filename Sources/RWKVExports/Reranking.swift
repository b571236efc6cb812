// SPDX-License-Identifier: MIT
public import CRWKVABI
import RWKV

// Part 2 of rwkv.h: how well documents answer a query.

@c @implementation
public func rwkv_read_documents(
  _ embedder: OpaquePointer?, _ documents: UnsafePointer<UnsafePointer<CChar>?>?,
  _ lengths: UnsafePointer<Int>?, _ count: Int, _ states: UnsafeMutablePointer<OpaquePointer?>?,
  _ progress: rwkv_progress?, _ user: UnsafeMutableRawPointer?
) -> Bool {
  use(embedder, false) { context in
    guard let documents else { throw Failure.null("documents") }
    guard let lengths else { throw Failure.null("lengths") }
    guard let states else { throw Failure.null("states_out") }
    guard count > 0 else { throw Failure(RWKV_ERROR_ARGS, "no documents; give at least one") }
    let texts = try (0..<count).map { try bytes(documents[$0], lengths[$0], "documents") }
    let reader = try DocumentReader(context.evaluator)
    context.latest = nil
    // A token has a byte or more.
    let total = Double(texts.reduce(0) { $0 + $1.count + 80 })
    let read = try reader.states(texts) { progress?(min(1, Double($0) / total), user) ?? true }
    for (index, state) in read.enumerated() { states[index] = Handles.add(StateObject(state)) }
    return true
  }
}

@c @implementation
public func rwkv_rerank(
  _ embedder: OpaquePointer?, _ reranker: OpaquePointer?, _ query: UnsafePointer<CChar>?, _ length: Int,
  _ states: UnsafePointer<OpaquePointer?>?, _ count: Int, _ scores: UnsafeMutablePointer<Float>?,
  _ progress: rwkv_progress?, _ user: UnsafeMutableRawPointer?
) -> Bool {
  use(embedder, false) { context in
    guard let states else { throw Failure.null("states") }
    guard let scores else { throw Failure.null("scores_out") }
    guard count > 0 else { throw Failure(RWKV_ERROR_ARGS, "no documents; give at least one") }
    let query = try bytes(query, length, "query")
    let other = try Handles.get(reranker, ContextObject.self)
    let objects = try (0..<count).map { try Handles.get(states[$0], StateObject.self) }
    for object in objects { try object.check(context) }
    return try other.exclusively {
      (context.latest, other.latest) = (nil, nil)
      let model = try Reranker(DocumentReader(context.evaluator), other.evaluator)
      return try exclusivelyAll(objects[...]) {
        let found = try model.scores(query: query, objects.map(\.state)) {
          progress?(Double($0) / Double(count), user) ?? true
        }
        for (index, score) in found.enumerated() { scores[index] = score }
        return true
      }
    }
  }
}
