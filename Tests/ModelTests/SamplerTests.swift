// SPDX-License-Identifier: MIT
import Foundation
import RWKVTokenizer
import Testing

@testable import RWKV

@Suite("Sampler")
struct SamplerTests {
  /// Made by tools/develop/reference/make_sampler_cases.py.
  struct Case: Decodable, CustomTestStringConvertible {
    let name: String
    let logits: [Float?]
    let history: [Int]
    /// Token and probability, where it is not zero.
    let expected: [[Double]]
    let logitBias: [[Double]]
    let temperature, topP, minP, presencePenalty, frequencyPenalty, penaltyDecay: Double
    let topK: Int

    var testDescription: String { name }

    var options: SamplingOptions {
      var options = SamplingOptions()
      options.temperature = temperature
      options.topP = topP
      options.topK = topK
      options.minP = minP
      for pair in logitBias { options.logitBias[Int(pair[0])] = Float(pair[1]) }
      options.presencePenalty = presencePenalty
      options.frequencyPenalty = frequencyPenalty
      options.penaltyDecay = penaltyDecay
      return options
    }

    static let all: [Case] = {
      let file = URL(filePath: #filePath).appending(path: "../../Fixtures/sampler-cases.json").standardized
      return (try? JSONDecoder().decode([Case].self, from: Data(contentsOf: file))) ?? []
    }()
  }

  static func probabilities(_ sampler: inout Sampler, _ logits: [Float]) throws -> [Double] {
    try logits.withUnsafeBufferPointer { try sampler.probabilities($0) }
  }

  static func options(_ change: (inout SamplingOptions) -> Void) -> SamplingOptions {
    var options = SamplingOptions()
    change(&options)
    return options
  }

  @Test("the fixture is there")
  func fixture() {
    #expect(Case.all.count == 25)
  }

  @Test("a bias for a token that the vocabulary does not have changes nothing")
  func biasBeyondTheVocabulary() throws {
    let logits: [Float] = [1, 2, 3, 4]
    var plain = try Sampler(SamplingOptions())
    let expected = try Self.probabilities(&plain, logits)
    for token in [logits.count, logits.count + 1, 1 << 20] {
      var sampler = try Sampler(Self.options { $0.logitBias[token] = 100 })
      #expect(try Self.probabilities(&sampler, logits) == expected)
    }
    var last = try Sampler(Self.options { $0.logitBias[logits.count - 1] = -100 })
    #expect(try Self.probabilities(&last, logits) != expected)
  }

  @Test("what may be drawn, and how likely, is what the reference says", arguments: Case.all)
  func reference(_ item: Case) throws {
    var sampler = try Sampler(item.options, tokenizer: ByteTokenizer())
    for token in item.history { sampler.record(token) }
    let found = try Self.probabilities(&sampler, item.logits.map { $0 ?? -.infinity })
    var expected = [Double](repeating: 0, count: found.count)
    for pair in item.expected { expected[Int(pair[0])] = pair[1] }
    for (found, expected) in zip(found, expected) {
      #expect((found == 0) == (expected == 0))
      #expect(abs(found - expected) <= 1e-11 * expected)
    }
  }

  @Test("a token of digits is uncounted only when it occurs in \" \\t0123456789\"")
  func uncountedDigits() throws {
    var lines = (0..<256).map { "\($0 + 1) b'\\x\($0 < 16 ? "0" : "")\(String($0, radix: 16))' 1\n" }
    lines += ["257 '12' 2\n", "258 '21' 2\n", "259 '  ' 2\n"]
    let tokenizer = try WorldTokenizer(vocabulary: lines.joined().utf8.map { $0 })
    let options = Self.options {
      $0.topP = 1
      $0.presencePenalty = 0
      $0.frequencyPenalty = 1
    }
    var sampler = try Sampler(options, tokenizer: tokenizer)
    for token in [257, 258, 259] { sampler.record(token) }
    let found = try Self.probabilities(&sampler, [Float](repeating: 0, count: 260))
    #expect(found[257] == found[0] && found[258] < found[0] && found[259] < found[0])
  }

  @Test("temperature 0 takes the highest logit, of equals the lowest id")
  func greedy() throws {
    var sampler = try Sampler(.greedy)
    #expect(try sampler.sample([-1, 3, 2, 3]) == 1)
    #expect(try sampler.sample([-1, 3, 2, 3.5]) == 3)
    #expect(try sampler.sample([-.infinity, -1e30]) == 1)
  }

  @Test("draws follow the probabilities")
  func frequencies() throws {
    let options = Self.options {
      $0.topP = 0.95
      $0.presencePenalty = 0
      $0.frequencyPenalty = 0
      $0.seed = 42
    }
    var sampler = try Sampler(options)
    let logits: [Float] = [1, 3, -9, 2.5, 0, 2]
    let expected = try Self.probabilities(&sampler, logits)
    let draws = 20_000
    var counts = [Double](repeating: 0, count: logits.count)
    for _ in 0..<draws { counts[try sampler.sample(logits)] += 1 }
    for (count, p) in zip(counts, expected) {
      // Five standard deviations; exactly 0 where p is 0.
      #expect(abs(count - Double(draws) * p) <= 5 * (Double(draws) * p * (1 - p)).squareRoot())
    }
  }

  @Test("the same seed gives the same tokens, here and everywhere")
  func seeds() throws {
    func tokens(seed: UInt64) throws -> [Int] {
      var sampler = try Sampler(
        Self.options {
          $0.seed = seed
          $0.topP = 1
          $0.temperature = 1.5
          ($0.presencePenalty, $0.frequencyPenalty) = (0.2, 0.2)
        })
      return try (0..<16).map { _ in try sampler.sample((0..<50).map { Float($0 % 7) }) }
    }
    #expect(try tokens(seed: 1) == tokens(seed: 1))
    #expect(try tokens(seed: 1) != tokens(seed: 2))
    // Written down by another SplitMix64 and softmax: a change of the generator is a change for users.
    let expected = [27, 39, 48, 20, 24, 40, 45, 27, 13, 41, 20, 32, 24, 27, 20, 8]
    #expect(try tokens(seed: 1) == expected)
  }

  @Test("sampling counts what it chose, except token 0, until it is reset")
  func penalties() throws {
    let options = Self.options {
      $0.temperature = 0
      $0.presencePenalty = 10
    }
    var sampler = try Sampler(options)
    #expect(try sampler.sample([1, 5, 4]) == 1)
    #expect(try sampler.sample([1, 5, 4]) == 2)
    #expect(try sampler.sample([1, 5, 4]) == 0)
    #expect(try sampler.sample([1, 5, 4]) == 0)
    sampler.reset()
    #expect(try sampler.sample([1, 5, 4]) == 1)
  }

  @Test("logits that are not numbers are an error, at any temperature", arguments: [0, 1] as [Double])
  func notFinite(_ temperature: Double) throws {
    var sampler = try Sampler(Self.options { $0.temperature = temperature })
    #expect(throws: SamplingError.notFinite(token: 1)) { try sampler.sample([0, .nan, 1]) }
    #expect(throws: SamplingError.notFinite(token: 2)) { try sampler.sample([0, 1, .infinity]) }
    #expect(throws: SamplingError.noCandidates) { try sampler.sample([-.infinity, -.infinity]) }
    #expect(throws: SamplingError.noCandidates) { try sampler.sample([]) }
    #expect(try sampler.sample([-.infinity, 3]) == 1)
    #expect(throws: SamplingError.noCandidates) { try sampler.sample([]) }
  }

  @Test("of equal logits, top-k keeps those with the lower ids")
  func ties() throws {
    for (topK, logits): (Int, [Float]) in [
      (2, [0, 0, 0, 0, 0]), (3, [1, 0, 2, 0, 0, 0]), (1, [0, 3, 3, 3]),
    ] {
      var options = SamplingOptions()
      options.topP = 1
      options.topK = topK
      var sampler = try Sampler(options)
      let order = logits.indices.sorted { (-logits[$0], $0) < (-logits[$1], $1) }
      let kept = try logits.withUnsafeBufferPointer { try sampler.probabilities($0) }
      #expect(kept.indices.filter { kept[$0] > 0 } == order.prefix(topK).sorted())
    }
  }

  @Test("extreme options and logits neither trap nor give NaN")
  func extremes() throws {
    let logits: [Float] = [.greatestFiniteMagnitude, -.greatestFiniteMagnitude, 0, -.infinity, 1e-30]
    for temperature in [1e-300, 1e-9, 1, 1000] {
      for topP in [0, 1e-300, 0.5, 1 - 0x1p-53, 1] {
        for topK in [0, 1, 4, 5, 1000] {
          var sampler = try Sampler(
            Self.options {
              $0.temperature = temperature
              $0.topP = topP
              $0.topK = topK
            })
          let sum = try Self.probabilities(&sampler, logits).reduce(0, +)
          #expect(abs(sum - 1) < 1e-12)
        }
      }
    }
  }

  @Test("a cut over a large vocabulary keeps what a full sort keeps")
  func largeVocabulary() throws {
    var state: UInt64 = 5
    for scale in [0.1, 1, 6] as [Float] {
      let logits = (0..<20_000).map { _ in
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return (Float(state >> 40) * 0x1p-24 - 0.5) * scale
      }
      let weights = logits.map { exp(Double($0)) }.sorted(by: >)
      for topP in [0.5, 0.7, 0.95, 0.999] {
        var sampler = try Sampler(Self.options { $0.topP = topP })
        let kept = try Self.probabilities(&sampler, logits).filter { $0 > 0 }.count
        let target = topP * weights.reduce(0, +)
        var mass = 0.0
        let needed = weights.prefix { weight in
          defer { mass += weight }
          return mass < target
        }
        #expect(kept == weights.filter { $0 >= needed.last ?? 0 }.count)
      }
    }
  }

  /// Which token a seed's first draw takes when all tokens are put in order: the sampler, word by word.
  static func drawFromSorted(_ logits: [Float], _ options: SamplingOptions) -> Int {
    let maximum = Double(logits.max() ?? 0)
    let weights = logits.map { exp(Double($0) - maximum) }
    let total = weights.reduce(0, +)
    let cuts = options.topP < 1 || options.minP > 0 || options.topK > 0
    var kept = Array(logits.indices)
    if cuts {
      kept.sort { (-logits[$0], $0) < (-logits[$1], $1) }
      kept = kept.filter { weights[$0] >= options.minP }
      var (mass, last, count) = (0.0, Float.nan, 0)
      for token in kept {
        if count > 0 && options.topP < 1 && mass >= options.topP * total && logits[token] != last { break }
        (mass, last, count) = (mass + weights[token], logits[token], count + 1)
      }
      kept = Array(kept.prefix(min(count, options.topK == 0 ? .max : options.topK)))
    }
    let tempered = kept.map { exp((Double(logits[$0]) - maximum) / options.temperature) }
    // SplitMix64.
    var z = options.seed &+ 0x9E37_79B9_7F4A_7C15
    z = (z ^ z >> 30) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ z >> 27) &* 0x94D0_49BB_1331_11EB
    var rest = Double((z ^ z >> 31) >> 11) * 0x1p-53 * tempered.reduce(0, +)
    for (token, weight) in zip(kept, tempered) {
      rest -= weight
      if rest < 0 { return token }
    }
    return kept.last ?? -1
  }

  @Test("tokens are drawn as from a full sort, whatever the shape of the logits")
  func drawsOfASort() throws {
    var numbers = LinearRandom(state: 77)
    let shapes: [(String, (Int) -> Float)] = [
      ("peaked", { _ in Float(pow(numbers.uniform(), 8) * 25) }),
      ("flat", { _ in Float(numbers.uniform() * 0.1) }),
      ("equal", { _ in 1.5 }), ("steps", { Float($0 % 7) }),
      ("one far above flat", { $0 == 2000 ? 30 : Float(numbers.uniform()) }),
      ("wide", { _ in Float(numbers.uniform() * 2000 - 1000) }),
      ("banned", { $0 % 3 == 0 ? -.infinity : Float(numbers.uniform() * 4) }),
    ]
    for (name, shape) in shapes {
      let logits = (0..<3001).map(shape)
      for (topP, minP, topK) in [
        (1, 0, 0), (0.7, 0, 0), (0.95, 0, 0), (0.999, 0, 40), (1, 0, 40), (1, 0, 2000), (1, 0.05, 0),
        (0.9, 0.3, 7), (0, 0, 0),
      ] as [(Double, Double, Int)] {
        for (temperature, seed) in [(1, 1), (0.6, 2), (1.7, 3), (1, 4), (0.01, 5)] as [(Double, UInt64)] {
          let options = Self.options {
            ($0.topP, $0.minP, $0.topK, $0.temperature, $0.seed) = (topP, minP, topK, temperature, seed)
          }
          var sampler = try Sampler(options)
          #expect(
            try sampler.sample(logits) == Self.drawFromSorted(logits, options),
            "\(name), top-p \(topP), min-p \(minP), top-k \(topK), temperature \(temperature), seed \(seed)")
        }
      }
    }
  }

  /// A linear congruential generator.
  struct LinearRandom {
    var state: UInt64

    mutating func uniform() -> Double {
      state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
      return Double(state >> 11) * 0x1p-53
    }
  }

  @Test("so many groups have a logit that so many tokens reach")
  func reached() {
    for count in [1, 63, 64, 65, 640, 1000] {
      let logits = (0..<count).map { Float(($0 * 7919 + 13) % 1009) }
      let maxima = stride(from: 0, to: count, by: 64).map { logits[$0..<min($0 + 64, count)].max() ?? 0 }
      var groups = LogitGroups()
      let found = logits.withUnsafeBufferPointer { groups.findMaxima($0) }
      #expect(found && groups.maxima == maxima && groups.maximum == logits.max())
      #expect(groups.minimum == logits.min())
      for k in 1...maxima.count + 1 {
        let expected = k > maxima.count ? -.infinity : maxima.sorted(by: >)[k - 1]
        #expect(groups.reached(byAtLeast: k) == expected, "\(k) of \(count)")
      }
    }
  }

  @Test("a bias of −∞ bans a token, one far outside the vocabulary changes nothing")
  func bans() throws {
    var sampler = try Sampler(
      Self.options {
        $0.temperature = 0
        $0.logitBias = [1: -.infinity, 1000: 50]
      })
    #expect(try sampler.sample([1, 5, 4]) == 2)
  }

  @Test("wrong options are refused by name")
  func invalidOptions() throws {
    let changes: [(inout SamplingOptions) -> Void] = [
      { $0.temperature = -1 }, { $0.temperature = .nan }, { $0.topP = 1.01 }, { $0.topP = -0.1 },
      { $0.topK = -1 }, { $0.minP = 1.5 }, { $0.logitBias[-1] = 0 }, { $0.logitBias[3] = .nan },
      { $0.logitBias[3] = .infinity },
      { $0.presencePenalty = .infinity }, { $0.frequencyPenalty = .nan }, { $0.penaltyDecay = 1.5 },
    ]
    for change in changes {
      #expect(throws: SamplingError.self) { try Sampler(Self.options(change)) }
    }
  }
}
