// SPDX-License-Identifier: MIT
/* What rwkv.h has for whole texts: logits and scores after each token, vectors, conversations, observed generation;
 * and what the library does to the program that loads it. C99 and C++.
 *
 *     texts MODEL OTHER_MODEL FOLDER
 *
 * The models are byte-level with 256 tokens. Writes the vector of "hello world" to FOLDER/vector. */
#define _POSIX_C_SOURCE 200809L
#include "check.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>

enum { count = 150, V = 256 }; /* more tokens than one block */
static uint32_t tokens[count + 1];

static bool cancel(double done, void * user) { return done > 2 || user == &failures; }

static double logprob(const float * logits, uint32_t token) {
    double sum = 0;
    int i;
    for (i = 0; i < V; i++) sum += exp((double) logits[i]);
    return logits[token] - log(sum);
}

static void test_each(struct rwkv_context * ctx, struct rwkv_context * other) {
    static float each[count][V], one[V];
    static double scores[count];
    static uint32_t best[count];
    struct rwkv_state * state = rwkv_state_new(ctx), * same = rwkv_state_new(ctx);
    int i, k;
    for (i = 0; i <= count; i++) tokens[i] = (uint32_t) (i * i + 7) % V;
    CHECK(rwkv_state_eval_each(ctx, state, tokens, count, each[0], NULL, NULL));
    CHECK(rwkv_state_reset(state));
    CHECK(rwkv_state_score(ctx, state, tokens, tokens + 1, count, scores, best, NULL, NULL));
    for (i = 0; i < count; i++) {
        int most = 0;
        CHECK(rwkv_state_eval(ctx, same, tokens + i, 1, one, NULL, NULL));
        CHECK(memcmp(one, each[i], sizeof one) == 0);
        CHECK(fabs(scores[i] - logprob(one, tokens[i + 1])) < 1e-9);
        for (k = 0; k < V; k++) most = one[k] > one[most] ? k : most;
        CHECK(best[i] == (uint32_t) most);
    }
    CHECK(rwkv_state_reset(state));
    CHECK(rwkv_state_score(ctx, state, tokens, tokens + 1, 3, scores, NULL, NULL, NULL));
    FAILS_WITH(ctx, "cancelled", !rwkv_state_eval_each(ctx, state, tokens, count, each[0], cancel, NULL));
    FAILS_WITH(ctx, "cancelled", !rwkv_state_score(ctx, state, tokens, tokens, count, scores, NULL, cancel, NULL));
    FAILS_WITH(ctx, "logits_out is NULL", !rwkv_state_eval_each(ctx, state, tokens, count, NULL, NULL, NULL));
    FAILS_WITH(ctx, "logprobs_out is NULL", !rwkv_state_score(ctx, state, tokens, tokens, 2, NULL, NULL, NULL, NULL));
    FAILS_WITH(ctx, "tokens is NULL", !rwkv_state_score(ctx, state, tokens, NULL, 2, scores, NULL, NULL, NULL));
    FAILS_WITH(ctx, "at least one", !rwkv_state_eval_each(ctx, state, tokens, 0, one, NULL, NULL));
    tokens[1] = 256;
    FAILS_WITH(ctx, "vocabulary", !rwkv_state_score(ctx, state, tokens, tokens + 1, 1, scores, NULL, NULL, NULL));
    FAILS_WITH(other, "belongs", !rwkv_state_eval_each(other, state, tokens, 1, one, NULL, NULL));
    FAILS_WITH(NULL, "NULL", !rwkv_state_eval_each(NULL, state, tokens, 1, one, NULL, NULL));
    FAILS_WITH(NULL, "NULL", !rwkv_state_score(NULL, state, tokens, tokens, 1, scores, NULL, NULL, NULL));
    rwkv_state_free(state);
    rwkv_state_free(same);
}

static void test_vectors(struct rwkv_context * ctx, const char * folder) {
    static float vector[1 << 12], again[1 << 12];
    size_t n = rwkv_get_n_embed(ctx), i;
    double length = 0;
    char path[2048];
    FILE * file;
    CHECK(n <= 1 << 12 && rwkv_embed(ctx, "hello world", 11, vector, NULL, NULL));
    for (i = 0; i < n; i++) length += (double) vector[i] * vector[i];
    CHECK(fabs(length - 1) < 1e-5);
    CHECK(rwkv_embed(ctx, "another", 7, again, NULL, NULL) && memcmp(vector, again, n * sizeof(float)) != 0);
    CHECK(rwkv_embed(ctx, "hello world", 11, again, NULL, NULL) && memcmp(vector, again, n * sizeof(float)) == 0);
    CHECK(rwkv_embed(ctx, "", 0, again, NULL, NULL));
    FAILS_WITH(ctx, "cancelled", !rwkv_embed(ctx, "hello", 5, again, cancel, NULL));
    FAILS_WITH(ctx, "vector_out is NULL", !rwkv_embed(ctx, "hello", 5, NULL, NULL, NULL));
    FAILS_WITH(NULL, "NULL", !rwkv_embed(NULL, "hello", 5, again, NULL, NULL));
    snprintf(path, sizeof path, "%s/vector", folder);
    file = fopen(path, "wb");
    CHECK(file != NULL && fwrite(vector, sizeof(float), n, file) == n);
    if (file) fclose(file);
}

static void test_many(struct rwkv_context * ctx) {
    static float logits[3][V], one[V], vector[1 << 12];
    static double scores[count], alone[count];
    static uint32_t best[count];
    const size_t lengths[3] = {1, 100, 40}, short_lengths[2] = {5, 0}, wrong[2] = {5, 0};
    struct rwkv_state * states[3], * same = rwkv_state_new(ctx);
    size_t start = 0, n = rwkv_get_n_embed(ctx), i;
    float * packed = (float *) calloc(2 * n, sizeof(float));
    char identity[32];
    for (i = 0; i <= count; i++) tokens[i] = (uint32_t) (i * i + 7) % V;
    for (i = 0; i < 3; i++) states[i] = rwkv_state_new(ctx);
    CHECK(rwkv_eval_texts(ctx, states, tokens, lengths, 3, logits[0], NULL, NULL));
    for (i = 0; i < 3; i++) {
        CHECK(rwkv_state_reset(same) && rwkv_state_eval(ctx, same, tokens + start, lengths[i], one, NULL, NULL));
        CHECK(memcmp(one, logits[i], sizeof one) == 0);
        start += lengths[i];
        CHECK(rwkv_state_reset(states[i]));
    }
    CHECK(rwkv_score_texts(ctx, states, tokens, tokens + 1, lengths, 3, scores, best, NULL, NULL));
    for (i = start = 0; i < 3; start += lengths[i++]) {
        const uint32_t * first = tokens + start;
        CHECK(rwkv_state_reset(same));
        CHECK(rwkv_state_score(ctx, same, first, first + 1, lengths[i], alone, NULL, NULL, NULL));
        CHECK(memcmp(alone, scores + start, lengths[i] * sizeof(double)) == 0);
    }
    for (i = 0; i < 5; i++) tokens[i] = (uint32_t) "hello"[i];
    CHECK(rwkv_embed_texts(ctx, tokens, short_lengths, 2, packed, NULL, NULL));
    CHECK(n <= 1 << 12 && rwkv_embed(ctx, "hello", 5, vector, NULL, NULL));
    CHECK(memcmp(packed, vector, n * sizeof(float)) == 0);
    CHECK(rwkv_embed(ctx, "", 0, vector, NULL, NULL) && memcmp(packed + n, vector, n * sizeof(float)) == 0);
    CHECK(rwkv_get_identity(ctx, identity, sizeof identity) == 16);

    FAILS_WITH(ctx, "cancelled", !rwkv_eval_texts(ctx, states, tokens, lengths, 3, NULL, cancel, NULL));
    FAILS_WITH(ctx, "text 1 has 0", !rwkv_eval_texts(ctx, states, tokens, wrong, 2, NULL, NULL, NULL));
    FAILS_WITH(ctx, "no texts", !rwkv_eval_texts(ctx, states, tokens, lengths, 0, NULL, NULL, NULL));
    FAILS_WITH(ctx, "lengths is NULL", !rwkv_embed_texts(ctx, tokens, NULL, 1, packed, NULL, NULL));
    FAILS_WITH(ctx, "vectors_out is NULL", !rwkv_embed_texts(ctx, tokens, lengths, 1, NULL, NULL, NULL));
    FAILS_WITH(ctx, "logprobs_out is NULL", !rwkv_score_texts(ctx, states, tokens, tokens, lengths, 1, 0, 0, NULL, NULL));
    FAILS_WITH(ctx, "states is NULL", !rwkv_score_texts(ctx, NULL, tokens, tokens, lengths, 1, scores, 0, NULL, NULL));
    rwkv_state_free(states[2]);
    states[2] = states[0];
    FAILS_WITH(ctx, "busy", !rwkv_eval_texts(ctx, states, tokens, lengths, 3, NULL, NULL, NULL));
    FAILS_WITH(NULL, "NULL", !rwkv_eval_texts(NULL, states, tokens, lengths, 1, NULL, NULL, NULL));
    FAILS_WITH(NULL, "NULL", !rwkv_score_texts(NULL, states, tokens, tokens, lengths, 1, scores, 0, NULL, NULL));
    FAILS_WITH(NULL, "NULL", !rwkv_embed_texts(NULL, tokens, lengths, 1, packed, NULL, NULL));
    FAILS_WITH(NULL, "NULL", rwkv_get_identity(NULL, identity, sizeof identity) == RWKV_FAILED);
    FAILS_WITH(NULL, "NULL", rwkv_sampler_is_finished(NULL) || true);
    for (i = 0; i < 2; i++) rwkv_state_free(states[i]);
    rwkv_state_free(same);
    free(packed);
}

static void test_templates(struct rwkv_context * ctx) {
    const char * roles[] = {"system", "user", "assistant", "user"};
    const char * contents[] = {"Be brief.", "Hello\r\n\n\nyou ", "Hi.", "Why?"};
    const char * g1 = "System: Be brief.\n\nUser: Hello\nyou\n\nAssistant: Hi.\n\nUser: Why?\n\nAssistant:";
    char text[512];
    size_t length = rwkv_apply_template(ctx, NULL, NULL, roles, contents, 4, text, sizeof text);
    CHECK(length == strlen(g1) && strcmp(text, g1) == 0);
    CHECK(rwkv_apply_template(ctx, "g1", NULL, roles, contents, 4, NULL, 0) == length);
    CHECK(rwkv_apply_template(ctx, "g1", "on", roles + 3, contents + 3, 1, text, sizeof text) > 0);
    CHECK(strcmp(text, "User: Why?\n\nAssistant: <think") == 0);
    /* The answer goes on from what is there. */
    CHECK(rwkv_apply_template(ctx, "g1", NULL, roles + 1, contents + 1, 2, text, sizeof text) > 0);
    CHECK(strcmp(text, "User: Hello\nyou\n\nAssistant: Hi.") == 0);
    CHECK(rwkv_apply_template(ctx, "user = \"<{text}>\"\nassistant = \"=\"\nstop = \"<\"", NULL, roles + 3,
        contents + 3, 1, text, sizeof text) == 7 && strcmp(text, "<Why?>=") == 0);
    CHECK(rwkv_get_template_stop_count(ctx, NULL) == 2 && rwkv_get_template_stop_count(ctx, "none") == 0);
    CHECK(rwkv_get_template_stop(ctx, "g1", 0, text, sizeof text) == 7 && strcmp(text, "\n\nUser:") == 0);
    FAILS_WITH(ctx, "2 stop strings", rwkv_get_template_stop(ctx, "g1", 2, text, sizeof text) == RWKV_FAILED);
    FAILS_WITH(ctx, "there are g1", rwkv_get_template_stop_count(ctx, "chatml") == RWKV_FAILED);
    FAILS_WITH(ctx, "no place for a system", rwkv_apply_template(ctx, "raven", 0, roles, contents, 1, 0, 0) == RWKV_FAILED);
    FAILS_WITH(ctx, "thinking 'hard'", rwkv_apply_template(ctx, 0, "hard", roles, contents, 1, 0, 0) == RWKV_FAILED);
    roles[1] = "critic";
    FAILS_WITH(ctx, "role 'critic'", rwkv_apply_template(ctx, 0, 0, roles, contents, 2, 0, 0) == RWKV_FAILED);
    roles[1] = NULL;
    FAILS_WITH(ctx, "roles[1] is NULL", rwkv_apply_template(ctx, 0, 0, roles, contents, 2, 0, 0) == RWKV_FAILED);
    FAILS_WITH(ctx, "contents is NULL", rwkv_apply_template(ctx, 0, 0, roles, NULL, 1, 0, 0) == RWKV_FAILED);
    FAILS_WITH(NULL, "NULL", rwkv_apply_template(NULL, 0, 0, roles, contents, 1, 0, 0) == RWKV_FAILED);
    FAILS_WITH(NULL, "NULL", rwkv_get_template_stop_count(NULL, 0) == RWKV_FAILED);
    FAILS_WITH(NULL, "NULL", rwkv_get_template_stop(NULL, 0, 0, 0, 0) == RWKV_FAILED);
}

struct record {
    int tokens;
    double logprob;
    uint32_t last;
};

static void observe(uint32_t token, double value, const float * logits, void * user) {
    struct record * record = (struct record *) user;
    CHECK(fabs(value - logprob(logits, token)) < 1e-9 && value <= 0);
    record->tokens++;
    record->logprob += value;
    record->last = token;
}

static bool receive(const char * text, size_t length, void * user) { return text && user && length > 0; }

static void test_observing(struct rwkv_context * ctx) {
    struct rwkv_state * state = rwkv_state_new(ctx);
    struct rwkv_sampler * sampler = rwkv_sampler_new(ctx, NULL);
    struct record record;
    enum rwkv_finish end;
    memset(&record, 0, sizeof record);
    end = rwkv_generate_observed(ctx, state, sampler, "hello", 5, 30, NULL, 0, observe, receive, &record);
    CHECK(end == RWKV_FINISH_LENGTH && record.tokens == 30 && record.logprob < 0 && record.last < V);
    end = rwkv_generate_observed(ctx, state, sampler, "hello", 5, 3, NULL, 0, NULL, receive, &record);
    CHECK(end == RWKV_FINISH_LENGTH && record.tokens == 30);
    end = rwkv_generate_observed(ctx, state, sampler, "hello", 5, 3, NULL, 0, observe, NULL, &record);
    FAILS_WITH(ctx, "receive is NULL", end == RWKV_FINISH_ERROR);
    end = rwkv_generate_observed(NULL, state, sampler, "hello", 5, 3, NULL, 0, observe, receive, &record);
    FAILS_WITH(NULL, "NULL", end == RWKV_FINISH_ERROR);
    rwkv_sampler_free(sampler);
    rwkv_state_free(state);
}

static bool append(const char * text, size_t length, void * user) {
    char * end = (char *) user;
    CHECK(strlen(end) + length < 512);
    memcpy(end + strlen(end), text, length + 1);
    return true;
}

static void test_drafts(struct rwkv_context * ctx, const char * model) {
    const char * drafts[] = {NULL, "ngram", model};
    struct rwkv_state * states[3];
    char texts[3][512];
    size_t i, passes, drafted, accepted;
    for (i = 0; i < 3; i++) {
        struct rwkv_sampler * sampler = rwkv_sampler_new(ctx, NULL);
        states[i] = rwkv_state_new(ctx);
        memset(texts[i], 0, sizeof texts[i]);
        CHECK(rwkv_sampler_set(sampler, "temperature", 0) && rwkv_sampler_set_bias(sampler, 0, -INFINITY));
        CHECK(rwkv_set_drafts(ctx, drafts[i], 4));
        CHECK(rwkv_generate(ctx, states[i], sampler, "hello", 5, 40, NULL, 0, append, texts[i]) == RWKV_FINISH_LENGTH);
        CHECK(rwkv_generate(ctx, states[i], sampler, NULL, 0, 20, NULL, 0, append, texts[i]) == RWKV_FINISH_LENGTH);
        CHECK(rwkv_get_drafts(ctx, &passes, &drafted, &accepted) && accepted <= drafted && passes <= 60);
        CHECK(i == 0 ? passes == 0 && drafted == 0 : passes > 0);
        CHECK(i != 2 || (accepted > 0 && passes < 60));
        CHECK(strcmp(texts[i], texts[0]) == 0);
        rwkv_sampler_free(sampler);
    }
    for (i = 1; i < 3; i++) {
        size_t size = rwkv_state_save_memory(states[0], NULL, 0, NULL, 0);
        uint8_t * packed = (uint8_t *) malloc(2 * size);
        CHECK(packed != NULL && rwkv_state_save_memory(states[0], NULL, 0, packed, size) == size);
        CHECK(rwkv_state_save_memory(states[i], NULL, 0, packed + size, size) == size);
        CHECK(memcmp(packed, packed + size, size) == 0);
        free(packed);
    }
    for (i = 0; i < 3; i++) rwkv_state_free(states[i]);
    CHECK(rwkv_set_drafts(ctx, NULL, 0) && rwkv_get_drafts(ctx, NULL, NULL, NULL));
    FAILS_WITH(ctx, "17 tokens", !rwkv_set_drafts(ctx, "ngram", 17));
    FAILS_WITH(ctx, "missing", !rwkv_set_drafts(ctx, "missing.rwkv", 0));
    FAILS_WITH(NULL, "NULL", !rwkv_set_drafts(NULL, "ngram", 0));
    FAILS_WITH(NULL, "NULL", !rwkv_get_drafts(NULL, NULL, NULL, NULL));
}

/* Signals that somebody handles, as bits. */
static unsigned long handled(void) {
    unsigned long bits = 0;
    struct sigaction action;
    int number;
    for (number = 1; number < 32; number++) {
        if (sigaction(number, NULL, &action) == 0 && action.sa_handler != SIG_DFL) bits |= 1ul << number;
    }
    return bits;
}

int main(int argc, char ** argv) {
    struct rwkv_context * ctx, * other;
    if (argc != 4) return 64;
    CHECK(handled() == 0);
    /* The caller has set RWKV_PRINT_ERRORS. */
    CHECK(rwkv_get_print_errors(NULL));
    rwkv_set_print_errors(NULL, false);
    ctx = rwkv_open(argv[1], 2, NULL, NULL);
    other = rwkv_open(argv[2], 1, NULL, NULL);
    CHECK(ctx != NULL && other != NULL && !rwkv_get_print_errors(ctx));
    CHECK(handled() == 1ul << SIGBUS);
    test_each(ctx, other);
    test_vectors(ctx, argv[3]);
    test_many(ctx);
    test_templates(ctx);
    test_observing(ctx);
    test_drafts(ctx, argv[1]);
    rwkv_free(ctx);
    rwkv_free(other);
    printf("%d failures\n", failures);
    return failures ? 1 : 0;
}
