// SPDX-License-Identifier: MIT
@testable import RWKVCheckpoint

extension PickleDraft {
  /// `{name: tensor, …}` of whole storages whose keys are the tensors' numbers, from `first` on.
  mutating func tensors(_ drafts: [Draft], first: Int = 0) {
    let types = [
      "F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage", "F64": "DoubleStorage",
    ]
    global("collections OrderedDict")
    op(")")
    op("R")
    op("(")
    for (index, draft) in drafts.enumerated() {
      text(draft.name)
      tensor(
        type: types[draft.type] ?? "", key: "\(first + index)", count: draft.bytes.count / draft.valueBytes,
        shape: draft.shape, strides: draft.shape.indices.map { draft.shape[($0 + 1)...].reduce(1, *) })
    }
    op("u")
  }

  mutating func boolean(_ value: Bool) { bytes.append(value ? 0x88 : 0x89) }
}

/// A torch file of which `build` writes the description.
func torchBytes(_ drafts: [Draft], _ build: (inout PickleDraft) -> Void) -> [UInt8] {
  var pickle = PickleDraft()
  build(&pickle)
  pickle.op(".")
  var zip = ZipDraft()
  zip.entries.append(.init(name: "m/data.pkl", data: pickle.bytes))
  for (index, draft) in drafts.enumerated() {
    zip.entries.append(.init(name: "m/data/\(index)", data: draft.bytes))
  }
  return zip.bytes
}

/// A file of torch before 1.6: pickles, then the storages in the order of `keys`.
func legacyTorchFile(_ drafts: [Draft], keys: [String]? = nil) -> [UInt8] {
  var file: [UInt8] = [0x80, 2, 0x8A, 10, 0x6C, 0xFC, 0x9C, 0x46, 0xF9, 0x20, 0x6A, 0xA8, 0x50, 0x19, 0x2E]
  func append(_ build: (inout PickleDraft) -> Void) {
    var pickle = PickleDraft()
    build(&pickle)
    pickle.op(".")
    file += pickle.bytes
  }
  append { $0.op("M", littleEndian(UInt16(1001))) }
  append { pickle in
    pickle.op("}")
    pickle.text("little_endian")
    pickle.boolean(true)
    pickle.op("s")
  }
  append { $0.tensors(drafts) }
  // Sorted as texts.
  let keys = keys ?? drafts.indices.map(String.init).sorted()
  append { pickle in
    pickle.op("]")
    pickle.op("(")
    keys.forEach { pickle.text($0) }
    pickle.op("e")
  }
  for key in keys {
    let draft = drafts[Int(key) ?? 0]
    file += littleEndian(UInt64(draft.bytes.count / draft.valueBytes)) + draft.bytes
  }
  return file
}
