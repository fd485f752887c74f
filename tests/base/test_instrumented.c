/* A sanitizer run that runs uninstrumented code proves nothing: what make was asked for must be
 * what the compiler did, also in the objects of the library. */
#include <stdio.h>
#include <string.h>

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#if defined(__has_feature)
#define HAS_FEATURE(name) __has_feature(name)
#else
#define HAS_FEATURE(name) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || HAS_FEATURE(address_sanitizer)
enum { HAS_ADDRESS = 1 };
#else
enum { HAS_ADDRESS = 0 };
#endif
#if defined(__SANITIZE_THREAD__) || HAS_FEATURE(thread_sanitizer)
enum { HAS_THREAD = 1 };
#else
enum { HAS_THREAD = 0 };
#endif

static void test_flags_are_in_force(void **state) {
    (void)state;
    assert_int_equal(strstr(TEST_SANITIZE, "address") != NULL, HAS_ADDRESS);
    assert_int_equal(strstr(TEST_SANITIZE, "thread") != NULL, HAS_THREAD);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_flags_are_in_force)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
