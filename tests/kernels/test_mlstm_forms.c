/* The forms of the mLSTM are one function: parallel, chunkwise with chunks of any length, token by
 * token and step after step give the same outputs, states and gradients, on every device; and so does
 * a sequence in pieces, each starting from the state that the one before left behind. */
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

/* What one function may differ by in double. */
static const double allowed = 1e-12;

typedef struct problem {
    uint64_t seed;
    int batch, heads, tokens, d_qk, d_v;
    double input_mean, forget_mean, spread;
    bool states, normalize;
} problem;

static problem draw_problem(uint64_t seed) {
    return (problem){
        .seed = seed,
        .batch = (int)case_choose(seed, 0, 1, 2),
        .heads = (int)case_choose(seed, 1, 1, 3),
        .tokens = (int)case_choose(seed, 2, 1, test_is_quick() ? 40 : 150),
        .d_qk = (int)case_choose(seed, 3, 1, 17),
        .d_v = (int)case_choose(seed, 4, 1, 17),
        .input_mean = (double)case_choose(seed, 5, -4, 1),
        .forget_mean = (double)case_choose(seed, 6, -2, 5),
        .spread = (double)case_choose(seed, 7, 1, 2),
        .normalize = case_choose(seed, 8, 0, 1) == 1,
    };
}

static void make(kernel_case *c, const xlstm_kernel *kernel, const problem *p, int tokens,
                 int64_t chunk_size) {
    xlstm_kernel_options options = xlstm_kernel_defaults();
    options.eps = 0;
    options.normalize = p->normalize;
    options.chunk_size = chunk_size;
    case_make(c, kernel, &options, XLSTM_F64, p->seed, "B=%d NH=%d S=%d DHQK=%d DHHV=%d", p->batch,
              p->heads, tokens, p->d_qk, p->d_v);
    case_draw(c, "i", p->seed, p->input_mean, p->spread);
    case_draw(c, "f", p->seed, p->forget_mean, p->spread);
    static const char *const of_states[] = {"c0", "n0", "m0", "dc", "dn", "dm"};
    for (size_t i = 0; !p->states && i < sizeof of_states / sizeof *of_states; i++)
        case_drop(c, of_states[i]);
}

/* Whether an exact gradient is 0 but for rounding errors, where |q n| is the denominator: of q if it is a
 * number, since h has its sign alone; of q, k, i (and ever of f) of a single token without a state. */
static bool may_vanish(const problem *p, const char *name) {
    bool single = p->tokens == 1 && !p->states;
    return (p->d_qk == 1 && strcmp(name, "dq") == 0) ||
           (single && (strcmp(name, "dq") == 0 || strcmp(name, "dk") == 0 ||
                       strcmp(name, "di") == 0 || strcmp(name, "df") == 0));
}

/* Everything that both have of this role. */
static void compare_all(const problem *p, kernel_case *a, kernel_case *b, xlstm_role role,
                        double tolerance) {
    for (int n = 0; n < a->kernel->parameter_count; n++) {
        const char *name = a->kernel->parameters[n].name;
        if (a->kernel->parameters[n].role != role || !case_has(b, name) || !a->given[n])
            continue;
        if (!may_vanish(p, name)) {
            case_compare(a, b, name, tolerance);
            continue;
        }
        for (int64_t i = 0; i < case_count(a, name); i++) {
            double x = case_get(a, name, i), y = case_get(b, name, i);
            if (!(fabs(x - y) <= tolerance * (1 + fabs(y))))
                fail_msg("%s of %s: %.17g, of %s: %.17g", name, a->kernel->name, x, b->kernel->name,
                         y);
        }
    }
}

static const xlstm_kernel *anchor_of(const xlstm_kernel *kernel) {
    return xlstm_kernel_find(mlstm_is_sigmoid(kernel) ? "sequence_sig--reference"
                                                      : "sequence--reference");
}

static void check_form(const xlstm_kernel *kernel, const problem *p, int64_t chunk_size) {
    kernel_case c, anchor;
    make(&c, kernel, p, p->tokens, chunk_size);
    make(&anchor, anchor_of(kernel), p, p->tokens, 0);
    for (int b = XLSTM_BACKWARD_EXACT; b <= XLSTM_BACKWARD_UPSTREAM; b++) {
        case_run(&c, XLSTM_FORWARD);
        case_run(&anchor, (xlstm_backward)b);
        c.options.stored_states = mlstm_is_chunkwise(kernel) && chunk_size % 2 == 0;
        case_run(&c, (xlstm_backward)b);
        c.options.stored_states = false;
        compare_all(p, &c, &anchor, XLSTM_OUTPUT, allowed);
        compare_all(p, &c, &anchor, XLSTM_BACKWARD_OUTPUT, allowed);
    }
    case_free(&c);
    case_free(&anchor);
}

static void test_forms_agree(void **state) {
    (void)state;
    int rounds = test_is_quick() ? 2 : 6;
    const xlstm_kernel *kernel;
    for (int k = 0; (kernel = xlstm_kernel_at(k)); k++) {
        if (!mlstm_is(kernel) || !kernel_is_tested(kernel, XLSTM_F64))
            continue;
        for (int round = 0; round < rounds; round++) {
            problem p = draw_problem(case_seed() + (uint64_t)round);
            p.states = round % 2 == 1 && !mlstm_is_parallel(kernel);
            if (mlstm_is_step(kernel))
                p.tokens = 1;
            check_form(kernel, &p, 0);
            const int64_t chunks[] = {1, 2, 7, 16, 33, p.tokens, p.tokens + 3};
            for (size_t i = 0; mlstm_is_chunkwise(kernel) && i < sizeof chunks / sizeof *chunks;
                 i++)
                check_form(kernel, &p, chunks[i]);
        }
    }
}

/* ---- Pieces ---- */

/* Copies `count` tokens of an array [B, NH, S] or [B, NH, S, width]. */
static void copy_tokens(kernel_case *to, int64_t to_first, kernel_case *from, int64_t from_first,
                        int64_t count, const char *name) {
    const xlstm_array *t = case_array(to, name), *f = case_array(from, name);
    int64_t heads = t->shape[0] * t->shape[1], width = t->rank == 4 ? t->shape[3] : 1;
    for (int64_t h = 0; h < heads; h++)
        for (int64_t i = 0; i < count * width; i++)
            case_set(to, name, (h * t->shape[2] + to_first) * width + i,
                     case_get(from, name, (h * f->shape[2] + from_first) * width + i));
}

static void copy_all(kernel_case *to, const char *to_name, const kernel_case *from,
                     const char *from_name) {
    for (int64_t i = 0; i < case_count(to, to_name); i++)
        case_set(to, to_name, i, case_get(from, from_name, i));
}

enum { MOST_PIECES = 160 };

/* Forwards with states handed on, then backwards with their gradients handed back; what comes out goes
 * where `whole` has it. */
static void run_in_pieces(kernel_case *whole, const problem *p, int length, int64_t chunk_size) {
    static const char *const inputs[] = {"q", "k", "v", "i", "f", "dh"};
    static const char *const gradients[] = {"dq", "dk", "dv", "di", "df"};
    static const char *const states[] = {"c", "n", "m"}, *const initial[] = {"c0", "n0", "m0"},
                             *const dstates[] = {"dc", "dn", "dm"},
                             *const dinitial[] = {"dc0", "dn0", "dm0"};
    static kernel_case piece[MOST_PIECES];
    problem with_states = *p;
    with_states.states = true;
    int pieces = 0;
    for (int first = 0; first < p->tokens; first += length, pieces++) {
        kernel_case *c = &piece[pieces];
        int tokens = first + length < p->tokens ? length : p->tokens - first;
        make(c, whole->kernel, &with_states, tokens, chunk_size);
        for (int i = 0; i < 6; i++)
            copy_tokens(c, 0, whole, first, tokens, inputs[i]);
        for (int i = 0; i < 3; i++)
            if (pieces)
                copy_all(c, initial[i], &piece[pieces - 1], states[i]);
            else
                copy_all(c, initial[i], whole, initial[i]);
        case_run(c, XLSTM_FORWARD);
        copy_tokens(whole, first, c, 0, tokens, "h");
    }
    for (int i = pieces - 1; i >= 0; i--) {
        kernel_case *c = &piece[i];
        for (int s = 0; s < 3; s++)
            if (i < pieces - 1)
                copy_all(c, dstates[s], &piece[i + 1], dinitial[s]);
            else
                copy_all(c, dstates[s], whole, dstates[s]);
        case_run(c, XLSTM_BACKWARD_EXACT);
        int tokens = (int)case_array(c, "q")->shape[2];
        for (int g = 0; g < 5; g++)
            copy_tokens(whole, (int64_t)i * length, c, 0, tokens, gradients[g]);
    }
    for (int s = 0; s < 3; s++) {
        copy_all(whole, states[s], &piece[pieces - 1], states[s]);
        copy_all(whole, dinitial[s], &piece[0], dinitial[s]);
    }
    for (int i = 0; i < pieces; i++)
        case_free(&piece[i]);
}

static void test_pieces_are_the_whole(void **state) {
    (void)state;
    int rounds = test_is_quick() ? 1 : 3;
    const xlstm_kernel *kernel;
    for (int k = 0; (kernel = xlstm_kernel_at(k)); k++) {
        if (!mlstm_is(kernel) || mlstm_is_parallel(kernel) || !kernel_is_tested(kernel, XLSTM_F64))
            continue;
        for (int round = 0; round < rounds; round++) {
            problem p = draw_problem(case_seed() + 100 + (uint64_t)round);
            p.states = true;
            kernel_case pieces, anchor;
            make(&anchor, anchor_of(kernel), &p, p.tokens, 0);
            case_run(&anchor, XLSTM_BACKWARD_EXACT);
            make(&pieces, kernel, &p, p.tokens, 5);
            run_in_pieces(&pieces, &p, mlstm_is_step(kernel) ? 1 : 1 + p.tokens / 3, 5);
            case_drop(&pieces, "all_c");
            case_drop(&pieces, "all_n");
            case_drop(&pieces, "all_m");
            compare_all(&p, &pieces, &anchor, XLSTM_OUTPUT, allowed);
            compare_all(&p, &pieces, &anchor, XLSTM_BACKWARD_OUTPUT, allowed);
            case_free(&pieces);
            case_free(&anchor);
        }
    }
}

static void check_border(const kernel_case *c, const char *name, int64_t border,
                         const kernel_case *anchor, const char *state) {
    int64_t count = case_count(anchor, state);
    for (int64_t i = 0; i < count; i++) {
        double expected = case_get(anchor, state, i);
        double error = fabs(case_get(c, name, border * count + i) - expected);
        if (!(error <= 1e-12 * (10 + fabs(expected))))
            fail_msg("%s: %s at border %lld is off by %.3g", c->kernel->name, name,
                     (long long)border, error);
    }
}

/* The states at chunk borders are those after so many tokens. */
static void test_border_states(void **state) {
    (void)state;
    const xlstm_kernel *kernel;
    for (int k = 0; (kernel = xlstm_kernel_at(k)); k++) {
        if (!mlstm_is(kernel) || !mlstm_is_chunkwise(kernel) ||
            !kernel_is_tested(kernel, XLSTM_F64))
            continue;
        problem p = draw_problem(case_seed() + 200);
        p.states = true;
        p.batch = p.heads = 1;
        const int chunk = 4;
        kernel_case c;
        make(&c, kernel, &p, p.tokens, chunk);
        case_run(&c, XLSTM_FORWARD);
        for (int border = 0; border * chunk < p.tokens + chunk; border++) {
            int tokens = border * chunk < p.tokens ? border * chunk : p.tokens;
            kernel_case anchor;
            make(&anchor, anchor_of(kernel), &p, tokens ? tokens : 1, 0);
            if (tokens)
                case_run(&anchor, XLSTM_FORWARD);
            check_border(&c, "all_c", border, &anchor, tokens ? "c" : "c0");
            check_border(&c, "all_n", border, &anchor, tokens ? "n" : "n0");
            if (!mlstm_is_sigmoid(kernel))
                check_border(&c, "all_m", border, &anchor, tokens ? "m" : "m0");
            case_free(&anchor);
        }
        case_free(&c);
    }
}

/* The same in f64, on the reference where the device has none. */
static const xlstm_kernel *wide_of(const xlstm_kernel *kernel) {
    return kernel->device_memory ? kernel_of_device(kernel->family, "reference") : kernel;
}

/* m is rounded to f32 where it is handed over, and C and n are scaled to what was stored: with m in the
 * hundreds, exp(m) C would otherwise be off by its last place, 1e-5. */
static void test_large_maximum(void **state) {
    (void)state;
    static const char *const inputs[] = {"q", "k", "v", "i", "f"}, *const states[] = {"c", "n"};
    const xlstm_kernel *kernel;
    for (int k = 0; (kernel = kernel_to_test(k)); k++) {
        if (!mlstm_is(kernel) || mlstm_is_parallel(kernel) || mlstm_is_sigmoid(kernel))
            continue;
        kernel_case narrow, wide;
        xlstm_kernel_options options = xlstm_kernel_defaults();
        const int tokens = mlstm_is_step(kernel) ? 1 : 70;
        case_make(&narrow, kernel, &options, XLSTM_F32, 2, "B=1 NH=3 S=%d DHQK=8 DHHV=9", tokens);
        case_make(&wide, wide_of(kernel), &options, XLSTM_F64, 2, "B=1 NH=3 S=%d DHQK=8 DHHV=9",
                  tokens);
        case_draw(&narrow, "i", 2, 700, 3);
        static const char *const dropped[] = {"c0", "n0", "m0"};
        for (int i = 0; i < 3; i++) {
            case_drop(&narrow, dropped[i]);
            case_drop(&wide, dropped[i]);
        }
        for (int i = 0; i < 5; i++)
            copy_all(&wide, inputs[i], &narrow, inputs[i]);
        case_run(&narrow, XLSTM_FORWARD);
        case_run(&wide, XLSTM_FORWARD);
        for (int s = 0; s < 2; s++) {
            int64_t each = case_count(&wide, states[s]) / 3;
            for (int64_t i = 0; i < 3 * each; i++) {
                double shift = case_get(&narrow, "m", i / each) - case_get(&wide, "m", i / each);
                case_set(&narrow, states[s], i, case_get(&narrow, states[s], i) * exp(shift));
            }
            case_compare(&narrow, &wide, states[s], 2e-6);
        }
        case_free(&narrow);
        case_free(&wide);
    }
}

/* With gates that forget nearly everything, what is left of the forget gate's gradient is the small rest
 * of two large sums: it must not drown in their rounding errors in f32. */
static void test_strong_forgetting(void **state) {
    (void)state;
    const xlstm_kernel *kernel;
    for (int k = 0; (kernel = kernel_to_test(k)); k++) {
        if (!mlstm_is(kernel) || mlstm_is_step(kernel))
            continue;
        kernel_case narrow, wide;
        xlstm_kernel_options options = xlstm_kernel_defaults();
        static const char *const dropped[] = {"c0", "n0", "m0", "dc", "dn", "dm"};
        case_make(&narrow, kernel, &options, XLSTM_F32, 1, "B=1 NH=2 S=200 DHQK=16 DHHV=24");
        case_make(&wide, wide_of(kernel), &options, XLSTM_F64, 1, "B=1 NH=2 S=200 DHQK=16 DHHV=24");
        case_draw(&narrow, "f", 1, -15, 1);
        case_draw(&wide, "f", 1, -15, 1);
        for (size_t i = 0; i < sizeof dropped / sizeof *dropped; i++) {
            case_drop(&narrow, dropped[i]);
            case_drop(&wide, dropped[i]);
        }
        case_run(&narrow, XLSTM_BACKWARD_EXACT);
        case_run(&wide, XLSTM_BACKWARD_EXACT);
        case_compare(&narrow, &wide, "df", 1e-4);
        case_free(&narrow);
        case_free(&wide);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms_agree),   cmocka_unit_test(test_pieces_are_the_whole),
        cmocka_unit_test(test_border_states), cmocka_unit_test(test_strong_forgetting),
        cmocka_unit_test(test_large_maximum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
