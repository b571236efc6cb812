// SPDX-License-Identifier: MIT
/// What one core can do at most, for comparison.
#ifndef PEAK_H
#define PEAK_H

/// Multiplications and additions of `seconds` of int8 dot products with nothing else to do, per second, by the widest
/// instructions that this CPU has: AVX-512 VNNI, AVX2; NEON with matrix instructions, with dot products, or without.
/// 0 where it has none of them.
double peak_int8(double seconds);

/// The same of fused multiply-adds of F32.
double peak_float(double seconds);

#endif
