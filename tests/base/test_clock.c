/* Time goes forward at the right pace, and sleeping takes it; the memory of the machine is plausible. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/cgroup.h"
#include "base/clock.h"

static void test_time(void **state) {
    (void)state;
    double start = clock_seconds();
    clock_sleep(0.02);
    double passed = clock_seconds() - start;
    assert_true(passed >= 0.0199 && passed < 10);
}

static void test_memory(void **state) {
    (void)state;
    int64_t total = memory_total(), available = memory_available();
    assert_true(total > (int64_t)16 << 20);
    assert_true(available > 0 && available <= total);
    assert_true(cgroup_memory_left() >= available || cgroup_memory_limit() > 0);
    assert_true(cgroup_processors() >= 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_time), cmocka_unit_test(test_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
