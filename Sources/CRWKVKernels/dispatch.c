// SPDX-License-Identifier: MIT
#include "rk_kernels.h"
