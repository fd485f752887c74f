/* The mLSTM kernels where gates are extreme, closed or NaN, shapes are odd, and sequences are long:
 * against the definition unrolled in long double, and against the reference token by token. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/kernels.h"
#include "kernels/mlstm.h"
#include "support/support.h"

typedef void test_of_kernel(const xlstm_kernel *kernel, xlstm_dtype type);

static void each_kernel(test_of_kernel *test) {
    const xlstm_kernel *kernel;
    for (int k = 0; (kernel = kernel_to_test(k)); k++)
        if (mlstm_is(kernel)) {
            if (kernel_is_tested(kernel, XLSTM_F64))
                test(kernel, XLSTM_F64);
            test(kernel, XLSTM_F32);
        }
}

/* ||x - y|| / ||y||, y being the f64 side. What is below 1e-30 in f32 counts as nothing: exp(-m) may
 * have overflowed there. */
static void compare(const kernel_case *c, const kernel_case *exact, const char *name,
                    double tolerance, const char *what) {
    double norm = 0, difference = 0;
    bool f32 = c->array[0].dtype == XLSTM_F32, finite = true;
    for (int64_t i = 0; i < case_count(c, name); i++) {
        double x = case_get(c, name, i), y = case_get(exact, name, i);
        finite = finite && isfinite(x);
        difference += (x - y) * (x - y);
        norm += y * y;
    }
    double allowed = tolerance * sqrt(norm) + (f32 ? 1e-30 : 1e-300);
    if (!finite || !(sqrt(difference) <= allowed))
        fail_msg("%s in %s, %s: %s is off by %.3g of %.3g, allowed %.3g", c->kernel->name,
                 f32 ? "f32" : "f64", what, name, sqrt(difference), sqrt(norm), allowed);
}

/* ---- The definition, unrolled ---- */

static long double log_sigmoid(double x) {
    return x >= 0 ? -log1pl(expl(-(long double)x)) : (long double)x - log1pl(expl((long double)x));
}

/* h of token `t` of a head [S, ...]: everything stored at s counts exp(log_i_s + the sum of log_f over
 * s + 1 .. t), the initial state, which has nothing in it, counts for the maximum alone. */
static void unrolled(const kernel_case *c, int64_t head, int64_t t, double eps, double *h) {
    bool sigmoid = mlstm_is_sigmoid(c->kernel);
    const int64_t *q = c->array[0].shape;
    int64_t tokens = q[2], d_qk = q[3], d_v = case_count(c, "v") / (q[0] * q[1] * tokens);
    long double span = 0, m = -(long double)INFINITY, qn = 0;
    long double *exponent = calloc((size_t)t + 1, sizeof *exponent);
    long double *sum = calloc((size_t)d_v, sizeof *sum);
    assert_true(exponent && sum);
    for (int64_t s = t; s >= 0; s--) {
        double i = case_get(c, "i", head * tokens + s);
        exponent[s] = span + (sigmoid ? log_sigmoid(i) : (long double)i);
        m = exponent[s] > m ? exponent[s] : m;
        span += log_sigmoid(case_get(c, "f", head * tokens + s));
    }
    if (!mlstm_is_parallel(c->kernel) && span > m)
        m = span;
    m = sigmoid ? 0 : m;
    for (int64_t s = 0; s <= t && m > -(long double)INFINITY; s++) {
        long double score = 0;
        for (int64_t d = 0; d < d_qk; d++)
            score += (long double)case_get(c, "q", (head * tokens + t) * d_qk + d) *
                     (long double)case_get(c, "k", (head * tokens + s) * d_qk + d);
        score *= expl(exponent[s] - m) / sqrtl((long double)d_qk);
        qn += score;
        for (int64_t e = 0; e < d_v; e++)
            sum[e] += score * (long double)case_get(c, "v", (head * tokens + s) * d_v + e);
    }
    long double n = fabsl(qn) > expl(-m) ? fabsl(qn) : expl(-m);
    for (int64_t e = 0; e < d_v; e++)
        h[e] = (double)(sum[e] / (n + (long double)eps));
    free(exponent);
    free(sum);
}

/* ---- Gates ---- */

enum { GATE_SETS = 11 };

/* The i-th set of gates, for token `t` of a head; what the sets are called. */
static const char *gates_of(int set, uint64_t seed, uint64_t t, double *i, double *f) {
    static const double inf = (double)INFINITY;
    static const double capped[] = {15, -15}, hundred[] = {100, -100};
    static const double inputs[] = {-inf, 0, 3}, forgets[] = {-inf, inf, 0, 4};
    double n = test_normal(seed, 5, t);
    switch (set) {
    case 0:
        *i = capped[case_choose(seed, 2 * t, 0, 1)],
        *f = capped[case_choose(seed, 2 * t + 1, 0, 1)];
        return "15 and -15";
    case 1:
        *i = hundred[case_choose(seed, 2 * t, 0, 1)],
        *f = hundred[case_choose(seed, 2 * t + 1, 0, 1)];
        return "100 and -100";
    case 2:
        *i = inputs[case_choose(seed, 2 * t, 0, 2)],
        *f = forgets[case_choose(seed, 2 * t + 1, 0, 3)];
        return "infinite among others";
    case 3:
        *i = *f = 0;
        return "all 0";
    case 4:
        *i = *f = 15;
        return "all 15";
    case 5:
        *i = *f = -15;
        return "all -15";
    case 6:
        *i = 100, *f = -100;
        return "open input, closed forget";
    case 7:
        *i = -100, *f = 100;
        return "closed input, open forget";
    case 8:
        *i = -inf, *f = t % 3 ? -inf : inf;
        return "nothing stored";
    case 9:
        *i = t < 3 ? -inf : 2 * n, *f = -inf;
        return "nothing stored at first, nothing kept";
    default:
        *i = 30 * n, *f = 30 * test_normal(seed, 6, t);
        return "spread 30";
    }
}

/* In f32 sums of gates lose digits that exp turns into relative errors. */
static double allowed_error(const kernel_case *c) {
    double largest = 0;
    for (int64_t i = 0; i < case_count(c, "i"); i++) {
        double input = case_get(c, "i", i), forget = case_get(c, "f", i);
        if (isfinite(input))
            largest = fmax(largest, fabs(input));
        if (isfinite(forget))
            largest = fmax(largest, fabs(forget));
    }
    double unit = c->array[0].dtype == XLSTM_F32 ? ldexp(1, -24) : ldexp(1, -53);
    return 8 * unit * (largest + 4);
}

static void check_gates(const xlstm_kernel *kernel, xlstm_dtype type, int set, const char *sizes) {
    kernel_case c, exact;
    xlstm_kernel_options options = xlstm_kernel_defaults();
    options.chunk_size = 7;
    case_make(&c, kernel, &options, type, 3, "%s", sizes);
    const char *what = "";
    int64_t tokens = c.array[0].shape[2], heads = case_count(&c, "i") / tokens;
    for (int64_t n = 0; n < heads * tokens; n++) {
        double i, f;
        what = gates_of(set, 9, (uint64_t)n, &i, &f);
        case_set(&c, "i", n, i);
        case_set(&c, "f", n, f);
    }
    /* so that q^T n does not cancel, which would turn rounding errors into any others */
    case_draw(&c, "q", 3, 1, 0.3);
    case_draw(&c, "k", 3, 1, 0.3);
    static const char *const states[] = {"c0", "n0", "m0", "dc", "dn", "dm"};
    for (int s = 0; s < 6; s++)
        case_drop(&c, states[s]);
    case_make(&exact, kernel, &options, XLSTM_F64, 0, "%s", sizes);
    case_copy_inputs(&exact, &c);
    int64_t d_v = case_count(&c, "v") / (heads * tokens);
    double *h = malloc((size_t)d_v * sizeof *h);
    assert_non_null(h);
    for (int64_t n = 0; n < heads * tokens; n++) {
        unrolled(&exact, n / tokens, n % tokens, options.eps, h);
        for (int64_t e = 0; e < d_v; e++)
            case_set(&exact, "h", n * d_v + e, h[e]);
    }
    free(h);
    case_run(&c, XLSTM_FORWARD);
    compare(&c, &exact, "h", allowed_error(&c), what);
    for (int b = XLSTM_BACKWARD_EXACT; b <= XLSTM_BACKWARD_UPSTREAM; b++) {
        case_run(&c, (xlstm_backward)b);
        for (int p = 0; p < kernel->parameter_count; p++)
            for (int64_t i = 0; kernel->parameters[p].role == XLSTM_BACKWARD_OUTPUT &&
                                i < case_count(&c, kernel->parameters[p].name);
                 i++)
                if (!isfinite(case_get(&c, kernel->parameters[p].name, i)))
                    fail_msg("%s, %s: %s[%lld] is not finite", kernel->name, what,
                             kernel->parameters[p].name, (long long)i);
    }
    case_free(&c);
    case_free(&exact);
}

static void check_all_gates(const xlstm_kernel *kernel, xlstm_dtype type) {
    for (int set = 0; set < GATE_SETS; set++) {
        check_gates(kernel, type, set, "B=1 NH=1 S=1 DHQK=1 DHHV=1");
        if (mlstm_is_step(kernel))
            continue;
        check_gates(kernel, type, set, "B=1 NH=1 S=23 DHQK=13 DHHV=17");
        check_gates(kernel, type, set, "B=2 NH=3 S=31 DHQK=4 DHHV=1");
    }
}

static void test_gates(void **state) {
    (void)state;
    each_kernel(check_all_gates);
}

/* Exact gradients where forget gates are closed and open altogether and input gates closed: those of
 * closed gates are 0, the others agree with finite differences. */
static void check_gradients(const xlstm_kernel *kernel, xlstm_dtype type) {
    if (type != XLSTM_F64)
        return;
    kernel_case c;
    xlstm_kernel_options options = xlstm_kernel_defaults();
    options.chunk_size = 5;
    case_make(&c, kernel, &options, type, 21, "B=1 NH=2 S=%d DHQK=3 DHHV=4",
              mlstm_is_step(kernel) ? 1 : 19);
    int64_t gates = case_count(&c, "i");
    for (int64_t n = 0; n < gates; n++) {
        if (n % 7 == 3)
            case_set(&c, "f", n, -INFINITY);
        if (n % 5 == 1)
            case_set(&c, "i", n, -INFINITY);
        if (n % 4 == 1)
            case_set(&c, "f", n, INFINITY);
    }
    case_check_gradients(&c, 21, 1e-6);
    for (int64_t n = 0; n < gates; n++) {
        if (isinf(case_get(&c, "f", n)))
            assert_true(case_get(&c, "df", n) == 0);
        if (isinf(case_get(&c, "i", n)))
            assert_true(case_get(&c, "di", n) == 0);
    }
    case_free(&c);
}

static void test_gradients(void **state) {
    (void)state;
    each_kernel(check_gradients);
}

/* ---- Padding ---- */

/* i = -inf, f = +inf leaves the state as it is, bit for bit, and has no gradient. */
static void check_padding(const xlstm_kernel *kernel, xlstm_dtype type) {
    if (mlstm_is_parallel(kernel))
        return;
    static const char *const initial[] = {"c0", "n0", "m0"}, *const last[] = {"c", "n", "m"},
                             *const pairs[] = {"dk", "dv", "di", "df"};
    kernel_case c;
    xlstm_kernel_options options = xlstm_kernel_defaults();
    options.chunk_size = 8;
    case_make(&c, kernel, &options, type, 5, "B=2 NH=2 S=%d DHQK=5 DHHV=6",
              mlstm_is_step(kernel) ? 1 : 21);
    for (int64_t n = 0; n < case_count(&c, "i"); n++) {
        case_set(&c, "i", n, -INFINITY);
        case_set(&c, "f", n, INFINITY);
    }
    for (int s = 0; s < 3; s++)
        if (case_has(&c, initial[s]))
            case_set(&c, initial[s], 0, -0.0);
    case_run(&c, XLSTM_BACKWARD_EXACT);
    for (int s = 0; s < 3; s++) /* the sigmoid input gate has no m, which counts as no elements */
        for (int64_t i = 0; i < case_count(&c, last[s]); i++) {
            double before = case_get(&c, initial[s], i), after = case_get(&c, last[s], i);
            assert_memory_equal(&before, &after, sizeof before);
        }
    for (int g = 0; g < 4; g++)
        for (int64_t i = 0; i < case_count(&c, pairs[g]); i++)
            assert_true(case_get(&c, pairs[g], i) == 0);
    case_free(&c);
}

static void test_padding(void **state) {
    (void)state;
    each_kernel(check_padding);
}

/* m = -inf and closed input gates: nothing is stored, C and n are 0 whatever they were, and nothing has
 * a gradient. */
static void check_nothing_stored(const xlstm_kernel *kernel, xlstm_dtype type) {
    if (mlstm_is_parallel(kernel) || mlstm_is_sigmoid(kernel))
        return;
    kernel_case c;
    xlstm_kernel_options options = xlstm_kernel_defaults();
    options.chunk_size = 4;
    case_make(&c, kernel, &options, type, 6, "B=1 NH=2 S=%d DHQK=3 DHHV=4",
              mlstm_is_step(kernel) ? 1 : 10);
    for (int64_t n = 0; n < case_count(&c, "i"); n++)
        case_set(&c, "i", n, -INFINITY);
    for (int64_t n = 0; n < case_count(&c, "m0"); n++)
        case_set(&c, "m0", n, -INFINITY);
    case_run(&c, XLSTM_BACKWARD_EXACT);
    for (int p = 0; p < kernel->parameter_count; p++) {
        const xlstm_parameter *parameter = &kernel->parameters[p];
        if ((parameter->role != XLSTM_OUTPUT && parameter->role != XLSTM_BACKWARD_OUTPUT) ||
            strncmp(parameter->name, "all_", 4) == 0)
            continue;
        double expected = strcmp(parameter->name, "m") == 0 ? -(double)INFINITY : 0;
        for (int64_t i = 0; i < case_count(&c, parameter->name); i++)
            if (!(case_get(&c, parameter->name, i) == expected))
                fail_msg("%s: %s[%lld] is %g", kernel->name, parameter->name, (long long)i,
                         case_get(&c, parameter->name, i));
    }
    case_free(&c);
}

static void test_nothing_stored(void **state) {
    (void)state;
    each_kernel(check_nothing_stored);
}

/* log(sigmoid(f)) is f far below 0, where exp(-f) overflows. */
static void check_forgotten(const xlstm_kernel *kernel, xlstm_dtype type) {
    if (mlstm_is_parallel(kernel) || mlstm_is_sigmoid(kernel))
        return;
    kernel_case c;
    case_make(&c, kernel, NULL, type, 6, "B=1 NH=1 S=1 DHQK=3 DHHV=4");
    case_set(&c, "i", 0, -2048);
    case_set(&c, "f", 0, -1024);
    case_set(&c, "m0", 0, 1);
    case_run(&c, XLSTM_FORWARD);
    assert_true(case_get(&c, "m", 0) == -1023);
    assert_true(case_error(&c, "c", &c, "c0") == 0);
    case_free(&c);
}

static void test_forgotten(void **state) {
    (void)state;
    each_kernel(check_forgotten);
}

/* Padding within a sequence: the other tokens do not know of it. */
static void check_inner_padding(const xlstm_kernel *kernel, xlstm_dtype type) {
    if (mlstm_is_step(kernel) || type != XLSTM_F64)
        return;
    enum { TOKENS = 20, PADDED = 30 };
    kernel_case plain, padded;
    xlstm_kernel_options options = xlstm_kernel_defaults();
    options.chunk_size = 6;
    case_make(&plain, kernel, &options, type, 5, "B=1 NH=1 S=%d DHQK=5 DHHV=6", TOKENS);
    case_make(&padded, kernel, &options, type, 5, "B=1 NH=1 S=%d DHQK=5 DHHV=6", PADDED);
    static const char *const inputs[] = {"q", "k", "v", "i", "f", "dh"}, *const outputs[] = {
                                                                             "h",  "dq", "dk",
                                                                             "dv", "di", "df"};
    static const int width[] = {5, 5, 6, 1, 1, 6}, output_width[] = {6, 5, 5, 6, 1, 1};
    for (int t = 0; t < PADDED; t++) {
        int source = t / 3 * 2 + t % 3; /* every third is padding */
        for (int a = 0; a < 6; a++)
            for (int i = 0; i < width[a]; i++)
                case_set(&padded, inputs[a], t * width[a] + i,
                         t % 3 < 2 ? case_get(&plain, inputs[a], source * width[a] + i)
                         : a == 3  ? -INFINITY
                         : a == 4  ? INFINITY
                         : a == 5  ? 0
                                   : 1e3);
    }
    case_run(&plain, XLSTM_BACKWARD_EXACT);
    case_run(&padded, XLSTM_BACKWARD_EXACT);
    for (int a = 0; a < 6; a++)
        for (int t = 0; t < PADDED; t++)
            for (int i = 0; i < output_width[a] && t % 3 < 2; i++) {
                double x = case_get(&padded, outputs[a], t * output_width[a] + i);
                double y = case_get(&plain, outputs[a], (t / 3 * 2 + t % 3) * output_width[a] + i);
                if (!(fabs(x - y) <= 1e-11 * (1 + fabs(y))))
                    fail_msg("%s: %s of token %d is %.15g with padding, %.15g without",
                             kernel->name, outputs[a], t, x, y);
            }
    case_free(&plain);
    case_free(&padded);
}

static void test_inner_padding(void **state) {
    (void)state;
    each_kernel(check_inner_padding);
}

/* ---- NaN ---- */

/* An input gate that is NaN or +inf: NaN in that head from there on, the same bits elsewhere. */
static void check_nan(const xlstm_kernel *kernel, xlstm_dtype type) {
    enum { AT = 9, HEAD = 1 };
    int tokens = mlstm_is_step(kernel) ? 1 : 20, at = mlstm_is_step(kernel) ? 0 : AT;
    for (int infinite = 0; infinite < (mlstm_is_sigmoid(kernel) ? 1 : 2); infinite++) {
        kernel_case plain, c;
        xlstm_kernel_options options = xlstm_kernel_defaults();
        options.chunk_size = 6;
        case_make(&plain, kernel, &options, type, 8, "B=1 NH=3 S=%d DHQK=5 DHHV=6", tokens);
        case_make(&c, kernel, &options, type, 8, "B=1 NH=3 S=%d DHQK=5 DHHV=6", tokens);
        case_set(&c, "i", HEAD * tokens + at, (double)(infinite ? INFINITY : NAN));
        if (tokens > AT + 3)
            case_set(&c, "f", HEAD * tokens + AT + 3, -INFINITY); /* cannot be forgotten */
        case_run(&plain, XLSTM_FORWARD);
        case_run(&c, XLSTM_FORWARD);
        int64_t d_v = 6;
        for (int64_t i = 0; i < case_count(&c, "h"); i++) {
            bool spoiled = i / d_v / tokens == HEAD && i / d_v % tokens >= at;
            double x = case_get(&c, "h", i), y = case_get(&plain, "h", i);
            if (spoiled ? !isnan(x) : memcmp(&x, &y, sizeof x) != 0)
                fail_msg("%s: h[%lld] is %g, without NaN %g", kernel->name, (long long)i, x, y);
        }
        int64_t of_head = case_count(&c, "c") / 3;
        for (int64_t i = 0; i < 3 * of_head; i++) {
            double x = case_get(&c, "c", i);
            assert_true((i / of_head == HEAD) == (bool)isnan(x));
        }
        case_free(&plain);
        case_free(&c);
    }
}

static void test_nan(void **state) {
    (void)state;
    each_kernel(check_nan);
}

/* ---- Long sequences ---- */

static const xlstm_kernel *reference_of(const xlstm_kernel *kernel) {
    return xlstm_kernel_find(mlstm_is_sigmoid(kernel) ? "sequence_sig--reference"
                                                      : "sequence--reference");
}

/* Runs a step kernel token by token over the arrays of one sequence, its states in place. */
static void run_steps(const kernel_case *whole) {
    static const char *const walked[] = {"q", "k", "v", "i", "f", "h"};
    static const char *const initial[] = {"c0", "n0", "m0"}, *const last[] = {"c", "n", "m"};
    kernel_case step = *whole;
    int64_t tokens = whole->array[0].shape[2];
    size_t size = whole->array[0].dtype == XLSTM_F64 ? 8 : 4;
    for (int a = 0; a < 6; a++)
        case_array(&step, walked[a])->shape[2] = 1;
    for (int64_t t = 0; t < tokens; t++) {
        for (int s = 0; s < 3; s++)
            if (t == 0)
                case_drop(&step, initial[s]);
            else if (t == 1 && case_has(&step, last[s]))
                *case_array(&step, initial[s]) = *case_array(&step, last[s]);
        if (t == 1)
            memcpy(step.given, whole->given, sizeof step.given);
        case_run(&step, XLSTM_FORWARD);
        for (int a = 0; a < 6; a++) {
            xlstm_array *x = case_array(&step, walked[a]);
            x->data = (char *)x->data + (size_t)x->stride[2] * size;
        }
    }
}

static void run(kernel_case *c, xlstm_backward backward) {
    if (mlstm_is_step(c->kernel))
        run_steps(c);
    else
        case_run(c, backward);
}

static void make_long(kernel_case *c, const xlstm_kernel *kernel, xlstm_dtype type, int tokens) {
    static const char *const states[] = {"c0", "n0", "m0", "dc", "dn", "dm"};
    xlstm_kernel_options options = xlstm_kernel_defaults();
    options.eps = 0;
    case_make(c, kernel, &options, type, 13, "B=1 NH=1 S=%d DHQK=3 DHHV=2", tokens);
    case_draw(c, "f", 13, 5, 1);
    case_draw(c, "q", 13, 1, 0.5); /* as above */
    case_draw(c, "k", 13, 1, 0.5);
    for (int s = 0; s < 6 && !mlstm_is_step(kernel); s++)
        case_drop(c, states[s]);
}

/* Against the reference token by token, in f64 from the same numbers. The memory of these gates spans
 * a few hundred tokens, over which the errors of states in f32 add up; they do not get worse with the
 * length. Differences of prefix sums do. */
static void check_long(const xlstm_kernel *kernel, xlstm_dtype type) {
    int tokens = test_is_large() ? 1000000 : test_is_quick() ? 500 : 6000;
    if (mlstm_is_parallel(kernel))
        tokens = test_is_large() ? 8192 : test_is_quick() ? 200 : 700;
    kernel_case c, exact;
    make_long(&exact, reference_of(kernel), XLSTM_F64, tokens);
    make_long(&c, kernel, type, tokens);
    xlstm_backward backward = mlstm_is_step(kernel) ? XLSTM_FORWARD : XLSTM_BACKWARD_EXACT;
    case_run(&exact, backward);
    run(&c, backward);
    bool f32 = type == XLSTM_F32;
    double forward = f32 ? 2e-5 : 1e-11;
    compare(&c, &exact, "h", forward, "long");
    static const char *const states[] = {"c", "n", "m"}, *const gradients[] = {"dq", "dk", "dv",
                                                                               "di", "df"};
    for (int s = 0; s < 3; s++)
        if (case_has(&c, states[s]) && case_has(&exact, states[s]))
            compare(&c, &exact, states[s], forward, "long");
    for (int g = 0; g < 5 && backward != XLSTM_FORWARD; g++)
        compare(&c, &exact, gradients[g], f32 ? 1e-4 : 1e-9, "long");
    case_free(&c);
    case_free(&exact);
}

static void test_long(void **state) {
    (void)state;
    each_kernel(check_long);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gates),     cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_padding),   cmocka_unit_test(test_nothing_stored),
        cmocka_unit_test(test_forgotten), cmocka_unit_test(test_inner_padding),
        cmocka_unit_test(test_nan),       cmocka_unit_test(test_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
