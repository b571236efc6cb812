// SPDX-License-Identifier: MIT
import CCurl
import Glibc
import Synchronization
import Terminal

/// libcurl, looked for when the first request is made, so that nothing else needs it.
struct Curl: @unchecked Sendable {
  typealias Handle = UnsafeMutableRawPointer
  let open: @convention(c) () -> Handle?
  let reset: @convention(c) (Handle) -> Void
  let perform: @convention(c) (Handle) -> Int32
  let close: @convention(c) (Handle) -> Void
  let text: @convention(c) (Int32) -> UnsafePointer<CChar>?
  let append: @convention(c) (UnsafeMutableRawPointer?, UnsafePointer<CChar>) -> UnsafeMutableRawPointer?
  let freeList: @convention(c) (UnsafeMutableRawPointer?) -> Void
  let set: curl_setopt

  static let shared = Curl()

  private init?() {
    let names = ["libcurl.so.4", "libcurl-gnutls.so.4", "libcurl.so"]
    guard let library = names.lazy.compactMap({ dlopen($0, RTLD_NOW) }).first,
      let start = dlsym(library, "curl_global_init"), let open = dlsym(library, "curl_easy_init"),
      let reset = dlsym(library, "curl_easy_reset"), let perform = dlsym(library, "curl_easy_perform"),
      let close = dlsym(library, "curl_easy_cleanup"), let text = dlsym(library, "curl_easy_strerror"),
      let append = dlsym(library, "curl_slist_append"), let freeList = dlsym(library, "curl_slist_free_all"),
      let set = dlsym(library, "curl_easy_setopt")
    else { return nil }
    func function<T>(_ symbol: UnsafeMutableRawPointer, _: T.Type) -> T { unsafeBitCast(symbol, to: T.self) }
    self.open = function(open, (@convention(c) () -> Handle?).self)
    self.reset = function(reset, (@convention(c) (Handle) -> Void).self)
    self.perform = function(perform, (@convention(c) (Handle) -> Int32).self)
    self.close = function(close, (@convention(c) (Handle) -> Void).self)
    self.text = function(text, (@convention(c) (Int32) -> UnsafePointer<CChar>?).self)
    self.append = function(
      append,
      (@convention(c) (UnsafeMutableRawPointer?, UnsafePointer<CChar>) -> UnsafeMutableRawPointer?).self)
    self.freeList = function(freeList, (@convention(c) (UnsafeMutableRawPointer?) -> Void).self)
    self.set = function(set, curl_setopt.self)
    let everything = 3  // CURL_GLOBAL_ALL
    guard function(start, (@convention(c) (Int) -> Int32).self)(everything) == 0 else { return nil }
  }
}

/// Connections that are kept for the next request.
final class Connections: Sendable {
  private struct Free: @unchecked Sendable { var handles: [Curl.Handle] = [] }
  private let free = Mutex(Free())
  private let curl: Curl

  init() throws {
    guard let curl = Curl.shared else {
      throw CommandError(
        "reading from the network takes libcurl, which is not installed: apt-get install libcurl4 (dnf, zypper: "
          + "libcurl; pacman: curl)")
    }
    self.curl = curl
  }

  deinit { free.withLock { $0.handles.forEach(curl.close) } }

  /// One GET without redirections.
  /// - Parameter limit: of the body [bytes]; more is not received.
  func get(_ address: Address, range: Range<Int>?, headers: [String], limit: Int) -> (Answer, Problem?) {
    let answer = Answer(limit: limit)
    guard let handle = free.withLock({ $0.handles.popLast() }) ?? curl.open() else {
      return (answer, Problem("libcurl does not start"))
    }
    var list: UnsafeMutableRawPointer?
    for header in headers { list = curl.append(list, header) }
    defer { curl.freeList(list) }
    func set(_ option: Int, _ value: Int) { _ = curl_set_long(curl.set, handle, Int32(option), value) }
    func set(_ option: Int, _ value: String) { _ = curl_set_text(curl.set, handle, Int32(option), value) }
    func set(_ option: Int, _ value: UnsafeMutableRawPointer) {
      _ = curl_set_pointer(curl.set, handle, Int32(option), value)
    }
    set(CURL_URL, address.text)
    set(CURL_PROTOCOLS, CURL_HTTP_AND_HTTPS)
    set(CURL_NOSIGNAL, 1)
    // What a proxy says before the server is no answer of it.
    set(CURL_SUPPRESS_CONNECT_HEADERS, 1)
    set(CURL_CONNECTTIMEOUT, Self.patience)
    set(CURL_LOW_SPEED_LIMIT, Self.leastSpeed)
    set(CURL_LOW_SPEED_TIME, Self.patience)
    set(CURL_USERAGENT, "rwkv/\(version)")
    // What the library's own command honours, and those of the hub's programs.
    for name in ["CURL_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"] {
      guard !variable(name).isEmpty else { continue }
      set(CURL_CAINFO, variable(name))
      break
    }
    if !variable("SSL_CERT_DIR").isEmpty { set(CURL_CAPATH, variable("SSL_CERT_DIR")) }
    // Plain HTTP is for this machine: a proxy would carry it beyond.
    if address.scheme == "http", address.isLocal { set(CURL_NOPROXY, "*") }
    // Parts are of the file itself; small files may come compressed.
    if let range {
      set(CURL_RANGE, "\(range.lowerBound)-\(range.upperBound - 1)")
      list = curl.append(list, "Accept-Encoding: identity")
    } else {
      set(CURL_ACCEPT_ENCODING, "")
    }
    if let list { set(CURL_HTTPHEADER, list) }
    let context = Unmanaged.passUnretained(answer).toOpaque()
    set(CURL_WRITEDATA, context)
    set(CURL_HEADERDATA, context)
    _ = curl_set_receive(curl.set, handle, Int32(CURL_WRITEFUNCTION)) { bytes, size, count, context in
      guard let bytes, let context else { return 0 }
      let answer = Unmanaged<Answer>.fromOpaque(context).takeUnretainedValue()
      return answer.takeBody(UnsafeRawBufferPointer(start: bytes, count: size * count)) ? size * count : 0
    }
    _ = curl_set_receive(curl.set, handle, Int32(CURL_HEADERFUNCTION)) { bytes, size, count, context in
      guard let bytes, let context else { return 0 }
      Unmanaged<Answer>.fromOpaque(context).takeUnretainedValue()
        .takeHeader(UnsafeRawBufferPointer(start: bytes, count: size * count))
      return size * count
    }
    set(CURL_NOPROGRESS, 0)
    _ = curl_set_progress(curl.set, handle, Int32(CURL_XFERINFOFUNCTION)) { _, _, _, _, _ in
      isInterrupted ? 1 : 0
    }
    let message = UnsafeMutablePointer<CChar>.allocate(capacity: CURL_ERROR_SIZE)
    defer { message.deallocate() }
    message.pointee = 0
    set(CURL_ERRORBUFFER, message)
    let code = withExtendedLifetime(answer) { curl.perform(handle) }
    curl.reset(handle)
    free.withLock { $0.handles.append(handle) }
    guard code != 0 else { return (answer, nil) }
    let text =
      message.pointee == 0
      ? curl.text(code).map { String(cString: $0) } ?? "error \(code)" : String(cString: message)
    return (answer, Problem(text, Self.kind(code)))
  }

  /// The kind of problem that the library's code stands for; codes never change their meaning.
  private static func kind(_ code: Int32) -> Problem.Kind {
    switch code {
    case 5, 6, 7: .unreachable  // names of proxy and host, connection
    case 51, 58, 60, 77, 83, 90, 91: .untrusted  // certificates, and the files with those that are trusted
    default: .passing
    }
  }

  /// Bytes per second, below which a connection is given up after `patience`.
  private static let leastSpeed = 100
  /// Seconds, as the hub's own programs are told.
  private static let patience = Int(variable("HF_HUB_DOWNLOAD_TIMEOUT")).flatMap { $0 > 0 ? $0 : nil } ?? 30
}
