// SPDX-License-Identifier: MIT
/// e^x for x ≤ 0, with the same bits on every machine; that of the C library differs between versions.
///
/// x = k·ln 2 + r with |r| ≤ ln 2 / 2; e^r is its Taylor polynomial of degree 13 (remainder below 2^-57).
@inline(__always)
func exponential(_ x: Double) -> Double {
  // Adding 1.5·2^52 rounds to an integer and leaves it in the low bits. Never a call, unlike rounded().
  let shifted = x * 1.442_695_040_888_963_4 + 0x1.8p52
  let k = shifted - 0x1.8p52
  // ln 2 in two parts: k times the first is exact.
  let r = (x - k * 0x1.62e42feep-1) - k * 0x1.a39ef35793c76p-33
  var sum = 1.0 / 6_227_020_800
  sum = sum * r + 1.0 / 479_001_600
  sum = sum * r + 1.0 / 39_916_800
  sum = sum * r + 1.0 / 3_628_800
  sum = sum * r + 1.0 / 362_880
  sum = sum * r + 1.0 / 40_320
  sum = sum * r + 1.0 / 5_040
  sum = sum * r + 1.0 / 720
  sum = sum * r + 1.0 / 120
  sum = sum * r + 1.0 / 24
  sum = sum * r + 1.0 / 6
  sum = sum * r + 0.5
  sum = sum * r + 1
  sum = sum * r + 1
  // Below −708, 2^k would be subnormal; in a softmax such terms are zero.
  return x > -708 ? sum * Double(bitPattern: (shifted.bitPattern &+ 1023) << 52) : 0
}
