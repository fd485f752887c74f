/* Processors: which come first when cores are shared, and threads that stay where they are put. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#if defined(__linux__)
#include <sched.h>
#endif

#include "base/processors.h"
#include "base/threads.h"
#include "support/support.h"

/* A folder like /sys/devices/system/cpu, with a list of siblings for each processor. */
static const char *topology(const char *name, const char *const *lists, int count) {
    const char *root = test_path(name);
    char path[1024];
    assert_int_equal(mkdir(root, 0777), 0);
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/cpu%d", root, i);
        assert_int_equal(mkdir(path, 0777), 0);
        snprintf(path, sizeof path, "%s/cpu%d/topology", root, i);
        assert_int_equal(mkdir(path, 0777), 0);
        snprintf(path, sizeof path, "%s/cpu%d/topology/thread_siblings_list", root, i);
        test_write_file(path, lists[i], strlen(lists[i]));
    }
    return root;
}

static void test_siblings_come_last(void **state) {
    (void)state;
    static const char *const neighbours[] = {"0-1\n", "0-1\n", "2-3\n", "2-3\n"};
    static const char *const halves[] = {"0,3\n", "1,4\n", "2,5\n", "0,3\n", "1,4\n", "2,5\n"};
    static const char *const fours[] = {"0-3\n", "0-3\n", "0-3\n", "0-3\n"};
    int a[] = {0, 1, 2, 3}, b[] = {0, 1, 2, 3, 4, 5}, c[] = {1, 3, 4, 5}, d[] = {0, 1, 2, 3};
    processors_spread(topology("neighbours", neighbours, 4), a, 4);
    assert_memory_equal(a, ((int[]){0, 2, 1, 3}), sizeof a);
    const char *folder = topology("halves", halves, 6);
    processors_spread(folder, b, 6);
    assert_memory_equal(b, ((int[]){0, 1, 2, 3, 4, 5}), sizeof b);
    /* Only those that are allowed count: 3 has no sibling here, 4 has one. */
    processors_spread(folder, c, 4);
    assert_memory_equal(c, ((int[]){1, 3, 5, 4}), sizeof c);
    processors_spread(topology("fours", fours, 4), d, 4);
    assert_memory_equal(d, ((int[]){0, 1, 2, 3}), sizeof d);
}

static void test_unknown_topology(void **state) {
    (void)state;
    static const char *const odd[] = {"", "words\n", "1-\n"};
    int none[] = {4, 7, 9}, strange[] = {0, 1, 2};
    processors_spread(test_path("no-such-folder"), none, 3);
    assert_memory_equal(none, ((int[]){4, 7, 9}), sizeof none);
    processors_spread(topology("odd", odd, 3), strange, 3);
    assert_memory_equal(strange, ((int[]){0, 1, 2}), sizeof strange);
}

#if defined(__linux__)
enum { MOST = 64 };

typedef struct places {
    int processor[MOST]; /* by worker; -1: did not work */
    int allowed[MOST];   /* how many processors its thread may use */
    _Atomic int arrived, threads;
} places;

/* Waits for the others, so that every thread takes one task. */
static void note_place(void *context, int64_t task, int worker) {
    places *p = context;
    int processors[PROCESSORS_MOST];
    (void)task;
    p->arrived++;
    while (p->arrived < p->threads)
        ;
    p->processor[worker] = sched_getcpu();
    p->allowed[worker] = processors_allowed(processors);
}

static void test_pinned_threads_stay(void **state) {
    (void)state;
    int processors[PROCESSORS_MOST], count = processors_allowed(processors);
    assert_true(count >= 1);
    int threads = threads_available() < MOST ? threads_available() : MOST;
    thread_pool *pool;
    assert_int_equal(thread_pool_create_pinned(threads, &pool), XLSTM_OK);
    for (int round = 0; round < 5; round++) {
        places p = {.threads = threads};
        thread_pool_run(pool, threads, note_place, &p);
        for (int i = 1; i < threads; i++) {
            assert_int_equal(p.allowed[i], 1);
            for (int j = 1; j < i; j++)
                assert_int_not_equal(p.processor[i], p.processor[j]);
        }
        assert_int_equal(p.allowed[0], count); /* the caller's thread is the program's */
    }
    thread_pool_free(pool);
    assert_int_equal(processors_allowed(processors), count);
}

static void test_too_many_to_pin(void **state) {
    (void)state;
    int processors[PROCESSORS_MOST], count = processors_allowed(processors);
    thread_pool *pool = (thread_pool *)1;
    assert_int_equal(thread_pool_create_pinned(count + 1, &pool), XLSTM_INVALID_ARGUMENT);
    assert_null(pool);
    assert_non_null(strstr(xlstm_last_error(), "cannot be pinned"));
    assert_int_equal(thread_pool_create_pinned(0, &pool), XLSTM_INVALID_ARGUMENT);
}

static void *stay_and_visit(void *argument) {
    int processors[PROCESSORS_MOST], count = processors_allowed(processors);
    int last = processors[count - 1];
    processor_visit(last);
    *(int *)argument = processors_allowed(processors) == count;
    if (!processor_stay(last) || sched_getcpu() != last || processors_allowed(processors) != 1)
        *(int *)argument = 0;
    processor_visit(processors[0] + 1); /* not allowed: nothing happens */
    if (sched_getcpu() != last)
        *(int *)argument = 0;
    return NULL;
}

static void test_staying_and_visiting(void **state) {
    (void)state;
    pthread_t thread;
    int ok = 0;
    assert_int_equal(pthread_create(&thread, NULL, stay_and_visit, &ok), 0);
    pthread_join(thread, NULL);
    assert_true(ok);
}
#else
static void test_pinning_is_not_supported(void **state) {
    (void)state;
    thread_pool *pool;
    assert_int_equal(thread_pool_create_pinned(1, &pool), XLSTM_UNSUPPORTED);
    assert_non_null(strstr(xlstm_last_error(), "not supported on this system"));
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_siblings_come_last),
        cmocka_unit_test(test_unknown_topology),
#if defined(__linux__)
        cmocka_unit_test(test_pinned_threads_stay),
        cmocka_unit_test(test_too_many_to_pin),
        cmocka_unit_test(test_staying_and_visiting),
#else
        cmocka_unit_test(test_pinning_is_not_supported),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
