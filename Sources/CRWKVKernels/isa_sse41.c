// SPDX-License-Identifier: MIT
// For x86 CPUs before 2013. They have no fused multiply-add, so that floating-point results differ from those of the
// other tables by rounding; codes and records are the same.
#if defined(__x86_64__)
#include <immintrin.h>

#include "rk_isa.h"

#define RK_ISA sse41
#define RK_NO_FMA
#pragma STDC FP_CONTRACT OFF
#pragma clang attribute push(__attribute__((target("ssse3,sse4.1"))), apply_to = function)

#include "codes.h"

#include "dot_sse41.inc"

#include "dot_scalar.inc"

#include "kernels.inc"

#pragma clang attribute pop

#include "table.inc"
#endif
