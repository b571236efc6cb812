// SPDX-License-Identifier: MIT
import RWKVCheckpoint
import RWKVFormat

extension Metadata {
  /// Sizes of a checkpoint; for RWKV-X also the published settings of its attention, which are in no checkpoint.
  init(_ checkpoint: Checkpoint) {
    self.init()
    self["rwkv.version"] = .string(checkpoint.version.rawValue)
    if checkpoint.kind != .language { self["rwkv.kind"] = .string(checkpoint.kind.rawValue) }
    if let layers = checkpoint.stateLayers { self["rwkv.state_layers"] = .integers(layers.map(Int64.init)) }
    let sizes = [
      ("layers", checkpoint.layers), ("embedding", checkpoint.embedding),
      ("vocabulary", checkpoint.vocabulary),
      ("ffn", checkpoint.ffn),
    ]
    for (key, value) in sizes { self["rwkv.\(key)"] = .integer(Int64(value)) }
    if let epsilon = checkpoint.groupNormEpsilon {
      self["rwkv.head_size"] = .integer(Int64(checkpoint.headSize))
      self["rwkv.group_norm_epsilon"] = .number(epsilon)
    }
    self["source.format"] = .string(checkpoint.source)
    guard checkpoint.version == .x else { return }
    self["rwkv.x.layers"] = .integer(Int64(checkpoint.attentionLayers))
    self["rwkv.x.chunk_size"] = .integer(2048)
    self["rwkv.x.top_k"] = .integer(3)
    self["rwkv.x.max_kv_cache"] = .integer(20000)
    self["rwkv.x.min_kv_cache"] = .integer(16000)
    self["rwkv.x.kv_window"] = .integer(2000)
    self["rwkv.x.mode"] = .string("sparse")
  }
}
