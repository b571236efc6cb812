// SPDX-License-Identifier: MIT
#include "peak.h"

#include <time.h>

/// A function that updates `count` independent sums, which hide the latency of the instructions, `turns` times.
/// Nothing can be moved out of the loop, since the factors might have changed.
#define LOOP(name, features, vector, count, make, update, register)                     \
  __attribute__((target(features))) static void name(long turns) {                      \
    vector sum[count], w = make(3), x = make(5);                                        \
    for (int i = 0; i < count; i++) sum[i] = make(i);                                   \
    for (; turns > 0; turns--) {                                                        \
      for (int i = 0; i < count; i++) sum[i] = update;                                  \
      __asm__ volatile("" : "+" register(w), "+" register(x));                          \
    }                                                                                   \
    for (int i = 0; i < count; i++) __asm__ volatile("" : : register(sum[i]));          \
  }

#if defined(__x86_64__)
#include <immintrin.h>

LOOP(avx512_int8, "avx512f,avx512vnni", __m512i, 16, _mm512_set1_epi8, _mm512_dpbusd_epi32(sum[i], w, x), "v")
LOOP(avx512_float, "avx512f", __m512, 16, _mm512_set1_ps, _mm512_fmadd_ps(w, x, sum[i]), "v")
// The product depends on the sum, so that it is not computed once for all of them.
LOOP(avx2_int8, "avx2", __m256i, 12, _mm256_set1_epi8,
     _mm256_add_epi32(w, _mm256_madd_epi16(_mm256_maddubs_epi16(sum[i], x), x)), "x")
LOOP(avx2_float, "avx2,fma", __m256, 12, _mm256_set1_ps, _mm256_fmadd_ps(w, x, sum[i]), "x")
#elif defined(__aarch64__)
#include <arm_neon.h>
#include <sys/auxv.h>

LOOP(dotprod_int8, "dotprod", int32x4_t, 16, vdupq_n_s32,
     vdotq_s32(sum[i], vreinterpretq_s8_s32(w), vreinterpretq_s8_s32(x)), "w")
LOOP(i8mm_int8, "i8mm", int32x4_t, 16, vdupq_n_s32,
     vmmlaq_s32(sum[i], vreinterpretq_s8_s32(w), vreinterpretq_s8_s32(x)), "w")
LOOP(neon_int8, "neon", int32x4_t, 12, vdupq_n_s32,
     vpadalq_s16(sum[i], vmull_high_s8(vreinterpretq_s8_s32(sum[i]), vreinterpretq_s8_s32(x))), "w")
LOOP(neon_float, "neon", float32x4_t, 16, vdupq_n_f32, vfmaq_f32(sum[i], w, x), "w")
#endif

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/// Multiply-adds per second, twice: `each` turn of `loop` has so many.
static double rate(void (*loop)(long), double each, double seconds) {
  const long turns = 10000;
  double start = now(), end = start, count = 0;
  for (; end - start < seconds; end = now(), count++) loop(turns);
  return 2 * count * (double)turns * each / (end - start);
}

double peak_int8(double seconds) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vnni")) return rate(avx512_int8, 16 * 64, seconds);
  if (__builtin_cpu_supports("avx2")) return rate(avx2_int8, 12 * 32, seconds);
#elif defined(__aarch64__)
  if (getauxval(AT_HWCAP2) & 1 << 13) return rate(i8mm_int8, 16 * 32, seconds);    // HWCAP2_I8MM
  if (getauxval(AT_HWCAP) & 1 << 20) return rate(dotprod_int8, 16 * 16, seconds);  // HWCAP_ASIMDDP
  return rate(neon_int8, 12 * 8, seconds);
#endif
  return 0 * seconds;
}

double peak_float(double seconds) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return rate(avx512_float, 16 * 16, seconds);
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return rate(avx2_float, 12 * 8, seconds);
#elif defined(__aarch64__)
  return rate(neon_float, 16 * 4, seconds);
#endif
  return 0 * seconds;
}
