// SPDX-License-Identifier: MIT
import HTTPTypes
import Hummingbird
import NIOCore
import RWKV
import RWKVChat
import RWKVFormat
import RWKVTokenizer

struct Context: RequestContext {
  var coreContext: CoreRequestContextStorage
  /// What stands for the API key of the request; empty where none is needed.
  var owner = ""
  /// The thread that serves the connection.
  let loop: LoopExecutor

  init(source: ApplicationRequestContextSource) {
    coreContext = .init(source: source)
    loop = LoopExecutor(source.channel.eventLoop)
  }
}

/// Runs tasks on the thread of an event loop.
final class LoopExecutor: TaskExecutor {
  private let loop: any EventLoop

  init(_ loop: any EventLoop) { self.loop = loop }

  func enqueue(_ job: consuming ExecutorJob) {
    let job = UnownedJob(job)
    loop.execute { job.runSynchronously(on: self.asUnownedTaskExecutor()) }
  }
}

/// Sends server-sent events as they happen.
typealias Events = @Sendable (_ send: (String) async throws -> Void) async throws -> Void

/// What the server answers.
struct Routes: Sendable {
  let engine: Engine
  let gate: Gate
  let maximum: Int
  let separates: Bool
  /// Keys, each with the name of what belongs to it.
  let keys: [(key: String, owner: String)]?
  let origins: [String]
  let log: Serve.Log
  let page: Bool

  static let maximumBody = 16 << 20
  /// A saved state, with the tokens that it has read.
  static let maximumUpload = 1 << 30

  func router() -> Router<Context> {
    let router = Router(context: Context.self, options: .autoGenerateHeadEndpoints)
    router.add(middleware: Surroundings(routes: self))
    router.get("/health") { _, _ in
      gate.isOpen ? reply(["status": "ok"]) : reply(["status": "draining"], .serviceUnavailable)
    }
    router.get("/metrics") { _, _ in reply(metrics(), type: "text/plain; version=0.0.4") }
    let description = ByteBuffer(bytes: PackageResources.openapi_json)
    router.get("/openapi.json") { _, _ in
      Response(status: .ok, headers: [.contentType: "application/json"], body: .init(byteBuffer: description))
    }
    if page {
      let body = ByteBuffer(bytes: PackageResources.page_html)
      router.get("/") { _, _ in
        Response(
          status: .ok,
          headers: [.contentType: "text/html; charset=utf-8", .contentSecurityPolicy: Self.policy],
          body: .init(byteBuffer: body))
      }
    }
    for prefix in ["/v1", ""] {
      router.get("\(prefix)/models") { _, _ in reply(["object": "list", "data": [model()]]) }
      router.get("\(prefix)/models/{id}") { _, _ in reply(model()) }
      router.post("\(prefix)/chat/completions") { try await complete($0, $1, chat: true) }
      router.post("\(prefix)/completions") { try await complete($0, $1, chat: false) }
      router.post("\(prefix)/responses") { try await respond($0, $1) }
      router.post("\(prefix)/embeddings") { try await embed($0, $1) }
      router.post("\(prefix)/rerank") { try await rerank($0, $1) }
      router.post("\(prefix)/tokenize") { request, _ in try tokenize(try await fields(request)) }
      router.post("\(prefix)/detokenize") { request, _ in try detokenize(try await fields(request)) }
      router.get("\(prefix)/tokenizer_info") { _, _ in reply(tokenizerInfo()) }
      states(router, RouterPath("\(prefix)/states"))
    }
    router.post("/completion") { try await complete($0, $1, chat: false) }
    return router
  }

  private static let policy =
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; connect-src 'self'"

  private func fields(_ request: Request) async throws -> Fields {
    var request = request
    return try Fields(try await Self.body(of: &request, upTo: Self.maximumBody))
  }

  private static func body(of request: inout Request, upTo maximum: Int) async throws -> ByteBuffer {
    do { return try await request.collectBody(upTo: maximum) } catch is NIOTooManyBytesError {
      throw APIError(status: .contentTooLarge, message: "The body is larger than \(maximum >> 20) MiB.")
    } catch {
      throw APIError.invalid("The body cannot be read to its end.")
    }
  }

  // MARK: Texts

  private func complete(_ request: Request, _ context: Context, chat: Bool) async throws -> Response {
    try await answer(request, context) { fields in
      let completion = try Completion(
        fields, chat: chat, engine: engine, owner: context.owner, maximum: maximum, separates: separates)
      return Answer(whole: completion.answer, stream: completion.streams ? completion.stream : nil)
    }
  }

  private func respond(_ request: Request, _ context: Context) async throws -> Response {
    try await answer(request, context) { fields in
      let exchange = try Exchange(fields, engine: engine, owner: context.owner, maximum: maximum)
      return Answer(whole: exchange.answer, stream: exchange.completion.streams ? exchange.stream : nil)
    }
  }

  /// What is answered, whole, or as server-sent events where there are any.
  private struct Answer: Sendable {
    var status = HTTPResponse.Status.ok
    let whole: @Sendable () async throws -> JSON
    /// Begins the events, or refuses; what it returns sends them.
    var stream: (@Sendable () async throws -> Events)?
  }

  /// Answers until the client has left.
  private func answer(
    _ request: Request, _ context: Context, _ make: @escaping @Sendable (Fields) throws -> Answer
  ) async throws -> Response {
    var request = request
    let body = try await Self.body(of: &request, upTo: Self.maximumBody)
    // Texts and states may be long.
    let answer = try await apart { try make(try Fields(body)) }
    let passage = try gate.enter()
    let source = request.body
    guard let stream = answer.stream else {
      defer { withExtendedLifetime(passage) {} }
      return try await translating {
        var response = reply(
          try await source.consumeWithCancellationOnInboundClose { _ in try await answer.whole() },
          answer.status)
        // The library closes the connection after it has looked for the end of it.
        response.headers[.connection] = "close"
        return response
      }
    }
    // A refusal is still an answer with a status.
    let events = try await translating { try await stream() }
    let headers: HTTPFields = [
      .contentType: "text/event-stream", .cacheControl: "no-store", .connection: "close",
    ]
    return Response(
      status: .ok, headers: headers,
      body: .init { writer in
        defer { withExtendedLifetime(passage) {} }
        let box = UncheckedWriter(writer)
        try await source.consumeWithCancellationOnInboundClose { _ in
          do {
            try await translating {
              // A token is prepared by the thread that sends it: with others in between, each would be woken for it.
              try await withTaskExecutorPreference(context.loop) {
                try await events { try await box.writer.write(ByteBuffer(string: $0)) }
              }
            }
          } catch is CancellationError {
            throw CancellationError()
          } catch {
            let problem = (error as? APIError) ?? APIError(status: .internalServerError, message: "\(error)")
            try await box.writer.write(ByteBuffer(string: "data: \(problem.body.text)\n\n"))
          }
        }
        try await box.writer.finish(nil)
      })
  }

  private static let busy = APIError(
    status: .tooManyRequests, message: "Too many requests are waiting; try again in a moment.",
    code: "queue_full", retryAfter: 1)

  /// Errors of the runtime as errors of the interface.
  private func translating<Result>(_ body: () async throws -> Result) async throws -> Result {
    do { return try await body() } catch let error as SchedulerError {
      if case .full = error { throw Self.busy }
      throw APIError(status: .serviceUnavailable, message: "The server is shutting down.", retryAfter: 5)
    } catch let error as SamplingError {
      throw APIError.invalid("\(error).")
    } catch let error as ModelError {
      switch error.reason {
      case .wrongKind, .missingHead: throw APIError.invalid("\(error)")
      case .contextFull:
        throw APIError(status: .badRequest, message: "\(error)", code: "context_length_exceeded")
      case .cancelled: throw CancellationError()
      default: throw APIError(status: .internalServerError, message: "\(error)")
      }
    } catch let error as StateFileError {
      throw APIError.invalid("\(error)")
    }
  }

  private func embed(_ request: Request, _ context: Context) async throws -> Response {
    try await answer(request, context) { fields in
      let vectors = try Vectors(fields, engine)
      return Answer {
        vectors.answer(try await engine.embeddings(vectors.inputs, vectors.task), model: engine.name)
      }
    }
  }

  private func rerank(_ request: Request, _ context: Context) async throws -> Response {
    guard let texts = engine.texts, texts.hasReranker else {
      throw APIError(
        status: .notFound, message: "There is no reranker; the server is started with --reranker FILE.")
    }
    return try await answer(request, context) { fields in
      let wanted = try Reranking(fields)
      return Answer {
        wanted.answer(try await texts.scores(wanted.query, wanted.documents), model: engine.name)
      }
    }
  }

  // MARK: Tokens

  private func tokenize(_ fields: Fields) throws -> Response {
    guard let text = try fields.string("content") ?? fields.string("prompt") else {
      throw APIError.invalid("'content' is missing.", "content")
    }
    let tokens = text == "<|endoftext|>" ? [0] : try engine.encode(text)
    return reply(["tokens": .array(tokens.map { .integer($0) }), "count": .integer(tokens.count)])
  }

  private func detokenize(_ fields: Fields) throws -> Response {
    let tokens = try Completion.prompts(fields, "tokens", engine).first ?? []
    let text =
      tokens == [0] ? "<|endoftext|>" : String(decoding: engine.tokenizer.decode(tokens), as: UTF8.self)
    return reply(["content": .string(text), "prompt": .string(text)])
  }

  private func tokenizerInfo() -> JSON {
    // What lm-eval, vLLM's clients and transformers look for.
    [
      "tokenizer_class": .string(engine.model.metadata.string("tokenizer.kind") ?? ""),
      "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
      "unk_token": .null,
      "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "add_bos_token": false, "add_eos_token": false,
      "vocab_size": .integer(engine.model.configuration.vocabulary),
      "chat_template": .string(engine.template.jinja),
    ]
  }

  private func model() -> JSON {
    let template = engine.template
    let sampling = engine.sampling(template).options
    return [
      "id": .string(engine.name), "object": "model", "created": 0, "owned_by": "rwkv",
      "meta": [
        "template": .string(template.name), "thinking": .array(template.thinking.map { .string($0.name) }),
        "state_bytes": .integer(engine.model.newState().byteCount),
        "max_context": engine.model.maximumContext.map { .integer($0) } ?? .null,
        "sampling": [
          "temperature": .number(sampling.temperature), "top_p": .number(sampling.topP),
          "top_k": .integer(sampling.topK),
          "min_p": .number(sampling.minP), "presence_penalty": .number(sampling.presencePenalty),
          "frequency_penalty": .number(sampling.frequencyPenalty),
          "penalty_decay": .number(sampling.penaltyDecay),
        ],
      ],
    ]
  }

  // MARK: States

  private func states(_ router: Router<Context>, _ path: RouterPath) {
    let one = RouterPath("\(path)/{id}")
    router.get(path) { _, context in
      let list = try await apart { engine.states.list(owner: context.owner) }
      return reply(["object": "list", "data": .array(list.map(\.json))])
    }
    router.post(path) { request, context in
      try await answer(request, context) { fields in
        let (generation, answered) = try reading(fields, context.owner)
        let name = try fields.string("name")
        guard name?.utf8.count ?? 0 <= 1024 else { throw fields.wrong("name", "at most 1024 bytes") }
        return Answer(status: .created) {
          try await engine.keep(generation, "", name: name, answered: answered).description.json
        }
      }
    }
    router.get(one) { _, context in reply(try await state(context).description.json) }
    router.delete(one) { _, context in
      let id = try id(context)
      try await apart { try engine.states.remove(id, owner: context.owner) }
      return reply(["id": .string(id), "object": "state", "deleted": true])
    }
    router.post("\(path)/{id}/fork") { _, context in
      let entry = try await state(context)
      let fork = try await apart {
        try engine.states.add(
          entry.state, tokens: entry.tokens, name: entry.description.name, owner: context.owner,
          answered: entry.answered)
      }
      return reply(fork.description.json, .created)
    }
    router.get("\(path)/{id}/file") { _, context in
      let entry = try await state(context)
      let file = try await apart { try entry.file() }
      return Response(
        status: .ok, headers: [.contentType: "application/octet-stream"],
        body: .init(byteBuffer: ByteBuffer(bytes: file)))
    }
    router.put("\(path)/{id}/file") { request, context in
      var request = request
      let body = try await Self.body(of: &request, upTo: StateFolder.longestState(engine.model))
      let id = try id(context)
      return try await translating {
        try await apart {
          let (saved, isTuned) = try Upload.state(Array(body.readableBytesView), of: engine.model)
          let entry = try engine.states.add(
            saved.state, tokens: saved.tokens, name: nil, owner: context.owner, answered: !isTuned, id: id)
          return reply(entry.description.json, .created)
        }
      }
    }
  }

  /// What a new state is to read, and whether it ends with an answer.
  private func reading(_ fields: Fields, _ owner: String) throws -> (Generation, answered: Bool) {
    var generation = Generation(prompt: [], limit: 0, owner: owner)
    generation.start = try fields.string("state").map { try engine.states.find($0, owner: owner) }
    var answered = false
    if fields["messages"] != nil {
      let messages = try Dialogue.messages(fields)
      let text: String
      do { text = try engine.template.text(of: messages) } catch {
        throw APIError.invalid("\(error).", "messages")
      }
      generation.prompt = try engine.encode(text)
      answered = messages.last?.role == .assistant
    } else {
      generation.prompt = try Completion.prompts(fields, "prompt", engine).first ?? []
    }
    guard !generation.prompt.isEmpty || generation.start != nil else {
      throw APIError.invalid("'messages', 'prompt' or 'state' is missing.", "messages")
    }
    return (generation, answered)
  }

  private func state(_ context: Context) async throws -> SavedStates.Entry {
    let id = try id(context)
    return try await apart { try engine.states.find(id, owner: context.owner) }
  }

  private func id(_ context: Context) throws -> String {
    let id = try context.parameters.require("id")
    guard SavedStates.isID(id) else {
      throw APIError.invalid("An id has 1 to 64 letters, digits, - and _.", "id")
    }
    return id
  }

  // MARK: Operations

  private func metrics() -> String {
    let scheduler = engine.scheduler.statistics
    let texts = engine.texts?.statistics ?? (waiting: 0, active: 0)
    let cache = engine.cache.statistics
    let rows: [(name: String, type: String, help: String, value: String)] = [
      ("prompt_tokens_total", "counter", "Tokens of prompts that were read.", "\(scheduler.promptTokens)"),
      ("written_tokens_total", "counter", "Tokens that were written.", "\(scheduler.writtenTokens)"),
      ("drafted_tokens_total", "counter", "Tokens that were guessed.", "\(scheduler.draftedTokens)"),
      ("accepted_tokens_total", "counter", "Guesses that were right.", "\(scheduler.acceptedTokens)"),
      ("passes_total", "counter", "Passes over the weights.", "\(scheduler.passes)"),
      ("pass_seconds_total", "counter", "Time in passes.", "\(Double(scheduler.nanoseconds) / 1e9)"),
      ("requests_waiting", "gauge", "Requests without a place.", "\(scheduler.waiting + texts.waiting)"),
      (
        "requests_active", "gauge", "Requests that are read or written.",
        "\(scheduler.active + texts.active)"
      ),
      ("state_cache_entries", "gauge", "States in the cache.", "\(cache.entries)"),
      ("state_cache_bytes", "gauge", "Bytes of the cache.", "\(cache.bytes)"),
      ("state_cache_hits_total", "counter", "Prompts whose beginning was in the cache.", "\(cache.hits)"),
      ("state_cache_misses_total", "counter", "Prompts whose beginning was not.", "\(cache.misses)"),
      (
        "state_folder_bytes", "gauge", "Bytes of the cache on the disk.",
        "\(engine.folder?.bytes(of: .cache) ?? 0)"
      ),
      ("saved_state_bytes", "gauge", "Bytes of the states that clients keep.", "\(engine.states.bytes)"),
    ]
    return rows.map {
      "# HELP rwkv_\($0.name) \($0.help)\n# TYPE rwkv_\($0.name) \($0.type)\nrwkv_\($0.name) \($0.value)\n"
    }
    .joined()
  }
}

/// A writer that one closure uses.
private final class UncheckedWriter: @unchecked Sendable {
  var writer: any ResponseBodyWriter
  init(_ writer: any ResponseBodyWriter) { self.writer = writer }
}

/// What surrounds every route: keys, origins, errors in one form, a line in the log.
private struct Surroundings: RouterMiddleware {
  let routes: Routes

  func handle(
    _ request: Request, context: Context, next: (Request, Context) async throws -> Response
  ) async throws -> Response {
    let begin = ContinuousClock.now
    var response: Response
    do {
      if request.method == .options && !routes.origins.isEmpty {
        response = Response(status: .noContent)
      } else {
        var context = context
        context.owner = try owner(request)
        response = try await next(request, context)
      }
    } catch let error as APIError {
      response = error.response(from: request, context: context)
    } catch let error as any HTTPResponseError {
      let message =
        error.status == .notFound
        ? "There is no route \(request.method) \(request.uri.path)." : "\(error.status)"
      response = APIError(status: error.status, message: message).response(from: request, context: context)
    } catch is CancellationError {
      throw CancellationError()
    } catch {
      response = APIError(status: .internalServerError, message: "\(error)").response(
        from: request, context: context)
    }
    if let origin = request.headers[.origin], routes.origins.contains(where: { $0 == "*" || $0 == origin }) {
      response.headers[.accessControlAllowOrigin] = origin
      // Clients of browsers send headers of their own.
      response.headers[.accessControlAllowHeaders] =
        request.headers[.accessControlRequestHeaders] ?? "authorization, content-type"
      response.headers[.accessControlAllowMethods] = "GET, POST, PUT, DELETE, OPTIONS"
      response.headers[.vary] = "Origin"
    }
    report(request, response, ContinuousClock.now - begin)
    return response
  }

  /// Routes that need no API key.
  private static let open: Set<String> = ["/", "/health", "/openapi.json"]

  private func owner(_ request: Request) throws -> String {
    guard let keys = routes.keys, !Self.open.contains(request.uri.path) else { return "" }
    let given =
      request.headers[.authorization].flatMap { $0.hasPrefix("Bearer ") ? String($0.dropFirst(7)) : nil }
      ?? ""
    // Every key is compared to its end, so that the time says nothing about them.
    var found: String?
    for (key, owner) in keys where isEqual(Array(key.utf8), Array(given.utf8)) { found = owner }
    guard let found else {
      throw APIError(
        status: .unauthorized, message: "The API key is missing or wrong.", code: "invalid_api_key")
    }
    return found
  }

  private func isEqual(_ key: [UInt8], _ given: [UInt8]) -> Bool {
    var difference = key.count ^ given.count
    for index in key.indices {
      difference |= Int(key[index] ^ (index < given.count ? given[index] : ~key[index]))
    }
    return difference == 0
  }

  private func report(_ request: Request, _ response: Response, _ time: Duration) {
    let seconds = Double(Int(time / .milliseconds(1))) / 1000
    switch routes.log {
    case .off: break
    case .text: note("\(request.method) \(request.uri.path) \(response.status.code) \(seconds) s")
    case .json:
      note(
        JSON.object([
          ("method", .string(request.method.rawValue)), ("path", .string(request.uri.path)),
          ("status", .integer(response.status.code)), ("seconds", .number(seconds)),
        ]).text)
    }
  }
}
