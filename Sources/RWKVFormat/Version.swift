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
