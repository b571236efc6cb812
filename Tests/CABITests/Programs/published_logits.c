// SPDX-License-Identifier: MIT
/* Logits after the prompt "in (with its quotation mark) of a byte-level model equal published ones, however the prompt is
 * read. All by functions that rwkv.cpp has too.
 *
 *     published_logits MODEL LOGITS        LOGITS: 256 floats */
#include <rwkv.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { VOCABULARY = 256 };

static int failures = 0;

static void compare(const char * name, const float * logits, const float * expected) {
    float most = 0;
    for (int i = 0; i < VOCABULARY; i++) most = fmaxf(most, fabsf(logits[i] - expected[i]));
    printf("%s: %g\n", name, most);
    if (!(most <= 1e-4f)) failures++;
}

int main(int argc, char ** argv) {
    const uint32_t prompt[3] = {'"', 'i', 'n'};
    float expected[VOCABULARY], logits[VOCABULARY];
    if (argc != 3) return 64;
    FILE * file = fopen(argv[2], "rb");
    if (!file || fread(expected, sizeof(float), VOCABULARY, file) != VOCABULARY) return 2;
    fclose(file);

    struct rwkv_context * ctx = rwkv_init_from_file(argv[1], 2, 0);
    if (!ctx || rwkv_get_logits_len(ctx) != VOCABULARY) return 3;
    size_t count = rwkv_get_state_len(ctx);
    float * state = calloc(count, sizeof(float)), * other = calloc(count, sizeof(float));
    if (!state || !other) return 4;

    rwkv_init_state(ctx, state);
    for (int i = 0; i < 3; i++) rwkv_eval(ctx, prompt[i], state, state, i < 2 ? NULL : logits);
    compare("one by one", logits, expected);

    memset(logits, 0, sizeof logits);
    rwkv_eval_sequence(ctx, prompt, 3, NULL, other, logits);
    compare("as a sequence", logits, expected);
    if (memcmp(state, other, count * sizeof(float)) != 0) failures++;

    for (size_t chunk = 1; chunk <= 4; chunk++) {
        memset(logits, 0, sizeof logits);
        rwkv_init_state(ctx, other);
        rwkv_eval_sequence_in_chunks(ctx, prompt, 3, chunk, other, other, logits);
        compare("in chunks", logits, expected);
        if (memcmp(state, other, count * sizeof(float)) != 0) failures++;
    }
    rwkv_free(ctx);
    free(state);
    free(other);
    return failures;
}
