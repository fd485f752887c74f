/* Threads for the kernel library. Its calls know no streams, and starting threads would take longer than
 * a small kernel: pools that are not in use are kept, a few of them, for the next call that wants as many
 * threads. Calls at the same time get pools of their own. */
#include "ops/cpu/internal.h"

#include <pthread.h>

enum { MOST_IDLE = 4 };

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static thread_pool *idle[MOST_IDLE]; /* the one used last comes first */

/* Takes idle[at] out. */
static thread_pool *take_out(int at) {
    thread_pool *pool = idle[at];
    for (int i = at; i < MOST_IDLE; i++)
        idle[i] = i + 1 < MOST_IDLE ? idle[i + 1] : NULL;
    return pool;
}

xlstm_status cpu_pool_take(int threads, thread_pool **pool) {
    *pool = NULL;
    if (threads == 0)
        threads = threads_available();
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < MOST_IDLE && idle[i] && !*pool; i++)
        if (thread_pool_size(idle[i]) == threads)
            *pool = take_out(i);
    pthread_mutex_unlock(&mutex);
    return *pool ? XLSTM_OK : thread_pool_create(threads, pool);
}

void cpu_pool_give_back(thread_pool *pool) {
    pthread_mutex_lock(&mutex);
    thread_pool *last = idle[MOST_IDLE - 1];
    for (int i = MOST_IDLE - 1; i > 0; i--)
        idle[i] = idle[i - 1];
    idle[0] = pool;
    pthread_mutex_unlock(&mutex);
    thread_pool_free(last);
}
