// SPDX-License-Identifier: MIT
// NEON with the matrix instructions of ARMv8.6.
#if defined(__aarch64__)
#include <arm_neon.h>

#include "rk_isa.h"

#define RK_ISA i8mm
#define RK_DOTPROD 1
#define RK_I8MM 1
#pragma STDC FP_CONTRACT OFF
#pragma clang attribute push(__attribute__((target("dotprod,i8mm"))), apply_to = function)

#include "codes.h"

#include "dot_neon.inc"

#include "kernels.inc"

#pragma clang attribute pop

#include "table.inc"
#endif
