// SPDX-License-Identifier: MIT
import CRWKVABI
import Synchronization

/// Something that the C side holds a handle to. It does one thing at a time.
class Object: @unchecked Sendable {
  private let isBusy = Atomic<Bool>(false)

  /// What it is, for messages.
  class var kind: String { "object" }

  /// Runs `body` unless another call is running on this object.
  func exclusively<Result>(_ body: () throws -> Result) throws -> Result {
    guard isBusy.compareExchange(expected: false, desired: true, ordering: .acquiring).exchanged else {
      throw Failure(RWKV_ERROR_CTX, "the \(Self.kind) is busy with another call; use one per thread")
    }
    defer { isBusy.store(false, ordering: .releasing) }
    return try body()
  }
}

/// The objects that are alive, by handle. Handles are numbers that never come again, not addresses, so that one which
/// was freed, or belongs to something else, is noticed.
enum Handles {
  private struct Table {
    var next: UInt = 0x1000
    var objects: [UInt: Object] = [:]
  }
  private static let table = Mutex(Table())

  static func add(_ object: Object) -> OpaquePointer? {
    table.withLock { table in
      table.next += 16
      table.objects[table.next] = object
      return OpaquePointer(bitPattern: table.next)
    }
  }

  static func find<Kind: Object>(_ handle: OpaquePointer?, _: Kind.Type) -> Kind? {
    table.withLock { $0.objects[UInt(bitPattern: handle)] } as? Kind
  }

  /// The object behind a handle, or an error that says what is missing.
  static func get<Kind: Object>(_ handle: OpaquePointer?, _ kind: Kind.Type) throws -> Kind {
    if let object = find(handle, kind) { return object }
    let what = handle == nil ? "NULL, expected one that is alive" : "not alive, or something else"
    throw Failure(RWKV_ERROR_ARGS, "the \(Kind.kind) is \(what)")
  }

  /// Forgets an object of this kind, and returns it; another call that is using it keeps it until it is done.
  @discardableResult
  static func remove<Kind: Object>(_ handle: OpaquePointer?, _: Kind.Type) -> Kind? {
    // The object is destroyed outside the lock.
    table.withLock { table -> Object? in
      let key = UInt(bitPattern: handle)
      guard table.objects[key] is Kind else { return nil }
      return table.objects.removeValue(forKey: key)
    } as? Kind
  }
}
