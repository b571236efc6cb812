// SPDX-License-Identifier: MIT
/// What one core can do at most, for comparison.
#ifndef PEAK_H
#define PEAK_H

/// Multiplications and additions of `seconds` of int8 dot products (AVX-512 VNNI) with nothing else to do, per second;
/// 0 where the CPU has no such instruction.
double peak_int8(double seconds);

#endif
