/* How fast text is encoded and decoded, on one core.
 *
 *     bench_tokenizer TOKENIZER FILE [RUNS]
 *
 * prints the median of RUNS (default 15) after one warm-up, in MB/s of text. To build it by hand:
 *
 *     cc -O2 -Iinclude bench/bench_tokenizer.c build/libxlstm.a -ljansson -lyaml -lm -pthread
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "xlstm.h"

/* Processor time: there is one thread, and other programs then disturb little. */
static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static char *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) != 0)
        return NULL;
    long length = ftell(file);
    rewind(file);
    char *text = length > 0 ? malloc((size_t)length) : NULL;
    *size = text ? fread(text, 1, (size_t)length, file) : 0;
    fclose(file);
    return text;
}

static _Noreturn void fail(void) {
    fprintf(stderr, "bench_tokenizer: %s\n", xlstm_last_error());
    exit(1);
}

int main(int argc, char **argv) {
    int runs = argc > 3 ? atoi(argv[3]) : 15;
    if (argc < 3 || runs < 1) {
        fprintf(stderr, "usage: bench_tokenizer TOKENIZER FILE [RUNS]\n");
        return 2;
    }
    size_t size;
    char *text = read_file(argv[2], &size);
    double *encoding = calloc((size_t)runs, sizeof *encoding);
    double *decoding = calloc((size_t)runs, sizeof *decoding);
    if (!text || !encoding || !decoding) {
        fprintf(stderr, "bench_tokenizer: cannot read %s, or it is empty\n", argv[2]);
        return 1;
    }
    xlstm_tokenizer *tokenizer;
    double start = seconds();
    if (xlstm_tokenizer_load(argv[1], &tokenizer) != XLSTM_OK)
        fail();
    printf("%s: loaded in %.1f ms\n", argv[1], 1e3 * (seconds() - start));
    int64_t count = 0;
    for (int i = -1; i < runs; i++) { /* -1: the warm-up */
        int32_t *ids;
        char *decoded;
        size_t decoded_size;
        start = seconds();
        if (xlstm_encode(tokenizer, text, size, 0, &ids, &count) != XLSTM_OK)
            fail();
        double middle = seconds();
        if (xlstm_decode(tokenizer, ids, count, 0, &decoded, &decoded_size) != XLSTM_OK)
            fail();
        if (i >= 0) {
            encoding[i] = middle - start;
            decoding[i] = seconds() - middle;
        }
        xlstm_free(ids);
        xlstm_free(decoded);
    }
    qsort(encoding, (size_t)runs, sizeof *encoding, compare);
    qsort(decoding, (size_t)runs, sizeof *decoding, compare);
    double megabytes = 1e-6 * (double)size;
    printf("%s: %.2f MB, %lld ids; encode %.1f MB/s (%.2f M ids/s), decode %.1f MB/s\n", argv[2],
           megabytes, (long long)count, megabytes / encoding[runs / 2],
           1e-6 * (double)count / encoding[runs / 2], megabytes / decoding[runs / 2]);
    xlstm_tokenizer_free(tokenizer);
    free(encoding);
    free(decoding);
    free(text);
    return 0;
}
