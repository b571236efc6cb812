// SPDX-License-Identifier: MIT
/* What rwkv.h has for embedding models, rerankers and models whose states grow, used rightly and wrongly. C99 and C++.
 *
 *     embedding EMBEDDER RERANKER LANGUAGE_MODEL GROWING_MODEL
 *
 * The tokens of the first, third and fourth are bytes. Prints the scores of three documents, one line each. */
#include "check.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

static bool cancel(double done, void * user) { return done > 2 || user == &failures; }

static void test_vectors(struct rwkv_context * embedder, struct rwkv_context * language) {
    static float first[1 << 12], second[1 << 12];
    const uint32_t tokens[5] = {104, 101, 108, 108, 111};
    const size_t lengths[1] = {5};
    size_t n = rwkv_get_n_embed(embedder), i;
    double length = 0, product = 0;
    CHECK(n <= 1 << 12 && rwkv_embed(embedder, "hello", 5, first, NULL, NULL));
    CHECK(rwkv_embed_texts_for(embedder, NULL, true, tokens, lengths, 1, second, NULL, NULL));
    CHECK(memcmp(first, second, n * sizeof(float)) == 0);
    CHECK(rwkv_embed_texts_for(embedder, "retrieval", false, tokens, lengths, 1, second, NULL, NULL));
    for (i = 0; i < n; i++) {
        length += (double) second[i] * second[i];
        product += (double) first[i] * second[i];
    }
    CHECK(length > 1.5 && fabs(product - sqrt(length)) < 1e-4);
    CHECK(rwkv_embed_texts_for(embedder, "sts", true, tokens, lengths, 1, second, NULL, NULL));
    CHECK(memcmp(first, second, n * sizeof(float)) != 0);
    CHECK(rwkv_embed_texts_for(language, NULL, false, tokens, lengths, 1, second, NULL, NULL));
    FAILS_WITH(language, "only embedding models",
          !rwkv_embed_texts_for(language, "sts", true, tokens, lengths, 1, second, NULL, NULL));
    FAILS_WITH(embedder, "expected one of retrieval",
          !rwkv_embed_texts_for(embedder, "x", true, tokens, lengths, 1, second, NULL, NULL));
    FAILS_WITH(embedder, "vectors_out is NULL",
          !rwkv_embed_texts_for(embedder, NULL, true, tokens, lengths, 1, NULL, NULL, NULL));
    FAILS_WITH(embedder, "cancelled", !rwkv_embed_texts_for(embedder, NULL, true, tokens, lengths, 1, second, cancel, NULL));
    FAILS_WITH(NULL, "NULL", !rwkv_embed_texts_for(NULL, NULL, true, tokens, lengths, 1, second, NULL, NULL));
    /* It predicts no tokens. */
    {
        struct rwkv_state * state = rwkv_state_new(embedder);
        float * logits = (float *) calloc(rwkv_get_logits_len(embedder), sizeof(float));
        FAILS_WITH(embedder, "is an embedding model", !rwkv_state_eval(embedder, state, tokens, 5, logits, NULL, NULL));
        CHECK(rwkv_state_eval(embedder, state, tokens, 5, NULL, NULL, NULL));
        free(logits);
        rwkv_state_free(state);
    }
}

static void test_scores(
    struct rwkv_context * embedder, struct rwkv_context * reranker, struct rwkv_context * language) {
    const char * const documents[3] = {"bees dance", "", "concrete hardens"};
    const size_t lengths[3] = {10, 0, 16};
    struct rwkv_state * states[3], * other = rwkv_state_new(language);
    float scores[3], again[3];
    int i;
    CHECK(rwkv_read_documents(embedder, documents, lengths, 3, states, NULL, NULL));
    CHECK(rwkv_rerank(embedder, reranker, "food?", 5, states, 3, scores, NULL, NULL));
    CHECK(scores[0] != scores[1] && scores[1] != scores[2]);
    /* The states are as they were. */
    CHECK(rwkv_rerank(embedder, reranker, "food?", 5, states, 3, again, NULL, NULL));
    CHECK(memcmp(scores, again, sizeof scores) == 0);
    for (i = 0; i < 3; i++) printf("%.9g\n", scores[i]);
    FAILS_WITH(embedder, "cancelled", !rwkv_rerank(embedder, reranker, "a", 1, states, 3, again, cancel, NULL));
    FAILS_WITH(embedder, "cancelled", !rwkv_read_documents(embedder, documents, lengths, 3, &other, cancel, NULL));
    FAILS_WITH(embedder, "is a language model", !rwkv_rerank(embedder, language, "a", 1, states, 3, again, NULL, NULL));
    FAILS_WITH(embedder, "busy", !rwkv_rerank(embedder, embedder, "a", 1, states, 3, again, NULL, NULL));
    FAILS_WITH(embedder, "the context is NULL", !rwkv_rerank(embedder, NULL, "a", 1, states, 3, again, NULL, NULL));
    FAILS_WITH(embedder, "belongs to", !rwkv_rerank(embedder, reranker, "a", 1, &other, 1, again, NULL, NULL));
    FAILS_WITH(embedder, "at least one", !rwkv_rerank(embedder, reranker, "a", 1, states, 0, again, NULL, NULL));
    FAILS_WITH(embedder, "scores_out is NULL", !rwkv_rerank(embedder, reranker, "a", 1, states, 3, NULL, NULL, NULL));
    FAILS_WITH(embedder, "states is NULL", !rwkv_rerank(embedder, reranker, "a", 1, NULL, 3, again, NULL, NULL));
    FAILS_WITH(embedder, "query is NULL", !rwkv_rerank(embedder, reranker, NULL, 1, states, 3, again, NULL, NULL));
    FAILS_WITH(NULL, "NULL", !rwkv_rerank(NULL, reranker, "a", 1, states, 3, again, NULL, NULL));
    FAILS_WITH(language, "is a language model", !rwkv_read_documents(language, documents, lengths, 3, &other, NULL, NULL));
    FAILS_WITH(embedder, "documents is NULL", !rwkv_read_documents(embedder, NULL, lengths, 3, states, NULL, NULL));
    FAILS_WITH(embedder, "lengths is NULL", !rwkv_read_documents(embedder, documents, NULL, 3, states, NULL, NULL));
    FAILS_WITH(embedder, "states_out is NULL", !rwkv_read_documents(embedder, documents, lengths, 3, NULL, NULL, NULL));
    FAILS_WITH(embedder, "at least one", !rwkv_read_documents(embedder, documents, lengths, 0, states, NULL, NULL));
    FAILS_WITH(NULL, "NULL", !rwkv_read_documents(NULL, documents, lengths, 3, states, NULL, NULL));
    for (i = 0; i < 3; i++) rwkv_state_free(states[i]);
    rwkv_state_free(other);
}

static void test_growing(const char * path, struct rwkv_context * language) {
    char text[512] = "";
    const uint32_t tokens[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    struct rwkv_context * ctx = rwkv_open_with_max_context(path, 1, SIZE_MAX, 10, NULL, NULL);
    struct rwkv_context * free_ctx = rwkv_open_with_max_context(path, 1, 0, 0, NULL, NULL);
    struct rwkv_state * state = rwkv_state_new(ctx);
    CHECK(rwkv_get_max_context(ctx) == 10 && rwkv_get_max_context(free_ctx) >= 1024);
    CHECK(rwkv_get_max_context(language) == 0);
    CHECK(rwkv_state_eval(ctx, state, tokens, 8, NULL, NULL, NULL));
    CHECK(!rwkv_state_eval(ctx, state, tokens, 3, NULL, NULL, NULL));
    CHECK(rwkv_get_last_error(ctx) == (RWKV_ERROR_CTX | RWKV_ERROR_ALLOC));
    CHECK(rwkv_get_last_error_text(ctx, text, sizeof text) > 0 && strstr(text, "10 tokens") != NULL);
    CHECK(rwkv_state_eval(ctx, state, tokens, 2, NULL, NULL, NULL));
    FAILS_WITH(NULL, "path", rwkv_open_with_max_context(NULL, 1, 0, 10, NULL, NULL) == NULL);
    rwkv_state_free(state);
    rwkv_free(free_ctx);
    rwkv_free(ctx);
}

int main(int argc, char ** argv) {
    struct rwkv_context * embedder, * reranker, * language;
    if (argc != 5) return 2;
    embedder = rwkv_open(argv[1], 2, NULL, NULL);
    reranker = rwkv_open(argv[2], 2, NULL, NULL);
    language = rwkv_open(argv[3], 1, NULL, NULL);
    CHECK(embedder != NULL && reranker != NULL && language != NULL);
    if (failures) return 1;
    test_vectors(embedder, language);
    test_scores(embedder, reranker, language);
    test_growing(argv[4], language);
    rwkv_free(embedder);
    rwkv_free(reranker);
    rwkv_free(language);
    return failures ? 1 : 0;
}
