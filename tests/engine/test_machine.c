/* The limits of a machine are numbers that a machine can have, and do not depend on luck alone. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "engine/machine.h"

static void test_limits(void **state) {
    (void)state;
    machine_limits limits = {0};
    assert_int_equal(machine_measure(2, 0.2, &limits), XLSTM_OK);
    assert_int_equal(limits.threads, 2);
    /* From the slowest board to the fastest server; a loop that the compiler left out would be far
     * beyond. */
    assert_true(limits.read_bytes_per_second > 1e7 && limits.read_bytes_per_second < 5e12);
    assert_true(limits.update_bytes_per_second > 1e7 && limits.update_bytes_per_second < 5e12);
    assert_true(limits.fma_flops_per_second > 1e7 && limits.fma_flops_per_second < 2 * 1e12);
}

static void test_wrong_threads(void **state) {
    (void)state;
    machine_limits limits;
    assert_int_equal(machine_measure(-1, 0.1, &limits), XLSTM_INVALID_ARGUMENT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_wrong_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
