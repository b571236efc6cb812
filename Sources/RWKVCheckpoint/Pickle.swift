// SPDX-License-Identifier: MIT
/// The data part of a pickle (protocols 2 to 5) as torch.save writes it: a dictionary of tensors. Nothing is
/// executed: the few names that may be "called" are recognised and described, all others are refused.
struct Pickle {
  struct Failure: Error {
    /// True for sound pickles that hold something else than tensors.
    var unsupported = false
    var problem: String
  }

  /// A tensor as the pickle describes it, unchecked.
  struct Tensor: Equatable {
    var storage: Storage
    var offset: Int
    var shape: [Int]
    var strides: [Int]
  }

  struct Storage: Equatable {
    var key: String
    var type: SourceType
    var count: Int
  }

  /// What a pickle holds.
  struct Contents {
    var tensors: [(name: String, tensor: Tensor)] = []
    /// Numbers, 1 for true, of a dictionary `config` beside the tensors.
    var settings: [String: Double] = [:]
    /// Lists of integers among the tensors.
    var lists: [String: [Int]] = [:]
    /// Where the tensors stand in the file, and other weights of the same model: nil where there are no others.
    var choice: (taken: String, others: [String])?
  }

  /// The names that mean something; those of `Pickle.bystanders` are passed over, all others refused.
  enum Global: String {
    case orderedDict = "collections OrderedDict"
    case defaultDict = "collections defaultdict"
    case tensor = "torch._utils _rebuild_tensor_v2"
    case typedTensor = "torch._utils _rebuild_tensor_v3"
    case parameter = "torch._utils _rebuild_parameter"
    case parameterWithState = "torch._utils _rebuild_parameter_with_state"
    case bytes = "torch.storage UntypedStorage"
    case e4m3 = "torch float8_e4m3fn"
    case e5m2 = "torch float8_e5m2"
    case float = "torch FloatStorage"
    case half = "torch HalfStorage"
    case bfloat16 = "torch BFloat16Storage"
    case double = "torch DoubleStorage"
    case long = "torch LongStorage"
    case int = "torch IntStorage"
    case short = "torch ShortStorage"
    case char = "torch CharStorage"
    case byte = "torch ByteStorage"
    case bool = "torch BoolStorage"

    var storageType: SourceType? {
      switch self {
      case .float: .f32
      case .half: .f16
      case .bfloat16: .bf16
      case .double: .f64
      case .long: .i64
      case .int: .i32
      case .short: .i16
      case .char: .i8
      case .byte, .bytes: .u8
      case .bool: .bool
      default: nil
      }
    }

    /// The type that the argument of `typedTensor` names.
    var elementType: SourceType? {
      switch self {
      case .e4m3: .f8e4m3
      case .e5m2: .f8e5m2
      default: nil
      }
    }
  }

  /// Values refer to each other by their index in `objects`: sharing costs nothing and nothing is nested.
  enum Object {
    case none
    case bool(Bool)
    case number(Double)
    case integer(Int)
    case text(String)
    case tuple([Int])
    case list([Int])
    /// Something that a trainer keeps beside the weights, and that is of no use here.
    case bystander
    case dictionary([(key: Int, value: Int)])
    case global(Global)
    case storage(Storage)
    case tensor(Tensor)
  }

  private let bytes: [UInt8]
  private(set) var position: Int
  private(set) var objects: [Object] = []
  private(set) var stack: [Int] = []
  private var marks: [Int] = []
  private var memo: [Int: Int] = [:]
  /// Members of all tuples and dictionaries.
  private var members = 0

  /// The most objects, names that the memo keeps, and members.
  private static let maximumObjects = 1 << 20
  private static let maximumStack = 100_000

  /// Storages by their keys.
  private(set) var storages: [String: Storage] = [:]

  /// Reads the pickle at `position` of `bytes`.
  init(_ bytes: [UInt8], at position: Int = 0) throws(Failure) {
    (self.bytes, self.position) = (bytes, position)
    try run()
  }

  private mutating func run() throws(Failure) {
    guard try byte() == 0x80, try (2...5).contains(byte()) else {
      throw Failure(unsupported: true, problem: "is no pickle of protocol 2 to 5")
    }
    while true {
      let code = try byte()
      if code == UInt8(ascii: ".") { return }
      if try !pushValue(code), try !combine(code) {
        throw Failure(
          unsupported: true, problem: "has opcode \(code) at \(position - 1), which torch.save does not write"
        )
      }
      guard stack.count <= Pickle.maximumStack, objects.count <= Pickle.maximumObjects,
        memo.count <= Pickle.maximumObjects, members <= Pickle.maximumObjects,
        marks.count <= Pickle.maximumStack
      else { throw Failure(problem: "is too large at \(position)") }
    }
  }

  /// Opcodes that push one value out of their argument; false for another opcode.
  private mutating func pushValue(_ code: UInt8) throws(Failure) -> Bool {
    switch code {
    case UInt8(ascii: "N"): push(.none)
    case 0x88, 0x89: push(.bool(code == 0x88))  // NEWTRUE, NEWFALSE
    case UInt8(ascii: "K"): push(.integer(Int(try integer(UInt8.self))))
    case UInt8(ascii: "M"): push(.integer(Int(try integer(UInt16.self))))
    case UInt8(ascii: "J"): push(.integer(Int(Int32(bitPattern: try integer(UInt32.self)))))
    case 0x8A: push(.integer(try long()))  // LONG1
    case UInt8(ascii: "X"): push(.text(try text(length: Int(try integer(UInt32.self)))))
    case UInt8(ascii: "U"), 0x8C: push(.text(try text(length: Int(try byte()))))  // SHORT_BIN[UNI]CODE
    case UInt8(ascii: "C"): try pushBytes(UInt64(byte()))
    case UInt8(ascii: "B"), UInt8(ascii: "T"): try pushBytes(UInt64(integer(UInt32.self)))
    case 0x8E: try pushBytes(integer(UInt64.self))  // BINBYTES8
    case 0x95: _ = try integer(UInt64.self)  // FRAME
    case UInt8(ascii: "G"):  // BINFLOAT
      push(.number(Double(bitPattern: try integer(UInt64.self).byteSwapped)))
    case UInt8(ascii: ")"): push(.tuple([]))
    case UInt8(ascii: "]"), 0x8F: push(.list([]))  // and EMPTY_SET
    case UInt8(ascii: "}"): push(.dictionary([]))
    case UInt8(ascii: "c"):
      try pushGlobal(try line() + " " + line())
    default: return false
    }
    return true
  }

  private mutating func pushGlobal(_ name: String) throws(Failure) {
    // Protocol 2 has the name of an older Python.
    let name = name.hasPrefix("__builtin__ ") ? "builtins " + name.dropFirst(12) : name
    if let global = Global(rawValue: name) { return push(.global(global)) }
    guard Pickle.bystanders.contains(name) || Pickle.bystanderModules.contains(where: name.hasPrefix) else {
      throw Failure(unsupported: true, problem: "refers to \(quoted(name)), which no plain checkpoint does")
    }
    push(.bystander)
  }

  /// Names in what trainers keep beside the weights. Nothing is made of them.
  private static let bystanders: Set<String> = [
    "torch Size", "torch device", "torch float32", "torch float16", "torch bfloat16", "torch float64",
    "torch int64", "torch int32", "torch int16", "torch int8", "torch uint64", "torch uint32", "torch uint16",
    "torch uint8", "torch bool", "torch complex64", "torch complex128", "argparse Namespace", "builtins set",
    "builtins frozenset", "builtins dict", "builtins list", "builtins tuple", "builtins str",
    "builtins bytes",
    "builtins bytearray", "builtins int", "builtins long", "builtins float", "builtins complex",
    "builtins bool",
    "builtins slice", "collections Counter", "collections deque", "datetime datetime", "datetime timedelta",
    "_codecs encode", "pathlib PosixPath", "pathlib WindowsPath", "pathlib Path",
  ]
  private static let bystanderModules = [
    "numpy ", "numpy.", "lightning.", "lightning_fabric.", "pytorch_lightning.", "deepspeed.", "omegaconf.",
    "torch.optim.", "torch.distributed.", "transformers.", "accelerate.", "peft.",
  ]

  private mutating func pushBytes(_ length: UInt64) throws(Failure) {
    guard length <= bytes.count - position else { throw Failure(problem: "ends too early") }
    position += Int(length)
    push(.bystander)
  }

  /// Opcodes that work on the stack and the memo; false for another opcode.
  private mutating func combine(_ code: UInt8) throws(Failure) -> Bool {
    switch code {
    case UInt8(ascii: "("): marks.append(stack.count)
    case UInt8(ascii: "t"): push(.tuple(try popToMark()))
    case 0x85, 0x86, 0x87: push(.tuple(try pop(Int(code) - 0x84)))  // TUPLE1…3
    case UInt8(ascii: "q"): memo[Int(try byte())] = try top()
    case UInt8(ascii: "r"): memo[Int(try integer(UInt32.self))] = try top()
    case 0x94: memo[memo.count] = try top()  // MEMOIZE
    case 0x93:  // STACK_GLOBAL
      let parts = try pop(2)
      guard case .text(let module) = objects[parts[0]], case .text(let name) = objects[parts[1]] else {
        throw Failure(problem: "has a name that is no text at \(position)")
      }
      try pushGlobal(module + " " + name)
    case UInt8(ascii: "h"): try recall(Int(try byte()))
    case UInt8(ascii: "j"): try recall(Int(try integer(UInt32.self)))
    case UInt8(ascii: "s"): try setItems(try pop(2))
    case UInt8(ascii: "u"): try setItems(try popToMark())
    case UInt8(ascii: "a"): try append(try pop(1))
    case UInt8(ascii: "e"), 0x90: try append(try popToMark())  // and ADDITEMS
    case 0x91: push(.list(try popToMark()))  // FROZENSET
    case UInt8(ascii: "0"): _ = try pop(1)
    case 0x81, 0x92:  // NEWOBJ, NEWOBJ_EX
      guard case .bystander = objects[try pop(code == 0x81 ? 2 : 3)[0]] else {
        throw Failure(problem: "builds an object at \(position)")
      }
      push(.bystander)
    case UInt8(ascii: "Q"): push(.storage(try storage(try pop(1)[0])))
    case UInt8(ascii: "R"):
      let call = try pop(2)
      try reduce(call[0], call[1])
    case UInt8(ascii: "b"):
      // Attributes of a state dictionary (its _metadata): of no use here.
      _ = try pop(1)
      switch objects[try top()] {
      case .dictionary, .bystander: break
      default: throw Failure(problem: "builds an object at \(position)")
      }
    default: return false
    }
    return true
  }

  // MARK: Stack

  private mutating func push(_ object: Object) {
    stack.append(objects.count)
    objects.append(object)
  }

  /// The `count` topmost values, lowest first; they must lie above the last mark.
  private mutating func pop(_ count: Int) throws(Failure) -> [Int] {
    guard stack.count - (marks.last ?? 0) >= count else {
      throw Failure(problem: "takes from an empty stack at \(position)")
    }
    defer { stack.removeLast(count) }
    members += count
    return Array(stack.suffix(count))
  }

  private mutating func popToMark() throws(Failure) -> [Int] {
    guard let mark = marks.last else { throw Failure(problem: "lacks a mark at \(position)") }
    let values = try pop(stack.count - mark)
    marks.removeLast()
    return values
  }

  private func top() throws(Failure) -> Int {
    guard let top = stack.last, stack.count > marks.last ?? 0 else {
      throw Failure(problem: "takes from an empty stack at \(position)")
    }
    return top
  }

  private mutating func recall(_ key: Int) throws(Failure) {
    guard let index = memo[key] else { throw Failure(problem: "recalls what it never kept at \(position)") }
    stack.append(index)
  }

  private mutating func setItems(_ values: [Int]) throws(Failure) {
    let target = try top()
    if case .bystander = objects[target] { return }
    guard values.count % 2 == 0, case .dictionary(var entries) = objects[target] else {
      throw Failure(problem: "sets items of what is no dictionary at \(position)")
    }
    objects[target] = .none  // so that the entries are not copied
    for index in stride(from: 0, to: values.count, by: 2) {
      entries.append((values[index], values[index + 1]))
    }
    objects[target] = .dictionary(entries)
  }

  private mutating func append(_ values: [Int]) throws(Failure) {
    let target = try top()
    if case .bystander = objects[target] { return }
    guard case .list(var list) = objects[target] else {
      throw Failure(problem: "appends to what is no list at \(position)")
    }
    objects[target] = .none  // so that the list is not copied
    list += values
    objects[target] = .list(list)
  }

  // MARK: Tensors

  /// ("storage", type, key, device, number of values), and before torch 1.6 None.
  private mutating func storage(_ index: Int) throws(Failure) -> Storage {
    guard case .tuple(let parts) = objects[index], parts.count == 5 || parts.count == 6 && isNone(parts[5]),
      case .text("storage") = objects[parts[0]],
      case .global(let global) = objects[parts[1]], let type = global.storageType,
      case .text(let key) = objects[parts[2]], case .integer(let count) = objects[parts[4]]
    else { throw Failure(problem: "has a storage of an unknown form at \(position)") }
    let storage = Storage(key: key, type: type, count: count)
    storages[key] = storage
    return storage
  }

  private func isNone(_ index: Int) -> Bool { if case .none = objects[index] { true } else { false } }

  private mutating func reduce(_ function: Int, _ arguments: Int) throws(Failure) {
    if case .bystander = objects[function] { return push(.bystander) }
    guard case .global(let global) = objects[function], case .tuple(let parts) = objects[arguments] else {
      throw Failure(problem: "calls what is no function at \(position)")
    }
    switch global {
    case .orderedDict where parts.isEmpty: push(.dictionary([]))
    case .defaultDict where parts.count <= 1: push(.dictionary([]))
    case .parameter where parts.count == 3: stack.append(parts[0])
    case .parameterWithState where parts.count == 4: stack.append(parts[0])
    case .tensor where parts.count == 6 || parts.count == 7: push(.tensor(try tensor(parts)))
    case .typedTensor where parts.count == 7 || parts.count == 8:
      var tensor = try tensor(parts)
      // Of a type that no weight has.
      if case .bystander = objects[parts[6]] { return push(.bystander) }
      guard case .global(let name) = objects[parts[6]], let type = name.elementType else {
        throw Failure(unsupported: true, problem: "has a tensor of an unknown type at \(position)")
      }
      tensor.storage.count /= type.blockBytes
      tensor.storage.type = type
      push(.tensor(tensor))
    default: throw Failure(problem: "calls \(global.rawValue) in an unknown way at \(position)")
    }
  }

  /// (storage, offset, shape, strides, …)
  private func tensor(_ parts: [Int]) throws(Failure) -> Tensor {
    guard case .storage(let storage) = objects[parts[0]], case .integer(let offset) = objects[parts[1]] else {
      throw Failure(problem: "has a tensor of an unknown form at \(position)")
    }
    let (shape, strides) = (try integers(parts[2]), try integers(parts[3]))
    return Tensor(storage: storage, offset: offset, shape: shape, strides: strides)
  }

  private func integers(_ index: Int) throws(Failure) -> [Int] {
    guard case .tuple(let parts) = objects[index], parts.count <= 8 else {
      throw Failure(problem: "has a shape that is no tuple at \(position)")
    }
    var values: [Int] = []
    for part in parts {
      guard case .integer(let value) = objects[part] else {
        throw Failure(problem: "has a shape that is not of integers at \(position)")
      }
      values.append(value)
    }
    return values
  }

  // MARK: Arguments

  private mutating func byte() throws(Failure) -> UInt8 { try integer(UInt8.self) }

  private mutating func integer<T: FixedWidthInteger & UnsignedInteger>(_ type: T.Type) throws(Failure) -> T {
    guard let value = bytes.integer(type, at: position) else { throw Failure(problem: "ends too early") }
    position += MemoryLayout<T>.size
    return value
  }

  /// LONG1: length, then a two's complement of at most 8 bytes.
  private mutating func long() throws(Failure) -> Int {
    let length = Int(try byte())
    guard length <= 8, length <= bytes.count - position else {
      throw Failure(problem: "has a number too long")
    }
    let part = bytes[position..<position + length]
    position += length
    let negative = (part.last ?? 0) >= 0x80
    return part.reversed().reduce(negative ? -1 : 0) { $0 << 8 | Int($1) }
  }

  private mutating func text(length: Int) throws(Failure) -> String {
    guard length <= bytes.count - position,
      let text = String(validating: bytes[position..<position + length], as: UTF8.self)
    else { throw Failure(problem: "has a damaged text at \(position)") }
    position += length
    return text
  }

  private mutating func line() throws(Failure) -> String {
    guard let end = bytes[position...].prefix(256).firstIndex(of: 0x0A) else {
      throw Failure(problem: "has a name without an end at \(position)")
    }
    defer { position = end + 1 }
    return String(decoding: bytes[position..<end], as: UTF8.self)
  }
}
