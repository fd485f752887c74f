/* The test device itself: what kernels are told and what the standard library's look-alike computes, in all modes and
 * schedules; bytes that are counted; races between dispatches; launches that it refuses. */
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <cmocka.h>

#include "gpu.h"

static gpu *open_device(enum gpu_mode mode) {
    if (TEST_METAL_MISSING[0] != 0) {
        print_message("skipped: %s\n", TEST_METAL_MISSING);
        skip();
    }
    char error[1024] = "";
    gpu *g = gpu_open(TEST_METAL "/planted-functions", mode, error, sizeof error);
    if (g == NULL)
        fail_msg("%s", error);
    return g;
}

static gpu_launch launch_of(gpu *g, const char *kernel, uint32_t groups, uint32_t threads) {
    gpu_launch l = {
        .kernel = gpu_find(g, kernel), .groups = {groups, 1, 1}, .threads = {threads, 1, 1}};
    assert_non_null(l.kernel);
    return l;
}

static gpu_bound bound(void *base, size_t length) {
    return (gpu_bound){.base = base, .length = length};
}

static void run(gpu *g, const gpu_launch *l, gpu_traffic *traffic) {
    char error[2048];
    if (!gpu_run(g, l, traffic, error, sizeof error))
        fail_msg("%s", error);
}

/* The dispatch fails, and its message has this in it. */
static void refuses(gpu *g, const gpu_launch *l, const char *message) {
    char error[2048] = "";
    if (gpu_run(g, l, NULL, error, sizeof error))
        fail_msg("ran, instead of: %s", message);
    if (strstr(error, message) == NULL)
        fail_msg("'%s' instead of '%s'", error, message);
}

/* Runs a check in every mode and under every schedule. */
static void everywhere(void (*check)(gpu *g)) {
    for (int mode = 0; mode < 3; mode++) {
        gpu *g = open_device((enum gpu_mode)mode);
        for (int schedule = 0; schedule < 3; schedule++) {
            gpu_set_schedule(g, (enum gpu_schedule)schedule, 3);
            check(g);
            gpu_fence(g);
        }
        gpu_close(g);
    }
}

static void check_places(gpu *g) {
    static uint32_t out[2 * 3 * 2 * 40 * 8];
    gpu_launch l = launch_of(g, "places", 2, 10);
    l.groups[1] = 3;
    l.groups[2] = 2;
    l.threads[1] = 4;
    memset(out, 0xff, sizeof out);
    l.buffer[0] = bound(out, sizeof out);
    run(g, &l, NULL);
    for (uint32_t z = 0; z < 2; z++)
        for (uint32_t y = 0; y < 12; y++)
            for (uint32_t x = 0; x < 20; x++) {
                const uint32_t *mine = out + (x + 20 * (y + 12 * z)) * 8;
                uint32_t index = x % 10 + 10 * (y % 4);
                assert_int_equal(mine[0], index);
                assert_int_equal(mine[1], index % 32);
                assert_int_equal(mine[2], index / 32);
                assert_int_equal(mine[3], 2032);
                assert_int_equal(mine[4], x % 10 + 100 * (y % 4));
                assert_int_equal(mine[5], x / 10 + 100 * (y / 4) + 10000 * z);
                assert_int_equal(mine[6], 10 + 100 * 4 + 10000);
                assert_int_equal(mine[7], 2 + 100 * 3 + 10000 * 2);
            }
}

static void test_places(void **unused) {
    (void)unused;
    everywhere(check_places);
}

static void check_lanes(gpu *g) {
    static float out[32][16];
    gpu_launch l = launch_of(g, "lanes", 1, 32);
    l.buffer[0] = bound(out, sizeof out);
    run(g, &l, NULL);
    for (int lane = 0; lane < 32; lane++) {
        const float expected[16] = {528.0f,
                                    32.0f,
                                    1.0f,
                                    (float)((lane + 1) * (lane + 2) / 2),
                                    (float)(lane * (lane + 1) / 2),
                                    (float)((lane ^ 5) + 1),
                                    (float)(lane + 3 < 32 ? lane + 4 : lane + 1),
                                    (float)(lane >= 3 ? lane - 2 : lane + 1),
                                    8.0f,
                                    1.0f,
                                    (float)0x2222,
                                    1.0f,
                                    0.0f,
                                    1056.0f,
                                    32.0f,
                                    1.0f};
        for (int i = 0; i < 16; i++)
            if (!(out[lane][i] == expected[i]))
                fail_msg("lane %d, value %d: %g instead of %g", lane, i, (double)out[lane][i],
                         (double)expected[i]);
    }
}

static void test_lanes(void **unused) {
    (void)unused;
    everywhere(check_lanes);
}

/* Small whole numbers as halves. */
static uint16_t half_of(int x) {
    if (x == 0)
        return 0;
    int exponent = 0, magnitude = abs(x);
    while (magnitude >> (exponent + 1) != 0)
        exponent++;
    return (uint16_t)((x < 0 ? 0x8000 : 0) | (exponent + 15) << 10 |
                      ((magnitude << (10 - exponent)) & 0x3ff));
}

static void check_matrices(gpu *g) {
    uint16_t a[64];
    float b[10 * 10], d[128];
    for (int i = 0; i < 64; i++)
        a[i] = half_of(i % 11 - 5);
    for (int i = 0; i < 100; i++)
        b[i] = (float)(i % 7 - 3);
    gpu_launch l = launch_of(g, "matrices", 1, 32);
    l.buffer[0] = bound(a, sizeof a);
    l.buffer[1] = bound(b, sizeof b);
    l.buffer[2] = bound(d, sizeof d);
    run(g, &l, NULL);
    for (int row = 0; row < 8; row++)
        for (int column = 0; column < 8; column++) {
            int straight = row == column ? 2 : 0, across = 0;
            for (int k = 0; k < 8; k++) {
                int factor = (int)b[(k + 2) * 10 + column + 1];
                straight += ((row * 8 + k) % 11 - 5) * factor;
                across += ((k * 8 + row) % 11 - 5) * factor;
            }
            assert_int_equal((int)d[row * 8 + column], straight);
            assert_int_equal((int)d[64 + column * 8 + row], across);
        }
}

static void test_matrices(void **unused) {
    (void)unused;
    everywhere(check_matrices);
}

static void check_vectors(gpu *g) {
    float in[4] = {1.0f, 2.0f, 3.0f, 4.0f}, out[16];
    const float expected[16] = {30.0f, 7.0f,  20.0f, 2.0f, 1.0f, 2.0f,  2.5f,   5.0f,
                                9.5f,  40.0f, 5.0f,  2.5f, 1.0f, 7.25f, 252.0f, 5.0f};
    gpu_launch l = launch_of(g, "vectors", 1, 1);
    l.buffer[0] = bound(in, sizeof in);
    l.buffer[1] = bound(out, sizeof out);
    run(g, &l, NULL);
    /* The last asks for NaN and infinity, which fast math need not know. */
    for (int i = 0; i < 15; i++)
        if (!(fabsf(out[i] - expected[i]) <= 1e-6f * fabsf(expected[i])))
            fail_msg("value %d: %g instead of %g", i, (double)out[i], (double)expected[i]);
}

static void test_vectors(void **unused) {
    (void)unused;
    everywhere(check_vectors);
}

static void check_atomics(gpu *g) {
    uint32_t count = 0;
    float sum = 0.0f;
    int32_t most = -1;
    gpu_launch l = launch_of(g, "counted", 5, 96);
    l.buffer[0] = bound(&count, 4);
    l.buffer[1] = bound(&sum, 4);
    l.buffer[2] = bound(&most, 4);
    run(g, &l, NULL);
    assert_int_equal(count, 480);
    assert_true(sum == 240.0f);
    assert_int_equal(most, 479);
}

static void test_atomics(void **unused) {
    (void)unused;
    everywhere(check_atomics);
}

static void check_told(gpu *g) {
    float out[32];
    gpu_launch l = launch_of(g, "told", 1, 32);
    l.buffer[5] = bound(out, sizeof out);
    l.threadgroup_bytes[0] = 128;
    l.threadgroup_bytes[3] = 64;
    assert_int_equal(gpu_kernel_threadgroup_bytes(l.kernel), 32);
    run(g, &l, NULL);
    for (int i = 0; i < 32; i++)
        assert_true(out[i] == 15.0f);
}

static void test_threadgroup_memory(void **unused) {
    (void)unused;
    everywhere(check_told);
    gpu *g = open_device(GPU_CHECKED);
    gpu_launch l = launch_of(g, "told", 1, 32);
    float out[32];
    l.buffer[5] = bound(out, sizeof out);
    l.threadgroup_bytes[0] = 128;
    refuses(g, &l, "threadgroup memory 3 has no length");
    l.threadgroup_bytes[3] = 32;
    refuses(g, &l, "out of bounds: byte 32 of threadgroup memory of 32 bytes");
    l.threadgroup_bytes[3] = 32768 - 128;
    refuses(g, &l, "the most is 32768");
    gpu_close(g);
}

static void test_parameters_are_known(void **unused) {
    (void)unused;
    gpu *g = open_device(GPU_CHECKED);
    const gpu_kernel *k = gpu_find(g, "added");
    bool writes = true;
    assert_non_null(k);
    assert_true(gpu_kernel_uses(k, 0, &writes));
    assert_false(writes);
    assert_true(gpu_kernel_uses(k, 1, &writes));
    assert_false(writes);
    assert_true(gpu_kernel_uses(k, 2, &writes));
    assert_true(writes);
    assert_false(gpu_kernel_uses(k, 3, &writes));
    assert_null(gpu_find(g, "no such kernel"));
    gpu_close(g);
}

enum { MANY = 10000 };
struct addition {
    uint32_t sizes[4]; /* count, repeats, first */
    float *x, *y;
};

static gpu_launch addition_make(gpu *g, struct addition *a) {
    a->sizes[0] = MANY;
    a->sizes[1] = 1;
    a->sizes[2] = 0;
    a->x = calloc(MANY, sizeof(float));
    a->y = calloc(MANY, sizeof(float));
    assert_true(a->x != NULL && a->y != NULL);
    gpu_launch l = launch_of(g, "added", 4, 64);
    l.buffer[0] = (gpu_bound){.base = a->sizes, .length = 16, .bytes = true};
    l.buffer[1] = bound(a->x, MANY * sizeof(float));
    l.buffer[2] = bound(a->y, MANY * sizeof(float));
    return l;
}

static void addition_free(gpu *g, struct addition *a) {
    gpu_forget(g, a->x, MANY * sizeof(float));
    gpu_forget(g, a->y, MANY * sizeof(float));
    free(a->x);
    free(a->y);
}

/* However often they are touched; anew in every dispatch. */
static void test_bytes_are_counted_once(void **unused) {
    (void)unused;
    gpu *g = open_device(GPU_CHECKED);
    struct addition a;
    gpu_launch l = addition_make(g, &a);
    gpu_traffic t;
    for (uint32_t repeats = 0; repeats < 3; repeats++) {
        a.sizes[1] = repeats;
        run(g, &l, &t);
        gpu_fence(g);
        uint64_t expected = repeats == 0 ? 0 : MANY * sizeof(float);
        assert_int_equal(t.read, 2 * expected);
        assert_int_equal(t.written, expected);
    }
    a.sizes[0] = 1001;
    l.buffer[1].offset = 4;
    run(g, &l, &t);
    assert_int_equal(t.read, 2 * 4004);
    assert_int_equal(t.written, 4004);
    addition_free(g, &a);
    gpu_close(g);
}

static void test_dispatches_race_until_a_fence(void **unused) {
    (void)unused;
    gpu *g = open_device(GPU_CHECKED);
    struct addition a, b;
    gpu_launch one = addition_make(g, &a), two = addition_make(g, &b);

    run(g, &one, NULL);
    refuses(g, &one, "race: reads byte"); /* y += x reads and writes y */
    gpu_fence(g);
    run(g, &one, NULL);

    two.buffer[1] = one.buffer[2]; /* reads what the first wrote */
    refuses(g, &two, "which a dispatch since the last barrier (added) has written");
    gpu_fence(g);
    run(g, &two, NULL);

    gpu_fence(g);
    two.buffer[1] = bound(b.x, MANY * sizeof(float));
    run(g, &one, NULL);
    two.buffer[2] = one.buffer[1]; /* writes what the first read */
    refuses(g, &two, "has read");

    /* Both read x: no race. Halves of one buffer: none. */
    gpu_fence(g);
    two.buffer[1] = one.buffer[1];
    two.buffer[2] = bound(b.y, MANY * sizeof(float));
    run(g, &one, NULL);
    run(g, &two, NULL);
    gpu_fence(g);
    a.sizes[0] = b.sizes[0] = 5001;
    two.buffer[2] = one.buffer[2];
    two.buffer[2].offset = 5001 * sizeof(float);
    b.sizes[0] = MANY - 5001;
    run(g, &one, NULL);
    run(g, &two, NULL);

    /* With a dispatch of something else between them it is still a race. */
    struct addition c;
    gpu_launch three = addition_make(g, &c);
    run(g, &three, NULL);
    refuses(g, &one, "race: ");

    /* What is forgotten does not race. */
    gpu_forget(g, a.y, MANY * sizeof(float));
    run(g, &one, NULL);
    addition_free(g, &a);
    addition_free(g, &b);
    addition_free(g, &c);
    gpu_close(g);
}

static void test_launches_are_checked(void **unused) {
    (void)unused;
    gpu *g = open_device(GPU_CHECKED);
    struct addition a;
    gpu_launch right = addition_make(g, &a), l = right;
    l.buffer[1].base = NULL;
    refuses(g, &l, "nothing is bound to buffer 1");
    l = right;
    l.buffer[0].length = 12;
    refuses(g, &l, "buffer 0 has 12 bytes from offset 0 on, the kernel's struct 16");
    l = right;
    l.buffer[2].bytes = true;
    refuses(g, &l, "setBytes to buffer 2");
    l = right;
    l.threads[0] = 1025;
    refuses(g, &l, "1025 threads");
    l = right;
    l.groups[1] = 0;
    refuses(g, &l, "0 threadgroups");
    l = right;
    l.buffer[1].offset = 8;
    refuses(g, &l, "out of bounds");
    gpu_fence(g);
    run(g, &right, NULL); /* after all these it still works */
    addition_free(g, &a);
    gpu_close(g);
}

/* One memory bound twice, and read through the binding that may not write: a thread's own writes are seen. */
static void test_bindings_may_overlap(void **unused) {
    (void)unused;
    gpu *g = open_device(GPU_CHECKED);
    struct addition a;
    gpu_launch l = addition_make(g, &a);
    l.buffer[1] = l.buffer[2];
    run(g, &l, NULL);
    gpu_fence(g);
    a.sizes[2] = 1; /* its neighbour's */
    a.sizes[0] = MANY - 1;
    refuses(g, &l, "race: ");
    addition_free(g, &a);
    gpu_close(g);
}

/* The hash is that of the text which ships. */
static void test_hash_is_of_the_text(void **unused) {
    (void)unused;
    if (TEST_METAL_MISSING[0] != 0) {
        print_message("skipped: %s\n", TEST_METAL_MISSING);
        skip();
    }
    char error[1024] = "";
    FILE *file = fopen(TEST_METAL "/kernels.metal", "rb");
    assert_non_null(file);
    uint64_t hash = 0xcbf29ce484222325u;
    for (int c; (c = getc(file)) != EOF;)
        hash = (hash ^ (uint64_t)(unsigned char)c) * 0x100000001b3u;
    fclose(file);
    for (int mode = 0; mode < 3; mode++) {
        gpu *g = gpu_open(TEST_METAL, (enum gpu_mode)mode, error, sizeof error);
        if (g == NULL)
            fail_msg("%s", error);
        assert_true(gpu_source_hash(g) == hash);
        gpu_close(g);
    }
}

static void test_what_is_not_there(void **unused) {
    (void)unused;
    char error[1024] = "";
    assert_null(gpu_open("build/no/such/folder", GPU_CHECKED, error, sizeof error));
    assert_non_null(strstr(error, "build/no/such/folder/kernels-checked.so: is not there"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_lanes),
        cmocka_unit_test(test_matrices),
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_atomics),
        cmocka_unit_test(test_threadgroup_memory),
        cmocka_unit_test(test_parameters_are_known),
        cmocka_unit_test(test_bytes_are_counted_once),
        cmocka_unit_test(test_dispatches_race_until_a_fence),
        cmocka_unit_test(test_launches_are_checked),
        cmocka_unit_test(test_bindings_may_overlap),
        cmocka_unit_test(test_hash_is_of_the_text),
        cmocka_unit_test(test_what_is_not_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
