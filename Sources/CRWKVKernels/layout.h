// SPDX-License-Identifier: MIT
/// Sizes and offsets of records: formats/rwkv-v1.md section 4. K is the number of columns rounded up to 32.
#ifndef RK_LAYOUT_H
#define RK_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include "rk_kernels.h"

static inline ptrdiff_t round_up(ptrdiff_t n, ptrdiff_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

static inline ptrdiff_t padded_columns(ptrdiff_t columns) { return round_up(columns, 32); }

static inline ptrdiff_t value_bytes(int format) { return format == RK_F32 ? 4 : 2; }

/// Columns that share a scale.
static inline ptrdiff_t block_columns(int format) { return format == RK_INT8 ? 32 : 16; }

static inline ptrdiff_t panel_bytes(int format, ptrdiff_t columns) {
  ptrdiff_t K = padded_columns(columns);
  ptrdiff_t d = 64 * (round_up(K, 512) / 512);
  ptrdiff_t scales = 64 * (round_up(K, 4 * block_columns(format)) / (4 * block_columns(format)));
  switch (format) {
    case RK_INT4: return d + scales + 8 * K;
    case RK_INT5: return d + scales + 2 * K + 8 * K;
    case RK_INT8: return d + scales + 16 * K;
    default: return 16 * K * value_bytes(format);
  }
}

/// Offsets of the parts of a single-row record.
typedef struct {
  ptrdiff_t scales, low, codes, bytes;
} row_parts;

static inline row_parts row_layout(int format, ptrdiff_t columns) {
  ptrdiff_t K = padded_columns(columns);
  row_parts parts = {0, 0, 0, 0};
  if (format != RK_INT4 && format != RK_INT5 && format != RK_INT8) {
    parts.bytes = round_up(K * value_bytes(format), 16);
    return parts;
  }
  parts.scales = round_up(2 * (round_up(K, 256) / 256), 16);
  parts.low = parts.scales + round_up(K / block_columns(format), 16);
  parts.codes = parts.low + (format == RK_INT5 ? round_up(K / 8, 16) : 0);
  parts.bytes = parts.codes + (format == RK_INT8 ? K : K / 2);
  return parts;
}

/// The upper bits of an F16 that is not smaller than |d|.
static inline uint8_t row_limit(const uint8_t *d) {
  int limit = ((d[0] | d[1] << 8) & 0x7fff) + 127;
  return (uint8_t)(limit >> 7 < 255 ? limit >> 7 : 255);
}

/// Limits of a row: one for each d.
static inline ptrdiff_t row_limit_count(ptrdiff_t columns) { return round_up(columns, 256) / 256; }

#endif
