/* SPDX-License-Identifier: MIT
 * What the programs of this folder check with. C99 and C++. */
#include "rwkv.h"

#include <stdio.h>
#include <string.h>

#define CHECK(condition) check((condition) ? 1 : 0, #condition, __LINE__)
/* The call failed, and both the flags and the text of the error say so; the text contains the word. */
#define FAILS_WITH(ctx, word, condition) check_error((ctx), (word), (condition) ? 1 : 0, __LINE__)
#define FAILS(ctx, condition) FAILS_WITH(ctx, "", condition)

static int failures = 0;

static void check(int holds, const char * condition, int line) {
    if (holds) return;
    fprintf(stderr, "line %d: %s\n", line, condition);
    failures++;
}

static void check_error(struct rwkv_context * ctx, const char * word, int failed, int line) {
    char text[512] = "";
    check(failed, "the call fails", line);
    check(rwkv_get_last_error_text(ctx, text, sizeof text) > 5, "the error has a text", line);
    check(strstr(text, word) != NULL, text, line);
    check(rwkv_get_last_error(ctx) != RWKV_ERROR_NONE, "the error has flags", line);
    check(rwkv_get_last_error(ctx) == RWKV_ERROR_NONE, "which are cleared", line);
}

static const uint32_t hello[11] = {'h', 'e', 'l', 'l', 'o', ' ', 'w', 'o', 'r', 'l', 'd'};
