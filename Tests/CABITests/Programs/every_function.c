// SPDX-License-Identifier: MIT
/* Calls every function of rwkv.h, with good and with bad arguments; sampling and generation are in generation.c, what is
 * for whole texts in texts.c, schedulers in scheduler.c. C99 and C++.
 *
 *     every_function MODEL OTHER_MODEL HYBRID_MODEL CHECKPOINT FOLDER
 *
 * All models are byte-level with 256 tokens. Writes the logits after "hello world" to FOLDER/logits. */
#include "check.h"

#include <math.h>
#include <stdlib.h>

static const char * path_in(const char * folder, const char * name) {
    static char path[2048];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static float * floats(size_t count) { return (float *) calloc(count + 1, sizeof(float)); }

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
    FAILS_WITH(NULL, "1025", rwkv_open("/dev/null", 1025, NULL, NULL) == NULL);
    FAILS(NULL, rwkv_open_with_memory_limit(NULL, 0, 0, NULL, NULL) == NULL);
    FAILS_WITH(NULL, "1025", rwkv_open_with_memory_limit("/dev/null", 1025, 0, NULL, NULL) == NULL);
    FAILS(NULL, !rwkv_quantize_model_file(NULL, NULL, NULL));
    FAILS(NULL, !rwkv_quantize_model_file("/nonexistent", "/tmp/x", "Q4_0"));
    FAILS(NULL, !rwkv_quantize_model_file("/nonexistent", "/tmp/x", "Q9_9"));
    FAILS(NULL, !rwkv_quantize_with_vocabulary(NULL, NULL, NULL, NULL));
    FAILS(NULL, !rwkv_quantize_with_vocabulary("/nonexistent", "/tmp/x", "Q4_0", "bytes"));
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
    FAILS(NULL, !rwkv_sampler_set_json_schema(NULL, "{}"));
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
/* The same seed draws the same tokens, another one others. */
static void test_seeds(struct rwkv_context * ctx) {
    struct rwkv_sampler_options options;
    float * logits = floats(rwkv_get_logits_len(ctx));
    uint32_t drawn[3][8];
    int s, i;
    for (s = 0; s < 3; s++) {
        struct rwkv_sampler * sampler;
        rwkv_sampler_options_init(&options);
        options.seed = s == 2 ? 8 : 7;
        sampler = rwkv_sampler_new(ctx, &options);
        for (i = 0; i < 8; i++) CHECK(rwkv_sampler_sample(sampler, logits, rwkv_get_logits_len(ctx), &drawn[s][i]));
        rwkv_sampler_free(sampler);
    }
    CHECK(memcmp(drawn[0], drawn[1], sizeof drawn[0]) == 0);
    CHECK(memcmp(drawn[0], drawn[2], sizeof drawn[0]) != 0);
    free(logits);
}

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
    /* Vectors one by one are the same as together. */
    CHECK(rwkv_state_reset(alone) && rwkv_state_eval_vectors(ctx, alone, vectors, 2, expected));
    CHECK(rwkv_state_reset(alone) && rwkv_state_eval_vectors(ctx, alone, vectors, 1, logits));
    CHECK(memcmp(logits, expected, v * sizeof(float)) != 0);
    CHECK(rwkv_state_eval_vectors(ctx, alone, vectors + d, 1, logits));
    CHECK(memcmp(logits, expected, v * sizeof(float)) == 0);
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
    CHECK(rwkv_quantize_with_vocabulary(checkpoint, path_in(folder, "quantized"), "int8", "bytes"));
    ctx = rwkv_init_from_file(path_in(folder, "quantized"), 2, 0);
    CHECK(ctx != NULL && rwkv_encode(ctx, "abc", 3, NULL, 0) == 3);
    rwkv_free(ctx);
    FAILS(NULL, !rwkv_quantize_with_vocabulary(checkpoint, path_in(folder, "quantized"), "int8", "/nonexistent"));
    FAILS(NULL, !rwkv_quantize_model_file(checkpoint, NULL, "Q4_0"));
    FAILS(NULL, !rwkv_quantize_model_file(checkpoint, "/nonexistent/x", "Q4_0"));
}

/* As many threads as are allowed, and one more. */
static void test_thread_counts(const char * path) {
    struct rwkv_context * ctx = rwkv_open(path, 1024, NULL, NULL), * clone = rwkv_clone_context(ctx, 1024);
    CHECK(ctx != NULL && clone != NULL);
    rwkv_free(clone);
    FAILS_WITH(ctx, "1025", rwkv_clone_context(ctx, 1025) == NULL);
    rwkv_free(ctx);
    FAILS_WITH(NULL, "1025", rwkv_init_from_file(path, 1025, 0) == NULL);
}

static void test_models(char ** argv) {
    struct rwkv_context * ctx, * other, * hybrid;
    ctx = rwkv_init_from_file(argv[1], 2, 99);
    other = rwkv_open(argv[2], 1, NULL, NULL);
    hybrid = rwkv_open(argv[3], 2, NULL, NULL);
    CHECK(ctx != NULL && other != NULL && hybrid != NULL && rwkv_get_last_error(NULL) == RWKV_ERROR_NONE);
    test_settings(ctx);
    test_buffers(ctx, argv[5]);
    test_information(ctx, argv[1]);
    test_text(ctx);
    test_seeds(ctx);
    test_states(ctx, other, argv[5]);
    test_states(other, ctx, argv[5]);
    test_states(hybrid, ctx, argv[5]);
    test_batches(ctx);
    test_batches(hybrid);
    test_hybrid(hybrid);
    rwkv_free(ctx);
    rwkv_free(ctx);
    rwkv_free(other);
    rwkv_free(hybrid);
}

int main(int argc, char ** argv) {
    if (argc != 6) return 64;
    test_null();
    test_thread_counts(argv[1]);
    test_models(argv);
    test_quantization(argv[4], argv[5]);
    printf("%d failures\n", failures);
    return failures ? 1 : 0;
}
