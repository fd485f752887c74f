/* What must hold for the types that the mLSTM's C and n are stored in: to nearest, ties to even, for
 * every value; and the ring of deferred tokens, where what a padded token holds is never read. */
#include "conformance/checks.h"
#include "conformance/cases.h"
#include "conformance/mlstm_problem.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/support.h"

enum { VALUES = 4096, RING = 4 };

/* ---- Rounding ---- */

/* Floats around every value of a narrow type: ties, their neighbours, subnormal, huge, NaN. */
static void draw_values(dtype type, double *values) {
    for (int i = 0; i < VALUES; i++) {
        uint16_t half = (uint16_t)(i * 16 + i % 13), next = (uint16_t)(half + 1);
        double low = dtype_load(type, &half, 0), high = dtype_load(type, &next, 0);
        double tie = isfinite(low) && isfinite(high) ? (low + high) / 2 : low;
        float near = (float)tie;
        values[i] = (double)(i % 3 == 0   ? near
                             : i % 3 == 1 ? nextafterf(near, INFINITY)
                                          : nextafterf(near, -INFINITY));
    }
}

/* A token or, with a ring, RING of them: k = 1, and the first v is what an empty state becomes
 * (i = 0, f = +inf); the others are padding whose k and v are NaN. */
static void store_values(side *s, dtype type, const double *values, int ring, bool chunk,
                         double *stored) {
    int tokens = ring > 0 ? RING : chunk ? 2 : 1;
    static double k[RING], v[RING * VALUES], gate_i[RING], gate_f[RING];
    for (int t = 0; t < RING; t++) {
        k[t] = t == 0 ? 1 : (double)NAN;
        gate_i[t] = t == 0 ? 0 : -INFINITY;
        gate_f[t] = INFINITY;
        for (int e = 0; e < VALUES; e++)
            v[t * VALUES + e] = t == 0 ? values[e] : (double)NAN;
    }
    const int64_t keys[] = {tokens, 1, 1}, wide[] = {tokens, 1, VALUES}, gates[] = {tokens, 1};
    const int64_t state[] = {1, 1, 1, VALUES}, ring_k[] = {1, 1, ring, 1};
    const int64_t ring_v[] = {1, 1, ring, VALUES}, one[] = {1, 1, 1};
    static double zeros[VALUES], ones[RING] = {1, 1, 1, 1};
    struct ops_mlstm op = {.batch = {.sequences = 1,
                                     .tokens = tokens,
                                     .longest = tokens,
                                     .slot = side_i32(s, 1, (int32_t[]){0}),
                                     .start = side_i32(s, 2, (int32_t[]){0, tokens}),
                                     .position = side_i64(s, 1, (int64_t[]){0})},
                           .q = side_place(s, DTYPE_F32, 3, keys, ones),
                           .k = side_place(s, DTYPE_F32, 3, keys, k),
                           .v = side_place(s, DTYPE_F32, 3, wide, v),
                           .input_gate = side_place(s, DTYPE_F32, 2, gates, gate_i),
                           .forget_gate = side_place(s, DTYPE_F32, 2, gates, gate_f),
                           .c = side_place(s, type, 4, state, zeros),
                           .n = side_place(s, type, 3, one, zeros),
                           .m = side_place(s, DTYPE_F32, 2, one, zeros),
                           .deferred = ring,
                           .eps = 1e-6,
                           .chunk_size = 16,
                           .h = side_place(s, DTYPE_F32, 3, wide, NULL)};
    if (ring > 0) {
        op.ring_k = side_place(s, DTYPE_F32, 4, ring_k, NULL);
        op.ring_v = side_place(s, DTYPE_F32, 4, ring_v, NULL);
        op.ring_i = side_place(s, DTYPE_F32, 3, ring_k, NULL);
        op.ring_f = side_place(s, DTYPE_F32, 3, ring_k, NULL);
    }
    s->as.device->ops.mlstm(s->stream, &op);
    if (s->as.device->wait(s->stream) != XLSTM_OK)
        fail_msg("%s", xlstm_last_error());
    double *c = side_read(s, &op.c), *n = side_read(s, &op.n);
    memcpy(stored, c, VALUES * sizeof *c);
    assert_true(n[0] == 1);
    free(c);
    free(n);
}

static bool same_value(double a, double b) {
    return (isnan(a) && isnan(b)) || (a == b && signbit(a) == signbit(b));
}

void check_state_rounding(ops_device *device) {
    static const dtype types[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    static double values[VALUES], stored[VALUES];
    ops_limits limits = {.tokens = RING,
                         .sequences = 1,
                         .width = VALUES,
                         .heads = 1,
                         .head_dim_qk = 1,
                         .head_dim_v = VALUES,
                         .vocab = 1,
                         .deferred = RING};
    setting as = {device, DTYPE_F32, DTYPE_F32, OPS_EXACT, 2};
    for (int t = 0; t < 3; t++) {
        draw_values(types[t] == DTYPE_F32 ? DTYPE_BF16 : types[t], values);
        for (int way = 0; way < 3; way++) { /* a step, a chunk, a ring that is folded in */
            side s;
            side_open(&s, &as, false, true, 0, &limits);
            store_values(&s, types[t], values, way == 2 ? RING : 0, way == 1, stored);
            side_close(&s);
            for (int i = 0; i < VALUES; i++) {
                double expected = round_to(types[t], values[i]);
                if (expected != 0 && !same_value(stored[i], expected))
                    fail_msg("mlstm on %s: %a is stored as %s %a, must be %a", device->name,
                             values[i], dtype_name(types[t]), stored[i], expected);
            }
        }
    }
    printf("  %s: states in f32, bf16 and f16 round to nearest even\n", device->name);
}

/* ---- Deferral ---- */

static mlstm_result run(ops_device *device, bool exact, int threads, const mlstm_problem *p,
                        const mlstm_plan *plan) {
    setting as = {device, DTYPE_F32, DTYPE_F32, OPS_EXACT, threads};
    return mlstm_run(&as, exact, p, plan);
}

static int64_t tokens_of(const mlstm_problem *p) {
    return p->start[p->shape.sequences];
}

static void expect_near(const mlstm_problem *p, const mlstm_result *r, const mlstm_result *exact,
                        double tolerance, const char *what) {
    double error = mlstm_error(p, r, exact);
    if (!(error <= tolerance))
        fail_msg("mlstm, ring of %d, C and n in %s, %s: relative error %.1e, tolerance %.0e",
                 p->deferred, dtype_name(p->state), what, error, tolerance);
}

/* Ways to hand over the tokens: whole, in pieces, singly, with other threads, one sequence alone. */
static void check_ways(ops_device *device, const mlstm_problem *p, const mlstm_result *exact,
                       double tolerance) {
    static const int64_t pieces[] = {3, 21, 64, 65, 66, 80, 131, 140, 150};
    mlstm_plan whole = {.chunk_size = 64, .only = -1}, singly = whole, cut = whole;
    singly.every_token = true;
    cut.cuts = pieces;
    cut.cut_count = 9;
    const mlstm_plan *plans[] = {&whole, &singly, &cut};
    for (int i = 0; i < 3; i++) {
        mlstm_plan plan = *plans[i];
        mlstm_result r = run(device, false, 2, p, &plan), other = run(device, false, 7, p, &plan);
        expect_near(p, &r, exact, tolerance, i == 0 ? "whole" : i == 1 ? "singly" : "in pieces");
        if (!mlstm_equal(p, &r, &other, -1))
            fail_msg("mlstm on %s, ring of %d: other bits with 7 threads", device->name,
                     p->deferred);
        mlstm_result_free(&other);
        int step = test_is_brief() ? 3 : 1;
        for (plan.only = 0; plan.only < p->shape.sequences; plan.only += step) {
            other = run(device, false, 1, p, &plan);
            if (!mlstm_equal(p, &r, &other, plan.only))
                fail_msg("mlstm on %s, ring of %d: sequence %d has other bits alone", device->name,
                         p->deferred, plan.only);
            mlstm_result_free(&other);
        }
        mlstm_result_free(&r);
    }
}

/* Against the reference in double, with the same ring; whose h is that of the plain step. Heads of one shape are cut into
 * pieces by devices that do so. */
static void check_rings(ops_device *device, const mlstm_shape *shape, const int *rings, int count) {
    static const struct {
        dtype state;
        double tolerance; /* of f32; of storing in the type, whose roundings add up */
    } types[] = {{DTYPE_F64, MLSTM_TOLERANCE}, {DTYPE_F16, 5e-3}, {DTYPE_BF16, 4e-2}};
    mlstm_plan steps = {.chunk_size = 64, .only = -1};
    mlstm_problem p = mlstm_problem_make(shape, DTYPE_F32, 23);
    mlstm_result plain = run(device, true, 1, &p, &(mlstm_plan){.chunk_size = 1, .only = -1});
    for (int r = 0; r < count; r++) {
        p.deferred = rings[r];
        mlstm_result exact = run(device, true, 1, &p, &steps);
        int64_t values = tokens_of(&p) * shape->heads * shape->d_v;
        double error = distance(exact.h, plain.h, values, 1e-30);
        if (!(error < 1e-12))
            fail_msg("ring of %d, in double: h differs from the plain step by %.1e", rings[r],
                     error);
        for (int t = test_is_brief() ? r : 0; t < (test_is_brief() ? r + 1 : 3); t++) {
            p.state = types[t].state;
            check_ways(device, &p, &exact, types[t].tolerance);
        }
        p.state = DTYPE_F64;
        mlstm_result_free(&exact);
    }
    mlstm_result_free(&plain);
    mlstm_problem_free(&p);
}

void check_deferral(ops_device *device) {
    static const int rings[] = {2, 16, 64}, short_rings[] = {3, 5};
    static const mlstm_shape shape = {4, {90, 1, 33, 67}, {10, 5, 64, 0}, 3, 23, 37},
                             wide = {3, {17, 1, 14}, {4, 2, 0}, 2, 33, 300};
    check_rings(device, &shape, rings, 3);
    check_rings(device, &wide, short_rings, 2);
}
