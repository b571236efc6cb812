// SPDX-License-Identifier: MIT
/* Many requests at once equal each alone; from several threads; and what goes wrong says so. C99 and C++.
 *
 *     scheduler MODEL OTHER_MODEL
 *
 * The models are byte-level with 256 tokens. */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>

enum { COUNT = 24, V = 256 };

struct text {
    uint64_t request;
    char written[256];
    size_t length;
    enum rwkv_finish finish;
};

static uint32_t prompt[200];

static bool append(const char * piece, size_t length, void * user) {
    struct text * text = (struct text *) user;
    memcpy(text->written + text->length, piece, length);
    text->length += length;
    return true;
}

static struct rwkv_sampler * sampler_of(struct rwkv_context * ctx, int index) {
    struct rwkv_sampler * sampler = rwkv_sampler_new(ctx, NULL);
    CHECK(rwkv_sampler_set(sampler, "seed", index) && rwkv_sampler_set(sampler, "temperature", index % 3 ? 1 : 0));
    CHECK(rwkv_sampler_set(sampler, "frequency_penalty", index % 2 ? 0.3 : 0));
    return sampler;
}

/* Row index has a prompt of its own length, which begins in the middle of `prompt`. */
static const uint32_t * tokens_of(int index, size_t * count) {
    *count = (size_t) (1 + index * 37 % 150);
    return prompt + index;
}

/* What a generation alone writes. */
static void write_alone(struct rwkv_context * ctx, int index, struct text * text) {
    struct rwkv_state * state = rwkv_state_new(ctx);
    struct rwkv_sampler * sampler = sampler_of(ctx, index);
    float logits[V];
    size_t count;
    const uint32_t * tokens = tokens_of(index, &count);
    memset(text, 0, sizeof *text);
    CHECK(rwkv_state_eval(ctx, state, tokens, count, logits, NULL, NULL));
    text->finish = rwkv_generate(ctx, state, sampler, NULL, 0, 30, NULL, 0, append, text);
    rwkv_sampler_free(sampler);
    rwkv_state_free(state);
}

/* Adds a result to the text of its request; whether that has ended. */
static bool take(struct rwkv_result * result, struct text * texts, int count) {
    char piece[256];
    size_t length = rwkv_result_get_text(result, piece, sizeof piece);
    enum rwkv_finish finish = rwkv_result_get_finish(result);
    int i;
    for (i = 0; i < count; i++) {
        if (texts[i].request != rwkv_result_get_request(result)) continue;
        append(piece, length, &texts[i]);
        texts[i].finish = finish;
    }
    rwkv_result_free(result);
    return finish != RWKV_FINISH_NOT_YET;
}

static void test_together(struct rwkv_context * ctx, uint32_t parallel, uint32_t flags) {
    struct rwkv_scheduler * scheduler = rwkv_scheduler_new(ctx, 2, parallel);
    static struct text texts[COUNT], alone[COUNT];
    struct rwkv_result * result;
    int i, pieces = 0;
    memset(texts, 0, sizeof texts);
    CHECK(scheduler != NULL && rwkv_scheduler_get_pending(scheduler) == 0);
    for (i = 0; i < COUNT; i++) {
        struct rwkv_sampler * sampler = sampler_of(ctx, i);
        size_t count;
        const uint32_t * tokens = tokens_of(i, &count);
        texts[i].request = rwkv_scheduler_generate(scheduler, NULL, sampler, tokens, count, 30, NULL, 0, flags);
        CHECK(texts[i].request > (i ? texts[i - 1].request : 0));
        rwkv_sampler_free(sampler);
    }
    while (rwkv_scheduler_get_pending(scheduler) > 0 && rwkv_scheduler_next(scheduler, 60, &result)) {
        CHECK(result != NULL);
        take(result, texts, COUNT);
        pieces++;
    }
    CHECK(flags ? pieces > COUNT : pieces == COUNT);
    for (i = 0; i < COUNT; i++) {
        write_alone(ctx, i, &alone[i]);
        CHECK(texts[i].finish == alone[i].finish && texts[i].length == alone[i].length && texts[i].length > 0);
        CHECK(memcmp(texts[i].written, alone[i].written, alone[i].length) == 0);
    }
    rwkv_scheduler_free(scheduler);
    rwkv_scheduler_free(scheduler);
}

static struct rwkv_result * wait_for(struct rwkv_scheduler * scheduler, uint64_t request) {
    struct rwkv_result * result = NULL;
    CHECK(request != 0 && rwkv_scheduler_next(scheduler, -1, &result) && result != NULL);
    CHECK(rwkv_result_get_request(result) == request);
    return result;
}

/* A prompt in two requests is the prompt in one; its scores and vector are those of the other functions. */
static void test_kinds(struct rwkv_context * ctx) {
    struct rwkv_scheduler * scheduler = rwkv_scheduler_new(ctx, 0, 64);
    size_t d = rwkv_get_n_embed(ctx), i;
    uint64_t id = rwkv_scheduler_generate(scheduler, NULL, NULL, prompt, 90, 0, NULL, 0, 0);
    struct rwkv_result * result = wait_for(scheduler, id);
    struct rwkv_state * half = rwkv_result_get_state(result), * whole = rwkv_state_new(ctx);
    double scores[200], expected[200], written[10];
    uint32_t best[200], likeliest[200], tokens[10];
    float * vector = (float *) malloc(d * sizeof(float)), * same = (float *) malloc(d * sizeof(float));
    float logits[V], others[V];
    CHECK(rwkv_result_get_finish(result) == RWKV_FINISH_LENGTH && half != NULL);
    CHECK(rwkv_result_get_text(result, NULL, 0) == 0 && rwkv_result_get_tokens(result, NULL, 0) == 0);
    rwkv_result_free(result);
    CHECK(rwkv_state_eval(ctx, whole, prompt, 91, logits, NULL, NULL));
    CHECK(rwkv_state_eval(ctx, half, prompt + 90, 1, others, NULL, NULL) && memcmp(logits, others, sizeof logits) == 0);

    CHECK(rwkv_state_reset(whole));
    CHECK(rwkv_state_score(ctx, whole, prompt, prompt + 1, 199, expected, likeliest, NULL, NULL));
    result = wait_for(scheduler, rwkv_scheduler_score(scheduler, half, prompt + 91, 109, 1));
    CHECK(rwkv_result_get_logprobs(result, scores, 200) == 108);
    CHECK(memcmp(scores, expected + 91, 108 * sizeof(double)) == 0);
    CHECK(rwkv_result_get_tokens(result, best, 200) == 108 && memcmp(best, likeliest + 91, 108 * sizeof best[0]) == 0);
    rwkv_result_free(result);
    result = wait_for(scheduler, rwkv_scheduler_score(scheduler, NULL, prompt, 200, 70));
    CHECK(rwkv_result_get_logprobs(result, scores, 2) == 130 && memcmp(scores, expected + 69, 2 * sizeof(double)) == 0);
    CHECK(rwkv_result_get_logprobs(result, scores, 200) == 130);
    CHECK(memcmp(scores, expected + 69, 130 * sizeof(double)) == 0);
    FAILS(NULL, rwkv_result_get_logprobs(result, NULL, 5) == RWKV_FAILED);
    rwkv_result_free(result);

    result = wait_for(scheduler, rwkv_scheduler_embed(scheduler, hello, 11));
    CHECK(rwkv_embed(ctx, "hello world", 11, vector, NULL, NULL));
    CHECK(rwkv_result_get_vector(result, same, d) == d && memcmp(vector, same, d * sizeof(float)) == 0);
    rwkv_result_free(result);
    result = wait_for(scheduler, rwkv_scheduler_embed(scheduler, NULL, 0));
    CHECK(rwkv_result_get_vector(result, same, d) == d);
    rwkv_result_free(result);

    /* The tokens of a text, their probabilities, and the state that has read them. */
    id = rwkv_scheduler_generate(scheduler, NULL, NULL, prompt, 90, 10, NULL, 0, RWKV_REQUEST_LOGPROBS);
    result = wait_for(scheduler, id);
    CHECK(rwkv_result_get_tokens(result, tokens, 10) == 10 && rwkv_result_get_logprobs(result, written, 10) == 10);
    CHECK(rwkv_state_reset(whole));
    CHECK(rwkv_state_eval(ctx, whole, prompt, 90, NULL, NULL, NULL));
    CHECK(rwkv_state_eval(ctx, whole, tokens, 10, logits, NULL, NULL));
    for (i = 0; i < 10; i++) CHECK(written[i] < 0);
    rwkv_state_free(half);
    half = rwkv_result_get_state(result);
    CHECK(rwkv_state_eval(ctx, half, hello, 1, others, NULL, NULL));
    CHECK(rwkv_state_eval(ctx, whole, hello, 1, logits, NULL, NULL) && memcmp(logits, others, sizeof logits) == 0);
    rwkv_result_free(result);
    rwkv_result_free(result);
    rwkv_state_free(half);
    rwkv_state_free(whole);
    rwkv_scheduler_free(scheduler);
    free(vector);
    free(same);
}

/* A text without end. */
static uint64_t submit_endless(struct rwkv_context * ctx, struct rwkv_scheduler * scheduler, uint32_t flags) {
    struct rwkv_sampler * sampler = rwkv_sampler_new(ctx, NULL);
    uint64_t request;
    CHECK(rwkv_sampler_set_bias(sampler, 0, -INFINITY));
    request = rwkv_scheduler_generate(scheduler, NULL, sampler, prompt, 5, SIZE_MAX, NULL, 0, flags);
    rwkv_sampler_free(sampler);
    CHECK(request != 0);
    return request;
}

static void * wait_in_vain(void * user) {
    struct rwkv_result * result;
    struct rwkv_scheduler * scheduler = (struct rwkv_scheduler *) user;
    while (rwkv_scheduler_next(scheduler, -1, &result)) rwkv_result_free(result);
    return NULL;
}

static void test_ends(struct rwkv_context * ctx) {
    struct rwkv_scheduler * scheduler = rwkv_scheduler_new(ctx, 2, 2);
    struct rwkv_result * result = NULL;
    uint64_t requests[3];
    pthread_t waiting[3];
    int i, ended = 0;
    CHECK(rwkv_scheduler_next(scheduler, 0.01, &result) && result == NULL);
    for (i = 0; i < 3; i++) requests[i] = submit_endless(ctx, scheduler, RWKV_REQUEST_STREAM);
    CHECK(rwkv_scheduler_next(scheduler, -1, &result));
    CHECK(rwkv_result_get_finish(result) == RWKV_FINISH_NOT_YET && rwkv_result_get_text(result, NULL, 0) > 0);
    FAILS_WITH(NULL, "goes on", rwkv_result_get_state(result) == NULL);
    rwkv_result_free(result);
    for (i = 2; i >= 0; i--) CHECK(rwkv_scheduler_cancel(scheduler, requests[i]));
    CHECK(rwkv_scheduler_cancel(scheduler, 12345));
    while (rwkv_scheduler_get_pending(scheduler) > 0) {
        enum rwkv_finish finish;
        CHECK(rwkv_scheduler_next(scheduler, -1, &result));
        finish = rwkv_result_get_finish(result);
        CHECK(finish == RWKV_FINISH_CANCELLED || finish == RWKV_FINISH_NOT_YET);
        ended += finish == RWKV_FINISH_CANCELLED;
        rwkv_result_free(result);
    }
    CHECK(ended == 3);
    /* Freed while it works and others wait. */
    for (i = 0; i < 3; i++) CHECK(pthread_create(&waiting[i], NULL, wait_in_vain, scheduler) == 0);
    for (i = 0; i < 3; i++) submit_endless(ctx, scheduler, i ? RWKV_REQUEST_STREAM : 0);
    rwkv_scheduler_free(scheduler);
    for (i = 0; i < 3; i++) CHECK(pthread_join(waiting[i], NULL) == 0);
    FAILS_WITH(NULL, "scheduler", rwkv_scheduler_generate(scheduler, NULL, NULL, hello, 1, 1, NULL, 0, 0) == 0);
}

static void test_errors(struct rwkv_context * ctx, struct rwkv_context * other) {
    struct rwkv_scheduler * scheduler = rwkv_scheduler_new(ctx, 1, 1), * most;
    struct rwkv_state * foreign = rwkv_state_new(other);
    struct rwkv_result * result = NULL;
    struct rwkv_sampler * banned = rwkv_sampler_new(ctx, NULL);
    uint32_t wrong = V, i;
    FAILS(ctx, rwkv_scheduler_new(ctx, 1, 0) == NULL);
    FAILS(ctx, rwkv_scheduler_new(ctx, 1, 65) == NULL);
    FAILS_WITH(ctx, "1025", rwkv_scheduler_new(ctx, 1025, 1) == NULL);
    most = rwkv_scheduler_new(ctx, 1024, 1);
    CHECK(most != NULL);
    rwkv_scheduler_free(most);
    FAILS_WITH(NULL, "no tokens", rwkv_scheduler_generate(scheduler, NULL, NULL, hello, 0, 1, NULL, 0, 0) == 0);
    FAILS_WITH(NULL, "NULL", rwkv_scheduler_generate(scheduler, NULL, NULL, NULL, 1, 1, NULL, 0, 0) == 0);
    FAILS_WITH(NULL, "256", rwkv_scheduler_generate(scheduler, NULL, NULL, &wrong, 1, 1, NULL, 0, 0) == 0);
    FAILS_WITH(NULL, "stops", rwkv_scheduler_generate(scheduler, NULL, NULL, hello, 1, 1, NULL, 1, 0) == 0);
    FAILS_WITH(NULL, "flags", rwkv_scheduler_generate(scheduler, NULL, NULL, hello, 1, 1, NULL, 0, 4) == 0);
    FAILS_WITH(NULL, "another model", rwkv_scheduler_generate(scheduler, foreign, NULL, hello, 1, 1, NULL, 0, 0) == 0);
    FAILS_WITH(NULL, "state", rwkv_scheduler_score(scheduler, (struct rwkv_state *) ctx, hello, 2, 1) == 0);
    FAILS_WITH(NULL, "first", rwkv_scheduler_score(scheduler, NULL, hello, 11, 0) == 0);
    FAILS_WITH(NULL, "first", rwkv_scheduler_score(scheduler, NULL, hello, 11, 11) == 0);
    FAILS_WITH(NULL, "first", rwkv_scheduler_score(scheduler, NULL, hello, 1, 1) == 0);
    FAILS_WITH(NULL, "256", rwkv_scheduler_embed(scheduler, &wrong, 1) == 0);
    FAILS_WITH(NULL, "result_out", !rwkv_scheduler_next(scheduler, 0, NULL));
    FAILS_WITH(NULL, "timeout", !rwkv_scheduler_next(scheduler, NAN, &result));
    CHECK(rwkv_scheduler_get_pending(scheduler) == 0);
    /* What fails later is a result. */
    for (i = 0; i < V; i++) CHECK(rwkv_sampler_set_bias(banned, i, -INFINITY));
    result = wait_for(scheduler, rwkv_scheduler_generate(scheduler, NULL, banned, hello, 11, 5, NULL, 0, 0));
    FAILS(NULL, rwkv_result_get_finish(result) == RWKV_FINISH_ERROR);
    FAILS(NULL, rwkv_result_get_state(result) == NULL);
    rwkv_result_free(result);
    FAILS(NULL, rwkv_result_get_finish(result) == RWKV_FINISH_ERROR);
    rwkv_sampler_free(banned);
    rwkv_state_free(foreign);
    rwkv_scheduler_free(scheduler);
}

static void test_null(void) {
    struct rwkv_result * result;
    rwkv_scheduler_free(NULL);
    rwkv_result_free(NULL);
    FAILS(NULL, rwkv_scheduler_new(NULL, 1, 1) == NULL);
    FAILS(NULL, rwkv_scheduler_generate(NULL, NULL, NULL, hello, 1, 1, NULL, 0, 0) == 0);
    FAILS(NULL, rwkv_scheduler_score(NULL, NULL, hello, 2, 1) == 0);
    FAILS(NULL, rwkv_scheduler_embed(NULL, hello, 2) == 0);
    FAILS(NULL, !rwkv_scheduler_cancel(NULL, 1));
    FAILS(NULL, rwkv_scheduler_get_pending(NULL) == RWKV_FAILED);
    FAILS(NULL, !rwkv_scheduler_next(NULL, 0, &result));
    FAILS(NULL, rwkv_result_get_request(NULL) == 0);
    FAILS(NULL, rwkv_result_get_finish(NULL) == RWKV_FINISH_ERROR);
    FAILS(NULL, rwkv_result_get_text(NULL, NULL, 0) == RWKV_FAILED);
    FAILS(NULL, rwkv_result_get_tokens(NULL, NULL, 0) == RWKV_FAILED);
    FAILS(NULL, rwkv_result_get_logprobs(NULL, NULL, 0) == RWKV_FAILED);
    FAILS(NULL, rwkv_result_get_vector(NULL, NULL, 0) == RWKV_FAILED);
    FAILS(NULL, rwkv_result_get_state(NULL) == NULL);
}

/* Four threads submit, two wait; each text is the one that it is alone. */
static struct {
    struct rwkv_context * ctx;
    struct rwkv_scheduler * scheduler;
    struct text texts[COUNT];
    pthread_mutex_t lock;
    int ended;
} shared;

static void * submit_some(void * user) {
    int first = *(const int *) user, i;
    for (i = first; i < COUNT; i += 4) {
        struct rwkv_sampler * sampler = sampler_of(shared.ctx, i);
        size_t count;
        const uint32_t * tokens = tokens_of(i, &count);
        pthread_mutex_lock(&shared.lock);
        shared.texts[i].request = rwkv_scheduler_generate(
            shared.scheduler, NULL, sampler, tokens, count, 30, NULL, 0, i % 2 ? RWKV_REQUEST_STREAM : 0);
        pthread_mutex_unlock(&shared.lock);
        rwkv_sampler_free(sampler);
    }
    return NULL;
}

static void * take_some(void * user) {
    (void) user;
    while (true) {
        struct rwkv_result * result = NULL;
        bool is_done;
        /* Within the lock, so that two pieces of a text stay in their order. */
        pthread_mutex_lock(&shared.lock);
        if (rwkv_scheduler_next(shared.scheduler, 0.002, &result) && result) {
            shared.ended += take(result, shared.texts, COUNT);
        }
        is_done = shared.ended == COUNT;
        pthread_mutex_unlock(&shared.lock);
        if (is_done) return NULL;
    }
}

static void test_threads(struct rwkv_context * ctx) {
    pthread_t threads[6];
    int numbers[4] = {0, 1, 2, 3}, i;
    struct text alone;
    shared.ctx = ctx;
    shared.scheduler = rwkv_scheduler_new(ctx, 2, 7);
    CHECK(pthread_mutex_init(&shared.lock, NULL) == 0);
    for (i = 0; i < 6; i++) {
        CHECK(pthread_create(&threads[i], NULL, i < 4 ? submit_some : take_some, i < 4 ? &numbers[i] : NULL) == 0);
    }
    for (i = 0; i < 6; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    for (i = 0; i < COUNT; i++) {
        write_alone(ctx, i, &alone);
        CHECK(alone.length == shared.texts[i].length && alone.finish == shared.texts[i].finish);
        CHECK(memcmp(alone.written, shared.texts[i].written, alone.length) == 0);
    }
    rwkv_scheduler_free(shared.scheduler);
}

int main(int argc, char ** argv) {
    struct rwkv_context * ctx, * other;
    int i;
    if (argc != 3) return 64;
    ctx = rwkv_open(argv[1], 2, NULL, NULL);
    other = rwkv_open(argv[2], 2, NULL, NULL);
    for (i = 0; i < 200; i++) prompt[i] = (uint32_t) (i * i + 7) % V;
    CHECK(ctx != NULL && other != NULL);
    test_null();
    test_together(ctx, 9, 0);
    test_together(other, 64, RWKV_REQUEST_STREAM);
    test_kinds(ctx);
    test_kinds(other);
    test_ends(ctx);
    test_errors(ctx, other);
    test_threads(ctx);
    rwkv_free(ctx);
    rwkv_free(other);
    printf("%d failures\n", failures);
    return failures ? 1 : 0;
}
