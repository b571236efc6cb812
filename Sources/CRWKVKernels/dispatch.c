// SPDX-License-Identifier: MIT
// Which tables this build has, which of them this CPU can run, and which one is used.
#include <stdatomic.h>
#include <stdlib.h>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#include "layout.h"
#include "rk_isa.h"

typedef struct {
  const rk_kernels *table;
  int (*runs)(void);  ///< whether this CPU (and the operating system) can run it
} candidate;

static int always(void) { return 1; }

#if defined(__x86_64__)
static int has_sse41(void) { return __builtin_cpu_supports("ssse3") && __builtin_cpu_supports("sse4.1"); }

static int has_avx2(void) {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
         __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

static int has_avxvnni(void) { return has_avx2() && __builtin_cpu_supports("avxvnni"); }

static int has_avx512(void) {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}
#elif defined(__aarch64__)
static int has_dotprod(void) {
#if defined(__linux__)
  return (getauxval(AT_HWCAP) & 1 << 20) != 0;  // HWCAP_ASIMDDP
#else
  return 1;  // Apple's
#endif
}

static int has_i8mm(void) {
#if defined(__linux__)
  return has_dotprod() && (getauxval(AT_HWCAP2) & 1 << 13) != 0;  // HWCAP2_I8MM
#else
  return 0;  // Apple's first ones lack it
#endif
}
#endif

/// Ascending: a cap leaves out what follows it.
static const candidate candidates[] = {
    {&rk_table_scalar, always},
#if defined(__x86_64__)
    {&rk_table_sse41, has_sse41},
    {&rk_table_avx2, has_avx2},
    {&rk_table_avxvnni, has_avxvnni},
    {&rk_table_avx512, has_avx512},
#elif defined(__aarch64__)
    {&rk_table_neon, always},
    {&rk_table_dotprod, has_dotprod},
    {&rk_table_i8mm, has_i8mm},
#endif
};
enum { CANDIDATES = sizeof candidates / sizeof candidates[0] };

const rk_kernels *rk_kernels_named(const char *name) {
  for (int i = 0; i < CANDIDATES; i++)
    if (strcmp(candidates[i].table->name, name) == 0)
      return candidates[i].runs() ? candidates[i].table : NULL;
  return NULL;
}

const char *rk_kernels_name(int index) { return index < CANDIDATES ? candidates[index].table->name : NULL; }

const rk_kernels *rk_kernels_best(void) {
  // Two threads that get here at once find the same table.
  static _Atomic(const rk_kernels *) chosen;
  const rk_kernels *best = atomic_load_explicit(&chosen, memory_order_acquire);
  if (best) return best;
  const char *cap = getenv("RWKV_ISA");
  for (int i = 0; i < CANDIDATES; i++) {
    if (candidates[i].runs()) best = candidates[i].table;
    if (cap && strcmp(candidates[i].table->name, cap) == 0) break;
  }
  atomic_store_explicit(&chosen, best, memory_order_release);
  return best;
}

const rk_format_row *rk_format_numbers(int format) {
  if (format < 0 || format >= (int)(sizeof rk_formats / sizeof rk_formats[0])) return NULL;
  const rk_format_row *row = &rk_formats[format];
  return row->value_bytes || row->code_bits ? row : NULL;
}

size_t rk_record_bytes(int format, ptrdiff_t columns, int rows_per_record) {
  return rows_per_record == 16 ? (size_t)panel_bytes(format, columns)
                               : (size_t)row_layout(format, columns).bytes;
}

size_t rk_row_limits_bytes(int format, ptrdiff_t columns, ptrdiff_t rows) {
  return rk_is_packed(format) ? (size_t)(rows * row_limit_count(columns) + 16) : 0;
}

void rk_row_limits(int format, const void *rows, ptrdiff_t columns, ptrdiff_t first, ptrdiff_t count, uint8_t *limits) {
  if (!rk_is_packed(format)) return;
  ptrdiff_t bytes = row_layout(format, columns).bytes, n = row_limit_count(columns);
  for (ptrdiff_t j = first; j < first + count; j++)
    for (ptrdiff_t i = 0; i < n; i++) limits[j * n + i] = row_limit((const uint8_t *)rows + j * bytes + 2 * i);
}
