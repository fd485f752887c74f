/* The test device finds what it says it finds: each kernel of planted/running.metal with its mistake ends with the
 * message that belongs to it under every schedule, and without it ends well; what must not compile (planted/refused.metal,
 * tried by the build) did not. */
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>
#include <cmocka.h>

#include "gpu.h"

enum { COUNT = 128, THREADS = 64 };

/* Kernel, and what the device says of it; "NaN": the mistake shows in the values. */
static const struct planted {
    const char *kernel, *message;
} planted[] = {
    {"barrier_missing", "race: reads threadgroup memory|reads threadgroup memory that nobody"},
    {"barrier_before_reuse_missing", "race: writes threadgroup memory|race: reads threadgroup"},
    {"barrier_of_nothing", "race: reads threadgroup memory"},
    {"barrier_of_threadgroup_for_device", "race: reads buffer 2"},
    {"barrier_of_device_for_threadgroup", "race: reads threadgroup memory"},
    {"barrier_of_simd_for_threadgroup", "race: |that nobody has written"},
    {"lock_step", "race: |that nobody has written"},
    {"lock_step_through_sum", "race: reads threadgroup memory"},
    {"written_after_read", "race: "},
    {"barrier_in_branch", "divergence: "},
    {"barrier_in_branch_of_lanes", "divergence: "},
    {"barrier_after_return", "divergence: "},
    {"barriers_of_two_branches", "divergence: "},
    {"sum_in_branch", "divergence: "},
    {"sum_in_loop", "divergence: "},
    {"shuffle_after_break", "divergence: "},
    {"read_beyond", "reads 4 bytes out of bounds: byte 512 of buffer 1, which has 512"},
    {"read_before", "reads 4 bytes out of bounds: byte -4 of buffer 1"},
    {"write_beyond", "writes 4 bytes out of bounds|race"},
    {"threadgroup_beyond", "out of bounds: byte 256 of threadgroup memory of 256 bytes"},
    {"vector_beyond", "16 bytes out of bounds"},
    {"written_through_constant", "writes memory that is bound to be read only"},
    {"misaligned", "reads 16 bytes at an address that is no multiple of 16"},
    {"misaligned_half", "reads 2 bytes at an address that is no multiple of 2"},
    {"unwritten", "threadgroup memory that nobody has written"},
    {"unwritten_counter", "threadgroup memory that nobody has written"},
    {"left_from_the_group_before", "threadgroup memory that nobody has written"},
    {"groups_write_one", "race: writes buffer 2"},
    {"group_reads_another", "race: "},
    {"sum_without_atomics", "race: "},
    {"atomic_and_plain", "race: "},
    {"halves_of_a_word", "race: writes buffer 2"},
    {"bytes_of_a_word", "race: writes buffer 2"},
    {"lane_that_is_not_there", "a lane that is not there"},
    {"stored_matrix_read_at_once", "race: reads threadgroup memory|that nobody has written"},
    {"tile_of_another_loaded", "race: |that nobody has written"},
    {"accumulator_not_zeroed", "NaN"},
    {"matrix_row_too_long", "out of bounds"},
    {"matrix_in_branch", "divergence: "},
    {"private_value_not_set", "NaN"},
    {"threadgroup_memory_too_large", "bytes of threadgroup memory, the most is 32768"},
};
enum { PLANTED = sizeof planted / sizeof planted[0] };

/* One of the parts of `message` between bars is in `said`. */
static bool contains(const char *said, const char *message) {
    char parts[256];
    snprintf(parts, sizeof parts, "%s", message);
    for (char *rest = NULL, *part = strtok_r(parts, "|", &rest); part != NULL;
         part = strtok_r(NULL, "|", &rest))
        if (strstr(said, part) != NULL)
            return true;
    return false;
}

struct memory {
    uint32_t count;
    float *in, *out; /* [COUNT], in buffers of just that many */
    char *blocks[2];
};

static void memory_make(struct memory *m) {
    m->count = COUNT;
    for (int i = 0; i < 2; i++) {
        m->blocks[i] = malloc(COUNT * sizeof(float) + 96);
        assert_non_null(m->blocks[i]);
    }
    m->in = (float *)(void *)(m->blocks[0] + 32);
    m->out = (float *)(void *)(m->blocks[1] + 32);
    for (int i = 0; i < COUNT; i++) {
        m->in[i] = (float)i;
        m->out[i] = NAN;
    }
}

static void memory_free(gpu *g, struct memory *m) {
    for (int i = 0; i < 2; i++) {
        gpu_forget(g, m->blocks[i], COUNT * sizeof(float) + 96);
        free(m->blocks[i]);
    }
}

static gpu_launch launch_of(gpu *g, const char *kernel, struct memory *m) {
    gpu_launch l = {.kernel = gpu_find(g, kernel),
                    .groups = {COUNT / THREADS, 1, 1},
                    .threads = {THREADS, 1, 1}};
    assert_non_null(l.kernel);
    l.buffer[0] = (gpu_bound){.base = &m->count, .length = sizeof m->count, .bytes = true};
    /* What lies before the offset is out of bounds too. */
    l.buffer[1] =
        (gpu_bound){.base = (char *)m->in - 16, .length = 16 + COUNT * sizeof(float), .offset = 16};
    l.buffer[2] = (gpu_bound){.base = m->out, .length = COUNT * sizeof(float)};
    return l;
}

/* What the device says of a kernel: "", an error, or "NaN". */
static void result_of(gpu *g, const char *kernel, enum gpu_schedule schedule, char *to,
                      size_t size) {
    struct memory m;
    memory_make(&m);
    gpu_launch l = launch_of(g, kernel, &m);
    gpu_set_schedule(g, schedule, 11);
    to[0] = 0;
    if (gpu_run(g, &l, NULL, to, size))
        for (int i = 0; i < COUNT; i++)
            if (isnan(m.out[i]))
                snprintf(to, size, "NaN");
    gpu_fence(g);
    memory_free(g, &m);
}

static gpu *open_planted(const char *which) {
    if (TEST_METAL_MISSING[0] != 0) {
        print_message("skipped: %s\n", TEST_METAL_MISSING);
        skip();
    }
    char folder[512], error[1024] = "";
    snprintf(folder, sizeof folder, "%s/planted-%s", TEST_METAL, which);
    gpu *g = gpu_open(folder, GPU_CHECKED, error, sizeof error);
    if (g == NULL)
        fail_msg("%s", error);
    return g;
}

static void test_mistakes_are_found(void **unused) {
    (void)unused;
    gpu *g = open_planted("wrong");
    int missed = 0;
    for (int i = 0; i < PLANTED; i++)
        for (int schedule = 0; schedule < 3; schedule++) {
            char said[2048];
            result_of(g, planted[i].kernel, (enum gpu_schedule)schedule, said, sizeof said);
            if (contains(said, planted[i].message))
                continue;
            missed++;
            print_message("%s (schedule %d): '%s' instead of '%s'\n", planted[i].kernel, schedule,
                          said, planted[i].message);
        }
    gpu_close(g);
    assert_int_equal(missed, 0);
}

static void test_what_is_right_passes(void **unused) {
    (void)unused;
    gpu *g = open_planted("right");
    int wrong = 0, kernels = 0;
    for (; gpu_kernel_at(g, kernels) != NULL; kernels++) {
    }
    for (int i = 0; i < PLANTED; i++)
        for (int schedule = 0; schedule < 3; schedule++) {
            char said[2048];
            result_of(g, planted[i].kernel, (enum gpu_schedule)schedule, said, sizeof said);
            if (said[0] == 0)
                continue;
            wrong++;
            print_message("%s (schedule %d): '%s'\n", planted[i].kernel, schedule, said);
        }
    gpu_close(g);
    assert_int_equal(wrong, 0);
    assert_int_equal(kernels, PLANTED); /* no kernel of the file is left out */
}

/* An error tells the line of the access, and of the one before. */
static void test_lines_are_told(void **unused) {
    (void)unused;
    gpu *g = open_planted("wrong");
    char said[2048];
    result_of(g, "barrier_missing", GPU_FORWARD, said, sizeof said);
    if (strstr(said, "at tests/metal_device/planted/running.metal:") == NULL)
        fail_msg("%s", said);
    gpu_close(g);
}

/* What the build wrote of the mistakes that must not compile. */
static void test_mistakes_do_not_compile(void **unused) {
    (void)unused;
    if (TEST_METAL_MISSING[0] != 0) {
        print_message("skipped: %s\n", TEST_METAL_MISSING);
        skip();
    }
    char path[512], line[2048];
    snprintf(path, sizeof path, "%s/refused.txt", TEST_METAL);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    int fine = 0, missed = 0;
    while (fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, "ok ", 3) == 0) {
            fine++;
        } else {
            missed++;
            print_message("%s", line);
        }
    }
    fclose(file);
    assert_int_equal(missed, 0);
    assert_true(fine > 50);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mistakes_are_found),
        cmocka_unit_test(test_what_is_right_passes),
        cmocka_unit_test(test_lines_are_told),
        cmocka_unit_test(test_mistakes_do_not_compile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
