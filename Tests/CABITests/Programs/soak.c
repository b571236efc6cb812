// SPDX-License-Identifier: MIT
/* Mixed work from eight threads through the C interface, for as long as wanted: open, clone, generate, batches, save,
 * load, cancel, mistakes, close. Everything that comes out must equal what one thread computed at the start, and
 * between rounds, when everything is freed, memory and descriptors must be what they were.
 *
 *     soak SECONDS FOLDER MODEL...       FOLDER: for saved states; byte-level models of 256 tokens
 *
 * Prints a line per round to stderr and one closing line to stdout; exit 1 if anything differs, leaks or grows. */
#define _GNU_SOURCE
#include "rwkv.h"

#include <dirent.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 8, MODELS = 4, SEEDS = 6, TOKENS = 40, VOCABULARY = 256, TEXT = 4096 };

/* What one thread computes for a sequence of tokens and a seed of the sampler. */
struct result {
    float logits[VOCABULARY];
    char text[TEXT];
    size_t length;
};

enum work { OPEN, CLONE, EVAL, GENERATE, BATCH, SAVE_FILE, SAVE_MEMORY, CANCEL, MISTAKE, WORKS };
static const char * const names[WORKS] = {"open",      "clone",       "evaluate", "generate", "batch",
                                          "save file", "save memory", "cancel",   "mistake"};

static int model_count;
static char ** models;
static const char * folder;
static struct rwkv_context * shared[MODELS];
static struct result expected[MODELS][SEEDS];
static atomic_ulong done[WORKS], differences;
static time_t round_end;

static void expect(int holds, const char * what) {
    if (holds) return;
    if (atomic_fetch_add(&differences, 1) < 20) fprintf(stderr, "soak: %s\n", what);
}
#define EXPECT(condition) expect((condition) ? 1 : 0, #condition)

static void sequence(unsigned seed, uint32_t * tokens) {
    unsigned i;
    for (i = 0; i < TOKENS; i++) tokens[i] = (seed * 37 + i * i * 11 + i) % VOCABULARY;
}

static bool collect(const char * text, size_t length, void * user) {
    struct result * result = (struct result *) user;
    if (result->length + length < TEXT) memcpy(result->text + result->length, text, length);
    result->length += length;
    return true;
}

static bool refuse(const char * text, size_t length, void * user) {
    (void) text, (void) length, (void) user;
    return false;
}

static bool stop(double share, void * user) {
    (void) share, (void) user;
    return false;
}

static struct rwkv_sampler * sampler(struct rwkv_context * ctx, unsigned seed) {
    struct rwkv_sampler_options options;
    rwkv_sampler_options_init(&options);
    options.seed = seed;
    return rwkv_sampler_new(ctx, &options);
}

static void evaluate(struct rwkv_context * ctx, unsigned seed, struct result * result) {
    uint32_t tokens[TOKENS];
    struct rwkv_state * state = rwkv_state_new(ctx);
    sequence(seed, tokens);
    EXPECT(rwkv_state_eval(ctx, state, tokens, TOKENS, result->logits, NULL, NULL));
    rwkv_state_free(state);
}

static void generate(struct rwkv_context * ctx, unsigned seed, struct result * result) {
    struct rwkv_state * state = rwkv_state_new(ctx);
    struct rwkv_sampler * chooser = sampler(ctx, seed);
    memset(result->text, 0, TEXT);
    result->length = 0;
    EXPECT(rwkv_generate(ctx, state, chooser, "soak", 4, 20 + seed, NULL, 0, collect, result) != RWKV_FINISH_ERROR);
    rwkv_sampler_free(chooser);
    rwkv_state_free(state);
}

static int same_logits(const float * logits, int model, unsigned seed) {
    return memcmp(logits, expected[model][seed].logits, sizeof expected[model][seed].logits) == 0;
}

/* ---- the kinds of work: each on a context that belongs to this thread ---- */

static void work_batch(struct rwkv_context * ctx, int model) {
    struct rwkv_state * states[SEEDS];
    uint32_t tokens[SEEDS][TOKENS], column[SEEDS];
    float logits[SEEDS][VOCABULARY];
    unsigned s, i;
    for (s = 0; s < SEEDS; s++) states[s] = rwkv_state_new(ctx), sequence(s, tokens[s]);
    for (i = 0; i < TOKENS; i++) {
        for (s = 0; s < SEEDS; s++) column[s] = tokens[s][i];
        EXPECT(rwkv_eval_batch(ctx, states, column, SEEDS, i == TOKENS - 1 ? logits[0] : NULL));
    }
    for (s = 0; s < SEEDS; s++) EXPECT(same_logits(logits[s], model, s)), rwkv_state_free(states[s]);
}

/* Half the tokens, out to a file or to memory, in again, and the other half. */
static void work_save(struct rwkv_context * ctx, int model, unsigned seed, const char * path) {
    uint32_t tokens[TOKENS], read[TOKENS];
    float logits[VOCABULARY];
    struct rwkv_state * state = rwkv_state_new(ctx), * copy, * loaded;
    sequence(seed, tokens);
    EXPECT(rwkv_state_eval(ctx, state, tokens, TOKENS / 2, NULL, NULL, NULL));
    if (path) {
        EXPECT(rwkv_state_save(state, path, tokens, TOKENS / 2));
        loaded = rwkv_state_load(ctx, path);
        EXPECT(rwkv_state_get_tokens(loaded, read, TOKENS) == TOKENS / 2);
        EXPECT(memcmp(read, tokens, TOKENS / 2 * sizeof read[0]) == 0);
    } else {
        size_t size = rwkv_state_save_memory(state, NULL, 0, NULL, 0);
        void * memory = malloc(size);
        EXPECT(rwkv_state_save_memory(state, NULL, 0, memory, size) == size);
        loaded = rwkv_state_load_memory(ctx, memory, size);
        free(memory);
    }
    copy = rwkv_state_clone(loaded);
    rwkv_state_free(state);
    rwkv_state_free(loaded);
    EXPECT(rwkv_state_eval(ctx, copy, tokens + TOKENS / 2, TOKENS - TOKENS / 2, logits, NULL, NULL));
    EXPECT(same_logits(logits, model, seed));
    rwkv_state_free(copy);
}

static void work_cancel(struct rwkv_context * ctx, int model, unsigned seed) {
    uint32_t tokens[TOKENS];
    struct rwkv_state * state = rwkv_state_new(ctx);
    struct rwkv_sampler * chooser = sampler(ctx, seed);
    sequence(seed, tokens);
    EXPECT(!rwkv_state_eval(ctx, state, tokens, TOKENS, NULL, stop, NULL));
    EXPECT(rwkv_generate(ctx, state, chooser, "soak", 4, 500, NULL, 0, refuse, NULL) != RWKV_FINISH_ERROR);
    EXPECT(rwkv_open(models[model], 1, stop, NULL) == NULL);
    rwkv_sampler_free(chooser);
    rwkv_state_free(state);
}

static void work_mistake(struct rwkv_context * ctx, int model) {
    char text[256], rubbish[300];
    uint32_t bad = VOCABULARY;
    struct rwkv_state * state = rwkv_state_new(ctx);
    memset(rubbish, model, sizeof rubbish);
    EXPECT(!rwkv_state_eval(ctx, state, &bad, 1, NULL, NULL, NULL));
    EXPECT(rwkv_get_last_error_text(ctx, text, sizeof text) > 5);
    EXPECT(rwkv_state_load_memory(ctx, rubbish, sizeof rubbish) == NULL);
    EXPECT(rwkv_open("/nonexistent", 1, NULL, NULL) == NULL);
    rwkv_state_free(state);
    EXPECT(!rwkv_state_reset(state));
}

static void one_piece_of_work(enum work kind, int model, unsigned seed, unsigned thread) {
    struct result result;
    char path[1024];
    /* A model of its own, or another context of the one that all threads share. */
    struct rwkv_context * ctx =
        kind == OPEN ? rwkv_open(models[model], 1, NULL, NULL) : rwkv_clone_context(shared[model], 1 + seed % 2);
    EXPECT(ctx != NULL);
    snprintf(path, sizeof path, "%s/state-%u", folder, thread);
    switch (kind) {
        case OPEN:
        case CLONE:
        case EVAL:
            evaluate(ctx, seed, &result);
            EXPECT(same_logits(result.logits, model, seed));
            break;
        case GENERATE:
            generate(ctx, seed, &result);
            EXPECT(result.length == expected[model][seed].length);
            EXPECT(memcmp(result.text, expected[model][seed].text, TEXT) == 0);
            break;
        case BATCH: work_batch(ctx, model); break;
        case SAVE_FILE: work_save(ctx, model, seed, path); break;
        case SAVE_MEMORY: work_save(ctx, model, seed, NULL); break;
        case CANCEL: work_cancel(ctx, model, seed); break;
        default: work_mistake(ctx, model); break;
    }
    rwkv_free(ctx);
    atomic_fetch_add(&done[kind], 1);
}

static void * work(void * argument) {
    unsigned thread = (unsigned) (size_t) argument, random = thread * 2654435761u + 1;
    unsigned n = 0;
    /* Every kind of work at least once, however short the round. */
    for (; n < WORKS || time(NULL) < round_end; n++) {
        random = random * 1664525u + 1013904223u;
        one_piece_of_work((enum work) ((n + thread) % WORKS), (int) (random >> 20) % model_count, (random >> 8) % SEEDS,
                          thread);
    }
    return NULL;
}

/* ---- what must not grow ---- */

/* AddressSanitizer keeps what was freed, to see who still uses it, and reports itself what nobody frees. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define KEEPS_FREED 1
#endif
#endif
#ifndef KEEPS_FREED
#define KEEPS_FREED 0
#endif

struct usage {
    long resident, heap;
    int descriptors;
};

static int count_entries(const char * path) {
    int count = 0;
    DIR * directory = opendir(path);
    if (!directory) return -1;
    while (readdir(directory)) count++;
    closedir(directory);
    return count;
}

static struct usage measure(void) {
    struct usage usage = {0, 0, 0};
    long pages = 0;
    FILE * file;
    struct mallinfo2 heap;
    malloc_trim(0);
    heap = mallinfo2();
    usage.heap = (long) (heap.uordblks + heap.hblkhd);
    file = fopen("/proc/self/statm", "r");
    if (file && fscanf(file, "%*s %ld", &pages) == 1) usage.resident = pages * sysconf(_SC_PAGESIZE);
    if (file) fclose(file);
    usage.descriptors = count_entries("/proc/self/fd");
    return usage;
}

static struct usage one_round(long seconds) {
    pthread_t threads[THREADS];
    int i;
    round_end = time(NULL) + seconds;
    for (i = 0; i < model_count; i++) EXPECT((shared[i] = rwkv_open(models[i], 1, NULL, NULL)) != NULL);
    for (i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, work, (void *) (size_t) i);
    for (i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    for (i = 0; i < model_count; i++) rwkv_free(shared[i]);
    return measure();
}

static void compute_expected(void) {
    int m;
    unsigned s;
    for (m = 0; m < model_count; m++) {
        struct rwkv_context * ctx = rwkv_open(models[m], 1, NULL, NULL);
        if (!ctx) fprintf(stderr, "soak: cannot open %s\n", models[m]), exit(1);
        for (s = 0; s < SEEDS; s++) evaluate(ctx, s, &expected[m][s]), generate(ctx, s, &expected[m][s]);
        rwkv_free(ctx);
    }
}

int main(int argc, char ** argv) {
    const long mib = 1 << 20;
    time_t start = time(NULL), last;
    long seconds = argc > 3 ? atol(argv[1]) : 0, rounds = 0, per_round, k;
    unsigned long total = 0;
    struct usage first = {0, 0, 0}, most = {0, 0, 0}, now = {0, 0, 0};
    int failed;
    if (argc < 4 || argc - 3 > MODELS) {
        fprintf(stderr, "usage: soak SECONDS FOLDER MODEL...\n");
        return 64;
    }
    folder = argv[2];
    models = argv + 3;
    model_count = argc - 3;
    per_round = seconds / 20 < 30 ? seconds / 20 : 30;
    compute_expected();
    /* The first rounds warm up what a process keeps: threads, caches of the allocator. */
    do {
        now = one_round(per_round);
        rounds++;
        last = time(NULL);
        if (rounds <= 3 || last - start < seconds / 4) first = most = now;
        if (now.heap > most.heap) most.heap = now.heap;
        if (now.resident > most.resident) most.resident = now.resident;
        if (now.descriptors > most.descriptors) most.descriptors = now.descriptors;
        fprintf(stderr, "round %ld, %ld s: resident %.1f MiB, heap %ld bytes, %d descriptors, %lu differences\n", rounds,
                (long) (last - start), (double) now.resident / mib, now.heap, now.descriptors,
                (unsigned long) differences);
    } while (rounds < 4 || last - start < seconds);
    for (k = 0; k < WORKS; k++) total += done[k];
    /* Freed memory in pieces makes the resident size waver by some MiB, not the bytes in use. */
    failed = differences > 0 || now.heap > first.heap + mib / 8 || now.descriptors != first.descriptors ||
             (!KEEPS_FREED && now.resident > first.resident + 8 * mib);
    printf("soak: %s: %ld s, %d threads, %ld rounds, %lu pieces of work (", failed ? "FAILED" : "passed",
           (long) (last - start), THREADS, rounds, total);
    for (k = 0; k < WORKS; k++) printf("%s%lu %s", k ? ", " : "", (unsigned long) done[k], names[k]);
    printf("), %lu differences; from round 3 to the end: resident %.1f to %.1f MiB (most %.1f), heap %ld to %ld bytes, "
           "descriptors %d to %d\n",
           (unsigned long) differences, (double) first.resident / mib, (double) now.resident / mib,
           (double) most.resident / mib, first.heap, now.heap, first.descriptors, now.descriptors);
    return failed;
}
