// SPDX-License-Identifier: MIT
#if defined(__x86_64__)
#include <immintrin.h>

#include "rk_isa.h"

#define RK_ISA avx2
#define RK_EXPONENTIALS 4
#pragma STDC FP_CONTRACT OFF
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi,bmi2"))), apply_to = function)

#include "codes.h"

#include "dot_avx2.inc"

#include "kernels.inc"

#pragma clang attribute pop

#include "table.inc"
#endif
