// SPDX-License-Identifier: MIT
import Testing

@testable import RWKVFormat

@Suite("XXH64")
struct XXH64Tests {
  /// Length n, hash with seed 0, hash with seed 0x9E37_79B9_7F4A_7C15 of the bytes (31·i + 7) mod 256, i < n.
  /// Made with the Python package xxhash.
  static let vectors: [(count: Int, plain: UInt64, seeded: UInt64)] = [
    (0, 0xEF46_DB37_51D8_E999, 0xC434_9FC9_3C01_0000),
    (1, 0xA96C_7F0C_E858_BBB7, 0x5858_8242_2A61_65E7),
    (4, 0xC60D_15B1_E3FF_8F04, 0x7D51_D5E2_4617_32B3),
    (7, 0xAFBE_FC3D_6C6F_9A8E, 0x2CE9_ADEC_2B2C_8104),
    (8, 0x3DA5_C7AA_2696_83E0, 0x7588_48F0_33FA_76A2),
    (31, 0x4A74_F3A1_A39A_D4A1, 0x8137_041F_5AF8_8413),
    (32, 0x8D57_D6A4_671C_C43D, 0x184E_BCF3_745C_D46C),
    (33, 0x62C9_FD21_ED85_7664, 0x52FA_C3C9_81F3_CC2E),
    (63, 0x5C32_0A0D_2707_057F, 0x64EF_99A2_E94C_C7BD),
    (64, 0x7BBA_BBC4_5729_D17E, 0xF7F2_2435_FE1A_B128),
    (100, 0xEFA0_AD2D_3E70_C151, 0xBC7A_B33B_E752_8C18),
    (1000, 0x9959_4F48_2804_3D35, 0xDA71_7F74_1F39_9F3F),
  ]

  @Test func knownVectors() {
    for (count, plain, seeded) in Self.vectors {
      let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 * 31 + 7) }
      #expect(XXH64.hash(bytes) == plain)
      #expect(XXH64.hash(bytes, seed: 0x9E37_79B9_7F4A_7C15) == seeded)
    }
  }

  @Test func piecesHashAsTheWhole() {
    let bytes = (0..<200).map { UInt8(truncatingIfNeeded: $0 * 31 + 7) }
    for first in 0...70 {
      for second in [0, 1, 31, 32, 33, 65] {
        var hash = XXH64()
        hash.update(Array(bytes[..<first]))
        hash.update(Array(bytes[first..<first + second]))
        #expect(hash.value == XXH64.hash(Array(bytes[..<(first + second)])))
        hash.update(Array(bytes[(first + second)...]))
        #expect(hash.value == XXH64.hash(bytes))
      }
    }
  }
}
