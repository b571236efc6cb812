// SPDX-License-Identifier: MIT
/* Opens a model: opens MODEL. Exits with 1 if it cannot, and says nothing itself. */
#include <rwkv.h>

int main(int argc, char ** argv) {
    struct rwkv_context * ctx = argc == 2 ? rwkv_open(argv[1], 1, NULL, NULL) : NULL;
    rwkv_free(ctx);
    return ctx == NULL;
}
