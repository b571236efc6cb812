// SPDX-License-Identifier: MIT
/// Sizes and offsets of records: formats/rwkv-v1.md section 4. K is the number of columns rounded up to 32.
#ifndef RK_LAYOUT_H
#define RK_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include "formats.h"

static inline ptrdiff_t round_up(ptrdiff_t n, ptrdiff_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

static inline ptrdiff_t padded_columns(ptrdiff_t columns) { return round_up(columns, 32); }

/// Columns that share a scale byte.
static inline ptrdiff_t block_columns(int format) { return rk_format(format).block; }

static inline ptrdiff_t panel_bytes(int format, ptrdiff_t columns) {
  ptrdiff_t K = padded_columns(columns), group = 4 * block_columns(format);
  if (!rk_is_coded(format)) return 16 * K * rk_format(format).value_bytes;
  ptrdiff_t d = 64 * (round_up(K, 512) / 512), scales = 64 * (round_up(K, group) / group);
  return d + scales + 2 * K * (rk_format(format).code_bits + rk_format(format).low_bits);
}

/// Offsets of the parts of a single-row record.
typedef struct {
  ptrdiff_t scales, low, codes, bytes;
} row_parts;

static inline row_parts row_layout(int format, ptrdiff_t columns) {
  ptrdiff_t K = padded_columns(columns);
  row_parts parts = {0, 0, 0, 0};
  if (!rk_is_coded(format)) {
    parts.bytes = round_up(K * rk_format(format).value_bytes, 16);
    return parts;
  }
  parts.scales = round_up(2 * (round_up(K, 256) / 256), 16);
  parts.low = parts.scales + round_up(K / block_columns(format), 16);
  parts.codes = parts.low + round_up(K / 8 * rk_format(format).low_bits, 16);
  parts.bytes = parts.codes + K / 8 * rk_format(format).code_bits;
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
