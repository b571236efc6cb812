// SPDX-License-Identifier: MIT
/// How one source becomes one table of kernels per instruction set.
///
/// The kernels are written once, in `.inc` files, on 16-lane vectors (vector.h). Each isa_NAME.c
///   1. includes this file and the system headers, defines RK_ISA,
///   2. switches the target on for all functions that follow (`#pragma clang attribute push`),
///   3. includes dot_*.inc — the few operations that need intrinsics — and kernels.inc,
///   4. switches the target off and defines the table by including table.inc.
/// No compiler flags are needed, and no instruction outside a table's target is reached before dispatch.c
/// chose it.
#ifndef RK_ISA_H
#define RK_ISA_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "rk_kernels.h"

/// RK_NAME(matmul) is rk_matmul_avx2 in isa_avx2.c.
#define RK_NAME(function) RK_NAME_OF(function, RK_ISA)
#define RK_NAME_OF(function, isa) RK_NAME_JOIN(function, isa)
#define RK_NAME_JOIN(function, isa) rk_##function##_##isa

/// The tables; which of them exist depends on the architecture.
extern const rk_kernels rk_table_scalar;
extern const rk_kernels rk_table_sse41;
extern const rk_kernels rk_table_avx2;
extern const rk_kernels rk_table_avxvnni;
extern const rk_kernels rk_table_avx512;
extern const rk_kernels rk_table_neon;
extern const rk_kernels rk_table_dotprod;
extern const rk_kernels rk_table_i8mm;

#endif
