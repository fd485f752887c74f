/* XXH64 against published values, in one piece and in every split. */
#include <string.h>

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/hash.h"

static void test_published_values(void **state) {
    (void)state;
    assert_true(hash64_of("", 0, 0) == 0xEF46DB3751D8E999u);
    assert_true(hash64_of("a", 1, 0) == 0xD24EC4F1A98C6E5Bu);
    assert_true(hash64_of("abc", 3, 0) == 0x44BC2CF5AD770999u);
    assert_true(hash64_of("xxhash", 6, 0) == 0x32DD38952C4BC720u);
    assert_true(hash64_of("xxhash", 6, 20141025) == 0xB559B98D844E0635u);
    static const char long_text[] =
        "Call me Ishmael. Some years ago--never mind how long precisely-";
    assert_int_equal(sizeof long_text - 1, 63);
    assert_true(hash64_of(long_text, 63, 0) == 0x02A2E85470D6FD96u);
}

/* The test buffer and results of xxHash's own self-test (xxhsum.c, XSUM_sanityCheck). */
static void test_self_test_of_xxhash(void **state) {
    (void)state;
    enum { SIZE = 222 };
    static const struct {
        size_t size;
        uint64_t seed, expected;
    } cases[] = {{1, 0, 0xE934A84ADB052768u},
                 {1, 2654435761u, 0x5014607643A9B4C3u},
                 {4, 0, 0x9136A0DCA57457EEu},
                 {14, 0, 0x8282DCC4994E35C8u},
                 {14, 2654435761u, 0xC3BD6BF63DEB6DF0u},
                 {SIZE, 0, 0xB641AE8CB691C174u},
                 {SIZE, 2654435761u, 0x20CB8AB7AE10C14Au}};
    uint8_t bytes[SIZE];
    uint64_t generator = 2654435761u;
    for (int i = 0; i < SIZE; i++) {
        bytes[i] = (uint8_t)(generator >> 56);
        generator *= 11400714785074694797u;
    }
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_true(hash64_of(bytes, cases[i].size, cases[i].seed) == cases[i].expected);
}

static void test_splits(void **state) {
    (void)state;
    enum { SIZE = 131 };
    uint8_t bytes[SIZE];
    for (int i = 0; i < SIZE; i++)
        bytes[i] = (uint8_t)(i * 37);
    for (size_t size = 0; size <= SIZE; size++) {
        uint64_t expected = hash64_of(bytes, size, 9);
        for (size_t first = 0; first <= size; first++) {
            hash64 h;
            hash64_init(&h, 9);
            hash64_update(&h, bytes, first);
            hash64_update(&h, bytes + first, (size - first) / 2);
            hash64_update(&h, bytes + first + (size - first) / 2,
                          size - first - (size - first) / 2);
            assert_true(hash64_digest(&h) == expected);
        }
    }
    hash64 h;
    hash64_init(&h, 0);
    hash64_update(&h, NULL, 0);
    assert_true(hash64_digest(&h) == 0xEF46DB3751D8E999u);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_published_values),
                                       cmocka_unit_test(test_self_test_of_xxhash),
                                       cmocka_unit_test(test_splits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
