// SPDX-License-Identifier: MIT
// For CPUs that have the dot products of AVX-512 VNNI in 256 bits alone: desktop and laptop CPUs of Intel since 2021.
#if defined(__x86_64__)
#include <immintrin.h>

#include "rk_isa.h"

#define RK_ISA avxvnni
#define RK_EXPONENTIALS 4
#define RK_AVX_VNNI
#pragma STDC FP_CONTRACT OFF
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi,bmi2,avxvnni"))), apply_to = function)

#include "codes.h"

#include "dot_avx2.inc"

#include "kernels.inc"

#pragma clang attribute pop

#include "table.inc"
#endif
