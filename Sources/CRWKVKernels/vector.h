// SPDX-License-Identifier: MIT
/// Vectors of 16 floats for code that is written once and compiled for every instruction set.
///
/// A file isa_NAME.c defines RK_NAME(f) as f_NAME, switches its target on with `#pragma clang attribute push` and only
/// then includes this file and the kernels. clang splits a 16-lane vector into what the machine has (one, two or four
/// registers, or 16 scalars), so every table performs the same operations on the same lanes in the same order, and
/// results agree bit for bit wherever fused multiply-add exists. Nothing here may depend on the register width.
#ifndef RK_VECTOR_H
#define RK_VECTOR_H

#include <stddef.h>
#include <stdint.h>

#pragma STDC FP_CONTRACT OFF
// Vectors pass between inlined functions only: how a call would pass them does not matter.
#pragma clang diagnostic ignored "-Wpsabi"

#define RK_INLINE static inline __attribute__((always_inline))

typedef float f32x16 __attribute__((ext_vector_type(16)));
typedef float f32x8 __attribute__((ext_vector_type(8)));
typedef float f32x4 __attribute__((ext_vector_type(4)));
typedef float f32x2 __attribute__((ext_vector_type(2)));
typedef int32_t i32x16 __attribute__((ext_vector_type(16)));
typedef uint32_t u32x16 __attribute__((ext_vector_type(16)));

/// RK_FMA: a·b + c with one rounding; with two on SSE4.1, which has no instruction for it (RK_NO_FMA).
/// RK_EXACT_FMA: always one rounding. Where that is 16 calls of fmaf, one function keeps them out of expressions.
#if defined(RK_FMA_CALLS) || defined(RK_NO_FMA)
static __attribute__((noinline)) f32x16 rk_exact_fma(f32x16 a, f32x16 b, f32x16 c) {
  return __builtin_elementwise_fma(a, b, c);
}
#define RK_EXACT_FMA(a, b, c) rk_exact_fma(a, b, c)
#else
#define RK_EXACT_FMA(a, b, c) __builtin_elementwise_fma(a, b, c)
#endif
#ifdef RK_NO_FMA
#define RK_FMA(a, b, c) ((a) * (b) + (c))
#else
#define RK_FMA(a, b, c) RK_EXACT_FMA(a, b, c)
#endif

// ---- loads and stores, any alignment ---------------------------------------------------------------------------
RK_INLINE f32x16 rk_splat(float x) { return (f32x16)(x); }

RK_INLINE f32x16 rk_load(const float *p) {
  f32x16 x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}

RK_INLINE void rk_store(float *p, f32x16 x) { __builtin_memcpy(p, &x, sizeof x); }

/// The first n ≤ 16 lanes; the others are zero and nothing beyond p + n is read.
RK_INLINE f32x16 rk_load_n(const float *p, ptrdiff_t n) {
  if (n >= 16) return rk_load(p);
  float lanes[16] = {0};
  for (ptrdiff_t i = 0; i < n; i++) lanes[i] = p[i];
  return rk_load(lanes);
}

RK_INLINE void rk_store_n(float *p, f32x16 x, ptrdiff_t n) {
  if (n >= 16) return rk_store(p, x);
  float lanes[16];
  rk_store(lanes, x);
  for (ptrdiff_t i = 0; i < n; i++) p[i] = lanes[i];
}

// ---- masks and bits: a comparison of vectors gives −1 (true) or 0 in each lane -----------------------------------
RK_INLINE u32x16 rk_bits(f32x16 x) { return (u32x16)x; }
RK_INLINE f32x16 rk_from_bits(u32x16 x) { return (f32x16)x; }

/// mask ? a : b
RK_INLINE f32x16 rk_select(i32x16 mask, f32x16 a, f32x16 b) { return mask ? a : b; }

/// −1 in the first n lanes.
RK_INLINE i32x16 rk_first_lanes(ptrdiff_t n) {
  const i32x16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return lane < (int32_t)(n < 16 ? n : 16);
}

/// Bit i tells whether lane i of a mask is set.
RK_INLINE uint32_t rk_mask_bits(i32x16 mask) {
  typedef _Bool b16 __attribute__((ext_vector_type(16)));
  b16 bits = __builtin_convertvector(mask, b16);
  uint16_t word;
  __builtin_memcpy(&word, &bits, sizeof word);
  return word;
}

/// Limits from above and below. NaN stays NaN, unlike with fmin and fmax.
RK_INLINE f32x16 rk_at_most(f32x16 x, float limit) { return rk_select(x > limit, rk_splat(limit), x); }
RK_INLINE f32x16 rk_at_least(f32x16 x, float limit) { return rk_select(x < limit, rk_splat(limit), x); }

/// The greater of two; b where either is NaN.
RK_INLINE f32x16 rk_max(f32x16 a, f32x16 b) { return rk_select(a > b, a, b); }

RK_INLINE f32x16 rk_abs(f32x16 x) { return rk_from_bits(rk_bits(x) & 0x7fffffffu); }

// ---- rounding and sums -----------------------------------------------------------------------------------------
/// Nearest integer, ties to even, for |x| < 2^22: adding 1.5·2^23 leaves no fraction bits.
#define RK_ROUND_MAGIC 12582912.0f
RK_INLINE f32x16 rk_round(f32x16 x) { return (x + RK_ROUND_MAGIC) - RK_ROUND_MAGIC; }

/// The same as integers: the low bits of the shifted number are the integer in two's complement.
RK_INLINE i32x16 rk_round_to_int(f32x16 x) {
  return (i32x16)(rk_bits(x + RK_ROUND_MAGIC) - rk_bits(rk_splat(RK_ROUND_MAGIC)));
}

/// Sum of the lanes: lane i with i + 8, then with i + 4, i + 2, i + 1.
RK_INLINE float rk_sum(f32x16 x) {
  f32x8 a = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
            __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
  f32x4 b = __builtin_shufflevector(a, a, 0, 1, 2, 3) + __builtin_shufflevector(a, a, 4, 5, 6, 7);
  f32x2 c = __builtin_shufflevector(b, b, 0, 1) + __builtin_shufflevector(b, b, 2, 3);
  return c[0] + c[1];
}

#endif
