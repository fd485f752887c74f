/* What the conformance tests do not see of the CPU device: each instruction set that this processor
 * has, the accuracy of its functions, conversions bit by bit, results that are equal to the last
 * bit however the work is cut up, and calls that are wrong. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ops/cpu/cpu.h"
#include "ops/cpu/kernels.h"
#include "support/support.h"

typedef void per_kernels(const cpu_kernels *);

static void for_each_set(per_kernels *test) {
    int tested = 0;
    const cpu_kernels *kernels;
    bool runs;
    for (int i = 0; (kernels = cpu_kernels_at(i, &runs)); i++) {
        setenv("XLSTM_CPU_ISA", kernels->name, 1);
        assert_ptr_equal(cpu_kernels_choose(), runs ? kernels : NULL);
        if (!runs)
            continue;
        test(kernels);
        tested++;
    }
    unsetenv("XLSTM_CPU_ISA");
    assert_true(tested > 0);
}

/* ---- Functions ---- */

/* |value - exact| in units of the last place of exact as a float. */
static double ulps(float value, double exact) {
    float rounded = (float)exact;
    if (isinf(rounded) || isnan(rounded) || isinf(value) || isnan(value))
        return value == rounded || (isnan(value) && isnan(rounded)) ? 0 : INFINITY;
    double unit = (double)nextafterf(fabsf(rounded), INFINITY) - (double)fabsf(rounded);
    return fabs((double)value - exact) / unit;
}

typedef void float_function(const cpu_kernels *, const float *x, int64_t count, float *y);

/* The largest error over floats of every exponent and sign, in odd-sized pieces. */
static double worst_ulps(const cpu_kernels *kernels, float_function *function,
                         double (*exact)(double), uint32_t step) {
    enum { COUNT = 37 };
    double worst = 0;
    float x[COUNT], y[COUNT];
    for (uint64_t bits = 0; bits <= UINT32_MAX - (uint64_t)COUNT * step;
         bits += (uint64_t)COUNT * step) {
        for (uint32_t i = 0; i < COUNT; i++) {
            uint32_t pattern = (uint32_t)bits + i * step;
            memcpy(&x[i], &pattern, sizeof x[i]);
        }
        function(kernels, x, COUNT, y);
        for (int i = 0; i < COUNT; i++) {
            double error = ulps(y[i], exact((double)x[i]));
            if (error > worst)
                worst = error;
        }
    }
    return worst;
}

static uint32_t coarse_step(void) {
    return test_is_quick() ? 500009 : 20011;
}

static void call_exp(const cpu_kernels *kernels, const float *x, int64_t count, float *y) {
    kernels->f32->exponential(x, count, y);
}

static void call_tanh(const cpu_kernels *kernels, const float *x, int64_t count, float *y) {
    kernels->cap(x, NULL, 1, count, y);
}

static double exact_silu(double x) {
    return x * (1 / (1 + exp(-x)));
}

static void call_silu(const cpu_kernels *kernels, const float *x, int64_t count, float *y) {
    float ones[64];
    for (int64_t i = 0; i < count; i++)
        ones[i] = 1;
    kernels->f32->gated(OPS_SILU, x, NULL, ones, NULL, count, y);
}

static void check_functions(const cpu_kernels *kernels) {
    assert_true(worst_ulps(kernels, call_exp, exp, coarse_step()) <= 2);
    assert_true(worst_ulps(kernels, call_tanh, tanh, coarse_step()) <= 4);
    float x[] = {-INFINITY, INFINITY, NAN,     0.0f,  -0.0f, 88.7f,
                 89.0f,     -103.9f,  -104.1f, 1e30f, -1e30f};
    enum { COUNT = sizeof x / sizeof *x };
    float y[COUNT];
    kernels->f32->exponential(x, COUNT, y);
    for (int i = 0; i < COUNT; i++)
        assert_true(ulps(y[i], exp((double)x[i])) <= 2);
    assert_true(y[0] == 0 && y[3] == 1);
    /* Where x e^x is above the smallest normal number; below it the sigmoid is 0 or subnormal. */
    for (float z = -80; z < 100; z += 0.0537f) {
        call_silu(kernels, &z, 1, y);
        assert_true(ulps(y[0], exact_silu((double)z)) <= 5);
    }
}

/* |value - exact| relative to exact, in units of 2^-52, where exact is a normal number. */
static double relative_f64(double value, long double exact) {
    if (!isfinite((double)exact) || fabsl(exact) < 0x1p-1021L) /* there a sigmoid may be 0 */
        return fabsl((long double)value - exact) <= 0x1p-1021L || value == (double)exact ||
                       (isnan(value) && isnan((double)exact))
                   ? 0
                   : INFINITY;
    return (double)(fabsl((long double)value - exact) / fabsl(exact) * 0x1p52L);
}

static long double exact_sigmoid(long double x) {
    return 1 / (1 + expl(-x));
}

/* Pieces of every length, so that incomplete vectors are met too. */
static void check_function_f64(void (*function)(const void *, int64_t, void *),
                               long double (*exact)(long double), double most) {
    double x[37], y[37];
    for (int64_t round = 1; round < (test_is_quick() ? 100 : 5000); round++) {
        int64_t count = round % 37 + 1;
        for (int64_t i = 0; i < count; i++)
            x[i] = test_normal(3, (uint64_t)round, (uint64_t)i) * (round % 3 ? 3 : 200);
        function(x, count, y);
        for (int64_t i = 0; i < count; i++)
            assert_true(relative_f64(y[i], exact((long double)x[i])) <= most);
    }
    double special[] = {-INFINITY, INFINITY, NAN, 0.0, 709.7, -708.3, 1e300, -1e300};
    enum { SPECIAL = sizeof special / sizeof *special };
    function(special, SPECIAL, y);
    for (int i = 0; i < SPECIAL; i++)
        assert_true(relative_f64(y[i], exact((long double)special[i])) <= most);
}

static void check_functions_f64(const cpu_kernels *kernels) {
    assert_true(kernels->f32->lanes == 2 * kernels->f64->lanes);
    check_function_f64(kernels->f64->exponential, expl, 1.5);
    check_function_f64(kernels->f64->hyperbolic_tangent, tanhl, 2);
    check_function_f64(kernels->f64->sigmoid, exact_sigmoid, 3);
}

static void functions_are_accurate(void **state) {
    (void)state;
    for_each_set(check_functions);
    for_each_set(check_functions_f64);
}

static void check_conversions(const cpu_kernels *kernels) {
    enum { COUNT = 0x10000 };
    static uint16_t bits[COUNT + 1];
    static float wide[COUNT];
    for (uint32_t i = 0; i < COUNT; i++)
        bits[i + 1] = (uint16_t)i;
    /* From an address that is a multiple of 2 only, to the bit; of NaN only that it is one. */
    for (int f16 = 0; f16 < 2; f16++) {
        kernels->widen(f16 ? DTYPE_F16 : DTYPE_BF16, bits + 1, COUNT, wide);
        for (uint32_t i = 0; i < COUNT; i++) {
            float exact = f16 ? f16_to_float((uint16_t)i) : bf16_to_float((uint16_t)i);
            if (isnan(exact))
                assert_true(isnan(wide[i]));
            else
                assert_memory_equal(&wide[i], &exact, sizeof exact);
        }
    }
}

static void conversions_are_exact(void **state) {
    (void)state;
    for_each_set(check_conversions);
}

/* ---- Streams and tensors ---- */

enum { MOST_TOKENS = 400, WIDTH = 1111, OUTPUTS = 77, HEADS = 3, D_QK = 21, D_V = 83, SLOTS = 4 };

static ops_device *cpu;

static ops_stream *open_stream(int threads) {
    ops_stream_options options = {.threads = threads,
                                  .profile = OPS_EXACT,
                                  .limits = {.tokens = MOST_TOKENS,
                                             .sequences = 4,
                                             .width = WIDTH,
                                             .heads = HEADS,
                                             .head_dim_qk = D_QK,
                                             .head_dim_v = D_V,
                                             .vocab = 100,
                                             .activation = DTYPE_F32}};
    ops_stream *stream;
    assert_int_equal(cpu->stream_create(cpu, &options, &stream), XLSTM_OK);
    return stream;
}

enum { MOST_BUFFERS = 40 };
static ops_buffer buffers[MOST_BUFFERS];
static int buffer_count;

/* Releases what was made since there were `kept`. */
static void release(int kept) {
    while (buffer_count > kept)
        cpu->buffer_free(&buffers[--buffer_count]);
}

/* Normally distributed numbers that depend on `seed` and the index alone; NaN for seed 0. */
static ops_tensor make(dtype type, int rank, const int64_t *shape, uint64_t seed) {
    assert_true(buffer_count < MOST_BUFFERS);
    ops_buffer *buffer = &buffers[buffer_count++];
    ops_tensor t = ops_tensor_make(NULL, 0, type, rank, shape);
    int64_t count = ops_tensor_elements(&t);
    assert_int_equal(cpu->buffer_create(cpu, (size_t)count * dtype_size(type), buffer), XLSTM_OK);
    t.buffer = buffer;
    if (dtype_is_float(type))
        for (int64_t i = 0; i < count; i++)
            dtype_store(type, buffer->host, i,
                        seed ? test_normal(1, seed, (uint64_t)i) : (double)NAN);
    return t;
}

static ops_tensor matrix(dtype type, int64_t rows, int64_t columns, uint64_t seed) {
    return make(type, 2, (int64_t[]){rows, columns}, seed);
}

static size_t bytes_of(const ops_tensor *t) {
    return (size_t)ops_tensor_elements(t) * dtype_size(t->dtype);
}

/* ---- Products ---- */

typedef struct product {
    dtype type;
    ops_tensor x, weight, bias;
} product;

static ops_tensor project(int threads, const product *p, int64_t first, int64_t tokens) {
    struct ops_project_add op = {.x = ops_tensor_rows(&p->x, first, tokens),
                                 .weight = p->weight,
                                 .bias = p->bias,
                                 .sign = 1,
                                 .out = matrix(DTYPE_F32, tokens, OUTPUTS, 0)};
    ops_stream *stream = open_stream(threads);
    cpu->ops.project_add(stream, &op);
    assert_int_equal(cpu->wait(stream), XLSTM_OK);
    cpu->stream_free(stream);
    return op.out;
}

static double exact_output(const product *p, int64_t token, int64_t row) {
    double sum = dtype_load(p->type, ops_data(&p->bias), row);
    for (int64_t k = 0; k < WIDTH; k++)
        sum += dtype_load(DTYPE_F32, ops_data(&p->x), token * WIDTH + k) *
               dtype_load(p->type, ops_data(&p->weight), row * WIDTH + k);
    return sum;
}

static void check_product(const product *p) {
    const int64_t counts[] = {1, 2, 3, 4, 5, 6, 7, 11, 95, 97, 193};
    ops_tensor all = project(1, p, 0, 200);
    const float *expected = ops_data(&all);
    for (int64_t token = 0; token < 200; token += 67)
        for (int64_t row = 0; row < OUTPUTS; row += 19)
            assert_true(
                fabs((double)expected[token * OUTPUTS + row] - exact_output(p, token, row)) < 1e-4);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        int kept = buffer_count;
        ops_tensor some = project(i % 2 ? 7 : 2, p, 5, counts[i]);
        assert_memory_equal(ops_data(&some), expected + 5 * OUTPUTS, bytes_of(&some));
        release(kept);
    }
}

static void check_products(const cpu_kernels *kernels) {
    (void)kernels;
    const dtype types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16, DTYPE_F64};
    ops_tensor x = matrix(DTYPE_F32, 200, WIDTH, 1);
    for (size_t t = 0; t < sizeof types / sizeof *types; t++) {
        int kept = buffer_count;
        product p = {types[t], x, matrix(types[t], OUTPUTS, WIDTH, 2),
                     make(types[t], 1, (int64_t[]){OUTPUTS}, 3)};
        check_product(&p);
        release(kept);
    }
    release(0);
}

static void products_do_not_depend_on_company(void **state) {
    (void)state;
    for_each_set(check_products);
}

/* ---- The mLSTM ---- */

typedef struct states {
    ops_tensor c, n, m;
} states;

static states make_states(void) {
    return (states){make(DTYPE_F32, 4, (int64_t[]){SLOTS, HEADS, D_QK, D_V}, 11),
                    make(DTYPE_F32, 3, (int64_t[]){SLOTS, HEADS, D_QK}, 12),
                    matrix(DTYPE_F32, SLOTS, HEADS, 13)};
}

typedef struct sequence {
    int32_t slot;
    int64_t first, tokens, position;
} sequence;

typedef struct inputs {
    ops_tensor q, k, v, i, f;
} inputs;

static inputs make_inputs(void) {
    return (inputs){make(DTYPE_F32, 3, (int64_t[]){MOST_TOKENS, HEADS, D_QK}, 21),
                    make(DTYPE_F32, 3, (int64_t[]){MOST_TOKENS, HEADS, D_QK}, 22),
                    make(DTYPE_F32, 3, (int64_t[]){MOST_TOKENS, HEADS, D_V}, 23),
                    matrix(DTYPE_F32, MOST_TOKENS, HEADS, 24),
                    matrix(DTYPE_F32, MOST_TOKENS, HEADS, 25)};
}

/* Sequences that follow each other in the inputs; h is as long as all inputs. */
static void run_mlstm(int threads, const inputs *in, const states *st, int count,
                      const sequence *sequences, int chunk_size, const ops_tensor *h) {
    int64_t first = sequences[0].first, tokens = 0;
    ops_tensor slot = make(DTYPE_I32, 1, (int64_t[]){count}, 0);
    ops_tensor start = make(DTYPE_I32, 1, (int64_t[]){count + 1}, 0);
    ops_tensor position = make(DTYPE_I64, 1, (int64_t[]){count}, 0);
    for (int s = 0; s < count; s++) {
        ((int32_t *)ops_data(&slot))[s] = sequences[s].slot;
        ((int64_t *)ops_data(&position))[s] = sequences[s].position;
        tokens += sequences[s].tokens;
        ((int32_t *)ops_data(&start))[s + 1] = (int32_t)tokens;
    }
    struct ops_mlstm op = {.batch = {.sequences = count,
                                     .tokens = tokens,
                                     .longest = tokens,
                                     .slot = slot,
                                     .start = start,
                                     .position = position},
                           .q = ops_tensor_rows(&in->q, first, tokens),
                           .k = ops_tensor_rows(&in->k, first, tokens),
                           .v = ops_tensor_rows(&in->v, first, tokens),
                           .input_gate = ops_tensor_rows(&in->i, first, tokens),
                           .forget_gate = ops_tensor_rows(&in->f, first, tokens),
                           .c = st->c,
                           .n = st->n,
                           .m = st->m,
                           .eps = 1e-6,
                           .chunk_size = chunk_size,
                           .h = ops_tensor_rows(h, first, tokens)};
    ops_stream *stream = open_stream(threads);
    cpu->ops.mlstm(stream, &op);
    assert_int_equal(cpu->wait(stream), XLSTM_OK);
    cpu->stream_free(stream);
}

static void assert_same(const ops_tensor *a, const ops_tensor *b) {
    assert_memory_equal(ops_data(a), ops_data(b), bytes_of(a));
}

static const sequence together[] = {
    {2, 0, 1, 70}, {0, 1, 150, 61}, {3, 151, 70, 0}, {1, 221, 9, 1000}};
enum { TOGETHER = sizeof together / sizeof *together, TOGETHER_TOKENS = 230 };

/* All together on one thread; alone on seven threads; and cut at every chunk border, on two. */
static void check_mlstm(const cpu_kernels *kernels) {
    (void)kernels;
    inputs in = make_inputs();
    const int chunks[] = {1, 16, 64, 128};
    for (size_t i = 0; i < sizeof chunks / sizeof *chunks; i++) {
        int before = buffer_count;
        states st[3];
        ops_tensor h[3];
        for (int j = 0; j < 3; j++) {
            st[j] = make_states();
            h[j] = make(DTYPE_F32, 3, (int64_t[]){TOGETHER_TOKENS, HEADS, D_V}, 0);
        }
        run_mlstm(1, &in, &st[0], TOGETHER, together, chunks[i], &h[0]);
        for (int s = 0; s < TOGETHER; s++) {
            int inner = buffer_count;
            run_mlstm(7, &in, &st[1], 1, &together[s], chunks[i], &h[1]);
            sequence rest = together[s];
            while (rest.tokens > 0) {
                sequence piece = rest;
                int64_t room = chunks[i] - piece.position % chunks[i];
                if (chunks[i] == 1)
                    room = 5;
                if (piece.tokens > room)
                    piece.tokens = room;
                run_mlstm(2, &in, &st[2], 1, &piece, chunks[i], &h[2]);
                rest = (sequence){rest.slot, rest.first + piece.tokens, rest.tokens - piece.tokens,
                                  rest.position + piece.tokens};
                release(inner);
            }
        }
        for (int j = 1; j < 3; j++) {
            assert_same(&h[0], &h[j]);
            assert_same(&st[0].c, &st[j].c);
            assert_same(&st[0].n, &st[j].n);
            assert_same(&st[0].m, &st[j].m);
        }
        release(before);
    }
    release(0);
}

static void mlstm_does_not_depend_on_company(void **state) {
    (void)state;
    for_each_set(check_mlstm);
}

/* NaN in one token of one input reaches the tokens from there on and none before, whatever way it
 * takes. */
static void nan_never_reaches_earlier_tokens(void **state) {
    (void)state;
    const sequence all = {.slot = 1, .first = 0, .tokens = 200, .position = 0};
    for (int input = 0; input < 5; input++)
        for (int token = 3; token < 200; token += 48) {
            inputs in = make_inputs();
            ops_tensor *poisoned[] = {&in.q, &in.k, &in.v, &in.i, &in.f};
            states clean = make_states(), st = make_states();
            ops_tensor h[2];
            for (int j = 0; j < 2; j++)
                h[j] = make(DTYPE_F32, 3, (int64_t[]){200, HEADS, D_V}, 0);
            run_mlstm(2, &in, &clean, 1, &all, 0, &h[0]);
            ((float *)ops_data(poisoned[input]))[token * poisoned[input]->stride[0]] = NAN;
            run_mlstm(2, &in, &st, 1, &all, 0, &h[1]);
            size_t row = sizeof(float) * HEADS * D_V;
            assert_memory_equal(ops_data(&h[0]), ops_data(&h[1]), (size_t)token * row);
            assert_true(isnan(((float *)ops_data(&h[1]))[token * HEADS * D_V]));
            release(0);
        }
}

/* ---- Wrong calls ---- */

static void instruction_sets_are_chosen_by_name(void **state) {
    (void)state;
    ops_stream_options options = {.threads = 1, .limits = {1, 1, 1, 1, 1, 1, 1, DTYPE_F32, 0}};
    ops_stream *stream;
    setenv("XLSTM_CPU_ISA", "avx1024", 1);
    assert_int_equal(cpu->stream_create(cpu, &options, &stream), XLSTM_UNSUPPORTED);
    assert_null(stream);
    assert_non_null(strstr(xlstm_last_error(), "XLSTM_CPU_ISA=avx1024"));
    bool runs;
    const char *last = NULL; /* the plainest, which runs everywhere */
    for (int i = 0; cpu_kernels_at(i, &runs); i++)
        last = cpu_kernels_at(i, &runs)->name;
    assert_non_null(strstr(xlstm_last_error(), last));
    char text[200];
    setenv("XLSTM_CPU_ISA", last, 1);
    cpu->describe(cpu, text, sizeof text);
    assert_non_null(strstr(text, last));
    unsetenv("XLSTM_CPU_ISA");
    options.limits.activation = DTYPE_F64;
    assert_int_equal(cpu->stream_create(cpu, &options, &stream), XLSTM_UNSUPPORTED);
    options.limits.activation = DTYPE_F32;
    options.limits.heads = 0;
    assert_int_equal(cpu->stream_create(cpu, &options, &stream), XLSTM_INVALID_ARGUMENT);
}

/* The stream fails with a message that has both words; the next wait is clean again. */
static void expect_failure(ops_stream *stream, const char *word, const char *other) {
    assert_int_equal(cpu->wait(stream), XLSTM_INVALID_ARGUMENT);
    assert_non_null(strstr(xlstm_last_error(), word));
    assert_non_null(strstr(xlstm_last_error(), other));
    assert_int_equal(cpu->wait(stream), XLSTM_OK);
}

static void wrong_arguments_fail_the_stream(void **state) {
    (void)state;
    ops_stream *stream = open_stream(1);
    struct ops_project_add op = {.x = matrix(DTYPE_F32, 3, 8, 1),
                                 .weight = matrix(DTYPE_F32, 5, 9, 2),
                                 .sign = 1,
                                 .out = matrix(DTYPE_F32, 3, 5, 0)};
    cpu->ops.project_add(stream, &op);
    expect_failure(stream, "project_add", "[5, 9], must be [any, 8]");
    op.weight = matrix(DTYPE_I32, 5, 8, 0);
    cpu->ops.project_add(stream, &op);
    expect_failure(stream, "project_add", "i32");
    op.weight = matrix(DTYPE_F32, 5, 8, 2);
    op.weight.offset = 4; /* reaches one element past the end */
    cpu->ops.project_add(stream, &op);
    expect_failure(stream, "project_add", "buffer");
    op.weight = (ops_tensor){0};
    cpu->ops.project_add(stream, &op);
    expect_failure(stream, "project_add", "missing");
    op = (struct ops_project_add){.x = matrix(DTYPE_F32, MOST_TOKENS + 1, 8, 1),
                                  .weight = matrix(DTYPE_F32, 5, 8, 2),
                                  .sign = 1,
                                  .out = matrix(DTYPE_F32, MOST_TOKENS + 1, 5, 0)};
    cpu->ops.project_add(stream, &op);
    expect_failure(stream, "project_add", "401 tokens");
    cpu->stream_free(stream);
    release(0);
}

int main(void) {
    cpu = cpu_device();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(functions_are_accurate),
        cmocka_unit_test(conversions_are_exact),
        cmocka_unit_test(products_do_not_depend_on_company),
        cmocka_unit_test(mlstm_does_not_depend_on_company),
        cmocka_unit_test(nan_never_reaches_earlier_tokens),
        cmocka_unit_test(instruction_sets_are_chosen_by_name),
        cmocka_unit_test(wrong_arguments_fail_the_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
