// SPDX-License-Identifier: MIT
#if defined(__x86_64__)
#include <immintrin.h>

#include "rk_isa.h"

#define RK_ISA avx512
#define RK_EXPONENTIALS 8
#define RK_COLUMN_VECTORS 4
#pragma STDC FP_CONTRACT OFF
#pragma clang attribute push(                                                                                \
    __attribute__((target("avx2,fma,f16c,bmi,bmi2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni"))),         \
    apply_to = function)

#include "codes.h"

#include "dot_avx512.inc"

#include "kernels.inc"

#pragma clang attribute pop

#include "table.inc"
#endif
