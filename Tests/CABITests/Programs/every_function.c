// SPDX-License-Identifier: MIT
/* Calls every function of rwkv.h, with good and with bad arguments. C99 and C++.
 *
 *     every_function MODEL OTHER_MODEL HYBRID_MODEL CHECKPOINT FOLDER
 *
 * All models are byte-level with 256 tokens. Writes the logits after "hello world" to FOLDER/logits. */
#include "rwkv.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition) check((condition) ? 1 : 0, #condition, __LINE__)

static int failures = 0;

static void check(int holds, const char * condition, int line) {
    if (holds) return;
    fprintf(stderr, "line %d: %s\n", line, condition);
    failures++;
}

/* The call failed, and both the flags and the text of the error say so. */
static void check_error(struct rwkv_context * ctx, int failed, int line) {
    char text[512];
    check(failed, "the call fails", line);
    check(rwkv_get_last_error_text(ctx, text, sizeof text) > 5, "the error has a text", line);
    check(rwkv_get_last_error(ctx) != RWKV_ERROR_NONE, "the error has flags", line);
    check(rwkv_get_last_error(ctx) == RWKV_ERROR_NONE, "which are cleared", line);
}
#define FAILS(ctx, condition) check_error((ctx), (condition) ? 1 : 0, __LINE__)

static const char * path_in(const char * folder, const char * name) {
    static char path[2048];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static float * floats(size_t count) { return (float *) calloc(count + 1, sizeof(float)); }

static const uint32_t hello[11] = {'h', 'e', 'l', 'l', 'o', ' ', 'w', 'o', 'r', 'l', 'd'};

static bool count_calls(double done, void * user) {
    *(double *) user = done;
    return true;
}

static bool cancel(double done, void * user) { return done > 2 || user == &failures; }

/* ---- part 1 ---- */

static void test_buffers(struct rwkv_context * ctx, const char * folder) {
    size_t n = rwkv_get_state_len(ctx), v = rwkv_get_logits_len(ctx), i;
    float * state = floats(n), * other = floats(n), * logits = floats(v), * expected = floats(v);
    struct rwkv_context * original, * clone;
    FILE * file;
    CHECK(rwkv_get_n_vocab(ctx) == 256 && v == 256 && rwkv_get_n_embed(ctx) > 0 && rwkv_get_n_layer(ctx) > 0);
    rwkv_init_state(ctx, state);
    for (i = 0; i < 11; i++) CHECK(rwkv_eval(ctx, hello[i], state, state, expected));
    file = fopen(path_in(folder, "logits"), "wb");
    CHECK(file != NULL && fwrite(expected, sizeof(float), v, file) == v);
    if (file) fclose(file);

    CHECK(rwkv_eval_sequence(ctx, hello, 11, NULL, other, logits));
    CHECK(memcmp(other, state, n * sizeof(float)) == 0 && memcmp(logits, expected, v * sizeof(float)) == 0);
    CHECK(rwkv_eval_sequence_in_chunks(ctx, hello, 11, 3, NULL, other, logits));
    CHECK(memcmp(other, state, n * sizeof(float)) == 0 && memcmp(logits, expected, v * sizeof(float)) == 0);
    /* Outputs that nobody wants, and a state that stays where it is. */
    CHECK(rwkv_eval_sequence(ctx, hello, 10, NULL, other, NULL));
    CHECK(rwkv_eval(ctx, hello[10], other, NULL, logits));
    CHECK(memcmp(logits, expected, v * sizeof(float)) == 0);
    CHECK(rwkv_eval(ctx, hello[10], other, other, NULL) && memcmp(other, state, n * sizeof(float)) == 0);
    CHECK(rwkv_eval(ctx, hello[0], NULL, NULL, NULL));

    /* A clone goes on when its original is freed. */
    original = rwkv_clone_context(ctx, 1);
    clone = rwkv_clone_context(original, 2);
    CHECK(clone != NULL && clone != original && rwkv_gpu_offload_layers(clone, 10));
    rwkv_free(original);
    CHECK(rwkv_eval_sequence(clone, hello, 11, NULL, NULL, logits));
    CHECK(memcmp(logits, expected, v * sizeof(float)) == 0);
    rwkv_free(clone);

    /* Without tokens nothing is read, and nothing written. */
    memset(logits, 0, v * sizeof(float));
    CHECK(rwkv_eval_sequence(ctx, NULL, 64, NULL, other, logits) && logits[0] == 0 && logits[v - 1] == 0);
    CHECK(rwkv_eval_sequence_in_chunks(ctx, NULL, 64, 16, NULL, other, logits) && logits[0] == 0);
    CHECK(rwkv_get_state_buffer_element_count(ctx) == n && rwkv_get_logits_buffer_element_count(ctx) == v);
    /* The next evaluation forgets an error that nobody asked for. */
    CHECK(!rwkv_eval(ctx, 256, NULL, NULL, NULL) && rwkv_eval(ctx, 1, NULL, NULL, NULL));
    CHECK(rwkv_get_last_error(ctx) == RWKV_ERROR_NONE);

    FAILS(ctx, !rwkv_eval(ctx, 256, NULL, state, logits));
    FAILS(ctx, !rwkv_eval_sequence(ctx, hello, 0, NULL, state, logits));
    FAILS(ctx, !rwkv_eval_sequence_in_chunks(ctx, hello, 11, 0, NULL, state, logits));
    FAILS(ctx, rwkv_clone_context(ctx, 0) == NULL);
    rwkv_init_state(ctx, NULL);
    FAILS(ctx, 1);
    /* Freed: an error from now on, and no harm in freeing it again. */
    rwkv_free(clone);
    FAILS(NULL, !rwkv_eval(clone, 1, NULL, NULL, NULL));
    free(state);
    free(other);
    free(logits);
    free(expected);
}

static void test_null(void) {
    float x[4];
    uint32_t token = 1;
    rwkv_free(NULL);
    rwkv_state_free(NULL);
    rwkv_sampler_free(NULL);
    rwkv_init_state(NULL, x);
    FAILS(NULL, 1);
    FAILS(NULL, !rwkv_eval(NULL, 1, NULL, x, x));
    FAILS(NULL, !rwkv_eval_sequence(NULL, &token, 1, NULL, x, x));
    FAILS(NULL, !rwkv_eval_sequence_in_chunks(NULL, &token, 1, 1, NULL, x, x));
    FAILS(NULL, rwkv_get_n_vocab(NULL) == 0);
    FAILS(NULL, rwkv_get_n_embed(NULL) == 0);
    FAILS(NULL, rwkv_get_n_layer(NULL) == 0);
    FAILS(NULL, rwkv_get_state_len(NULL) == 0);
    FAILS(NULL, rwkv_get_logits_len(NULL) == 0);
    FAILS(NULL, rwkv_get_state_buffer_element_count(NULL) == 0);
    FAILS(NULL, rwkv_get_logits_buffer_element_count(NULL) == 0);
    FAILS(NULL, rwkv_clone_context(NULL, 1) == NULL);
    FAILS(NULL, !rwkv_gpu_offload_layers(NULL, 1));
    FAILS(NULL, rwkv_init_from_file(NULL, 1, 0) == NULL);
    FAILS(NULL, rwkv_init_from_file("/nonexistent", 1, 0) == NULL);
    FAILS(NULL, rwkv_init_from_file("/dev/null", 0, 0) == NULL);
    FAILS(NULL, rwkv_init_from_file("/dev/null", 1, 0) == NULL);
    FAILS(NULL, rwkv_open(NULL, 0, NULL, NULL) == NULL);
    FAILS(NULL, rwkv_open("/dev/null", 5000, NULL, NULL) == NULL);
    FAILS(NULL, rwkv_open_with_memory_limit(NULL, 0, 0, NULL, NULL) == NULL);
    FAILS(NULL, rwkv_open_with_memory_limit("/dev/null", 5000, 0, NULL, NULL) == NULL);
    FAILS(NULL, !rwkv_quantize_model_file(NULL, NULL, NULL));
    FAILS(NULL, !rwkv_quantize_model_file("/nonexistent", "/tmp/x", "Q4_0"));
    FAILS(NULL, !rwkv_quantize_model_file("/nonexistent", "/tmp/x", "Q9_9"));
    FAILS(NULL, rwkv_get_architecture(NULL, NULL, 0) == RWKV_FAILED);
    FAILS(NULL, rwkv_get_name(NULL, NULL, 0) == RWKV_FAILED);
    FAILS(NULL, rwkv_get_n_head(NULL) == 0);
    FAILS(NULL, rwkv_get_weight_size(NULL) == RWKV_FAILED);
    FAILS(NULL, rwkv_get_streamed_size(NULL) == RWKV_FAILED);
    FAILS(NULL, rwkv_get_metadata_count(NULL) == RWKV_FAILED);
    FAILS(NULL, rwkv_get_metadata_key(NULL, 0, NULL, 0) == RWKV_FAILED);
    FAILS(NULL, rwkv_get_metadata(NULL, "x", NULL, 0) == RWKV_FAILED);
    FAILS(NULL, rwkv_encode(NULL, "x", 1, NULL, 0) == RWKV_FAILED);
    FAILS(NULL, rwkv_decode(NULL, &token, 1, NULL, 0) == RWKV_FAILED);
    FAILS(NULL, rwkv_get_token_bytes(NULL, 1, NULL, 0) == RWKV_FAILED);
    FAILS(NULL, rwkv_state_new(NULL) == NULL);
    FAILS(NULL, rwkv_state_clone(NULL) == NULL);
    FAILS(NULL, !rwkv_state_reset(NULL));
    FAILS(NULL, rwkv_state_get_size(NULL) == RWKV_FAILED);
    FAILS(NULL, !rwkv_state_eval(NULL, NULL, &token, 1, NULL, NULL, NULL));
    FAILS(NULL, !rwkv_state_eval_vectors(NULL, NULL, x, 1, NULL));
    FAILS(NULL, !rwkv_eval_batch(NULL, NULL, &token, 1, NULL));
    FAILS(NULL, !rwkv_get_hidden(NULL, x));
    FAILS(NULL, !rwkv_state_save(NULL, "/tmp/x", NULL, 0));
    FAILS(NULL, rwkv_state_save_memory(NULL, NULL, 0, NULL, 0) == RWKV_FAILED);
    FAILS(NULL, rwkv_state_load(NULL, "/tmp/x") == NULL);
    FAILS(NULL, rwkv_state_load_memory(NULL, x, 4) == NULL);
    FAILS(NULL, rwkv_state_get_tokens(NULL, NULL, 0) == RWKV_FAILED);
    FAILS(NULL, !rwkv_sampler_options_init(NULL));
    FAILS(NULL, rwkv_sampler_new(NULL, NULL) == NULL);
    FAILS(NULL, !rwkv_sampler_set(NULL, "top_p", 1));
    FAILS(NULL, !rwkv_sampler_set_bias(NULL, 1, 1));
    FAILS(NULL, !rwkv_sampler_sample(NULL, x, 4, &token));
    FAILS(NULL, !rwkv_sampler_reset(NULL));
    FAILS(NULL, rwkv_generate(NULL, NULL, NULL, "", 0, 1, NULL, 0, NULL, NULL) == RWKV_FINISH_ERROR);
}

static void test_settings(struct rwkv_context * ctx) {
    CHECK(!rwkv_get_print_errors(NULL) && !rwkv_get_print_errors(ctx));
    rwkv_set_print_errors(NULL, true);
    rwkv_set_print_errors(ctx, true);
    CHECK(rwkv_get_print_errors(NULL) && rwkv_get_print_errors(ctx));
    rwkv_set_print_errors(NULL, false);
    rwkv_set_print_errors(ctx, false);
    CHECK(rwkv_get_last_error(ctx) == RWKV_ERROR_NONE);
    CHECK(rwkv_version_number() == RWKV_VERSION_NUMBER);
    CHECK(strstr(rwkv_get_system_info_string(), "librwkv") != NULL);
}

/* ---- part 2 ---- */

static void test_information(struct rwkv_context * ctx, const char * model) {
    char text[64];
    size_t i, count = rwkv_get_metadata_count(ctx);
    double done = 0;
    struct rwkv_context * another = rwkv_open(model, 0, count_calls, &done);
    CHECK(another != NULL && done > 0);
    rwkv_free(another);
    FAILS(NULL, rwkv_open(model, 1, cancel, NULL) == NULL);
    FAILS(NULL, rwkv_open_with_memory_limit(model, 1, 0, cancel, NULL) == NULL);
    /* The next opening forgets an error that nobody asked for. */
    CHECK(rwkv_open("/nonexistent", 1, NULL, NULL) == NULL);
    another = rwkv_open_with_memory_limit(model, 0, 0, count_calls, &done);
    CHECK(another != NULL && rwkv_get_last_error(NULL) == RWKV_ERROR_NONE);
    CHECK(rwkv_get_streamed_size(another) == 0 && rwkv_get_weight_size(another) > 1000);
    rwkv_free(another);
    FAILS(NULL, rwkv_open_with_memory_limit(model, 1, 1 << 20, NULL, NULL) == NULL);
    another = rwkv_open_with_memory_limit(model, 1, (size_t) -1, NULL, NULL);
    CHECK(another != NULL && rwkv_get_streamed_size(another) == 0);
    rwkv_free(another);
    CHECK(rwkv_get_name(ctx, text, sizeof text) == 5 && strcmp(text, "model") == 0);
    CHECK(rwkv_get_n_head(ctx) > 0 && rwkv_get_n_embed(ctx) % rwkv_get_n_head(ctx) == 0);
    CHECK(rwkv_get_architecture(ctx, text, sizeof text) == 1 && strcmp(text, "7") == 0);
    CHECK(count > 5);
    for (i = 0; i < count; i++) {
        CHECK(rwkv_get_metadata_key(ctx, i, text, sizeof text) < sizeof text);
        CHECK(rwkv_get_metadata(ctx, text, NULL, 0) != RWKV_FAILED);
    }
    CHECK(rwkv_get_metadata(ctx, "rwkv.vocabulary", text, sizeof text) == 3 && strcmp(text, "256") == 0);
    /* A text that does not fit is cut, and its whole length returned. */
    CHECK(rwkv_get_metadata(ctx, "rwkv.vocabulary", text, 3) == 3 && strcmp(text, "25") == 0);
    FAILS(ctx, rwkv_get_metadata(ctx, "no such key", text, sizeof text) == RWKV_FAILED);
    FAILS(ctx, rwkv_get_metadata(ctx, NULL, text, sizeof text) == RWKV_FAILED);
    FAILS(ctx, rwkv_get_metadata_key(ctx, count, text, sizeof text) == RWKV_FAILED);
    FAILS(ctx, rwkv_get_architecture(ctx, NULL, 5) == RWKV_FAILED);
}

static void test_text(struct rwkv_context * ctx) {
    uint32_t tokens[16];
    char text[16];
    CHECK(rwkv_encode(ctx, "hello world", 11, tokens, 16) == 11 && memcmp(tokens, hello, sizeof hello) == 0);
    CHECK(rwkv_encode(ctx, "hello world", 11, NULL, 0) == 11);
    CHECK(rwkv_encode(ctx, NULL, 0, tokens, 16) == 0);
    CHECK(rwkv_decode(ctx, hello, 11, text, sizeof text) == 11 && strcmp(text, "hello world") == 0);
    CHECK(rwkv_decode(ctx, hello, 11, text, 6) == 11 && strcmp(text, "hello") == 0);
    CHECK(rwkv_decode(ctx, NULL, 0, text, sizeof text) == 0 && text[0] == 0);
    CHECK(rwkv_get_token_bytes(ctx, 'h', text, sizeof text) == 1 && strcmp(text, "h") == 0);
    CHECK(rwkv_get_token_bytes(ctx, 0xE4, text, sizeof text) == 1 && (unsigned char) text[0] == 0xE4);
    FAILS(ctx, rwkv_get_token_bytes(ctx, 256, text, sizeof text) == RWKV_FAILED);
    FAILS(ctx, rwkv_encode(ctx, NULL, 3, tokens, 16) == RWKV_FAILED);
    FAILS(ctx, rwkv_encode(ctx, "abc", 3, NULL, 16) == RWKV_FAILED);
    tokens[0] = 300;
    FAILS(ctx, rwkv_decode(ctx, tokens, 1, text, sizeof text) == RWKV_FAILED);
}

/* States of any version: evaluation, copies, and the ways out and in. */
static void test_states(struct rwkv_context * ctx, struct rwkv_context * other, const char * folder) {
    size_t v = rwkv_get_n_vocab(ctx), d = rwkv_get_n_embed(ctx), size;
    float * logits = floats(v), * expected = floats(v), * hidden = floats(d);
    struct rwkv_state * state = rwkv_state_new(ctx), * clone, * loaded;
    uint32_t tokens[16], bad = 256;
    double done = 0;
    char * memory;

    CHECK(state != NULL);
    FAILS(ctx, !rwkv_get_hidden(ctx, NULL));
    CHECK(rwkv_state_eval(ctx, state, hello, 10, NULL, count_calls, &done) && done == 1);
    clone = rwkv_state_clone(state);
    CHECK(clone != NULL && rwkv_state_get_size(clone) >= 4 * v);
    CHECK(rwkv_state_save(state, path_in(folder, "state"), hello, 10));
    size = rwkv_state_save_memory(state, NULL, 0, NULL, 0);
    memory = (char *) malloc(size);
    CHECK(size > 64 && memory && rwkv_state_save_memory(state, NULL, 0, memory, size) == size);
    CHECK(rwkv_state_eval(ctx, state, hello + 10, 1, expected, NULL, NULL));
    CHECK(rwkv_get_hidden(ctx, hidden) && isfinite(hidden[0]) && isfinite(hidden[d - 1]));

    CHECK(rwkv_state_eval(ctx, clone, hello + 10, 1, logits, NULL, NULL));
    CHECK(memcmp(logits, expected, v * sizeof(float)) == 0);
    loaded = rwkv_state_load(ctx, path_in(folder, "state"));
    CHECK(loaded != NULL && rwkv_state_get_tokens(loaded, tokens, 16) == 10);
    CHECK(memcmp(tokens, hello, 10 * sizeof tokens[0]) == 0 && rwkv_state_get_tokens(state, NULL, 0) == 0);
    rwkv_state_free(clone);
    clone = rwkv_state_clone(loaded);
    memset(tokens, 0, sizeof tokens);
    CHECK(rwkv_state_get_tokens(clone, tokens, 16) == 10 && memcmp(tokens, hello, 10 * sizeof tokens[0]) == 0);
    CHECK(rwkv_state_eval(ctx, loaded, hello + 10, 1, logits, NULL, NULL));
    CHECK(memcmp(logits, expected, v * sizeof(float)) == 0);
    rwkv_state_free(loaded);
    loaded = rwkv_state_load_memory(ctx, memory, size);
    CHECK(loaded != NULL && rwkv_state_eval(ctx, loaded, hello + 10, 1, logits, NULL, NULL));
    CHECK(memcmp(logits, expected, v * sizeof(float)) == 0);
    CHECK(rwkv_state_reset(loaded) && rwkv_state_eval(ctx, loaded, hello, 11, logits, NULL, NULL));
    CHECK(memcmp(logits, expected, v * sizeof(float)) == 0);

    memory[size / 2] ^= 1;
    FAILS(ctx, rwkv_state_load_memory(ctx, memory, size) == NULL);
    FAILS(ctx, rwkv_state_load_memory(ctx, memory, 10) == NULL);
    FAILS(ctx, rwkv_state_load_memory(ctx, NULL, 10) == NULL);
    FAILS(ctx, rwkv_state_load(ctx, NULL) == NULL);
    FAILS(ctx, rwkv_state_load(ctx, "/nonexistent") == NULL);
    FAILS(other, rwkv_state_load(other, path_in(folder, "state")) == NULL);
    FAILS(NULL, !rwkv_state_save(state, NULL, NULL, 0));
    FAILS(NULL, !rwkv_state_save(state, "/nonexistent/x", NULL, 0));
    FAILS(NULL, !rwkv_state_save(state, path_in(folder, "x"), NULL, 3));
    FAILS(NULL, rwkv_state_save_memory(state, NULL, 0, NULL, 5) == RWKV_FAILED);
    FAILS(ctx, !rwkv_state_eval(ctx, state, &bad, 1, logits, NULL, NULL));
    FAILS(ctx, !rwkv_state_eval(ctx, state, NULL, 1, logits, NULL, NULL));
    FAILS(ctx, !rwkv_state_eval(ctx, NULL, hello, 1, logits, NULL, NULL));
    FAILS(ctx, !rwkv_state_eval(ctx, state, hello, 11, logits, cancel, NULL));
    FAILS(other, !rwkv_state_eval(other, state, hello, 1, logits, NULL, NULL));
    rwkv_state_free(clone);
    rwkv_state_free(clone);
    FAILS(NULL, !rwkv_state_reset(clone));
    FAILS(ctx, !rwkv_state_eval(ctx, clone, hello, 1, logits, NULL, NULL));
    /* A context is no state. */
    FAILS(NULL, !rwkv_state_reset((struct rwkv_state *) ctx));
    rwkv_state_free(state);
    rwkv_state_free(loaded);
    free(memory);
    free(logits);
    free(expected);
    free(hidden);
}

static void test_batches(struct rwkv_context * ctx) {
    size_t v = rwkv_get_n_vocab(ctx), d = rwkv_get_n_embed(ctx), i;
    float * logits = floats(3 * v), * expected = floats(v), * vectors = floats(2 * d);
    struct rwkv_state * states[3], * alone = rwkv_state_new(ctx);
    for (i = 0; i < 3; i++) states[i] = rwkv_state_new(ctx);
    CHECK(rwkv_eval_batch(ctx, states, hello, 3, NULL) && rwkv_eval_batch(ctx, states, hello + 3, 3, logits));
    for (i = 0; i < 3; i++) {
        CHECK(rwkv_state_reset(alone) && rwkv_state_eval(ctx, alone, hello + i, 1, NULL, NULL, NULL));
        CHECK(rwkv_state_eval(ctx, alone, hello + 3 + i, 1, expected, NULL, NULL));
        CHECK(memcmp(logits + i * v, expected, v * sizeof(float)) == 0);
    }
    for (i = 0; i < 2 * d; i++) vectors[i] = (float) sin((double) i);
    CHECK(rwkv_state_eval_vectors(ctx, alone, vectors, 2, expected));
    vectors[d] = (float) NAN;
    FAILS(ctx, !rwkv_state_eval_vectors(ctx, alone, vectors, 2, expected));
    FAILS(ctx, !rwkv_state_eval_vectors(ctx, alone, NULL, 2, expected));
    FAILS(ctx, !rwkv_state_eval_vectors(ctx, alone, vectors, 0, expected));
    FAILS(ctx, !rwkv_eval_batch(ctx, states, hello, 0, logits));
    FAILS(ctx, !rwkv_eval_batch(ctx, states, hello, 65, logits));
    FAILS(ctx, !rwkv_eval_batch(ctx, NULL, hello, 3, logits));
    rwkv_state_free(states[2]);
    FAILS(ctx, !rwkv_eval_batch(ctx, states, hello, 3, logits));
    states[2] = states[0];
    FAILS(ctx, !rwkv_eval_batch(ctx, states, hello, 3, logits));
    rwkv_state_free(states[0]);
    rwkv_state_free(states[1]);
    rwkv_state_free(alone);
    free(logits);
    free(expected);
    free(vectors);
}

struct reading {
    struct rwkv_context * ctx;
    struct rwkv_state * state;
    char text[512];
    int pieces, most;
};

/* Collects pieces; calls that would disturb the generation are refused. */
static bool receive(const char * text, size_t length, void * user) {
    struct reading * reading = (struct reading *) user;
    CHECK(strlen(text) <= length);
    strncat(reading->text, text, sizeof reading->text - strlen(reading->text) - 1);
    FAILS(reading->ctx, !rwkv_eval(reading->ctx, 1, NULL, NULL, NULL));
    FAILS(NULL, !rwkv_state_reset(reading->state));
    return ++reading->pieces != reading->most;
}

static void test_generation(struct rwkv_context * ctx) {
    struct rwkv_sampler_options options;
    struct rwkv_sampler * sampler, * same, * banned;
    struct rwkv_state * state = rwkv_state_new(ctx);
    struct rwkv_state * batch[2];
    struct reading first, second, whole;
    const char * stops[1];
    float * logits = floats(256), * two = floats(2 * 256);
    uint32_t a = 0, b = 1;
    int i, most = 0;
    char stop[2] = {0, 0};

    CHECK(rwkv_sampler_options_init(&options) && options.temperature == 1 && options.top_p == 0.85);
    options.seed = 7;
    options.top_k = 40;
    sampler = rwkv_sampler_new(ctx, &options);
    /* The same options, one by one. */
    same = rwkv_sampler_new(ctx, NULL);
    CHECK(rwkv_sampler_set(same, "seed", 7) && rwkv_sampler_set(same, "top_k", 40));
    CHECK(rwkv_sampler_set(same, "temperature", 1) && rwkv_sampler_set(same, "top_p", 0.85));
    CHECK(rwkv_sampler_set(same, "presence_penalty", 0) && rwkv_sampler_set(same, "penalty_decay", 0.996));
    CHECK(rwkv_sampler_set(same, "frequency_penalty", 0) && rwkv_sampler_set(same, "only_json", 0));
    CHECK(rwkv_sampler_set(same, "min_p", 0) && rwkv_sampler_set_bias(same, 1, 2) && rwkv_sampler_set_bias(same, 1, 0));
    FAILS(NULL, !rwkv_sampler_set(same, "min_p", 1.5));
    FAILS(NULL, !rwkv_sampler_set_bias(same, 1, NAN));
    FAILS(NULL, !rwkv_sampler_set(same, "top_k", 0.5));
    FAILS(NULL, !rwkv_sampler_set(same, "top_k", NAN));
    FAILS(NULL, !rwkv_sampler_set(same, "temperature", -1));
    FAILS(NULL, !rwkv_sampler_set(same, "seed", -1));
    FAILS(NULL, !rwkv_sampler_set(same, "no such option", 1) && !rwkv_sampler_set(same, NULL, 1));
    CHECK(sampler && same && rwkv_state_eval(ctx, state, hello, 11, logits, NULL, NULL));
    for (i = 0; i < 20; i++) {
        CHECK(rwkv_sampler_sample(sampler, logits, 256, &a) && rwkv_sampler_sample(same, logits, 256, &b));
        CHECK(a == b && a < 256);
    }
    /* A ban of all tokens but one, and a cut that leaves one. */
    banned = rwkv_sampler_new(ctx, NULL);
    for (i = 0; i < 256; i++) CHECK(i == 'x' || rwkv_sampler_set_bias(banned, (uint32_t) i, -INFINITY));
    CHECK(rwkv_sampler_sample(banned, logits, 256, &a) && a == 'x');
    FAILS(NULL, !rwkv_sampler_set_bias(banned, 1, 0));
    rwkv_sampler_free(banned);
    banned = rwkv_sampler_new(ctx, NULL);
    CHECK(rwkv_sampler_set(banned, "min_p", 1) && rwkv_sampler_set(banned, "temperature", 100));
    for (i = 0; i < 256; i++) most = logits[i] > logits[most] ? i : most;
    CHECK(rwkv_sampler_sample(banned, logits, 256, &a) && a == (uint32_t) most);
    rwkv_sampler_free(banned);
    CHECK(rwkv_sampler_reset(sampler));
    FAILS(NULL, !rwkv_sampler_set(sampler, "top_k", 5));
    FAILS(NULL, !rwkv_sampler_sample(sampler, NULL, 256, &a));
    FAILS(NULL, !rwkv_sampler_sample(sampler, logits, 0, &a));
    FAILS(NULL, !rwkv_sampler_sample(sampler, logits, 256, NULL));
    logits[3] = (float) NAN;
    FAILS(NULL, !rwkv_sampler_sample(sampler, logits, 256, &a));
    rwkv_sampler_free(same);
    rwkv_sampler_free(same);
    FAILS(NULL, !rwkv_sampler_reset(same));
    options.temperature = -1;
    FAILS(ctx, rwkv_sampler_new(ctx, &options) == NULL);

    /* Greedy text does not depend on how it is asked for. */
    options.temperature = 0;
    options.presence_penalty = options.frequency_penalty = 0;
    same = rwkv_sampler_new(ctx, &options);
    memset(&first, 0, sizeof first);
    memset(&second, 0, sizeof second);
    first.ctx = second.ctx = ctx;
    first.state = second.state = state;
    CHECK(rwkv_state_reset(state));
    CHECK(rwkv_generate(ctx, state, same, "hello", 5, 24, NULL, 0, receive, &first) != RWKV_FINISH_ERROR);
    whole = first;
    CHECK(rwkv_state_reset(state));
    CHECK(rwkv_state_eval(ctx, state, hello, 5, logits, NULL, NULL));
    CHECK(rwkv_generate(ctx, state, same, NULL, 0, 10, NULL, 0, receive, &second) != RWKV_FINISH_ERROR);
    CHECK(rwkv_generate(ctx, state, same, NULL, 0, 14, NULL, 0, receive, &second) != RWKV_FINISH_ERROR);
    CHECK(first.pieces > 0 && second.pieces > 0);

    second.most = second.pieces + 1;
    CHECK(rwkv_generate(ctx, state, same, "hello", 5, 24, NULL, 0, receive, &second) == RWKV_FINISH_CANCELLED);
    if (first.text[0] > 0) {
        stop[0] = first.text[0];
        stops[0] = stop;
        second.most = 0;
        CHECK(rwkv_state_reset(state));
        CHECK(rwkv_generate(ctx, state, same, "hello", 5, 24, stops, 1, receive, &second) == RWKV_FINISH_STOP);
    }
    CHECK(rwkv_state_reset(state) && rwkv_state_eval(ctx, state, hello, 5, NULL, NULL, NULL));
    FAILS(ctx, rwkv_generate(ctx, state, same, NULL, 0, 5, NULL, 0, receive, &first) == RWKV_FINISH_ERROR);

    /* After a batch, without a prompt: of its states the last one goes on, the others and those of batches without
       logits have none to begin with. */
    batch[0] = rwkv_state_new(ctx);
    batch[1] = state;
    for (i = 0; i < 3; i++) {
        memset(&first, 0, sizeof first);
        first.ctx = ctx;
        first.state = batch[i < 2 ? 1 : 0];
        CHECK(rwkv_state_reset(state) && rwkv_state_eval(ctx, state, hello, 4, NULL, NULL, NULL));
        CHECK(rwkv_eval_batch(ctx, batch, hello + 3, 2, i == 1 ? NULL : two));
        if (i == 0) {
            CHECK(rwkv_generate(ctx, state, same, NULL, 0, 24, NULL, 0, receive, &first) != RWKV_FINISH_ERROR);
            CHECK(strcmp(first.text, whole.text) == 0);
        } else {
            FAILS(ctx, rwkv_generate(ctx, first.state, same, NULL, 0, 5, NULL, 0, receive, &first) == RWKV_FINISH_ERROR);
        }
    }
    rwkv_state_free(batch[0]);
    free(two);
    FAILS(ctx, rwkv_generate(ctx, state, same, "a", 1, 5, NULL, 0, NULL, NULL) == RWKV_FINISH_ERROR);
    FAILS(ctx, rwkv_generate(ctx, state, same, "a", 1, 5, NULL, 1, receive, &first) == RWKV_FINISH_ERROR);
    FAILS(ctx, rwkv_generate(ctx, state, NULL, "a", 1, 5, NULL, 0, receive, &first) == RWKV_FINISH_ERROR);
    FAILS(ctx, rwkv_generate(ctx, NULL, same, "a", 1, 5, NULL, 0, receive, &first) == RWKV_FINISH_ERROR);
    rwkv_sampler_free(sampler);
    rwkv_sampler_free(same);
    rwkv_state_free(state);
    free(logits);
}

static void test_hybrid(struct rwkv_context * hybrid) {
    float x[256];
    FAILS(hybrid, rwkv_get_state_len(hybrid) == 0);
    FAILS(hybrid, !rwkv_eval(hybrid, 1, NULL, x, x));
    FAILS(hybrid, !rwkv_eval_sequence(hybrid, hello, 11, NULL, x, x));
    rwkv_init_state(hybrid, x);
    FAILS(hybrid, 1);
}

static void test_quantization(const char * checkpoint, const char * folder) {
    const char * formats[10] = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "int4", "int5", "int8", "FP16", "FP32"};
    struct rwkv_context * ctx = rwkv_init_from_file(checkpoint, 1, 0);
    int i;
    CHECK(ctx != NULL);
    rwkv_free(ctx);
    for (i = 0; i < 10; i++) {
        CHECK(rwkv_quantize_model_file(checkpoint, path_in(folder, "quantized"), formats[i]));
        ctx = rwkv_init_from_file(path_in(folder, "quantized"), 2, 0);
        CHECK(ctx != NULL && rwkv_eval(ctx, 1, NULL, NULL, NULL));
        rwkv_free(ctx);
    }
    FAILS(NULL, !rwkv_quantize_model_file(checkpoint, NULL, "Q4_0"));
    FAILS(NULL, !rwkv_quantize_model_file(checkpoint, "/nonexistent/x", "Q4_0"));
}

int main(int argc, char ** argv) {
    struct rwkv_context * ctx, * other, * hybrid;
    if (argc != 6) return 64;
    test_null();
    ctx = rwkv_init_from_file(argv[1], 2, 99);
    other = rwkv_open(argv[2], 1, NULL, NULL);
    hybrid = rwkv_open(argv[3], 2, NULL, NULL);
    CHECK(ctx != NULL && other != NULL && hybrid != NULL && rwkv_get_last_error(NULL) == RWKV_ERROR_NONE);
    test_settings(ctx);
    test_buffers(ctx, argv[5]);
    test_information(ctx, argv[1]);
    test_text(ctx);
    test_states(ctx, other, argv[5]);
    test_states(other, ctx, argv[5]);
    test_states(hybrid, ctx, argv[5]);
    test_batches(ctx);
    test_batches(hybrid);
    test_generation(ctx);
    test_hybrid(hybrid);
    test_quantization(argv[4], argv[5]);
    rwkv_free(ctx);
    rwkv_free(ctx);
    rwkv_free(other);
    rwkv_free(hybrid);
    printf("%d failures\n", failures);
    return failures ? 1 : 0;
}
