/* The sLSTM and LSTM kernels of every device on bf16 arrays, in shapes that tensor cores take, against the reference on
 * the same values in f64. What is off is the rounding of y on its way into R, and of outputs. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/kernels.h"
#include "support/support.h"

static void make(kernel_case *c, const char *family, const char *device, xlstm_dtype type,
                 const char *sizes, uint64_t seed) {
    case_make(c, kernel_of_device(family, device), NULL, type, seed, "%s", sizes);
    case_draw(c, "r", seed, 0, 0.1);
    int64_t units = case_count(c, "b") / 4, states = case_count(c, "s0") / units;
    for (int64_t u = 0; u < units; u++)
        case_set(c, "b", units + u, 2 + 0.5 * test_normal(seed, 1, (uint64_t)u));
    /* Normalizers of at least 1, and the gradient of the last y alone: what others bring to a maximum jumps where it
     * changes sides. */
    bool lstm = family[0] == 'l';
    int64_t each = states * units / (lstm ? 2 : 4);
    for (int64_t i = 0; i < each; i++) {
        if (!lstm)
            case_set(c, "s0", 2 * each + i, 1 + (double)(i % 8) / 8);
        for (int64_t s = 1; s < (lstm ? 2 : 4); s++)
            case_set(c, "ds", s * each + i, 0);
    }
}

typedef struct shape {
    const char *sizes;
    double forward_clip, gradient_clip;
    bool cut;
} shape;

/* Heads that fill a tile and that do not, one sequence, some, and more than a block has; one token, and more than are
 * fetched ahead. */
static const shape shapes[] = {
    {"B=1 S=1 NH=1 DH=64", 0, 0, false},     {"B=5 S=23 NH=3 DH=64", 0, 0, false},
    {"B=13 S=9 NH=2 DH=48", 0.25, 0, false}, {"B=3 S=12 NH=2 DH=8", 0, 0.0625, false},
    {"B=4 S=7 NH=1 DH=128", 0, 0, true},     {"B=9 S=11 NH=2 DH=104", 0, 0, false},
    {"B=2 S=2 NH=67 DH=64", 0, 0, false},    {"B=5 S=6 NH=1 DH=200", 0, 0, false},
    {"B=9 S=5 NH=1 DH=512", 0, 0, false},
};

static void check(const char *family, const char *device, const shape *s, uint64_t seed) {
    static const char *const names[] = {"y", "s", "all_s", "dx", "dr", "db", "ds0"};
    kernel_case c, exact;
    make(&c, family, device, XLSTM_BF16, s->sizes, seed);
    make(&exact, family, "reference", XLSTM_F64, s->sizes, seed);
    case_copy_inputs(&exact, &c);
    exact.options.forward_clip = c.options.forward_clip = s->forward_clip;
    exact.options.recurrent_gradient_clip = c.options.recurrent_gradient_clip = s->gradient_clip;
    exact.options.recurrent_cut = c.options.recurrent_cut = s->cut;
    case_run(&c, XLSTM_BACKWARD_EXACT);
    case_run(&exact, XLSTM_BACKWARD_EXACT);
    for (int i = 0; i < 7; i++) {
        double error = case_error(&c, names[i], &exact, names[i]);
        /* Where y is on the other side of its bound, it has a gradient or not. */
        double allowed = s->forward_clip != 0 && i >= 3 ? 0.15 : 6e-3;
        if (!(error <= allowed))
            fail_msg("%s--%s, %s: %s is off by %.2g, seed %llu", family, device, s->sizes, names[i],
                     error, (unsigned long long)seed);
    }
    case_free(&exact);
    case_free(&c);
}

static void test_shapes(void **state) {
    (void)state;
    const xlstm_kernel *kernel;
    int checked = 0;
    for (int k = 0; (kernel = kernel_to_test(k)); k++)
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
            if (strstr(kernel->family, "lstm_sequence") && kernel_is_tested(kernel, XLSTM_BF16)) {
                check(kernel->family, kernel->device, &shapes[i], case_seed() + i);
                checked++;
            }
    assert_true(checked > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_shapes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
