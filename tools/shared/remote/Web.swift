// SPDX-License-Identifier: MIT
import Glibc
import Synchronization
import Terminal

/// What came of one GET beside its answer, where no whole answer came.
package struct Problem: Sendable {
  package enum Kind: Sendable {
    /// Another attempt may help.
    case passing
    /// There is nobody, or nobody with that name; may pass where somebody has answered before.
    case unreachable
    /// Whoever answers cannot be trusted.
    case untrusted
  }
  let text: String
  let kind: Kind

  package init(_ text: String, _ kind: Kind = .passing) { (self.text, self.kind) = (text, kind) }
}

/// Requests that are repeated, redirected and resumed until the bytes are there.
package final class Web: Sendable {
  /// One GET without redirections, of some bytes or all, with headers, for at most so many bytes.
  package typealias Get = @Sendable (Address, Range<Int>?, [String], Int) -> (Answer, Problem?)

  /// The time that passes while nothing comes; tests have a clock of their own.
  package struct Clock: Sendable {
    /// Seconds since some moment.
    let now: @Sendable () -> Double
    /// Waits so many seconds, or until Ctrl-C.
    let wait: @Sendable (Double) -> Void

    package init(now: @escaping @Sendable () -> Double, wait: @escaping @Sendable (Double) -> Void) {
      (self.now, self.wait) = (now, wait)
    }
  }

  private let get: Get
  private let clock: Clock
  /// Says to people why nothing comes.
  private let tell: @Sendable (String) -> Void
  /// Sent to hosts of this origin alone, never after a redirection to another.
  private let token: (origin: String, secret: String)?
  /// Whether plain HTTP is allowed beyond this machine.
  private let isInsecure: Bool
  /// Where redirections have led, by the address that was asked for: such places hold for some time.
  private let places = Mutex<[String: Redirected]>([:])
  private let hasAnswered = Atomic<Bool>(false)
  /// When bytes came last, and until when people know why none come.
  private let silence = Mutex((since: -Double.infinity, toldUntil: -Double.infinity))

  private static let maximumRedirects = 5
  /// Seconds between attempts.
  private static let (firstWait, longestWait) = (0.25, 30.0)
  /// Seconds that a server may ask to be left alone for.
  private static let longestAsked = 300
  /// Seconds without a byte after which people are told why, and after which it is given up.
  private static let (toldSilence, longestSilence) = (3.0, 600.0)

  package convenience init(token: (origin: String, secret: String)?, isInsecure: Bool) throws {
    let connections = try Connections()
    let clock = Clock(
      now: now,
      wait: { seconds in
        let end = now() + seconds
        while now() < end, !isInterrupted { usleep(20_000) }
      })
    self.init(
      token: token, isInsecure: isInsecure, get: { connections.get($0, range: $1, headers: $2, limit: $3) },
      clock: clock, tell: { note($0) })
  }

  package init(
    token: (origin: String, secret: String)?, isInsecure: Bool, get: @escaping Get, clock: Clock,
    tell: @escaping @Sendable (String) -> Void
  ) {
    (self.token, self.isInsecure, self.get, self.clock, self.tell) = (token, isInsecure, get, clock, tell)
  }

  private struct Redirected {
    let address: Address
    /// What the hub says of a large file when it sends us elsewhere: X-Linked-Size, X-Linked-Etag.
    let size: Int?
    let tag: String?
  }

  /// What a part of a file came with.
  package struct Part {
    package var bytes: [UInt8] = []
    /// The size of the whole file [bytes].
    package var size = 0
    var version = Version()
    /// The whole file's by the hub's own word, where it gives it.
    var linkedSize: Int?
    var linkedTag: String?
  }

  /// A small file, whole; nil where there is none.
  package func file(_ address: Address, limit: Int) throws -> [UInt8]? {
    try repeating(address) {
      let (answer, _, problem) = try follow(address, range: nil, limit: limit)
      if answer.isTooLong { throw CommandError("\(address.shown): more than \(size(limit))") }
      if answer.status == 404 { return .found(nil) }
      guard answer.status == 200 else { return try retry(answer, problem, address) }
      let length = answer.isPlain ? answer.headers["content-length"] : nil
      let isWhole = length.map { decimalNumber($0) == answer.body.count } ?? true
      return problem == nil && isWhole ? .found(answer.body) : .again(answer, problem)
    }
  }

  /// Bytes of a file, fewer only where it ends before, however often the connection is cut.
  /// - Parameter known: how many the whole file has, for servers that do not say it with each part.
  package func part(_ address: Address, _ range: Range<Int>, known: Int? = nil) throws -> Part {
    var part = Part()
    return try repeating(address, progress: { part.bytes.count }) {
      let wanted = range.lowerBound + part.bytes.count..<range.upperBound
      let (answer, place, problem) = try follow(address, range: wanted, limit: wanted.count)
      guard [200, 206].contains(answer.status) else { return try retry(answer, problem, address) }
      if answer.status == 200, wanted.lowerBound == 0, !answer.isTooLong, problem != nil {
        return .again(answer, problem)
      }
      let size = try wholeSize(answer, wanted, known: known, address)
      guard part.version.isSame(Version(of: answer)), part.bytes.isEmpty || part.size == size else {
        throw Web.changed(address)
      }
      (part.size, part.linkedSize, part.linkedTag) = (size, place.size, place.tag)
      if part.bytes.isEmpty { part.bytes = answer.body } else { part.bytes += answer.body }
      return part.bytes.count == min(range.upperBound, size) - range.lowerBound
        ? .found(part) : .again(answer, problem)
    }
  }

  /// The size of the file of which an answer is the part that was asked for [bytes]. Throws for any other answer.
  private func wholeSize(_ answer: Answer, _ wanted: Range<Int>, known: Int?, _ address: Address) throws
    -> Int
  {
    guard answer.isPlain else {
      throw CommandError("\(address.shown): the server compresses files; download it and convert the file")
    }
    let length = answer.headers["content-length"].flatMap { decimalNumber($0) }
    if answer.status == 200 {
      // All of a file that is wanted whole.
      guard wanted.lowerBound == 0, !answer.isTooLong, let size = known ?? length, size == answer.body.count
      else {
        throw CommandError(
          "\(address.shown): the server does not send parts of files; download it and convert the file")
      }
      return size
    }
    guard let (bytes, size) = answer.contentRange(known: known), bytes.lowerBound == wanted.lowerBound,
      bytes.upperBound < wanted.upperBound, answer.body.count <= bytes.count, !answer.isTooLong
    else { throw CommandError("\(address.shown): the server sends another part than was asked for") }
    return size
  }

  static func changed(_ address: Address) -> CommandError {
    CommandError("\(address.shown): the file changed while it was read; convert it again")
  }

  // MARK: Again

  private enum Attempt<Result> {
    case found(Result)
    case again(Answer, Problem?)
  }

  /// Waits and tries again, until nothing has come for ten minutes.
  private func repeating<Result>(
    _ address: Address, progress: () -> Int = { 0 }, _ attempt: () throws -> Attempt<Result>
  ) throws -> Result {
    let start = clock.now()
    var (failures, pause, before) = (0, Self.firstWait, 0)
    while true {
      if isInterrupted { throw CommandError("interrupted") }
      switch try attempt() {
      case .found(let result):
        bytesCame()
        return result
      case .again(let answer, let problem):
        if progress() > before {
          bytesCame()
          (failures, pause, before) = (0, Self.firstWait, progress())
          continue
        }
        failures += 1
        let isCut = [0, 200, 206].contains(answer.status)
        let reason = isCut ? problem?.text ?? "no whole answer" : "the server answers \(answer.status)"
        let asked = answer.retryAfter ?? 0
        let seconds = max(pause, Double(asked))
        let silent = clock.now() + seconds - max(start, silence.withLock { $0.since })
        guard asked <= Self.longestAsked, silent <= Self.longestSilence else {
          let advice = asked > Self.longestAsked ? "; it asks to come back in \(asked) s" : ""
          let attempts = failures > 1 ? ", after \(failures) attempts" : ""
          throw CommandError("\(address.shown): \(reason)" + attempts + advice)
        }
        if silent >= Self.toldSilence { explain("\(address.shown): \(reason)", asked: asked) }
        clock.wait(seconds)
        pause = min(2 * pause, Self.longestWait)
      }
    }
  }

  private func bytesCame() {
    silence.withLock { silence in
      silence.since = clock.now()
      // That a server asks for a time stays told until it is over.
      if silence.toldUntil == .infinity { silence.toldUntil = -.infinity }
    }
  }

  /// Says why nothing comes, once for all that wait.
  private func explain(_ reason: String, asked: Int) {
    let isNews = silence.withLock { silence in
      guard clock.now() >= silence.toldUntil else { return false }
      silence.toldUntil = asked > 0 ? clock.now() + Double(asked) : .infinity
      return true
    }
    let minutes = Int(Self.longestSilence) / 60
    guard isNews else { return }
    tell(
      asked > 0
        ? "\(reason) and asks to wait \(asked) s"
        : "\(reason); trying again until nothing has come for \(minutes) minutes")
  }

  /// Throws where another attempt would not help.
  private func retry<Result>(_ answer: Answer, _ problem: Problem?, _ address: Address) throws -> Attempt<
    Result
  > {
    let url = address.shown
    switch answer.status {
    case 401, 403:
      // The hub does not tell strangers which private repositories there are.
      let reason =
        answer.headers["x-error-code"] == "RepoNotFound"
        ? "no such repository, or a private one" : "access denied"
      let advice =
        token?.origin == address.origin
        ? "the token that was sent (HF_TOKEN, or the file of the hub's own programs) is wrong or may not read it"
        : "if it is private or gated, accept its terms and set HF_TOKEN"
      throw CommandError("\(url): \(answer.status), \(reason); \(advice)")
    case 404: throw CommandError("\(url): 404, there is no such file")
    case 408, 425, 429, 500...: return .again(answer, problem)
    case 0:
      let isFinal =
        switch problem?.kind {
        case .untrusted: true
        case .unreachable: !hasAnswered.load(ordering: .relaxed)
        default: false
        }
      if isFinal, let problem { throw CommandError("\(url): \(problem.text)") }
      return .again(answer, problem)
    default: throw CommandError("\(url): the server answers \(answer.status)")
    }
  }

  // MARK: Elsewhere

  /// One GET, and those to which it is redirected; first where an earlier one ended.
  private func follow(_ address: Address, range: Range<Int>?, limit: Int) throws -> (
    Answer, Redirected, Problem?
  ) {
    if let known = places.withLock({ $0[address.text] }) {
      let (answer, problem) = try ask(known.address, range, limit)
      // Signed addresses end.
      if answer.status < 300 || answer.status == 429 || answer.status >= 500 {
        return (answer, known, problem)
      }
      places.withLock { $0[address.text] = nil }
    }
    var place = Redirected(address: address, size: nil, tag: nil)
    for _ in 0...Self.maximumRedirects {
      let (answer, problem) = try ask(place.address, range, limit)
      guard (300..<400).contains(answer.status), let location = answer.headers["location"] else {
        if answer.status == 206, place.address != address {
          places.withLock { $0[address.text] = place }
        }
        return (answer, place, problem)
      }
      guard let next = place.address.resolving(location) else {
        throw CommandError("\(address.shown): redirected to what is no address")
      }
      if place.address.scheme == "https", next.scheme != "https", !isInsecure {
        throw CommandError("\(address.shown): redirected from https to \(next.shown), which is refused")
      }
      place = Redirected(
        address: next, size: answer.headers["x-linked-size"].flatMap { decimalNumber($0) } ?? place.size,
        tag: answer.headers["x-linked-etag"] ?? place.tag)
    }
    throw CommandError("\(address.shown): redirected more than \(Self.maximumRedirects) times")
  }

  private func ask(_ address: Address, _ range: Range<Int>?, _ limit: Int) throws -> (Answer, Problem?) {
    guard address.scheme == "https" || address.isLocal || isInsecure else {
      throw CommandError(
        "\(address.shown): plain http would not be private; use https, or allow it with --insecure")
    }
    let isTrusted = token.map { address.origin == $0.origin } ?? false
    let headers = isTrusted ? ["Authorization: Bearer \(token?.secret ?? "")"] : []
    let (answer, problem) = get(address, range, headers, limit)
    if answer.status > 0 { hasAnswered.store(true, ordering: .relaxed) }
    return (answer, problem)
  }
}
