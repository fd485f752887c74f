/* The measured limits are limits of a real machine: not beyond what any core can do, not below what
 * a plain loop does. No tighter bound holds on a machine that also does something else. */
#include <stdlib.h>
#include <string.h>

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/clock.h"
#include "engine/machine.h"
#include "engine/machine_kernels.h"

enum { THREADS = 2 };

/* A core can read two vectors of 64 bytes and write one in a cycle, from its nearest cache, and do
 * two fused multiply-adds of 16 floats, at 7 GHz. More means that the compiler left a loop out, or
 * that bytes, floats or threads are counted wrongly. */
#define MOST_READ (THREADS * 128 * 7e9)
#define MOST_UPDATE (THREADS * 192 * 7e9)
#define MOST_FLOPS (THREADS * 64 * 7e9)

/* Even an emulated core without vectors does more than this. */
static const double least = 1e7;

/* Bytes a second that one thread adds up without further ado, the best of three passes. */
static double plain_read(void) {
    enum { COUNT = 1 << 22 };
    uint64_t *data = malloc(COUNT * sizeof *data);
    assert_non_null(data);
    for (uint64_t i = 0; i < COUNT; i++)
        data[i] = i;
    double best = 0;
    for (int pass = 0; pass < 3; pass++) {
        uint64_t sum = 0;
        double start = clock_seconds();
        for (int i = 0; i < COUNT; i++)
            sum += data[i];
        double rate = COUNT * sizeof *data / (clock_seconds() - start);
        assert_true(sum == (uint64_t)COUNT * (COUNT - 1) / 2); /* so the loop is needed */
        best = rate > best ? rate : best;
    }
    free(data);
    return best;
}

static void test_limits(void **state) {
    (void)state;
    machine_limits limits = {0};
    assert_int_equal(machine_measure(THREADS, 0.2, &limits), XLSTM_OK);
    assert_int_equal(limits.threads, THREADS);
    double plain = plain_read();
    print_message("read %.1f GB/s (a plain loop %.1f), update %.1f GB/s, %.1f Gflop/s\n",
                  limits.read_bytes_per_second / 1e9, plain / 1e9,
                  limits.update_bytes_per_second / 1e9, limits.fma_flops_per_second / 1e9);
    assert_true(limits.read_bytes_per_second > least && limits.read_bytes_per_second < MOST_READ);
    assert_true(limits.update_bytes_per_second > least &&
                limits.update_bytes_per_second < MOST_UPDATE);
    assert_true(limits.fma_flops_per_second > least && limits.fma_flops_per_second < MOST_FLOPS);
    /* The same memory goes by in both, so neither can be ten times the other: that would be a loop
     * that does not do what is counted. And a limit that one thread's plain loop exceeds four times
     * is none; the factors leave room for a machine that is busy with other tests. */
    assert_true(limits.read_bytes_per_second < 10 * limits.update_bytes_per_second);
    assert_true(limits.update_bytes_per_second < 10 * limits.read_bytes_per_second);
    assert_true(limits.read_bytes_per_second > plain / 4);
}

/* A sample of each kind lies within the same bounds, and what a processor lacks is 0. Tiles do 16
 * times 16 products of 2 bf16 or 4 int8 in 16 cycles at best; a sample that counts wrongly or whose
 * loop was left out is beyond that. */
static void test_samples(void **state) {
    (void)state;
    static const double most[MACHINE_KINDS] = {[MACHINE_READ] = MOST_READ,
                                               [MACHINE_WEIGHTS] = MOST_READ,
                                               [MACHINE_UPDATE] = MOST_UPDATE,
                                               [MACHINE_FMA] = MOST_FLOPS,
                                               [MACHINE_AMX_BF16] = THREADS * 1024 * 7e9,
                                               [MACHINE_AMX_INT8] = THREADS * 2048 * 7e9};
    machine_meter *m;
    assert_int_equal(machine_create(THREADS, false, &m), XLSTM_OK);
    assert_int_equal(machine_threads(m), THREADS);
    for (int k = 0; k < MACHINE_KINDS; k++) {
        double rate = machine_sample(m, (machine_kind)k);
        if (machine_has(m, (machine_kind)k))
            assert_true(rate > least && rate < most[k]);
        else
            assert_true(rate == 0);
    }
    assert_true(machine_has(m, MACHINE_READ) && machine_has(m, MACHINE_FMA));
    machine_free(m);
    machine_free(NULL);
}

/* Tiles accumulate: the sums of a known product say that both operands were loaded, that the
 * configuration was there, and that all steps were done. */
static void test_tiles_compute(void **state) {
    (void)state;
    machine_kernels k = {0};
    machine_amx_add(&k);
    if (!k.amx_bf16 && !k.amx_int8)
        skip();
    /* Every product of a row and a column is +1 for each of the 32 or 64 terms. */
    if (k.amx_bf16)
        assert_true(k.amx_bf16(5) == 4.0f * 5 * 32);
    if (k.amx_int8)
        assert_true(k.amx_int8(5) == 4.0f * 5 * 64);
}

/* Given memory is read whole: an odd address, a short rest and an empty span included. */
static void test_given_memory(void **state) {
    (void)state;
    enum { SIZE = 64 << 20 };
    char *data = malloc(SIZE);
    machine_meter *m;
    assert_non_null(data);
    memset(data, 1, SIZE);
    assert_int_equal(machine_create(THREADS, false, &m), XLSTM_OK);
    assert_false(machine_has(m, MACHINE_WEIGHTS));
    assert_true(machine_sample(m, MACHINE_WEIGHTS) == 0);
    const machine_span spans[] = {{data, 100}, {data + 1, 0}, {data + 101, SIZE - 101}};
    machine_read_from(m, spans, 3);
    assert_true(machine_has(m, MACHINE_WEIGHTS));
    double rate = machine_sample(m, MACHINE_WEIGHTS);
    assert_true(rate > least && rate < MOST_READ);
    machine_free(m);
    free(data);
}

static void test_wrong_threads(void **state) {
    (void)state;
    machine_limits limits;
    assert_int_equal(machine_measure(-1, 0.1, &limits), XLSTM_INVALID_ARGUMENT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_limits),        cmocka_unit_test(test_samples),
        cmocka_unit_test(test_given_memory),  cmocka_unit_test(test_tiles_compute),
        cmocka_unit_test(test_wrong_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
