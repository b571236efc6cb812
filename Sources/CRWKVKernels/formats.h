// SPDX-License-Identifier: MIT
/// What there is to know of each weight format, one row each: formats/rwkv-v1.md section 4. All kernels ask
/// here, with a format that the compiler knows where it matters, so that nothing is read; a test compares the
/// rows with those of WeightFormat.swift.
#ifndef RK_FORMATS_H
#define RK_FORMATS_H

#include <stddef.h>
#include <stdint.h>

#include "rk_kernels.h"

static const rk_format_row rk_formats[] = {
    [RK_F32] = {.value_bytes = 4},
    [RK_F16] = {.value_bytes = 2},
    [RK_BF16] = {.value_bytes = 2},
    [RK_INT4] = {.block = 16, .code_bits = 4, .scale_bits = 6, .lowest_offset = -4, .fold = 4,
                 .largest_scale = 31, .reach = 110, .scale_candidates = 10, .factor_limit = 1052},
    [RK_INT5] = {.block = 16, .code_bits = 4, .low_bits = 1, .scale_bits = 7, .fold = -4,
                 .largest_scale = 63, .reach = 112, .scale_candidates = 20, .factor_limit = 518},
    // Not 255: the block with the largest magnitude has larger scales to try, too.
    [RK_INT8] = {.block = 32, .code_bits = 8, .scale_bits = 8, .largest_scale = 224, .reach = 127,
                 .scale_candidates = 32},
};

static inline __attribute__((always_inline)) rk_format_row rk_format(int format) { return rk_formats[format]; }

/// Whether weights are codes.
static inline __attribute__((always_inline)) int rk_is_coded(int format) { return rk_formats[format].value_bytes == 0; }

/// Whether codes are indices of a table of 16 values, or of two where a low bit stands apart: INT4 and INT5.
static inline __attribute__((always_inline)) int rk_is_packed(int format) { return rk_formats[format].code_bits == 4; }

/// Codes that there are.
static inline __attribute__((always_inline)) int rk_code_count(int format) {
  return 1 << (rk_formats[format].code_bits + rk_formats[format].low_bits);
}

#endif
