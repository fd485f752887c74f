/* The test device finds what it says it finds: kernels with one mistake each, and the same without it. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <setjmp.h>
#include <cmocka.h>

#include "cuda_device/planted/planted.h"

enum { ENDED = 3 };

/* What a process of its own says on standard error; its status: 0 right values, 1 wrong ones, ENDED. */
static int run(const char *name, bool wrong, const char *setting, char *text, size_t size) {
    int ends[2], status;
    size_t used = 0;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        dup2(ends[1], 2);
        close(ends[0]);
        if (setting)
            putenv((char *)(uintptr_t)setting);
        _exit(planted_run(name, wrong) ? 0 : 1);
    }
    close(ends[1]);
    for (ssize_t n; used + 1 < size && (n = read(ends[0], text + used, size - 1 - used)) > 0;)
        used += (size_t)n;
    text[used] = 0;
    close(ends[0]);
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void check(const char *name, int status, const char *first, const char *second) {
    static const char *const orders[] = {NULL, "XLSTM_CUDA_TEST_SCHEDULE=reverse",
                                         "XLSTM_CUDA_TEST_SCHEDULE=random:3",
                                         "XLSTM_CUDA_TEST_SCHEDULE=random:4"};
    char text[8192];
    for (size_t i = 0; i < sizeof orders / sizeof *orders; i++) {
        int got = run(name, false, orders[i], text, sizeof text);
        if (got != 0)
            fail_msg("%s without the mistake: status %d, %s", name, got, text);
        got = run(name, true, orders[i], text, sizeof text);
        if (got != status || !strstr(text, first) || !strstr(text, second))
            fail_msg("%s: status %d, should be %d, and \"%s\", \"%s\" in: %s", name, got, status,
                     first, second, text);
    }
}

static void test_missing_barrier(void **state) {
    (void)state;
    check("missing_barrier", 1, "", "");
}
static void test_behind_the_end(void **state) {
    (void)state;
    check("behind_the_end", ENDED, "behind_the_end, block (0 0 0), thread (33 0 0)",
          "access 0 bytes behind the end of an allocation of 4096 bytes, at ");
}
static void test_behind_shared(void **state) {
    (void)state;
    check("behind_shared", ENDED, "behind_shared",
          "byte 284 of shared memory was written, behind its 256");
}
static void test_divergence(void **state) {
    (void)state;
    check("divergence", ENDED, "threads 0 to 39: waits in __syncthreads at ",
          "threads 40 to 63: has returned");
}
static void test_absent_lane(void **state) {
    (void)state;
    check("absent_lane", ENDED, "divergence: it is in __syncthreads at ", "others wait in ");
}
static void test_early_read(void **state) {
    (void)state;
    check("early_read", 1, "", "");
}
static void test_no_wait(void **state) {
    (void)state;
    check("no_wait", ENDED, "thread (63 0 0)", "the thread returned without cuda_wait");
}
static void test_bulk_copy(void **state) {
    (void)state;
    check("bulk_copy", 1, "", "");
}
static void test_own_copy(void **state) {
    (void)state;
    check("own_copy", 1, "", "");
}
static void test_never_arrives(void **state) {
    (void)state;
    check("never_arrives", ENDED, "nobody can go on", "polls in barrier_wait at ");
}
static void test_early_room(void **state) {
    (void)state;
    check("early_room", 1, "", "");
}
static void test_cluster_hand(void **state) {
    (void)state;
    char text[8192];
    const char *reverse = "XLSTM_CUDA_TEST_SCHEDULE=reverse"; /* block 0 runs before the other */
    assert_int_equal(run("cluster_hand", false, NULL, text, sizeof text), 0);
    assert_int_equal(run("cluster_hand", false, reverse, text, sizeof text), 0);
    assert_int_equal(run("cluster_hand", true, reverse, text, sizeof text), 1);
}
/* The host reads before it has waited. */
static void test_late_read(void **state) {
    (void)state;
    char text[8192];
    assert_int_equal(run("late_read", false, "XLSTM_CUDA_TEST_LATE=1", text, sizeof text), 0);
    assert_int_equal(run("late_read", true, "XLSTM_CUDA_TEST_LATE=1", text, sizeof text), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_missing_barrier), cmocka_unit_test(test_behind_the_end),
        cmocka_unit_test(test_behind_shared),   cmocka_unit_test(test_divergence),
        cmocka_unit_test(test_absent_lane),     cmocka_unit_test(test_early_read),
        cmocka_unit_test(test_no_wait),         cmocka_unit_test(test_bulk_copy),
        cmocka_unit_test(test_own_copy),        cmocka_unit_test(test_never_arrives),
        cmocka_unit_test(test_early_room),      cmocka_unit_test(test_cluster_hand),
        cmocka_unit_test(test_late_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
