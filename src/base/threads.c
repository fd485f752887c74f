/* The thread pool.
 *
 * One atomic word, the gate, holds the number of the job, whether it is open, and how many of the
 * pool's threads are inside. Opening it publishes a job; a thread enters by counting itself in
 * while it is open; tasks are handed out by a counter. When they run out the caller closes the gate
 * and waits only for those inside, so that a thread that woke too late delays nobody.
 *
 * Between jobs a thread looks at the gate for some microseconds, since the next job of a forward
 * pass follows at once, and then sleeps: an idle pool costs nothing.
 *
 * Of a pinned pool every thread stays on its own processor. The caller's thread belongs to the
 * program and keeps its freedom; a job that finds it elsewhere moves it to the processor that is
 * left, from which the others, being tied, do not drive it away. */
#include "base/threads.h"

#include "base/cgroup.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/processors.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The gate: | job number, 47 bits | open | inside, 16 bits | */
static const uint64_t inside_mask = 0xFFFF, open_bit = 0x10000, job_step = 0x20000;

enum { MOST_THREADS = 4096 };

typedef struct worker {
    thread_pool *pool;
    pthread_t thread;
    int number;    /* 1 … threads - 1; the caller is worker 0 */
    int processor; /* where it stays; -1: anywhere */
} worker;

struct thread_pool {
    _Atomic uint64_t gate;
    _Atomic int64_t next; /* the first task that nobody has taken */
    int64_t tasks;
    thread_task task;
    void *context;

    pthread_mutex_t mutex;
    pthread_cond_t wake, done;
    _Atomic int sleeping; /* threads that may need `wake` */
    _Atomic bool waiting; /* the caller may need `done` */
    _Atomic bool stop;
    double spin_seconds;
    int threads;
    int processor;    /* of the caller; -1: anywhere */
    worker workers[]; /* [threads - 1] */
};

int threads_available(void) {
    int processors[PROCESSORS_MOST], count = processors_allowed(processors);
    if (count < 1)
        count = (int)sysconf(_SC_NPROCESSORS_ONLN);
    int limit = cgroup_processors();
    if (limit > 0 && limit < count)
        count = limit;
    return count < 1 ? 1 : count;
}

static void pause_briefly(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void run_tasks(thread_pool *pool, int number) {
    for (;;) {
        int64_t task = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (task >= pool->tasks)
            return;
        pool->task(pool->context, task, number);
    }
}

/* ---- The side of the pool's threads ---- */

/* Whether the gate shows a job that this thread has not worked on. */
static bool is_news(uint64_t gate, uint64_t seen) {
    return (gate & open_bit) && gate / job_step != seen;
}

static bool should_look(thread_pool *pool, uint64_t seen) {
    return is_news(atomic_load(&pool->gate), seen) || atomic_load(&pool->stop);
}

static void wait_for_job(thread_pool *pool, uint64_t seen) {
    if (pool->spin_seconds > 0) {
        double until = clock_seconds() + pool->spin_seconds;
        do {
            for (int i = 0; i < 16; i++) {
                if (should_look(pool, seen))
                    return;
                pause_briefly();
            }
        } while (clock_seconds() < until);
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->sleeping, 1);
    while (!should_look(pool, seen))
        pthread_cond_wait(&pool->wake, &pool->mutex);
    atomic_fetch_sub(&pool->sleeping, 1);
    pthread_mutex_unlock(&pool->mutex);
}

/* Counts this thread in; false if the job has been closed meanwhile. */
static bool enter(thread_pool *pool, uint64_t *seen) {
    uint64_t gate = atomic_load(&pool->gate);
    do {
        if (!is_news(gate, *seen))
            return false;
    } while (!atomic_compare_exchange_weak(&pool->gate, &gate, gate + 1));
    *seen = gate / job_step;
    return true;
}

static void leave(thread_pool *pool) {
    uint64_t gate = atomic_fetch_sub(&pool->gate, 1) - 1;
    if ((gate & (open_bit | inside_mask)) == 0 && atomic_load(&pool->waiting)) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_signal(&pool->done);
        pthread_mutex_unlock(&pool->mutex);
    }
}

static void *work(void *argument) {
    worker *self = argument;
    thread_pool *pool = self->pool;
    uint64_t seen = 0;
    if (self->processor >= 0)
        processor_stay(self->processor); /* refused only if what is allowed has just changed */
    for (;;) {
        wait_for_job(pool, seen);
        if (atomic_load(&pool->stop))
            return NULL;
        if (enter(pool, &seen)) {
            run_tasks(pool, self->number);
            leave(pool);
        }
    }
}

/* ---- The side of the caller ---- */

static bool is_empty(thread_pool *pool) {
    return (atomic_load(&pool->gate) & inside_mask) == 0;
}

static void wait_until_empty(thread_pool *pool) {
    double until = 0;
    while (!is_empty(pool)) {
        double now = clock_seconds();
        if (until == 0)
            until = now + pool->spin_seconds;
        if (now < until) {
            for (int i = 0; i < 16 && !is_empty(pool); i++)
                pause_briefly();
            continue;
        }
        pthread_mutex_lock(&pool->mutex);
        atomic_store(&pool->waiting, true);
        while (!is_empty(pool))
            pthread_cond_wait(&pool->done, &pool->mutex);
        atomic_store(&pool->waiting, false);
        pthread_mutex_unlock(&pool->mutex);
    }
}

void thread_pool_run(thread_pool *pool, int64_t tasks, thread_task task, void *context) {
    if (pool->processor >= 0)
        processor_visit(pool->processor);
    if (pool->threads == 1 || tasks <= 1) {
        for (int64_t i = 0; i < tasks; i++)
            task(context, i, 0);
        return;
    }
    /* The gate is closed and nobody is inside: these fields are the caller's. */
    pool->task = task;
    pool->context = context;
    pool->tasks = tasks;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    atomic_fetch_add(&pool->gate, job_step + open_bit);
    if (atomic_load(&pool->sleeping) > 0) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->mutex);
    }
    run_tasks(pool, 0);
    atomic_fetch_and(&pool->gate, ~open_bit);
    wait_until_empty(pool);
}

int thread_pool_size(const thread_pool *pool) {
    return pool->threads;
}

/* Ends the first `started` threads and releases everything. */
static void stop_and_free(thread_pool *pool, int started) {
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->stop, true);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (int i = 0; i < started; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->done);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

/* Starts the threads with all signals blocked: a handler of the program runs in one of its own.
 * Returns 0 or the error number, and how many were started. */
static int start_threads(thread_pool *pool, int *started) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int number = 0;
    for (*started = 0; *started < pool->threads - 1; (*started)++) {
        worker *w = &pool->workers[*started];
        w->pool = pool;
        w->number = *started + 1;
        number = pthread_create(&w->thread, NULL, work, w);
        if (number != 0)
            break;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return number;
}

/* processors: [threads], where each thread stays; NULL: anywhere. */
static xlstm_status create(int threads, const int *processors, thread_pool **result) {
    size_t size = sizeof(thread_pool) + sizeof(worker) * (size_t)(threads - 1);
    thread_pool *pool = calloc(1, size);
    if (!pool)
        return error_memory(size, "a thread pool");
    if (pthread_mutex_init(&pool->mutex, NULL) != 0 || pthread_cond_init(&pool->wake, NULL) != 0 ||
        pthread_cond_init(&pool->done, NULL) != 0) {
        free(pool);
        return error_memory(size, "a thread pool");
    }
    pool->threads = threads;
    pool->processor = processors ? processors[0] : -1;
    for (int i = 1; i < threads; i++)
        pool->workers[i - 1].processor = processors ? processors[i] : -1;
    /* With more threads than processors, looking at the gate would keep others from working. */
    pool->spin_seconds = threads <= threads_available() ? 100e-6 : 0;
    int started, number = start_threads(pool, &started);
    if (number != 0) {
        stop_and_free(pool, started);
        return error_set(XLSTM_OUT_OF_MEMORY, "cannot start thread %d of %d: %s; try fewer threads",
                         started + 2, threads, strerror(number));
    }
    *result = pool;
    return XLSTM_OK;
}

xlstm_status thread_pool_create(int threads, thread_pool **result) {
    *result = NULL;
    if (threads < 1 || threads > MOST_THREADS)
        return error_set(XLSTM_INVALID_ARGUMENT, "%d threads are not possible: 1 to %d are",
                         threads, MOST_THREADS);
    return create(threads, NULL, result);
}

xlstm_status thread_pool_create_pinned(int threads, thread_pool **result) {
    *result = NULL;
    int processors[PROCESSORS_MOST], count = processors_allowed(processors);
    if (count < 1)
        return error_set(XLSTM_UNSUPPORTED, "pinning threads is not supported on this system");
    if (threads < 1 || threads > count)
        return error_set(XLSTM_INVALID_ARGUMENT,
                         "%d threads cannot be pinned, each to its own processor: 1 to %d can",
                         threads, count);
    processors_spread(NULL, processors, count);
    return create(threads, processors, result);
}

void thread_pool_free(thread_pool *pool) {
    if (pool)
        stop_and_free(pool, pool->threads - 1);
}
