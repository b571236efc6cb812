// SPDX-License-Identifier: MIT
// Calls every kernel of the tables named as arguments and prints one line per call, "case table digest", after a line
// with all tables that this CPU can run. Digests of one case must be equal: between the tables, and between machines.
// Inputs come from integers, so that they are the same everywhere.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "rk_kernels.h"

#pragma STDC FP_CONTRACT OFF

static const char *const names[] = {"scalar", "avx2", "avxvnni", "avx512", "neon", "dotprod",
                                    "i8mm"};
static const int formats[] = {RK_INT4, RK_INT5, RK_INT8, RK_F16, RK_BF16, RK_F32};

// ---- inputs ----------------------------------------------------------------------------------------------------
static uint32_t seed;

/// [low, high)
static float uniform(float low, float high) {
  seed = seed * 1664525u + 1013904223u;
  return low + (high - low) * ((float)(seed >> 8) / 16777216.0f);
}

/// `count` numbers, to be freed by nobody: the program is short.
static float *uniforms(ptrdiff_t count, float low, float high) {
  float *x = malloc((size_t)count * sizeof *x);
  if (!x) abort();
  for (ptrdiff_t i = 0; i < count; i++) x[i] = uniform(low, high);
  return x;
}

static void *zeros(size_t bytes) {
  void *p = calloc(bytes, 1);
  if (!p) abort();
  return p;
}

// ---- output ----------------------------------------------------------------------------------------------------
static uint64_t digest;

/// FNV-1a.
static void add(const void *data, size_t bytes) {
  for (size_t i = 0; i < bytes; i++) digest = (digest ^ ((const uint8_t *)data)[i]) * 0x100000001b3u;
}

static void add_floats(const float *x, ptrdiff_t count) { add(x, (size_t)count * sizeof *x); }

static void begin(uint32_t number) {
  seed = number;
  digest = 0xcbf29ce484222325u;
}

static void end(const rk_kernels *k, const char *name, int format, ptrdiff_t n, ptrdiff_t T) {
  printf("%s/%d/%d/%d %s %016llx\n", name, format, (int)n, (int)T, k->name, (unsigned long long)digest);
}

// ---- weights ---------------------------------------------------------------------------------------------------
/// T tokens of activations, quantized by the table itself.
static rk_input input(const rk_kernels *k, ptrdiff_t columns, ptrdiff_t T) {
  ptrdiff_t stride = (columns + 63) / 64 * 64;
  float *values = zeros((size_t)(T * stride) * sizeof(float)), *scale = zeros((size_t)(T * stride / 32) * sizeof(float));
  int8_t *high = zeros((size_t)(T * stride)), *low = zeros((size_t)(T * stride));
  int32_t *sum = zeros((size_t)(T * stride / 16) * 4), *sum15 = zeros((size_t)(T * stride / 32) * 4);
  for (ptrdiff_t t = 0; t < T; t++) {
    for (ptrdiff_t c = 0; c < columns; c++) {
      float x = uniform(-1, 1);
      values[t * stride + c] = x * x * x * 4;
    }
    rk_input token = {values + t * stride,      high + t * stride,     low + t * stride,
                      scale + t * stride / 32, sum + t * stride / 16, sum15 + t * stride / 32, stride};
    k->quantize_input(&token, columns);
  }
  add(high, (size_t)(T * stride));
  add(low, (size_t)(T * stride));
  add_floats(scale, T * stride / 32);
  add(sum, (size_t)(T * stride / 16) * 4);
  add(sum15, (size_t)(T * stride / 32) * 4);
  return (rk_input){values, high, low, scale, sum, sum15, stride};
}

/// 35 rows: two full panels and a part of one.
static void matrices(const rk_kernels *k, int format, ptrdiff_t columns) {
  enum { rows = 35, panels = 3 };
  size_t bytes = rk_record_bytes(format, columns, 16);
  uint8_t *weights = zeros(panels * bytes + 64);
  weights += 64 - (uintptr_t)weights % 64;
  begin(1);
  float *w = uniforms(rows * columns, -0.05f, 0.05f);
  for (int p = 0; p < panels; p++)
    k->encode_panel(&(rk_encode_panel){.format = format,
                                       .x = w + 16 * p * columns,
                                       .rows = rows - 16 * p < 16 ? rows - 16 * p : 16,
                                       .columns = columns,
                                       .stride = columns,
                                       .factor = NULL,
                                       .panel = weights + (size_t)p * bytes});
  add(weights, panels * bytes);
  float *decoded = uniforms(columns, 0, 0);
  for (int row = 0; row < rows; row++) {
    k->decode_panel_row(format, weights + (size_t)(row / 16) * bytes, columns, row % 16, decoded);
    add_floats(decoded, columns);
  }
  end(k, "panels", format, columns, 0);
  const ptrdiff_t tokens[] = {1, 2, 3, 4, 5, 8, 17};
  for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
    begin(2);
    ptrdiff_t T = tokens[i];
    rk_input x = input(k, columns, T);
    float *y = uniforms(T * 16 * panels, 9, 9);
    k->matmul(&(rk_matmul){.format = format, .panels = weights, .columns = columns, .first = 0, .count = panels,
                           .x = x, .T = T, .y = y, .y_stride = 16 * panels});
    add_floats(y, T * 16 * panels);
    end(k, "matmul", format, columns, T);
  }
}

static void hidden_rows(const rk_kernels *k, int format, ptrdiff_t columns) {
  enum { units = 40, most = 5 };
  size_t bytes = rk_record_bytes(format, columns, 1);
  uint8_t *rows = zeros(units * bytes + 64);
  rows += 64 - (uintptr_t)rows % 64;
  begin(3);
  float *decoded = uniforms(columns, 0, 0);
  for (int i = 0; i < units; i++) {
    k->encode_row(format, uniforms(columns, -0.05f, 0.05f), columns, rows + (size_t)i * bytes);
    k->decode_row(format, rows + (size_t)i * bytes, columns, decoded);
    add_floats(decoded, columns);
  }
  add(rows, units * bytes);
  end(k, "rows", format, columns, 0);

  begin(4);
  float *h = uniforms(most * units, -1, 1), value[units], *y = uniforms(most * columns, -1, 1);
  int32_t index[units];
  k->relu_squared(h, most * units);
  ptrdiff_t count = k->nonzero(h, 0, units, index, value);
  add(index, (size_t)count * 4);
  add_floats(value, count);
  uint8_t *limits = zeros(rk_row_limits_bytes(format, columns, units) + 1);
  rk_row_limits(format, rows, columns, 0, units, limits);
  const rk_rows all = {.format = format, .records = rows, .columns = columns, .from = 0, .to = columns};
  k->add_rows(&(rk_add_rows){.rows = all, .limits = limits, .index = index, .h = value, .n = count, .y = y});
  add_floats(y, columns);
  end(k, "add_rows", format, columns, 1);
  begin(5);
  float *scratch = zeros(RK_ADD_ROWS_SCRATCH * sizeof(float));
  for (ptrdiff_t T = 2; T <= most; T++) {
    k->add_rows_block(&(rk_add_rows_block){.rows = all, .first = 0, .count = units, .T = T, .h = h, .h_stride = units,
                                           .y = y, .y_stride = columns, .scratch = scratch});
    add_floats(y, T * columns);
    end(k, "add_rows_block", format, columns, T);
  }
}

// ---- vectors ---------------------------------------------------------------------------------------------------
static void elementwise(const rk_kernels *k, ptrdiff_t n) {
  begin(6);
  float *x = uniforms(n, -9, 9), *p = uniforms(n, -9, 9), *w = uniforms(n, -1, 2), *y = uniforms(n, -1, 1);
  k->layer_norm(x, w, p, n, 1e-5f, y);
  add_floats(y, n);
  k->token_shift(x, p, w, n, y);
  add_floats(y, n);
  k->add(x, n, y);
  add_floats(y, n);
  k->multiply_sigmoid(p, n, y);
  add_floats(y, n);
  k->tanh(y, n);
  add_floats(y, n);
  k->sigmoid(y, n);
  add_floats(y, n);
  k->decay(p, w, n, y);
  add_floats(y, n);
  k->add_scaled(0.7f, x, n, y);
  add_floats(y, n);
  float sums[2] = {k->dot(x, y, n), k->exp_shifted(x, n, 9)};
  add_floats(sums, 2);
  add_floats(x, n);
  double terms[128], groups[2];
  k->softmax_terms(x, n, 9, 0.7, terms, groups);
  add(terms, (size_t)n * sizeof *terms);
  add(groups, (size_t)((n + RK_LOGIT_GROUP - 1) / RK_LOGIT_GROUP) * sizeof *groups);
  end(k, "elementwise", 0, n, 0);
}

static void recurrences(const rk_kernels *k, ptrdiff_t N, ptrdiff_t T) {
  begin(7);
  ptrdiff_t n = T * N;
  float *r = uniforms(n, -1, 1), *key = uniforms(n, -1, 1), *v = uniforms(n, -1, 1), *g = uniforms(n, -2, 2);
  float *a = uniforms(n, -3, 3), *b = uniforms(n, -3, 3), *mix = uniforms(n, -3, 3), *first = uniforms(n, -1, 1);
  float *vectors[8], *state = uniforms(N * N, -1, 1), *y = uniforms(n, 0, 0);
  for (int i = 0; i < 8; i++) vectors[i] = uniforms(N, 0.1f, 0.9f);
  rk_wkv7 v7 = {.T = T, .N = N, .stride = N, .r = r, .k = key, .v = v, .g = g, .decay = a, .rate = b, .v_mix = mix,
                .v_first = first, .w0 = vectors[0], .a0 = vectors[1], .v0 = vectors[2], .k_k = vectors[3],
                .k_a = vectors[4], .r_k = vectors[5], .ln_weight = vectors[6], .ln_bias = vectors[7],
                .epsilon = 64e-5f, .state = state, .y = y};
  k->wkv7(&v7);
  add_floats(y, n);
  add_floats(state, N * N);
  end(k, "wkv7", 0, N, T);
  begin(8);
  rk_wkv6 v6 = {.T = T, .N = N, .stride = N, .r = r, .k = key, .v = v, .g = g, .w = uniforms(n, 0.1f, 1),
                .w_stride = N, .u = vectors[0], .ln_weight = vectors[6], .ln_bias = vectors[7], .epsilon = 64e-5f,
                .state = state, .y = y};
  k->wkv6(&v6);
  add_floats(y, n);
  add_floats(state, N * N);
  end(k, "wkv6", 0, N, T);
  begin(9);
  rk_wkv4 v4 = {.T = T, .n = N, .stride = N, .r = r, .k = key, .v = v, .w = uniforms(N, -2, -0.01f), .u = vectors[0],
                .aa = vectors[1], .bb = vectors[2], .pp = vectors[3], .y = y};
  k->wkv4(&v4);
  add_floats(y, n);
  for (int i = 1; i < 4; i++) add_floats(vectors[i], N);
  end(k, "wkv4", 0, N, T);
}

static void everything(const rk_kernels *k) {
  const ptrdiff_t columns[] = {1, 33, 96, 257, 544};
  for (size_t f = 0; f < sizeof formats / sizeof *formats; f++)
    for (size_t c = 0; c < sizeof columns / sizeof *columns; c++) {
      matrices(k, formats[f], columns[c]);
      hidden_rows(k, formats[f], columns[c]);
    }
  elementwise(k, 1);
  elementwise(k, 100);
  recurrences(k, 32, 1);
  recurrences(k, 64, 5);
}

int main(int count, char **arguments) {
  printf("tables");
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (rk_kernels_named(names[i])) printf(" %s", names[i]);
  printf("\nbest %s\n", rk_kernels_best()->name);
  for (int i = 1; i < count; i++) {
    const rk_kernels *k = rk_kernels_named(arguments[i]);
    if (!k) return 1;
    everything(k);
  }
  return 0;
}
