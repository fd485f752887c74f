/* Products of many tokens in the profile fast, for each instruction set that this processor has: tiles
 * of every type of weights and many sizes against sums in double of the same rounded values, and ops
 * whose results must depend neither on threads nor on the other tokens. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/blocks.h"
#include "ops/cpu/cpu.h"
#include "ops/cpu/kernels.h"
#include "support/support.h"

#if defined(__aarch64__)
static const char *const names[] = {"neon"};
#else
static const char *const names[] = {"generic", "avx2", "avx512", "amx"};
#endif
enum { NAMES = sizeof names / sizeof *names };

static const dtype types[] = {DTYPE_F64,  DTYPE_F32,  DTYPE_BF16, DTYPE_F16,  DTYPE_Q8_0,
                              DTYPE_Q5_0, DTYPE_Q5_1, DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_IQ4_NL};
enum { TYPES = sizeof types / sizeof *types };

typedef void per_kernels(const cpu_kernels *);

static void for_each_set(per_kernels *test) {
    int tested = 0;
    for (int i = 0; i < NAMES; i++) {
        setenv("XLSTM_CPU_ISA", names[i], 1);
        const cpu_kernels *kernels = cpu_kernels_choose();
        if (!kernels) {
            printf("%s: not run here\n", names[i]);
            continue;
        }
        assert_string_equal(kernels->name, names[i]);
        test(kernels);
        tested++;
    }
    unsetenv("XLSTM_CPU_ISA");
    assert_true(tested > 0);
}

/* ---- Tiles ---- */

/* `count` values of a matrix; blocks with any bits and scales near 1/64, negative ones too. */
static void draw_weights(dtype type, uint64_t seed, int64_t count, char *data) {
    if (dtype_block(type) == 1) {
        for (int64_t i = 0; i < count; i++)
            dtype_store(type, data, i, test_normal(seed, 0, (uint64_t)i));
        return;
    }
    int64_t bytes = dtype_bytes(type, count), size = (int64_t)dtype_size(type);
    for (int64_t i = 0; i < bytes; i++)
        data[i] = (char)(int)(test_normal(seed, 1, (uint64_t)i) * 1000);
    for (int64_t b = 0; b < bytes; b += size) {
        uint16_t scale = float_to_f16((float)test_normal(seed, 2, (uint64_t)b) / 64);
        memcpy(data + b, &scale, sizeof scale);
        if (type == DTYPE_Q4_1 || type == DTYPE_Q5_1)
            memcpy(data + b + 2, &scale, sizeof scale);
    }
}

/* What a product is made of: with AMX values of bf16. */
static double rounded(const cpu_kernels *kernels, double value) {
    return kernels->tiles->bf16 ? (double)bf16_to_float(float_to_bf16((float)value))
                                : (double)(float)value;
}

/* Memory with no room to spare: what is read past its end is found by sanitizers. */
static void *take(size_t size) {
    void *memory = aligned_alloc(64, (size + 63) / 64 * 64);
    assert_non_null(memory);
    return memory;
}

typedef struct tile_shape {
    int rows, tokens;
    int64_t width;
} tile_shape;

/* Of one tile, slice by slice. */
static float *compute_tile(const cpu_kernels *kernels, dtype type, const tile_shape *s,
                           const char *weights, const float *x) {
    const cpu_tiles *tiles = kernels->tiles;
    void *panel = take(tiles->panel_bytes), *block = take(tiles->block_bytes);
    float *sums = take((size_t)(tiles->rows * tiles->tokens) * sizeof(float));
    float *z = take((size_t)(tiles->rows * tiles->tokens) * sizeof(float));
    memset(sums, 0xFF, (size_t)(tiles->rows * tiles->tokens) * sizeof(float));
    memset(z, 0xFF, (size_t)(tiles->rows * tiles->tokens) * sizeof(float));
    memset(panel, 0xFF, tiles->panel_bytes);
    memset(block, 0xFF, tiles->block_bytes);
    tiles->begin();
    for (int64_t from = 0; from < s->width; from += tiles->depth) {
        int64_t count = s->width - from < tiles->depth ? s->width - from : tiles->depth;
        tiles->pack(x + from, s->width, s->tokens, count, block);
        tiles->convert(&(cpu_tile_weights){.type = type,
                                           .rows = weights,
                                           .row_bytes = dtype_bytes(type, s->width),
                                           .count_rows = s->rows,
                                           .from = from,
                                           .count = count},
                       panel);
        tiles->multiply(panel, block, s->tokens, count, from > 0,
                        &(cpu_tile_ahead){(const char *)panel, (const char *)panel, 64}, sums);
    }
    tiles->end();
    tiles->spread(sums, s->tokens, z, tiles->rows);
    for (int i = s->tokens * tiles->rows; i < tiles->tokens * tiles->rows; i++)
        assert_true(isnan(z[i])); /* no token, nothing written */
    free(panel);
    free(block);
    free(sums);
    return z;
}

static void check_tile(const cpu_kernels *kernels, dtype type, const tile_shape *s) {
    int64_t count = s->rows * s->width;
    char *weights = malloc((size_t)dtype_bytes(type, count));
    float *x = malloc((size_t)(s->tokens * s->width) * sizeof *x);
    assert_true(weights && x);
    draw_weights(type, (uint64_t)(s->width + s->rows), count, weights);
    for (int64_t i = 0; i < s->tokens * s->width; i++)
        x[i] = (float)test_normal(7, (uint64_t)s->tokens, (uint64_t)i);
    float *z = compute_tile(kernels, type, s, weights, x);
    for (int t = 0; t < s->tokens; t++)
        for (int r = 0; r < s->rows; r++) {
            double sum = 0, size = 0;
            for (int64_t k = 0; k < s->width; k++) {
                double term = rounded(kernels, dtype_load(type, weights, r * s->width + k)) *
                              rounded(kernels, (double)x[t * s->width + k]);
                sum += term;
                size += fabs(term);
            }
            /* Up to 512 terms one after the other, in f32. */
            if (!(fabs((double)z[t * kernels->tiles->rows + r] - sum) <= 3e-6 * size + 1e-30))
                fail_msg("%s, %s, %d rows, %d tokens, width %lld: z[%d][%d] is %g, not %g",
                         kernels->name, dtype_name(type), s->rows, s->tokens, (long long)s->width,
                         t, r, (double)z[t * kernels->tiles->rows + r], sum);
        }
    free(z);
    free(x);
    free(weights);
}

static void check_tiles(const cpu_kernels *kernels) {
    const cpu_tiles *tiles = kernels->tiles;
    assert_true(tiles->rows <= CPU_TILE_ROWS && tiles->tokens <= CPU_TILE_TOKENS);
    const int64_t widths[] = {1, 32, 63, 512, 545, 1100};
    const tile_shape counts[] = {{1, 1, 0},
                                 {tiles->rows - 1, 3, 0},
                                 {tiles->rows, tiles->tokens, 0},
                                 {tiles->rows / 2 + 1, tiles->tokens - 1, 0},
                                 {3, tiles->tokens / 2, 0},
                                 {2, tiles->tokens / 2 + 1, 0}};
    for (int t = 0; t < TYPES; t++)
        for (size_t w = 0; w < sizeof widths / sizeof *widths; w++)
            for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
                if (test_is_quick() && (w + c + (size_t)t) % 6 > 0)
                    continue; /* every width meets every count, in some of the types */
                tile_shape s = counts[c];
                s.width = dtype_block(types[t]) > 1 ? (widths[w] + 31) / 32 * 32 : widths[w];
                check_tile(kernels, types[t], &s);
            }
}

static void test_tiles(void **state) {
    (void)state;
    for_each_set(check_tiles);
}

/* ---- Ops ---- */

enum { WIDTH = 1120, OUTPUTS = 200, GATES = 5, MOST_TOKENS = 600 };

/* norm_project of tokens [first, first + tokens) with a large and a small matrix, and
 * norm_project_gated of their results. */
typedef struct problem {
    dtype type;
    ops_buffer x, weights, up, gates, hidden, gate_out, out;
} problem;

static void make_buffer(size_t size, ops_buffer *buffer) {
    assert_int_equal(cpu_device()->buffer_create(cpu_device(), size, buffer), XLSTM_OK);
}

static problem make_problem(dtype type) {
    problem p = {.type = type};
    make_buffer(MOST_TOKENS * WIDTH * sizeof(float), &p.x);
    make_buffer((size_t)dtype_bytes(type, OUTPUTS * WIDTH), &p.weights);
    make_buffer((size_t)dtype_bytes(type, OUTPUTS * WIDTH), &p.up);
    make_buffer((size_t)dtype_bytes(type, GATES * WIDTH), &p.gates);
    make_buffer(MOST_TOKENS * OUTPUTS * sizeof(float), &p.hidden);
    make_buffer(MOST_TOKENS * GATES * sizeof(float), &p.gate_out);
    make_buffer(MOST_TOKENS * OUTPUTS * sizeof(float), &p.out);
    for (int64_t i = 0; i < MOST_TOKENS * WIDTH; i++)
        ((float *)p.x.host)[i] = (float)test_normal(11, 0, (uint64_t)i);
    draw_weights(type, 12, OUTPUTS * WIDTH, p.weights.host);
    draw_weights(type, 13, OUTPUTS * WIDTH, p.up.host);
    draw_weights(type, 14, GATES * WIDTH, p.gates.host);
    return p;
}

static void free_problem(problem *p) {
    ops_buffer *all[] = {&p->x, &p->weights, &p->up, &p->gates, &p->hidden, &p->gate_out, &p->out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        cpu_device()->buffer_free(all[i]);
}

static ops_tensor matrix(ops_buffer *buffer, dtype type, int64_t rows, int64_t columns) {
    return ops_tensor_make(buffer, 0, type, 2, (int64_t[]){rows, columns});
}

/* Outputs as one array, [tokens][OUTPUTS] twice and [tokens][GATES]. Released with free. */
static float *solve(problem *p, ops_profile profile, int threads, int first, int tokens) {
    ops_device *cpu = cpu_device();
    ops_stream *s;
    ops_stream_options options = {.threads = threads,
                                  .profile = profile,
                                  .limits = {MOST_TOKENS, 1, WIDTH, 1, 1, 1, 1, DTYPE_F32, 0}};
    assert_int_equal(cpu->stream_create(cpu, &options, &s), XLSTM_OK);
    ops_tensor all = matrix(&p->x, DTYPE_F32, MOST_TOKENS, WIDTH);
    ops_tensor x = ops_tensor_rows(&all, first, tokens);
    ops_tensor hidden = matrix(&p->hidden, DTYPE_F32, tokens, OUTPUTS);
    ops_tensor gates = matrix(&p->gate_out, DTYPE_F32, tokens, GATES);
    ops_tensor out = matrix(&p->out, DTYPE_F32, tokens, OUTPUTS);
    const ops_norm none = {.kind = OPS_NORM_NONE, .groups = 1};
    cpu->ops.norm_project(
        s,
        &(struct ops_norm_project){
            .x = x,
            .norm = none,
            .count = 2,
            .projection = {{.weight = matrix(&p->weights, p->type, OUTPUTS, WIDTH), .out = hidden},
                           {.weight = matrix(&p->gates, p->type, GATES, WIDTH), .out = gates}}});
    cpu->ops.norm_project_gated(s, &(struct ops_norm_project_gated){
                                       .x = x,
                                       .norm = none,
                                       .activation = OPS_IDENTITY,
                                       .gate_weight = matrix(&p->weights, p->type, OUTPUTS, WIDTH),
                                       .up_weight = matrix(&p->up, p->type, OUTPUTS, WIDTH),
                                       .out = out});
    assert_int_equal(cpu->wait(s), XLSTM_OK);
    cpu->stream_free(s);
    size_t outputs = (size_t)(tokens * OUTPUTS), count = (size_t)(tokens * GATES);
    float *result = malloc((2 * outputs + count) * sizeof *result);
    assert_non_null(result);
    memcpy(result, p->hidden.host, outputs * sizeof *result);
    memcpy(result + outputs, p->out.host, outputs * sizeof *result);
    memcpy(result + 2 * outputs, p->gate_out.host, count * sizeof *result);
    return result;
}

/* Relative 2-norm. */
static double error_of(const float *a, const float *b, int64_t count) {
    double difference = 0, size = 0;
    for (int64_t i = 0; i < count; i++) {
        difference += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)b[i] * (double)b[i];
    }
    return sqrt(difference / size);
}

static void check_type(dtype type, int tokens) {
    problem p = make_problem(type);
    const int64_t outputs = (int64_t)tokens * OUTPUTS, gates = (int64_t)tokens * GATES;
    const size_t all = (size_t)(2 * outputs + gates) * sizeof(float);
    float *exact = solve(&p, OPS_EXACT, 2, 0, tokens), *fast = solve(&p, OPS_FAST, 2, 0, tokens);
    /* bf16: 2^-9 / 3^0.5 for the activations and as much for the weights; twice that where two
     * products meet. */
    assert_true(error_of(fast, exact, outputs) <= 3e-3);
    assert_true(error_of(fast + outputs, exact + outputs, outputs) <= 5e-3);
    /* Matrices of a few rows are gates: as exact. */
    assert_memory_equal(fast + 2 * outputs, exact + 2 * outputs, (size_t)gates * sizeof *fast);
    for (int threads = 1; threads <= 7; threads += 3) {
        float *other = solve(&p, OPS_FAST, threads, 0, tokens);
        assert_memory_equal(other, fast, all);
        free(other);
    }
    /* Tokens among others: the last ones alone, where they still are many. */
    int few = tokens / 2 > 50 ? 50 : tokens / 2;
    float *part = solve(&p, OPS_FAST, 3, tokens - few, few);
    assert_memory_equal(part, fast + (size_t)(tokens - few) * OUTPUTS,
                        (size_t)few * OUTPUTS * sizeof *part);
    free(part);
    free(exact);
    free(fast);
    free_problem(&p);
}

static void check_ops(const cpu_kernels *kernels) {
    (void)kernels;
    const int tokens[] = {35, 67, MOST_TOKENS}; /* halves of them are many, too */
    for (int t = 1; t < TYPES; t += test_is_quick() ? 2 : 1)
        check_type(types[t], tokens[test_is_quick() ? 0 : t % 3]);
}

static void test_ops(void **state) {
    (void)state;
    for_each_set(check_ops);
}

/* Any place and length, and nothing around it. */
static void check_put(const cpu_kernels *kernels) {
    enum { MOST = 100, ROOM = MOST + 64 };
    float from[MOST], *to = take(ROOM * sizeof(float));
    for (int i = 0; i < MOST; i++)
        from[i] = (float)(i + 1);
    for (int first = 16; first < 33; first++)
        for (int count = 0; count <= MOST; count++) {
            memset(to, 0, ROOM * sizeof *to);
            kernels->tiles->begin();
            kernels->tiles->put(from, count, to + first);
            kernels->tiles->end();
            for (int i = 0; i < ROOM; i++)
                assert_true(to[i] == (i >= first && i < first + count ? from[i - first] : 0));
        }
    free(to);
}

static void test_put(void **state) {
    (void)state;
    for_each_set(check_put);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tiles),
        cmocka_unit_test(test_ops),
        cmocka_unit_test(test_put),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
