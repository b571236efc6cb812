// SPDX-License-Identifier: MIT
// NEON with the dot product instructions of ARMv8.2.
#if defined(__aarch64__)
#include <arm_neon.h>

#include "rk_isa.h"

#define RK_ISA dotprod
#define RK_DOTPROD 1
#pragma STDC FP_CONTRACT OFF
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)

#include "codes.h"

#include "dot_neon.inc"

#include "kernels.inc"

#pragma clang attribute pop

#include "table.inc"
#endif
