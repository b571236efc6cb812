// SPDX-License-Identifier: MIT
// Every aarch64 CPU has what this target needs.
#if defined(__aarch64__)
#include <arm_neon.h>

#include "rk_isa.h"

#define RK_ISA neon
#pragma STDC FP_CONTRACT OFF

#include "codes.h"

#include "dot_neon.inc"

#include "kernels.inc"

#include "table.inc"
#endif
