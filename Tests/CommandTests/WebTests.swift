// SPDX-License-Identifier: MIT
import Remote
import Synchronization
import Terminal
import Testing

/// When a request is repeated, and what people learn of it: a server and its clock are ours, so that minutes pass at once.
@Suite("Repeated requests")
struct WebTests {
  private final class Line: Sendable {
    /// Seconds, moved by waiting and by requests.
    let now = Mutex(1000.0)
    let told = Mutex<[String]>([])
    let requests = Mutex(0)

    /// - Parameter answer: to a request for this range at this second: lines of its head with the body behind them, or nil:
    ///   nobody is there.
    func web(_ answer: @escaping @Sendable (Range<Int>?, Double) -> (head: [String], body: Int)?) -> Web {
      Web(
        token: nil, isInsecure: false,
        get: { _, range, _, limit in
          self.requests.withLock { $0 += 1 }
          let result = Answer(limit: limit)
          let second = self.now.withLock { now in
            now += 0.1
            return now
          }
          guard let (head, body) = answer(range, second) else {
            return (result, Problem("Could not resolve host: hub.example", .unreachable))
          }
          for line in head { Array(line.utf8).withUnsafeBytes { result.takeHeader($0) } }
          [UInt8](repeating: 7, count: body).withUnsafeBytes { _ = result.takeBody($0) }
          return (result, nil)
        },
        clock: Web.Clock(
          now: { self.now.withLock { $0 } }, wait: { seconds in self.now.withLock { $0 += seconds } }),
        tell: { text in self.told.withLock { $0.append(text) } })
    }
  }

  private static let address = Address("https://hub.example/owner/r/resolve/main/model")

  /// All that was asked for, of a file of a million bytes.
  private static func part(_ range: Range<Int>?, of size: Int = 1_000_000) -> (head: [String], body: Int) {
    let range = range ?? 0..<0
    let bytes = "\(range.lowerBound)-\(range.upperBound - 1)"
    return (["HTTP/1.1 206 Partial", "Content-Range: bytes \(bytes)/\(size)"], range.count)
  }

  /// Also by two who follow each other, or column by column.
  @Test func whatIsReadOnceIsAskedForOnce() throws {
    let (block, line) = (RemoteFile.blockBytes, Line())
    let size = 40 * block
    let web = line.web { range, _ in Self.part(range, of: size) }
    let inOrder = Array(stride(from: 0, to: size, by: block / 4))
    let behind = (0..<20).flatMap { [$0 * block, ($0 + 20) * block] }
    // Far more than what is in memory, a little of each block at a time.
    func columns(_ numbers: some Sequence<Int>) -> [Int] {
      numbers.flatMap { column in (0..<40).map { $0 * block + column * block / 32 } }
    }
    // The last one with some that were read before, a block at a time.
    let twice = columns(0..<31) + (0..<40).flatMap { row in (16..<32).map { row * block + $0 * block / 32 } }
    for (length, offsets) in [
      (block / 4, inOrder), (block, behind), (block / 32, columns(0..<32)), (block / 32, twice),
    ] {
      let file = try RemoteFile(#require(Self.address), web: web, expected: Expectation(size: size))
      let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: length, alignment: 1)
      defer { buffer.deallocate() }
      let before = line.requests.withLock { $0 }
      for offset in offsets {
        buffer.initializeMemory(as: UInt8.self, repeating: 0)
        #expect(file.read(at: offset, into: buffer) == nil && buffer.allSatisfy { $0 == 7 })
      }
      #expect(line.requests.withLock { $0 } == before + 40)
    }
  }

  @Test func aBreakOfNineMinutesIsSurvivedAndToldOnce() throws {
    let line = Line()
    let web = line.web { range, second in (1010..<1550).contains(second) ? nil : Self.part(range) }
    let address = try #require(Self.address)
    #expect(try web.part(address, 0..<10).bytes.count == 10)
    line.now.withLock { $0 = 1010 }
    #expect(try web.part(address, 10..<30).bytes.count == 20)
    let told = line.told.withLock { $0 }
    #expect(told.count == 1 && told[0].contains("Could not resolve host") && told[0].contains("10 minutes"))
    #expect(line.now.withLock { $0 } < 1550 + 31)
    #expect(line.requests.withLock { $0 } < 40)
  }

  @Test func aBreakWithoutAnEndIsGivenUp() throws {
    let line = Line()
    let web = line.web { range, second in second < 1001 ? Self.part(range) : nil }
    let address = try #require(Self.address)
    _ = try web.part(address, 0..<10)
    // However long ago the last byte came: what was not asked for did not stay away.
    line.now.withLock { $0 = 9000 }
    let error = #expect(throws: CommandError.self) { try web.part(address, 10..<30) }
    #expect(error?.description.contains("Could not resolve host") == true)
    #expect((9540..<9601).contains(line.now.withLock { $0 }))
  }

  @Test func aNameThatNobodyHasIsNoBreak() throws {
    let line = Line()
    let web = line.web { _, _ in nil }
    let address = try #require(Self.address)
    #expect(throws: CommandError.self) { try web.file(address, limit: 100) }
    #expect(line.requests.withLock { $0 } == 1)
  }

  /// Short hiccups are nobody's concern.
  @Test func whatPassesAtOnceIsNotTold() throws {
    let line = Line()
    let web = line.web { range, second in
      second < 1001 ? (["HTTP/1.1 503 Busy", "Retry-After: 1"], 0) : Self.part(range)
    }
    _ = try web.part(try #require(Self.address), 0..<10)
    #expect(line.told.withLock { $0 } == [])
  }

  /// A server that limits all: each part is refused, and comes a minute later.
  @Test func aWaitThatIsAskedForIsToldOnce() throws {
    let line = Line()
    let web = line.web { range, second in
      let isFull = second < 1054
      return isFull ? (["HTTP/1.1 429 Too Many", "Retry-After: \(Int(1055 - second))"], 0) : Self.part(range)
    }
    let address = try #require(Self.address)
    _ = try web.part(address, 0..<10)
    _ = try web.part(address, 10..<20)
    let told = line.told.withLock { $0 }
    #expect(told.first?.contains("the server answers 429 and asks to wait 54 s") == true)
    #expect(told.count == 1)
  }

  /// What is cut again and again, but brings something each time, may take as long as it takes.
  @Test func aSlowLineIsNoBrokenOne() throws {
    let line = Line()
    let web = line.web { range, _ in
      line.now.withLock { $0 += 500 }
      return (Self.part(range).head, 1)
    }
    #expect(try web.part(try #require(Self.address), 0..<10).bytes.count == 10)
    #expect(line.now.withLock { $0 } > 6000)
  }

  /// `MODEL`s of two repositories are two models.
  @Test(arguments: [
    ("hf:a/first/model.safetensors", "first"), ("hf:b/second/model.safetensors@main", "second"),
    ("hf:a/r/small/pytorch_model.bin", "small"), ("hf:a/r/model-00001-of-00002.safetensors", "r"),
    ("hf:a/r/rwkv7-0.1b.pth", "rwkv7-0.1b"), ("hf:a/RWKV7-0.4B", "RWKV7-0.4B"),
    ("hf:a/r/model-small.pth", "model-small"),
  ])
  func modelsAreNamedAfterWhatTellsThemApart(place: String, name: String) {
    #expect(HubPlace(place)?.name == name)
  }
}
