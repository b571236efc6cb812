/* SPDX-License-Identifier: MIT
 * What every_function.c does with models, its mistakes included, again and again, conversions, and opening what is no
 * model: when all is freed, descriptors, memory in use and mappings are what they were. C99.
 *
 *     levels MODEL OTHER HYBRID CHECKPOINT FOLDER */
#define _GNU_SOURCE
#define main every_function
#include "every_function.c"
#undef main

#include <dirent.h>
#include <malloc.h>
#include <sys/stat.h>

enum { WARM = 3, ROUNDS = 3, WRONG = 5 };

static int count_descriptors(void) {
    int count = 0;
    DIR * directory = opendir("/proc/self/fd");
    while (directory && readdir(directory)) count++;
    if (directory) closedir(directory);
    return count;
}

static long bytes_in_use(void) {
    struct mallinfo2 heap;
    malloc_trim(0);
    heap = mallinfo2();
    return (long) (heap.uordblks + heap.hblkhd);
}

static int count_mappings(void) {
    int count = 0, character;
    FILE * file = fopen("/proc/self/maps", "r");
    while (file && (character = fgetc(file)) != EOF) count += character == '\n';
    if (file) fclose(file);
    return count;
}

/* What cannot be opened must not stay open. */
static void open_wrong_files(const char * folder, char ** arguments) {
    const char * wrong[WRONG];
    char pipe[1024], cut[1024], piece[5000];
    FILE * in = fopen(arguments[1], "rb"), * out;
    size_t length = in ? fread(piece, 1, sizeof piece, in) : 0;
    int i;
    snprintf(pipe, sizeof pipe, "%s/pipe", folder);
    snprintf(cut, sizeof cut, "%s/cut", folder);
    mkfifo(pipe, 0600);
    out = fopen(cut, "wb");
    if (out) fwrite(piece, 1, length, out), fclose(out);
    if (in) fclose(in);
    wrong[0] = folder, wrong[1] = "/dev/null", wrong[2] = pipe, wrong[3] = cut, wrong[4] = "/nonexistent";
    for (i = 0; i < WRONG; i++) {
        CHECK(rwkv_open(wrong[i], 1, NULL, NULL) == NULL);
        CHECK(!rwkv_quantize_model_file(wrong[i], path_in(folder, "quantized"), "int8"));
        CHECK(!rwkv_quantize_with_vocabulary(arguments[4], path_in(folder, "quantized"), "int8", wrong[i]));
    }
    remove(pipe), remove(cut);
}

/* A prompt for which RWKV-X's caches grow more than once. */
static void read_long_prompts(char ** arguments) {
    uint32_t tokens[700];
    int m, i;
    for (i = 0; i < 700; i++) tokens[i] = (uint32_t) (i * 7 % 250) + 1;
    for (m = 1; m <= 3; m++) {
        struct rwkv_context * ctx = rwkv_open(arguments[m], 2, NULL, NULL);
        struct rwkv_state * state = rwkv_state_new(ctx), * copy;
        for (i = 0; i < 700; i += 100) CHECK(rwkv_state_eval(ctx, state, tokens + i, 100, NULL, NULL, NULL));
        copy = rwkv_state_clone(state);
        CHECK(rwkv_state_eval(ctx, copy, tokens, 1, NULL, NULL, NULL));
        rwkv_state_free(copy);
        rwkv_state_free(state);
        rwkv_free(ctx);
    }
}

int main(int argc, char ** argv) {
    int round, descriptors = 0, mappings = 0;
    long heap = 0;
    if (argc != 6) return 64;
    for (round = 0; round < WARM + ROUNDS; round++) {
        test_models(argv);
        CHECK(rwkv_quantize_model_file(argv[4], path_in(argv[5], "quantized"), "int4"));
        open_wrong_files(argv[5], argv);
        read_long_prompts(argv);
        fprintf(stderr, "round %d: %d descriptors, %ld bytes in use, %d mappings\n", round, count_descriptors(),
                bytes_in_use(), count_mappings());
        if (round < WARM) descriptors = count_descriptors(), heap = bytes_in_use(), mappings = count_mappings();
    }
    CHECK(count_descriptors() == descriptors);
    /* Threads come and go, with a few kilobytes and mappings each, and each of Dispatch's keeps up to 1,024 pieces of 64
     * bytes that other threads have handed it: the more often, the busier the machine is. */
    CHECK(bytes_in_use() < heap + (128 << 10));
    CHECK(count_mappings() < mappings + 30);
    return failures ? 1 : 0;
}
