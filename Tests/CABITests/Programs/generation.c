// SPDX-License-Identifier: MIT
/* Sampling and generation, with good and with bad arguments. C99 and C++.
 *
 *     generation MODEL
 *
 * The model is byte-level with 256 tokens. */
#include "check.h"

#include <math.h>
#include <stdlib.h>

static float * floats(size_t count) { return (float *) calloc(count + 1, sizeof(float)); }

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
    char stop[2] = {0, 0}, schema[40];

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
    /* A schema of which one text is. */
    banned = rwkv_sampler_new(ctx, NULL);
    CHECK(rwkv_sampler_set_json_schema(banned, "{\"type\": \"array\", \"maxItems\": 0}"));
    CHECK(rwkv_sampler_set_json_schema(banned, NULL) && rwkv_sampler_set_json_schema(banned, "{\"const\": [12]}"));
    FAILS(NULL, !rwkv_sampler_set_json_schema(banned, "{") && !rwkv_sampler_set_json_schema(banned, "{\"pattern\": 1}"));
    FAILS(NULL, !rwkv_sampler_set_json_schema(banned, "{\"type\": \"string\"}"));
    for (i = 0; i < 40 && !rwkv_sampler_is_finished(banned); i++) {
        CHECK(rwkv_sampler_sample(banned, logits, 256, &a));
        if (a > ' ') schema[most++] = (char) a;
    }
    CHECK(most == 4 && memcmp(schema, "[12]", 4) == 0);
    FAILS(NULL, !rwkv_sampler_set_json_schema(banned, NULL));
    rwkv_sampler_free(banned);
    most = 0;
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

    /* Whoever stops is given what was held back, here the beginning of a second character. */
    banned = rwkv_sampler_new(ctx, &options);
    CHECK(rwkv_sampler_set_bias(banned, 0xC3, 1e6f));
    memset(&first, 0, sizeof first);
    first.ctx = ctx;
    first.state = state;
    first.most = 1;
    CHECK(rwkv_generate(ctx, state, banned, "hello", 5, 24, NULL, 0, receive, &first) == RWKV_FINISH_CANCELLED);
    CHECK(first.pieces == 2 && strcmp(first.text, "\xEF\xBF\xBD\xEF\xBF\xBD") == 0);
    rwkv_sampler_free(banned);

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
    /* Logits of before are not those of what the state has read since. */
    CHECK(rwkv_state_eval(ctx, state, hello, 5, logits, NULL, NULL));
    CHECK(rwkv_state_eval(ctx, state, hello, 1, NULL, NULL, NULL));
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

int main(int argc, char ** argv) {
    struct rwkv_context * ctx;
    if (argc != 2) return 64;
    ctx = rwkv_open(argv[1], 2, NULL, NULL);
    CHECK(ctx != NULL);
    test_generation(ctx);
    rwkv_free(ctx);
    printf("%d failures\n", failures);
    return failures ? 1 : 0;
}
