/* The chunkwise mLSTM kernels of every device on bf16 arrays with states in f32, in shapes that tensor cores take, against
 * the reference on the same values in f64. What is off is the rounding of scores, of states and weighed values on their
 * way into products, and of outputs.
 *
 * XLSTM_TEST_LARGE=1: heads of 256 and 512, too. XLSTM_TEST_BRIEF=1: the first shapes alone. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/kernels.h"
#include "kernels/mlstm.h"
#include "support/support.h"

typedef struct shape {
    const char *sizes;
    double forget_mean, input_mean;
    bool states; /* initial ones, and gradients of the last */
    bool large;
} shape;

/* Whole chunks and ragged ones, one chunk and several, one token; states that are kept long, and soon forgotten; q n the
 * denominator, and exp(-m). */
static const shape shapes[] = {
    {"B=1 NH=1 S=150 DHQK=128 DHHV=128", 3, -1, true, false},
    {"B=2 NH=2 S=70 DHQK=128 DHHV=256", 3, -5, false, false},
    {"B=1 NH=2 S=1 DHQK=128 DHHV=128", 3, -2, true, false},
    {"B=2 NH=1 S=203 DHQK=128 DHHV=256", 3, -1, true, false},
    {"B=1 NH=1 S=1600 DHQK=128 DHHV=256", 9, -3, true, false},
    {"B=1 NH=1 S=128 DHQK=128 DHHV=128", 0, 0, true, false},
    {"B=1 NH=1 S=1600 DHQK=128 DHHV=128", 9, -3, true, true},
    {"B=1 NH=1 S=200 DHQK=256 DHHV=512", 3, -1, true, false},
    {"B=2 NH=1 S=97 DHQK=512 DHHV=512", 3, -1, true, true},
    {"B=1 NH=1 S=97 DHQK=512 DHHV=128", 3, -1, false, true},
    {"B=1 NH=1 S=97 DHQK=256 DHHV=128", 3, -1, false, true},
    {"B=1 NH=1 S=1100 DHQK=128 DHHV=256", 4, -3, true, false},
};

/* A case of f32 whose matrices are bf16; both are to be freed. */
typedef struct mixture {
    kernel_case c, narrow;
} mixture;

static bool is_narrow(const char *name) {
    static const char *const narrow[] = {"q", "k", "v", "h", "dh", "dq", "dk", "dv"};
    for (size_t i = 0; i < sizeof narrow / sizeof *narrow; i++)
        if (strcmp(name, narrow[i]) == 0)
            return true;
    return false;
}

/* Every q_j k_j has the same sign, so that q n is a sum without cancellation: else h and gradients would now and then be
 * quotients of cancellations, whose errors say nothing. */
static void give_signs(kernel_case *c, const char *name) {
    const xlstm_array *x = case_array(c, name);
    int64_t width = x->shape[x->rank - 1];
    for (int64_t i = 0; i < case_count(c, name); i++) {
        double size = fabs(case_get(c, name, i));
        case_set(c, name, i, i % width % 2 ? -size : size);
    }
}

static void draw(kernel_case *c, const xlstm_kernel *kernel, xlstm_dtype type, const shape *s,
                 uint64_t seed) {
    static const char *const of_states[] = {"c0", "n0",  "m0",  "dc", "dn",
                                            "dm", "dc0", "dn0", "dm0"};
    static const char *const of_borders[] = {"all_c", "all_n", "all_m"};
    case_make(c, kernel, NULL, type, seed, "%s", s->sizes);
    case_draw(c, "f", seed, s->forget_mean, 1.5);
    case_draw(c, "i", seed, s->input_mean, 1.5);
    give_signs(c, "q");
    give_signs(c, "k");
    give_signs(c, "n0");
    for (size_t i = 0; i < sizeof of_states / sizeof *of_states && !s->states; i++)
        case_drop(c, of_states[i]);
    for (size_t i = 0; i < sizeof of_borders / sizeof *of_borders; i++)
        case_drop(c, of_borders[i]);
}

static void mix(mixture *m, const xlstm_kernel *kernel, const shape *s, uint64_t seed) {
    draw(&m->c, kernel, XLSTM_F32, s, seed);
    draw(&m->narrow, kernel, XLSTM_BF16, s, seed);
    for (int p = 0; p < kernel->parameter_count; p++)
        if (is_narrow(kernel->parameters[p].name)) {
            xlstm_array other = m->c.array[p];
            m->c.array[p] = m->narrow.array[p];
            m->narrow.array[p] = other;
        }
}

static void mixture_free(mixture *m) {
    case_free(&m->c);
    case_free(&m->narrow);
}

/* Sums that may cancel, and what their terms are as large as: gradients of gates are made of k . dk and q . dq. */
static const char *terms_of(const char *name) {
    if (strcmp(name, "di") == 0 || strcmp(name, "df") == 0)
        return "dk";
    return strcmp(name, "dm0") == 0 || strcmp(name, "dn0") == 0 ? "dc0" : name;
}

/* About twice what is seen. The errors of sums that cancel have no bound: seeds are fixed. */
static double allowed(const char *name) {
    static const struct {
        const char *name;
        double error;
    } known[] = {{"n", 1e-5}, {"h", 5e-3}, {"c", 4e-3}, {"df", 4e-2}, {"di", 2e-2}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(name, known[i].name) == 0)
            return known[i].error;
    return 1.5e-2;
}

/* m is a sum of logarithms, which may be anything: it is off by less than so much. */
static void compare_m(const kernel_case *c, const kernel_case *exact) {
    for (int64_t i = 0; i < case_count(c, "m"); i++) {
        double m = case_get(c, "m", i), expected = case_get(exact, "m", i);
        if (!(fabs(m - expected) <= 1e-4))
            fail_msg("m of %s is %.9g, and %.9g exactly", c->kernel->name, m, expected);
    }
}

static void compare(const kernel_case *c, const kernel_case *exact, xlstm_backward way) {
    for (int p = 0; p < c->kernel->parameter_count; p++) {
        const xlstm_parameter *parameter = &c->kernel->parameters[p];
        const char *name = parameter->name;
        bool gradient = parameter->role == XLSTM_BACKWARD_OUTPUT && way != XLSTM_FORWARD;
        if (!c->given[p] || (!gradient && parameter->role != XLSTM_OUTPUT))
            continue;
        if (strcmp(name, "m") == 0)
            compare_m(c, exact);
        else
            case_compare_sums(c, exact, name, terms_of(name), allowed(name));
    }
}

static void check(const xlstm_kernel *kernel, const shape *s, uint64_t seed) {
    const xlstm_kernel *reference = kernel_of_device(kernel->family, "reference");
    mixture m;
    kernel_case exact;
    mix(&m, kernel, s, seed);
    draw(&exact, reference, XLSTM_F64, s, seed);
    case_copy_inputs(&exact, &m.c);
    for (int way = XLSTM_FORWARD; way <= XLSTM_BACKWARD_UPSTREAM; way++) {
        case_run(&m.c, (xlstm_backward)way);
        case_run(&exact, (xlstm_backward)way);
        compare(&m.c, &exact, (xlstm_backward)way);
    }
    mixture_free(&m);
    case_free(&exact);
}

static void test_shapes(void **state) {
    (void)state;
    const xlstm_kernel *kernel;
    int checked = 0;
    for (int k = 0; (kernel = kernel_to_test(k)); k++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            if (!mlstm_is_chunkwise(kernel) || strcmp(kernel->device, "reference") == 0 ||
                !kernel_is_tested(kernel, XLSTM_BF16) || (shapes[i].large && !test_is_large()) ||
                (test_is_brief() && i >= 2))
                continue;
            check(kernel, &shapes[i], 19 + i);
            checked++;
        }
    printf("%d calls of chunkwise kernels on bf16\n", checked);
}

/* Gradients of forget gates are sums to the end of the sequence. Where states are soon forgotten they are small, and what
 * rounding leaves of each term must cancel as the terms do. And h hangs on few scores then, the largest of which are
 * exact but in heads of 128/256 (1.7e-3 is the rounding of h itself; 2.4e-3 where all scores are rounded). */
static void test_forgotten(void **state) {
    static const shape forgotten[] = {
        {"B=1 NH=2 S=1024 DHQK=128 DHHV=128", 0, 0, false, false},
        {"B=1 NH=2 S=1024 DHQK=128 DHHV=256", 0, 0, false, false},
        {"B=1 NH=1 S=1100 DHQK=128 DHHV=128", 1, 0, true, false},
        {"B=1 NH=1 S=1100 DHQK=128 DHHV=256", 0, 0, true, false},
    };
    (void)state;
    const xlstm_kernel *kernel;
    for (int k = 0; (kernel = kernel_to_test(k)); k++)
        for (size_t i = 0; i < sizeof forgotten / sizeof *forgotten; i++) {
            if (!mlstm_is_chunkwise(kernel) || strcmp(kernel->device, "cuda") != 0 ||
                !kernel_is_tested(kernel, XLSTM_BF16) || test_is_brief())
                continue;
            mixture m;
            kernel_case exact;
            mix(&m, kernel, &forgotten[i], 5);
            draw(&exact, kernel_of_device(kernel->family, "reference"), XLSTM_F64, &forgotten[i],
                 5);
            case_copy_inputs(&exact, &m.c);
            for (int way = XLSTM_BACKWARD_EXACT; way <= XLSTM_BACKWARD_UPSTREAM; way++) {
                case_run(&m.c, (xlstm_backward)way);
                case_run(&exact, (xlstm_backward)way);
                case_compare_sums(&m.c, &exact, "h", "h", i % 2 ? 2.6e-3 : 2e-3);
                /* with gradients of states exact sums begin with E, which cancels, too */
                if (!forgotten[i].states || way == XLSTM_BACKWARD_UPSTREAM)
                    case_compare_sums(&m.c, &exact, "df", "df", 2e-2);
            }
            mixture_free(&m);
            case_free(&exact);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes),
                                       cmocka_unit_test(test_forgotten)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
