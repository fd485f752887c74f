/* Exact gradients of every mLSTM kernel against central finite differences, for every input, the
 * initial states, and with gradients of the last states coming in. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/kernels.h"
#include "kernels/mlstm.h"
#include "support/support.h"

/* A case of random sizes. Every fourth has large gates, every third is without some of the states. */
static void make(kernel_case *c, const xlstm_kernel *kernel, uint64_t seed, bool normalize) {
    bool step = mlstm_is_step(kernel);
    xlstm_kernel_options options = xlstm_kernel_defaults();
    options.normalize = normalize;
    options.chunk_size = case_choose(seed, 0, 1, 9);
    options.eps = case_choose(seed, 1, 0, 1) ? 1e-6 : 0.1;
    case_make(c, kernel, &options, XLSTM_F64, seed, "B=%d NH=%d S=%d DHQK=%d DHHV=%d",
              (int)case_choose(seed, 2, 1, 2), (int)case_choose(seed, 3, 1, 3),
              step ? 1 : (int)case_choose(seed, 4, 1, 23), (int)case_choose(seed, 5, 1, 7),
              (int)case_choose(seed, 6, 1, 7));
    double forget_mean = (double)case_choose(seed, 7, -3, 5);
    double spread = case_choose(seed, 8, 0, 3) == 0 ? 6 : 1;
    case_draw(c, "f", seed, forget_mean, spread);
    case_draw(c, "i", seed, 0, spread);
    if (case_choose(seed, 9, 0, 2) == 0)
        case_drop(c, case_choose(seed, 10, 0, 1) ? "m0" : "n0");
    if (case_choose(seed, 11, 0, 2) == 0)
        case_drop(c, case_choose(seed, 12, 0, 1) ? "dc" : "dn");
}

static void test_finite_differences(void **state) {
    (void)state;
    int rounds = test_is_quick() ? 2 : 12, tested = 0;
    const xlstm_kernel *kernel;
    for (int k = 0; (kernel = xlstm_kernel_at(k)); k++) {
        if (!mlstm_is(kernel) || !kernel_is_tested(kernel, XLSTM_F64))
            continue;
        for (int round = 0; round < rounds; round++) {
            kernel_case c;
            uint64_t seed = case_seed() + (uint64_t)round;
            make(&c, kernel, seed, round % 2 == 0);
            c.options.stored_states = round % 3 == 1;
            case_check_gradients(&c, seed, 1e-6);
            case_free(&c);
            tested++;
        }
    }
    assert_true(tested > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_finite_differences)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
