// SPDX-License-Identifier: MIT

/// A version of the RWKV architecture. The raw values are those of `rwkv.version` in model files.
public enum Version: String, Sendable, CaseIterable {
  case v4 = "4"
  case v50 = "5.0"
  case v51 = "5.1"
  case v52 = "5.2"
  case v6 = "6"
  case v7 = "7"
  /// RWKV-7 with DeepEmbed: channel mixing depends on the token as well.
  case v7a = "7a"
  /// RWKV-7a with an attention over all tokens beside time mixing.
  case v7b = "7b"
  /// RWKV-X: RWKV-7 with blocks of sparse attention.
  case x = "x"

  /// Whether its recurrent blocks have RWKV-7's time mixing.
  public var isRWKV7: Bool { [.v7, .v7a, .v7b, .x].contains(self) }

  /// Whether its blocks read rows of tables by the token's id, so that a vector cannot stand in for a token.
  public var hasTokenTables: Bool { self == .v7a || self == .v7b }
}

/// Sizes of RWKV-7a and 7b that are the same in all models. BlinkDL's `rwkv_v7a_demo.py`, `rwkv_v7b_demo.py`.
public enum DeepEmbedSizes {
  /// Numbers between the low-rank matrices `s1` and `s2`; a row of `s_emb` is a matrix [rank, rank].
  public static let rank = 32
  /// Columns of `s_emb`.
  public static let width = rank * rank
  /// Numbers between the low-rank matrices `k1` and `k2`, `v1` and `v2` of 7b.
  public static let attentionRank = 32
  /// Numbers of a query and of a key of 7b's attention.
  public static let keys = 256
}

/// What a model makes of a text. The raw values are those of `rwkv.kind` in model files; models of language have none.
public enum ModelKind: String, Sendable, CaseIterable {
  /// Predicts the next token.
  case language
  /// EmbeddingRWKV: RWKV-7 with heads for tasks that make a vector of a text, and none for tokens.
  case embedding
  /// RWKVReRanker: RWKV-7 blocks that score what an embedding model has read, by its states.
  case reranker
}

/// What a text's vector is for: an embedding model has a head for each, or for some.
public enum EmbeddingTask: String, Sendable, CaseIterable {
  /// Which documents answer a query.
  case retrieval
  /// Semantic textual similarity: whether two texts say the same.
  case sts
  case classification

  /// What the names of its head's tensors begin with.
  package var head: String {
    switch self {
    case .retrieval: "head.retr_head."
    case .sts: "head.sts_head."
    case .classification: "head.cls_head."
    }
  }

  /// The tasks that a model with tensors of these names has a head for.
  package static func heads(among names: some Sequence<String>) -> [EmbeddingTask] {
    allCases.filter { task in names.contains { $0.hasPrefix(task.head) } }
  }

  /// The token after which embedding models take what a text is. No text has it; pip's `rwkv-emb` fixes it.
  package static let endOfText = 65_535
}
