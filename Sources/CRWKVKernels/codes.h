// SPDX-License-Identifier: MIT
/// Codes, scales and half-precision values as vectors: formats/rwkv-v1.md section 4. Like vector.h, this is
/// included after the target is switched on.
#ifndef RK_CODES_H
#define RK_CODES_H

#include <string.h>

#include "layout.h"
#include "vector.h"

typedef uint8_t u8x16 __attribute__((ext_vector_type(16)));
typedef uint8_t u8x64 __attribute__((ext_vector_type(64)));
typedef int8_t s8x16 __attribute__((ext_vector_type(16)));
typedef int16_t s16x16 __attribute__((ext_vector_type(16)));
typedef uint16_t u16x16 __attribute__((ext_vector_type(16)));
typedef uint16_t u16x32 __attribute__((ext_vector_type(32)));
typedef int16_t s16x32 __attribute__((ext_vector_type(32)));

// ---- tables of values -------------------------------------------------------------------------------------
/// T4, and T5 for even and for odd codes.
static const int8_t rk_table4[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                     1,    13,   25,  38,  53,  69,  89,  113};
static const int8_t rk_table5_even[16] = {-116, -83, -62, -47, -34, -23, -12, -2,
                                          8,    17,  28,  40,  53,  71,  97,  121};
static const int8_t rk_table5_odd[16] = {-99, -71, -54, -40, -28, -17, -7,  3,
                                         12,  23,  34,  46,  61,  82,  112, 127};

RK_INLINE u8x16 rk_load_u8(const void *p) {
  u8x16 x;
  memcpy(&x, p, sizeof x);
  return x;
}

RK_INLINE u8x64 rk_load_line(const void *p) {
  u8x64 x;
  memcpy(&x, p, sizeof x);
  return x;
}

/// Four bytes, 16 times.
RK_INLINE u8x64 rk_four(const int8_t *p) {
  int32_t four;
  memcpy(&four, p, 4);
  return (u8x64)(i32x16)(four);
}

RK_INLINE u16x16 rk_load_u16(const void *p) {
  u16x16 x;
  memcpy(&x, p, sizeof x);
  return x;
}

/// A table with `add` (modulo 256) added to its entries, once for each 16 bytes of a vector.
RK_INLINE u8x64 rk_table(const int8_t *table, int add) {
  u8x16 t = rk_load_u8(table) + (uint8_t)add;
  return __builtin_shufflevector(t, t, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5,
                                 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,
                                 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

// ---- scale bytes ------------------------------------------------------------------------------------------
/// s of 16 scale bytes, the signed ones of INT4 and INT5 times 2^(32 − scale bits): a shift to the top reads
/// the sign at no cost, and rk_scale_unit undoes the power of two where it costs nothing either.
RK_INLINE f32x16 rk_scaled_scales(int format, i32x16 bytes) {
  return __builtin_convertvector(rk_is_packed(format) ? bytes << (32 - rk_format(format).scale_bits) : bytes, f32x16);
}

/// What d counts: with it d is about the largest magnitude of its weights, far from F16's limits.
#define RK_D_UNIT 0x1p-12f

/// The powers of two that stored d and rk_scaled_scales leave out.
RK_INLINE float rk_scale_unit(int format) {
  return RK_D_UNIT * (rk_is_packed(format) ? 1.0f / (float)(1u << (32 - rk_format(format).scale_bits)) : 1);
}

RK_INLINE i32x16 rk_scale_bytes(const uint8_t *p) { return __builtin_convertvector(rk_load_u8(p), i32x16); }

// ---- half precision ---------------------------------------------------------------------------------------
/// F16 as F32. A subnormal number gets the exponent −14 and the leading bit that it lacks; that bit is
/// subtracted.
RK_INLINE f32x16 rk_f16_value(u16x16 half) {
  u32x16 h = __builtin_convertvector(half, u32x16), exponent = h & 0x7c00;
  u32x16 magnitude = ((h & 0x7fff) << 13) + 0x38000000;
  f32x16 subnormal = rk_from_bits(magnitude + 0x800000) - 0x1p-14f;
  u32x16 infinite = magnitude | 0x7f800000;
  magnitude = exponent == 0 ? rk_bits(subnormal) : exponent == 0x7c00 ? infinite : magnitude;
  return rk_from_bits(magnitude | (h & 0x8000) << 16);
}

/// The same for one finite value.
RK_INLINE float rk_f16_scalar(const void *p) {
  uint16_t h;
  memcpy(&h, p, sizeof h);
  uint32_t bits = ((uint32_t)(h & 0x7fff) << 13) + (h & 0x7c00 ? 0x38000000 : 0x38800000);
  float x;
  memcpy(&x, &bits, sizeof x);
  if (!(h & 0x7c00)) x -= 0x1p-14f;
  return h & 0x8000 ? -x : x;
}

/// F32 as F16, nearest even; too large becomes infinite.
RK_INLINE u16x16 rk_to_f16(f32x16 x) {
  u32x16 magnitude = rk_bits(x) & 0x7fffffff, sign = (rk_bits(x) >> 16) & 0x8000;
  // Adding 0.5 rounds at 2^−24, the unit of subnormal numbers.
  u32x16 subnormal = rk_bits(rk_from_bits(magnitude) + 0.5f) - 0x3f000000;
  u32x16 normal = (magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
  u32x16 special = magnitude > 0x7f800000 ? (u32x16)(0x7e00) : (u32x16)(0x7c00);
  u32x16 half = magnitude < 0x38800000 ? subnormal : magnitude < 0x477ff000 ? normal : special;
  return __builtin_convertvector(half | sign, u16x16);
}

/// F32 as BF16, nearest even; NaN stays NaN.
RK_INLINE u16x16 rk_to_bf16(f32x16 x) {
  u32x16 bits = rk_bits(x), rounded = bits + 0x7fff + (bits >> 16 & 1);
  u32x16 nan = bits | 0x400000;
  return __builtin_convertvector(((bits & 0x7fffffff) > 0x7f800000 ? nan : rounded) >> 16, u16x16);
}

/// BF16 as F32.
RK_INLINE f32x16 rk_bf16_value(u16x16 half) {
  return rk_from_bits(__builtin_convertvector(half, u32x16) << 16);
}

#endif
