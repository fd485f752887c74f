/* Products of fp8: against the same products in double, of factors that are rounded to e4m3 here; and what a stream of the
 * option `fp8` does where it cannot.
 * The test device adds in f32: outputs are near to 1e-5 of the sum of magnitudes. Tensor cores keep some 14 bits of each
 * of 32 products, as many below the largest: up to 2^-13 of that, which among normal numbers is some 8 times the others,
 * and so 2^-10 of the sum where all is lost to one side. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <math.h>

#include "conformance/fp8_problem.h"
#include "conformance/plain_e4m3.h"
#include "conformance/side.h"
#include "support/support.h"

/* ---- A problem ---- */

static const char *const endings[] = {"plain", "capped", "added", "gated"};

static setting on_cuda(dtype weight) {
    return (setting){ops_device_find("cuda"), DTYPE_F32, weight, OPS_FAST, 1};
}

/* A side whose stream has the option, or not. */
static void open_side(side *s, const fp8_problem *p, bool fp8) {
    const setting as = on_cuda(p->weight);
    const ops_limits limits = {.tokens = p->tokens,
                               .sequences = 1,
                               .width = p->width > p->rows ? p->width : p->rows,
                               .heads = 1,
                               .head_dim_qk = 16,
                               .head_dim_v = 16,
                               .vocab = 64,
                               .activation = DTYPE_F32};
    const ops_stream_options options = {.profile = OPS_FAST, .limits = limits, .fp8 = fp8};
    side_open(s, &as, false, false, 7, &limits);
    as.device->stream_free(s->stream);
    if (as.device->stream_create(as.device, &options, &s->stream) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
}

static fp8_operands draw(side *s, const fp8_problem *p) {
    const int64_t x[] = {p->tokens, p->width}, w[] = {p->rows, p->width},
                  out[] = {p->tokens, p->rows};
    fp8_operands o = {0};
    if (p->narrow && p->ending == ADDED) {
        double *values = must_allocate(sizeof *values * (size_t)(p->tokens * p->width));
        draw_normal(s->seed, 9, 0, p->tokens * p->width, 0, 1, values);
        o.x = side_place(s, DTYPE_BF16, 2, x, values);
        free(values);
    } else {
        o.x = side_draw(s, SIDE_TABLE, 2, x, 0, 1);
    }
    o.norm = side_draw(s, SIDE_TABLE, 1, &p->width, 1, 0.2);
    for (int i = 0; i < (p->ending == GATED ? 2 : 1); i++) {
        o.weight[i] = side_draw(s, SIDE_WEIGHT, 2, w, 0, 1 / sqrt((double)p->width));
        if (p->biased)
            o.bias[i] = side_draw(s, SIDE_TABLE, 1, &p->rows, 0, 0.5);
    }
    if (p->ending == ADDED)
        o.residual = side_draw(s, SIDE_TABLE, 2, out, 0, 1);
    if (p->narrow && p->ending != ADDED) {
        double *values = must_allocate(sizeof *values * (size_t)(p->tokens * p->rows));
        o.out = side_place(s, DTYPE_BF16, 2, out, values);
        free(values);
    } else {
        o.out = side_poison(s, 2, out);
    }
    side_output(s, "out", &o.out);
    return o;
}

static void run_once(side *s, const fp8_problem *p, const fp8_operands *o) {
    const ops_table *ops = &s->as.device->ops;
    const ops_norm norm = {.kind = p->normed ? OPS_NORM_RMS : OPS_NORM_NONE,
                           .groups = 1,
                           .eps = 1e-6,
                           .weight = o->norm};
    if (p->ending == ADDED)
        ops->project_add(s->stream, &(struct ops_project_add){.x = o->x,
                                                              .weight = o->weight[0],
                                                              .bias = o->bias[0],
                                                              .residual = o->residual,
                                                              .sign = -1,
                                                              .out = o->out});
    else if (p->ending == GATED)
        ops->norm_project_gated(s->stream,
                                &(struct ops_norm_project_gated){.x = o->x,
                                                                 .norm = norm,
                                                                 .activation = OPS_SILU,
                                                                 .gate_weight = o->weight[0],
                                                                 .gate_bias = o->bias[0],
                                                                 .up_weight = o->weight[1],
                                                                 .up_bias = o->bias[1],
                                                                 .out = o->out});
    else
        ops->norm_project(s->stream,
                          &(struct ops_norm_project){
                              .x = o->x,
                              .norm = norm,
                              .count = 1,
                              .projection = {{o->weight[0], o->bias[0],
                                              p->ending == CAPPED ? FP8_CAP : 0, o->out, false}}});
}

static void rehearse(side *s, bool on) {
    s->as.device->rehearse(s->stream, on);
}

static void run_rehearsed(side *s, const fp8_problem *p, const fp8_operands *o) {
    rehearse(s, true);
    run_once(s, p, o);
    rehearse(s, false);
    run_once(s, p, o);
}

static bool on_test_device(void) {
    char text[512];
    ops_device *device = ops_device_find("cuda");
    device->describe(device, text, sizeof text);
    return strstr(text, "test device") != NULL;
}

/* Every output near the product of the rounded factors; with a norm, whose last bit may round another way, nearly
 * every. The outputs are far enough from what is not rounded, so that a product of bf16 would be seen. */
static void check(const fp8_problem *p, bool is_fp8) {
    side s;
    char what[160];
    snprintf(what, sizeof what, "%s, %lld x %lld x %lld, %s%s%s%s", endings[p->ending],
             (long long)p->tokens, (long long)p->rows, (long long)p->width, dtype_name(p->weight),
             p->normed ? ", normed" : "", p->biased ? ", biased" : "", p->narrow ? ", narrow" : "");
    open_side(&s, p, true);
    const fp8_operands o = draw(&s, p);
    run_rehearsed(&s, p, &o);
    side_finish(&s, what);
    const int64_t count = p->tokens * p->rows;
    double *room = must_allocate((size_t)count * sizeof *room);
    double *plain = fp8_expected(&s, p, &o, false, 0, room);
    double *fp8 = fp8_expected(&s, p, &o, true, on_test_device() ? 1e-5 : 0x1p-10, room);
    const double *y = s.outputs[0].values;
    int64_t outside = 0;
    for (int64_t i = 0; i < count; i++)
        outside += !(fabs(y[i] - fp8[i]) <= room[i]);
    const double from_plain = distance(y, plain, count, 1e-3);
    const double from_fp8 = distance(y, fp8, count, 1e-3);
    if (is_fp8 && outside > (p->normed ? count / 1000 : 0))
        fail_msg("%s: %lld of %lld outputs are not the product of e4m3 factors (%.2e)", what,
                 (long long)outside, (long long)count, from_fp8);
    if (is_fp8 ? from_plain < 0.005 || from_plain > 0.08 : from_plain > 0.005)
        fail_msg("%s: %.2e from what is not rounded", what, from_plain);
    free(room);
    free(plain);
    free(fp8);
    side_close(&s);
}

/* ---- Tests ---- */

/* What devices are compared with: e4m3 as its definition has it. */
static void test_values(void **state) {
    (void)state;
    for (int code = 0; code < 126; code++) {
        const double low = e4m3_magnitude(code), high = e4m3_magnitude(code + 1),
                     middle = (low + high) / 2;
        assert_true(e4m3_rounded(low) == low && e4m3_rounded(-high) == -high);
        assert_true(e4m3_rounded(middle) == (code % 2 == 0 ? low : high));
        assert_true(e4m3_rounded(middle * (1 + 1e-9)) == high &&
                    e4m3_rounded(middle * (1 - 1e-9)) == low);
    }
    assert_true(e4m3_magnitude(1) == 0x1p-9 && e4m3_magnitude(8) == 0x1p-6);
    assert_true(e4m3_rounded(1e9) == 448 && e4m3_rounded(-449) == -448 && isnan(e4m3_rounded(NAN)));
}

static void test_cuda_endings(void **state) {
    (void)state;
    static const int64_t tokens[] = {129, 150, 300}, rows[] = {36, 264, 320},
                         widths[] = {64, 100, 200, 384};
    int drawn = 0;
    for (int e = 0; e < ENDINGS; e++)
        for (int t = 0; t < 3; t++)
            for (int r = 0; r < 3; r++)
                for (int biased = 0; biased < 2; biased++)
                    check(&(fp8_problem){.tokens = tokens[t],
                                         .rows = rows[r],
                                         .width = widths[drawn++ % 4],
                                         .ending = (enum ending)e,
                                         .weight = DTYPE_BF16,
                                         .biased = biased},
                          e != CAPPED);
}

/* bf16 between the ops of a layer. */
static void test_cuda_narrow(void **state) {
    (void)state;
    static const int64_t widths[] = {64, 104, 384};
    for (int e = 0; e < ENDINGS; e++)
        for (int w = 0; w < 3; w++)
            check(&(fp8_problem){.tokens = 150,
                                 .rows = 264,
                                 .width = widths[w],
                                 .ending = (enum ending)e,
                                 .weight = DTYPE_BF16,
                                 .biased = w == 1,
                                 .narrow = true},
                  e != CAPPED);
}

/* Rows of bf16 as they lie, which are quantised at once up to 12,288 values. */
static void test_cuda_plain_rows(void **state) {
    (void)state;
    static const int64_t widths[] = {4104, 12288, 12296};
    for (int w = 0; w < 3; w++)
        check(&(fp8_problem){.tokens = 130,
                             .rows = 40,
                             .width = widths[w],
                             .ending = ADDED,
                             .weight = DTYPE_BF16,
                             .narrow = true},
              true);
}

/* More pairs of tiles than a band has, and than the test device has clusters. */
static void test_cuda_bands(void **state) {
    (void)state;
    check(
        &(fp8_problem){
            .tokens = 2180, .rows = 520, .width = 48, .ending = PLAIN, .weight = DTYPE_BF16},
        true);
}

static void test_cuda_weights(void **state) {
    (void)state;
    static const dtype types[] = {DTYPE_F32,  DTYPE_F16,  DTYPE_Q8_0, DTYPE_Q5_0,
                                  DTYPE_Q5_1, DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_IQ4_NL};
    for (int i = 0; i < 8; i++)
        check(
            &(fp8_problem){
                .tokens = 131, .rows = 64, .width = 96, .ending = GATED, .weight = types[i]},
            true);
}

/* Rows that a thread keeps, and rows that it makes twice. */
static void test_cuda_norms(void **state) {
    (void)state;
    static const int64_t widths[] = {72, 333, 4100};
    for (int i = 0; i < 3; i++)
        check(&(fp8_problem){.tokens = 130,
                             .rows = 40,
                             .width = widths[i],
                             .ending = i == 1 ? GATED : PLAIN,
                             .weight = DTYPE_BF16,
                             .normed = true},
              true);
}

/* Few tokens, and outputs that the copy engine cannot write, go the way of the profile; soft caps do, too. */
static void test_cuda_others(void **state) {
    (void)state;
    check(&(fp8_problem){.tokens = 128, .rows = 64, .width = 96, .weight = DTYPE_BF16}, false);
    check(&(fp8_problem){.tokens = 150, .rows = 33, .width = 96, .weight = DTYPE_BF16}, false);
}

/* ---- The end of an mLSTM layer: rows are normed by head, and gated ---- */

typedef struct layer {
    int64_t tokens, heads, size, rows;
    bool skips;
    dtype between; /* of h and the gate */
} layer;

/* act(o) * (norm(h) + skip * x), in double. */
static double *layer_rows(side *s, const layer *l, const struct ops_mlstm_output *op) {
    double *h = side_read(s, &op->h), *o = side_read(s, &op->output_gate);
    double *weight = side_read(s, &op->norm.weight);
    double *skip = l->skips ? side_read(s, &op->skip) : NULL;
    double *x = l->skips ? side_read(s, &op->skip_input) : NULL;
    const int64_t width = l->heads * l->size;
    for (int64_t row = 0; row < l->tokens * l->heads; row++) {
        double *y = h + row * l->size, mean = 0, squares = 0;
        for (int64_t i = 0; i < l->size; i++)
            mean += y[i] / (double)l->size;
        for (int64_t i = 0; i < l->size; i++)
            squares += (y[i] - mean) * (y[i] - mean);
        for (int64_t i = 0; i < l->size; i++) {
            const int64_t at = row * l->size + i, column = at % width;
            y[i] = (y[i] - mean) / sqrt(squares / (double)l->size + 1e-6) * weight[column];
            y[i] += l->skips ? skip[column] * x[at] : 0;
            y[i] *= (l->skips ? o[at] : 1) / (1 + exp(-o[at]));
        }
    }
    free(o);
    free(weight);
    free(skip);
    free(x);
    return h;
}

static void check_layer(const layer *l) {
    const int64_t width = l->heads * l->size;
    const fp8_problem p = {
        .tokens = l->tokens, .rows = l->rows, .width = width, .weight = DTYPE_BF16};
    const int64_t split[] = {l->tokens, l->heads, l->size}, flat[] = {l->tokens, width},
                  w[] = {l->rows, width}, out[] = {l->tokens, l->rows};
    side s;
    open_side(&s, &p, true);
    double *values = must_allocate(sizeof *values * (size_t)(l->tokens * width));
    draw_normal(5, 1, 0, l->tokens * width, 0.3, 2, values);
    struct ops_mlstm_output op = {.h = side_place(&s, l->between, 3, split, values),
                                  .activation = l->skips ? OPS_SILU : OPS_SIGMOID,
                                  .norm = {.kind = OPS_NORM_LAYER,
                                           .groups = (int)l->heads,
                                           .eps = 1e-6,
                                           .weight = side_draw(&s, SIDE_TABLE, 1, &width, 1, 0.2)},
                                  .weight = side_draw(&s, SIDE_WEIGHT, 2, w, 0, 0.05),
                                  .residual = side_draw(&s, SIDE_TABLE, 2, out, 0, 1),
                                  .sign = 1,
                                  .out = side_poison(&s, 2, out)};
    draw_normal(6, 1, 0, l->tokens * width, 0, 1, values);
    op.output_gate = side_place(&s, l->between, 2, flat, values);
    if (l->skips) {
        op.skip = side_draw(&s, SIDE_TABLE, 1, &width, 1, 0.2);
        op.skip_input = side_draw(&s, SIDE_TABLE, 2, flat, 0, 1);
    }
    side_output(&s, "out", &op.out);
    rehearse(&s, true);
    s.as.device->ops.mlstm_output(s.stream, &op);
    rehearse(&s, false);
    s.as.device->ops.mlstm_output(s.stream, &op);
    side_finish(&s, "mlstm_output");
    double *x = layer_rows(&s, l, &op);
    float *scale = e4m3_quantise(x, l->tokens, width);
    const fp8_operands o = {.weight = {op.weight}};
    fp8_product want = fp8_multiply(&s, &p, &o, 0, x, scale, true);
    double *residual = side_read(&s, &op.residual);
    for (int64_t i = 0; i < l->tokens * l->rows; i++)
        want.z[i] += residual[i];
    const double error = distance(s.outputs[0].values, want.z, l->tokens * l->rows, 1e-3);
    if (!(error < 5e-4))
        fail_msg("%lld heads of %lld: %.2e from the product of e4m3 factors", (long long)l->heads,
                 (long long)l->size, error);
    free(values);
    free(x);
    free(scale);
    free(want.z);
    free(want.size);
    free(residual);
    side_close(&s);
}

/* Heads that a warp each keeps; more of them than warps; longer ones than a warp keeps; odd ones. */
static void test_cuda_layers(void **state) {
    (void)state;
    check_layer(&(layer){130, 4, 64, 48, false, DTYPE_F32});
    check_layer(&(layer){130, 4, 64, 48, true, DTYPE_F32});
    check_layer(&(layer){130, 12, 32, 48, false, DTYPE_F32});
    check_layer(&(layer){130, 2, 600, 48, true, DTYPE_F32});
    check_layer(&(layer){130, 3, 37, 48, false, DTYPE_F32});
    check_layer(&(layer){130, 8, 64, 48, false, DTYPE_BF16});
    check_layer(&(layer){130, 2, 600, 48, false, DTYPE_BF16});
}

/* The identity gives rows back as they were rounded: a row's largest is 448, so that nothing is scaled. */
static void test_cuda_rounding(void **state) {
    (void)state;
    enum { TOKENS = 160, WIDTH = 256 };
    const fp8_problem p = {.tokens = TOKENS, .rows = WIDTH, .width = WIDTH, .weight = DTYPE_F32};
    const int64_t shape[] = {TOKENS, WIDTH}, square[] = {WIDTH, WIDTH};
    double *x = must_allocate(sizeof *x * TOKENS * WIDTH),
           *w = must_allocate(sizeof *w * WIDTH * WIDTH);
    draw_normal(3, 1, 0, (int64_t)TOKENS * WIDTH, 0, 100, x);
    for (int i = 0; i < TOKENS * WIDTH; i++) {
        const double spread = ldexp(1, -(int)draw_integer(4, (uint64_t)i, 14));
        x[i] = fmin(fmax((double)(float)(x[i] * spread), -448), 448);
    }
    for (int code = 0; code < 127; code++) {
        x[code] = e4m3_magnitude(
            code); /* row 0: what there is; row 1: what lies in the middle; others: drawn */
        x[128 + code] = -e4m3_magnitude(code);
        if (code < 126) {
            x[WIDTH + code] = (e4m3_magnitude(code) + e4m3_magnitude(code + 1)) / 2;
            x[WIDTH + 128 + code] = -x[WIDTH + code];
        }
    }
    for (int i = 0; i < WIDTH; i++)
        w[i * WIDTH + i] = 448;
    for (int t = 0; t < TOKENS; t++)
        x[t * WIDTH + 127] = t % 2 ? 448 : -448;
    for (int i = 0; i < WIDTH; i++)
        x[5 * WIDTH + i] = 0; /* nothing */
    x[7 * WIDTH + 9] = NAN;   /* and nothing else of the other rows */
    side s;
    open_side(&s, &p, true);
    fp8_operands o = {.x = side_place(&s, DTYPE_F32, 2, shape, x),
                      .weight = {side_place(&s, DTYPE_F32, 2, square, w)},
                      .out = side_poison(&s, 2, shape)};
    side_output(&s, "out", &o.out);
    run_rehearsed(&s, &p, &o);
    side_finish(&s, "rounding");
    const double *y = s.outputs[0].values;
    for (int i = 0; i < TOKENS * WIDTH; i++)
        if (i / WIDTH == 7 ? !isnan(y[i]) : y[i] != 448 * e4m3_rounded(x[i]))
            fail_msg("row %d, column %d: %a became %a and should be %a", i / WIDTH, i % WIDTH, x[i],
                     y[i] / 448, e4m3_rounded(x[i]));
    free(x);
    free(w);
    side_close(&s);
}

/* Five matrices of the same rows of tokens are more than one kernel takes; and a weight that comes again. */
static void test_cuda_several(void **state) {
    (void)state;
    const fp8_problem p = {.tokens = 140, .rows = 64, .width = 80, .weight = DTYPE_BF16};
    enum { MATRICES = 6 };
    side s;
    open_side(&s, &p, true);
    fp8_operands o[MATRICES];
    for (int i = 0; i < MATRICES; i++) {
        o[i] = draw(&s, &p);
        o[i].x = o[0].x;
    }
    o[MATRICES - 1].weight[0] = o[0].weight[0];
    struct ops_norm_project op = {.x = o[0].x, .norm = {.kind = OPS_NORM_NONE}, .count = MATRICES};
    for (int i = 0; i < MATRICES; i++) {
        op.projection[i].weight = o[i].weight[0];
        op.projection[i].out = o[i].out;
    }
    rehearse(&s, true);
    s.as.device->ops.norm_project(s.stream, &op);
    rehearse(&s, false);
    s.as.device->ops.norm_project(s.stream, &op);
    side_finish(&s, "several");
    const int64_t count = p.tokens * p.rows;
    double *room = must_allocate((size_t)count * sizeof *room);
    for (int i = 0; i < MATRICES; i++) {
        double *want = fp8_expected(&s, &p, &o[i], true, 0, room);
        assert_true(distance(s.outputs[i].values, want, count, 1e-3) < 1e-3);
        free(want);
    }
    free(room);
    side_close(&s);
}

/* Gates beside a matrix: of rows in bf16, which are made with those in e4m3. */
static void check_gates(int64_t width, int64_t rows) {
    const fp8_problem p[2] = {{.tokens = 140,
                               .rows = 64,
                               .width = width,
                               .ending = PLAIN,
                               .weight = DTYPE_BF16,
                               .normed = true},
                              {.tokens = 140,
                               .rows = rows,
                               .width = width,
                               .ending = CAPPED,
                               .weight = DTYPE_BF16,
                               .normed = true}};
    side s;
    open_side(&s, &p[0], true);
    fp8_operands o[2] = {draw(&s, &p[0]), draw(&s, &p[1])};
    o[1].x = o[0].x;
    o[1].norm = o[0].norm;
    const struct ops_norm_project op = {
        .x = o[0].x,
        .norm = {.kind = OPS_NORM_RMS, .groups = 1, .eps = 1e-6, .weight = o[0].norm},
        .count = 2,
        .projection = {{o[0].weight[0], o[0].bias[0], 0, o[0].out, false},
                       {o[1].weight[0], o[1].bias[0], FP8_CAP, o[1].out, false}}};
    rehearse(&s, true);
    s.as.device->ops.norm_project(s.stream, &op);
    rehearse(&s, false);
    s.as.device->ops.norm_project(s.stream, &op);
    side_finish(&s, "gates");
    for (int i = 0; i < 2; i++) {
        const int64_t count = p[i].tokens * p[i].rows;
        double *room = must_allocate((size_t)count * sizeof *room);
        double *plain = fp8_expected(&s, &p[i], &o[i], false, 0, room);
        const double from_plain = distance(s.outputs[i].values, plain, count, 1e-3);
        if (i == 0 ? from_plain < 0.005 || from_plain > 0.08 : !(from_plain < 0.005))
            fail_msg("gates, %lld wide: output %d is %.2e from what is not rounded",
                     (long long)width, i, from_plain);
        free(room);
        free(plain);
    }
    side_close(&s);
}

static void test_cuda_gates(void **state) {
    (void)state;
    check_gates(80, 8);
    check_gates(4104, 8); /* more than threads keep */
    check_gates(1112, 27);
}

static void test_cuda_unrehearsed(void **state) {
    (void)state;
    const fp8_problem p = {.tokens = 140, .rows = 64, .width = 80, .weight = DTYPE_BF16};
    side s;
    open_side(&s, &p, true);
    const fp8_operands o = draw(&s, &p);
    run_once(&s, &p, &o);
    test_expect_error(s.as.device->wait(s.stream), XLSTM_INVALID_ARGUMENT,
                      "a matrix of 64 x 80 is multiplied that the stream's rehearsal did not have");
    side_finish(&s, "unrehearsed");
    side_close(&s);
}

int main(int argc, char **argv) {
    static struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),           cmocka_unit_test(test_cuda_rounding),
        cmocka_unit_test(test_cuda_endings),     cmocka_unit_test(test_cuda_narrow),
        cmocka_unit_test(test_cuda_plain_rows),  cmocka_unit_test(test_cuda_bands),
        cmocka_unit_test(test_cuda_weights),     cmocka_unit_test(test_cuda_norms),
        cmocka_unit_test(test_cuda_others),      cmocka_unit_test(test_cuda_layers),
        cmocka_unit_test(test_cuda_several),     cmocka_unit_test(test_cuda_gates),
        cmocka_unit_test(test_cuda_unrehearsed),
    };
    return test_run_group(tests, sizeof tests / sizeof *tests, argc, argv);
}
