/* The sLSTM and LSTM kernels of every device: gradients against finite differences, values and
 * gradients of the official package, devices and forms against each other, clipping and cutting,
 * extreme gates, long sequences. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/kernels.h"
#include "support/support.h"

enum { C_STATE = 1, N_STATE = 2, M_STATE = 3 };

static bool is_cell(const xlstm_kernel *kernel) {
    return strstr(kernel->family, "lstm_") != NULL;
}

static bool is_lstm(const xlstm_kernel *kernel) {
    return strncmp(kernel->family, "lstm_", 5) == 0;
}

static bool is_step(const xlstm_kernel *kernel) {
    return strstr(kernel->family, "_step") != NULL;
}

/* Calls `check` for all kernels of the cells. */
static void on_every_cell(void (*check)(const xlstm_kernel *)) {
    const xlstm_kernel *kernel;
    int checked = 0;
    for (int k = 0; (kernel = kernel_to_test(k)); k++)
        if (is_cell(kernel)) {
            check(kernel);
            checked++;
        }
    assert_true(checked >= 4);
}

/* ---- Cases ---- */

/* Normalizers of at least 1, as they are once something is stored, and here and there a unit that is
 * empty. */
static void make_normalizers(kernel_case *c, uint64_t seed, bool empty) {
    if (is_lstm(c->kernel) || !case_has(c, "s0"))
        return;
    int64_t units = case_count(c, "s0") / 4;
    for (int64_t u = 0; u < units; u++) {
        double n = 1 + fabs(case_get(c, "s0", N_STATE * units + u));
        bool none = empty && case_choose(seed, 100 + (uint64_t)u, 0, 3) == 0;
        case_set(c, "s0", N_STATE * units + u, none ? 0 : n);
        if (none)
            case_set(c, "s0", C_STATE * units + u, 0);
    }
}

/* The slots of x of gate `gate`. */
static void draw_gate(kernel_case *c, int gate, uint64_t seed, double mean, double spread) {
    const xlstm_array *x = case_array(c, "x");
    int64_t units = x->shape[3] * x->shape[4], tokens = x->shape[0] * x->shape[1];
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t u = 0; u < units; u++)
            case_set(c, "x", (t * 4 + gate) * units + u,
                     (double)(float)(mean + spread * test_normal(seed, (uint64_t)gate,
                                                                 (uint64_t)(t * units + u))));
}

static void make(kernel_case *c, const xlstm_kernel *kernel, xlstm_dtype type, uint64_t seed) {
    int64_t size = case_choose(seed, 3, 1, 9);
    if (case_choose(seed, 4, 0, 3) == 0)
        size = case_choose(seed, 5, 10, 40);
    case_make(c, kernel, NULL, type, seed, "B=%d NH=%d S=%d DH=%d", (int)case_choose(seed, 0, 1, 3),
              (int)case_choose(seed, 1, 1, 3),
              is_step(kernel) ? 1 : (int)case_choose(seed, 2, 1, 15), (int)size);
    case_draw(c, "r", seed, 0, 0.7 / sqrt((double)size));
    draw_gate(c, 1, seed, (double)case_choose(seed, 6, -2, 4), 1);
    if (case_choose(seed, 7, 0, 3) == 0)
        draw_gate(c, 0, seed, 0, 6);
    if (case_choose(seed, 8, 0, 2) == 0)
        c->options.forward_clip = 0.3;
}

/* ---- Gradients ---- */

static void check_differences(const xlstm_kernel *kernel) {
    int rounds = !kernel_is_tested(kernel, XLSTM_F64) ? 0 : test_is_quick() ? 2 : 10;
    for (int round = 0; round < rounds; round++) {
        kernel_case c;
        uint64_t seed = case_seed() + (uint64_t)round;
        make(&c, kernel, XLSTM_F64, seed);
        make_normalizers(&c, seed, false); /* the formula jumps where n leaves 0 */
        if (round % 5 == 3) {
            case_drop(&c, "s0");
            case_drop(&c, "ds0");
        }
        if (round % 5 == 4)
            case_drop(&c, "ds");
        case_check_gradients(&c, seed, 1e-6);
        case_free(&c);
    }
}

static void test_finite_differences(void **state) {
    (void)state;
    on_every_cell(check_differences);
}

/* ---- The other devices and types ---- */

/* What comes back through y and what comes with ds are added on the way to ds0, and may cancel in a single unit, so that
 * rounding follows dy. */
static void compare_all(kernel_case *c, kernel_case *exact, double forward, double backward) {
    static const char *const outputs[] = {"y", "s", "all_s"};
    static const char *const gradients[] = {"dx", "dr", "db"};
    for (int i = 0; i < 3; i++)
        case_compare(c, exact, outputs[i], forward);
    for (int i = 0; i < 3; i++)
        case_compare(c, exact, gradients[i], backward);
    case_compare_sums(c, exact, "ds0", "dy", backward);
}

static void check_agreement(const xlstm_kernel *kernel) {
    int rounds = test_is_quick() ? 4 : 30;
    for (int round = 0; round < rounds; round++) {
        uint64_t seed = case_seed() + 1000 + (uint64_t)round;
        kernel_case exact, c;
        make(&exact, kernel_of_device(kernel->family, "reference"), XLSTM_F64, seed);
        make_normalizers(&exact, seed, true);
        exact.options.recurrent_cut = round % 5 == 1;
        exact.options.recurrent_gradient_clip = round % 5 == 2 ? 0.1 : 0;
        case_run(&exact, XLSTM_BACKWARD_EXACT);
        for (int type = kernel->device_memory; type < 2; type++) {
            make(&c, kernel, type ? XLSTM_F32 : XLSTM_F64, seed);
            case_copy_inputs(&c, &exact);
            c.options = exact.options;
            c.options.threads = 1 + round % 3;
            case_run(&c, XLSTM_BACKWARD_EXACT);
            compare_all(&c, &exact, type ? 2e-6 : 1e-12, type ? 2e-5 : 1e-11);
            case_free(&c);
        }
        case_free(&exact);
    }
}

static void test_devices_agree(void **state) {
    (void)state;
    on_every_cell(check_agreement);
}

/* Bits of everything with 1, 2 and 7 threads; and of a row of the batch alone. */
static void check_bits(const xlstm_kernel *kernel) {
    static const char *const names[] = {"y", "s", "all_s", "dx", "dr", "db", "ds0"};
    kernel_case one, other;
    const char *sizes = is_step(kernel) ? "B=11 S=1 NH=3 DH=13" : "B=11 S=6 NH=3 DH=13";
    case_make(&one, kernel, NULL, XLSTM_F32, 5, "%s", sizes);
    make_normalizers(&one, 5, false);
    one.options.threads = 1;
    case_run(&one, XLSTM_BACKWARD_EXACT);
    for (int threads = 2; threads <= 7; threads += 5) {
        case_make(&other, kernel, NULL, XLSTM_F32, 5, "%s", sizes);
        case_copy_inputs(&other, &one);
        other.options.threads = threads;
        case_run(&other, XLSTM_BACKWARD_EXACT);
        for (int i = 0; i < 7; i++)
            assert_memory_equal(case_array(&one, names[i])->data,
                                case_array(&other, names[i])->data,
                                (size_t)case_count(&one, names[i]) * sizeof(float));
        case_free(&other);
    }
    /* The last row alone. */
    case_make(&other, kernel, NULL, XLSTM_F32, 5, "B=1 S=%d NH=3 DH=13", is_step(kernel) ? 1 : 6);
    int64_t x = case_count(&other, "x"), y = case_count(&other, "y"), units = 3 * 13;
    for (int64_t i = 0; i < x; i++)
        case_set(&other, "x", i, case_get(&one, "x", 10 * x + i));
    for (int64_t i = 0; i < y; i++)
        case_set(&other, "dy", i, case_get(&one, "dy", 10 * y + i));
    int64_t states = case_count(&other, "s0") / units;
    for (int64_t i = 0; i < states * units; i++) {
        case_set(&other, "s0", i, case_get(&one, "s0", (i / units * 11 + 10) * units + i % units));
        case_set(&other, "ds", i, case_get(&one, "ds", (i / units * 11 + 10) * units + i % units));
    }
    case_run(&other, XLSTM_BACKWARD_EXACT);
    assert_memory_equal(case_array(&other, "y")->data,
                        (float *)case_array(&one, "y")->data + 10 * y, (size_t)y * sizeof(float));
    assert_memory_equal(case_array(&other, "dx")->data,
                        (float *)case_array(&one, "dx")->data + 10 * x, (size_t)x * sizeof(float));
    case_free(&other);
    case_free(&one);
}

static void test_bits(void **state) {
    (void)state;
    on_every_cell(check_bits);
}

/* ---- Steps make a sequence; what cutting and clipping of gradients mean ---- */

typedef struct unrolled {
    int64_t batch, tokens, heads, size, states;
    int64_t units; /* batch * heads * size */
} unrolled;

/* Token t of `sequence` for `step`, whose states are those before it. */
static void take_token(kernel_case *step, const kernel_case *sequence, const unrolled *u,
                       int64_t t) {
    int64_t row = 4 * u->heads * u->size;
    for (int64_t b = 0; b < u->batch; b++)
        for (int64_t i = 0; i < row; i++)
            case_set(step, "x", b * row + i,
                     case_get(sequence, "x", (b * u->tokens + t) * row + i));
    for (int64_t s = 0; s < u->states; s++)
        for (int64_t b = 0; b < u->batch; b++)
            for (int64_t i = 0; i < u->units / u->batch; i++) {
                int64_t width = u->units / u->batch, to = (s * u->batch + b) * width + i;
                case_set(step, "s0", to,
                         t == 0 ? case_get(sequence, "s0", to)
                                : case_get(sequence, "all_s",
                                           ((s * u->batch + b) * u->tokens + t - 1) * width + i));
            }
}

static double clipped(double value, double bound) {
    return bound == 0 ? value : fmax(-bound, fmin(bound, value));
}

/* Walks back through time with steps, cutting or clipping here what goes from a step to the one
 * before, and expects what the sequence with those options gives. */
static void check_unrolled(const xlstm_kernel *kernel, bool cut, double clip) {
    if (is_step(kernel) || !kernel_is_tested(kernel, XLSTM_F64))
        return;
    unrolled u = {.batch = 2,
                  .tokens = 5,
                  .heads = 2,
                  .size = 7,
                  .states = is_lstm(kernel) ? 2 : 4,
                  .units = 28};
    kernel_case sequence, step;
    case_make(&sequence, kernel, NULL, XLSTM_F64, 9, "B=2 S=5 NH=2 DH=7");
    make_normalizers(&sequence, 9, true);
    sequence.options.recurrent_cut = cut;
    sequence.options.recurrent_gradient_clip = clip;
    case_run(&sequence, XLSTM_BACKWARD_EXACT);
    case_make(&step, kernel_of_device(is_lstm(kernel) ? "lstm_step" : "slstm_step", kernel->device),
              NULL, XLSTM_F64, 9, "B=2 S=1 NH=2 DH=7");
    case_copy_inputs(&step, &step);
    int64_t weights = case_count(&step, "r"), biases = case_count(&step, "b");
    double *dr = calloc((size_t)(weights + biases), sizeof *dr), *db = dr + weights;
    double difference = 0;
    int bounded = 0;
    for (int64_t i = 0; i < case_count(&step, "ds"); i++)
        case_set(&step, "ds", i, case_get(&sequence, "ds", i));
    for (int64_t t = u.tokens - 1; t >= 0; t--) {
        take_token(&step, &sequence, &u, t);
        for (int64_t b = 0; b < u.batch; b++)
            for (int64_t i = 0; i < 14; i++)
                case_set(&step, "dy", b * 14 + i,
                         case_get(&sequence, "dy", (b * u.tokens + t) * 14 + i));
        case_run(&step, XLSTM_BACKWARD_EXACT);
        for (int64_t b = 0; b < u.batch; b++)
            for (int64_t i = 0; i < 56; i++)
                difference =
                    fmax(difference, fabs(case_get(&step, "dx", b * 56 + i) -
                                          case_get(&sequence, "dx", (b * u.tokens + t) * 56 + i)));
        for (int64_t i = 0; i < weights; i++)
            dr[i] += case_get(&step, "dr", i);
        for (int64_t i = 0; i < biases; i++)
            db[i] += case_get(&step, "db", i);
        for (int64_t i = 0; i < case_count(&step, "ds"); i++) {
            double d = case_get(&step, "ds0", i);
            bounded += i < u.units && clipped(d, clip) != d;
            case_set(&step, "ds", i, i >= u.units ? d : cut ? 0 : clipped(d, clip));
        }
    }
    for (int64_t i = 0; i < case_count(&step, "ds"); i++)
        difference =
            fmax(difference, fabs(case_get(&step, "ds", i) - case_get(&sequence, "ds0", i)));
    for (int64_t i = 0; i < weights; i++)
        difference = fmax(difference, fabs(dr[i] - case_get(&sequence, "dr", i)));
    for (int64_t i = 0; i < biases; i++)
        difference = fmax(difference, fabs(db[i] - case_get(&sequence, "db", i)));
    if (!(difference <= 1e-12))
        fail_msg("%s, cut %d, clip %g: differs by %g from steps", kernel->name, cut, clip,
                 difference);
    assert_true(clip == 0 || bounded > 5);
    free(dr);
    case_free(&step);
    case_free(&sequence);
}

static void check_cuts_and_clips(const xlstm_kernel *kernel) {
    check_unrolled(kernel, false, 0);
    check_unrolled(kernel, true, 0);
    check_unrolled(kernel, false, 0.05);
}

static void test_cuts_and_clips(void **state) {
    (void)state;
    on_every_cell(check_cuts_and_clips);
}

/* Forward steps give the bits of the sequence; but the reference, which keeps the states of a sequence
 * in double, rounds them between steps in f32. */
static void check_steps(const xlstm_kernel *kernel) {
    if (is_step(kernel))
        return;
    for (int type = kernel->device_memory; type < 2; type++) {
        xlstm_dtype dtype = type ? XLSTM_F32 : XLSTM_F64;
        unrolled u = {.batch = 3,
                      .tokens = 9,
                      .heads = 2,
                      .size = 19,
                      .states = is_lstm(kernel) ? 2 : 4,
                      .units = 3 * 2 * 19};
        kernel_case sequence, step;
        case_make(&sequence, kernel, NULL, dtype, 21, "B=3 S=9 NH=2 DH=19");
        make_normalizers(&sequence, 21, true);
        sequence.options.forward_clip = 0.5;
        case_run(&sequence, XLSTM_FORWARD);
        case_make(&step,
                  kernel_of_device(is_lstm(kernel) ? "lstm_step" : "slstm_step", kernel->device),
                  NULL, dtype, 21, "B=3 S=1 NH=2 DH=19");
        step.options.forward_clip = 0.5;
        bool bounded = false, rounds = type && strcmp(kernel->device, "reference") == 0;
        double tolerance = rounds ? 1e-6 : 0;
        for (int64_t t = 0; t < u.tokens; t++) {
            take_token(&step, &sequence, &u, t);
            case_run(&step, XLSTM_FORWARD);
            for (int64_t b = 0; b < u.batch; b++)
                for (int64_t i = 0; i < 38; i++) {
                    double y = case_get(&step, "y", b * 38 + i);
                    double other = case_get(&sequence, "y", (b * u.tokens + t) * 38 + i);
                    assert_true(fabs(y - other) <= tolerance);
                    assert_true(fabs(y) <= 0.5);
                    bounded = bounded || fabs(y) == 0.5;
                }
        }
        assert_true(bounded);
        for (int64_t i = 0; i < case_count(&step, "s"); i++)
            assert_true(fabs(case_get(&step, "s", i) - case_get(&sequence, "s", i)) <=
                        10 * tolerance);
        case_free(&step);
        case_free(&sequence);
    }
}

static void test_steps(void **state) {
    (void)state;
    on_every_cell(check_steps);
}

/* ---- Extreme gates ---- */

static void check_extremes(const xlstm_kernel *kernel) {
    if (is_step(kernel) || is_lstm(kernel))
        return;
    for (int kind = 0; kind < 5; kind++)
        for (int type = kernel->device_memory; type < 2; type++) {
            kernel_case c, exact;
            const char *sizes = "B=2 S=13 NH=2 DH=5";
            case_make(&exact, kernel_of_device(kernel->family, "reference"), NULL, XLSTM_F64, 3,
                      "%s", sizes);
            make_normalizers(&exact, 3, true);
            static const double spread[] = {15, 100, 1, 0, 1};
            draw_gate(&exact, 0, 31, 0, spread[kind]);
            draw_gate(&exact, 1, 32, 0, spread[kind]);
            for (int64_t i = 0; kind == 2 && i < case_count(&exact, "x"); i++)
                if (i / 10 % 4 < 2 && case_choose(8, (uint64_t)i, 0, 2) == 0)
                    case_set(&exact, "x", i,
                             i / 10 % 4 == 1 && i % 2 ? (double)INFINITY : -(double)INFINITY);
            if (kind == 4) { /* nothing is ever stored */
                draw_gate(&exact, 0, 31, -(double)INFINITY, 0);
                for (int64_t i = 0; i < case_count(&exact, "s0"); i++)
                    case_set(&exact, "s0", i, 0);
            }
            case_run(&exact, XLSTM_BACKWARD_EXACT);
            case_make(&c, kernel, NULL, type ? XLSTM_F32 : XLSTM_F64, 3, "%s", sizes);
            case_copy_inputs(&c, &exact);
            case_run(&c, XLSTM_BACKWARD_EXACT);
            compare_all(&c, &exact, type ? 5e-6 : 1e-12, type ? 1e-3 : 1e-10);
            for (int64_t i = 0; i < case_count(&c, "y"); i++)
                assert_true(isfinite(case_get(&c, "y", i)) &&
                            (kind != 4 || case_get(&c, "y", i) == 0));
            for (int64_t i = 0; i < case_count(&c, "dx"); i++)
                assert_true(isfinite(case_get(&c, "dx", i)));
            case_free(&c);
            case_free(&exact);
        }
}

static void test_extremes(void **state) {
    (void)state;
    on_every_cell(check_extremes);
}

/* What ds brings to the maximum goes to the larger of the two sides, to the forget gate's where they
 * are equal, and to nothing where nothing is stored. */
static void check_maximum(const xlstm_kernel *kernel) {
    static const struct {
        double i, f, n0, m0, di, dm0;
    } cases[] = {
        {2, (double)INFINITY, 1, 2, 0, 1}, /* ties */
        {0, 1000, 1, 0, 0, 1},
        {2, (double)INFINITY, 1, 1, 1, 0}, /* one side is larger */
        {2, (double)INFINITY, 1, 3, 0, 1},
        {2, (double)INFINITY, 0, 2, 1, 0},                  /* n is 0: always the input gate's */
        {-(double)INFINITY, -(double)INFINITY, 1, 0, 0, 0}, /* nothing is stored */
        {-(double)INFINITY, (double)INFINITY, 1, -(double)INFINITY, 0, 0},
        {-(double)INFINITY, 3, 0, 0, 0, 0},
    };
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++)
        for (int type = kernel->device_memory; type < 2 && !is_lstm(kernel); type++) {
            kernel_case c;
            case_make(&c, kernel, NULL, type ? XLSTM_F32 : XLSTM_F64, 2, "B=1 S=1 NH=1 DH=1");
            case_draw(&c, "r", 2, 0, 0);
            case_draw(&c, "b", 2, 0, 0);
            case_draw(&c, "dy", 2, 0, 0);
            case_draw(&c, "ds", 2, 0, 0);
            case_set(&c, "ds", M_STATE, 1);
            case_set(&c, "x", 0, cases[k].i);
            case_set(&c, "x", 1, cases[k].f);
            case_set(&c, "s0", N_STATE, cases[k].n0);
            case_set(&c, "s0", M_STATE, cases[k].m0);
            case_run(&c, XLSTM_BACKWARD_EXACT);
            for (int i = 0; i < 4; i++) {
                assert_true(case_get(&c, "dx", i) == (i == 0 ? cases[k].di : 0));
                assert_true(case_get(&c, "ds0", i) == (i == M_STATE ? cases[k].dm0 : 0));
            }
            case_free(&c);
        }
}

static void test_maximum(void **state) {
    (void)state;
    on_every_cell(check_maximum);
}

/* Where n is 0 but c is not, and the forget gate's side is above raw_i, F is min(1, .) of more than
 * 1: c is kept as it is, and neither f nor m has any part in it. */
static void check_bounded_forget_gate(const xlstm_kernel *kernel) {
    for (int type = kernel->device_memory; type < 2 && !is_lstm(kernel); type++) {
        kernel_case c;
        case_make(&c, kernel, NULL, type ? XLSTM_F32 : XLSTM_F64, 12, "B=1 S=%d NH=2 DH=5",
                  is_step(kernel) ? 1 : 3);
        case_draw(&c, "r", 12, 0, 0.1);
        draw_gate(&c, 0, 12, -8, 0.5);
        draw_gate(&c, 1, 12, 1, 1);
        for (int u = 0; u < 10; u++)
            case_set(&c, "s0", N_STATE * 10 + u, 0);
        case_run(&c, XLSTM_BACKWARD_EXACT);
        for (int u = 0; u < 10; u++) {
            assert_true(case_get(&c, "dx", 10 + u) == 0); /* f of the first token */
            assert_true(case_get(&c, "ds0", M_STATE * 10 + u) == 0);
            assert_true(case_get(&c, "ds0", C_STATE * 10 + u) != 0);
        }
        case_drop(&c, "ds0"); /* the formula jumps where n leaves 0 */
        if (type == 0)
            case_check_gradients(&c, 12, 1e-6);
        case_free(&c);
    }
}

static void test_bounded_forget_gate(void **state) {
    (void)state;
    on_every_cell(check_bounded_forget_gate);
}

/* A maximum so far from 0 that f32 holds it with an error of 1e-3: what is stored is weighed by the
 * maximum as it is stored, and y does not suffer. */
static void check_far_maxima(const xlstm_kernel *kernel) {
    if (is_step(kernel) || is_lstm(kernel))
        return;
    enum { FAR = -30000 };
    kernel_case c, exact;
    case_make(&exact, kernel_of_device(kernel->family, "reference"), NULL, XLSTM_F64, 6,
              "B=1 S=200 NH=1 DH=5");
    make_normalizers(&exact, 6, false);
    draw_gate(&exact, 0, 6, FAR, 1);
    draw_gate(&exact, 1, 7, 3, 1);
    for (int u = 0; u < 5; u++) { /* all that is added to i is 0: f32 has no room for it */
        case_set(&exact, "s0", M_STATE * 5 + u, FAR);
        case_set(&exact, "b", u, 0);
        for (int p = 0; p < 5; p++)
            case_set(&exact, "r", p * 20 + u, 0);
    }
    case_make(&c, kernel, NULL, XLSTM_F32, 6, "B=1 S=200 NH=1 DH=5");
    case_copy_inputs(&c, &exact);
    case_run(&exact, XLSTM_FORWARD);
    case_run(&c, XLSTM_FORWARD);
    case_compare(&c, &exact, "y", 2e-6);
    case_free(&c);
    case_free(&exact);
}

static void test_far_maxima(void **state) {
    (void)state;
    on_every_cell(check_far_maxima);
}

/* Padding: i = -inf, f = +inf leaves c, n, m as they are, to the bit. */
static void check_padding(const xlstm_kernel *kernel) {
    if (is_lstm(kernel))
        return;
    kernel_case c;
    case_make(&c, kernel, NULL, XLSTM_F32, 3, "B=2 S=%d NH=2 DH=5", is_step(kernel) ? 1 : 4);
    make_normalizers(&c, 3, false);
    draw_gate(&c, 0, 1, -(double)INFINITY, 0);
    draw_gate(&c, 1, 1, (double)INFINITY, 0);
    case_run(&c, XLSTM_FORWARD);
    int64_t units = case_count(&c, "s") / 4;
    for (int64_t i = units; i < 4 * units; i++)
        assert_true(case_get(&c, "s", i) == case_get(&c, "s0", i));
    case_free(&c);
}

static void test_padding(void **state) {
    (void)state;
    on_every_cell(check_padding);
}

/* A NaN of a head spoils that head from there on, and nothing before it. */
static void check_poison(const xlstm_kernel *kernel) {
    if (is_step(kernel))
        return;
    kernel_case c;
    case_make(&c, kernel, NULL, XLSTM_F32, 3, "B=1 S=6 NH=2 DH=5");
    make_normalizers(&c, 3, false);
    case_set(&c, "x", (3 * 4 + 0) * 10 + 7, (double)NAN); /* token 3, i of unit 2 of head 1 */
    case_run(&c, XLSTM_FORWARD);
    for (int t = 0; t < 6; t++)
        for (int d = 0; d < 10; d++) {
            bool spoiled = (t == 3 && d == 7) || (t > 3 && d >= 5);
            assert_true(isnan(case_get(&c, "y", t * 10 + d)) == spoiled);
        }
    case_free(&c);
}

static void test_poison(void **state) {
    (void)state;
    on_every_cell(check_poison);
}

/* ---- Long sequences ---- */

/* f32 stays near f64 however long the sequence is. */
static void check_long(const xlstm_kernel *kernel) {
    if (is_step(kernel))
        return;
    int tokens = test_is_large() ? 1000000 : test_is_quick() ? 500 : 20000;
    kernel_case c, exact;
    case_make(&exact, kernel_of_device(kernel->family, "reference"), NULL, XLSTM_F64, 77,
              "B=1 S=%d NH=1 DH=3", tokens);
    case_make(&c, kernel, NULL, XLSTM_F32, 77, "B=1 S=%d NH=1 DH=3", tokens);
    make_normalizers(&exact, 77, false);
    case_draw(&exact, "r", 77, 0, 0.3);
    draw_gate(&exact, 1, 78, 4, 2);
    case_copy_inputs(&c, &exact);
    case_run(&exact, XLSTM_BACKWARD_EXACT);
    case_run(&c, XLSTM_BACKWARD_EXACT);
    printf("  %s, %d tokens in f32: error %.1e of y, %.1e of dx, %.1e of dr\n", kernel->name,
           tokens, case_error(&c, "y", &exact, "y"), case_error(&c, "dx", &exact, "dx"),
           case_error(&c, "dr", &exact, "dr"));
    case_compare(&c, &exact, "y", 1e-5);
    case_compare(&c, &exact, "dx", 1e-4);
    case_compare(&c, &exact, "dr", 1e-4);
    case_compare(&c, &exact, "db", 1e-4);
    case_free(&c);
    case_free(&exact);
}

static void test_long(void **state) {
    (void)state;
    on_every_cell(check_long);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finite_differences),
        cmocka_unit_test(test_devices_agree),
        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_cuts_and_clips),
        cmocka_unit_test(test_steps),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_maximum),
        cmocka_unit_test(test_bounded_forget_gate),
        cmocka_unit_test(test_padding),
        cmocka_unit_test(test_far_maxima),
        cmocka_unit_test(test_poison),
        cmocka_unit_test(test_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
