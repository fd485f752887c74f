/* Speed of every op with the shapes of xLSTM-7B in bf16: GB/s of the weights and states that it
 * must move, GFLOP/s that it must do, and both as percentages of what this machine's processors
 * were measured to reach in the same run (more than 100 %: the data fit into a cache). The median
 * of several runs after one to warm up. Devices with products of fp8 get a long prompt, too, without
 * and with them. */
#include "conformance/checks.h"
#include "conformance/side.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/clock.h"
#include "engine/machine.h"

enum {
    WIDTH = 4096,
    FFN = 10944,
    VOCAB = 50304,
    HEADS = 8,
    D_QK = 256,
    D_V = 512,
    RUNS = 9,
    PROMPT = 8192
};

typedef struct workbench {
    ops_device *device;
    ops_stream *stream;
    int64_t tokens;
    ops_tensor x, wide, h, out; /* [T][WIDTH], [T][VOCAB], [T][HEADS][D_V], [T][WIDTH] */
    ops_tensor weight;          /* [VOCAB][WIDTH] bf16: all others are parts of it */
    ops_tensor norm;            /* [WIDTH] */
    struct ops_mlstm mlstm;
} workbench;

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static ops_tensor fresh(workbench *w, dtype type, int rank, const int64_t *shape, uint16_t fill) {
    ops_tensor t = ops_tensor_make(must_allocate(sizeof(ops_buffer)), 0, type, rank, shape);
    size_t size = (size_t)ops_tensor_elements(&t) * dtype_size(type);
    if (w->device->buffer_create(w->device, size, t.buffer) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    uint16_t *values = must_allocate(size);
    for (size_t i = 0; i < size / sizeof *values; i++) /* bf16 and, pairwise, f32 of either sign */
        values[i] = (uint16_t)(fill ^ (i * 2654435761u >> 16 & 0x807Fu));
    if (fill)
        w->device->write(w->stream, t.buffer, 0, values, size);
    if (w->device->wait(w->stream) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    free(values);
    return t;
}

static void release(workbench *w, ops_tensor *t) {
    w->device->buffer_free(t->buffer);
    free(t->buffer);
}

/* Rows of the big weight as a matrix [outputs][inputs]. */
static ops_tensor matrix(const workbench *w, int64_t outputs, int64_t inputs) {
    ops_tensor t =
        ops_tensor_make(w->weight.buffer, 0, DTYPE_BF16, 2, (int64_t[]){outputs, inputs});
    return t;
}

static ops_norm rms(const workbench *w) {
    return (ops_norm){.kind = OPS_NORM_RMS, .groups = 1, .eps = 1e-6, .weight = w->norm};
}

static void run_qkvo(workbench *w) {
    struct ops_norm_project op = {.x = w->x, .norm = rms(w), .count = 4};
    const int64_t outputs[] = {HEADS * D_QK, HEADS * D_QK, HEADS * D_V, HEADS * D_V};
    int64_t first = 0;
    for (int i = 0; i < 4; first += outputs[i++]) {
        ops_tensor all = matrix(w, VOCAB, WIDTH);
        op.projection[i].weight = ops_tensor_rows(&all, first, outputs[i]);
        op.projection[i].out = side_columns(&w->wide, first, outputs[i]);
    }
    w->device->ops.norm_project(w->stream, &op);
}

static void run_gated(workbench *w) {
    ops_tensor all = matrix(w, VOCAB, WIDTH);
    struct ops_norm_project_gated op = {.x = w->x,
                                        .norm = rms(w),
                                        .gate_weight = ops_tensor_rows(&all, 0, FFN),
                                        .up_weight = ops_tensor_rows(&all, FFN, FFN),
                                        .out = side_columns(&w->wide, 0, FFN)};
    w->device->ops.norm_project_gated(w->stream, &op);
}

static void run_down(workbench *w) {
    struct ops_project_add op = {.x = side_columns(&w->wide, 0, FFN),
                                 .weight = matrix(w, WIDTH, FFN),
                                 .residual = w->x,
                                 .sign = 1,
                                 .out = w->out};
    w->device->ops.project_add(w->stream, &op);
}

static void run_output(workbench *w) {
    struct ops_mlstm_output op = {.h = w->h,
                                  .output_gate = side_columns(&w->wide, 0, HEADS * D_V),
                                  .activation = OPS_SIGMOID,
                                  .norm = rms(w),
                                  .weight = matrix(w, WIDTH, HEADS * D_V),
                                  .residual = w->x,
                                  .sign = 1,
                                  .out = w->out};
    op.norm.kind = OPS_NORM_LAYER;
    op.norm.groups = HEADS;
    w->device->ops.mlstm_output(w->stream, &op);
}

static void run_head(workbench *w) {
    struct ops_norm_project op = {
        .x = w->x,
        .norm = rms(w),
        .count = 1,
        .projection = {{.weight = w->weight, .soft_cap = 30, .out = w->wide}}};
    w->device->ops.norm_project(w->stream, &op);
}

static void run_mlstm(workbench *w) {
    w->device->ops.mlstm(w->stream, &w->mlstm);
}

static void run_normalize(workbench *w) {
    struct ops_normalize op = {w->x, rms(w), w->out};
    w->device->ops.normalize(w->stream, &op);
}

/* Needed of one run: `weights` bf16 elements read once, `state` bytes moved once a sequence,
 * `products` multiply-adds a token. */
static const struct measured {
    const char *name;
    void (*run)(workbench *);
    double weights, state, products;
} all_measured[] = {
    {"norm_project q k v o", run_qkvo, 12288.0 * WIDTH, 0, 12288.0 * WIDTH},
    {"mlstm", run_mlstm, 0, 2.0 * 4 * HEADS *D_QK *D_V, 2.5 * HEADS *D_QK *D_V},
    {"mlstm_output", run_output, 1.0 * WIDTH *WIDTH, 0, 1.0 * WIDTH *WIDTH},
    {"norm_project_gated", run_gated, 2.0 * FFN *WIDTH, 0, 2.0 * FFN *WIDTH},
    {"project_add (down)", run_down, 1.0 * FFN *WIDTH, 0, 1.0 * FFN *WIDTH},
    {"norm_project (head)", run_head, 1.0 * VOCAB *WIDTH, 0, 1.0 * VOCAB *WIDTH},
    {"normalize", run_normalize, 0, 2.0 * 4 * WIDTH, 2.0 * WIDTH},
};

/* Weights that are wanted in fp8 are made in that. */
static void rehearse(workbench *w) {
    w->device->rehearse(w->stream, true);
    for (size_t i = 0; i < sizeof all_measured / sizeof *all_measured; i++)
        all_measured[i].run(w);
    w->device->rehearse(w->stream, false);
}

static void open_workbench(workbench *w, ops_device *device, int64_t tokens, bool fp8) {
    ops_stream_options options = {.profile = OPS_FAST,
                                  .fp8 = fp8,
                                  .limits = {.tokens = tokens,
                                             .sequences = 1,
                                             .width = FFN,
                                             .heads = HEADS,
                                             .head_dim_qk = D_QK,
                                             .head_dim_v = D_V,
                                             .vocab = VOCAB,
                                             .activation = DTYPE_F32}};
    *w = (workbench){.device = device, .tokens = tokens};
    if (device->stream_create(device, &options, &w->stream) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    w->x = fresh(w, DTYPE_F32, 2, (int64_t[]){tokens, WIDTH}, 0x3F00);
    w->wide = fresh(w, DTYPE_F32, 2, (int64_t[]){tokens, VOCAB}, 0x3F00);
    w->h = fresh(w, DTYPE_F32, 3, (int64_t[]){tokens, HEADS, D_V}, 0x3F00);
    w->out = fresh(w, DTYPE_F32, 2, (int64_t[]){tokens, WIDTH}, 0x3F00);
    w->weight = fresh(w, DTYPE_BF16, 2, (int64_t[]){VOCAB, WIDTH}, 0x3C00);
    w->norm = fresh(w, DTYPE_BF16, 1, (int64_t[]){WIDTH}, 0x3F00);

    ops_tensor q = side_columns(&w->wide, 0, HEADS * D_QK);
    ops_tensor k = side_columns(&w->wide, HEADS * D_QK, HEADS * D_QK);
    ops_tensor v = side_columns(&w->wide, 2 * HEADS * D_QK, HEADS * D_V);
    const int64_t state[] = {1, HEADS, D_QK, D_V};
    int32_t start[] = {0, (int32_t)tokens};
    w->mlstm = (struct ops_mlstm){.batch = {.sequences = 1,
                                            .tokens = tokens,
                                            .longest = tokens,
                                            .slot = fresh(w, DTYPE_I32, 1, (int64_t[]){1}, 0),
                                            .start = fresh(w, DTYPE_I32, 1, (int64_t[]){2}, 0),
                                            .position = fresh(w, DTYPE_I64, 1, (int64_t[]){1}, 0)},
                                  .q = ops_tensor_split(&q, HEADS, D_QK),
                                  .k = ops_tensor_split(&k, HEADS, D_QK),
                                  .v = ops_tensor_split(&v, HEADS, D_V),
                                  .input_gate = side_columns(&w->wide, 0, HEADS),
                                  .forget_gate = side_columns(&w->wide, HEADS, HEADS),
                                  .c = fresh(w, DTYPE_F32, 4, state, 0),
                                  .n = fresh(w, DTYPE_F32, 3, state, 0),
                                  .m = fresh(w, DTYPE_F32, 2, state, 0),
                                  .eps = 1e-6,
                                  .h = w->h};
    device->write(w->stream, w->mlstm.batch.start.buffer, 0, start, sizeof start);
    if (fp8)
        rehearse(w);
}

static void close_workbench(workbench *w) {
    ops_tensor *all[] = {&w->x,
                         &w->wide,
                         &w->h,
                         &w->out,
                         &w->weight,
                         &w->norm,
                         &w->mlstm.c,
                         &w->mlstm.n,
                         &w->mlstm.m,
                         &w->mlstm.batch.slot,
                         &w->mlstm.batch.start,
                         &w->mlstm.batch.position};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        release(w, all[i]);
    w->device->stream_free(w->stream);
}

static double seconds_of(workbench *w, const struct measured *m) {
    double times[RUNS];
    for (int run = -1; run < RUNS; run++) {
        double begin = clock_seconds();
        m->run(w);
        if (w->device->wait(w->stream) != XLSTM_OK) {
            printf("%s: %s\n", m->name, xlstm_last_error());
            return (double)INFINITY;
        }
        if (run >= 0)
            times[run] = clock_seconds() - begin;
    }
    qsort(times, RUNS, sizeof *times, by_value);
    return times[RUNS / 2];
}

static void print_line(const struct measured *m, int64_t tokens, double seconds,
                       const machine_limits *limits) {
    double bytes = (2 * m->weights + m->state) / seconds;
    double flops = 2 * m->products * (double)tokens / seconds;
    double most = m->weights > 0 ? limits->read_bytes_per_second : limits->update_bytes_per_second;
    printf("%-22s %7d %10.3f %9.2f %5.1f %% %10.2f %5.1f %%\n", m->name, (int)tokens, seconds * 1e3,
           bytes / 1e9, 100 * bytes / most, flops / 1e9,
           100 * flops / limits->fma_flops_per_second);
    fflush(stdout);
}

static void measure_tokens(ops_device *device, int64_t tokens, bool fp8,
                           const machine_limits *limits) {
    workbench w;
    open_workbench(&w, device, tokens, fp8);
    for (size_t i = 0; i < sizeof all_measured / sizeof *all_measured; i++)
        print_line(&all_measured[i], tokens, seconds_of(&w, &all_measured[i]), limits);
    close_workbench(&w);
}

void measure_speed(ops_device *device) {
    static const int64_t tokens[] = {1, 4, 64, 256};
    char text[300];
    machine_limits limits;
    device->describe(device, text, sizeof text);
    if (machine_measure(0, 0, &limits) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    printf("%s: %s\n%d threads: reads %.1f GB/s, updates %.1f GB/s, %.1f GFLOP/s\n", device->name,
           text, limits.threads, limits.read_bytes_per_second / 1e9,
           limits.update_bytes_per_second / 1e9, limits.fma_flops_per_second / 1e9);
    printf("%-22s %7s %10s %9s %7s %10s %7s\n", "op, xLSTM-7B in bf16", "tokens", "ms", "GB/s", "",
           "GFLOP/s", "");
    for (int i = 0; i < 4; i++)
        measure_tokens(device, tokens[i], false, &limits);
    if (!device->fp8 || device->fp8(device) != XLSTM_OK)
        return;
    measure_tokens(device, PROMPT, false, &limits);
    printf("with the option fp8:\n");
    measure_tokens(device, PROMPT, true, &limits);
}
