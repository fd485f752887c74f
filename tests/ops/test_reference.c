/* The reference device against values computed elsewhere: fixtures of numpy in float64
 * (scripts/make_op_fixtures.py), and cases small enough to derive by hand. Every op runs with f64
 * tensors, where it must agree to the last digits, and with f32 tensors. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "format/npy.h"
#include "ops/ops.h"
#include "ops/reference/reference.h"
#include "support/support.h"

/* Rounding of f64, some tens of operations deep; rounding of f32 inputs, weights and outputs. */
static double tolerance(dtype type) {
    return type == DTYPE_F64 ? 1e-13 : 1e-6;
}

static const dtype types[] = {DTYPE_F64, DTYPE_F32};
enum { TYPES = 2 };

/* ---- A stream, and tensors that live until it is closed ---- */

enum { MAX_BUFFERS = 64 };

typedef struct bench {
    ops_device *device;
    ops_stream *stream;
    dtype type;
    ops_buffer buffers[MAX_BUFFERS];
    int count;
} bench;

static bench open_bench(dtype type) {
    bench b = {.device = reference_device(), .type = type};
    ops_stream_options options = {.threads = 1,
                                  .limits = {.tokens = 64,
                                             .sequences = 4,
                                             .width = 64,
                                             .heads = 4,
                                             .head_dim_qk = 16,
                                             .head_dim_v = 16,
                                             .vocab = 64,
                                             .activation = type}};
    assert_int_equal(b.device->stream_create(b.device, &options, &b.stream), XLSTM_OK);
    return b;
}

static void close_bench(bench *b) {
    assert_int_equal(b->device->wait(b->stream), XLSTM_OK);
    for (int i = 0; i < b->count; i++)
        b->device->buffer_free(&b->buffers[i]);
    b->device->stream_free(b->stream);
}

static ops_tensor empty_tensor(bench *b, dtype type, int rank, const int64_t *shape) {
    ops_tensor t = ops_tensor_make(NULL, 0, type, rank, shape);
    assert_true(b->count < MAX_BUFFERS);
    t.buffer = &b->buffers[b->count++];
    size_t size = (size_t)ops_tensor_elements(&t) * dtype_size(type);
    assert_int_equal(b->device->buffer_create(b->device, size, t.buffer), XLSTM_OK);
    return t;
}

static ops_tensor indices(bench *b, int count, const int32_t *values) {
    ops_tensor t = empty_tensor(b, DTYPE_I32, 1, (int64_t[]){count});
    memcpy(ops_data(&t), values, (size_t)count * sizeof *values);
    return t;
}

static npy_array open_fixture(const char *name) {
    char path[100];
    npy_array array;
    snprintf(path, sizeof path, "tests/ops/data/%s.npy", name);
    if (npy_open(path, &array) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    assert_int_equal(array.dtype, DTYPE_F64);
    return array;
}

static ops_tensor fixture(bench *b, const char *name) {
    npy_array array = open_fixture(name);
    ops_tensor t = empty_tensor(b, b->type, array.rank, array.shape);
    dtype_convert(DTYPE_F64, array.data, b->type, ops_data(&t), array.count);
    npy_close(&array);
    return t;
}

/* An output with the shape of a fixture, full of NaN. */
static ops_tensor output_like(bench *b, const char *name) {
    npy_array array = open_fixture(name);
    ops_tensor t = empty_tensor(b, b->type, array.rank, array.shape);
    memset(t.buffer->host, 0xFF, t.buffer->size);
    npy_close(&array);
    return t;
}

static void assert_fixture(bench *b, const ops_tensor *t, const char *name) {
    assert_int_equal(b->device->wait(b->stream), XLSTM_OK);
    npy_array array = open_fixture(name);
    double *values = malloc((size_t)array.count * sizeof *values);
    assert_non_null(values);
    assert_int_equal(ops_tensor_elements(t), array.count);
    dtype_convert(t->dtype, ops_data(t), DTYPE_F64, values, array.count);
    double error = test_error_f64(values, array.data, array.count);
    if (!(error <= tolerance(b->type)))
        fail_msg("%s in %s: relative error %.2e, tolerance %.0e", name, dtype_name(b->type), error,
                 tolerance(b->type));
    free(values);
    npy_close(&array);
}

/* ---- Norms and projections ---- */

static ops_norm rms(bench *b, double eps) {
    return (ops_norm){
        .kind = OPS_NORM_RMS, .groups = 1, .eps = eps, .weight = fixture(b, "norm_weight")};
}

static ops_norm layer(bench *b, int groups, double eps) {
    return (ops_norm){.kind = OPS_NORM_LAYER,
                      .groups = groups,
                      .eps = eps,
                      .weight = fixture(b, "norm_weight"),
                      .bias = fixture(b, "norm_bias")};
}

static void test_norms(void **state) {
    (void)state;
    for (int i = 0; i < TYPES; i++) {
        bench b = open_bench(types[i]);
        ops_norm norms[] = {rms(&b, 1e-2), layer(&b, 1, 1e-2), layer(&b, 3, 1e-2)};
        const char *names[] = {"rms", "layer", "heads"};
        for (int j = 0; j < 3; j++) {
            struct ops_normalize op = {fixture(&b, "x"), norms[j], output_like(&b, names[j])};
            b.device->ops.normalize(b.stream, &op);
            assert_fixture(&b, &op.out, names[j]);
            op.out = op.x; /* in place */
            b.device->ops.normalize(b.stream, &op);
            assert_fixture(&b, &op.out, names[j]);
        }
        close_bench(&b);
    }
}

static void test_norm_project(void **state) {
    (void)state;
    for (int i = 0; i < TYPES; i++) {
        bench b = open_bench(types[i]);
        struct ops_norm_project op = {
            .x = fixture(&b, "x"),
            .norm = rms(&b, 1e-6),
            .count = 2,
            .projection = {{.weight = fixture(&b, "w"),
                            .bias = fixture(&b, "b"),
                            .soft_cap = 3,
                            .out = output_like(&b, "capped")},
                           {.weight = fixture(&b, "w"), .out = output_like(&b, "plain")}}};
        b.device->ops.norm_project(b.stream, &op);
        assert_fixture(&b, &op.projection[0].out, "capped");
        assert_fixture(&b, &op.projection[1].out, "plain");
        close_bench(&b);
    }
}

static void test_gated(void **state) {
    (void)state;
    for (int i = 0; i < TYPES; i++) {
        bench b = open_bench(types[i]);
        struct ops_norm_project_gated op = {.x = fixture(&b, "x"),
                                            .norm = rms(&b, 1e-6),
                                            .activation = OPS_SILU,
                                            .gate_weight = fixture(&b, "gate"),
                                            .gate_bias = fixture(&b, "gate_bias"),
                                            .up_weight = fixture(&b, "up"),
                                            .up_bias = fixture(&b, "up_bias"),
                                            .out = output_like(&b, "swiglu")};
        b.device->ops.norm_project_gated(b.stream, &op);
        assert_fixture(&b, &op.out, "swiglu");
        op.activation = OPS_GELU;
        b.device->ops.norm_project_gated(b.stream, &op);
        assert_fixture(&b, &op.out, "geglu");
        close_bench(&b);
    }
}

static void test_project_add(void **state) {
    (void)state;
    for (int i = 0; i < TYPES; i++) {
        bench b = open_bench(types[i]);
        struct ops_project_add op = {.x = fixture(&b, "x"),
                                     .weight = fixture(&b, "w"),
                                     .bias = fixture(&b, "b"),
                                     .residual = fixture(&b, "residual"),
                                     .sign = -1};
        op.out = op.residual;
        b.device->ops.project_add(b.stream, &op);
        assert_fixture(&b, &op.out, "added");
        close_bench(&b);
    }
}

static void test_mlstm_output(void **state) {
    (void)state;
    for (int i = 0; i < TYPES; i++) {
        bench b = open_bench(types[i]);
        ops_tensor h = fixture(&b, "x");
        struct ops_mlstm_output op = {.h = ops_tensor_split(&h, 3, 4),
                                      .output_gate = fixture(&b, "output_gate"),
                                      .activation = OPS_SIGMOID,
                                      .norm = layer(&b, 3, 1e-6),
                                      .weight = fixture(&b, "w"),
                                      .residual = fixture(&b, "residual"),
                                      .sign = 1,
                                      .out = output_like(&b, "mlstm_out")};
        b.device->ops.mlstm_output(b.stream, &op);
        assert_fixture(&b, &op.out, "mlstm_out");
        close_bench(&b);
    }
}

static void test_rows(void **state) {
    (void)state;
    bench b = open_bench(DTYPE_F32);
    ops_tensor table = empty_tensor(&b, DTYPE_BF16, 2, (int64_t[]){3, 2});
    memcpy(ops_data(&table), (uint16_t[]){0x3F80, 0x4000, 0xBF80, 0xC000, 0x3F00, 0x3E80}, 12);
    ops_tensor x = empty_tensor(&b, DTYPE_F32, 2, (int64_t[]){4, 2});
    struct ops_embed embed = {table, indices(&b, 4, (int32_t[]){2, 0, 1, 2}), x};
    b.device->ops.embed(b.stream, &embed);
    float embedded[] = {0.5f, 0.25f, 1, 2, -1, -2, 0.5f, 0.25f};
    assert_memory_equal(ops_data(&x), embedded, sizeof embedded);

    ops_tensor y = empty_tensor(&b, DTYPE_F32, 2, (int64_t[]){2, 2});
    struct ops_take_rows take = {x, indices(&b, 2, (int32_t[]){2, 1}), y};
    b.device->ops.take_rows(b.stream, &take);
    float taken[] = {-1, -2, 1, 2};
    assert_memory_equal(ops_data(&y), taken, sizeof taken);

    struct ops_sum sum = {3, {y, y, ops_tensor_rows(&x, 0, 2)}, {1, 1, -1}, y};
    b.device->ops.sum(b.stream, &sum);
    float summed[] = {-2.5f, -4.25f, 1, 2};
    assert_memory_equal(ops_data(&y), summed, sizeof summed);
    close_bench(&b);
}

/* ---- The mLSTM ---- */

static ops_batch one_sequence(bench *b, int32_t tokens, int64_t position) {
    ops_batch batch = {.sequences = 1,
                       .tokens = tokens,
                       .longest = tokens,
                       .slot = indices(b, 1, (int32_t[]){0}),
                       .start = indices(b, 2, (int32_t[]){0, tokens}),
                       .position = empty_tensor(b, DTYPE_I64, 1, (int64_t[]){1})};
    memcpy(ops_data(&batch.position), &position, sizeof position);
    return batch;
}

/* A tensor [a]… of the fixture as the state tensor [1][a]… of a pool with one slot. */
static ops_tensor state_of(bench *b, const char *name) {
    ops_tensor t = fixture(b, name);
    int64_t shape[OPS_MAX_RANK] = {1};
    for (int i = 0; i < t.rank; i++)
        shape[i + 1] = t.shape[i];
    return ops_tensor_make(t.buffer, 0, t.dtype, t.rank + 1, shape);
}

static void test_mlstm(void **state) {
    (void)state;
    static const int chunk_sizes[] = {0, 1, 16, 128};
    for (int i = 0; i < 2 * 4; i++) {
        bench b = open_bench(types[i % 2]);
        struct ops_mlstm op = {.batch = one_sequence(&b, 37, 5),
                               .q = fixture(&b, "mlstm_q"),
                               .k = fixture(&b, "mlstm_k"),
                               .v = fixture(&b, "mlstm_v"),
                               .input_gate = fixture(&b, "mlstm_i"),
                               .forget_gate = fixture(&b, "mlstm_f"),
                               .c = state_of(&b, "mlstm_c0"),
                               .n = state_of(&b, "mlstm_n0"),
                               .m = state_of(&b, "mlstm_m0"),
                               .eps = 1e-6,
                               .chunk_size = chunk_sizes[i / 2],
                               .h = output_like(&b, "mlstm_h")};
        b.device->ops.mlstm(b.stream, &op);
        assert_fixture(&b, &op.h, "mlstm_h");
        assert_fixture(&b, &op.c, "mlstm_c");
        assert_fixture(&b, &op.n, "mlstm_n");
        assert_fixture(&b, &op.m, "mlstm_m");
        close_bench(&b);
    }
}

/* One head, d_qk = d_v = 1, from an empty state: two tokens worked out by hand.
 *   f = 0: log_f = -ln 2.  i = ln 4: m = ln 4, F = exp(-ln 2 - ln 4) = 1/8, I = 1
 *   C = 1 * k v = 6, n = k = 2; q = 3: |q n| = 6 > exp(-m) = 1/4: h = 18 / 6 = 3
 *   then f = 0, i = -inf: m = ln 2, F = 1, I = 0: C = 6, n = 2 (in the scale exp(m)); q = 1/16:
 *   |q n| = 1/8 < exp(-m) = 1/2: h = (6/16) / (1/2) = 3/4 */
static void test_mlstm_by_hand(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        bench b = open_bench(DTYPE_F64);
        ops_tensor x[8];
        for (int j = 0; j < 8; j++)
            x[j] = empty_tensor(&b, DTYPE_F64,
                                j < 5    ? 3
                                : j == 5 ? 4
                                : j == 6 ? 3
                                         : 2,
                                j < 5 ? (int64_t[]){2, 1, 1} : (int64_t[]){1, 1, 1, 1});
        double values[5][2] = {{3, 1.0 / 16}, {2, 5}, {3, 7}, {log(4), -INFINITY}, {0, 0}};
        for (int j = 0; j < 5; j++)
            memcpy(ops_data(&x[j]), values[j], sizeof values[j]);
        ops_tensor h = empty_tensor(&b, DTYPE_F64, 3, (int64_t[]){2, 1, 1});
        struct ops_mlstm op = {.batch = one_sequence(&b, 2, 0),
                               .q = x[0],
                               .k = x[1],
                               .v = x[2],
                               .c = x[5],
                               .n = x[6],
                               .m = x[7],
                               .eps = 0,
                               .chunk_size = i ? 16 : 1,
                               .h = h};
        op.input_gate = ops_tensor_make(x[3].buffer, 0, DTYPE_F64, 2, (int64_t[]){2, 1});
        op.forget_gate = ops_tensor_make(x[4].buffer, 0, DTYPE_F64, 2, (int64_t[]){2, 1});
        b.device->ops.mlstm(b.stream, &op);
        assert_int_equal(b.device->wait(b.stream), XLSTM_OK);
        const double *out = ops_data(&h);
        assert_true(fabs(out[0] - 3) < 1e-14 && fabs(out[1] - 0.75) < 1e-14);
        assert_true(fabs(*(double *)ops_data(&op.c) - 6) < 1e-14);
        assert_true(fabs(*(double *)ops_data(&op.n) - 2) < 1e-14);
        assert_true(fabs(*(double *)ops_data(&op.m) - log(2)) < 1e-14);
        close_bench(&b);
    }
}

/* ---- Sampling ---- */

typedef struct choice {
    struct ops_sample_row row;
    int32_t id;
} choice;

static int32_t choose(bench *b, const float *logits, int count, struct ops_sample_row row,
                      const ops_tensor *penalised) {
    ops_tensor t = empty_tensor(b, DTYPE_F32, 2, (int64_t[]){1, count});
    memcpy(ops_data(&t), logits, (size_t)count * sizeof *logits);
    struct ops_sample op = {.logits = t, .rows = &row, .out = indices(b, 1, (int32_t[]){-1})};
    if (penalised)
        op.penalised = *penalised;
    b->device->ops.sample(b->stream, &op);
    int32_t id = *(int32_t *)ops_data(&op.out);
    b->count -= 2;
    b->device->buffer_free(&b->buffers[b->count]);
    b->device->buffer_free(&b->buffers[b->count + 1]);
    return id;
}

/* Logits whose probabilities are 1/8, 1/2, 1/8, 1/4 at temperature 1: in falling order ids 1, 3, 0,
 * 2 with running sums 0.5, 0.75, 0.875, 1. */
static void test_sample_by_hand(void **state) {
    (void)state;
    const float logits[] = {logf(0.125f), logf(0.5f), logf(0.125f), logf(0.25f)};
    static const choice choices[] = {
        {{.limit = 4}, 1},                                         /* greedy */
        {{.limit = 1}, 0},                                         /* the limit */
        {{.limit = 4, .temperature = 1, .uniform = 0}, 1},         /* the first */
        {{.limit = 4, .temperature = 1, .uniform = 0.499}, 1},     /* */
        {{.limit = 4, .temperature = 1, .uniform = 0.501}, 3},     /* */
        {{.limit = 4, .temperature = 1, .uniform = 0.751}, 0},     /* a tie: lower id first */
        {{.limit = 4, .temperature = 1, .uniform = 0.876}, 2},     /* */
        {{.limit = 4, .temperature = 1, .uniform = 0.9999999}, 2}, /* the last */
        {{.limit = 3, .temperature = 1, .uniform = 0.9999999}, 2}, /* without id 3 */
        {{.limit = 3, .temperature = 1, .uniform = 0.65}, 1},      /* 1/2 of 3/4 */
        {{.limit = 3, .temperature = 1, .uniform = 0.68}, 0},      /* */
        {{.limit = 4, .top_k = 3, .temperature = 1, .uniform = 0.999}, 0},   /* k at a tie */
        {{.limit = 4, .top_k = 2, .temperature = 1, .uniform = 0.66}, 1},    /* 2/3, 1/3 */
        {{.limit = 4, .top_k = 2, .temperature = 1, .uniform = 0.67}, 3},    /* */
        {{.limit = 4, .top_p = 0.4f, .temperature = 1, .uniform = 0.99}, 1}, /* crossing id kept */
        {{.limit = 4, .top_p = 0.6f, .temperature = 1, .uniform = 0.99}, 3}, /* */
        {{.limit = 4, .top_p = 0.8f, .temperature = 1, .uniform = 0.99}, 0}, /* */
        {{.limit = 4, .top_p = 1, .temperature = 1, .uniform = 0.99}, 2},    /* off */
        /* top_p is taken of what top_k left: 2/3 reaches 0.6 */
        {{.limit = 4, .top_k = 2, .top_p = 0.6f, .temperature = 1, .uniform = 0.99}, 1},
        {{.limit = 4, .min_p = 0.4f, .temperature = 1, .uniform = 0.99}, 3}, /* 1/4 >= 0.4 * 1/2 */
        {{.limit = 4, .min_p = 0.6f, .temperature = 1, .uniform = 0.99}, 1}, /* */
        {{.limit = 4, .min_p = 2, .temperature = 1, .uniform = 0.99}, 1},    /* never empty */
        /* temperature 1/2 squares the odds: 16, 4, 1, 1 of 22 */
        {{.limit = 4, .temperature = 0.5f, .uniform = 0.72}, 1},
        {{.limit = 4, .temperature = 0.5f, .uniform = 0.73}, 3},
        {{.limit = 4, .temperature = 1e-38f, .uniform = 0.9999999}, 1}, /* as greedy */
        {{.limit = 4, .temperature = 1e38f, .uniform = 0.2499}, 1},     /* all alike, order kept */
        {{.limit = 4, .temperature = 1e38f, .uniform = 0.2501}, 3},
        {{.limit = 4, .temperature = 1e38f, .uniform = 0.7501}, 2},
    };
    bench b = open_bench(DTYPE_F32);
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++) {
        int32_t id = choose(&b, logits, 4, choices[i].row, NULL);
        if (id != choices[i].id)
            fail_msg("choice %zu: id %d, must be %d", i, (int)id, (int)choices[i].id);
    }
    close_bench(&b);
}

/* Equal logits make the borders exact: probabilities 1, 1, 1, 1. */
static void test_sample_borders(void **state) {
    (void)state;
    const float logits[4] = {3, 3, 3, 3};
    static const choice choices[] = {
        {{.limit = 4, .temperature = 1, .uniform = 0.25}, 1}, /* the sum must exceed */
        {{.limit = 4, .temperature = 1, .uniform = 0.75}, 3},
        {{.limit = 4, .temperature = 1, .top_p = 0.5f, .uniform = 0.99}, 1}, /* reached */
        {{.limit = 4, .temperature = 1, .min_p = 1, .uniform = 0.99}, 3},    /* p = min_p stays */
    };
    bench b = open_bench(DTYPE_F32);
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++)
        assert_int_equal(choose(&b, logits, 4, choices[i].row, NULL), choices[i].id);
    close_bench(&b);
}

static void test_sample_penalty(void **state) {
    (void)state;
    bench b = open_bench(DTYPE_F32);
    /* a list shared by rows; ids twice and out of range do no harm */
    ops_tensor seen = indices(&b, 6, (int32_t[]){9, 1, 1, 7, -1, 0});
    struct ops_sample_row row = {
        .limit = 3, .penalty = 2, .penalised_first = 1, .penalised_count = 4};
    assert_int_equal(choose(&b, (float[]){2.5f, 6, 1}, 3, row, &seen), 1); /* 6 / 2 = 3 > 2.5 */
    assert_int_equal(choose(&b, (float[]){3.5f, 6, 1}, 3, row, &seen), 0);
    assert_int_equal(choose(&b, (float[]){3, 6, 1}, 3, row, &seen), 0);    /* a tie: lower id */
    assert_int_equal(choose(&b, (float[]){-3, -1, -4}, 3, row, &seen), 1); /* -1 * 2 = -2 */
    assert_int_equal(choose(&b, (float[]){-3, -2, -4}, 3, row, &seen), 0); /* -2 * 2 = -4 */
    assert_int_equal(choose(&b, (float[]){-1, 0, -4}, 3, row, &seen), 1);  /* 0 stays 0 */
    row.penalty = 0;
    assert_int_equal(choose(&b, (float[]){3.5f, 6, 1}, 3, row, &seen), 1); /* off */
    float barred[] = {-INFINITY, 1, -INFINITY};
    row = (struct ops_sample_row){.limit = 3, .temperature = 1e38f, .uniform = 0.9999999};
    assert_int_equal(choose(&b, barred, 3, row, NULL), 1);
    close_bench(&b);
}

/* ---- Errors ---- */

static void assert_stuck(bench *b, xlstm_status status, const char *part) {
    assert_int_equal(b->device->wait(b->stream), status);
    if (!strstr(xlstm_last_error(), part))
        fail_msg("the error \"%s\" does not say \"%s\"", xlstm_last_error(), part);
    assert_int_equal(b->device->wait(b->stream), XLSTM_OK);
}

static void test_errors(void **state) {
    (void)state;
    bench b = open_bench(DTYPE_F32);
    struct ops_sample_row row = {.limit = 3};
    choose(&b, (float[]){1, NAN, 2}, 3, row, NULL);
    assert_stuck(&b, XLSTM_DEVICE_ERROR, "id 1 in row 0 is nan");
    choose(&b, (float[]){1, 2, INFINITY}, 3, row, NULL);
    assert_stuck(&b, XLSTM_DEVICE_ERROR, "id 2 in row 0 is inf");
    choose(&b, (float[]){-INFINITY, -INFINITY, -INFINITY}, 3, row, NULL);
    assert_stuck(&b, XLSTM_DEVICE_ERROR, "row 0 has no finite logit");
    row.limit = 4;
    assert_int_equal(choose(&b, (float[]){1, 2, 3}, 3, row, NULL), -1);
    /* the stream is stuck: what follows does nothing */
    row.limit = 3;
    assert_int_equal(choose(&b, (float[]){1, 2, 3}, 3, row, NULL), -1);
    assert_stuck(&b, XLSTM_INVALID_ARGUMENT, "limited to 4 ids");
    assert_int_equal(choose(&b, (float[]){1, 2, 3}, 3, row, NULL), 2);

    ops_tensor narrow = empty_tensor(&b, DTYPE_F32, 2, (int64_t[]){2, 3});
    ops_tensor wide = empty_tensor(&b, DTYPE_F32, 2, (int64_t[]){2, 4});
    struct ops_sum sum = {1, {narrow}, {1}, wide};
    b.device->ops.sum(b.stream, &sum);
    assert_stuck(&b, XLSTM_INVALID_ARGUMENT, "an input is [2, 3], must be [2, 4]");
    close_bench(&b);
}

static void test_devices(void **state) {
    (void)state;
    assert_ptr_equal(ops_device_find("reference"), reference_device());
    assert_null(ops_device_find("abacus"));
    assert_non_null(strstr(xlstm_last_error(), "no device \"abacus\" in this build; it has: cpu"));
    assert_string_equal(ops_name(0), "embed");
    int ops = 0;
    for (; ops_name(ops); ops++)
        assert_true(ops_device_has(reference_device(), ops));
    assert_true(ops >= 10);
    ops_device lacking = *reference_device();
    lacking.ops.take_rows = NULL;
    assert_false(ops_device_has(&lacking, 1));
    assert_true(ops_device_has(&lacking, 2));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norms),          cmocka_unit_test(test_norm_project),
        cmocka_unit_test(test_gated),          cmocka_unit_test(test_project_add),
        cmocka_unit_test(test_mlstm_output),   cmocka_unit_test(test_rows),
        cmocka_unit_test(test_mlstm),          cmocka_unit_test(test_mlstm_by_hand),
        cmocka_unit_test(test_sample_by_hand), cmocka_unit_test(test_sample_penalty),
        cmocka_unit_test(test_sample_borders), cmocka_unit_test(test_errors),
        cmocka_unit_test(test_devices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
