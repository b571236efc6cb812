// SPDX-License-Identifier: MIT
/// The kernels: pure functions on pointers. They allocate nothing, keep nothing and start no threads.
///
/// `rk_kernels_best()` returns a table of functions for the best instruction set that this CPU (and the
/// environment variable RWKV_ISA=scalar|sse41|avx2|avxvnni|avx512|neon|dotprod|i8mm as a cap) allows. Every table
/// computes the same numbers:
/// - integer parts (dot products of codes) are exact;
/// - floating-point parts follow one order of operations with fused multiply-add, so that tables with FMA
///   hardware and the scalar one (fmaf) agree bit for bit (sse41 has no such instruction: its sums agree within
///   rounding);
/// - a block of T tokens gives bit for bit what T calls with one token give.
///
/// Layouts of weights: formats/rwkv-v1.md section 4. Letters: D embedding, N head size, K columns, T tokens.
#ifndef RK_KERNELS_H
#define RK_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __clang__
#pragma clang assume_nonnull begin
#define RK_NULLABLE _Nullable
#else
#define RK_NULLABLE
#endif

/// Tells the CPU that this thread is waiting in a loop.
static inline void rk_pause(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/// Weight formats, numbered as in the file format.
typedef enum { RK_F32 = 1, RK_F16 = 2, RK_BF16 = 3, RK_INT4 = 4, RK_INT5 = 5, RK_INT8 = 8 } rk_weight_format;

/// A weight is a value as it is (F32, F16, BF16), or d · s · (T[code] + o): d for 256 columns of a row, a scale
/// byte with s and o for each block of columns, a code for each weight.
typedef struct {
  int value_bytes;      ///< bytes of a value that is stored as it is; 0: codes
  int block;            ///< columns that share a scale byte
  int code_bits;        ///< bits of a code in the code lines
  int low_bits;         ///< bits of a code that stand apart from them
  int scale_bits;       ///< bits of s in a scale byte, signed if less than 8; the others choose o
  int lowest_offset;    ///< o of scale bytes whose offset bits are 0; each step adds 4
  int fold;             ///< is added to T + o where a prompt's weights are unpacked: sums fit into a signed byte
  int largest_scale;    ///< largest s that the quantizer aims at
  float reach;          ///< |T + o| at which it puts the largest magnitude of 256 columns, with that s
  int scale_candidates; ///< scales that it tries for each block
  float factor_limit;   ///< G of rows_integer.inc: g · s must fit into a signed byte times 256 plus another
} rk_format_row;

/// The row of formats.h for the format with this number, or NULL if there is none.
const rk_format_row *RK_NULLABLE rk_format_numbers(int format);

/// Logits whose sums and maxima are taken together.
#define RK_LOGIT_GROUP 64

/// Recurrences keep a head's vectors on the stack: N may be any number up to this.
#define RK_MAX_HEAD_SIZE 256

/// Activations of T tokens in the two forms that matrix kernels read. K is padded with zeros to `stride`.
/// A block of 32 values is x = scale · (128·high + low): 15 bits. INT4 and INT5 kernels read `high` alone
/// (x ≈ 128·scale·high, 8 bits); INT8 kernels read both; F32, F16, BF16 kernels read `values`.
typedef struct {
  const float *values;  ///< [T, stride]
  int8_t *high;         ///< [T, stride]      −127…127
  int8_t *low;          ///< [T, stride]      −64…63
  float *scale;         ///< [T, stride/32]
  int32_t *sum;         ///< [T, stride/16]   Σ high over 16 values
  int32_t *sum15;       ///< [T, stride/32]   Σ (128·high + low) over 32 values
  ptrdiff_t stride;     ///< values from one token to the next, a multiple of 64
} rk_input;

/// A product of panels [first, first + count) of a matrix with T tokens:
///
///     y[t·y_stride + 16·p + r] = Σ_c W[16·p + r][c] · x[t][c]
///
/// All 16 rows of a panel are written; rows that do not exist give 0.
typedef struct {
  int format;              ///< of the weights
  const void *panels;      ///< all panels of the matrix, 16 rows each
  ptrdiff_t columns;       ///< K
  ptrdiff_t first, count;  ///< panels
  rk_input x;
  ptrdiff_t T;
  float *y;                ///< [T, y_stride], from row 0 of the matrix on
  ptrdiff_t y_stride;
} rk_matmul;

/// Columns [from, to) of a matrix that is stored one row per record; its rows are numbered from 0.
typedef struct {
  int format;
  const void *records;
  ptrdiff_t columns;   ///< of the matrix
  ptrdiff_t from, to;  ///< multiples of 32, or to = columns
} rk_rows;

/// A sum of rows for one token: y[c] += Σ_i h[i] · rows[index[i]][c].
///
/// INT8, F32, F16, BF16: terms are added in the order of i, one fused multiply-add each. INT4, INT5: index ascends;
/// terms are integers, summed exactly over 128 neighbouring rows (rows_integer.inc).
typedef struct {
  rk_rows rows;
  const uint8_t *RK_NULLABLE limits;  ///< what rk_row_limits gives for all rows; INT4 and INT5 alone need it
  const int32_t *index;               ///< [n]
  const float *h;                     ///< [n]
  ptrdiff_t n;
  float *y;                           ///< [columns]
} rk_add_rows;

/// The same for T tokens: y[t][c] += Σ_j h[t][j] · rows[j][c] for the rows j of [first, first + count), ascending.
/// Terms with h = 0 are left out or added as zeros. Bit for bit what rk_add_rows gives, if weights are finite.
typedef struct {
  rk_rows rows;
  ptrdiff_t first, count;  ///< rows
  ptrdiff_t T;
  const float *h;          ///< [T, h_stride], a number for each row of the matrix
  ptrdiff_t h_stride;
  float *y;                ///< [T, y_stride]
  ptrdiff_t y_stride;
  float *scratch;          ///< RK_ADD_ROWS_SCRATCH floats
} rk_add_rows_block;

/// Floats of scratch that rk_add_rows_block needs.
#define RK_ADD_ROWS_SCRATCH 66560

/// Up to 16 rows of a matrix that are to become one panel. Magnitudes beyond what d can hold are cut off; NaN and
/// infinity give some valid code.
///
/// `factor`, for INT4, INT5 and INT8, makes later columns compensate the errors of earlier ones: for each 256 columns a
/// matrix [256,256] made of the second moments H of their inputs, H⁻¹ = UᵀU with U upper triangular: U_jk / U_jj
/// right of the diagonal; on it 1 / U_jj², the weight of an error of column j that the later columns make up for as
/// well as they can. NULL: every weight gets the nearest value.
typedef struct {
  int format;
  const float *x;                   ///< [rows, stride]
  ptrdiff_t rows, columns, stride;  ///< rows that are missing count as zero
  const float *RK_NULLABLE factor;  ///< [columns / 256, rounded up, 256, 256]
  void *panel;                      ///< the record that is written
} rk_encode_panel;

/// One head of RWKV-7 time mixing after its matrices, T tokens.  arXiv:2503.14456; BlinkDL `rwkv` model.py
/// Pointers are to the head's first channel; token t is `stride` floats further. Vectors are [N].
///
///     w = exp(-exp(-0.5) σ(w0 + decay))      a = σ(a0 + rate)
///     kk = normalize(k · k_k)                k = k · (1 + (a − 1) · k_a)
///     v = v + (v_first − v) · σ(v0 + v_mix)                                  (layers after the first)
///     S ← S diag(w) − (S kk)(kk · a)ᵀ + v kᵀ        y = S r
///     y = (groupNorm(y) + (r · k · r_k summed) v) · g
typedef struct {
  ptrdiff_t T, N, stride;
  const float *r, *k, *v, *g;
  const float *decay, *rate;          ///< before w0, a0 and the activation
  const float *RK_NULLABLE v_mix;     ///< before v0 and the activation; NULL in layer 0
  float *v_first;                     ///< [T, stride]: written in layer 0, read in the others
  const float *w0, *a0;
  const float *RK_NULLABLE v0;        ///< NULL in layer 0
  const float *k_k, *k_a, *r_k, *ln_weight, *ln_bias;
  float epsilon;                      ///< of the group norm
  float *state;                       ///< [N key, N value]: the transpose of S above
  float *y;                           ///< [T, stride]
} rk_wkv7;

/// One head of RWKV-5 (decay and bonus constant) or RWKV-6 (decay per token) time mixing after its matrices.
///
///     y_j = Σ_i r_i (S_ij + u_i k_i v_j)      S_ij ← w_i S_ij + k_i v_j      y = groupNorm(y) · silu(g)
typedef struct {
  ptrdiff_t T, N, stride;
  const float *r, *k, *v;
  const float *RK_NULLABLE g;         ///< gate before silu; NULL in 5.0
  const float *w;                     ///< decay in (0, 1): [N], or [T, stride] where w_stride = stride
  ptrdiff_t w_stride;                 ///< 0 or stride
  const float *u, *ln_weight, *ln_bias;
  float epsilon;
  float *state;                       ///< [N key, N value]
  float *y;                           ///< [T, stride]
} rk_wkv6;

/// `n` channels of RWKV-4 time mixing after its matrices, T tokens; `aa bb pp` as in the reference.
///
///     y = σ(r) · (e^{p−q} a + e^{u+k−q} v) / (e^{p−q} b + e^{u+k−q})
typedef struct {
  ptrdiff_t T, n, stride;
  const float *r, *k, *v;             ///< [T, stride]; r before the sigmoid
  const float *w, *u;                 ///< [n]  w = −exp(time_decay), u = time_first
  float *aa, *bb, *pp;                ///< [n] state
  float *y;                           ///< [T, stride]
} rk_wkv4;

typedef struct {
  const char *name;  ///< "scalar", "sse41", "avx2", "avxvnni", "avx512", "neon", "dotprod" or "i8mm"

  // ---- matrices -------------------------------------------------------------------------------------------
  void (*matmul)(const rk_matmul *);
  void (*add_rows)(const rk_add_rows *);
  void (*add_rows_block)(const rk_add_rows_block *);
  /// Dequantizes one row of a single-row tensor, or row `r` of a panel, into `columns` floats.
  void (*decode_row)(int format, const void *row, ptrdiff_t columns, float *out);
  void (*decode_panel_row)(int format, const void *panel, ptrdiff_t columns, ptrdiff_t r, float *out);
  /// Fills the other form of the first token's first n values; up to a multiple of 64, what follows counts as zero.
  void (*quantize_input)(const rk_input *x, ptrdiff_t n);

  // ---- element-wise, n any number -------------------------------------------------------------------------
  /// y = (x − mean) / sqrt(variance + epsilon) · weight + bias
  void (*layer_norm)(const float *x, const float *weight, const float *bias, ptrdiff_t n, float epsilon,
                     float *y);
  /// y = x + (previous − x) · mu: token shift
  void (*token_shift)(const float *x, const float *previous, const float *mu, ptrdiff_t n, float *y);
  void (*add)(const float *x, ptrdiff_t n, float *y);                       ///< y += x
  void (*tanh)(float *x, ptrdiff_t n);
  void (*sigmoid)(float *x, ptrdiff_t n);
  void (*multiply_sigmoid)(const float *r, ptrdiff_t n, float *y);          ///< y ·= σ(r)
  void (*relu_squared)(float *x, ptrdiff_t n);
  /// Decay of RWKV-5/6: y = exp(−exp(x + bias)); bias may be NULL
  void (*decay)(const float *x, const float *RK_NULLABLE bias, ptrdiff_t n, float *y);
  /// Writes indices and values of the non-zero elements of h[from…to) and returns their number.
  ptrdiff_t (*nonzero)(const float *h, ptrdiff_t from, ptrdiff_t to, int32_t *index, float *value);
  /// Σ x·y in 16 lanes with fused multiply-add (attention of RWKV-X).
  float (*dot)(const float *x, const float *y, ptrdiff_t n);
  void (*add_scaled)(float a, const float *x, ptrdiff_t n, float *y);       ///< y += a·x
  /// sums[256·i + k] += Σ_t x[t·stride + i] · x[t·stride + k] for i ≤ k < n ≤ 256, t ascending, one fused
  /// multiply-add each. What stands below the diagonal of `sums` [n,256] is of no meaning.
  void (*add_moments)(const float *x, ptrdiff_t stride, ptrdiff_t T, ptrdiff_t n, float *sums);
  /// x ← exp(x − max) and returns the sum: a softmax before its division
  float (*exp_shifted)(float *x, ptrdiff_t n, float max);

  // ---- a vocabulary's logits ------------------------------------------------------------------------------
  /// terms[i] = e^((x[i] − max) · scale) in double precision, x[i] ≤ max, scale > 0, and sums[g] of the terms of
  /// group g of RK_LOGIT_GROUP values. The same bits from every table.
  void (*softmax_terms)(const float *x, ptrdiff_t n, float max, double scale, double *RK_NULLABLE terms, double *sums);
  /// Σ e^(x − max) for x ≤ max, off by less than 2^-15 of it.
  double (*sum_exp)(const float *x, ptrdiff_t n, float max);
  /// maxima[g] of each group of RK_LOGIT_GROUP values, and the least of all that are not −∞. Returns 0 if a value is
  /// NaN or +∞.
  int (*maxima)(const float *x, ptrdiff_t n, float *maxima, float *least);
  /// Lists what lies in [low, high], with its indices, and returns how many there are. Both lists have room for n.
  ptrdiff_t (*within)(const float *x, ptrdiff_t n, float low, float high, int32_t *index, float *value);

  // ---- recurrences, one head (or channel range) -----------------------------------------------------------
  void (*wkv4)(const rk_wkv4 *);
  void (*wkv6)(const rk_wkv6 *);
  void (*wkv7)(const rk_wkv7 *);

  // ---- quantization: the same bytes from every table ------------------------------------------------------
  void (*encode_panel)(const rk_encode_panel *);
  void (*encode_row)(int format, const float *x, ptrdiff_t columns, void *row);
} rk_kernels;

/// Bytes of one record (formats/rwkv-v1.md section 4); rows_per_record is 1 or 16.
size_t rk_record_bytes(int format, ptrdiff_t columns, int rows_per_record);

/// What rk_add_rows has to know of INT4 and INT5 rows before it reads them, packed: for rows [first, first + count) an
/// upper limit of |d|, one byte for each 256 columns. `limits` has rk_row_limits_bytes.
void rk_row_limits(int format, const void *rows, ptrdiff_t columns, ptrdiff_t first, ptrdiff_t count, uint8_t *limits);
size_t rk_row_limits_bytes(int format, ptrdiff_t columns, ptrdiff_t rows);

/// The best table for this machine; chosen once. A value of RWKV_ISA that names no table of this build is no
/// cap.
const rk_kernels *rk_kernels_best(void);
/// The table called `name`, or NULL if this build or this CPU does not have it.
const rk_kernels *RK_NULLABLE rk_kernels_named(const char *name);
/// The name of a table of this build by its number from 0, or NULL after the last.
const char *RK_NULLABLE rk_kernels_name(int index);

#ifdef __clang__
#pragma clang assume_nonnull end
#endif
#endif
