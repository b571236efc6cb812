// SPDX-License-Identifier: MIT
public import RWKVFormat

/// What the vector of a text is made of, for a model of language.
public enum Pooling: String, CaseIterable, Sendable {
  /// The average of the hidden vectors after all tokens of the text and token 0, [D].
  case mean
  /// The hidden vector after token 0, which ends the text and has seen all of it, [D].
  case last
  /// The recurrent state of the last block, flattened.
  case state
}

/// How vectors of texts are made.
public struct EmbeddingOptions: Sendable {
  /// What a model of language makes the vector from. Embedding models have a pooling of their own.
  public var pooling = Pooling.mean
  /// Which head of an embedding model makes the vector. The error is `ModelError.missingHead` if it lacks that one.
  public var task = EmbeddingTask.retrieval
  /// Whether vectors are scaled to length 1, so that the dot product of two is the cosine of their angle.
  public var normalizes = true

  public init() {}
}

extension Session {
  /// The vector of a text, for comparing it with others.
  ///
  /// The text is read from an empty state and ends with token 0, for an embedding model with its token 65535; the
  /// session's state is that after it. There are no logits of it.
  /// - Parameters:
  ///   - tokens: the text's, without the one that ends it. An embedding model takes the average of its output after
  ///     this token and after each 65535 in the text.
  ///   - progress: called with the number of tokens read so far; reading stops when it returns false.
  public func embedding(
    _ tokens: [Int], _ options: EmbeddingOptions = EmbeddingOptions(),
    progress: (Int) -> Bool = { _ in true }
  ) throws(ModelError) -> [Float] {
    state.reset()
    return try evaluator.embeddings([tokens], [state], options, progress: progress)[0]
  }

  /// The vectors of many texts, which share passes over the weights: the same as one by one. The session's state
  /// stays as it is.
  public func embeddings(
    _ texts: [[Int]], _ options: EmbeddingOptions = EmbeddingOptions(),
    progress: (Int) -> Bool = { _ in true }
  ) throws(ModelError) -> [[Float]] {
    try evaluator.embeddings(texts, nil, options, progress: progress)
  }
}

extension Model {
  /// The token that ends a text whose vector is made.
  public var endOfText: Int { configuration.kind == .embedding ? EmbeddingTask.endOfText : 0 }
}

/// What is gathered of a text's hidden vectors, of which its vector is made in the end.
struct TextPooling {
  private let model: Model
  /// How a model of language pools; nil for an embedding model, which has a pooling of its own.
  private let pooling: Pooling?
  private var sums: [Double]
  private var count = 0.0

  init(_ model: Model, _ options: EmbeddingOptions) throws(ModelError) {
    let kind = model.configuration.kind
    guard kind != .reranker else {
      throw ModelError(.wrongKind(kind, expected: .embedding), path: model.path)
    }
    if case .embedding(let heads) = model.head, heads[options.task] == nil {
      let others = EmbeddingTask.allCases.filter { heads[$0] != nil }
      throw ModelError(.missingHead(options.task, has: others), path: model.path)
    }
    self.model = model
    pooling = kind == .language ? options.pooling : nil
    sums = [Double](repeating: 0, count: model.configuration.embedding)
  }

  /// - Parameter hidden: after `token`, [D].
  mutating func add(_ hidden: UnsafeBufferPointer<Float>, after token: Int, isLast: Bool) {
    switch pooling {
    case nil: guard token == model.endOfText else { return }
    case .mean?: break
    case .last?, .state?: guard isLast else { return }
    }
    count += 1
    for (channel, value) in hidden.enumerated() { sums[channel] += Double(value) }
  }

  /// - Parameter state: after the text.
  func pooled(_ state: State) -> [Float] {
    if pooling == .state { return state.wkv(model.configuration.layers - 1) }
    return sums.map { Float($0 / max(1, count)) }
  }
}

extension Evaluator {
  /// The vectors of many texts, which are read together; otherwise as `Session.embedding`.
  ///
  /// - Parameter states: where they are read into, empty ones; nil: nowhere.
  package func embeddings(
    _ texts: [[Int]], _ states: [State]? = nil, _ options: EmbeddingOptions = EmbeddingOptions(),
    progress: (Int) -> Bool = { _ in true }
  ) throws(ModelError) -> [[Float]] {
    let texts = texts.map { $0 + [model.endOfText] }
    let states = states ?? texts.map { _ in model.newState() }
    var poolings: [TextPooling] = []
    for _ in texts { poolings.append(try TextPooling(model, options)) }
    try read(texts, states, output: .all, logits: false, progress: progress) { place in
      let text = texts[place.text]
      poolings[place.text].add(
        hidden(place.row), after: text[place.token], isLast: place.token == text.count - 1)
    }
    return try vectors(of: zip(poolings, states).map { $0.pooled($1) }, options)
  }

  /// What becomes of pooled vectors.
  func vectors(of pooled: [[Float]], _ options: EmbeddingOptions) throws(ModelError) -> [[Float]] {
    var vectors = pooled
    if case .embedding(let heads) = model.head, let head = heads[options.task] {
      vectors = try self.vectors(of: vectors, head)
    }
    return options.normalizes ? vectors.map(normalized) : vectors
  }
}

/// A vector of the same direction and length 1.
func normalized(_ vector: [Float]) -> [Float] {
  let length = vector.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot()
  return length > 0 ? vector.map { Float(Double($0) / length) } : vector
}
