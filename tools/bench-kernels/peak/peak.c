// SPDX-License-Identifier: MIT
#include "peak.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <time.h>

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/// 16 independent sums hide the latency of the instruction.
__attribute__((target("avx512f,avx512vnni"))) static void dot_products(long turns) {
  __m512i sum[16], weights = _mm512_set1_epi8(3), x = _mm512_set1_epi8(5);
  for (int i = 0; i < 16; i++) sum[i] = _mm512_set1_epi32(i);
  for (; turns > 0; turns--) {
    for (int i = 0; i < 16; i++) sum[i] = _mm512_dpbusd_epi32(sum[i], weights, x);
    // The factors might have changed: nothing can be moved out of the loop.
    __asm__ volatile("" : "+v"(weights), "+v"(x));
  }
  for (int i = 0; i < 16; i++) __asm__ volatile("" : : "v"(sum[i]));
}

double peak_int8(double seconds) {
  if (!__builtin_cpu_supports("avx512vnni")) return 0;
  const long turns = 10000;
  double start = seconds_now(), end = start, count = 0;
  for (; end - start < seconds; end = seconds_now(), count++) dot_products(turns);
  return count * (double)turns * 16 * 64 * 2 / (end - start);
}
#else
double peak_int8(double seconds) {
  (void)seconds;
  return 0;
}
#endif
