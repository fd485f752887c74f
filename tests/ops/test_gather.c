/* Pieces of host memory laid into windows of any length are what they are as a whole, and nothing between them is touched. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "ops/gather.h"

enum { PIECES = 6, SIZE = 2048, UNTOUCHED = 0xee };

static uint8_t host[PIECES][SIZE];
static const ops_piece pieces[PIECES] = {
    {host[0], 3, 0},   {host[1], 256, 256}, {host[2], 0, 512},
    {host[3], 1, 512}, {host[4], 700, 768}, {host[5], 512, 1536},
};

/* What the buffer shall hold. */
static void lay_out(uint8_t whole[SIZE]) {
    memset(whole, UNTOUCHED, SIZE);
    for (int p = 0; p < PIECES; p++)
        for (size_t i = 0; i < pieces[p].size; i++)
            whole[pieces[p].offset + i] = host[p][i] = (uint8_t)(37 * i + 101 * (size_t)p + 1);
}

static void windows_of_any_length(void **state) {
    (void)state;
    uint8_t whole[SIZE], got[SIZE];
    lay_out(whole);
    for (size_t window = 1; window <= SIZE; window++) {
        size_t next = 0;
        memset(got, UNTOUCHED, sizeof got);
        for (size_t at = 0; at < SIZE; at += window) {
            size_t part = SIZE - at < window ? SIZE - at : window;
            uint8_t *exactly = malloc(part); /* so that sanitizers see a byte too many */
            assert_non_null(exactly);
            memset(exactly, UNTOUCHED, part);
            ops_lay_pieces(pieces, PIECES, &next, at, part, exactly);
            memcpy(got + at, exactly, part);
            free(exactly);
        }
        assert_int_equal(next, PIECES);
        assert_memory_equal(got, whole, SIZE);
    }
}

static void host_addresses(void **state) {
    (void)state;
    for (int p = 0; p < PIECES; p++)
        for (size_t i = 0; i < pieces[p].size; i++)
            assert_ptr_equal(ops_piece_host(pieces, PIECES, pieces[p].offset + i), host[p] + i);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows_of_any_length),
        cmocka_unit_test(host_addresses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
