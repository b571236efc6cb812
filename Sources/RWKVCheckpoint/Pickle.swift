// SPDX-License-Identifier: MIT
/// The data part of a pickle (protocol 2) as torch.save writes it: a dictionary of tensors. Nothing is
/// executed: the few names that may be "called" are recognised and described, all others are refused.
struct Pickle {
  struct Failure: Error {
    /// True for sound pickles that hold something else than tensors.
    var unsupported = false
    var problem: String
  }

  /// A tensor as the pickle describes it, unchecked.
  struct Tensor {
    var storage: Storage
    var offset: Int
    var shape: [Int]
    var strides: [Int]
  }

  struct Storage {
    var key: String
    var type: SourceType
    var count: Int
  }

  /// The only names a pickle may refer to.
  private enum Global: String {
    case orderedDict = "collections OrderedDict"
    case tensor = "torch._utils _rebuild_tensor_v2"
    case parameter = "torch._utils _rebuild_parameter"
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
      case .byte: .u8
      case .bool: .bool
      default: nil
      }
    }
  }

  /// Values refer to each other by their index in `objects`: sharing costs nothing and nothing is nested.
  private enum Object {
    case none
    case bool
    case number
    case integer(Int)
    case text(String)
    case tuple([Int])
    case list
    case dictionary([(key: Int, value: Int)])
    case global(Global)
    case storage(Storage)
    case tensor(Tensor)
  }

  private let bytes: [UInt8]
  private var position = 0
  private var objects: [Object] = []
  private var stack: [Int] = []
  private var marks: [Int] = []
  private var memo: [Int: Int] = [:]
  /// Members of all tuples and dictionaries.
  private var members = 0

  /// Of objects, of names that the memo keeps, and of members.
  private static let maximumObjects = 1 << 20
  private static let maximumStack = 100_000

  /// Names and tensors of the dictionary in `bytes`, in its order.
  static func tensors(_ bytes: [UInt8]) throws(Failure) -> [(name: String, tensor: Tensor)] {
    var pickle = Pickle(bytes: bytes)
    try pickle.run()
    guard pickle.stack.count == 1, case .dictionary(let entries) = pickle.objects[pickle.stack[0]] else {
      throw Failure(unsupported: true, problem: "holds no dictionary of tensors")
    }
    for wrapper in wrappers {
      for entry in entries {
        if case .text(wrapper) = pickle.objects[entry.key],
          case .dictionary(let inner) = pickle.objects[entry.value],
          !inner.isEmpty
        {
          return try pickle.tensors(of: inner, prefix: "", depth: 0)
        }
      }
    }
    return try pickle.tensors(of: entries, prefix: "", depth: 0)
  }

  /// Under which trainers keep the weights, beside the state of the training.
  private static let wrappers = ["module", "state_dict", "model_state_dict", "model"]

  /// Of a dictionary, and of those within it under names joined by dots.
  private func tensors(
    of entries: [(key: Int, value: Int)], prefix: String, depth: Int
  ) throws(Failure) -> [(name: String, tensor: Tensor)] {
    var found: [(name: String, tensor: Tensor)] = []
    for entry in entries {
      guard case .text(let key) = objects[entry.key] else {
        throw Failure(unsupported: true, problem: "has a key that is no text")
      }
      let name = prefix + key
      switch objects[entry.value] {
      case .tensor(let tensor): found.append((name, tensor))
      case .dictionary(let inner) where depth < 4:
        found += try tensors(of: inner, prefix: name + ".", depth: depth + 1)
        guard found.count <= StoredTensor.maximumTensors else {
          throw Failure(problem: "has too many tensors")
        }
      default:
        throw Failure(unsupported: true, problem: "has something else than a tensor at \(quoted(name))")
      }
    }
    return found
  }

  private init(bytes: [UInt8]) { self.bytes = bytes }

  // MARK: The machine

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
    case 0x88, 0x89: push(.bool)  // NEWTRUE, NEWFALSE
    case UInt8(ascii: "K"): push(.integer(Int(try integer(UInt8.self))))
    case UInt8(ascii: "M"): push(.integer(Int(try integer(UInt16.self))))
    case UInt8(ascii: "J"): push(.integer(Int(Int32(bitPattern: try integer(UInt32.self)))))
    case 0x8A: push(.integer(try long()))  // LONG1
    case UInt8(ascii: "X"): push(.text(try text(length: Int(try integer(UInt32.self)))))
    case UInt8(ascii: "U"), 0x8C: push(.text(try text(length: Int(try byte()))))  // SHORT_BIN[UNI]CODE
    case 0x95: _ = try integer(UInt64.self)  // FRAME
    case UInt8(ascii: "G"):  // BINFLOAT
      _ = try integer(UInt64.self)
      push(.number)
    case UInt8(ascii: ")"): push(.tuple([]))
    case UInt8(ascii: "]"): push(.list)
    case UInt8(ascii: "}"): push(.dictionary([]))
    case UInt8(ascii: "c"):
      try pushGlobal(try line() + " " + line())
    default: return false
    }
    return true
  }

  private mutating func pushGlobal(_ name: String) throws(Failure) {
    guard let global = Global(rawValue: name) else {
      throw Failure(unsupported: true, problem: "refers to \(quoted(name)), which no plain checkpoint does")
    }
    push(.global(global))
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
    case UInt8(ascii: "e"): try append(try popToMark())
    case UInt8(ascii: "Q"): push(.storage(try storage(try pop(1)[0])))
    case UInt8(ascii: "R"):
      let call = try pop(2)
      try reduce(call[0], call[1])
    case UInt8(ascii: "b"):
      // Attributes of a state dictionary (its _metadata): of no use here.
      _ = try pop(1)
      guard case .dictionary = objects[try top()] else {
        throw Failure(problem: "builds an object at \(position)")
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
    guard values.count % 2 == 0, case .dictionary(var entries) = objects[target] else {
      throw Failure(problem: "sets items of what is no dictionary at \(position)")
    }
    objects[target] = .none  // so that the entries are not copied
    for index in stride(from: 0, to: values.count, by: 2) {
      entries.append((values[index], values[index + 1]))
    }
    objects[target] = .dictionary(entries)
  }

  /// Lists occur in metadata only; their contents are dropped.
  private func append(_ values: [Int]) throws(Failure) {
    guard case .list = objects[try top()] else {
      throw Failure(problem: "appends to what is no list at \(position)")
    }
  }

  // MARK: Tensors

  /// ("storage", type, key, device, number of values)
  private func storage(_ index: Int) throws(Failure) -> Storage {
    guard case .tuple(let parts) = objects[index], parts.count == 5,
      case .text("storage") = objects[parts[0]],
      case .global(let global) = objects[parts[1]], let type = global.storageType,
      case .text(let key) = objects[parts[2]], case .integer(let count) = objects[parts[4]]
    else { throw Failure(problem: "has a storage of an unknown form at \(position)") }
    return Storage(key: key, type: type, count: count)
  }

  private mutating func reduce(_ function: Int, _ arguments: Int) throws(Failure) {
    guard case .global(let global) = objects[function], case .tuple(let parts) = objects[arguments] else {
      throw Failure(problem: "calls what is no function at \(position)")
    }
    switch global {
    case .orderedDict where parts.isEmpty: push(.dictionary([]))
    case .parameter where parts.count == 3: stack.append(parts[0])
    case .tensor where parts.count == 6 || parts.count == 7:
      guard case .storage(let storage) = objects[parts[0]], case .integer(let offset) = objects[parts[1]]
      else {
        throw Failure(problem: "has a tensor of an unknown form at \(position)")
      }
      let (shape, strides) = (try integers(parts[2]), try integers(parts[3]))
      push(.tensor(Tensor(storage: storage, offset: offset, shape: shape, strides: strides)))
    default: throw Failure(problem: "calls \(global.rawValue) in an unknown way at \(position)")
    }
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
