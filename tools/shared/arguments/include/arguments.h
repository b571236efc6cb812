// SPDX-License-Identifier: MIT
// The words that this program was started with.
#pragma once

// Word number `index`, 0 being the program; NULL after the last.
const char * program_argument(int index);
