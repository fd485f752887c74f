/* The thread pool: every task once, by a valid worker; jobs in a row; sleeping; failing to start.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/threads.h"
#include "support/support.h"

typedef struct record {
    _Atomic int runs[1000];
    _Atomic int busy[64]; /* a worker number is in use by one thread at a time */
    _Atomic int wrong, overlaps;
    int threads;
    int64_t plain[1000]; /* without atomics: the pool itself must order these */
} record;

static void count_run(void *context, int64_t task, int worker) {
    record *r = context;
    if (worker < 0 || worker >= r->threads || task < 0 || task >= 1000) {
        atomic_fetch_add(&r->wrong, 1);
        return;
    }
    if (atomic_exchange(&r->busy[worker], 1))
        atomic_fetch_add(&r->overlaps, 1);
    atomic_fetch_add(&r->runs[task], 1);
    r->plain[task] += task + 1;
    atomic_store(&r->busy[worker], 0);
}

static void test_every_task_once(void **state) {
    (void)state;
    const int sizes[] = {1, 2, 3, 7, 16};
    const int64_t tasks[] = {0, 1, 2, 5, 64, 1000};
    int rounds = test_is_quick() ? 20 : 200;
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        thread_pool *pool;
        assert_int_equal(thread_pool_create(sizes[s], &pool), XLSTM_OK);
        assert_int_equal(thread_pool_size(pool), sizes[s]);
        record *r = calloc(1, sizeof *r);
        assert_non_null(r);
        r->threads = sizes[s];
        int expected[1000] = {0};
        for (int round = 0; round < rounds; round++) {
            for (size_t t = 0; t < sizeof tasks / sizeof tasks[0]; t++) {
                thread_pool_run(pool, tasks[t], count_run, r);
                for (int64_t i = 0; i < tasks[t]; i++)
                    expected[i]++;
                for (int64_t i = 0; i < 1000; i++) {
                    assert_int_equal(atomic_load(&r->runs[i]), expected[i]);
                    assert_int_equal(r->plain[i], expected[i] * (i + 1));
                }
            }
        }
        assert_int_equal(atomic_load(&r->wrong), 0);
        assert_int_equal(atomic_load(&r->overlaps), 0);
        free(r);
        thread_pool_free(pool);
    }
}

static void add_one(void *context, int64_t task, int worker) {
    (void)worker;
    ((int64_t *)context)[task]++;
}

/* Many small jobs, with pauses that make the threads fall asleep at every moment of a job's life.
 */
static void test_jobs_and_pauses(void **state) {
    (void)state;
    thread_pool *pool;
    assert_int_equal(thread_pool_create(4, &pool), XLSTM_OK);
    int64_t sums[6] = {0};
    int jobs = test_is_quick() ? 3000 : 30000;
    for (int i = 0; i < jobs; i++) {
        thread_pool_run(pool, 6, add_one, sums);
        if (i % 100 == 0) {
            struct timespec pause = {.tv_nsec = i % 1000 * 200};
            nanosleep(&pause, NULL);
        }
    }
    for (int i = 0; i < 6; i++)
        assert_int_equal(sums[i], jobs);
    thread_pool_free(pool);
}

static void finish_late(void *context, int64_t task, int worker) {
    (void)task;
    struct timespec pause = {.tv_nsec = worker == 0 ? 10000 : 3000000};
    nanosleep(&pause, NULL);
    atomic_fetch_add((_Atomic int *)context, 1);
}

/* The caller runs out of tasks while others still work: it must wait for them. */
static void test_run_returns_after_the_last_task(void **state) {
    (void)state;
    thread_pool *pool;
    assert_int_equal(thread_pool_create(4, &pool), XLSTM_OK);
    for (int i = 0; i < 20; i++) {
        _Atomic int finished = 0;
        thread_pool_run(pool, 20, finish_late, &finished);
        assert_int_equal(atomic_load(&finished), 20);
    }
    thread_pool_free(pool);
}

/* Two tasks that each wait for the other: they end only if two threads work at once. */
static void meet(void *context, int64_t task, int worker) {
    (void)task, (void)worker;
    _Atomic int *arrived = context;
    atomic_fetch_add(arrived, 1);
    double until = clock_seconds() + 20;
    while (atomic_load(arrived) < 2 && clock_seconds() < until)
        ;
}

static void test_threads_work_at_once(void **state) {
    (void)state;
    thread_pool *pool;
    assert_int_equal(thread_pool_create(2, &pool), XLSTM_OK);
    for (int i = 0; i < 20; i++) {
        _Atomic int arrived = 0;
        double start = clock_seconds();
        thread_pool_run(pool, 2, meet, &arrived);
        assert_true(clock_seconds() - start < 15);
        assert_int_equal(atomic_load(&arrived), 2);
        struct timespec pause = {.tv_nsec = 1000000}; /* long enough to fall asleep */
        nanosleep(&pause, NULL);
    }
    thread_pool_free(pool);
}

/* Of all threads of this process. */
static double processor_seconds(void) {
    struct timespec used;
    assert_int_equal(clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used), 0);
    return (double)used.tv_sec + 1e-9 * (double)used.tv_nsec;
}

/* Several models in a process have a pool each: those that do nothing take nothing from the one
 * that works. */
static void test_idle_pools_cost_nothing(void **state) {
    (void)state;
    enum { POOLS = 4 };
    thread_pool *pools[POOLS];
    int64_t sums[8] = {0};
    for (int i = 0; i < POOLS; i++) {
        assert_int_equal(thread_pool_create(threads_available() + 1, &pools[i]), XLSTM_OK);
        thread_pool_run(pools[i], 8, add_one, sums);
    }
    struct timespec settle = {.tv_nsec = 50000000}, pause = {.tv_nsec = 200000000};
    nanosleep(&settle, NULL);
    double before = processor_seconds();
    nanosleep(&pause, NULL);
    double used = processor_seconds() - before;
    for (int i = 0; i < POOLS; i++)
        thread_pool_free(pools[i]);
    assert_true(used < 0.02); /* one thread that spins would use 0.2 s */
}

static void test_wrong_sizes(void **state) {
    (void)state;
    thread_pool *pool = (thread_pool *)1;
    assert_int_equal(thread_pool_create(0, &pool), XLSTM_INVALID_ARGUMENT);
    assert_null(pool);
    assert_int_equal(thread_pool_create(-3, &pool), XLSTM_INVALID_ARGUMENT);
    assert_int_equal(thread_pool_create(1000000, &pool), XLSTM_INVALID_ARGUMENT);
    assert_non_null(strstr(xlstm_last_error(), "1000000 threads"));
    thread_pool_free(NULL);
    assert_true(threads_available() >= 1);
}

/* In a child with little address space some stacks cannot be had. It must report that, not hang. */
static void test_threads_that_cannot_start(void **state) {
    (void)state;
#if defined(__linux__)
    enum { NO_LIMIT = 77 };
    if (strlen(TEST_SANITIZE) > 0)
        skip(); /* sanitizers reserve terabytes of address space */
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(30);
        struct rlimit limit = {.rlim_cur = 256 << 20, .rlim_max = 256 << 20};
        setrlimit(RLIMIT_AS, &limit);
        void *volatile more = malloc((size_t)2 << 30);
        if (more)
            _exit(NO_LIMIT); /* qemu-user takes the limit and does not keep to it */
        thread_pool *pool;
        xlstm_status status = thread_pool_create(1000, &pool);
        int ok = status == XLSTM_OUT_OF_MEMORY && !pool &&
                 strstr(xlstm_last_error(), "cannot start thread") != NULL;
        int64_t sums[8] = {0};
        if (ok && thread_pool_create(2, &pool) == XLSTM_OK) {
            thread_pool_run(pool, 8, add_one, sums);
            thread_pool_free(pool);
        }
        _exit(ok && sums[7] == 1 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == NO_LIMIT)
        skip();
    assert_int_equal(WEXITSTATUS(status), 0);
#else
    skip();
#endif
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_task_once),
                                       cmocka_unit_test(test_jobs_and_pauses),
                                       cmocka_unit_test(test_run_returns_after_the_last_task),
                                       cmocka_unit_test(test_threads_work_at_once),
                                       cmocka_unit_test(test_idle_pools_cost_nothing),
                                       cmocka_unit_test(test_wrong_sizes),
                                       cmocka_unit_test(test_threads_that_cannot_start)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
