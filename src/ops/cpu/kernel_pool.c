/* Threads and scratch memory for the kernel library. Its calls know no streams, and starting threads, or
 * having the system clear new memory, would take longer than a small kernel: what is not in use is kept,
 * a few of each, for the next call. Calls at the same time get their own. */
#include "ops/cpu/internal.h"

#include <pthread.h>
#include <stdlib.h>

#include "base/error.h"

enum { MOST_IDLE = 4, MOST_KEPT_BYTES = 1 << 28, ALIGNMENT = 64 };

/* In both lists the one used last comes first. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static thread_pool *pools[MOST_IDLE];
static cpu_block blocks[MOST_IDLE];

/* ---- Threads ---- */

xlstm_status cpu_pool_take(int threads, thread_pool **pool) {
    *pool = NULL;
    if (threads == 0)
        threads = threads_available();
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < MOST_IDLE; i++) {
        if (*pool)
            pools[i - 1] = pools[i];
        else if (pools[i] && thread_pool_size(pools[i]) == threads)
            *pool = pools[i];
    }
    if (*pool)
        pools[MOST_IDLE - 1] = NULL;
    pthread_mutex_unlock(&mutex);
    return *pool ? XLSTM_OK : thread_pool_create(threads, pool);
}

void cpu_pool_give_back(thread_pool *pool) {
    pthread_mutex_lock(&mutex);
    thread_pool *last = pools[MOST_IDLE - 1];
    for (int i = MOST_IDLE - 1; i > 0; i--)
        pools[i] = pools[i - 1];
    pools[0] = pool;
    pthread_mutex_unlock(&mutex);
    thread_pool_free(last);
}

/* ---- Scratch memory ---- */

xlstm_status cpu_block_take(size_t size, cpu_block *scratch) {
    *scratch = (cpu_block){0};
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < MOST_IDLE && !scratch->memory; i++)
        if (blocks[i].size >= size && blocks[i].memory) {
            *scratch = blocks[i];
            blocks[i] = (cpu_block){0};
        }
    pthread_mutex_unlock(&mutex);
    if (scratch->memory)
        return XLSTM_OK;
    if (size == SIZE_MAX || posix_memalign(&scratch->memory, ALIGNMENT, size ? size : 1) != 0) {
        scratch->memory = NULL;
        return error_memory(size, "the scratch memory of a kernel");
    }
    scratch->size = size;
    return XLSTM_OK;
}

/* The smallest is the first to go. */
void cpu_block_give_back(cpu_block *scratch) {
    cpu_block least = *scratch;
    *scratch = (cpu_block){0};
    pthread_mutex_lock(&mutex);
    for (int i = 0; i < MOST_IDLE && least.size <= MOST_KEPT_BYTES; i++)
        if (blocks[i].size < least.size) {
            cpu_block other = blocks[i];
            blocks[i] = least;
            least = other;
        }
    pthread_mutex_unlock(&mutex);
    free(least.memory);
}
