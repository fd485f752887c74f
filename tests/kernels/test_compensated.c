/* Compensated accumulation: against the reference, which computes in double, over lengths and gates at which plain f32
 * fails, at the ends of the allowed domain, with states handed over, forward and backward; and, where all weights are 1, sums
 * in the states against exact ones, for every device that accumulates f32. */
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
#include "kernels/mlstm.h"
#include "support/superaccumulator.h"
#include "support/support.h"

static const double u = 0x1p-24;

static xlstm_kernel_options compensated(void) {
    xlstm_kernel_options options = xlstm_kernel_defaults();
    options.accumulate = XLSTM_ACCUMULATE_COMPENSATED;
    return options;
}

/* The kernel of the same family on the reference device. */
static const xlstm_kernel *reference_of(const xlstm_kernel *kernel) {
    char name[64];
    snprintf(name, sizeof name, "%s--reference", kernel->family);
    return xlstm_kernel_find(name);
}

/* Gates of several kinds; what an infinite one may meet is in here too. */
enum { GATE_KINDS = 7 };

static void set_gates(kernel_case *c, int kind, uint64_t seed) {
    static const double forget_mean[] = {0, 3, 12, -6, 30, 0, 0},
                        input_mean[] = {0, -10, -3, -12, 10, 0, 0};
    static const double spread[] = {1, 1, 1, 3, 1, 40, 1};
    case_draw(c, "f", seed, forget_mean[kind], spread[kind]);
    case_draw(c, "i", seed, input_mean[kind], spread[kind]);
    if (kind == 6)
        for (int64_t t = 0; t < case_count(c, "f"); t++) {
            if (t % 5 == 0)
                case_set(c, "i", t, -INFINITY);
            if (t % 7 < 2)
                case_set(c, "f", t, t % 7 ? -INFINITY : INFINITY);
        }
}

/* Keys and queries that mostly agree: q n does not cancel, so that h is as well conditioned as n is. */
static void set_keys(kernel_case *c, uint64_t seed) {
    case_draw(c, "q", seed, 2, 1);
    case_draw(c, "k", seed, 2, 1);
}

static void compare_outputs(const kernel_case *ours, const kernel_case *exact, double tolerance) {
    static const char *const names[] = {"h", "c", "n", "m", "all_c", "all_n", "all_m"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (case_has(ours, names[i]))
            case_compare(ours, exact, names[i], tolerance);
}

/* Every kernel that takes it, with ragged shapes and initial states. The reference gets f32 arrays too:
 * C and n belong to an m that both round to f32. */
static void test_against_double(void **state) {
    (void)state;
    const xlstm_kernel *kernel;
    int tested = 0;
    for (int k = 0; (kernel = xlstm_kernel_at(k)); k++) {
        if (!kernel->compensated)
            continue;
        for (int kind = 0; kind < GATE_KINDS; kind++) {
            xlstm_kernel_options options = compensated();
            options.chunk_size = kind % 2 ? 16 : 0;
            options.normalize = kind % 3 != 1;
            options.threads = 1 + kind % 3;
            uint64_t seed = 100 + (uint64_t)kind;
            int tokens = mlstm_is_step(kernel) ? 1 : kind % 2 ? 67 : 130;
            const char *sizes = "B=%d NH=%d S=%d DHQK=%d DHHV=%d";
            kernel_case ours, exact;
            case_make(&ours, kernel, &options, XLSTM_F32, seed, sizes, 1, 1 + kind % 2, tokens,
                      kind % 2 ? 17 : 32, kind % 2 ? 5 : 131);
            set_gates(&ours, kind, seed);
            set_keys(&ours, seed);
            options.accumulate = XLSTM_ACCUMULATE_PLAIN;
            case_make(&exact, reference_of(kernel), &options, XLSTM_F32, seed, sizes, 1,
                      1 + kind % 2, tokens, kind % 2 ? 17 : 32, kind % 2 ? 5 : 131);
            case_copy_inputs(&exact, &ours);
            case_run(&ours, XLSTM_FORWARD);
            case_run(&exact, XLSTM_FORWARD);
            compare_outputs(&ours, &exact, 4e-7);
            case_free(&ours);
            case_free(&exact);
            tested++;
        }
    }
    assert_true(tested > 0);
}

/* A memory of a million tokens: forget gates of 14, whose distance from 1 a float can hardly hold. */
static void test_long_memory(void **state) {
    (void)state;
    int tokens = test_is_quick() ? 300 : 100000;
    static const char *const names[] = {"sequence--cpu", "chunkwise--cpu", "sequence_sig--cpu",
                                        "chunkwise_sig--cpu"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const xlstm_kernel *kernel = xlstm_kernel_find(names[i]);
        assert_non_null(kernel);
        xlstm_kernel_options options = compensated();
        kernel_case ours, exact;
        const char *sizes = "B=1 NH=1 S=%d DHQK=4 DHHV=4";
        case_make(&ours, kernel, &options, XLSTM_F32, 3, sizes, tokens);
        case_draw(&ours, "f", 3, 14, 0.3);
        set_keys(&ours, 3);
        options.accumulate = XLSTM_ACCUMULATE_PLAIN;
        case_make(&exact, reference_of(kernel), &options, XLSTM_F32, 3, sizes, tokens);
        case_copy_inputs(&exact, &ours);
        case_run(&ours, XLSTM_FORWARD);
        case_run(&exact, XLSTM_FORWARD);
        case_compare(&ours, &exact, "h", 2.5e-7);
        case_compare(&ours, &exact, "c", 1.5e-7);
        case_compare(&ours, &exact, "n", 1.5e-7);
        case_free(&ours);
        case_free(&exact);
    }
}

/* Padding keeps every bit of a state; an input gate that is not finite spoils its row and those after
 * it, and none before. */
static void test_special_gates(void **state) {
    (void)state;
    xlstm_kernel_options options = compensated();
    kernel_case c;
    case_make(&c, xlstm_kernel_find("chunkwise--cpu"), &options, XLSTM_F32, 4,
              "B=1 NH=1 S=70 DHQK=8 DHHV=6");
    for (int64_t t = 0; t < 70; t++) {
        case_set(&c, "i", t, -INFINITY);
        case_set(&c, "f", t, INFINITY);
    }
    case_run(&c, XLSTM_FORWARD);
    assert_true(case_error(&c, "c", &c, "c0") == 0 && case_error(&c, "n", &c, "n0") == 0);
    assert_true(case_error(&c, "m", &c, "m0") == 0);

    case_draw(&c, "i", 5, 0, 1);
    case_draw(&c, "f", 5, 0, 1);
    case_set(&c, "i", 66, INFINITY);
    case_run(&c, XLSTM_FORWARD);
    for (int64_t t = 0; t < 70; t++)
        for (int64_t e = 0; e < 6; e++)
            assert_true(isnan(case_get(&c, "h", t * 6 + e)) == (t >= 66));

    /* nothing was ever stored */
    for (int64_t t = 0; t < 70; t++)
        case_set(&c, "i", t, -INFINITY);
    case_set(&c, "m0", 0, -INFINITY);
    case_run(&c, XLSTM_FORWARD);
    for (int64_t e = 0; e < 70 * 6; e++)
        assert_true(case_get(&c, "h", e) == 0);
    case_free(&c);
}

/* ---- Backward ---- */

static const char *const gradients[] = {"dq", "dk", "dv", "di", "df", "dc0", "dn0", "dm0"};

/* A case of ours and one of the reference. */
static void make_pair(kernel_case *ours, kernel_case *exact, const xlstm_kernel *kernel,
                      const xlstm_kernel_options *options, int tokens, int d_qk, int d_v) {
    const char *sizes = "B=1 NH=2 S=%d DHQK=%d DHHV=%d";
    xlstm_kernel_options plain = *options;
    plain.accumulate = XLSTM_ACCUMULATE_PLAIN;
    case_make(ours, kernel, options, XLSTM_F32, 7, sizes, tokens, d_qk, d_v);
    case_make(exact, reference_of(kernel), &plain, XLSTM_F32, 7, sizes, tokens, d_qk, d_v);
}

enum { GRADIENT_EXACT, GRADIENT_UPSTREAM, GRADIENT_STORED, GRADIENT_KINDS };

/* With stored states these are floats: the forget gate's gradient, a sum of differences that hold
 * them, is as exact as that allows. One token that forgets by e^-76 has a gradient there that the
 * reference does not get in double either. */
static void compare_gradients(const kernel_case *ours, const kernel_case *exact, bool stored,
                              bool skip_forget_gate) {
    for (size_t i = 0; i < sizeof gradients / sizeof *gradients; i++) {
        bool gate = gradients[i][0] == 'd' && strchr("if", gradients[i][1]);
        if (case_has(ours, gradients[i]) && !(gate && skip_forget_gate))
            case_compare(ours, exact, gradients[i], !stored ? 1e-7 : gate ? 5e-5 : 4e-7);
    }
}

static void test_gradients(void **state) {
    (void)state;
    const xlstm_kernel *kernel;
    int tested = 0;
    for (int k = 0; (kernel = xlstm_kernel_at(k)); k++)
        for (int run = 0; kernel->compensated && run < GRADIENT_KINDS * GATE_KINDS; run++) {
            int gates = run % GATE_KINDS, kind = run / GATE_KINDS;
            xlstm_kernel_options options = compensated();
            options.chunk_size = gates % 2 ? 16 : 64;
            options.normalize = gates % 3 != 1;
            options.threads = 1 + gates % 3;
            kernel_case ours, exact;
            bool step = mlstm_is_step(kernel);
            make_pair(&ours, &exact, kernel, &options,
                      step        ? 1
                      : gates % 2 ? 67
                                  : 130,
                      gates % 2 ? 19 : 24, gates % 2 ? 5 : 67);
            set_gates(&ours, gates, 200 + (uint64_t)gates);
            set_keys(&ours, 200);
            case_copy_inputs(&exact, &ours);
            bool upstream = kind == GRADIENT_UPSTREAM;
            xlstm_backward backward = upstream ? XLSTM_BACKWARD_UPSTREAM : XLSTM_BACKWARD_EXACT;
            case_run(&exact, backward);
            case_run(&ours, backward);
            bool stored = kind == GRADIENT_STORED && case_has(&ours, "all_c");
            ours.options.stored_states = stored;
            if (stored)
                case_run(&ours, backward);
            compare_outputs(&ours, &exact, 4e-7);
            compare_gradients(&ours, &exact, stored, step && gates == 5);
            case_free(&ours);
            case_free(&exact);
            tested++;
        }
    assert_true(tested > 0);
}

/* A memory of a million tokens; and tokens that forget by up to e^-50 among others that keep
 * everything, where what remains of a gradient is much smaller than its terms. Plain f32 is far from
 * the bound. */
static void test_long_gradients(void **state) {
    (void)state;
    static const char *const names[] = {"sequence--cpu", "chunkwise--cpu", "parallel--cpu",
                                        "sequence_sig--cpu", "chunkwise_sig--cpu"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (int strong = 0; strong < 2; strong++) {
            const xlstm_kernel *kernel = xlstm_kernel_find(names[i]);
            xlstm_kernel_options options = compensated();
            kernel_case ours, exact;
            int tokens = mlstm_is_parallel(kernel) ? 1500 : 10000;
            make_pair(&ours, &exact, kernel, &options, test_is_quick() ? 200 : tokens, 4, 4);
            case_draw(&ours, "f", 3, strong ? -5 : 14, strong ? 15 : 0.3);
            set_keys(&ours, 3);
            case_copy_inputs(&exact, &ours);
            case_run(&exact, XLSTM_BACKWARD_EXACT);
            case_run(&ours, XLSTM_BACKWARD_EXACT);
            for (size_t g = 0; g < sizeof gradients / sizeof *gradients; g++)
                if (case_has(&ours, gradients[g]))
                    case_compare(&ours, &exact, gradients[g], 4e-8);
            ours.options.accumulate = XLSTM_ACCUMULATE_PLAIN;
            case_run(&ours, XLSTM_BACKWARD_EXACT);
            assert_true(case_error(&ours, "df", &exact, "df") > 1.5e-7);
            case_free(&ours);
            case_free(&exact);
        }
}

/* Tokens of padding, whatever their keys and values are, pass the gradient of a state through. */
static void test_padding_gradients(void **state) {
    (void)state;
    xlstm_kernel_options options = compensated();
    kernel_case c;
    case_make(&c, xlstm_kernel_find("chunkwise--cpu"), &options, XLSTM_F32, 4,
              "B=1 NH=1 S=70 DHQK=8 DHHV=6");
    for (int64_t t = 0; t < 70; t++) {
        case_set(&c, "i", t, -INFINITY);
        case_set(&c, "f", t, INFINITY);
        case_set(&c, "k", t * 8, NAN);
        case_set(&c, "v", t * 6, NAN);
    }
    case_drop(&c, "dh");
    case_set(&c, "m0", 0, 0);
    case_run(&c, XLSTM_BACKWARD_EXACT);
    assert_true(case_error(&c, "dc0", &c, "dc") == 0 && case_error(&c, "dn0", &c, "dn") == 0);
    for (int64_t t = 0; t < 70; t++)
        assert_true(case_get(&c, "di", t) == 0 && case_get(&c, "df", t) == 0);

    /* nothing was ever stored */
    case_set(&c, "m0", 0, -INFINITY);
    case_run(&c, XLSTM_BACKWARD_EXACT);
    for (int64_t t = 0; t < 70; t++)
        assert_true(case_get(&c, "di", t) == 0 && case_get(&c, "df", t) == 0);
    case_free(&c);
}

/* ---- The same bits ---- */

static void compare_bits(const kernel_case *a, const kernel_case *b) {
    for (size_t i = 0; i < sizeof gradients / sizeof *gradients; i++)
        case_compare(a, b, gradients[i], 0);
}

/* Threads, rows and columns in slices, and states in place. */
static void test_invariance(void **state) {
    (void)state;
    xlstm_kernel_options options = compensated();
    options.threads = 1;
    kernel_case one, many;
    const xlstm_kernel *kernel = xlstm_kernel_find("chunkwise--cpu");
    case_make(&one, kernel, &options, XLSTM_F32, 5, "B=1 NH=1 S=100 DHQK=40 DHHV=300");
    options.threads = 5;
    case_make(&many, kernel, &options, XLSTM_F32, 5, "B=1 NH=1 S=100 DHQK=40 DHHV=300");
    for (int i = 0; i < many.kernel->parameter_count; i++) {
        const char *name = many.kernel->parameters[i].name;
        if (strcmp(name, "c") == 0 || strcmp(name, "n") == 0 || strcmp(name, "m") == 0) {
            char initial[3] = {name[0], '0', 0};
            free(many.array[i].data);
            many.array[i].data = case_array(&many, initial)->data;
        }
    }
    case_run(&one, XLSTM_BACKWARD_EXACT);
    case_run(&many, XLSTM_BACKWARD_EXACT);
    compare_outputs(&one, &many, 0);
    compare_bits(&one, &many);
    for (int i = 0; i < many.kernel->parameter_count; i++) {
        const char *name = many.kernel->parameters[i].name;
        if (strcmp(name, "c") == 0 || strcmp(name, "n") == 0 || strcmp(name, "m") == 0)
            many.array[i].data = NULL;
    }
    case_free(&one);
    case_free(&many);
}

/* Every instruction set of this processor. */
static void test_instruction_sets(void **state) {
    (void)state;
    static const char *const sets[] = {"generic", "avx2", "avx512", "neon"};
    xlstm_kernel_options options = compensated();
    kernel_case first, other;
    const xlstm_kernel *kernel = xlstm_kernel_find("chunkwise--cpu");
    case_make(&first, kernel, &options, XLSTM_F32, 6, "B=1 NH=1 S=70 DHQK=19 DHHV=21");
    case_run(&first, XLSTM_BACKWARD_EXACT);
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        assert_int_equal(setenv("XLSTM_CPU_ISA", sets[i], 1), 0);
        case_make(&other, kernel, &options, XLSTM_F32, 6, "B=1 NH=1 S=70 DHQK=19 DHHV=21");
        if (case_try(&other, XLSTM_BACKWARD_EXACT) == XLSTM_OK) {
            compare_outputs(&other, &first, 0);
            compare_bits(&other, &first);
        }
        case_free(&other);
    }
    assert_int_equal(unsetenv("XLSTM_CPU_ISA"), 0);
    case_free(&first);
}

/* ---- Exact sums ---- */

/* With f = +inf and i = 0 nothing is forgotten and every weight is 1, so
 *   C = sum of k v^T,  n = sum of k,  h = s q^T C / max(|s q n|, 1)
 * and no exponential or logarithm takes part. s is a power of two. */
enum { TOKENS = 1000, WIDTH = 16 };

static void make_sums(kernel_case *c, const xlstm_kernel *kernel, bool two_float) {
    xlstm_kernel_options options = xlstm_kernel_defaults();
    options.accumulate = two_float ? XLSTM_ACCUMULATE_COMPENSATED : XLSTM_ACCUMULATE_PLAIN;
    options.eps = 0;
    case_make(c, kernel, &options, XLSTM_F32, 9, "B=1 NH=1 S=%d DHQK=%d DHHV=%d", TOKENS, WIDTH,
              WIDTH);
    case_drop(c, "c0");
    case_drop(c, "n0");
    case_drop(c, "m0");
    for (int64_t t = 0; t < TOKENS; t++) {
        case_set(c, "f", t, INFINITY);
        case_set(c, "i", t, mlstm_is_sigmoid(kernel) ? INFINITY : 0);
    }
    case_run(c, XLSTM_FORWARD);
}

static float value(const kernel_case *c, const char *name, int64_t row, int64_t column) {
    return (float)case_get(c, name, row * WIDTH + column);
}

/* Element (d, e) of C, or n[d] for e < 0: what was summed exactly, and the sum of magnitudes. */
static double exact_state(const kernel_case *c, int64_t d, int64_t e, double *absolute) {
    superaccumulator sum = {0};
    *absolute = 0;
    for (int64_t t = 0; t < TOKENS; t++) {
        float k = value(c, "k", t, d), v = e < 0 ? 1 : value(c, "v", t, e);
        superaccumulator_add_product(&sum, k, v);
        *absolute += fabs((double)k * (double)v);
    }
    return superaccumulator_double(&sum);
}

/* A sum of n terms in floats, whatever its order, has an error of at most (n + 1) u / (1 - (n + 1) u)
 * times the sum of magnitudes (Higham, Accuracy and Stability, section 3.1; the product rounds once);
 * in two-floats u |sum| + 4 n u^2 (sum of magnitudes). */
static double bound(bool two_float, double sum, double absolute) {
    const double n = TOKENS + 1;
    return two_float ? u * fabs(sum) + 4 * n * u * u * absolute : n * u / (1 - n * u) * absolute;
}

static void check_states(const kernel_case *c, bool two_float) {
    for (int64_t d = 0; d < WIDTH; d++)
        for (int64_t e = -1; e < WIDTH; e++) {
            double absolute, sum = exact_state(c, d, e, &absolute);
            double actual = e < 0 ? (double)value(c, "n", 0, d) : (double)value(c, "c", d, e);
            assert_true(fabs(actual - sum) <= bound(two_float, sum, absolute));
        }
}

/* The normalizer and the values of the last token, from the exact sums: q n = sum over t of q k_t in
 * WIDTH * TOKENS products. A two-float h loses 3 roundings to floats (numerator, denominator, h) and the
 * scores that were rounded before they were summed. */
static void check_output(const kernel_case *c, bool two_float) {
    const int64_t last = TOKENS - 1;
    double qn = 0, qn_absolute = 0, absolute;
    for (int64_t d = 0; d < WIDTH; d++) {
        double q = (double)value(c, "q", last, d);
        qn += q * exact_state(c, d, -1, &absolute) / 4;
        qn_absolute += fabs(q) * absolute / 4;
    }
    const double n = TOKENS + WIDTH + 3, share = two_float ? 3 * u : n * u / (1 - n * u);
    double divisor = fmax(fabs(qn), 1);
    for (int64_t e = 0; e < WIDTH; e++) {
        double numerator = 0, numerator_absolute = 0;
        for (int64_t d = 0; d < WIDTH; d++) {
            double q = (double)value(c, "q", last, d);
            numerator += q * exact_state(c, d, e, &absolute) / 4;
            numerator_absolute += fabs(q) * absolute / 4;
        }
        double h = numerator / divisor;
        double allowed = 1.01 * share * (numerator_absolute + fabs(h) * qn_absolute) / divisor;
        assert_true(fabs((double)value(c, "h", last, e) - h) <= allowed);
    }
}

static void test_exact_sums(void **state) {
    (void)state;
    const xlstm_kernel *kernel;
    int tested = 0;
    for (int k = 0; (kernel = xlstm_kernel_at(k)); k++) {
        if (!mlstm_is(kernel) || mlstm_is_parallel(kernel) || mlstm_is_step(kernel))
            continue;
        for (int two_float = 0; two_float <= (int)kernel->compensated; two_float++) {
            kernel_case c;
            make_sums(&c, kernel, two_float);
            check_states(&c, two_float);
            check_output(&c, two_float);
            case_free(&c);
            tested++;
        }
    }
    assert_true(tested > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_double),    cmocka_unit_test(test_long_memory),
        cmocka_unit_test(test_special_gates),     cmocka_unit_test(test_invariance),
        cmocka_unit_test(test_gradients),         cmocka_unit_test(test_long_gradients),
        cmocka_unit_test(test_padding_gradients), cmocka_unit_test(test_instruction_sets),
        cmocka_unit_test(test_exact_sums),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
