// SPDX-License-Identifier: MIT
// Swift's CommandLine reads them from /proc, which is not there in every container.
#include "arguments.h"
#include <stddef.h>

static int count;
static char ** words;

// glibc hands constructors what main gets.
__attribute__((constructor)) static void keep(int argc, char ** argv) {
    count = argc;
    words = argv;
}

const char * program_argument(int index) { return index < count ? words[index] : NULL; }
