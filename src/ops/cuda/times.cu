/* How long each kernel of the device takes, for developers: XLSTM_CUDA_TIMES=1 prints a table to standard error when the
 * process ends. Every launch is then waited for, before and behind, and no other of the process runs beside it: times
 * are those of kernels alone, and their sum is more than a run takes whose kernels overlap. Copies are not counted, nor
 * the kernel library, whose calls belong to the caller's stream. */
#include "ops/cuda/device.h"
#include "ops/cuda/host.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_NAMES = 256 };

static struct kernel_time {
    const char *name; /* of the launch: kernels of several types share one */
    long launches;
    double milliseconds;
} times[MOST_NAMES];
static int count;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- The table ---- */

static int longest_first(const void *a, const void *b) {
    double x = ((const struct kernel_time *)a)->milliseconds;
    double y = ((const struct kernel_time *)b)->milliseconds;
    return (x < y) - (x > y);
}

static void print_line(const struct kernel_time *t, double all) {
    fprintf(stderr, "%-32s %9ld %11.3f %10.2f %6.1f%%\n", t->name, t->launches, t->milliseconds,
            1000 * t->milliseconds / (double)t->launches,
            all > 0 ? 100 * t->milliseconds / all : 0);
}

static void print_table(void) {
    struct kernel_time all = {"all kernels", 0, 0};
    for (int i = 0; i < count; i++) {
        all.launches += times[i].launches;
        all.milliseconds += times[i].milliseconds;
    }
    if (all.launches == 0)
        return;
    qsort(times, (size_t)count, sizeof *times, longest_first);
    fprintf(stderr, "%-32s %9s %11s %10s %7s\n", "kernel, alone", "launches", "total ms", "mean us",
            "share");
    for (int i = 0; i < count; i++)
        print_line(&times[i], all.milliseconds);
    print_line(&all, all.milliseconds);
}

/* ---- The wish ---- */

static bool wanted;

static void read_wish(void) {
    const char *wish = getenv("XLSTM_CUDA_TIMES");
    wanted = wish && strcmp(wish, "1") == 0 && atexit(print_table) == 0;
}

extern "C" bool cuda_times_wanted(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, read_wish);
    return wanted;
}

/* ---- Taking times ---- */

/* The GPU is kept busy by reads that wait for each other, some 20 us, while the host enqueues the first event, the kernel
 * and the second event behind them: otherwise the first would have passed long before the kernel comes. */
struct delay_arguments {
    int reads;
};
enum { DELAY_READS = 128 };

static __device__ volatile unsigned nothing; /* 0 */

static __global__ void delay(const __grid_constant__ struct delay_arguments a) {
    cuda_wait();
    unsigned next = 0;
    for (int i = 0; i < a.reads; i++)
        next = (&nothing)[next];
}

static xlstm_status enqueue_delay(cudaStream_t stream) {
    struct delay_arguments a = {DELAY_READS};
    cuda_launch launch = cuda_launch_of("delay", delay, dim3(1), 1, 0, a);
    launch.alone = true;
    return cuda_enqueue(stream, &launch);
}

static void add(const char *name, float milliseconds) {
    int i = 0;
    while (i < count && i < MOST_NAMES - 1 && strcmp(times[i].name, name) != 0)
        i++;
    if (i == count) {
        times[i].name = i < MOST_NAMES - 1 ? name : "others";
        count++;
    }
    times[i].launches++;
    times[i].milliseconds += (double)milliseconds;
}

static xlstm_status time_launch(cudaStream_t stream, const cuda_launch *launch,
                                const cudaEvent_t event[2]) {
    xlstm_status status = cuda_status(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
    if (status == XLSTM_OK)
        status = enqueue_delay(stream);
    if (status == XLSTM_OK)
        status = cuda_status(cudaEventRecord(event[0], stream), "cudaEventRecord");
    if (status == XLSTM_OK)
        status = cuda_enqueue(stream, launch);
    if (status == XLSTM_OK)
        status = cuda_status(cudaEventRecord(event[1], stream), "cudaEventRecord");
    if (status == XLSTM_OK)
        status = cuda_status(cudaEventSynchronize(event[1]), launch->name);
    float milliseconds = 0;
    if (status == XLSTM_OK)
        status = cuda_status(cudaEventElapsedTime(&milliseconds, event[0], event[1]),
                             "cudaEventElapsedTime");
    if (status == XLSTM_OK)
        add(launch->name, milliseconds);
    return status;
}

extern "C" xlstm_status cuda_enqueue_timed(cudaStream_t stream, const cuda_launch *launch) {
    cuda_launch alone = *launch;
    alone.alone = true;
    cudaEvent_t event[2] = {};
    pthread_mutex_lock(&lock);
    xlstm_status status = XLSTM_OK;
    for (int i = 0; i < 2 && status == XLSTM_OK; i++)
        status = cuda_status(cudaEventCreate(&event[i]), "cudaEventCreate");
    if (status == XLSTM_OK)
        status = time_launch(stream, &alone, event);
    for (int i = 0; i < 2; i++)
        if (event[i])
            cudaEventDestroy(event[i]);
    pthread_mutex_unlock(&lock);
    return status;
}
