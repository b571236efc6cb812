// SPDX-License-Identifier: MIT
import ArgumentParser
import CServeArguments
import Foundation
import Hummingbird
import HummingbirdCore
import Logging
import NIOCore
import RWKV
import RWKVChat
import RWKVFormat
import ServiceLifecycle
import Synchronization

@main
struct Serve: AsyncParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "rwkv-serve",
    abstract: "Serves a model over HTTP, as OpenAI's interface, with a page for browsers.",
    discussion: """
      Answers on http://HOST:PORT: a page for people, /v1/chat/completions and the other routes for programs.

      EXAMPLES
        rwkv-serve model.rwkv
        rwkv-serve model.rwkv --host 0.0.0.0 --port 8000 --api-key-file keys.txt
      """)

  enum Reasoning: String, ExpressibleByArgument, CaseIterable { case separate, inline }
  enum Log: String, ExpressibleByArgument, CaseIterable { case json, text, off }

  @Argument(
    help: "A .rwkv file made by rwkv-quantize, or a name that rwkv-run list has.",
    transform: ModelDirectory.resolve)
  var model: String
  @Option(help: "Address to listen on.") var host = "127.0.0.1"
  @Option(help: "Port to listen on; 0 picks one.") var port = 8080
  @Option(help: "The model's name for clients (default: the file's name).") var alias: String?
  @Option(name: [.short, .long], help: "Threads (default: the processors this process may use).") var threads:
    Int?
  @Option(help: ArgumentHelp("Memory for the model at most, as 300M or 2G.", valueName: "size"))
  var memoryLimit: Size?
  @Option(
    help: ArgumentHelp(
      "RWKV-7b: tokens that a request's state remembers at most (default: as many as --parallel states have memory "
        + "for). All others need none.", valueName: "tokens"))
  var maxContext: Int?
  @Option(help: "Requests that are read or written together.") var parallel = 16
  @Option(help: "Requests that wait at most; more are answered with 429.") var queue = 64
  @Option(help: "Tokens of an answer at most.") var maxTokens = 4096
  @Option(
    help: ArgumentHelp(
      "How conversations are written: a built-in template, or a file.", valueName: "name|file")) var template:
    String?
  @Option(help: "Thoughts beside the answer, or in it.") var reasoning = Reasoning.separate
  @Option(help: ArgumentHelp("Memory for states of conversations.", valueName: "size")) var stateCache = Size(
    bytes: 512 << 20)
  @Option(
    help: "An embedding model's reranker, a .rwkv file: answers /v1/rerank.",
    transform: ModelDirectory.resolve)
  var reranker: String?
  @Option(
    help: ArgumentHelp(
      "Folder for states that are to be there after a restart, for other servers too.", valueName: "dir"))
  var stateDir: String?
  @Option(
    help: ArgumentHelp(
      "Guess the next tokens and read them in one pass; answers stay the same. ngram: what followed the last tokens "
        + "before; or a smaller model with the same tokenizer.", valueName: "ngram|model"))
  var draft: String?
  @Option(help: ArgumentHelp("File with API keys, one on each line.", valueName: "file")) var apiKeyFile:
    String?
  @Option(help: ArgumentHelp("Origin of pages that may ask, or *.", valueName: "origin")) var cors: [String] =
    []
  @Option(help: ArgumentHelp("How long running requests may go on after SIGTERM.", valueName: "seconds"))
  var drain = 30
  @Option(
    help: ArgumentHelp(
      "Connections from which nothing comes, or whose client takes nothing, are closed after this time.",
      valueName: "seconds"))
  var idle = 60
  @Option(help: "What is written to standard error about requests.") var log = Log.off
  @Flag(help: "No page for browsers.") var noPage = false

  /// The parser would read the arguments from /proc, which is not there in every container.
  static func main() async {
    var words: [String] = []
    while let word = program_argument(Int32(words.count) + 1) { words.append(String(cString: word)) }
    await main(words)
  }

  func validate() throws {
    if !(1...63).contains(parallel) { throw ValidationError("--parallel must be 1 to 63.") }
    if !(1...86400).contains(idle) { throw ValidationError("--idle must be 1 to 86400.") }
    if queue < 0 || maxTokens < 1 || drain < 0 {
      throw ValidationError("--queue, --max-tokens and --drain cannot be negative.")
    }
    if let maxContext, maxContext < 1 { throw ValidationError("--max-context must be at least 1.") }
    if let threads, threads < 1 { throw ValidationError("--threads must be at least 1.") }
    if !(0...65535).contains(port) { throw ValidationError("--port must be 0 to 65535.") }
  }

  mutating func run() async throws {
    do { try await serve() } catch { fail(error) }
  }

  private func serve() async throws {
    let keys = try apiKeyFile.map { path in
      let keys = try contents(of: path, "--api-key-file").split(whereSeparator: \.isNewline).map(String.init)
      guard !keys.isEmpty else { throw ValidationError("--api-key-file: there is no key in \(path)") }
      return keys.map { (key: $0, owner: String(sha256($0).prefix(32))) }
    }
    // The cores are the model's; one thread sends more tokens than they write.
    NIOSingletons.groupLoopCountSuggestion = 1
    let front = Front()
    let patience = Int64(idle)
    let (port, found) = AsyncStream<Int>.makeStream()
    var logger = Logger(label: "rwkv-serve")
    logger.logLevel = .error
    let application = Application(
      responder: front,
      server: .http1(
        configuration: .init(
          additionalChannelHandlers: [Patience(.seconds(patience))], idleTimeout: .seconds(patience))),
      configuration: .init(
        address: .hostname(host, port: self.port),
        availableConnectionsDelegate: MaximumAvailableConnections(Self.mostConnections())),
      onServerRunning: { found.yield($0.localAddress?.port ?? 0) }, logger: logger)
    let options = self
    let life = Life(seconds: drain) { gate in
      let routes = try await options.load(keys, gate)
      front.open(routes.router().buildResponder())
      for await port in port.prefix(1) { note("listening on http://\(options.host):\(port)") }
      return routes.engine
    }
    // The last one is the first to end: connections are taken and kept until requests have ended.
    let group = ServiceGroup(
      configuration: .init(
        services: [application, life], gracefulShutdownSignals: [.sigterm, .sigint], logger: logger))
    do { try await group.run() } catch let error as IOError {
      let problem = String(cString: strerror(error.errnoCode))
      throw ValidationError("\(host):\(self.port): \(problem); choose another --port or --host")
    }
  }

  /// Loads the model, unless the server ends before.
  ///
  /// Where it cannot be loaded that is the end of the process: the library would tell of what else ends with it.
  private func load(_ keys: [(key: String, owner: String)]?, _ gate: Gate) async throws -> Routes {
    let isOver = Mutex(false)
    return try await withTaskCancellationOrGracefulShutdownHandler {
      do { return try await apart { try routes(keys, gate) { !isOver.withLock { $0 } } } } catch {
        if isOver.withLock({ $0 }) { throw CancellationError() }
        fail(error)
      }
    } onCancelOrGracefulShutdown: {
      isOver.withLock { $0 = true }
    }
  }

  private func routes(
    _ keys: [(key: String, owner: String)]?, _ gate: Gate, goesOn: @escaping @Sendable () -> Bool
  ) throws -> Routes {
    let model = try Model(
      path: model, threads: threads ?? processorCount(), memoryLimit: memoryLimit?.bytes,
      maximumContext: maxContext, states: parallel, kinds: [.embedding, .language], requiresTokenizer: true
    ) { _ in goesOn() }
    let isEmbedder = model.configuration.kind == .embedding
    if reranker != nil, !isEmbedder {
      throw ValidationError("--reranker: needs the embedding model that it was trained with")
    }
    if draft != nil, isEmbedder { throw ValidationError("--draft: an embedding model writes no text") }
    let texts =
      isEmbedder
      ? try TextModels(model, reranker: reranker, threads: threads ?? processorCount(), queue: queue) : nil
    let engine = try Engine(
      model, try chosenTemplate(model), name: alias ?? name(of: self.model),
      try Scheduler(
        model, threads: threads ?? processorCount(), parallel: parallel, queue: queue,
        drafter: try drafter(model)
      ),
      cacheBytes: stateCache.bytes, try stateDir.map { try StateFolder($0, model) }, texts: texts)
    return Routes(
      engine: engine, gate: gate, maximum: maxTokens, separates: reasoning == .separate, keys: keys,
      origins: cors, log: log, page: !noPage)
  }

  /// Makes what guesses how a text goes on; nil: nothing is to.
  private func drafter(_ model: Model) throws -> (@Sendable () -> any Drafter)? {
    guard let draft else { return nil }
    if draft == "ngram" { return { RepetitionDrafter() } }
    let threads = threads ?? processorCount()
    let smaller = try Model(
      path: ModelDirectory.resolve(draft), threads: threads, kinds: [.language], requiresTokenizer: true)
    // Every text has a drafter of its own; one thread uses them all.
    nonisolated(unsafe) let first = try ModelDrafter(smaller, for: model, threads: threads)
    return { ModelDrafter(beside: first) }
  }

  /// How many connections are open at the same time: as many as there can be open files, but for some. More have to
  /// wait until one is closed.
  private static func mostConnections() -> Int {
    var limit = rlimit()
    let files = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
    getrlimit(files, &limit)
    limit.rlim_cur = min(limit.rlim_max, 1 << 16)
    setrlimit(files, &limit)
    return max(16, Int(limit.rlim_cur) - 128)
  }

  private func name(of path: String) -> String {
    let last = URL(fileURLWithPath: path).lastPathComponent
    return last.hasSuffix(".rwkv") ? String(last.dropLast(5)) : last
  }

  private func chosenTemplate(_ model: Model) throws -> ChatTemplate {
    let name = template ?? ChatTemplate.name(for: model)
    if let builtIn = ChatTemplate.builtIn(name) { return builtIn }
    return try ChatTemplate(parsing: contents(of: name, "--template"), name: name)
  }

  /// A text that an option names.
  private func contents(of path: String, _ option: String) throws -> String {
    do { return try String(contentsOfFile: path, encoding: .utf8) } catch {
      throw ValidationError("\(option): \(error.localizedDescription)")
    }
  }
}

/// A number of bytes as people write it: 300M, 1.5G, 65536.
struct Size: ExpressibleByArgument {
  let bytes: Int

  init(bytes: Int) { self.bytes = bytes }

  init?(argument: String) {
    let shifts: [Character: Double] = ["K": 10, "M": 20, "G": 30]
    let shift = argument.last.flatMap { shifts[Character($0.uppercased())] }
    guard let number = Double(shift == nil ? argument : String(argument.dropLast())), number > 0, number < 1e9
    else { return nil }
    bytes = Int(number * exp2(shift ?? 0))
  }

  var defaultValueDescription: String { "\(bytes >> 20)M" }
}

func note(_ line: String) { FileHandle.standardError.write(Data((line + "\n").utf8)) }

/// Ends the process with what is wrong.
func fail(_ error: any Error) -> Never {
  note("rwkv-serve: \(error)")
  exit(1)
}

/// Whether new requests are taken, and how many run.
final class Gate: Sendable {
  private let state = Mutex((isOpen: true, running: 0))

  /// A request that runs, until nobody holds it any more: also where its answer is never begun.
  final class Passage: Sendable {
    private let gate: Gate

    fileprivate init(_ gate: Gate) { self.gate = gate }

    deinit { gate.state.withLock { $0.running -= 1 } }
  }

  func enter() throws -> Passage {
    try state.withLock { state in
      guard state.isOpen else {
        throw APIError(status: .serviceUnavailable, message: "The server is shutting down.", retryAfter: 5)
      }
      state.running += 1
    }
    return Passage(self)
  }

  func close() { state.withLock { $0.isOpen = false } }
  var isOpen: Bool { state.withLock { $0.isOpen } }
  var running: Int { state.withLock { $0.running } }
}

/// What answers before the model is loaded, and hands over to what answers then.
final class Front: HTTPResponder {
  private let responder = Mutex<(any HTTPResponder<Context>)?>(nil)

  func open(_ responder: some HTTPResponder<Context>) { self.responder.withLock { $0 = responder } }

  func respond(to request: Request, context: Context) async throws -> Response {
    if let responder = responder.withLock({ $0 }) {
      return try await responder.respond(to: request, context: context)
    }
    if request.uri.path == "/health" { return reply(["status": "loading"], .serviceUnavailable) }
    let error = APIError(status: .serviceUnavailable, message: "The model is being loaded.", retryAfter: 1)
    return error.response(from: request, context: context)
  }
}

/// The server from the loading of the model to its end. After SIGTERM nothing new begins, and what runs has some
/// seconds; a model that is being loaded has none.
struct Life: Service {
  let seconds: Int
  let begin: @Sendable (Gate) async throws -> Engine

  func run() async throws {
    let gate = Gate()
    let engine: Engine
    do { engine = try await begin(gate) } catch is CancellationError { return }
    try? await gracefulShutdown()
    gate.close()
    let deadline = ContinuousClock.now + .seconds(seconds)
    while gate.running > 0 && ContinuousClock.now < deadline { try? await Task.sleep(for: .milliseconds(20)) }
    engine.scheduler.close()
    engine.cache.finishWriting()
    if gate.running > 0 { exit(0) }
    // Answers are still on their way; who does not take them is not waited for.
    Task.detached {
      try? await Task.sleep(for: .seconds(5))
      exit(0)
    }
  }
}
