// SPDX-License-Identifier: MIT
/* Continues several prompts at once, one pass over the weights per step:  ./batch MODEL TOKENS PROMPT... */
#include <rwkv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST = 4096 };

static int fail(const struct rwkv_context * ctx) {
    char text[512];
    rwkv_get_last_error_text(ctx, text, sizeof text);
    fprintf(stderr, "batch: %s\n", text);
    return 1;
}

int main(int argc, char ** argv) {
    if (argc < 4 || argc > 3 + 64) {
        fprintf(stderr, "usage: batch MODEL TOKENS PROMPT... (at most 64)\n");
        return 64;
    }
    struct rwkv_context * ctx = rwkv_open(argv[1], 0, NULL, NULL);
    if (!ctx) return fail(NULL);

    size_t count = (size_t) argc - 3, vocabulary = rwkv_get_n_vocab(ctx), steps = strtoul(argv[2], NULL, 10);
    struct rwkv_state * states[64];
    struct rwkv_sampler * samplers[64];
    uint32_t next[64], * written = calloc(count * (steps + 1), sizeof *written);
    float * logits = calloc(count * vocabulary, sizeof *logits);
    if (!logits || !written) return 1;

    /* Each conversation has its own state and sampler; prompts are read one after another. */
    for (size_t i = 0; i < count; i++) {
        uint32_t prompt[LONGEST];
        struct rwkv_sampler_options options;
        rwkv_sampler_options_init(&options);
        options.seed = i;
        states[i] = rwkv_state_new(ctx);
        samplers[i] = rwkv_sampler_new(ctx, &options);
        size_t length = rwkv_encode(ctx, argv[3 + i], strlen(argv[3 + i]), prompt, LONGEST);
        if (length == RWKV_FAILED || length > LONGEST) return fail(ctx);
        if (!rwkv_state_eval(ctx, states[i], prompt, length, logits + i * vocabulary, NULL, NULL)) return fail(ctx);
    }
    for (size_t step = 0; step < steps; step++) {
        for (size_t i = 0; i < count; i++) {
            if (!rwkv_sampler_sample(samplers[i], logits + i * vocabulary, vocabulary, &next[i])) return fail(NULL);
            written[i * steps + step] = next[i];
        }
        if (!rwkv_eval_batch(ctx, states, next, count, logits)) return fail(ctx);
    }
    for (size_t i = 0; i < count; i++) {
        size_t length = rwkv_decode(ctx, written + i * steps, steps, NULL, 0);
        char * text = malloc(length + 1);
        if (length == RWKV_FAILED || !text) return fail(ctx);
        rwkv_decode(ctx, written + i * steps, steps, text, length + 1);
        printf("%s|", argv[3 + i]);
        fwrite(text, 1, length, stdout);
        printf("\n");
        free(text);
        rwkv_state_free(states[i]);
        rwkv_sampler_free(samplers[i]);
    }
    free(logits);
    free(written);
    rwkv_free(ctx);
    return 0;
}
