// SPDX-License-Identifier: MIT
/* Eight threads with contexts of their own over one model compute what one thread computes.
 *
 *     threads MODEL [SECONDS]        without SECONDS: each thread works once */
#define _POSIX_C_SOURCE 200809L
#include "rwkv.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { THREADS = 8, TOKENS = 100 };

static struct rwkv_context * shared;
static size_t vocabulary;
static float * expected;
static time_t end;

/* The logits after each of the tokens of sequence `seed`: odd ones in raw buffers, even ones in resident states. */
static bool compute(struct rwkv_context * ctx, unsigned seed, float * logits) {
    struct rwkv_state * state = rwkv_state_new(ctx);
    float * buffer = (float *) malloc(rwkv_get_state_len(ctx) * sizeof(float));
    bool good = state && buffer;
    unsigned i;
    rwkv_init_state(ctx, buffer);
    for (i = 0; i < TOKENS && good; i++) {
        uint32_t token = (seed * 31 + i * 7) % 256;
        float * row = logits + i * vocabulary;
        good = seed % 2 ? rwkv_eval(ctx, token, buffer, buffer, row)
                        : rwkv_state_eval(ctx, state, &token, 1, row, NULL, NULL);
    }
    rwkv_state_free(state);
    free(buffer);
    return good;
}

static void * work(void * argument) {
    unsigned seed = (unsigned) (size_t) argument;
    size_t size = TOKENS * vocabulary;
    float * logits = (float *) malloc(size * sizeof(float));
    bool good = true;
    do {
        struct rwkv_context * ctx = rwkv_clone_context(shared, 1 + seed % 2);
        good = ctx && compute(ctx, seed, logits) &&
               memcmp(logits, expected + seed * size, size * sizeof(float)) == 0;
        rwkv_free(ctx);
    } while (good && time(NULL) < end);
    free(logits);
    return good ? NULL : argument ? argument : (void *) 99;
}

int main(int argc, char ** argv) {
    pthread_t threads[THREADS];
    unsigned i;
    int failures = 0;
    shared = rwkv_open(argc > 1 ? argv[1] : NULL, 1, NULL, NULL);
    if (!shared) return 1;
    end = time(NULL) + (argc > 2 ? atoi(argv[2]) : 0);
    vocabulary = rwkv_get_n_vocab(shared);
    expected = (float *) malloc(THREADS * TOKENS * vocabulary * sizeof(float));
    for (i = 0; i < THREADS; i++)
        if (!compute(shared, i, expected + i * TOKENS * vocabulary)) return 1;
    for (i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, work, (void *) (size_t) i);
    for (i = 0; i < THREADS; i++) {
        void * failed;
        pthread_join(threads[i], &failed);
        failures += failed != NULL;
    }
    rwkv_free(shared);
    free(expected);
    return failures;
}
