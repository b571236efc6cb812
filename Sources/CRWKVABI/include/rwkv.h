/* SPDX-License-Identifier: MIT
 *
 * rwkv.h — the C interface of librwkv: RWKV language models of versions 4, 5, 6, 7, 7a, 7b and RWKV-X on CPUs.
 *
 * This header is the manual. What does not appear here is not exported.
 *
 * THE TWO PARTS
 *
 * Part 1 has the names, signatures and meaning of rwkv.cpp's rwkv.h, so that programs written for that library run on
 * this one. A state is a plain buffer of floats that the caller owns and passes in and out.
 *
 * Part 2 is our own: states that stay in the library, saved states, text, sampling, generation, batches. New programs
 * should use it together with rwkv_open and rwkv_free:
 *
 *     struct rwkv_context * ctx = rwkv_open("model.rwkv", 0, NULL, NULL);
 *     struct rwkv_state * state = rwkv_state_new(ctx);
 *     struct rwkv_sampler * sampler = rwkv_sampler_new(ctx, NULL);
 *     rwkv_generate(ctx, state, sampler, "The database", 12, 200, NULL, 0, print_piece, NULL);
 *
 * FILES
 *
 * Everywhere a model is opened, .rwkv files (made by rwkv-quantize) are best: weights stay quantized in memory. Other
 * checkpoints, rwkv.cpp's .bin files among them, are converted into a temporary .rwkv file in $TMPDIR (or /tmp) first,
 * as FP32 if they are FP32 and as FP16 otherwise. The file has no name while the model is open and vanishes with it.
 *
 * OBJECTS AND MEMORY
 *
 * Whoever creates an object (rwkv_init_from_file, rwkv_open, rwkv_clone_context, rwkv_state_*, rwkv_sampler_new,
 * rwkv_scheduler_new, rwkv_scheduler_next) frees it with the function of its kind. Objects may be freed in any order: a
 * state keeps its model alive. A pointer to an object is a handle, not an address: the library knows which ones are
 * alive, so a NULL, an object of another kind and one that was freed before are errors and never a crash. Freeing NULL,
 * or twice, does nothing. Buffers belong to the caller and must have the stated length; the library keeps no pointer to
 * them after a call.
 *
 * THREADS
 *
 * Every function may be called from any thread. Contexts are independent: rwkv_clone_context makes another one over the
 * same weights for another thread. A context, state or sampler does one thing at a time: if a second call comes while
 * one is running (also from within its callbacks), the second fails with RWKV_ERROR_CTX. A scheduler serves any number
 * of threads. The same model, tokens and seed give the same numbers for any number of threads, bit for bit.
 *
 * ERRORS
 *
 * Functions return false, NULL or RWKV_FAILED. The flags of the error (rwkv_get_last_error) and its text
 * (rwkv_get_last_error_text) are then kept with the context that was passed; without one (no context, or none that is
 * alive) with the calling thread, where passing NULL finds them. Flags of earlier errors are forgotten when the next
 * model is opened or converted (those of the thread) or the next evaluation begins (those of its context). Nothing is
 * printed unless asked for with rwkv_set_print_errors, or by RWKV_PRINT_ERRORS=1 in the environment, which is
 * rwkv_set_print_errors(NULL, true) in each thread from the start; and nothing aborts.
 *
 * A function that fails leaves state_out, logits_out and the like in an unspecified condition, unless it says more.
 *
 * SIGNALS
 *
 * While a program uses a model, its file is mapped into memory. The first model that is opened installs a handler for
 * SIGBUS, which comes when such a file is cut short by somebody else: the call that reads it fails then instead of the
 * process. A SIGBUS from elsewhere goes to the handler that was there before. No other signal is touched.
 *
 * VERSIONS
 *
 * A function that a later version added says so: "Since 0.2". All others are there since 0.1.
 */
#ifndef RWKV_H
#define RWKV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define RWKV_API __attribute__((visibility("default")))
#else
#define RWKV_API
#endif

#define RWKV_VERSION_MAJOR 0
#define RWKV_VERSION_MINOR 2
#define RWKV_VERSION_PATCH 0
/* Comparable with rwkv_version_number(). */
#define RWKV_VERSION_NUMBER (RWKV_VERSION_MAJOR * 1000000 + RWKV_VERSION_MINOR * 1000 + RWKV_VERSION_PATCH)

/* rwkv.cpp's model files: accepted by the functions that open a model. */
#define RWKV_FILE_MAGIC 0x67676d66
#define RWKV_FILE_VERSION_0 100
#define RWKV_FILE_VERSION_1 101
#define RWKV_FILE_VERSION_MIN RWKV_FILE_VERSION_0
#define RWKV_FILE_VERSION_MAX RWKV_FILE_VERSION_1
#define RWKV_FILE_VERSION RWKV_FILE_VERSION_MAX

/* What functions that return a length return when they fail. */
#define RWKV_FAILED ((size_t) -1)

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Part 1: as in rwkv.cpp ------------------------------------------------------------------------------------- */

/* A value is the sum of where (multiples of 256) and what. */
enum rwkv_error_flags {
    RWKV_ERROR_NONE = 0,

    /* Where. */
    RWKV_ERROR_ARGS = 1 << 8,
    RWKV_ERROR_FILE = 2 << 8,
    RWKV_ERROR_MODEL = 3 << 8,
    RWKV_ERROR_MODEL_PARAMS = 4 << 8,
    RWKV_ERROR_GRAPH = 5 << 8,
    RWKV_ERROR_CTX = 6 << 8,

    /* What. */
    RWKV_ERROR_ALLOC = 1,          /* the system has no memory left, or the limit is too low */
    RWKV_ERROR_FILE_OPEN = 2,      /* missing, or may not be read */
    RWKV_ERROR_FILE_STAT = 3,      /* a folder or a device, not a file */
    RWKV_ERROR_FILE_READ = 4,      /* the system could not read it */
    RWKV_ERROR_FILE_WRITE = 5,     /* the system could not write it, or it exists and may not be replaced */
    RWKV_ERROR_FILE_MAGIC = 6,     /* another kind of file */
    RWKV_ERROR_FILE_VERSION = 7,   /* of a newer version of its format */
    RWKV_ERROR_DATA_TYPE = 8,      /* a tensor of an unknown or unexpected format */
    RWKV_ERROR_UNSUPPORTED = 9,    /* a model or checkpoint of a kind that is not run */
    RWKV_ERROR_SHAPE = 10,         /* a tensor of another shape than the model's */
    RWKV_ERROR_DIMENSION = 11,     /* an impossible number in the metadata */
    RWKV_ERROR_KEY = 12,           /* a tensor that the model cannot have; a state of another model */
    RWKV_ERROR_DATA = 13,          /* damaged: cut short, changed, or values that cannot be */
    RWKV_ERROR_PARAM_MISSING = 14  /* a tensor or a number of the metadata is missing */
};

/* A model with the memory and threads to evaluate it. */
struct rwkv_context;

/* Sets, and tells, whether errors are also written to stderr. With NULL this is about errors that have no context, in
 * the calling thread, and about the setting that new contexts start with. At first nothing is written, unlike in
 * rwkv.cpp. */
RWKV_API void rwkv_set_print_errors(struct rwkv_context * ctx, const bool print_errors);
RWKV_API bool rwkv_get_print_errors(const struct rwkv_context * ctx);

/* The flags of the last error of a context, or with NULL of this thread, which are cleared. */
RWKV_API enum rwkv_error_flags rwkv_get_last_error(struct rwkv_context * ctx);

/* Opens a model for n_threads threads, 1 to 1024. n_gpu_layers is accepted and ignored. NULL on error. */
RWKV_API struct rwkv_context * rwkv_init_from_file(
    const char * model_file_path, const uint32_t n_threads, const uint32_t n_gpu_layers);

/* Another context over the same weights, to be freed like the first; either may be freed before the other. */
RWKV_API struct rwkv_context * rwkv_clone_context(struct rwkv_context * ctx, const uint32_t n_threads);

/* Accepted for programs that ask for it. Does nothing; true if ctx is a context. */
RWKV_API bool rwkv_gpu_offload_layers(struct rwkv_context * ctx, const uint32_t n_layers);

/* Reads one token.
 *
 * state_in: rwkv_get_state_len floats, NULL for the state before the first token. state_out: as many, where the new
 * state goes, NULL if it is not wanted; the same pointer as state_in works in place, without a copy. logits_out:
 * rwkv_get_logits_len floats, NULL if they are not wanted, which saves the work.
 *
 * Errors: a token outside the vocabulary (nothing has changed then); RWKV-X and 7b, whose states have no fixed length:
 * use rwkv_state_eval. */
RWKV_API bool rwkv_eval(
    struct rwkv_context * ctx, const uint32_t token, const float * state_in, float * state_out, float * logits_out);

/* Reads sequence_len tokens (at least 1), many at a time: much faster than one by one, and the same numbers, bit for
 * bit. logits_out predicts the token after the last. tokens NULL: nothing is read, and true returned; rwkv.cpp prepares
 * itself for the length by such a call. Otherwise as rwkv_eval. */
RWKV_API bool rwkv_eval_sequence(
    struct rwkv_context * ctx, const uint32_t * tokens, const size_t sequence_len, const float * state_in,
    float * state_out, float * logits_out);

/* The same: this library chooses its own blocks. chunk_size must be positive and changes nothing. */
RWKV_API bool rwkv_eval_sequence_in_chunks(
    struct rwkv_context * ctx, const uint32_t * tokens, const size_t sequence_len, const size_t chunk_size,
    const float * state_in, float * state_out, float * logits_out);

/* Sizes of the model; 0 on error. */
RWKV_API size_t rwkv_get_n_vocab(const struct rwkv_context * ctx);
RWKV_API size_t rwkv_get_n_embed(const struct rwkv_context * ctx);
RWKV_API size_t rwkv_get_n_layer(const struct rwkv_context * ctx);

/* The number of floats of a state buffer; 0 on error, and for RWKV-X and 7b. As many as rwkv.cpp's, but in this
 * library's own order (each layer's token shift of time mixing, its recurrence, its token shift of channel mixing):
 * buffers that rwkv.cpp filled do not fit. */
RWKV_API size_t rwkv_get_state_len(const struct rwkv_context * ctx);

/* The number of floats of a logits buffer, which is that of the vocabulary; 0 on error. */
RWKV_API size_t rwkv_get_logits_len(const struct rwkv_context * ctx);

/* The same two under their former names, for which rwkv.cpp's Python package asks. */
RWKV_API uint32_t rwkv_get_state_buffer_element_count(const struct rwkv_context * ctx);
RWKV_API uint32_t rwkv_get_logits_buffer_element_count(const struct rwkv_context * ctx);

/* Sets a state buffer to the state before the first token. */
RWKV_API void rwkv_init_state(const struct rwkv_context * ctx, float * state);

/* Frees a context. */
RWKV_API void rwkv_free(struct rwkv_context * ctx);

/* Converts a model (any checkpoint, or a .rwkv file of type FP32 or FP16) into a quantized .rwkv file, replacing an
 * existing one when it is complete. format_name, in any case: int4, int4-small, int5, int8, fp16, fp32, or a name of
 * ggml's (Q4_0, Q5_1, Q8_0, Q4_K, …), which chooses the type of ours with as many bits. */
RWKV_API bool rwkv_quantize_model_file(
    const char * model_file_path_in, const char * model_file_path_out, const char * format_name);

/* One line about the library and this machine; never freed. */
RWKV_API const char * rwkv_get_system_info_string(void);

/* ---- Part 2: our own --------------------------------------------------------------------------------------------
 *
 * Texts and lists are written into buffers of the caller. Such functions return the whole length, whatever the size of
 * the buffer, and write as much as fits: call with (NULL, 0) to ask, or compare the result with the size. Texts get a
 * terminating 0, which the length does not count, if the size is not 0. */

/* The version of the library that is running; compare with RWKV_VERSION_NUMBER. */
RWKV_API uint32_t rwkv_version_number(void);

/* The text of the last error of a context, or with NULL of this thread: what, where, and what to do. It stays until the
 * next error. */
RWKV_API size_t rwkv_get_last_error_text(const struct rwkv_context * ctx, char * buffer, size_t size);

/* Progress of something long, 0…1, from any thread; return false to cancel it. */
typedef bool (*rwkv_progress)(double done, void * user);

/* rwkv_quantize_model_file with a vocabulary: the path of one in any published form (World's text, tokenizer.json, …),
 * or "bytes", one token for each byte. NULL: the one that is in the model or beside it, if there is one. Since 0.2. */
RWKV_API bool rwkv_quantize_with_vocabulary(
    const char * model_file_path_in, const char * model_file_path_out, const char * format_name,
    const char * vocabulary);

/* Opens a model. n_threads: up to 1024, 0 for all processors that this process may use. progress may be NULL. */
RWKV_API struct rwkv_context * rwkv_open(
    const char * path, uint32_t n_threads, rwkv_progress progress, void * user);

/* The same for machines with little memory. memory_limit: the most bytes that the process may use with one context; 0:
 * what this machine and its control group have left. A model that needs more runs all the same, with the same numbers,
 * but blocks of it are read from the file for each token (see rwkv_get_streamed_size); its contexts take turns. An
 * error names the least limit if even that does not fit. */
RWKV_API struct rwkv_context * rwkv_open_with_memory_limit(
    const char * path, uint32_t n_threads, size_t memory_limit, rwkv_progress progress, void * user);

/* The same for RWKV-7b, whose states grow with every token: max_context is the most tokens that a state remembers, 0:
 * as many as there is memory for. Beyond it evaluation fails with RWKV_ERROR_CTX | RWKV_ERROR_ALLOC, and nothing is
 * forgotten. memory_limit as above, SIZE_MAX for none. Other versions have no such limit. Since 0.2. */
RWKV_API struct rwkv_context * rwkv_open_with_max_context(
    const char * path, uint32_t n_threads, size_t memory_limit, size_t max_context, rwkv_progress progress,
    void * user);

/* How many tokens a state of RWKV-7b remembers at most; 0 for all other versions, which have no such limit. Since
 * 0.2. */
RWKV_API size_t rwkv_get_max_context(const struct rwkv_context * ctx);

/* The name of the model, or of its file. */
RWKV_API size_t rwkv_get_name(const struct rwkv_context * ctx, char * buffer, size_t size);

/* 16 hexadecimal digits that identify the weights: models with the same digits read each other's states. Since 0.2. */
RWKV_API size_t rwkv_get_identity(const struct rwkv_context * ctx, char * buffer, size_t size);

/* The number of heads of each layer; 0 on error, and for version 4, which has none. */
RWKV_API size_t rwkv_get_n_head(const struct rwkv_context * ctx);

/* How many bytes of weights reading one token takes at most: the model without its embedding table. */
RWKV_API size_t rwkv_get_weight_size(const struct rwkv_context * ctx);

/* How many bytes of weights a memory limit leaves in the file, to be read for each token; 0: all are in memory. */
RWKV_API size_t rwkv_get_streamed_size(const struct rwkv_context * ctx);

/* The version of the architecture: "4", "5.0", "5.1", "5.2", "6", "7", "7a", "7b" or "x". */
RWKV_API size_t rwkv_get_architecture(const struct rwkv_context * ctx, char * buffer, size_t size);

/* The metadata of the file, as text: the number of entries, the key of one, the value of a key. */
RWKV_API size_t rwkv_get_metadata_count(const struct rwkv_context * ctx);
RWKV_API size_t rwkv_get_metadata_key(const struct rwkv_context * ctx, size_t index, char * buffer, size_t size);
RWKV_API size_t rwkv_get_metadata(const struct rwkv_context * ctx, const char * key, char * buffer, size_t size);

/* ---- text. Errors: a model without a tokenizer. ---- */

/* The tokens of length bytes of text. Never writes more than capacity tokens. */
RWKV_API size_t rwkv_encode(
    const struct rwkv_context * ctx, const char * text, size_t length, uint32_t * tokens, size_t capacity);

/* The bytes of tokens, which may start or end within a UTF-8 character. They may contain 0. */
RWKV_API size_t rwkv_decode(
    const struct rwkv_context * ctx, const uint32_t * tokens, size_t count, char * buffer, size_t size);

/* The bytes of one token. */
RWKV_API size_t rwkv_get_token_bytes(
    const struct rwkv_context * ctx, uint32_t token, char * buffer, size_t size);

/* ---- states ---- */

/* What a model remembers of the tokens it has read; works for all versions. */
struct rwkv_state;

/* The state before the first token; a copy, to try something else with. */
RWKV_API struct rwkv_state * rwkv_state_new(const struct rwkv_context * ctx);
RWKV_API struct rwkv_state * rwkv_state_clone(const struct rwkv_state * state);

/* Makes it the state before the first token. */
RWKV_API bool rwkv_state_reset(struct rwkv_state * state);

RWKV_API void rwkv_state_free(struct rwkv_state * state);

/* How many bytes a state takes now. Only states of RWKV-X and 7b grow. */
RWKV_API size_t rwkv_state_get_size(const struct rwkv_state * state);

/* Reads count tokens (at least 1) into a state. logits_out: rwkv_get_logits_len floats or NULL. progress: called after
 * each piece of tokens; may be NULL. A call that fails or is cancelled leaves the state after the last whole piece. */
RWKV_API bool rwkv_state_eval(
    struct rwkv_context * ctx, struct rwkv_state * state, const uint32_t * tokens, size_t count, float * logits_out,
    rwkv_progress progress, void * user);

/* The same with the logits after each token: logits_out has count times rwkv_get_logits_len floats. Since 0.2. */
RWKV_API bool rwkv_state_eval_each(
    struct rwkv_context * ctx, struct rwkv_state * state, const uint32_t * tokens, size_t count, float * logits_out,
    rwkv_progress progress, void * user);

/* Reads count tokens into a state and says how well each of them predicted the token of the same index in targets:
 * logprobs_out gets count natural logarithms of the targets' probabilities, best_out (or NULL) the most likely tokens.
 * To score a text, targets are its tokens shifted by one. Since 0.2. */
RWKV_API bool rwkv_state_score(
    struct rwkv_context * ctx, struct rwkv_state * state, const uint32_t * tokens, const uint32_t * targets,
    size_t count, double * logprobs_out, uint32_t * best_out, rwkv_progress progress, void * user);

/* Reads count vectors of rwkv_get_n_embed finite floats each that stand in for rows of the embedding table: what an
 * encoder of images or sound made for this model. */
RWKV_API bool rwkv_state_eval_vectors(
    struct rwkv_context * ctx, struct rwkv_state * state, const float * vectors, size_t count, float * logits_out);

/* Reads one token into each of count different states (1 to 64), with one pass over the weights. logits_out: count
 * times rwkv_get_logits_len floats, or NULL. The same numbers as one by one. */
RWKV_API bool rwkv_eval_batch(
    struct rwkv_context * ctx, struct rwkv_state * const * states, const uint32_t * tokens, size_t count,
    float * logits_out);

/* Many texts at once. The tokens of count texts stand one after another in tokens, lengths[i] (at least 1) of them
 * belong to text i; as many as fit go through each pass over the weights, which for short texts is much faster than one
 * text after another, with the same numbers. Text i is read into states[i], all different. A call that fails or is
 * cancelled leaves the states after the last whole pass. Since 0.2.
 *
 * rwkv_eval_texts: logits_out gets the logits after each text, count times rwkv_get_logits_len floats; or NULL.
 * rwkv_score_texts: targets, logprobs_out and best_out as those of rwkv_state_score, in the order of tokens.
 * rwkv_embed_texts: vectors_out gets the vectors of rwkv_embed, count times rwkv_get_n_embed floats; lengths may be
 * 0. */
RWKV_API bool rwkv_eval_texts(
    struct rwkv_context * ctx, struct rwkv_state * const * states, const uint32_t * tokens, const size_t * lengths,
    size_t count, float * logits_out, rwkv_progress progress, void * user);
RWKV_API bool rwkv_score_texts(
    struct rwkv_context * ctx, struct rwkv_state * const * states, const uint32_t * tokens, const uint32_t * targets,
    const size_t * lengths, size_t count, double * logprobs_out, uint32_t * best_out, rwkv_progress progress,
    void * user);
RWKV_API bool rwkv_embed_texts(
    struct rwkv_context * ctx, const uint32_t * tokens, const size_t * lengths, size_t count, float * vectors_out,
    rwkv_progress progress, void * user);

/* The hidden vector from which the last logits of this context were made (of a batch: the last), rwkv_get_n_embed
 * floats: an embedding of what was read. An error if no logits were asked for. */
RWKV_API bool rwkv_get_hidden(struct rwkv_context * ctx, float * hidden_out);

/* The vector of length bytes of text, rwkv_get_n_embed floats: the mean of the hidden vectors after each of its tokens
 * and token 0, scaled to length 1, as `rwkv-run embed` writes it. Dot products of such vectors tell how alike texts
 * are. Uses no state. Since 0.2. */
RWKV_API bool rwkv_embed(
    struct rwkv_context * ctx, const char * text, size_t length, float * vector_out, rwkv_progress progress,
    void * user);

/* Embedding models (EmbeddingRWKV) make vectors with a pooling and heads of their own; rwkv_embed and rwkv_embed_texts
 * use the head for retrieval. task: "retrieval", "sts" or "classification", NULL for retrieval; an error with a model
 * of language. normalize: whether vectors are scaled to length 1, as the other two functions scale them. Otherwise as
 * rwkv_embed_texts. Since 0.2. */
RWKV_API bool rwkv_embed_texts_for(
    struct rwkv_context * ctx, const char * task, bool normalize, const uint32_t * tokens, const size_t * lengths,
    size_t count, float * vectors_out, rwkv_progress progress, void * user);

/* How well documents answer a query, by a reranker (RWKVReRanker) and the embedding model that it was trained with.
 *
 * rwkv_read_documents: the embedding model reads count texts of lengths[i] bytes as documents; states_out gets count
 * new states, which the caller frees and may save. On error there are none.
 *
 * rwkv_rerank: the scores of count such states, which stay as they are: the higher the better, 0 undecided; 1 / (1 +
 * exp(-score)) is how likely a document answers the query. The two contexts are different ones. Since 0.2. */
RWKV_API bool rwkv_read_documents(
    struct rwkv_context * embedder, const char * const * documents, const size_t * lengths, size_t count,
    struct rwkv_state ** states_out, rwkv_progress progress, void * user);
RWKV_API bool rwkv_rerank(
    struct rwkv_context * embedder, struct rwkv_context * reranker, const char * query, size_t length,
    struct rwkv_state * const * states, size_t count, float * scores_out, rwkv_progress progress, void * user);

/* Saves a state with the count tokens that led to it (NULL, 0: without), to a file that appears complete or not at all,
 * or to memory. It is compressed, has checksums, and loads only with the same model. */
RWKV_API bool rwkv_state_save(
    struct rwkv_state * state, const char * path, const uint32_t * tokens, size_t count);
RWKV_API size_t rwkv_state_save_memory(
    struct rwkv_state * state, const uint32_t * tokens, size_t count, void * buffer, size_t size);

/* Loads what was saved; NULL if it is damaged, or of another model. */
RWKV_API struct rwkv_state * rwkv_state_load(const struct rwkv_context * ctx, const char * path);
RWKV_API struct rwkv_state * rwkv_state_load_memory(
    const struct rwkv_context * ctx, const void * buffer, size_t size);

/* The tokens that a loaded state was saved with; none for other states. */
RWKV_API size_t rwkv_state_get_tokens(const struct rwkv_state * state, uint32_t * tokens, size_t capacity);

/* ---- sampling ---- */

/* How the next token is chosen: logits + bias - penalties, softmax, min-p, top-p, top-k, probability^(1/temperature),
 * draw. This struct never changes: options that are not in it are set by name, so that programs and libraries of
 * different versions understand each other. */
struct rwkv_sampler_options {
    double temperature;       /* 0: always the most likely token */
    double top_p;             /* keep the most likely tokens whose probabilities add up to this; 1: all */
    double presence_penalty;  /* subtracted, once, from the logit of each token written before */
    double frequency_penalty; /* subtracted from it for each time that it was written */
    double penalty_decay;     /* what the counts are multiplied by at each further token */
    uint64_t seed;            /* the same seed, options and logits give the same tokens */
    uint32_t top_k;           /* keep at most this many tokens; 0: no limit */
};

/* Sets what is used where nothing better is known: temperature 1, top_p 0.85, no penalties (decay 0.996), seed 0,
 * top_k 0. */
RWKV_API bool rwkv_sampler_options_init(struct rwkv_sampler_options * options);

struct rwkv_sampler;

/* Makes a sampler. options NULL: what the model's file recommends (metadata generation.temperature and so on), else the
 * values above. ctx tells which tokens are spaces and digits, whose repetition is not counted. */
RWKV_API struct rwkv_sampler * rwkv_sampler_new(
    const struct rwkv_context * ctx, const struct rwkv_sampler_options * options);

/* Makes a sampler for answers in conversations. Each value is what the model's file recommends, else what the template
 * does, else the value above. template_name as in rwkv_apply_template. Since 0.2. */
RWKV_API struct rwkv_sampler * rwkv_sampler_new_for_template(
    const struct rwkv_context * ctx, const char * template_name);

/* Sets an option by its name, before the first token is chosen: any field of rwkv_sampler_options (seed: up to 2^53),
 * or "min_p" (keep only tokens at least this share as likely as the most likely one; 0: all), or "only_json" (1: only
 * tokens that go on with one JSON object or array, with whose end rwkv_generate ends; 0: any). Errors: a name that
 * this version does not know, a value that is out of range. */
RWKV_API bool rwkv_sampler_set(struct rwkv_sampler * sampler, const char * name, double value);

/* Adds bias to the logit of a token in every choice, -INFINITY bans it; before the first token is chosen. */
RWKV_API bool rwkv_sampler_set_bias(struct rwkv_sampler * sampler, uint32_t token, float bias);

/* Allows only tokens that go on with one JSON text that fits a JSON Schema, an object or an array; with its end
 * rwkv_generate ends. To be called before the first token is chosen. schema: a JSON text, as {"type": "object"}; NULL
 * allows any text. docs/serving.md says which keywords are known; another is an error that names it. Since 0.2. */
RWKV_API bool rwkv_sampler_set_json_schema(struct rwkv_sampler * sampler, const char * schema);

/* Chooses a token from count logits and remembers it for the penalties. */
RWKV_API bool rwkv_sampler_sample(
    struct rwkv_sampler * sampler, const float * logits, size_t count, uint32_t * token_out);

/* Whether the object or array of only_json or of a schema is complete, after which a text ends. Since 0.2. */
RWKV_API bool rwkv_sampler_is_finished(const struct rwkv_sampler * sampler);

/* Forgets the tokens written so far. The random numbers go on. */
RWKV_API bool rwkv_sampler_reset(struct rwkv_sampler * sampler);

RWKV_API void rwkv_sampler_free(struct rwkv_sampler * sampler);

/* ---- generation ---- */

/* A piece of text: whole UTF-8 characters, with a terminating 0; valid during the call. Return false to stop: if
 * something was held back, an unfinished character or what might have begun a stop string, it comes in one more call,
 * whatever that returns, so that all pieces together are what the state has read. */
typedef bool (*rwkv_text)(const char * text, size_t length, void * user);

enum rwkv_finish {
    RWKV_FINISH_ERROR = 0,
    RWKV_FINISH_LENGTH = 1,   /* max_tokens were written */
    RWKV_FINISH_END = 2,      /* the model ended the text (token 0) */
    RWKV_FINISH_STOP = 3,     /* a stop string appeared; it is not part of the text */
    RWKV_FINISH_CANCELLED = 4, /* the callback asked for it, or rwkv_scheduler_cancel */
    RWKV_FINISH_NOT_YET = 5   /* only of a scheduler's results: the request goes on. Since 0.2 */
};

/* Reads a prompt and writes up to max_tokens tokens after it.
 *
 * prompt: prompt_length bytes of text. It may be empty if the last thing that this context did was to evaluate this
 * state with logits, or to generate with it: then the text goes on from there. stops: n_stops 0-terminated texts that
 * end the generation; NULL, 0: those that the model's file has (metadata generation.stop.0 and so on). The state has
 * read every token whose text was handed out, and no other but those of a stop string. */
RWKV_API enum rwkv_finish rwkv_generate(
    struct rwkv_context * ctx, struct rwkv_state * state, struct rwkv_sampler * sampler, const char * prompt,
    size_t prompt_length, size_t max_tokens, const char * const * stops, size_t n_stops, rwkv_text receive,
    void * user);

/* A token that was chosen, the natural logarithm of its probability before penalties and sampling, and the logits of
 * which it is (rwkv_get_logits_len, valid during the call). */
typedef void (*rwkv_token)(uint32_t token, double logprob, const float * logits, void * user);

/* The same, with observe called for each token before the state reads it; NULL: not. The text of a token that may begin
 * a stop string comes later than the token, or never. Since 0.2. */
RWKV_API enum rwkv_finish rwkv_generate_observed(
    struct rwkv_context * ctx, struct rwkv_state * state, struct rwkv_sampler * sampler, const char * prompt,
    size_t prompt_length, size_t max_tokens, const char * const * stops, size_t n_stops, rwkv_token observe,
    rwkv_text receive, void * user);

/* From now on this context guesses what follows while it generates, and reads several guessed tokens in one pass: the
 * same text, choices and states, sooner where guesses are right. draft: "ngram" (what followed the last tokens earlier
 * in the text), the path of a smaller model with the same tokenizer, or NULL: no guesses, as at first. most: tokens
 * guessed for a pass at most, 1 to 16; 0: 8. While a text is written its state may be behind what has been handed out.
 * Since 0.2. */
RWKV_API bool rwkv_set_drafts(struct rwkv_context * ctx, const char * draft, size_t most);

/* What became of guesses since rwkv_set_drafts: passes over the weights, guessed tokens, and those that were right.
 * NULL: not wanted. Since 0.2. */
RWKV_API bool rwkv_get_drafts(
    const struct rwkv_context * ctx, size_t * passes_out, size_t * drafted_out, size_t * accepted_out);

/* ---- many requests at once. Since 0.2. ----
 *
 * A scheduler serves requests with one pass over the weights at a time, on threads of its own. A pass reads at most 64
 * tokens: one of every text that is being written, and pieces of the prompts that wait. A request that ends makes room
 * for the next one; they are served in the order in which they came. What comes of a request are the same bits as
 * alone.
 *
 *     uint64_t id = rwkv_scheduler_generate(scheduler, NULL, NULL, tokens, count, 200, NULL, 0, 0);
 *     struct rwkv_result * result;
 *     while (rwkv_scheduler_get_pending(scheduler) > 0 && rwkv_scheduler_next(scheduler, -1, &result)) {
 *         ...
 *         rwkv_result_free(result);
 *     }
 *
 * Any thread may submit, cancel and wait, at the same time. Functions without a context keep their errors with the
 * calling thread. ---- */

struct rwkv_scheduler;

/* What is new of a request. */
struct rwkv_result;

/* A scheduler for the model of ctx, which stays free for other calls; with memory of its own, as a clone of ctx has.
 * n_threads: 0 for all processors. n_parallel: requests that are worked on at a time, 1 to 64; each needs a state. */
RWKV_API struct rwkv_scheduler * rwkv_scheduler_new(
    const struct rwkv_context * ctx, uint32_t n_threads, uint32_t n_parallel);

/* Ends all requests, without results; returns after the pass that is running. Calls of rwkv_scheduler_next that wait in
 * other threads fail. */
RWKV_API void rwkv_scheduler_free(struct rwkv_scheduler * scheduler);

/* Bits of flags. */
enum rwkv_request_flags {
    RWKV_REQUEST_STREAM = 1,  /* results while the text is being written, too; else one, at the end */
    RWKV_REQUEST_LOGPROBS = 2 /* also the probabilities of its tokens */
};

/* These submit a request and return its number, which never comes again; 0 on error. What they are given is copied:
 * states and samplers stay as they are, and may be freed. state: what the tokens go on from; NULL: a new document.
 *
 * rwkv_scheduler_generate: reads count tokens (at least 1) and writes up to max_tokens (0: none; SIZE_MAX: no limit).
 * sampler: its options and seed, whatever it has chosen before; NULL: those of rwkv_sampler_new with NULL. stops,
 * n_stops as those of rwkv_generate.
 *
 * rwkv_scheduler_score: how well each of the tokens from index first (at least 1) on is predicted by those before it.
 *
 * rwkv_scheduler_embed: the vector of rwkv_embed; count may be 0. */
RWKV_API uint64_t rwkv_scheduler_generate(
    struct rwkv_scheduler * scheduler, const struct rwkv_state * state, const struct rwkv_sampler * sampler,
    const uint32_t * tokens, size_t count, size_t max_tokens, const char * const * stops, size_t n_stops,
    uint32_t flags);
RWKV_API uint64_t rwkv_scheduler_score(
    struct rwkv_scheduler * scheduler, const struct rwkv_state * state, const uint32_t * tokens, size_t count,
    size_t first);
RWKV_API uint64_t rwkv_scheduler_embed(struct rwkv_scheduler * scheduler, const uint32_t * tokens, size_t count);

/* Ends a request before the next pass; its last result says RWKV_FINISH_CANCELLED. Does nothing if it has ended. */
RWKV_API bool rwkv_scheduler_cancel(struct rwkv_scheduler * scheduler, uint64_t request);

/* How many requests there are whose last result was not handed out. */
RWKV_API size_t rwkv_scheduler_get_pending(const struct rwkv_scheduler * scheduler);

/* Waits for the next result of any request, timeout seconds at most; negative: without end. result_out: the result, to
 * be freed; NULL if none came in time. False on error: the scheduler is freed, or not alive. A result has everything
 * that came of its request since the one before, so that a caller who comes late needs fewer calls. */
RWKV_API bool rwkv_scheduler_next(
    struct rwkv_scheduler * scheduler, double timeout, struct rwkv_result ** result_out);

/* The number of the request, 0 on error. */
RWKV_API uint64_t rwkv_result_get_request(const struct rwkv_result * result);

/* RWKV_FINISH_NOT_YET, or why the request ended; of those that write nothing RWKV_FINISH_LENGTH. RWKV_FINISH_ERROR: it
 * failed, and rwkv_get_last_error and rwkv_get_last_error_text with NULL say why. */
RWKV_API enum rwkv_finish rwkv_result_get_finish(const struct rwkv_result * result);

/* New text, whole UTF-8 characters; it may contain 0. */
RWKV_API size_t rwkv_result_get_text(const struct rwkv_result * result, char * buffer, size_t size);

/* Tokens that were chosen since, of which the last ones may have no text yet; of a score the most likely tokens. */
RWKV_API size_t rwkv_result_get_tokens(const struct rwkv_result * result, uint32_t * tokens, size_t capacity);

/* Natural logarithms of their probabilities, before penalties and sampling, if they were asked for; of a score those of
 * the tokens that were given. Never writes more than capacity; returns how many there are. */
RWKV_API size_t rwkv_result_get_logprobs(const struct rwkv_result * result, double * logprobs, size_t capacity);

/* Of an embedding: rwkv_get_n_embed floats; else none. */
RWKV_API size_t rwkv_result_get_vector(const struct rwkv_result * result, float * vector, size_t capacity);

/* A copy of the state of a request that has ended, which has read all that was given and every token that was written
 * (of a score all but the last one). An error while it goes on, and if it failed. */
RWKV_API struct rwkv_state * rwkv_result_get_state(const struct rwkv_result * result);

RWKV_API void rwkv_result_free(struct rwkv_result * result);

/* ---- conversations. template_name: a template's name ("g1", "bot", "tools", "world", "raven", "none"), or the
 * text of one as `rwkv-run chat --template` takes it, or NULL for the one that the model was most likely trained with.
 * ---- */

/* The text that a model reads before it answers the last of count messages. roles: "system", "user", "assistant" or
 * "tool" (what a tool answered); contents: 0-terminated texts. If the last message is the assistant's, its answer goes
 * on from there. thinking: a way of answering that the template knows ("off", "on", "short", "long", "fake"); NULL:
 * its first. Since 0.2. */
RWKV_API size_t rwkv_apply_template(
    const struct rwkv_context * ctx, const char * template_name, const char * thinking, const char * const * roles,
    const char * const * contents, size_t count, char * buffer, size_t size);

/* What ends an answer, for the stops of rwkv_generate: the number of texts, and each of them. Since 0.2. */
RWKV_API size_t rwkv_get_template_stop_count(const struct rwkv_context * ctx, const char * template_name);
RWKV_API size_t rwkv_get_template_stop(
    const struct rwkv_context * ctx, const char * template_name, size_t index, char * buffer, size_t size);

#ifdef __cplusplus
}
#endif

#endif
