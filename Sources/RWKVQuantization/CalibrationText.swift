// SPDX-License-Identifier: MIT
import RWKV
import RWKVTokenizer

/// A text that shows the quantizer what the model is used for.
public enum CalibrationText: Sendable {
  case bytes([UInt8])
  /// Token ids, for models without a tokenizer.
  case tokens([Int])
  /// Sampled from the model itself.
  case generated

  /// Tokens that a calibration reads at most; more gain nothing (docs/quality.md).
  static let mostTokens = 16_384
  /// Tokens on which the loss is measured at most.
  static let mostHeldOut = 2048

  /// The text as tokens: what the rounding is calibrated on and, unless the text is the model's own, what is held out
  /// to measure the loss: the last eighth.
  func tokens(
    _ model: Model, threads: Int, cancelled: () -> Bool
  ) throws(QuantizationError) -> (calibration: [Int], heldOut: [Int]) {
    switch self {
    case .generated:
      do throws(ModelError) { return (try Self.generate(model, threads: threads, cancelled), []) } catch {
        throw error.isCancellation ? .cancelled : .model(error)
      }
    case .bytes(let bytes):
      guard !bytes.isEmpty else { throw .option("the calibration text is empty") }
      return Self.divide(try model.tokens(of: bytes))
    case .tokens(let tokens):
      guard !tokens.isEmpty else { throw .option("the calibration text has no tokens") }
      return Self.divide(tokens)
    }
  }

  private static func divide(_ tokens: [Int]) -> (calibration: [Int], heldOut: [Int]) {
    let heldOut = min(mostHeldOut, tokens.count / 8)
    return (Array(tokens.dropLast(heldOut).prefix(mostTokens)), [0] + tokens.suffix(heldOut))
  }

  /// Texts that the model writes after the start of a document, at temperature 1, many at once.
  private static func generate(_ model: Model, threads: Int, _ cancelled: () -> Bool) throws(ModelError)
    -> [Int]
  {
    let (texts, length) = (16, Calibration.leastTokens / 8)
    let batch = try Batch(model, threads: threads)
    let states = (0..<texts).map { _ in model.newState() }
    var samplers: [Sampler] = []
    for text in 0..<texts {
      var options = SamplingOptions()
      options.topP = 0.95
      options.seed = UInt64(text)
      do { samplers.append(try Sampler(options)) } catch { preconditionFailure("valid options: \(error)") }
    }
    var last = [Int](repeating: 0, count: texts)
    var written = [[Int]](repeating: [0], count: texts)
    for _ in 1..<length {
      if cancelled() { throw ModelError(.cancelled) }
      try batch.decode(last, states)
      for text in 0..<texts {
        do { last[text] = try samplers[text].sample(batch.logits(text)) } catch {
          throw ModelError(.notFinite("the logits"), path: model.path)
        }
        written[text].append(last[text])
      }
    }
    return written.flatMap { $0 }
  }

  /// What the loss is measured on where no text is given: prose in several languages, a dialogue, code, numbers. Short
  /// and plain English alone would understate what is lost.
  static let builtIn = """
    The lighthouse keeper wrote the weather into the log every evening, even when nobody asked for it. On the \
    third of November the wind turned to the north-west, the barometer fell by eleven millibars within four \
    hours, and the supply boat, which should have arrived before noon, lay at anchor behind the island until the \
    following Tuesday. "There is flour for nine days," she noted, "and oil for twenty, so nothing needs to be \
    hurried."

    User: Why does ice float on water?

    Assistant: Because it is less dense. When water freezes, its molecules arrange themselves in an open hexagonal \
    lattice that takes about 9 % more room than the liquid does. A block of ice therefore displaces its own weight of \
    water while a tenth of it is still above the surface.

    def partition(values, pivot):
        \"\"\"Splits a list into smaller, equal and larger elements.\"\"\"
        smaller = [v for v in values if v < pivot]
        equal = [v for v in values if v == pivot]
        return smaller, equal, [v for v in values if v > pivot]

    Die Werkstatt lag im Hof hinter der Bäckerei. Wer morgens früh kam, roch zuerst das Brot und dann den Leim; \
    gegen Mittag war es umgekehrt. Der alte Meister sprach wenig, aber was er sagte, konnte man sich merken: \
    "Miss zweimal, säge einmal, und wenn du unsicher bist, miss noch einmal."

    Le marché ouvre à sept heures. Les premières clientes choisissent les poireaux, les pommes de terre et un peu de \
    persil ; les autres attendent que les prix baissent. À midi, on plie les tables et la place redevient silencieuse.

    En el año 1862 la compañía contaba con 14 barcos, 230 marineros y una deuda de 48.500 pesos. Ocho años \
    después había pagado todo y no debía nada a nadie.

    春天来了，河边的柳树发了芽。孩子们放学以后在草地上放风筝，老人坐在长椅上下棋。

    Весной река поднялась выше моста, и три недели в деревню можно было попасть только на лодке.

    | city | population | area (km2) |
    |---|---|---|
    | Lisbon | 545,923 | 100.1 |
    | Porto | 231,800 | 41.4 |

    SELECT customer.name, SUM(invoice.total) AS total FROM customer JOIN invoice ON invoice.customer_id = customer.id \
    WHERE invoice.year = 2021 GROUP BY customer.name HAVING SUM(invoice.total) > 1000 ORDER BY total DESC;

    The theorem follows by induction on n. For n = 1 both sides equal 1. Suppose that the sum of the first n odd \
    numbers is n^2; adding the next one, 2n + 1, gives n^2 + 2n + 1 = (n + 1)^2, which completes the step.
    """
}

extension Model {
  /// Tokens of a text, after the token that starts a document.
  func tokens(of bytes: [UInt8]) throws(QuantizationError) -> [Int] {
    let tokenizer: any Tokenizer
    do { tokenizer = try requireTokenizer() } catch { throw .model(error) }
    let tokens: [Int]
    do { tokens = try tokenizer.encode(bytes) } catch { throw .tokenizer(path: path, error) }
    if let outside = tokens.first(where: { $0 >= configuration.vocabulary }) {
      throw .model(ModelError(.tokenOutOfRange(outside, vocabulary: configuration.vocabulary), path: path))
    }
    return [0] + tokens
  }
}

extension ModelError {
  var isCancellation: Bool { if case .cancelled = reason { true } else { false } }
}
