/* The kernels around the cells, on every device: convolution, headwise linear, norms, soft cap, gates,
 * cross-entropy. */
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

static const char *const families[] = {"conv1d",   "headwise_linear", "rms_norm",  "layer_norm",
                                       "soft_cap", "swiglu",          "gelu_gate", "cross_entropy"};
enum { FAMILIES = sizeof families / sizeof *families };

static bool is(const xlstm_kernel *kernel, const char *family) {
    return strcmp(kernel->family, family) == 0;
}

static bool is_small(const xlstm_kernel *kernel) {
    for (int i = 0; i < FAMILIES; i++)
        if (is(kernel, families[i]))
            return true;
    return false;
}

/* Of f64 (0) and f32 (1), the first that the kernel has. */
static int first_type(const xlstm_kernel *kernel) {
    return kernel->device_memory ? 1 : 0;
}

static void on_every_kernel(void (*check)(const xlstm_kernel *)) {
    const xlstm_kernel *kernel;
    int checked = 0;
    for (int k = 0; (kernel = xlstm_kernel_at(k)); k++)
        if (is_small(kernel) && test_uses_device(kernel->device)) {
            check(kernel);
            checked++;
        }
    assert_true(checked >= FAMILIES);
}

/* ---- Cases ---- */

static int pick(uint64_t seed, uint64_t counter, int64_t low, int64_t high) {
    return (int)case_choose(seed, counter, low, high);
}

static void make(kernel_case *c, const xlstm_kernel *kernel, xlstm_dtype type, uint64_t seed) {
    xlstm_kernel_options options = xlstm_kernel_defaults();
    int most = pick(seed, 20, 0, 3) ? 9 : 70;
    options.groups = pick(seed, 0, 1, 4);
    options.eps = pick(seed, 1, 0, 1) ? 1e-5 : 0.3;
    options.soft_cap = pick(seed, 2, 0, 1) ? 15 : 0.7;
    options.ignore_index = pick(seed, 3, 0, 1) ? -1 : 0;
    bool norm = strstr(kernel->family, "norm") != NULL;
    case_make(c, kernel, &options, type, seed, "B=%d S=%d D=%d K=%d N=%d NH=%d I=%d O=%d V=%d",
              pick(seed, 4, 1, 3),
              pick(seed, 23, 0, 7) ? pick(seed, 5, 1, most) : pick(seed, 24, 257, 300),
              (norm ? options.groups : 1) * pick(seed, 6, norm ? 4 : 2, most),
              pick(seed, 7, 0, 5) ? pick(seed, 8, 1, 6) : pick(seed, 9, 7, 80),
              pick(seed, 21, 0, 7) ? pick(seed, 10, 1, most) : pick(seed, 22, 257, 600),
              pick(seed, 11, 1, 5), pick(seed, 12, 1, most), pick(seed, 13, 1, most),
              pick(seed, 14, 2, 3 * most));
    if (case_has(c, "target")) /* some to ignore */
        for (int64_t i = 0; i < case_count(c, "target"); i += 3)
            case_set(c, "target", i, (double)options.ignore_index);
    if (pick(seed, 15, 0, 2) == 0) {
        case_drop(c, is(kernel, "conv1d") ? "s0" : "b");
        case_drop(c, is(kernel, "conv1d") ? "ds0" : "db");
    }
    if (norm && pick(seed, 16, 0, 2) == 0) {
        case_drop(c, "w");
        case_drop(c, "dw");
    }
}

/* ---- Gradients ---- */

static void check_differences(const xlstm_kernel *kernel) {
    if (first_type(kernel) > 0) /* differences need f64 */
        return;
    for (int round = 0; round < (test_is_quick() ? 2 : 12); round++) {
        kernel_case c;
        uint64_t seed = case_seed() + (uint64_t)round;
        make(&c, kernel, XLSTM_F64, seed);
        case_check_gradients(&c, seed, 1e-6);
        case_free(&c);
    }
}

static void test_finite_differences(void **state) {
    (void)state;
    on_every_kernel(check_differences);
}

/* ---- Devices, types, threads ---- */

static bool is_output(const kernel_case *c, int p) {
    const xlstm_role role = c->kernel->parameters[p].role;
    return c->given[p] && (role == XLSTM_OUTPUT || role == XLSTM_BACKWARD_OUTPUT);
}

/* `usual`: the norms that count at least, by parameter; NULL: none. */
static void compare_outputs(const kernel_case *c, const kernel_case *exact, const double *usual,
                            double tolerance) {
    for (int p = 0; p < c->kernel->parameter_count; p++)
        if (is_output(c, p))
            case_compare_usual(c, exact, c->kernel->parameters[p].name, usual ? usual[p] : 0,
                               tolerance);
}

/* The norms that outputs of few elements have over other draws of the inputs: rounding follows these, and not what is
 * left where the terms of a draw cancel. 0 for outputs of many elements, which do not all cancel. */
static void find_usual(const xlstm_kernel *kernel, uint64_t seed, double *usual) {
    enum { FEW = 64, DRAWS = 8 };
    kernel_case c;
    bool few[CASE_MOST_ARRAYS], any = false;
    make(&c, kernel, XLSTM_F64, seed);
    for (int p = 0; p < kernel->parameter_count; p++) {
        usual[p] = 0;
        few[p] = is_output(&c, p) && case_count(&c, kernel->parameters[p].name) < FEW;
        any = any || few[p];
    }
    for (uint64_t i = 1; any && i <= DRAWS; i++) {
        for (int p = 0; p < kernel->parameter_count; p++)
            if (!is_output(&c, p) && c.array[p].dtype == XLSTM_F64)
                case_draw(&c, kernel->parameters[p].name, seed + i, 0, 1);
        case_run(&c, XLSTM_BACKWARD_EXACT);
        for (int p = 0; p < kernel->parameter_count; p++)
            if (few[p])
                usual[p] += case_squares(&c, kernel->parameters[p].name) / DRAWS;
    }
    for (int p = 0; p < kernel->parameter_count; p++) {
        assert_true(isfinite(usual[p])); /* or every error would be small */
        usual[p] = sqrt(usual[p]);
    }
    case_free(&c);
}

static void check_agreement(const xlstm_kernel *kernel) {
    for (int round = 0; round < (test_is_quick() ? 6 : 60); round++) {
        const xlstm_kernel *reference = kernel_of_device(kernel->family, "reference");
        uint64_t seed = case_seed() + 1000 + (uint64_t)round;
        double usual[CASE_MOST_ARRAYS];
        kernel_case exact, c;
        make(&exact, reference, XLSTM_F64, seed);
        find_usual(reference, seed, usual);
        case_run(&exact, XLSTM_BACKWARD_EXACT);
        for (int type = first_type(kernel); type < 2; type++) {
            make(&c, kernel, type ? XLSTM_F32 : XLSTM_F64, seed);
            case_copy_inputs(&c, &exact);
            c.options.threads = 1 + round % 3;
            case_run(&c, XLSTM_BACKWARD_EXACT);
            /* The gradient of a norm of few values is what is left of a difference. */
            compare_outputs(&c, &exact, usual,
                            (strstr(kernel->family, "norm") ? 10 : 1) * (type ? 2e-6 : 1e-12));
            case_free(&c);
        }
        case_free(&exact);
    }
}

static void test_devices_agree(void **state) {
    (void)state;
    on_every_kernel(check_agreement);
}

/* Rows of whole vectors, and of what is left beside them, in every type that is computed in f32. What is stored is
 * rounded to the type. */
static void check_types(const xlstm_kernel *kernel) {
    static const char *const sizes[] = {"B=2 S=70 D=136 K=4 N=300 NH=3 I=4 O=4 V=264",
                                        "B=1 S=3 D=8 K=4 N=2 NH=1 I=8 O=8 V=8",
                                        "B=3 S=65 D=264 K=4 N=75 NH=4 I=24 O=40 V=2051",
                                        "B=1 S=4 D=9000 K=5 N=3 NH=2 I=70 O=9 V=64"};
    static const struct {
        xlstm_dtype type;
        double tolerance;
    } types[] = {{XLSTM_F32, 2e-5}, {XLSTM_BF16, 4e-3}, {XLSTM_F16, 5e-4}};
    for (int i = 0; i < (test_is_quick() ? 6 : 12); i++) {
        kernel_case exact, c;
        xlstm_kernel_options options = xlstm_kernel_defaults();
        options.groups = i % 2 ? 1 : 2;
        case_make(&c, kernel, &options, types[i % 3].type, 77 + (uint64_t)i, "%s", sizes[i / 3]);
        case_make(&exact, kernel_of_device(kernel->family, "reference"), &options, XLSTM_F64, 1,
                  "%s", sizes[i / 3]);
        case_copy_inputs(&exact, &c);
        case_run(&exact, XLSTM_BACKWARD_EXACT);
        case_run(&c, XLSTM_BACKWARD_EXACT);
        compare_outputs(&c, &exact, NULL, types[i % 3].tolerance);
        case_free(&c);
        case_free(&exact);
    }
}

static void test_types(void **state) {
    (void)state;
    on_every_kernel(check_types);
}

/* Large shapes: the bits do not depend on the number of threads. */
static void check_threads(const xlstm_kernel *kernel) {
    const char *sizes = "B=3 S=97 D=150 K=5 N=301 NH=3 I=50 O=37 V=150";
    kernel_case one, other;
    case_make(&one, kernel, NULL, XLSTM_F32, 8, "%s", sizes);
    one.options.threads = 1;
    case_run(&one, XLSTM_BACKWARD_EXACT);
    for (int threads = 2; threads <= 7; threads += 5) {
        case_make(&other, kernel, NULL, XLSTM_F32, 8, "%s", sizes);
        other.options.threads = threads;
        case_run(&other, XLSTM_BACKWARD_EXACT);
        for (int p = 0; p < kernel->parameter_count; p++)
            assert_memory_equal(one.array[p].data, other.array[p].data,
                                (size_t)case_count(&one, kernel->parameters[p].name) *
                                    sizeof(float));
        case_free(&other);
    }
    case_free(&one);
}

static void test_threads(void **state) {
    (void)state;
    on_every_kernel(check_threads);
}

/* ---- Convolution ---- */

/* A sequence in two parts, the state being carried, gives the bits of the whole. */
static void check_carried_state(const xlstm_kernel *kernel) {
    if (!is(kernel, "conv1d"))
        return;
    enum { TAPS = 6, WIDTH = 37, TOKENS = 12 };
    for (int cut = 1; cut < TOKENS; cut += 3) {
        kernel_case whole, part;
        case_make(&whole, kernel, NULL, XLSTM_F32, 4, "B=1 S=%d D=%d K=%d", TOKENS, WIDTH, TAPS);
        case_run(&whole, XLSTM_FORWARD);
        int first = 0;
        double state[(TAPS - 1) * WIDTH];
        for (int i = 0; i < (TAPS - 1) * WIDTH; i++)
            state[i] = case_get(&whole, "s0", i);
        for (int p = 0; p < 2; p++) {
            int tokens = p ? TOKENS - cut : cut;
            case_make(&part, kernel, NULL, XLSTM_F32, 4, "B=1 S=%d D=%d K=%d", tokens, WIDTH, TAPS);
            for (int i = 0; i < (TAPS - 1) * WIDTH; i++)
                case_set(&part, "s0", i, state[i]);
            for (int i = 0; i < tokens * WIDTH; i++)
                case_set(&part, "x", i, case_get(&whole, "x", first * WIDTH + i));
            case_run(&part, XLSTM_FORWARD);
            for (int i = 0; i < tokens * WIDTH; i++)
                assert_true(case_get(&part, "y", i) == case_get(&whole, "y", first * WIDTH + i));
            for (int i = 0; i < (TAPS - 1) * WIDTH; i++)
                state[i] = case_get(&part, "s", i);
            first += tokens;
            case_free(&part);
        }
        for (int i = 0; i < (TAPS - 1) * WIDTH; i++)
            assert_true(state[i] == case_get(&whole, "s", i));
        case_free(&whole);
    }
}

static void test_carried_state(void **state) {
    (void)state;
    on_every_kernel(check_carried_state);
}

/* The state may be written where it was read. */
static void check_state_in_place(const xlstm_kernel *kernel) {
    if (!is(kernel, "conv1d"))
        return;
    for (int tokens = 1; tokens <= 7; tokens += 2) {
        kernel_case apart, in_place;
        case_make(&apart, kernel, NULL, XLSTM_F32, 4, "B=2 S=%d D=70 K=5", tokens);
        case_make(&in_place, kernel, NULL, XLSTM_F32, 4, "B=2 S=%d D=70 K=5", tokens);
        case_run(&apart, XLSTM_BACKWARD_EXACT);
        xlstm_array separate = *case_array(&in_place, "s");
        *case_array(&in_place, "s") = *case_array(&in_place, "s0");
        case_run(&in_place, XLSTM_BACKWARD_EXACT);
        case_compare(&in_place, &apart, "y", 0);
        case_compare(&in_place, &apart, "s", 0);
        case_compare(&in_place, &apart, "dw", 0);
        *case_array(&in_place, "s") = separate;
        case_free(&apart);
        case_free(&in_place);
    }
}

static void test_state_in_place(void **state) {
    (void)state;
    on_every_kernel(check_state_in_place);
}

/* ---- Extremes ---- */

static void set_row(kernel_case *c, const char *name, const double *values, int count) {
    for (int i = 0; i < count; i++)
        case_set(c, name, i, values[i]);
}

/* Logits of any size; the loss of the largest is 0, that of another the difference. */
static void check_large_logits(const xlstm_kernel *kernel) {
    if (!is(kernel, "cross_entropy"))
        return;
    for (int type = first_type(kernel); type < 2; type++) {
        kernel_case c;
        case_make(&c, kernel, NULL, type ? XLSTM_F32 : XLSTM_F64, 1, "N=4 V=5");
        const double row[5] = {1e4, -1e4, 0, 9e3, -(double)INFINITY};
        for (int r = 0; r < 4; r++)
            for (int v = 0; v < 5; v++)
                case_set(&c, "logits", 5 * r + v, r == 3 ? 7 : row[v]);
        set_row(&c, "target", (const double[]){0, 1, -1, 4}, 4);
        set_row(&c, "dloss", (const double[]){1, 2, 3, 4}, 4);
        case_run(&c, XLSTM_BACKWARD_EXACT);
        const double loss[] = {0, 2e4, 0, log(5)};
        for (int r = 0; r < 4; r++)
            assert_true(fabs(case_get(&c, "loss", r) - loss[r]) <= 1e-6);
        const double gradient[20] = {0, 0, 0, 0, 0, 2,  -2, 0,  0,  0,
                                     0, 0, 0, 0, 0, .8, .8, .8, .8, -3.2};
        for (int i = 0; i < 20; i++)
            assert_true(fabs(case_get(&c, "dlogits", i) - gradient[i]) <= 1e-6);
        case_free(&c);
    }
}

static void test_large_logits(void **state) {
    (void)state;
    on_every_kernel(check_large_logits);
}

static void is_near(double value, double exact, double tolerance) {
    if (!(fabs(value - exact) <= tolerance * fabs(exact)))
        fail_msg("%.17g instead of %.17g", value, exact);
}

/* A target that is far above all others has the loss and the gradient of what is left, to full
 * precision. */
static void check_confident_rows(const xlstm_kernel *kernel) {
    if (!is(kernel, "cross_entropy"))
        return;
    enum { WIDTH = 70, TARGET = 19 };
    static const double gaps[] = {0, 1, 10, 20, 40, 80};
    enum { ROWS = sizeof gaps / sizeof gaps[0] };
    for (int type = first_type(kernel); type < 2; type++) {
        kernel_case c;
        double tolerance = type ? 1e-6 : 1e-12;
        case_make(&c, kernel, NULL, type ? XLSTM_F32 : XLSTM_F64, 1, "N=%d V=%d", ROWS, WIDTH);
        for (int r = 0; r < ROWS; r++) {
            for (int v = 0; v < WIDTH; v++)
                case_set(&c, "logits", r * WIDTH + v, v == TARGET ? 3 : 3 - gaps[r]);
            case_set(&c, "target", r, TARGET);
            case_set(&c, "dloss", r, 2);
        }
        case_run(&c, XLSTM_BACKWARD_EXACT);
        for (int r = 0; r < ROWS; r++) {
            double other = exp(-gaps[r]), others = (WIDTH - 1) * other;
            is_near(case_get(&c, "loss", r), log1p(others), tolerance);
            for (int v = 0; v < WIDTH; v++)
                is_near(case_get(&c, "dlogits", r * WIDTH + v),
                        2 * (v == TARGET ? -others : other) / (1 + others), tolerance);
        }
        case_free(&c);
    }
}

static void test_confident_rows(void **state) {
    (void)state;
    on_every_kernel(check_confident_rows);
}

/* Far from 0 the caps and gates are their limits, and so are the gradients. */
static void check_far_gates(const xlstm_kernel *kernel) {
    bool cap = is(kernel, "soft_cap");
    if (!cap && !is(kernel, "swiglu") && !is(kernel, "gelu_gate"))
        return;
    for (int type = first_type(kernel); type < 2; type++) {
        kernel_case c;
        case_make(&c, kernel, NULL, type ? XLSTM_F32 : XLSTM_F64, 1, "N=1 D=4");
        set_row(&c, "x", (const double[]){-1000, 1000, -3e4, 3e4}, 4);
        set_row(&c, "dy", (const double[]){1, 1, 1, 1}, 4);
        if (!cap)
            set_row(&c, "u", (const double[]){2, 2, 2, 2}, 4);
        case_run(&c, XLSTM_BACKWARD_EXACT);
        const double gated[] = {0, 2000, 0, 6e4}, capped[] = {-15, 15, -15, 15};
        const double slope[] = {0, 2, 0, 2}, none[] = {0, 0, 0, 0};
        for (int i = 0; i < 4; i++) {
            assert_true(case_get(&c, "y", i) == (cap ? capped : gated)[i]);
            assert_true(fabs(case_get(&c, "dx", i) - (cap ? none : slope)[i]) <= 1e-20);
        }
        case_free(&c);
    }
}

static void test_far_gates(void **state) {
    (void)state;
    on_every_kernel(check_far_gates);
}

/* Rows with a large mean: the variance must not be a difference of squares. */
static void check_shifted_rows(const xlstm_kernel *kernel) {
    if (!is(kernel, "layer_norm"))
        return;
    kernel_case c, exact;
    case_make(&exact, kernel_of_device("layer_norm", "reference"), NULL, XLSTM_F64, 2, "N=3 D=40");
    case_draw(&exact, "x", 2, 1000, 1);
    case_make(&c, kernel, NULL, XLSTM_F32, 2, "N=3 D=40");
    case_copy_inputs(&c, &exact);
    case_run(&exact, XLSTM_BACKWARD_EXACT);
    case_run(&c, XLSTM_BACKWARD_EXACT);
    compare_outputs(&c, &exact, NULL, 1e-4); /* an ulp of 1000 is 6e-5 */
    case_free(&c);
    case_free(&exact);
}

static void test_shifted_rows(void **state) {
    (void)state;
    on_every_kernel(check_shifted_rows);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finite_differences),
        cmocka_unit_test(test_devices_agree),
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_carried_state),
        cmocka_unit_test(test_state_in_place),
        cmocka_unit_test(test_large_logits),
        cmocka_unit_test(test_confident_rows),
        cmocka_unit_test(test_far_gates),
        cmocka_unit_test(test_shifted_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
