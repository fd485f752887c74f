/* A pool of threads that share the tasks of one job at a time.
 *
 * The caller works too: a pool of n has n - 1 threads of its own, and a pool of 1 has none. Which
 * thread runs which task is not fixed, so a task's result must depend on its index alone: then
 * results are the same for any number of threads. */
#ifndef BASE_THREADS_H
#define BASE_THREADS_H

#include <stdint.h>
#include "xlstm.h"

typedef struct thread_pool thread_pool;

/* `worker` is 0 … threads - 1 and tells which scratch memory to use. */
typedef void (*thread_task)(void *context, int64_t task, int worker);

int threads_available(void); /* processors this process may use */
xlstm_status thread_pool_create(int threads, thread_pool **pool);
/* With every thread on its own processor of those this process may use, siblings of one core last;
 * at most so many threads. XLSTM_UNSUPPORTED where the system cannot do that. */
xlstm_status thread_pool_create_pinned(int threads, thread_pool **pool);
void thread_pool_free(thread_pool *pool);
int thread_pool_size(const thread_pool *pool);
/* Runs task(context, 0 … tasks - 1); returns when all are done. Not to be called from a task, nor
 * by two threads at once. */
void thread_pool_run(thread_pool *pool, int64_t tasks, thread_task task, void *context);

#endif
