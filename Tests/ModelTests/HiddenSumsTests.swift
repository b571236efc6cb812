// SPDX-License-Identifier: MIT
import RWKVFormat
import RWKVQuantization
import Testing

@testable import RWKV

/// The last product of channel mixing, at a width of which several tasks share a row.
@Suite("Sums of hidden rows")
struct HiddenSumsTests {
  private static let (width, units) = (608, 50)

  private func number(_ i: Int, _ j: Int) -> Float { Float((i * 7919 + j * 104_729) % 61 - 30) / 32 }

  /// One row, a few, as many as they are shared out for by part, and more, for one half of a team and for two.
  @Test(arguments: [1, 2, 16, 17, 40])
  func everyColumnOfEveryRowIsSummed(rows: Int) throws {
    let (D, units) = (Self.width, Self.units)
    var metadata = Metadata()
    metadata["rwkv.version"] = .string("4")
    for (key, value) in [("layers", 1), ("embedding", D), ("vocabulary", 1), ("ffn", units)] {
      metadata["rwkv." + key] = .integer(Int64(value))
    }
    let configuration = try Configuration(metadata)
    let weights = (0..<units * D).map { number($0 / D, $0 % D) }
    let state = try #require(Golden.cases("v7-std").first).model(.int4).newState()
    let sums = try weights.withUnsafeBytes { bytes in
      try withUnsafePointer(to: try #require(bytes.baseAddress)) { region in
        try [1, 2, 3].map { teamSize in
          let arena = Arena()
          let frame = try Frame(configuration, capacity: rows, span: rows, arena: arena)
          frame.begin([Run(first: 0, count: rows, state)])
          let hidden = try Rows(rows: rows, width: units, in: arena)
          for row in 0..<rows {
            for unit in 0..<units { hidden[row][unit] = max(0, number(row + 3, unit)) }
            for column in 0..<D { frame.x[row][column] = Float(row - column) }
          }
          let matrix = HiddenRows(
            format: Int32(WeightFormat.f32.rawValue), location: Location(region: region, offset: 0),
            ordinal: 0,
            units: units, columns: D)
          let sums = try HiddenSums(frame, teamSize: teamSize, hiddenUnits: units, matrices: 1, arena: arena)
          Team(size: teamSize).run { sums.add(&$0, matrix, hidden, to: frame) }
          return (0..<rows * D).map { frame.x[$0 / D][$0 % D] }
        }
      }
    }
    #expect(sums[0] == sums[1] && sums[0] == sums[2])
    for (row, column) in [
      (0, 0), (0, D - 1), (rows - 1, 0), (rows - 1, 255), (rows - 1, 256), (rows / 2, D - 1),
    ] {
      let products = (0..<units).map { max(0, number(row + 3, $0)) * weights[$0 * D + column] }
      let expected = products.reduce(Float(row - column), +)
      #expect(abs(sums[0][row * D + column] - expected) < 1e-3, "row \(row), column \(column)")
    }
  }
}
