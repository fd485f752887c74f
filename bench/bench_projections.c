/* How fast products with weights are on the CPU: every type of weight, few and many tokens.
 *
 *     bench_projections [--type TYPE] [--tokens N] [--width K] [--matrices N] [--rows N]
 *                       [--threads N] [--rounds N]
 *
 * Matrices of 8,192 rows, one after the other, as many as 768 MB hold: no cache does. `--matrices 1 --rows 512`
 * stays in one, which tells what the arithmetic alone takes. Each line has the bytes of weights and
 * the operations a second, and both as percentages of what this machine was measured to do in the same
 * rounds: reading, and multiplying (with AMX in tiles of bf16, else multiply-adds). Products and measurements
 * take turns, and medians are compared.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/blocks.h"
#include "base/clock.h"
#include "base/dtype.h"
#include "base/median.h"
#include "engine/machine.h"
#include "ops/cpu/cpu.h"
#include "xlstm.h"

enum { MOST_ROUNDS = 99 };
static const double usual_bytes = 768e6;

typedef struct settings {
    int64_t tokens, width, rows, matrices;
    int threads, rounds;
} settings;

static _Noreturn void fail(const char *what) {
    fprintf(stderr, "bench_projections: %s\n", what);
    exit(1);
}

static void must(xlstm_status status) {
    if (status != XLSTM_OK)
        fail(xlstm_last_error());
}

static ops_tensor create(ops_device *device, dtype type, int64_t rows, int64_t columns) {
    ops_buffer *buffer = calloc(1, sizeof *buffer);
    if (!buffer)
        fail("out of memory");
    ops_tensor t = ops_tensor_make(buffer, 0, type, 2, (const int64_t[]){rows, columns});
    must(device->buffer_create(device, (size_t)dtype_bytes(type, rows * columns), buffer));
    return t;
}

static void destroy(ops_tensor *t) {
    t->buffer->device->buffer_free(t->buffer);
    free(t->buffer);
}

/* Bits that look random, and scales that are ordinary numbers. */
static void fill(ops_tensor *t) {
    char *data = ops_data(t);
    const size_t size = (size_t)dtype_bytes(t->dtype, ops_tensor_elements(t));
    uint32_t state = 1;
    for (size_t i = 0; i + 4 <= size; i += 4) {
        state = state * 1664525u + 1013904223u;
        uint32_t bits = dtype_block(t->dtype) > 1 ? state : (state & 0x807F807Fu) | 0x3C003C00u;
        memcpy(data + i, &bits, sizeof bits);
    }
    if (dtype_block(t->dtype) == 1)
        return;
    const bool minimum = t->dtype == DTYPE_Q4_1 || t->dtype == DTYPE_Q5_1;
    const uint16_t scale = float_to_f16(0.01f), least = float_to_f16(-0.05f);
    for (size_t at = 0; at < size; at += dtype_size(t->dtype)) {
        memcpy(data + at, &scale, sizeof scale);
        if (minimum)
            memcpy(data + at + 2, &least, sizeof least);
    }
}

/* Seconds of one pass over all matrices. */
static double seconds_of(ops_stream *stream, const ops_tensor *weights, const ops_tensor *x,
                         const ops_tensor *out, int passes) {
    const int64_t rows = out->shape[1];
    double start = clock_seconds();
    for (int pass = 0; pass < passes; pass++)
        for (int64_t first = 0; first < weights->shape[0]; first += rows) {
            struct ops_project_add op = {.x = *x, .sign = 1, .out = *out};
            op.weight = ops_tensor_rows(weights, first, rows);
            stream->device->ops.project_add(stream, &op);
        }
    must(stream->device->wait(stream));
    return (clock_seconds() - start) / passes;
}

static void measure(const settings *s, machine_meter *meter, dtype type) {
    ops_device *device = cpu_device();
    const double matrix = (double)dtype_bytes(type, s->rows * s->width);
    const int64_t fit = (int64_t)(usual_bytes / matrix);
    const int64_t matrices = s->matrices ? s->matrices : fit > 1 ? fit : 1;
    const double bytes = matrix * (double)matrices;
    const double work = 2.0 * (double)(matrices * s->rows * s->width * s->tokens);
    const int passes = bytes > 1e8 || work > 1e10 ? 1 : 50;
    ops_tensor weights = create(device, type, matrices * s->rows, s->width),
               x = create(device, DTYPE_F32, s->tokens, s->width),
               out = create(device, DTYPE_F32, s->tokens, s->rows);
    fill(&weights);
    for (int64_t i = 0; i < s->tokens * s->width; i++)
        ((float *)ops_data(&x))[i] = (float)(i * 7919 % 1009) / 504.5f - 1;
    ops_stream_options options = {.threads = s->threads,
                                  .profile = OPS_FAST,
                                  .limits = {.tokens = s->tokens,
                                             .sequences = 1,
                                             .width = s->width,
                                             .heads = 1,
                                             .head_dim_qk = 16,
                                             .head_dim_v = 16,
                                             .vocab = 16,
                                             .activation = DTYPE_F32}};
    ops_stream *stream;
    must(device->stream_create(device, &options, &stream));
    const machine_kind arithmetic =
        device->uses_tiles(device, OPS_FAST) ? MACHINE_AMX_BF16 : MACHINE_FMA;
    double runs[MOST_ROUNDS], reads[MOST_ROUNDS], peaks[MOST_ROUNDS];
    seconds_of(stream, &weights, &x, &out, passes);
    for (int i = 0; i < s->rounds; i++) {
        reads[i] = machine_sample(meter, MACHINE_READ);
        peaks[i] = machine_sample(meter, arithmetic);
        runs[i] = seconds_of(stream, &weights, &x, &out, passes);
    }
    const double seconds = median(runs, s->rounds), read = median(reads, s->rounds);
    const double peak = median(peaks, s->rounds);
    printf("%-7s %6lld %7lld %9.1f %8.2f %7.1f %% %10.1f %7.1f %%  %.1f GB/s, %.0f GFLOP/s\n",
           dtype_name(type), (long long)s->tokens, (long long)s->width,
           work / seconds / 2e9 / (double)s->tokens, bytes / seconds / 1e9,
           100 * bytes / seconds / read, work / seconds / 1e9, 100 * work / seconds / peak,
           read / 1e9, peak / 1e9);
    fflush(stdout);
    device->stream_free(stream);
    destroy(&out);
    destroy(&x);
    destroy(&weights);
}

int main(int argc, char **argv) {
    static const dtype types[] = {DTYPE_BF16, DTYPE_Q8_0, DTYPE_Q5_1,  DTYPE_Q5_0,
                                  DTYPE_Q4_1, DTYPE_Q4_0, DTYPE_IQ4_NL};
    settings s = {.tokens = 0, .width = 4096, .rows = 8192, .rounds = 7};
    const char *only = NULL;
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (strcmp(name, "--type") == 0)
            only = value;
        else if (strcmp(name, "--tokens") == 0)
            s.tokens = atoll(value);
        else if (strcmp(name, "--width") == 0)
            s.width = atoll(value);
        else if (strcmp(name, "--matrices") == 0)
            s.matrices = atoll(value);
        else if (strcmp(name, "--rows") == 0)
            s.rows = atoll(value);
        else if (strcmp(name, "--threads") == 0)
            s.threads = atoi(value);
        else if (strcmp(name, "--rounds") == 0)
            s.rounds = atoi(value);
        else
            fail("see the head of bench/bench_projections.c");
    }
    if (argc % 2 == 0 || s.tokens < 0 || s.width < 32 || s.width % 32 || s.matrices < 0 ||
        s.rows < 1 || s.rounds < 1 || s.rounds > MOST_ROUNDS)
        fail("see the head of bench/bench_projections.c");
    machine_meter *meter;
    must(machine_create(s.threads, false, &meter));
    printf("weights tokens   width  G elements/s GB/s  of reading    GFLOP/s  of the peak  beside "
           "it\n");
    static const int64_t usual[] = {1, 4, 16, 512};
    const settings asked = s;
    for (size_t n = 0; n < sizeof usual / sizeof *usual; n++) {
        if (asked.tokens && n > 0)
            break;
        s.tokens = asked.tokens ? asked.tokens : usual[n];
        for (size_t i = 0; i < sizeof types / sizeof *types; i++)
            if (!only || strcmp(only, dtype_name(types[i])) == 0)
                measure(&s, meter, types[i]);
    }
    machine_free(meter);
    return 0;
}
