/* What must hold for the mLSTM of every device, beyond single values: chunk sizes, splits, threads
 * and batches do not change the result, and gates may be as extreme as infinity. */
#include "conformance/cases.h"
#include "conformance/checks.h"
#include "conformance/mlstm_problem.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "support/support.h"

static const double tolerance = MLSTM_TOLERANCE;

static const int chunk_sizes[] = {1, 16, 32, 64, 128};

static int chunk_count(void) {
    return test_is_brief() ? 2 : sizeof chunk_sizes / sizeof *chunk_sizes;
}

static setting f32_on(ops_device *device, int threads) {
    return (setting){device, DTYPE_F32, DTYPE_F32, OPS_EXACT, threads};
}

static mlstm_result run_whole(ops_device *device, const mlstm_problem *p, int chunk_size) {
    setting as = f32_on(device, 2);
    as.profile = p->halves ? OPS_FAST : OPS_EXACT;
    return mlstm_run(&as, false, p, &(mlstm_plan){.chunk_size = chunk_size, .only = -1});
}

static mlstm_result run_exactly(ops_device *device, const mlstm_problem *p) {
    setting as = f32_on(device, 1);
    return mlstm_run(&as, true, p, &(mlstm_plan){.chunk_size = 1, .only = -1});
}

/* ---- Chunk sizes ---- */

static void check_length(ops_device *device, int64_t length, double *worst) {
    mlstm_shape shape = {2, {length, 1 + length / 2}, {0, 37}, 2, 16, 24};
    mlstm_problem p = mlstm_problem_make(&shape, DTYPE_F32, 31 + (uint64_t)length);
    mlstm_result exact = run_exactly(device, &p);
    for (int i = 0; i < chunk_count(); i++) {
        mlstm_result r = run_whole(device, &p, chunk_sizes[i]);
        double error = mlstm_error(&p, &r, &exact);
        *worst = error > *worst ? error : *worst;
        if (!(error <= tolerance))
            fail_msg("mlstm on %s: %d tokens in chunks of %d: relative error %.1e, tolerance %.0e",
                     device->name, (int)length, chunk_sizes[i], error, tolerance);
        mlstm_result_free(&r);
    }
    mlstm_result_free(&exact);
    mlstm_problem_free(&p);
}

void check_chunk_sizes(ops_device *device) {
    static const int64_t lengths[] = {1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 1000};
    double worst = 0;
    int count = (int)(sizeof lengths / sizeof *lengths) - (test_is_brief()   ? 3
                                                           : test_is_quick() ? 1
                                                                             : 0);
    for (int i = 0; i < count; i++)
        check_length(device, lengths[i], &worst);
    printf("  %s: chunks of 1 to 128, 1 to %d tokens: worst error %.1e\n", device->name,
           (int)lengths[count - 1], worst);
}

/* ---- Splits ---- */

/* Runs with these cuts, and compares with the run without: bit by bit, or within 1e-5 (a cut
 * elsewhere gives other chunks, each of which is right to the tolerance of the op). */
static double compare_cuts(ops_device *device, const mlstm_problem *p, const mlstm_plan *plan,
                           const mlstm_result *whole, bool bits, const char *what) {
    setting as = f32_on(device, 2);
    mlstm_result cut = mlstm_run(&as, false, p, plan);
    double error = mlstm_error(p, &cut, whole);
    if (bits && !mlstm_equal(p, &cut, whole, -1))
        fail_msg("mlstm on %s, chunks of %d: cut %s, the bits differ (relative error %.1e)",
                 device->name, plan->chunk_size, what, error);
    if (!(error <= 1e-5))
        fail_msg("mlstm on %s, chunks of %d: cut %s, relative error %.1e, tolerance 1e-5",
                 device->name, plan->chunk_size, what, error);
    mlstm_result_free(&cut);
    return error;
}

static double check_splits_of(ops_device *device, int chunk_size, int64_t length) {
    mlstm_shape shape = {3, {length, 70, 1}, {0, 50, 129}, 2, 17, 24};
    int64_t border = chunk_size ? chunk_size : device->chunk_size, cuts[64];
    mlstm_problem p = mlstm_problem_make(&shape, DTYPE_F32, 97);
    mlstm_result whole = run_whole(device, &p, chunk_size);
    mlstm_plan plan = {.chunk_size = chunk_size, .only = -1, .cuts = cuts};

    for (; plan.cut_count < 40 && (plan.cut_count + 1) * border < length; plan.cut_count++)
        cuts[plan.cut_count] = (plan.cut_count + 1) * border;
    compare_cuts(device, &p, &plan, &whole, true, "at every border");
    int borders = plan.cut_count; /* then only at some */
    for (plan.cut_count = 0; 3 * plan.cut_count + 1 < borders; plan.cut_count++)
        cuts[plan.cut_count] = cuts[3 * plan.cut_count + 1];
    compare_cuts(device, &p, &plan, &whole, true, "at some borders");

    int64_t at = 0;
    for (plan.cut_count = 0; plan.cut_count < 64; plan.cut_count++)
        cuts[plan.cut_count] = at += 1 + draw_integer(5, (uint64_t)plan.cut_count, length / 8 + 1);
    double anywhere = compare_cuts(device, &p, &plan, &whole, false, "anywhere");
    plan.every_token = true;
    double each = compare_cuts(device, &p, &plan, &whole, border == 1, "after every token");
    mlstm_result_free(&whole);
    mlstm_problem_free(&p);
    return anywhere > each ? anywhere : each;
}

void check_splits(ops_device *device) {
    double worst = 0;
    for (int i = -1; i < chunk_count(); i++) {
        int chunk_size = i < 0 ? 0 : chunk_sizes[i]; /* 0: the device's choice */
        double error = check_splits_of(device, chunk_size, (test_is_brief() ? 1 : 3) * 128 + 5);
        worst = error > worst ? error : worst;
        if (!test_is_quick() && !test_is_brief())
            check_splits_of(device, chunk_size, 1000);
    }
    printf("  %s: equal bits for cuts at borders; elsewhere worst error %.1e\n", device->name,
           worst);
}

/* ---- Threads and batches ---- */

void check_threads_and_batches(ops_device *device) {
    static const int threads[] = {1, 2, 7};
    mlstm_shape shape = {4, {90, 1, 33, 64}, {10, 5, 64, 0}, 3, 23, 37};
    mlstm_problem p = mlstm_problem_make(&shape, DTYPE_F32, 11);
    for (int i = -1; i < chunk_count(); i++) {
        mlstm_plan plan = {.chunk_size = i < 0 ? 0 : chunk_sizes[i], .only = -1};
        mlstm_result whole = run_whole(device, &p, plan.chunk_size);
        for (int t = 0; t < 3; t++) {
            setting as = f32_on(device, threads[t]);
            mlstm_result r = mlstm_run(&as, false, &p, &plan);
            if (!mlstm_equal(&p, &r, &whole, -1))
                fail_msg("mlstm on %s, chunks of %d: other bits with %d threads", device->name,
                         plan.chunk_size, threads[t]);
            mlstm_result_free(&r);
        }
        for (plan.only = 0; plan.only < shape.sequences; plan.only++) {
            setting as = f32_on(device, 2);
            mlstm_result alone = mlstm_run(&as, false, &p, &plan);
            if (!mlstm_equal(&p, &alone, &whole, plan.only))
                fail_msg("mlstm on %s, chunks of %d: sequence %d has other bits alone",
                         device->name, plan.chunk_size, plan.only);
            mlstm_result_free(&alone);
        }
        mlstm_result_free(&whole);
    }
    mlstm_problem_free(&p);
}

/* ---- Gates at their limits ---- */

/* Gates of token t, head a. */
typedef void (*gate_rule)(int64_t t, int64_t a, double *i, double *f);

static void all_forgotten(int64_t t, int64_t a, double *i, double *f) {
    (void)i;
    if ((t + a) % 5 == 2)
        *f = -INFINITY;
}

static void all_kept(int64_t t, int64_t a, double *i, double *f) {
    (void)t, (void)a, (void)i;
    *f = INFINITY;
}

static void some_closed(int64_t t, int64_t a, double *i, double *f) {
    (void)f;
    if ((t + a) % 3)
        *i = -INFINITY;
}

/* Closed and forgotten at once wipes everything: m = -inf, until the next token is stored. */
static void wiped(int64_t t, int64_t a, double *i, double *f) {
    if ((t + a) % 11 > 6) {
        *i = -INFINITY;
        *f = -INFINITY;
    }
    if (t % 11 == 10)
        *f = INFINITY;
}

/* m falls far below -88, where exp(-m) is more than f32 can hold, and comes back. */
static void sunk(int64_t t, int64_t a, double *i, double *f) {
    *i = t % 40 < 35 ? -300 - (double)a : -2;
    *f = -20;
}

/* Forget gates whose naive log sigmoid overflows; nothing new is stored while m follows them down.
 */
static void deep(int64_t t, int64_t a, double *i, double *f) {
    if (t % 9 > 3) {
        *i = -INFINITY;
        *f = a ? -150 : -1000;
    }
}

static void steep(int64_t t, int64_t a, double *i, double *f) {
    *i = (t + a) % 2 ? 100 : -100;
    *f = t % 3 ? 100 : -100;
}

static void capped(int64_t t, int64_t a, double *i, double *f) {
    *i = (t / 3 + a) % 2 ? 15 : -15;
    *f = t % 3 ? 15 : -15;
}

static void apply(mlstm_problem *p, gate_rule rule) {
    for (int q = 0; q < p->shape.sequences; q++)
        for (int64_t t = 0; t < p->shape.length[q]; t++)
            for (int64_t a = 0; a < p->shape.heads; a++) {
                int64_t at = (p->start[q] + t) * p->shape.heads + a;
                rule(t, a, &p->i[at], &p->f[at]);
            }
}

/* With the device's choice of chunks, and with chunks of some sizes. */
static void check_extremes(ops_device *device, const mlstm_shape *shape, bool halves, int sizes) {
    static const struct {
        const char *name;
        gate_rule rule;
        double tolerance; /* exponents up to 2^k are off by 2^(k - 24) in f32 */
    } rules[] = {{"forget -inf", all_forgotten, 5e-6}, {"forget +inf", all_kept, 5e-6},
                 {"input -inf", some_closed, 5e-6},    {"both -inf", wiped, 5e-6},
                 {"m below -88", sunk, 1e-4},          {"forget -1000", deep, 1e-4},
                 {"gates of 100", steep, 2e-5},        {"gates at the cap", capped, 1e-5}};
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        mlstm_problem p = mlstm_problem_make(shape, DTYPE_F32, 41);
        double allowed = halves ? FAST_TOLERANCE : rules[i].tolerance;
        p.halves = halves;
        apply(&p, rules[i].rule);
        mlstm_result exact = run_exactly(device, &p);
        for (int c = -1; c < sizes; c++) {
            int chunk_size = c < 0 ? 0 : chunk_sizes[c];
            mlstm_result r = run_whole(device, &p, chunk_size);
            double error = mlstm_error(&p, &r, &exact); /* infinite if anything but m is */
            if (!(error <= allowed))
                fail_msg("mlstm on %s, chunks of %d, %s: relative error %.1e, tolerance %.0e",
                         device->name, chunk_size, rules[i].name, error, allowed);
            mlstm_result_free(&r);
        }
        mlstm_result_free(&exact);
        mlstm_problem_free(&p);
    }
}

void check_gate_extremes(ops_device *device) {
    mlstm_shape shape = {2, {150, 70}, {0, 9}, 3, 12, 10};
    check_extremes(device, &shape, false, chunk_count());
}

/* ---- Padding ---- */

/* `kept` tokens and then padding up to `length`, cut where the padding begins or not, against the
 * kept tokens alone: not a bit of h before or of the states may differ. */
static void check_padded(ops_device *device, int chunk_size, int64_t kept, int64_t length,
                         bool cut) {
    mlstm_shape shape = {1, {length}, {0}, 2, 9, 20};
    mlstm_problem p = mlstm_problem_make(&shape, DTYPE_F32, 51);
    for (int64_t at = kept * 2; at < length * 2; at++) {
        p.i[at] = -INFINITY;
        p.f[at] = INFINITY;
    }
    setting as = f32_on(device, 2);
    mlstm_plan plan = {.chunk_size = chunk_size, .only = -1, .cuts = &kept, .cut_count = cut};
    mlstm_result padded = mlstm_run(&as, false, &p, &plan);
    p.shape.length[0] = p.start[1] = kept;
    mlstm_result plain = run_whole(device, &p, chunk_size);
    if (!mlstm_equal(&p, &padded, &plain, -1))
        fail_msg("mlstm on %s, chunks of %d: %d tokens of padding after %d%s changed bits",
                 device->name, chunk_size, (int)(length - kept), (int)kept,
                 cut ? ", in a call of their own," : "");
    mlstm_result_free(&padded);
    mlstm_result_free(&plain);
    mlstm_problem_free(&p);
}

void check_padding(ops_device *device) {
    static const int64_t kept[] = {1, 15, 64, 70, 128};
    for (int c = -1; c < chunk_count(); c++)
        for (int i = 0; i < 4 * 5; i += test_is_brief() ? 3 : 1)
            check_padded(device, c < 0 ? 0 : chunk_sizes[c], kept[i / 4],
                         i % 2 ? kept[i / 4] + 1 : 200, i % 4 > 1);
}

/* ---- NaN and +inf ---- */

/* Whether head a of sequence q is the same in both up to token `end` (and its state, if all of it
 * is). */
static bool head_equal(const mlstm_problem *p, const mlstm_result *x, const mlstm_result *y, int q,
                       int64_t a, int64_t end) {
    const mlstm_shape *shape = &p->shape;
    for (int64_t t = 0; t < end; t++) {
        int64_t at = ((p->start[q] + t) * shape->heads + a) * shape->d_v;
        if (memcmp(x->h + at, y->h + at, (size_t)shape->d_v * sizeof(double)) != 0)
            return false;
    }
    int64_t size = shape->d_qk * shape->d_v, at = (p->slot[q] * shape->heads + a) * size;
    return end < shape->length[q] ||
           memcmp(x->c + at, y->c + at, (size_t)size * sizeof(double)) == 0;
}

static bool all_nan(const double *values, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        if (!isnan(values[i]))
            return false;
    return true;
}

/* Of two sequences, the second of `other` tokens. */
static void check_poison(ops_device *device, bool halves, double poison, int64_t where,
                         int64_t other, int chunk_size) {
    mlstm_shape shape = {2, {100, other}, {0, 20}, 3, halves ? 128 : 10, halves ? 128 : 12};
    mlstm_problem p = mlstm_problem_make(&shape, DTYPE_F32, 61);
    p.halves = halves;
    mlstm_result clean = run_whole(device, &p, chunk_size);
    p.i[where * shape.heads + 1] = poison; /* sequence 0, head 1 */
    mlstm_result r = run_whole(device, &p, chunk_size);
    for (int q = 0; q < 2; q++)
        for (int64_t a = 0; a < 3; a++) {
            int64_t end = q == 0 && a == 1 ? where : shape.length[q];
            if (!head_equal(&p, &r, &clean, q, a, end))
                fail_msg("mlstm on %s, chunks of %d: an input gate of %g in token %d spoiled "
                         "sequence %d, head %d before token %d",
                         device->name, chunk_size, poison, (int)where, q, (int)a, (int)end);
        }
    int64_t size = shape.d_qk * shape.d_v, state = p.slot[0] * shape.heads + 1;
    bool spoiled =
        all_nan(r.c + state * size, size) && all_nan(r.n + state * shape.d_qk, shape.d_qk);
    for (int64_t t = where; t < shape.length[0]; t++)
        spoiled = spoiled && all_nan(r.h + (t * shape.heads + 1) * shape.d_v, shape.d_v);
    if (!spoiled)
        fail_msg("mlstm on %s, chunks of %d: an input gate of %g in token %d was hidden",
                 device->name, chunk_size, poison, (int)where);
    mlstm_result_free(&clean);
    mlstm_result_free(&r);
    mlstm_problem_free(&p);
}

void check_poisoned_gates(ops_device *device) {
    static const int64_t places[] = {0, 31, 64, 99};
    for (int c = -1; c < chunk_count(); c++)
        for (int i = 0; i < 4; i += test_is_brief() ? 2 : 1) {
            check_poison(device, false, (double)NAN, places[i], 80, c < 0 ? 0 : chunk_sizes[c]);
            check_poison(device, false, INFINITY, places[i], 80, c < 0 ? 0 : chunk_sizes[c]);
        }
}

/* ---- Nothing stored ---- */

static void check_empty(ops_device *device, bool halves, int64_t tokens, double m, gate_rule rule,
                        int chunk_size) {
    mlstm_shape shape = {1, {tokens}, {0}, 2, halves ? 128 : 6, halves ? 128 : 9};
    mlstm_problem p = mlstm_problem_make(&shape, DTYPE_F32, 71);
    int64_t states = p.slots * 2, d_qk = shape.d_qk, d_v = shape.d_v;
    p.halves = halves;
    memset(p.c, 0, (size_t)(states * d_qk * d_v) * sizeof(double));
    memset(p.n, 0, (size_t)(states * d_qk) * sizeof(double));
    for (int64_t i = 0; i < states; i++)
        p.m[i] = m;
    for (int64_t at = 0; at < tokens * 2; at++)
        p.i[at] = -INFINITY;
    if (rule)
        apply(&p, rule);
    mlstm_result r = run_whole(device, &p, chunk_size);
    bool zero = true;
    for (int64_t i = 0; i < tokens * 2 * d_v; i++)
        zero = zero && r.h[i] == 0;
    for (int64_t i = 0; i < states * d_qk * d_v; i++)
        zero = zero && r.c[i] == 0;
    for (int64_t i = 0; i < states * d_qk; i++)
        zero = zero && r.n[i] == 0;
    for (int64_t i = 0; i < states; i++)
        zero = zero && !isnan(r.m[i]);
    if (!zero)
        fail_msg("mlstm on %s, chunks of %d, m = %g: h, C or n is not 0 where nothing was stored",
                 device->name, chunk_size, m);
    mlstm_result_free(&r);
    mlstm_problem_free(&p);
}

static void no_rule(int64_t t, int64_t a, double *i, double *f) {
    (void)t, (void)a, (void)i, (void)f;
}

static void sinking(int64_t t, int64_t a, double *i, double *f) {
    (void)t, (void)a, (void)i;
    *f = -10;
}

static void wiping(int64_t t, int64_t a, double *i, double *f) {
    (void)i;
    *f = (t + a) % 7 == 3 ? -INFINITY : (t + a) % 7 == 5 ? INFINITY : *f;
}

void check_nothing_stored(ops_device *device) {
    static const gate_rule rules[] = {no_rule, all_kept, sinking, wiping};
    for (int c = -1; c < chunk_count(); c++)
        for (int i = 0; i < 4; i++) {
            check_empty(device, false, 140, 0, rules[i], c < 0 ? 0 : chunk_sizes[c]);
            check_empty(device, false, 140, -INFINITY, rules[i], c < 0 ? 0 : chunk_sizes[c]);
        }
}

/* ---- Rounding of m ---- */

/* What the first token stores is kept almost as it is, under a large m. */
static void kept(int64_t t, int64_t a, double *i, double *f) {
    *i = t == 0 ? 100 - (double)a : -INFINITY;
    *f = 10;
}

/* Tokens meet a large m that is no float. */
static void met(int64_t t, int64_t a, double *i, double *f) {
    *i = 100 - (double)((t * 7 + a) % 5) * 0.7;
    *f = 3;
}

/* exp(-m) decides, at an m that is no float. */
static void small(int64_t t, int64_t a, double *i, double *f) {
    *i = t == 0 ? -70 - (double)a : -INFINITY;
    *f = t == 0 ? -INFINITY : 4.5;
}

/* n and m together say what is kept: exp(m) n, and C the same. m of about 100 loses 4e-6 a token, if they do not
 * gain it. */
static double kept_error(const mlstm_problem *p, const mlstm_result *r, const mlstm_result *exact) {
    const mlstm_shape *shape = &p->shape;
    double worst = 0;
    for (int q = 0; q < shape->sequences; q++)
        for (int64_t a = 0; a < shape->heads; a++) {
            int64_t at = p->slot[q] * shape->heads + a;
            double scale = exp(r->m[at] - exact->m[at]);
            for (int64_t d = 0; d < shape->d_qk; d++)
                worst = fmax(
                    worst,
                    fabs(r->n[at * shape->d_qk + d] * scale / exact->n[at * shape->d_qk + d] - 1));
            for (int64_t i = 0; i < shape->d_qk * shape->d_v; i++) {
                int64_t c = at * shape->d_qk * shape->d_v + i;
                worst = fmax(worst, fabs(r->c[c] * scale / exact->c[c] - 1));
            }
        }
    return worst;
}

void check_kept_weights(ops_device *device) {
    static const gate_rule rules[] = {kept, met, small};
    static const struct {
        int chunk, ring;
        double kept,
            h; /* tolerances: C and its weight are rounded once a chunk, by 2^-24 at most */
    } ways[] = {{1, 0, 6e-5, 1e-5}, {16, 0, 1e-5, 6e-7}, {64, 0, 1e-5, 6e-7}, {16, 16, 1e-5, 6e-7}};
    mlstm_shape shape = {2, {500, 30}, {0, 7}, 2, 5, 6};
    for (int i = 0; i < 3 * 4; i++) {
        int chunk = ways[i % 4].chunk, ring = ways[i % 4].ring;
        mlstm_problem p = mlstm_problem_make(&shape, DTYPE_F32, 83);
        apply(&p, rules[i / 4]);
        p.deferred = device->most_deferred >= ring ? ring : 0;
        mlstm_result exact = run_exactly(device, &p), r = run_whole(device, &p, chunk);
        double error = kept_error(&p, &r, &exact);
        double h = distance(r.h, exact.h, p.start[2] * shape.heads * shape.d_v, 1e-40);
        if (!(error <= ways[i % 4].kept) || !(h <= ways[i % 4].h))
            fail_msg("mlstm on %s, chunks of %d, ring of %d, gates %d: what is kept is off by "
                     "%.1e, h by "
                     "%.1e",
                     device->name, chunk, p.deferred, i / 4, error, h);
        mlstm_result_free(&exact);
        mlstm_result_free(&r);
        mlstm_problem_free(&p);
    }
}

/* ---- Prompts in halves ---- */

/* Sequences that begin anywhere in a chunk, are shorter than one or longer than several, beside single tokens, many tokens
 * or few; widths that tensor cores take; the last is long enough for a device to divide it, and forgets nothing. */
static const struct {
    mlstm_shape shape;
    gate_rule rule;
} prompts[] = {
    {{3, {150, 1, 67}, {37, 5, 128}, 2, 128, 128}, no_rule},
    {{4, {64, 63, 130, 2}, {0, 63, 1000, 62}, 1, 128, 256}, no_rule},
    {{2, {131, 7}, {60, 3}, 1, 256, 512}, no_rule},
    {{3, {70, 1, 57}, {37, 5, 128}, 2, 128, 128}, no_rule},
    {{1, {128}, {63}, 1, 256, 512}, no_rule},
    {{2, {64, 64}, {0, 64}, 2, 256, 128}, no_rule},
    {{1, {1600}, {17}, 1, 128, 128}, all_kept},
};

enum { FEW_PROMPTS = 3 }; /* the first of few tokens */

static void check_prompt(ops_device *device, int which, dtype state, double *worst) {
    const mlstm_shape *shape = &prompts[which].shape;
    mlstm_problem p = mlstm_problem_make(shape, DTYPE_F32, 19);
    p.halves = true;
    p.state = state;
    apply(&p, prompts[which].rule);
    mlstm_result exact = run_exactly(device, &p), r = run_whole(device, &p, 0);
    double error = mlstm_error(&p, &r, &exact);
    *worst = error > *worst ? error : *worst;
    if (!(error <= FAST_TOLERANCE))
        fail_msg("mlstm on %s, fast, %d sequences of bf16, the first of %d tokens, heads of %d and "
                 "%d, C and n in %s: relative error %.1e, tolerance %.0e",
                 device->name, shape->sequences, (int)shape->length[0], (int)shape->d_qk,
                 (int)shape->d_v, dtype_name(state), error, FAST_TOLERANCE);
    mlstm_result_free(&exact);
    mlstm_result_free(&r);
    mlstm_problem_free(&p);
}

static void spoil(double *values, int64_t first, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        values[first + i] = (double)NAN;
}

/* What a sequence holds does not come into the others. */
static void check_neighbours(ops_device *device, int which) {
    mlstm_problem p = mlstm_problem_make(&prompts[which].shape, DTYPE_F32, 29);
    p.halves = true;
    mlstm_result clean = run_whole(device, &p, 0);
    int64_t qk = p.shape.heads * p.shape.d_qk, v = p.shape.heads * p.shape.d_v;
    spoil(p.q, p.start[1] * qk, qk);
    spoil(p.k, p.start[1] * qk, qk);
    spoil(p.v, p.start[1] * v, v);
    mlstm_result r = run_whole(device, &p, 0);
    if (!mlstm_equal(&p, &r, &clean, 0) || !mlstm_equal(&p, &r, &clean, 2))
        fail_msg("mlstm on %s, fast: NaN in a sequence spoiled another one", device->name);
    mlstm_result_free(&clean);
    mlstm_result_free(&r);
    mlstm_problem_free(&p);
}

/* What lies between ops as bf16, where the device takes it. */
void check_prompts(ops_device *device) {
    static const dtype states[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    static const gate_rule rules[] = {no_rule, all_kept, sinking, wiping};
    mlstm_shape extreme = {2, {150, 70}, {0, 9}, 3, 128, 128},
                few = {2, {78, 50}, {0, 9}, 3, 128, 128};
    double worst = 0;
    if (device->narrow_from == 0)
        return;
    for (size_t i = 0; i < sizeof prompts / sizeof *prompts; i++)
        for (int t = 0; t < 3; t++)
            if (t == 0 || !test_is_brief())
                check_prompt(device, (int)i, states[t], &worst);
    check_neighbours(device, 0);
    check_neighbours(device, FEW_PROMPTS);
    check_extremes(device, &extreme, true, 0);
    check_extremes(device, &few, true, 0);
    for (int64_t where = 0; where < 100; where += 33)
        for (int64_t other = 20; other <= 80; other += 60) {
            check_poison(device, true, (double)NAN, where, other, 0);
            check_poison(device, true, INFINITY, where, other, 0);
        }
    for (int i = 0; i < 4; i++)
        for (int64_t tokens = 70; tokens <= 140; tokens += 70) {
            check_empty(device, true, tokens, 0, rules[i], 0);
            check_empty(device, true, tokens, -INFINITY, rules[i], 0);
        }
    printf("  %s: prompts in bf16: worst error %.1e\n", device->name, worst);
}
