// SPDX-License-Identifier: MIT
// The definition of all kernels, for any CPU.
#include "rk_isa.h"

#define RK_ISA scalar
#if defined(__x86_64__)
#define RK_FMA_CALLS
#endif
#pragma STDC FP_CONTRACT OFF

#include "codes.h"

#include "dot_scalar.inc"

#include "kernels.inc"

#include "table.inc"
