// SPDX-License-Identifier: MIT
/* Opens a model, reads a prompt, streams text:  ./embed MODEL PROMPT [TOKENS] */
#include <rwkv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool print(const char * text, size_t length, void * user) {
    (void) user;
    fwrite(text, 1, length, stdout);
    fflush(stdout);
    return true;
}

static int fail(const struct rwkv_context * ctx) {
    char text[512];
    rwkv_get_last_error_text(ctx, text, sizeof text);
    fprintf(stderr, "embed: %s\n", text);
    return 1;
}

int main(int argc, char ** argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: embed MODEL PROMPT [TOKENS]\n");
        return 64;
    }
    struct rwkv_context * ctx = rwkv_open(argv[1], 0, NULL, NULL);
    if (!ctx) return fail(NULL);

    struct rwkv_sampler_options options;
    rwkv_sampler_options_init(&options);
    options.temperature = 0.7;
    options.seed = 1;
    struct rwkv_sampler * sampler = rwkv_sampler_new(ctx, &options);
    struct rwkv_state * state = rwkv_state_new(ctx);

    size_t tokens = argc > 3 ? strtoul(argv[3], NULL, 10) : 200;
    enum rwkv_finish end = rwkv_generate(
        ctx, state, sampler, argv[2], strlen(argv[2]), tokens, NULL, 0, print, NULL);
    putchar('\n');
    int status = end == RWKV_FINISH_ERROR ? fail(ctx) : 0;

    rwkv_state_free(state);
    rwkv_sampler_free(sampler);
    rwkv_free(ctx);
    return status;
}
